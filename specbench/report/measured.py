"""The figures of aligned batches: ratios within a run, and what tables show.

`runs` are, for each run, its cases: each a pair of the case's own batches and those that it is held
against within the run, or the former alone; all of them (repeats, items), see `pairing.aligned`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from specbench.report.evidence import Estimate, of_counts, of_rates, of_steps
from specbench.report.pairing import Batches, Floats, Sequences, aligned, same_sequences

Runs: TypeAlias = Sequence[Sequence[tuple[Batches, ...]]]


def logs(name: str, runs: Runs) -> list[Floats]:
    """(cases, repeats, items) of each run, over what it is held against."""

    def of(case: tuple[Batches, ...]) -> Floats:
        own, *base = (np.log(getattr(part, name)) for part in case)
        return np.asarray(own - base[0] if base else own)

    with np.errstate(divide="ignore", invalid="ignore"):
        return [np.stack([of(case) for case in run]) for run in runs]


def unlike(runs: Sequence[Floats]) -> list[str]:
    """A figure that one run has and the other has not would go unseen: the item is left out of both."""
    known = {bool((np.isfinite(run) == np.isfinite(runs[0])).all()) for run in runs}
    return [] if known == {True} else ["not measured in every sequence of both runs"]


def speed(runs: Runs) -> Estimate | None:
    """Tokens per second. How many tokens a batch needs for a step is luck, which both runs share."""
    if len(runs) == 1:
        return of_rates(runs[0])
    new, old = logs("tokens_per_s", runs)
    return of_steps([new - old])


def speed_over(own: Batches, base: Batches) -> Estimate | None:
    """Tokens per second of a case over another's of the same run, on the batches that both have."""
    return speed([[tuple(aligned([own, base]))]])


def quality_over(own: Sequences, base: Sequences) -> Estimate | None:
    """The metric of a case minus another's of the same run, on the sequences that both have scored."""
    own, base = same_sequences(own, base)
    both = scored(own) & scored(base)
    own, base = own.take(both), base.take(both)
    new, old = ((one.value * one.weight, one.weight) for one in (own, base))
    return of_counts(new, old, own.sample, len(np.unique(own.repeat)), is_difference=True)


def scored(sequences: Sequences) -> NDArray[np.bool_]:
    """Which have a value: an utterance without words has none, and weight 0."""
    return np.isfinite(sequences.value) & (sequences.weight > 0)


def level(name: str, cases: Sequence[Batches]) -> float:
    """The figure itself, as tables show it; a speed-up's is its tokens per second."""
    if not cases[0].tokens.size:
        return math.nan
    if name in {"tokens_per_s", "speedup"}:
        tokens, wall_s = (np.stack([getattr(c, n) for c in cases]) for n in ("tokens", "wall_s"))
        return rate(tokens, wall_s)
    column = {"verify_us": "verify_us", "verify_kernel_us": "kernel_us"}[name]
    values = np.stack([getattr(case, column) for case in cases])
    return float(np.nanmedian(values)) if np.isfinite(values).any() else math.nan


def rate(top: Floats, bottom: Floats) -> float:
    """Σ top / Σ bottom, NaN where that has no value."""
    whole = float(np.sum(bottom))
    return float(np.sum(top)) / whole if whole else math.nan
