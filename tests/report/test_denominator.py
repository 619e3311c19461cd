"""A ratio that got worse because what it is held against got faster."""

from __future__ import annotations

import numpy as np
import pytest

from specbench.errors import ExitCode
from specbench.floors import GATES
from specbench.report.findings import Rules
from specbench.report.gate import FAILED, UNDECIDED, gate_runs
from specbench.report.noise import Noise
from specbench.report.reader import read_run
from specbench.report.schema import INTERLEAVED

MACHINE = {"driver": "580", "device_name": "simulated", "clocks": {"sm_max_mhz": 1980}}
STEPS = ("step_draft_us", "step_target_us", "step_verify_us")
WALLS = ("wall_s", "batch_wall_s", "verify_s")


@pytest.fixture
def rows(simulation):
    """One day of a steady machine: baseline, fused and block at γ = 0, 4, 8."""

    def make(day):
        names = vars(simulation.Machine())
        machine = simulation.Machine(**(dict.fromkeys(names, 0.001) | {"hiccup": 0.0}))
        design = simulation.Design(5, 4, machine=machine)
        found = simulation.simulated_rows(design, np.random.default_rng(day), 0.0, 0, 0)
        return [row for row in found if row["method"] != "exact" and row["gamma"] != "2"]

    return make


@pytest.fixture
def judged(write_run):
    def judge(
        old,
        new,
        strict=False,
        thresholds=None,
        absolute=False,
        about=MACHINE,
        before=None,
        noise=None,
    ):
        runs = [
            read_run(write_run(each, **({"clocks": None, "device_name": None} | machine)))
            for each, machine in ((old, before or about), (new, about))
        ]
        rules = Rules(frozenset(GATES), thresholds or {}, absolute, noise)
        return gate_runs(runs[0], [runs[1]], rules, strict)

    return judge


def slowed(rows, factor, columns=(*STEPS, *WALLS), **where):
    """Those rows take so many times as long."""

    def of(row):
        if any(row[name] != value for name, value in where.items()):
            return row
        times = {name: (np.array(row[name]) * factor).tolist() for name in columns}
        return row | times

    return [of(row) for row in rows]


def faster_plain(rows):
    return slowed(rows, 1 / 1.1, gamma="0")


def faster_baseline(rows):
    return slowed(rows, 1 / 1.1, ["step_verify_us"], method="baseline")


def fails(gate):
    return {
        (v.finding.label, v.finding.key["gamma"], v.finding.figure)
        for v in gate.verdicts
        if v.fails
    }


def excused(gate):
    return [v for v in gate.verdicts if any("itself is faster" in why for why in v.why)]


@pytest.mark.parametrize(("strict", "code"), [(False, ExitCode.OK), (True, ExitCode.INCONCLUSIVE)])
def test_a_faster_plain_decoding_fails_nothing(judged, rows, strict, code):
    gate = judged(rows(1), faster_plain(rows(2)), strict)
    assert (gate.decision, gate.exit_code) == (UNDECIDED, code)
    speedups = [v for v in gate.verdicts if v.finding.metric.name == "speedup"]
    assert {v.finding.key["gamma"] for v in speedups} == {"4", "8", "all"}
    assert excused(gate) == speedups
    assert {v.verdict for v in gate.verdicts if v not in speedups} == {"same"}
    (why,) = speedups[0].why
    assert why.startswith("γ = 0 itself is faster (tokens_per_s +")
    assert "`specbench run --against` tells" in why


def test_a_faster_baseline_fails_nothing(judged, rows):
    gate = judged(rows(1), faster_baseline(rows(2)))
    assert gate.decision == UNDECIDED
    assert {v.finding.figure for v in excused(gate)} == {"verify_us / baseline"}
    assert {v.finding.label for v in excused(gate)} == {"fused", "block"}


def test_in_turns_on_one_machine_no_file_needs_to_say_what_machine(judged, rows):
    gate = judged(rows(1), faster_plain(rows(2)), absolute=True, about={INTERLEAVED: "ab"})
    assert fails(gate) == set()
    assert excused(gate)


@pytest.mark.parametrize(
    "before", [{"driver": "579"}, {"driver": None}, {"clocks": {"sm_max_mhz": 1500}}]
)
def test_times_that_are_not_comparable_excuse_nothing(judged, rows, before):
    gate = judged(rows(1), faster_plain(rows(2)), before=MACHINE | before)
    assert gate.decision == FAILED
    assert excused(gate) == []


def test_other_clocks_excuse_nothing(judged, rows):
    old, new = (
        [row | {"nvml_sm_clock_mhz": [clock]} for row in found]
        for found, clock in ((rows(1), 1800.0), (faster_plain(rows(2)), 1980.0))
    )
    assert excused(judged(old, new)) == []


def test_a_slower_method_on_a_machine_that_was_faster_is_slower(judged, rows):
    new = slowed(slowed(rows(2), 1 / 1.04), 1.05, ["step_verify_us"], method="fused")
    gate = judged(rows(1), new)
    assert fails(gate) == {("fused", gamma, "verify_us / baseline") for gamma in ("4", "8", "all")}


def test_a_method_that_is_slower_itself_is_not_excused(judged, rows):
    new = slowed(faster_plain(rows(2)), 1.05, gamma="4", method="fused")
    gate = judged(rows(1), new)
    assert ("fused", "4", "speedup / γ = 0") in fails(gate)
    assert {"block", "baseline"} <= {v.finding.label for v in excused(gate)}


def test_noise_of_the_times_hides_no_loss_of_the_method(judged, rows):
    noise = Noise({"verify_us/": 0.5, "tokens_per_s/": 0.5}, runs=["a", "b"], about=MACHINE)
    new = slowed(faster_plain(rows(2)), 1.05, gamma="4", method="fused")
    gate = judged(rows(1), new, noise=noise)
    assert ("fused", "4", "speedup / γ = 0") in fails(gate)
    assert {"block", "baseline"} <= {v.finding.label for v in excused(gate)}


def test_a_base_that_is_not_past_its_own_floor_excuses_nothing(judged, rows):
    gate = judged(rows(1), faster_plain(rows(2)), thresholds={"tokens_per_s": {"relative": 0.2}})
    assert ("fused", "4", "speedup / γ = 0") in fails(gate)


def test_of_a_single_method_its_own_time_alone_decides(judged, rows):
    old, new = ([row for row in rows(day) if row["method"] != "block"] for day in (1, 2))
    assert fails(judged(old, faster_baseline(new))) == set()
    slower = slowed(new, 1.10, ["step_verify_us"], method="fused")
    assert ("fused", "4", "verify_us / baseline") in fails(judged(old, slower))


def test_a_method_in_doubt_is_no_witness(judged, rows):
    new = [
        row | ({"implementation": "torch"} if row["method"] == "block" else {}) for row in rows(2)
    ]
    new = slowed(faster_baseline(new), 0.5, ["step_verify_us"], method="block")
    gate = judged(rows(1), new)
    assert fails(gate) == set()
    assert {v.finding.label for v in excused(gate)} == {"fused"}
