"""The numbers of the recipe: those of the full run and of the smoke test."""

from dataclasses import dataclass, replace

from specbench.demo.fitting import Schedule

TARGET_SCHEDULE = Schedule(rate=3e-3, seconds=150)
PAIR_SCHEDULE = Schedule(
    rate=5e-3, seconds=190, checks=24, noise=0.1, target_share=0.25, keep_best=False
)


@dataclass(frozen=True)
class Recipe:
    """Every number that a run depends on, but for the models' shapes.

    problems: seeds of the grammar; reverse_every: one problem in so many is also learnt backwards;
    functions, test_sources, measured: upper bounds; budget: tokens of a batch; samples: sampled
    summaries of an undocumented function; the goals are total variations, see `Control`.
    """

    seed: int = 20261122
    problems: int = 800_000
    reverse_every: int = 12
    summary_epochs: int = 8
    source_epochs: int = 2
    functions: int = 1_000_000
    test_sources: int = 16_000
    prompt_weight: float = 0.2
    validation: int = 240
    budget: int = 32_768
    measured: int = 1000
    samples: int = 4
    sample_rows: int = 2048
    paired_epochs: int = 9
    paired_problems: int = 100_000
    summary_goal: float = 0.18
    code_goal: float = 0.08
    target: Schedule = TARGET_SCHEDULE
    pair: Schedule = PAIR_SCHEDULE


FULL = Recipe()
SMOKE = replace(
    FULL, problems=600, summary_epochs=1, source_epochs=1, functions=60, test_sources=0,
    measured=4, validation=8, budget=2048, samples=1, sample_rows=16, paired_epochs=1,
    paired_problems=100, target=Schedule(rate=3e-3, warmup=3, seconds=20, checks=2),
    pair=replace(FULL.pair, warmup=3, seconds=15, checks=5),
)  # fmt: skip
