"""Energy between two moments, out of a counter that moves only now and then."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

import numpy as np

USUAL_PERIOD_S = 0.1
"""Of NVML's total energy counter on an H100; taken until the counter's own is known."""

FEWEST_STEPS, MOST_READINGS = 8, 400
"""The period is the median over so many steps at least, within so many readings."""

PERIODS = 10
"""A window is long enough if it holds so many periods: each of its ends is known to one, so that over
fewer the energy could be wrong by more than 10 %."""

Reading = tuple[float, float]
"""(seconds, joules)"""


def counter_period_s(readings: Sequence[Reading]) -> float:
    """Time between two steps of the counter, as far as the readings can tell: no less than the time
    between two readings."""
    recent = readings[-MOST_READINGS:]
    steps = [after[0] for before, after in pairwise(recent) if after[1] != before[1]]
    if len(steps) <= FEWEST_STEPS:
        return USUAL_PERIOD_S
    return median(after - before for before, after in pairwise(steps))


def energy_j(readings: Sequence[Reading], t0: float, t1: float) -> float | None:
    """Joules between t0 and t1, the counter interpolated; None if the readings do not reach so far."""
    if not readings or readings[0][0] > t0 or readings[-1][0] < t1:
        return None
    times, joules = zip(*readings, strict=True)
    start, end = np.interp([t0, t1], times, joules)
    return float(end - start)
