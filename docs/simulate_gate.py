"""How often `specbench compare --baseline` is wrong, on simulated runs of drifting machines.

    python docs/simulate_gate.py [alarms|power|coverage ...] [--comparisons 1000] [--jobs 2]

Each comparison writes two result files of the real schema, reads them back and judges them as the
command does. A run is what `specbench run` does: repeat by repeat, in each sample by sample, the cases
in the order A B C … and then C B A. Every time in it is multiplied by

- the day: machine and run as a whole, 2 % (standard deviation of the logarithm, as all that follow);
- the drift: a random walk over all batches of the run that ends about 2 % away from where it began;
- the repeat: 2 %, all cases alike;
- the place: each phase of each case in each run, 0.2 %, which is where a process finds its memory and
  which no number of repeats shows (the ratios of two micro files of one build on an H100 differ by 0.3 %,
  the median of their shapes and methods; the two of this model by 0.3 % too);
- the case's own repeat: 0.2 % (with the steps' noise the ratios of repeats differ by 0.4 %; in
  results/reference/asr-demo-h100.parquet by 0.4 %, the median over its cases);
- the sample: 10 %, the same in both runs;
- the step: 3 %, of Student's law with three degrees of freedom, so that one step in a hundred is off by
  10 % or more, and one batch in 200 has a hiccup of the host of about 30 % of its time.

Prints what docs/statistics.md quotes.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from specbench.floors import GATES
from specbench.report.evidence import Estimate, of_steps
from specbench.report.findings import Rules
from specbench.report.gate import FAILED, Gate, gate_runs
from specbench.report.reader import read_run
from specbench.report.writer import RunWriter

VERIFY_US = {"baseline": 105.0, "exact": 19.0, "fused": 11.0, "block": 13.0}
"""As measured on an H100 with the embedded speech pair (results/reference/asr-demo-h100.parquet)."""
GAMMAS = (2, 4, 8)
DRAFT_US, TARGET_US, PREFILL_S, STEPS = 300.0, 1500.0, 0.004, 24
ALPHA = 0.7
SLOWED = "fused"
MACHINE = {"device_name": "simulated", "driver": "1", "clocks": {"sm_max_mhz": 1980}}
"""What both files say, so that their times count as comparable: whether a ratio's denominator got faster
is asked of them."""


@dataclass(frozen=True)
class Machine:
    """Standard deviations of the logarithm of times; see the module."""

    day: float = 0.02
    drift: float = 0.02
    repeat: float = 0.02
    place: float = 0.002
    case_repeat: float = 0.002
    sample: float = 0.10
    step: float = 0.03
    hiccup: float = 0.005


PROCESSES = Machine(place=0.005)
"""Processes of one build on an H100: from turn to turn of `run --against` the ratios of the verify step
to `baseline` differed by 0.7 % (the median of 20 standard deviations, of methods, tasks and builds:
results/reference/turns-*.parquet)."""

TURNS = Machine(place=0.0, case_repeat=math.hypot(0.005, 0.002))
"""The same where each repeat is a process."""


@dataclass(frozen=True)
class Design:
    """What is run.

    Attributes:
        slowdown: of the verify step of `SLOWED` in the new run: 0.05 is 5 %.
        same_luck: whether the new run draws the same random numbers, and so emits the same tokens.
    """

    repeats: int = 5
    samples: int = 8
    slowdown: float = 0.0
    same_luck: bool = True
    machine: Machine = Machine()


def compare_once(seed: int, design: Design, folder: Path) -> Gate:
    """Two days' runs of one build, but for the slowdown, written, read and judged."""
    days = np.random.SeedSequence(seed).spawn(2)
    files = []
    for number, day in enumerate(days):
        slowdown = design.slowdown if number else 0.0
        luck = seed if design.same_luck else seed + number * 2**40
        rows = simulated_rows(design, np.random.default_rng(day), slowdown, luck, seed)
        files.append(_written(rows, folder, number))
    old, new = (read_run(path) for path in files)
    for path in files:
        path.unlink()
    return gate_runs(old, [new], Rules(frozenset(GATES)))


