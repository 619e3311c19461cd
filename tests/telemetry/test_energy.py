"""Energy out of a counter that moves in steps."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specbench.telemetry.energy import (
    PERIODS,
    USUAL_PERIOD_S,
    EnergyCounter,
    counter_period_s,
    energy_j,
)
from specbench.telemetry.pace import Pace


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
def test_it_is_not_known_until_enough_steps_were_seen(readings):
    assert counter_period_s(readings) is None


class Clock:
    """Time that passes when it is told to; a counter asked takes some of it."""

    def __init__(self, monkeypatch, takes_s, period_s=0.1, watts=200.0):
        self.now, self.asked, self.takes_s, self.period_s, self.watts = (
            0.0,
            [],
            takes_s,
            period_s,
            watts,
        )
        own = SimpleNamespace(perf_counter=lambda: self.now)
        monkeypatch.setattr("specbench.telemetry.energy.time", own)

    def joules(self):
        self.asked.append(self.now)
        self.now += self.takes_s
        return self.watts * self.period_s * math.floor(self.now / self.period_s)

    def run(self, energy, seconds, every_s=0.05):
        end = self.now + seconds
        while self.now < end:
            energy.take()
            self.now += every_s


def test_the_counter_is_asked_often_until_its_period_is_known_and_then_seldom(monkeypatch):
    clock = Clock(monkeypatch, takes_s=0.0024, period_s=0.1)
    energy = EnergyCounter(clock.joules, 0.05)
    clock.run(energy, 2)
    assert energy.columns(0.1, 0.2)["energy_period_s"] == pytest.approx(0.1, rel=0.1)
    first = len(clock.asked)
    clock.run(energy, 100)
    later = len(clock.asked) - first
    assert later * clock.takes_s <= 0.0021 * 100
    assert later >= 50
    assert energy.columns(0.1, 0.2)["energy_period_s"] == pytest.approx(0.1, rel=0.1)


def test_a_quick_counter_is_asked_as_often_as_the_rest(monkeypatch):
    clock = Clock(monkeypatch, takes_s=1e-5)
    energy = EnergyCounter(clock.joules, 0.05)
    clock.run(energy, 10)
    assert len(clock.asked) == pytest.approx(200, abs=2)


def test_the_end_of_a_window_is_read_whatever_the_pace(monkeypatch):
    clock = Clock(monkeypatch, takes_s=0.01)
    energy = EnergyCounter(clock.joules, 0.05)
    clock.run(energy, 30)
    start = clock.asked[-1]
    clock.now = end = start + 2.0
    energy.take(at_once=True)
    found = energy.columns(start, end)
    assert found["energy_j"] == pytest.approx(200 * (end - start), rel=0.1)
    assert found["energy_coarse_j"] is None
    assert energy.columns(start, end + 1)["energy_j"] is None


@pytest.mark.parametrize("is_begun", [True, False])
def test_a_slow_counter_knows_a_short_window_by_its_ends_alone(monkeypatch, is_begun):
    """600 W of work after a second of 100 W: without a reading between them they would be mixed."""
    clock = Clock(monkeypatch, takes_s=0.0024, watts=100.0)
    energy = EnergyCounter(clock.joules, 0.05)
    clock.run(energy, 30)
    spent = clock.joules()

    def joules():
        clock.now += clock.takes_s
        return spent + 100 * min(clock.now - begin, 1.0) + 600 * max(clock.now - begin - 1.0, 0.0)

    begin, energy._ask = clock.now, joules
    energy.take(at_once=True)
    clock.now = begin + 1.0
    if is_begun:
        energy.take(at_once=True)
    start, clock.now = clock.now, clock.now + 1.2
    end = clock.now
    energy.take(at_once=True)
    found = energy.columns(start, end)
    if is_begun:
        assert found["energy_j"] == pytest.approx(600 * 1.2, rel=0.02)
    else:
        assert found["energy_j"] is None, "not called exact"
        assert found["energy_period_s"] >= 0.5


def test_a_counter_that_stands_still_is_not_asked_often_for_ever(monkeypatch):
    clock = Clock(monkeypatch, takes_s=0.0024, watts=0.0)
    energy = EnergyCounter(clock.joules, 0.05)
    clock.run(energy, 200)
    assert len(clock.asked) < 600
    assert energy.columns(1.0, 1.1)["energy_period_s"] == USUAL_PERIOD_S


def test_a_gpu_without_a_counter_has_no_energy(monkeypatch):
    energy = EnergyCounter(lambda: None, 0.05)
    energy.take()
    assert set(energy.columns(0.0, 1.0).values()) == {None}


def test_one_slow_answer_is_no_slow_driver():
    pace = Pace(0.05)
    for took_s in (1e-5, 1e-5, 0.3, 1e-5, 1e-5):
        pace.took(took_s)
    assert pace.pause_s == 0.05


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
