"""Energy out of a counter that moves in steps."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specbench.telemetry.energy import PERIODS, USUAL_PERIOD_S, counter_period_s, energy_j


def counter(period_s, every_s, seconds, watts=200.0, begin=0.0):
    """What a sampler reads of a counter that is brought up to date once a period."""
    times = [i * every_s for i in range(int(seconds / every_s))]
    return [(t, watts * period_s * math.floor((t + begin) / period_s)) for t in times]


@pytest.mark.parametrize("period_s", [0.1, 0.2, 0.5])
def test_the_period_is_seen_through_the_sampling(period_s):
    found = counter_period_s(counter(period_s, 0.054, 30))
    assert found == pytest.approx(period_s, rel=0.1)


def test_it_is_never_finer_than_the_sampling():
    assert counter_period_s(counter(0.02, 0.05, 10)) == pytest.approx(0.05)


@pytest.mark.parametrize("readings", [[], counter(0.1, 0.05, 0.5), [(i, 5.0) for i in range(50)]])
def test_the_usual_one_until_enough_steps_were_seen(readings):
    assert counter_period_s(readings) == USUAL_PERIOD_S


@given(
    period_s=st.floats(0.02, 0.3),
    begin=st.floats(0, 0.3),
    start=st.floats(1, 3),
    periods=st.floats(PERIODS, 40),
)
def test_a_window_of_ten_periods_is_right_within_a_tenth(period_s, begin, start, periods):
    readings = counter(period_s, 0.01, 20, begin=begin)
    end = start + periods * period_s
    found = energy_j(readings, start, end)
    assert found == pytest.approx(200 * (end - start), rel=0.1, abs=200 * 0.02)


def test_what_the_readings_do_not_reach_is_not_known():
    readings = [(1.0, 10.0), (2.0, 20.0)]
    assert energy_j(readings, 1.25, 1.75) == pytest.approx(5)
    assert energy_j(readings, 0.9, 1.5) is None
    assert energy_j(readings, 1.5, 2.1) is None
    assert energy_j([], 1.0, 2.0) is None