def _written(rows: list[dict[str, Any]], folder: Path, number: int) -> Path:
    writer = RunWriter(folder, f"day-{number}", MACHINE | {"methods": {}})
    writer.write(rows)
    path = writer.finish()
    assert path is not None
    return path


def simulated_rows(
    design: Design, random: np.random.Generator, slowdown: float, luck: int, samples_seed: int
) -> list[dict[str, Any]]:
    """The rows of one run; γ = 0 is decoded under the name of every method, as `specbench run` does."""
    machine = design.machine
    cases = [(method, gamma) for gamma in (0, *GAMMAS) for method in VERIFY_US]
    batches = design.repeats * design.samples * len(cases)
    walk = np.cumsum(random.normal(0, machine.drift / math.sqrt(batches), batches))
    place = random.normal(0, machine.place, (len(cases), 3))
    size = np.random.default_rng(samples_seed).normal(0, machine.sample, design.samples)
    day, rows = random.normal(0, machine.day), []
    for repeat in range(design.repeats):
        shared = day + random.normal(0, machine.repeat)
        own = random.normal(0, machine.case_repeat, (len(cases), 3))
        for sample in range(design.samples):
            order = range(len(cases)) if (sample + repeat) % 2 == 0 else range(len(cases))[::-1]
            for number in order:
                method, gamma = cases[number]
                log = shared + size[sample] + walk[len(rows)] + place[number] + own[number]
                if method == SLOWED:
                    log = log + np.array([0, 0, math.log1p(slowdown)])
                counts = _counts(luck, sample, repeat, gamma)
                times = _times(random, machine, log, method, gamma, len(counts["step_drafted"]))
                rows.append(_row(method, gamma, sample, repeat) | counts | times)
    return rows


def _counts(luck: int, sample: int, repeat: int, gamma: int) -> dict[str, Any]:
    """The same for all methods, as with one seed for all."""
    random = np.random.default_rng((luck, sample, repeat, gamma))
    accepted = np.minimum(random.geometric(1 - ALPHA, STEPS) - 1, gamma)
    tokens = int(accepted.sum()) + STEPS
    return {
        "new_tokens": tokens,
        "verify_steps": STEPS,
        "drafted": gamma * STEPS,
        "accepted": int(accepted.sum()),
        "step_drafted": [gamma] * STEPS,
        "step_accepted": accepted.tolist(),
        "metric": "rouge1",
        "metric_value": float(random.beta(4, 6)),
        "metric_weight": 1.0,
    }


def _times(
    random: np.random.Generator,
    machine: Machine,
    log: np.ndarray[Any, Any],
    method: str,
    gamma: int,
    steps: int,
) -> dict[str, Any]:
    """Draft, target and verify, whose logarithms stand in `log`; a plain step verifies nothing."""
    means = np.array([DRAFT_US * gamma, TARGET_US, VERIFY_US[method] if gamma else 0.0])
    noise = machine.step * random.standard_t(3, (steps, 3)) / math.sqrt(3)
    draft, target, verify = (means * np.exp(np.clip(noise, -1, 1) + log)).T
    wall_s = PREFILL_S * math.exp(log[1]) + (draft + target + verify).sum() / 1e6
    if random.random() < machine.hiccup:
        wall_s *= 1 + random.exponential(0.3)
    return {
        "step_draft_us": draft.tolist(),
        "step_target_us": target.tolist(),
        "step_verify_us": verify.tolist(),
        "wall_s": wall_s,
        "batch_wall_s": wall_s,
        "verify_s": verify.sum() / 1e6,
    }


