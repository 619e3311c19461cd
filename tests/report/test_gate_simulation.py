"""False alarms and power on simulated machines, a small part of docs/simulate_gate.py.

docs/statistics.md has the figures of the whole. Here seeds are fixed; a gate that keeps its promise (at
most 1 % false alarms, at least 95 % of +5 % regressions caught) would miss these thresholds once in a
thousand times.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

JOBS = 1


@pytest.fixture(scope="module")
def small(simulation):
    """Half of the methods' work: enough for the law, and quick."""
    return simulation.Design(repeats=5, samples=6)


def test_two_runs_of_one_build_raise_no_alarm(simulation, small):
    found = simulation.many(small, 30, JOBS, first_seed=10_000)
    # 30 at 1 %: more than 3 would be a chance of 1 in 4,000
    assert sum(one.decision == simulation.FAILED for one in found) <= 3


def test_a_kernel_five_per_cent_slower_is_caught(simulation, small):
    found = simulation.many(replace(small, slowdown=0.05), 30, JOBS, first_seed=20_000)
    # 30 at 95 %: fewer than 24 would be a chance of 1 in 1,000
    assert sum(one.caught for one in found) >= 24
    assert sum(one.others > 0 for one in found) <= 3
