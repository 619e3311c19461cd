"""The gate on files of `specbench micro`: a file is a repeat."""

from __future__ import annotations

import numpy as np
import pytest

from specbench.errors import InputError, NotComparableError
from specbench.floors import GATES
from specbench.report.calibration import calibrated
from specbench.report.findings import Rules
from specbench.report.gate import FAILED, PASSED, UNDECIDED, gate_micro
from specbench.report.micro_writer import MicroWriter
from specbench.report.noise import Noise
from specbench.report.reader import read_run

ALL = Rules(frozenset(GATES))
MACHINE = {"device_name": "H100", "driver": "580", "clocks": {"sm_max_mhz": 1980}}
TIMES = {"baseline": 140.0, "exact": 33.0, "fused": 7.0}


@pytest.fixture
def files(tmp_path):
    """So many processes' files; the whole card is 5 % off between them, each method 0.2 %."""

    def make(number, seed, slowdown=0.0, methods=TIMES, about=MACHINE, card=0.05, **columns):
        random, found = np.random.default_rng(seed), []
        for _ in range(number):
            off = 1 + random.normal(0, card)
            rows = [
                {
                    **{"preset": "paper", "method": method, "implementation": "cuda"},
                    **{"batch_size": 1, "gamma": 5, "vocab_size": 32000, "dtype": "float16"},
                    **{"noise": 0.6, "l2": l2, "status": "ok", "replays": 30, "time_from": "graph"},
                    **{"graph_us_spread": 0.002, "bytes_moved": 1.0, "throttle_reasons": []},
                    "time_us": methods[method]
                    * off
                    * (1 + random.normal(0, 0.002))
                    * (1 + slowdown * (method == "fused")),
                }
                | columns
                for method in methods
                for l2 in ("cold", "warm")
            ]
            writer = MicroWriter(tmp_path, "paper", about)
            writer.write(rows, complete=True)
            found.append(read_run(writer.path))
        return found

    return make


def test_the_same_build_passes_and_a_slower_kernel_fails(files):
    old = files(5, 1)
    assert gate_micro(old, files(5, 2), ALL).decision == PASSED
    gate = gate_micro(old, files(5, 3, slowdown=0.05), ALL)
    assert gate.decision == FAILED
    assert {v.finding.label for v in gate.verdicts if v.fails} == {"fused"}


def test_one_file_a_side_is_undecided_however_many_replays(files):
    gate = gate_micro(files(1, 1), files(1, 2, slowdown=0.5), ALL, strict=True)
    assert {v.verdict for v in gate.verdicts} == {"inconclusive"}
    assert all("replays of one process are no repeats" in v.reason for v in gate.verdicts)
    assert gate.exit_code == 4


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"throttle_reasons": ["hw_slowdown"]}, "GPU slowed down (hw_slowdown)"),
        ({"implementation": "torch"}, "implementation cuda / torch"),
        ({"time_from": "kernels"}, "time from graph / kernels"),
        ({"graph_us_spread": 0.2}, "spread over 10% between replays"),
    ],
)
def test_doubts_are_never_a_pass(files, columns, why):
    gate = gate_micro(files(3, 1), files(3, 2, **columns), ALL)
    assert gate.decision == UNDECIDED
    assert all(why in v.why for v in gate.verdicts)


def test_a_method_that_is_gone_is_listed(files):
    gate = gate_micro(files(3, 1), files(3, 2, methods={"baseline": 140.0, "exact": 33.0}), ALL)
    gone = [v for v in gate.verdicts if v.finding.label == "fused"]
    assert {v.why for v in gone} == {("not in the new files",)}
    assert gate.decision == UNDECIDED


def test_a_faster_baseline_fails_nothing(files):
    old, quick = files(5, 1, card=0.002), TIMES | {"baseline": 126.0}
    gate = gate_micro(old, files(5, 2, methods=quick, card=0.002), ALL)
    assert gate.decision == UNDECIDED
    whys = {why.partition(" (")[0] for v in gate.verdicts for why in v.why}
    assert whys == {"baseline itself is faster"}
    slower = quick | {"fused": 7.7}
    gate = gate_micro(old, files(5, 3, methods=slower, card=0.002), ALL)
    assert {v.finding.label for v in gate.verdicts if v.fails} == {"fused"}