def _row(method: str, gamma: int, sample: int, repeat: int) -> dict[str, Any]:
    return {
        **{"case_id": f"{method}-g{gamma}", "pair": "simulated", "task": "summarization"},
        **{"dataset": "simulated", "sample_id": f"s{sample}", "completion": 0, "method": method},
        **{"implementation": "torch" if method == "baseline" else "cuda", "engine": "native"},
        **{"attention": "pad", "execution": "graphs", "load_format": "auto", "refill": False},
        **{"completions_per_sample": 1, "chat_template": False, "gamma": str(gamma)},
        **{"batch_size": 1, "batch_index": sample, "temperature": 1.0, "max_new_tokens": 128},
        **{"dtype": "float16", "device_name": "simulated", "seed": 0, "repeat": repeat},
        **{"status": "ok", "throttle_reasons": []},
    }


@dataclass(frozen=True)
class Result:
    """Of one comparison: its decision, and its verdicts by figure, those on `SLOWED` apart."""

    decision: str
    caught: bool
    others: int
    verdicts: Counter[tuple[str, str]]


def result(seed: int, design: Design) -> Result:
    """One comparison in a folder of its own."""
    with TemporaryDirectory() as folder:
        gate = compare_once(seed, design, Path(folder))
    fails = [verdict.finding for verdict in gate.verdicts if verdict.fails]
    is_it = [one.label == SLOWED and one.figure.startswith("verify_us") for one in fails]
    verdicts = Counter((v.finding.figure, v.verdict) for v in gate.verdicts)
    return Result(gate.decision, any(is_it), len(fails) - sum(is_it), verdicts)


def many(design: Design, comparisons: int, jobs: int, first_seed: int = 0) -> list[Result]:
    """So many comparisons, of seeds that count up from `first_seed`."""
    seeds = range(first_seed, first_seed + comparisons)
    if jobs == 1:
        return [result(seed, design) for seed in seeds]
    with ProcessPoolExecutor(jobs) as pool:
        return list(pool.map(partial(result, design=design), seeds, chunksize=8))


def interval(hits: int, of: int) -> str:
    """A share in percent with its 95 % interval (Clopper & Pearson 1934)."""
    from scipy.stats import binomtest

    low, high = binomtest(hits, of).proportion_ci(0.95, "exact")
    return f"{hits} of {of}, {hits / of:.1%} [{100 * low:.1f}, {100 * high:.1f}]"


def alarms(comparisons: int, jobs: int) -> None:
    """Two runs of one build: how often does the gate fail?"""
    worse = Machine(drift=0.04, repeat=0.04, place=0.004, case_repeat=0.004, step=0.06)
    for name, design in {
        "A/A, 5 repeats": Design(),
        "A/A, 3 repeats": Design(repeats=3),
        "A/A, 10 repeats": Design(repeats=10),
        "A/A, 5 repeats, other random numbers": Design(same_luck=False),
        "A/A, 5 repeats, twice the noise": Design(machine=worse),
        "A/A, 5 repeats, places 1 % apart": Design(machine=Machine(place=0.01)),
        "A/A, 5 repeats, an H100's processes": Design(machine=PROCESSES),
        "A/A, 5 repeats, an H100's processes, in turns": Design(machine=TURNS),
    }.items():
        found = many(design, comparisons, jobs)
        failed = sum(one.decision == FAILED for one in found)
        tell(f"{name}: failed {interval(failed, comparisons)}; verdicts {_shares(found)}")


def power(comparisons: int, jobs: int) -> None:
    """The verify step of one method is slower: how often is it caught, and nothing else blamed?"""
    for repeats in (3, 5, 10):
        for slowdown in (0.03, 0.05, 0.10):
            found = many(Design(repeats=repeats, slowdown=slowdown), comparisons, jobs)
            caught = sum(one.caught for one in found)
            blamed = sum(one.others > 0 for one in found)
            tell(
                f"{repeats} repeats, {slowdown:+.0%}: caught {interval(caught, comparisons)}; "
                f"another figure blamed in {blamed}"
            )
    for name, machine in {"in two processes": PROCESSES, "in turns": TURNS}.items():
        for repeats in (5, 8, 10):
            found = many(Design(repeats=repeats, slowdown=0.05, machine=machine), comparisons, jobs)
            caught = sum(one.caught for one in found)
            blamed = sum(one.others > 0 for one in found)
            tell(
                f"an H100's processes, {name}, {repeats} repeats, +5 %: caught "
                f"{interval(caught, comparisons)}; another figure blamed in {blamed}"
            )


