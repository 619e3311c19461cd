"""What noise is, and what must not pass for it."""

from __future__ import annotations

import numpy as np
import pytest

from specbench.errors import InputError, NotComparableError
from specbench.floors import GATES
from specbench.report.calibration import calibrated
from specbench.report.findings import Rules
from specbench.report.gate import FAILED, gate_runs
from specbench.report.reader import read_run

ALL = Rules(frozenset(GATES))
MACHINE = {"driver": "580", "device_name": "simulated", "clocks": {"sm_max_mhz": 1980}}


@pytest.fixture
def rows(simulation):
    """Rows of one day's run: baseline, fused and block at γ = 0, 4, 8, with little noise."""

    def make(day, slowdown=0.0, repeats=5):
        machine = simulation.Machine(place=0.0, case_repeat=0.001, step=0.005, hiccup=0.0)
        design = simulation.Design(repeats, 4, machine=machine)
        found = simulation.simulated_rows(design, np.random.default_rng(day), slowdown, 0, 0)
        return [row for row in found if row["method"] != "exact" and row["gamma"] != "2"]

    return make


@pytest.fixture
def run(write_run, rows):
    def make(day, slowdown=0.0, repeats=5, change=None, **metadata):
        found = rows(day, slowdown, repeats)
        return read_run(write_run([(change or dict)(row) for row in found], **MACHINE | metadata))

    return make


def hit(row, **columns):
    """One case in a run of its own luck: its verify step takes 1.6 times as long."""
    if (row["method"], row["gamma"]) != ("block", "4"):
        return row
    return row | {"step_verify_us": [1.6 * us for us in row["step_verify_us"]]} | columns


def test_the_noise_is_what_runs_of_one_build_differ_by(run):
    runs = [run(day) for day in (1, 2, 3)]
    noise = calibrated(runs)
    largest = {}
    for i, new in enumerate(runs):
        for old in runs[:i]:
            for v in gate_runs(new, [old], ALL).verdicts:
                key = (v.finding.label, v.finding.key["gamma"])
                if v.finding.figure == "verify_us / baseline" and key[1] != "all":
                    largest[key] = max(largest.get(key, 0), abs(v.change))
    assert noise.figures["verify_us/baseline"] == len(largest) == 4
    expected = sorted(largest.values())[-2]
    assert noise.of("verify_us", "baseline") == pytest.approx(expected, rel=0.01)
    assert noise.of("alpha", "") == 0.0
    assert 0.001 < noise.of("tokens_per_s", "") < 0.2


def test_a_calibrated_gate_passes_its_own_runs(run):
    runs = [run(day) for day in (1, 2)]
    rules = Rules(frozenset(GATES), absolute=True, noise=calibrated(runs))
    assert gate_runs(runs[0], [runs[1]], rules).decision != FAILED


@pytest.mark.parametrize(
    "disturbed",
    [{"throttle_reasons": ["hw_slowdown"], "foreign_processes": ["someone's job"]}, {}],
    ids=["known to be disturbed", "for no known reason"],
)
def test_one_case_that_went_wrong_hides_no_regression_of_another(run, disturbed):
    runs = [run(day) for day in (1, 2, 3, 4)]
    runs.append(run(5, change=lambda row: hit(row, **disturbed)))
    noise = calibrated(runs)
    assert noise.of("verify_us", "baseline") < 0.02
    said = " ".join(noise.warnings)
    assert ("GPU slowed down (hw_slowdown)" if disturbed else "block at γ = 4") in said
    gate = gate_runs(runs[0], [run(6, slowdown=0.4)], Rules(frozenset(GATES), noise=noise))
    assert {v.finding.label for v in gate.verdicts if v.fails} == {"fused"}


def test_a_floor_far_past_the_rules_is_warned_of(run):
    def slow(row):
        return hit(row | {"method": "block"}) | {"method": row["method"]}

    noise = calibrated([run(1), run(2), run(3, change=lambda row: (
        slow(row) if row["method"] == "baseline" and row["gamma"] == "4" else row
    ))])  # fmt: skip
    assert noise.of("verify_us", "baseline") == pytest.approx(0.6, abs=0.05)
    (said,) = [one for one in noise.warnings if one.startswith("the floor of verify_us / baseline")]
    assert "more than 3 times the rule's" in said
    assert "γ = 4" in said


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"throttle_reasons": ["hw_thermal_slowdown"]}, "hw_thermal_slowdown"),
        ({"foreign_processes": ["a job"]}, "other processes on the GPU"),
    ],
)
def test_times_that_compare_would_not_judge_are_no_noise(run, changed, why):
    runs = [run(day, change=lambda row: row | changed) for day in (1, 2)]
    noise = calibrated(runs)
    assert noise.floors.keys() <= {"alpha/", "tau/", "quality/"}
    assert any(why in one for one in noise.warnings)


def test_where_nothing_can_be_trusted_nothing_is_calibrated(run):
    def lose(row):
        return row | ({"status": "failed"} if row["batch_index"] == 0 else {})

    runs = [run(day, repeats=2, change=lose) for day in (1, 2)]
    with pytest.raises(NotComparableError, match="no figure of these runs can be trusted") as error:
        calibrated(runs)
    assert "sequences failed" in str(error.value)
    assert "three repeats" in error.value.hint


@pytest.mark.parametrize("name", ["kernel_hash", "git_sha", "driver"])
def test_another_build_is_refused(run, name):
    runs = [run(1, repeats=1, **{name: value}) for value in ("a", "b")]
    with pytest.raises(InputError, match=f"they differ in {name}"):
        calibrated(runs)


def test_one_run_is_refused_and_one_that_is_given_twice(run):
    one, other = run(1, repeats=1), run(2, repeats=1)
    with pytest.raises(InputError, match="there is one run"):
        calibrated([one])
    with pytest.raises(InputError, match="is given twice"):
        calibrated([one, other, one])
