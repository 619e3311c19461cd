"""A change as people read it: a ratio or a difference, and where it lies."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

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


def as_difference(estimate: Estimate | None) -> Interval:
    """new - reference, of an estimate of just that; at `LEVEL`: a method is thrown out for it."""
    return _shown(estimate, LEVEL, float)


def _shown(estimate: Estimate | None, level: float, scale: Callable[[float], float]) -> Interval:
    if estimate is None:
        return Interval()
    low, high = (scale(end) for end in estimate.interval(level))
    return Interval(scale(estimate.change), low, high, estimate.repeats, estimate.samples)