def coverage(comparisons: int, jobs: int) -> None:
    """How often does a 99 % interval hold the truth, and how often do simpler ones?"""
    for repeats in (3, 5, 10):
        for samples, mixed in ((3, 0.0), (8, 0.0), (32, 0.0), (8, 0.02)):
            hits = np.mean(
                [_covers(seed, repeats, samples, mixed) for seed in range(comparisons)], axis=0
            )
            names = ("ours", "repeats alone", "percentile bootstrap")
            shares = ", ".join(f"{name} {hit:.1%}" for name, hit in zip(names, hits, strict=True))
            told = f", effect differs by {mixed:.0%} between samples" if mixed else ""
            tell(f"{repeats} repeats × {samples} samples{told}: {shares}")


def _covers(seed: int, repeats: int, samples: int, mixed: float) -> list[bool]:
    """Whether each kind of interval holds the true change, which is 0."""
    random = np.random.default_rng((seed, repeats, samples))
    effect = random.normal(0, mixed, samples)
    new, old = (
        shift
        + random.normal(0, 0.005, (repeats, 1))
        + 0.02 * random.standard_t(3, (repeats, samples)) / math.sqrt(3)
        for shift in (effect, 0.0)
    )
    ours = of_steps([new[None], old[None]])
    assert ours is not None
    plain = Estimate(ours.change, ours.sources[:2], repeats, samples)
    intervals = [ours.interval(), plain.interval(), _percentile(random, new, old)]
    return [low <= 0 <= high for low, high in intervals]


def _percentile(
    random: np.random.Generator, new: np.ndarray[Any, Any], old: np.ndarray[Any, Any]
) -> tuple[float, float]:
    """The hierarchical percentile bootstrap: repeats, then samples inside, 1,000 times."""
    repeats, samples = new.shape
    found = np.zeros(1000)
    for sign, run in ((1, new - (new + old).mean(0) / 2), (-1, old - (new + old).mean(0) / 2)):
        which = random.integers(0, repeats, (1000, repeats, 1))
        inside = random.integers(0, samples, (1000, repeats, samples))
        found += sign * np.median(run[which, inside], axis=2).mean(axis=1)
    low, high = np.quantile(found, [0.005, 0.995])
    return float(low), float(high)


def _shares(found: Iterable[Result]) -> str:
    total: Counter[tuple[str, str]] = sum((one.verdicts for one in found), Counter())
    figures = dict.fromkeys(figure for figure, _ in sorted(total))
    shown = []
    for figure in figures:
        of = sum(number for (name, _), number in total.items() if name == figure)
        kinds = {kind: n / of for (name, kind), n in sorted(total.items()) if name == figure}
        shown.append(f"{figure} " + " ".join(f"{kind} {s:.1%}" for kind, s in kinds.items()))
    return "; ".join(shown)


def tell(text: str) -> None:
    """Prints a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the arguments and simulates."""
    parts = {"alarms": alarms, "power": power, "coverage": coverage}
    parser = argparse.ArgumentParser(description="How often the gate is wrong.")
    parser.add_argument("what", nargs="*", help="of alarms, power, coverage: all by default")
    parser.add_argument("--comparisons", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=2)
    asked = parser.parse_args(argv)
    for name in asked.what or parts:
        parts[name](asked.comparisons, asked.jobs)


if __name__ == "__main__":
    main()
