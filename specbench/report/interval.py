"""A change as people read it: a ratio or a difference, and where it lies."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from specbench.report.evidence import LEVEL, Estimate
from specbench.report.stats import NAN

ADVICE_LEVEL = 0.95
"""Of a speed-up's interval. A piece of advice is one figure, which can be had again with more samples; a
gate tests dozens at once and must raise no false alarm, so that it asks for `evidence.LEVEL`."""


@dataclass(frozen=True)
class Interval:
    """A change and its interval; all NaN if nothing was measured.

    Attributes:
        low, high: NaN if too little was measured to say.
        repeats, samples: how many it rests on; of a speed, `samples` counts batches.
    """

    value: float = NAN
    low: float = NAN
    high: float = NAN
    repeats: int = 0
    samples: int = 0

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return not math.isnan(self.low)


def as_ratio(estimate: Estimate | None) -> Interval:
    """new / reference, of an estimate of its logarithm; at `ADVICE_LEVEL`."""
    return _shown(estimate, ADVICE_LEVEL, math.exp)


def as_ratio_of_best(estimate: Estimate | None, among: int) -> Interval:
    """`as_ratio` of the largest of so many estimates, wide enough for having been chosen as such."""
    found = as_ratio(estimate)
    if estimate is None or not found.known:
        return found
    half = maximum_modulus(among, estimate.df, ADVICE_LEVEL) * estimate.error
    low, high = (math.exp(estimate.change + side * half) for side in (-1, 1))
    return replace(found, low=low, high=high)


def maximum_modulus(among: int, df: float, level: float) -> float:
    """The quantile c of the studentized maximum modulus: P(max |zₖ| ≤ c s) of `among` standard normal zₖ
    and one s of `df` degrees of freedom; of one it is Student's t.

    It holds for the largest of estimates that are independent, and errs on the safe side for such as are
    held against the same plain decoding (Šidák 1967). Bonferroni's t would be twice as wide with few
    degrees of freedom, since it guards against a choice by s too, and the choice is by size alone.
    Source: Hochberg and Tamhane: Multiple comparison procedures, 1987, appendix 3.
    """
    from scipy.optimize import brentq  # late, as in `evidence`
    from scipy.special import gammaincinv, ndtr

    df, parts = min(df, 1e6), (np.arange(4096) + 0.5) / 4096
    scales = np.sqrt(2 * gammaincinv(df / 2, parts) / df)
    return float(brentq(lambda c: np.mean((2 * ndtr(c * scales) - 1) ** among) - level, 0.1, 1e4))


def as_difference(estimate: Estimate | None) -> Interval:
    """new - reference, of an estimate of just that; at `LEVEL`: a method is thrown out for it."""
    return _shown(estimate, LEVEL, float)


def _shown(estimate: Estimate | None, level: float, scale: Callable[[float], float]) -> Interval:
    if estimate is None:
        return Interval()
    low, high = (scale(end) for end in estimate.interval(level))
    return Interval(scale(estimate.change), low, high, estimate.repeats, estimate.samples)