def test_noise_of_the_times_hides_no_loss_of_the_method(files):
    noise = Noise({"time_us/": 0.5}, runs=["a", "b"], about=MACHINE)
    new = files(5, 3, methods=TIMES | {"baseline": 126.0, "fused": 7.7}, card=0.002)
    gate = gate_micro(files(5, 1, card=0.002), new, Rules(frozenset(GATES), noise=noise))
    assert {v.finding.label for v in gate.verdicts if v.fails} == {"fused"}


def test_a_method_that_became_unsteady_is_slower_and_never_faster(files):
    old = files(5, 1, card=0.002)
    new = [one for place in range(5) for one in files(1, 10 + place, 1.6 + 0.2 * place)]
    found = {v.verdict for v in gate_micro(old, new, ALL).verdicts if v.finding.label == "fused"}
    assert found == {"slower"}
    back = [v for v in gate_micro(new, old, ALL).verdicts if v.finding.label == "fused"]
    assert {v.why for v in back} == {("spread over 10% between files",)}


def test_a_case_that_fails_in_the_new_files_fails_the_gate(files):
    def broken(number, seed):
        return files(number, seed, status="failed", error="out of memory", time_us=None)

    old = files(3, 1)
    one = gate_micro(old, [*files(2, 2), *broken(1, 3)], ALL)
    assert {v.why for v in one.verdicts if v.fails} == {
        ("failed in 1 of 3 new files: out of memory",)
    }
    every = gate_micro(old, broken(3, 2), ALL)
    assert {v.finding.label for v in every.verdicts if v.fails} == set(TIMES)
    again = gate_micro([*old, *broken(1, 4)], [*files(2, 2), *broken(1, 3)], ALL)
    assert not any(v.fails for v in again.verdicts)


def test_times_themselves_only_if_asked(files):
    old, new = files(5, 1), files(5, 2)
    assert {v.finding.over for v in gate_micro(old, new, ALL).verdicts} == {"baseline"}
    rules = Rules(frozenset(GATES), absolute=True)
    assert {v.finding.over for v in gate_micro(old, new, rules).verdicts} == {"baseline", ""}


@pytest.mark.parametrize("side", [0, 1])
def test_a_file_that_is_given_twice_is_refused(files, side):
    sides = [files(3, 1), files(3, 2)]
    sides[side].append(sides[side][0])
    with pytest.raises(InputError, match="is given twice") as error:
        gate_micro(*sides, ALL)
    assert "once" in error.value.hint


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize(
    ("name", "value", "why"),
    [("driver", "581", "another driver (580 / 581)"), ("driver", None, "does not say its driver")],
)
def test_the_machine_of_every_file_counts(files, side, name, value, why):
    sides = [files(3, 1), files(3, 2)]
    sides[side][-1:] = files(1, 3, about=MACHINE | {name: value})
    gate = gate_micro(*sides, Rules(frozenset(GATES), absolute=True))
    times = [v for v in gate.verdicts if not v.finding.over]
    assert {v.verdict for v in times} == {"inconclusive"}
    assert all(why in "; ".join(v.why) for v in times)
    assert f"the files differ in driver (580 / {value})" in gate.notes


def test_other_shapes_are_not_comparable(files):
    with pytest.raises(NotComparableError, match="no figure in common"):
        gate_micro(files(3, 1), files(3, 2, gamma=9), ALL)


def test_noise_between_files(files):
    noise = calibrated(files(4, 1))
    assert 0.0005 < noise.of("time_us", "baseline") < 0.02
    assert noise.of("time_us", "") > noise.of("time_us", "baseline")


def test_noise_is_used_if_every_file_is_of_the_machine_that_was_calibrated(files):
    noise = Noise({"time_us/baseline": 0.2}, runs=["a", "b"], about=MACHINE)
    rules, old = Rules(frozenset(GATES), noise=noise), files(5, 1)
    assert gate_micro(old, files(5, 3, slowdown=0.05), rules).decision == PASSED
    new = [*files(4, 3, slowdown=0.05), *files(1, 4, 0.05, about=MACHINE | {"driver": "581"})]
    gate = gate_micro(old, new, rules)
    assert gate.decision == FAILED
    assert any("which ran on H100, driver 581" in note for note in gate.notes)
