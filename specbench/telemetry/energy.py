"""Energy between two moments, out of a counter that moves only now and then."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np

from specbench.telemetry.pace import Pace

USUAL_PERIOD_S = 0.1
"""Of NVML's total energy counter on an H100; taken until the counter's own is known."""

FEWEST_STEPS, MOST_READINGS = 8, 400
"""The period is the median over so many steps at least, looked for in so many readings at most."""

PERIODS = 10
"""A window is long enough if it holds so many periods: each of its ends is known to one, so that over
fewer the energy could be wrong by more than 10 %."""

KEPT_READINGS = 100_000

Reading = tuple[float, float]
"""(seconds, joules)"""


class EnergyCounter:
    """A GPU's counter, asked at every opportunity until its period is known, then as often as its driver
    is quick to answer.

    Args:
        ask: joules since the driver was loaded, or None where it is not told.
        interval_s: the least between two questions.
    """

    def __init__(self, ask: Callable[[], float | None], interval_s: float) -> None:
        self._ask, self._pace = ask, Pace(interval_s)
        self._readings: list[Reading] = []
        self._period_s: float | None = None

    def take(self, at_once: bool = False) -> None:
        """A reading, if it is time for one, or `at_once`."""
        now = time.perf_counter()
        if not (at_once or self._is_new or now - self._readings[-1][0] >= self._pace.pause_s):
            return
        joules = self._ask()
        self._pace.took(time.perf_counter() - now)
        if joules is None:
            return
        self._readings.append((now, joules))
        if self._is_new:
            self._period_s = counter_period_s(self._readings)
        if len(self._readings) > KEPT_READINGS:
            del self._readings[: KEPT_READINGS // 2]

    @property
    def _is_new(self) -> bool:
        return self._period_s is None and len(self._readings) < MOST_READINGS

    def columns(self, t0: float, t1: float) -> dict[str, Any]:
        """The columns `energy_*` of a window; null if the readings do not reach so far. `energy_period_s`
        is how well its ends are known: the counter's period, or how far from them the next reading is.

        Args:
            t0, t1: `time.perf_counter()` at both ends.
        """
        known: dict[str, Any] = dict.fromkeys(("energy_j", "energy_coarse_j", "energy_period_s"))
        if not self._readings:
            return known
        recent = self._readings[max(bisect_left(self._readings, (t0,)) - 1, 0) :]
        # Between two readings power is taken to be even, which it is not where work begins or ends.
        away_s = [min(abs(t - end) for t, _ in recent) for end in (t0, t1)]
        period_s = max(self._period_s or USUAL_PERIOD_S, *away_s)
        name = "energy_j" if t1 - t0 >= PERIODS * period_s else "energy_coarse_j"
        return known | {name: energy_j(recent, t0, t1), "energy_period_s": period_s}


def counter_period_s(readings: Sequence[Reading]) -> float | None:
    """Time between two steps of the counter, as far as the readings can tell: no less than the time
    between two readings. None if they hold too few steps."""
    steps = [after[0] for before, after in pairwise(readings) if after[1] != before[1]]
    if len(steps) <= FEWEST_STEPS:
        return None
    return median(after - before for before, after in pairwise(steps))


def energy_j(readings: Sequence[Reading], t0: float, t1: float) -> float | None:
    """Joules between t0 and t1, the counter interpolated; None if the readings do not reach so far."""
    if not readings or readings[0][0] > t0 or readings[-1][0] < t1:
        return None
    times, joules = zip(*readings, strict=True)
    start, end = np.interp([t0, t1], times, joules)
    return float(end - start)
