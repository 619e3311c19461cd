"""The gate on result files: laws that hold whatever the machine, and what is never a pass."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from specbench.errors import ExitCode, InputError, NotComparableError
from specbench.floors import GATES
from specbench.report.findings import Rules
from specbench.report.gate import (
    FAILED,
    PASSED,
    UNDECIDED,
    gate_runs,
    methods_against_baseline,
)
from specbench.report.noise import Noise
from specbench.report.pairing import step_medians
from specbench.report.reader import read_run
from specbench.report.schema import INTERLEAVED

ALL = Rules(frozenset(GATES))
MACHINE = {
    "driver": "580",
    "device_name": "simulated",
    "clocks": {"sm_now_mhz": 345, "sm_max_mhz": 1980},
}


@pytest.fixture
def rows(simulation):
    """Rows of one day's run: baseline, fused and block at γ = 0, 4, 8, with little noise."""

    def make(day, slowdown=0.0, luck=0, repeats=5, samples=4):
        machine = simulation.Machine(place=0.0, case_repeat=0.001, step=0.005, hiccup=0.0)
        design = simulation.Design(repeats, samples, machine=machine)
        found = simulation.simulated_rows(design, np.random.default_rng(day), slowdown, luck, 0)
        return [row for row in found if row["method"] != "exact" and row["gamma"] != "2"]

    return make


@pytest.fixture
def judged(write_run):
    """The gate's verdicts on rows against a reference's."""

    def judge(old, new, rules=ALL, strict=False, **metadata):
        runs = [read_run(write_run(each, **(MACHINE | metadata))) for each in (old, new)]
        return gate_runs(runs[0], [runs[1]], rules, strict)

    return judge


def by_figure(gate):
    return {
        (v.finding.label, v.finding.key["gamma"], v.finding.figure): v.verdict
        for v in gate.verdicts
    }


def changed(rows, **columns):
    """The rows with columns replaced: by a value, or by what a function makes of the row."""
    return [
        row | {name: value(row) if callable(value) else value for name, value in columns.items()}
        for row in rows
    ]


def scaled(rows, factor):
    steps = {
        name: lambda row, name=name: [factor * us for us in row[name]]
        for name in ("step_draft_us", "step_target_us", "step_verify_us")
    }
    walls = {
        name: lambda row, name=name: factor * row[name]
        for name in ("wall_s", "batch_wall_s", "verify_s")
    }
    return changed(rows, **steps, **walls)


class TestVerdicts:
    def test_the_same_build_passes(self, judged, rows):
        gate = judged(rows(1), rows(2))
        assert (gate.decision, gate.exit_code) == (PASSED, ExitCode.OK)
        assert set(by_figure(gate).values()) == {"same"}
        assert gate.sentence.startswith("gate passed (")

    def test_a_slower_kernel_fails_and_is_named(self, judged, rows):
        gate = judged(rows(1), rows(2, slowdown=0.10))
        assert (gate.decision, gate.exit_code) == (FAILED, ExitCode.REGRESSION)
        slower = {key for key, verdict in by_figure(gate).items() if verdict == "slower"}
        assert slower == {("fused", g, "verify_us / baseline") for g in ("4", "8", "all")}
        assert "gate failed: fused at γ = " in gate.sentence
        assert gate.verdicts[0].reason.startswith("slower: verify_us / baseline +")
        assert gate.verdicts[0].reason.endswith(", floor 3 %")

    def test_swapping_the_runs_swaps_faster_and_slower(self, judged, rows):
        old, new = rows(1), rows(2, slowdown=0.10)
        there, back = by_figure(judged(old, new)), by_figure(judged(new, old))
        swapped = {"slower": "faster", "faster": "slower"}
        assert {key: swapped.get(verdict, verdict) for key, verdict in there.items()} == back
        assert "slower" in there.values()

    @pytest.mark.parametrize("factor", [0.5, 3.0])
    def test_a_machine_that_is_slower_throughout_changes_no_ratio(self, judged, rows, factor):
        rules = Rules(frozenset(GATES), {"verify_us": {"relative": 0.03}})
        old, new = rows(1), rows(2, slowdown=0.06)
        once = judged(old, new, rules)
        again = judged(old, scaled(new, factor), rules)
        assert by_figure(once) == by_figure(again)
        for one, other in zip(once.verdicts, again.verdicts, strict=True):
            assert other.change == pytest.approx(one.change, rel=1e-4, abs=1e-6)  # float32 in files

    def test_an_absolute_floor_lets_a_few_nanoseconds_pass(self, judged, rows):
        rules = Rules(frozenset(GATES), {"verify_us": {"absolute": 2.0}})  # of fused's 11 µs
        assert judged(rows(1), rows(2, slowdown=0.10), rules).decision == PASSED

    def test_a_threshold_beats_the_scenario_which_beats_the_default(self, judged, rows):
        scenario = json.dumps({"gate": {"verify_us": "20%"}})
        old, new = rows(1), rows(2, slowdown=0.10)
        assert judged(old, new, resolved_scenario=scenario).decision == PASSED
        rules = Rules(frozenset(GATES), {"verify_us": {"relative": 0.02}})
        assert judged(old, new, rules, resolved_scenario=scenario).decision == FAILED

    def test_a_scenario_without_floors_has_the_default(self, judged, rows):
        gate = judged(rows(1), rows(2), resolved_scenario=json.dumps({"gate": None}))
        assert gate.decision == PASSED

    def test_only_what_fail_on_names_decides(self, judged, rows):
        gate = judged(rows(1), rows(2, slowdown=0.10), Rules(frozenset({"quality"})))
        assert gate.decision == PASSED
        assert "slower" in by_figure(gate).values()

    def test_noise_that_was_measured_lifts_the_floor_and_says_so(self, judged, rows):
        floors = {"verify_us/baseline": 0.2, "tokens_per_s/baseline": 0.001}
        noise = Noise(floors, runs=["a", "b"], about=MACHINE)
        gate = judged(rows(1), rows(2, slowdown=0.10), Rules(frozenset(GATES), noise=noise))
        assert gate.decision == PASSED
        assert any("calibrated over 2 runs: verify_us / baseline" in note for note in gate.notes)
        floors = {v.finding.figure: v.floor for v in gate.verdicts}
        assert floors["verify_us / baseline"] == pytest.approx(0.2)
        assert floors["tokens_per_s / baseline"] == pytest.approx(0.03)

    @pytest.mark.parametrize(
        "other", [{"device_name": "A100"}, {"driver": "581"}, {"driver": None}]
    )
    def test_noise_of_another_machine_lifts_nothing_and_says_so(self, judged, rows, other):
        noise = Noise({"verify_us/baseline": 0.2}, runs=["a", "b"], about=MACHINE | other)
        gate = judged(rows(1), rows(2, slowdown=0.10), Rules(frozenset(GATES), noise=noise))
        assert gate.decision == FAILED
        (note,) = [note for note in gate.notes if "calibrated" in note]
        run_id = gate.runs[0].run_id
        assert note.startswith(f"noise was calibrated on {noise.machine}: not used for {run_id}, ")
        assert note.endswith("which ran on simulated, driver 580")


class TestQualityAndAcceptance:
    def test_worse_text_fails(self, judged, rows):
        worse = changed(rows(2, samples=12), metric_value=lambda row: row["metric_value"] - 0.1)
        gate = judged(rows(1, samples=12), worse)
        fails = {v.finding.figure for v in gate.verdicts if v.fails}
        assert (gate.decision, fails) == (FAILED, {"quality"})
        assert gate.verdicts[0].verdict == "worse"

    def test_of_an_error_rate_less_is_better(self, judged, rows):
        old = changed(rows(1, samples=12), metric="wer")
        better = changed(
            rows(2, samples=12), metric="wer", metric_value=lambda row: row["metric_value"] - 0.1
        )
        assert judged(old, better).decision == PASSED
        assert judged(better, old).decision == FAILED

    def test_fewer_accepted_drafts_fail(self, judged, rows):
        fewer = changed(
            rows(2, samples=12),
            accepted=lambda row: row["accepted"] // 2,
            new_tokens=lambda row: row["accepted"] // 2 + row["verify_steps"],
        )
        gate = judged(rows(1, samples=12), fewer)
        assert {"tau", "alpha"} <= {v.finding.metric.name for v in gate.verdicts if v.fails}

    def test_an_utterance_without_words_has_no_say(self, judged, rows):
        def unscored(found):
            none = {"metric_value": None, "metric_weight": 0.0}
            return [
                row | {"metric": "wer"} | (none if row["sample_id"] == "s1" else {})
                for row in found
            ]

        old, new = (unscored(rows(day, samples=12)) for day in (1, 2))
        worse = changed(new, metric_value=lambda r: r["metric_value"] and r["metric_value"] + 0.2)
        same = {v.verdict for v in judged(old, new).verdicts if v.finding.metric.name == "quality"}
        assert same == {"same"}
        gate = judged(old, worse)
        assert {v.finding.figure for v in gate.verdicts if v.fails} == {"quality"}
        assert {v.finding.estimate.samples for v in gate.verdicts if v.fails} == {11}

    def test_what_one_run_alone_has_scored_is_in_doubt(self, judged, rows):
        new = changed(
            rows(2), metric_value=lambda r: None if r["sample_id"] == "s1" else r["metric_value"]
        )
        found = [v for v in judged(rows(1), new).verdicts if v.finding.metric.name == "quality"]
        assert {v.why for v in found} == {("not scored in every sequence of both runs",)}

    @pytest.mark.parametrize("samples", [3, 5])
    def test_a_total_loss_over_too_few_samples_says_how_many_it_takes(self, judged, rows, samples):
        def lost(number):
            new = changed(rows(2, samples=number), metric_value=0.0)
            gate = judged(rows(1, samples=number), new)
            return [v for v in gate.verdicts if v.finding.metric.name == "quality"]

        whys = {v.why for v in lost(samples)}
        assert len(whys) == 1
        (why,) = whys.pop()
        assert why.startswith(f"too few samples to tell ({samples}; at least ")
        needed = int(why.removesuffix(")").split()[-1])
        assert needed > samples
        assert "worse" in {v.verdict for v in lost(needed)}
        assert {v.verdict for v in lost(needed - 1)} == {"inconclusive"}

    @pytest.mark.parametrize("method", ["baseline", "block"])
    @pytest.mark.parametrize("backwards", [False, True])
    def test_plain_decoding_is_judged_over_all_methods(self, judged, rows, method, backwards):
        def lose(row):
            hit = (row["method"], row["gamma"]) == (method, "0")
            return 0.0 if hit else row["metric_value"]

        new = changed(rows(2, samples=12), metric_value=lose)
        if backwards:
            new = new[::-1]
        gate = judged(rows(1, samples=12), new)
        (found,) = [v for v in gate.verdicts if v.finding.key["gamma"] == "0"]
        assert (found.verdict, found.finding.label) == ("worse", "plain")
        assert found.finding.new == pytest.approx(found.finding.old * 2 / 3, rel=0.1)
        assert found.finding.estimate.samples == 12

    def test_another_luck_is_inconclusive_not_worse(self, judged, rows):
        found = by_figure(judged(rows(1), rows(2, luck=99)))
        sampled = {
            v for (_, _, figure), v in found.items() if figure in {"tau", "alpha", "quality"}
        }
        assert sampled == {"inconclusive"}

    def test_acceptance_by_dice_is_nobodys(self, judged, rows):
        dice = [changed(rows(day), synthetic_acceptance=0.7) for day in (1, 2)]
        assert not {"tau", "alpha", "quality"} & {key[2] for key in by_figure(judged(*dice))}


def only(rows, **columns):
    return [row for row in rows if all(row[name] == value for name, value in columns.items())]


class TestNeverAPass:
    @pytest.mark.parametrize("repeats", [1, 2])
    def test_too_few_repeats(self, judged, rows, repeats):
        gate = judged(rows(1, repeats=repeats), rows(2, 0.5, repeats=repeats), strict=True)
        times = {v.verdict for v in gate.verdicts if v.finding.metric.gate == "slower"}
        assert times == {"inconclusive"}
        assert gate.exit_code == ExitCode.INCONCLUSIVE

    @pytest.mark.parametrize(
        ("columns", "why"),
        [
            (
                {"throttle_reasons": ["sw_thermal_slowdown"]},
                "GPU slowed down (sw_thermal_slowdown)",
            ),
            ({"implementation": "torch"}, "implementation cuda / torch"),
            ({"device_name": "another"}, "devices differ (another / simulated)"),
        ],
    )
    def test_what_disturbs_one_method_leaves_its_times_undecided(self, judged, rows, columns, why):
        new = [
            row | (columns if (row["method"], row["gamma"]) == ("fused", "4") else {})
            for row in rows(2)
        ]
        gate = judged(rows(1), new)
        found = [v for v in gate.verdicts if why in v.why]
        assert gate.decision == UNDECIDED
        times = [v for v in found if v.finding.metric.gate == "slower"]
        assert {(v.finding.label, v.finding.key["gamma"]) for v in times} == {
            ("fused", "4"),
            ("fused", "all"),
        }
        assert {v.verdict for v in found} == {"inconclusive"}

    def test_a_throttled_baseline_spoils_what_is_held_against_it(self, judged, rows):
        new = changed(
            rows(2),
            throttle_reasons=lambda r: ["sw_power_cap"] if r["method"] == "baseline" else [],
        )
        found = by_figure(judged(rows(1), new))
        assert found["fused", "4", "verify_us / baseline"] == "inconclusive"

    def test_sequences_that_failed_in_the_reference(self, judged, rows):
        gate = judged(failing(rows(1), 3), rows(2))
        found = of_fused_at_4(gate)
        assert {v.verdict for v in found} == {"inconclusive"}
        assert all("3 of 20 sequences failed: out of memory" in v.why for v in found)

    def test_a_case_that_the_new_run_lacks_is_listed_and_undecided(self, judged, rows):
        new = [row for row in rows(2) if (row["method"], row["gamma"]) != ("fused", "4")]
        new.append(failing(rows(2), 1)[0] | {"status": "skipped", "gamma": "4"})
        gate = judged(rows(1), new, strict=True)
        (missing,) = [v for v in gate.verdicts if v.why == ("not in the new run",)]
        assert (missing.finding.label, missing.finding.key["gamma"]) == ("fused", "4")
        assert gate.exit_code == ExitCode.INCONCLUSIVE

    @pytest.mark.parametrize(
        ("gone", "figures"),
        [
            (
                {"method": "baseline", "gamma": "4"},
                ["verify_us / baseline", "tokens_per_s / baseline"],
            ),
            ({"gamma": "0"}, ["speedup / γ = 0"]),
        ],
    )
    def test_what_a_method_was_held_against_is_gone(self, judged, rows, gone, figures):
        new = [row for row in rows(2) if any(row[name] != value for name, value in gone.items())]
        gate = judged(rows(1), new)
        over = figures[0].split(" / ")[1]
        for figure in figures:
            for gamma in ("4", "all"):
                (found,) = [
                    v
                    for v in gate.verdicts
                    if (v.finding.label, v.finding.key["gamma"], v.finding.figure)
                    == ("fused", gamma, figure)
                ]
                assert found.why == (f"the new run has no figures of {over}",)
        assert gate.decision == UNDECIDED
        back = judged(new, rows(1))
        assert not any("no figures of" in why for v in back.verdicts for why in v.why)

    @pytest.mark.parametrize("method", ["fused", "baseline"])
    def test_times_that_were_not_measured(self, judged, rows, method):
        new = changed(
            rows(2), step_verify_us=lambda r: None if r["method"] == method else r["step_verify_us"]
        )
        found = by_figure(judged(rows(1), new))
        assert found["fused", "4", "verify_us / baseline"] == "inconclusive"

    def test_times_that_a_part_of_the_run_lacks(self, judged, rows):
        new = changed(
            rows(2),
            step_verify_us=lambda r: None if r["sample_id"] == "s1" else r["step_verify_us"],
        )
        found = by_figure(judged(rows(1), new))
        assert found["fused", "4", "verify_us / baseline"] == "inconclusive"

    @pytest.mark.parametrize("column", ["metric_value", "metric_weight"])
    @pytest.mark.parametrize("value", [None, math.nan])
    def test_quality_that_is_not_known(self, judged, rows, column, value):
        new = changed(rows(2), **{column: lambda r: value if r["sample_id"] == "s1" else r[column]})
        gate = judged(rows(1), new)
        quality = {v.verdict for v in gate.verdicts if v.finding.metric.name == "quality"}
        assert quality == {"inconclusive"}

    def test_quality_that_the_new_run_does_not_have(self, judged, rows):
        new = changed(rows(2), metric=None, metric_value=None, metric_weight=None)
        gate = judged(rows(1), new)
        quality = [v for v in gate.verdicts if v.finding.metric.name == "quality"]
        assert {v.verdict for v in quality} == {"inconclusive"}
        other = judged(rows(1), changed(rows(2), metric="bleu"))
        assert ("metric rouge1 / bleu",) in {v.why for v in other.verdicts}

    def test_tokens_that_were_not_counted(self, judged, rows):
        new = changed(
            rows(2), new_tokens=lambda r: None if r["sample_id"] == "s1" else r["new_tokens"]
        )
        found = by_figure(judged(rows(1), new))
        assert (
            found["fused", "4", "speedup / γ = 0"] == found["fused", "4", "tau"] == "inconclusive"
        )

    @pytest.mark.parametrize(
        "columns",
        [
            {"seed": 1},
            {"sample_id": lambda row: f"x{row['sample_id']}"},
            {"repeat": lambda row: row["repeat"] + 5},
        ],
    )
    def test_no_sequence_in_common_is_nothing_to_compare(self, judged, rows, columns):
        with pytest.raises(NotComparableError, match="no figure in common") as error:
            judged(rows(1), changed(rows(2), **columns))
        assert "the same seed, samples and repeats" in error.value.hint

    def test_times_that_jump_between_repeats(self, judged, rows):
        def jump(row):
            factor = 1.2 if row["repeat"] % 2 and row["method"] == "fused" else 1.0
            return [factor * us for us in row["step_verify_us"]]

        jumpy = changed(rows(2), step_verify_us=jump)
        gate = judged(rows(1), jumpy)
        whys = {v.why for v in gate.verdicts if v.finding.label == "fused"}
        assert ("spread over 10% between repeats",) in whys

    def test_a_regression_that_makes_a_method_unsteady_is_slower(self, judged, rows):
        def times(low, step):
            return lambda r: [
                us * (low + step * r["repeat"] if r["method"] == "fused" else 1.0)
                for us in r["step_verify_us"]
            ]

        new = changed(rows(2), step_verify_us=times(2.6, 0.2))
        gate = judged(rows(1), new)
        found = {
            v for key, v in by_figure(gate).items() if key[0] == "fused" and "verify" in key[2]
        }
        assert (gate.decision, found) == (FAILED, {"slower"})
        back = judged(new, rows(1))
        whys = {
            v.why
            for v in back.verdicts
            if v.finding.label == "fused" and "verify" in v.finding.figure
        }
        assert whys == {("spread over 10% between repeats",)}

    def test_other_processes_where_a_file_names_them(self, write_run, rows):
        old, new = (read_run(write_run(rows(day))) for day in (1, 2))
        new.metadata["foreign_processes"] = ["python (pid 7)"]
        gate = gate_runs(old, [new], ALL)
        times = {v.verdict for v in gate.verdicts if v.finding.metric.gate == "slower"}
        assert times == {"inconclusive"}
        fresh = read_run(write_run(rows(2)))
        fresh.rows["foreign_processes"] = [["python (pid 7)"]] * len(fresh.rows)
        assert gate_runs(old, [fresh], ALL).decision == UNDECIDED


def failing(rows, number):
    """The first so many sequences of fused at γ = 4 fail."""
    hit = [row for row in rows if (row["method"], row["gamma"]) == ("fused", "4")][:number]
    return [
        row | ({"status": "failed", "error": "out of memory"} if row in hit else {}) for row in rows
    ]


def of_fused_at_4(gate):
    return [v for v in gate.verdicts if (v.finding.label, v.finding.key["gamma"]) == ("fused", "4")]


class TestFailedCases:
    @pytest.mark.parametrize(
        ("before", "now", "why"),
        [
            (0, 1, "1 of 20 sequences failed: out of memory"),
            (0, 20, "all 20 sequences failed: out of memory"),
            (1, 8, "8 of 20 sequences failed (in the reference 1 of 20): out of memory"),
            (10, 18, "18 of 20 sequences failed (in the reference 10 of 20): out of memory"),
            (15, 20, "all 20 sequences failed (in the reference 15 of 20): out of memory"),
        ],
    )
    @pytest.mark.parametrize("gates", [GATES, ["quality"]])
    def test_fail_the_gate_whatever_fail_on_names(self, judged, rows, before, now, why, gates):
        rules = Rules(frozenset(gates))
        gate = judged(failing(rows(1), before), failing(rows(2), now), rules)
        (found,) = [v for v in gate.verdicts if v.fails]
        assert gate.verdicts[0] is found
        assert (found.verdict, found.why) == ("failed", (why,))
        assert found.reason == f"failed: {why}"
        assert (gate.decision, gate.exit_code) == (FAILED, ExitCode.REGRESSION)
        assert gate.sentence.startswith(f"gate failed: fused at γ = 4: {why} (")
        others = {v.verdict for v in of_fused_at_4(gate) if v is not found}
        assert others <= ({"same"} if now == 1 else {"inconclusive"})  # 19 of 20 are left to judge

    @pytest.mark.parametrize(
        ("before", "now"), [(1, 0), (1, 1), (1, 2), (1, 3), (3, 4), (12, 15), (20, 20), (20, 1)]
    )
    def test_as_many_as_before_fail_nothing(self, judged, rows, before, now):
        gate = judged(failing(rows(1), before), failing(rows(2), now))
        assert gate.decision in {PASSED, UNDECIDED}

    def test_a_case_of_which_nearly_all_is_there_is_judged(self, judged, rows):
        old = failing(rows(1), 1)
        assert {v.verdict for v in of_fused_at_4(judged(old, failing(rows(2), 1)))} == {"same"}
        gate = judged(old, failing(rows(2, slowdown=0.10), 1))
        assert ("fused", "4", "verify_us / baseline") in {
            key for key, verdict in by_figure(gate).items() if verdict == "slower"
        }
        assert any(
            note == "1 of 20 sequences of fused at γ = 4 failed, in the reference 1 of 20"
            for note in gate.notes
        )

    def test_of_a_new_case_that_fails_the_error_is_told(self, judged, rows):
        old = [row for row in rows(1) if (row["method"], row["gamma"]) != ("fused", "4")]
        gate = judged(old, failing(rows(2), 20))
        (alone,) = gate.alone
        assert (alone["label"], alone["gamma"], alone["error"]) == ("fused", "4", "out of memory")
        (note,) = [note for note in gate.notes if "failed" in note]
        assert note == (
            "20 of 20 sequences of fused at γ = 4 failed, which the reference lacks: out of memory"
        )
        assert gate.decision == PASSED
        assert judged(old, rows(2)).alone[0]["error"] is None

    def test_a_pair_that_could_not_be_loaded_fails_the_gate(self, judged, rows):
        """Its rows have the dtype that was asked for: what "auto" comes to, only loading tells."""
        one = next(row for row in rows(2) if (row["method"], row["gamma"]) == ("fused", "4"))
        lost = one | {"status": "failed", "error": "no such file", "dtype": "auto"}
        rest = [row for row in rows(2) if row["case_id"] != one["case_id"]]
        gate = judged(rows(1), [*rest, lost])
        (found,) = [v for v in gate.verdicts if v.fails]
        assert (found.verdict, found.why) == ("failed", ("all 1 sequences failed: no such file",))
        assert gate.exit_code == ExitCode.REGRESSION
        assert not gate.alone
        assert not [note for note in gate.notes if "which the reference lacks" in note]

    def test_a_case_of_another_dtype_is_another_case(self, judged, rows):
        other = changed(rows(2), dtype="bfloat16")
        gate = judged(rows(1), [*rows(2), *failing(other, 20)])
        assert gate.decision == PASSED

    def test_a_run_that_failed_as_a_whole_fails_the_gate(self, judged, rows):
        new = changed(rows(2), status="failed", error="no kernel")
        gate = judged(rows(1), new)
        assert {v.verdict for v in gate.verdicts} == {"failed"}
        assert gate.exit_code == ExitCode.REGRESSION

    def test_without_a_gate_they_are_named_and_fail_nothing(self, judged, rows):
        gate = judged(rows(1), failing(rows(2), 20), Rules())
        assert gate.verdicts[0].verdict == "failed"
        assert not any(v.fails or v.finding.gates for v in gate.verdicts)


class TestAbsolute:
    rules = Rules(frozenset(GATES), absolute=True)

    def figures(self, gate):
        return [
            v for v in gate.verdicts if not v.finding.over and v.finding.metric.gate == "slower"
        ]

    def test_nothing_of_the_kind_unless_asked(self, judged, rows):
        assert self.figures(judged(rows(1), rows(2))) == []

    def test_on_the_same_machine(self, judged, simulation, write_run):
        still = simulation.Machine(**dict.fromkeys(vars(simulation.Machine()), 0.001))
        design = simulation.Design(machine=still)
        old, new = (
            simulation.simulated_rows(design, np.random.default_rng(day), 0.0, 0, 0)
            for day in (1, 2)
        )
        assert {v.verdict for v in self.figures(judged(old, new, self.rules))} == {"same"}
        slow = {v.verdict for v in self.figures(judged(old, scaled(new, 1.1), self.rules))}
        assert slow == {"slower"}

    @pytest.mark.parametrize(
        ("metadata", "why"),
        [
            ({"driver": "581"}, "another driver (580 / 581)"),
            ({"driver": None}, "a file does not say its driver"),
            ({"clocks": {"sm_max_mhz": 1500}}, "another clocks"),
            ({"device_name": "A100"}, "another device name (simulated / A100)"),
        ],
    )
    def test_on_another_one(self, write_run, rows, metadata, why):
        old = read_run(write_run(rows(1), **MACHINE))
        new = read_run(write_run(rows(2), **(MACHINE | metadata)))
        found = self.figures(gate_runs(old, [new], self.rules))
        assert {v.verdict for v in found} == {"inconclusive"}
        assert all(any(why in one for one in v.why) for v in found)

    def test_at_other_clocks(self, judged, rows):
        old, new = (
            changed(rows(day), nvml_sm_clock_mhz=[clock] * 3)
            for day, clock in ((1, 1980.0), (2, 1500.0))
        )
        found = self.figures(judged(old, new, self.rules))
        assert all("the GPU ran at 1500 MHz, in the reference at 1980" in v.why for v in found)

    @pytest.mark.parametrize("known", [0, 1])
    def test_clocks_that_one_run_alone_knows(self, judged, rows, known):
        runs = [rows(1), rows(2)]
        runs[known] = changed(runs[known], nvml_sm_clock_mhz=[1980.0] * 3)
        found = self.figures(judged(*runs, self.rules))
        assert all("one file alone says at what clock the GPU ran" in v.why for v in found)


class TestPowerLimit:
    """Being at its power limit under load is a large card's normal state: the clocks say what it did."""

    absolute = Rules(frozenset(GATES), absolute=True)

    @staticmethod
    def capped(rows, clocks, reason="sw_power_cap"):
        """Each case's clock by γ and method, or by γ alone."""

        def clock(row):
            own = clocks.get((row["method"], row["gamma"]), clocks.get(row["gamma"], 1900.0))
            return own if own is None else [own - 90.0, own + 90.0]

        return changed(rows, throttle_reasons=[reason], nvml_sm_clock_mhz=clock)

    def verdict(self, gate, figure="verify_us / baseline", method="fused", gamma="4"):
        (found,) = [
            v
            for v in gate.verdicts
            if (v.finding.label, v.finding.key["gamma"], v.finding.figure)
            == (method, gamma, figure)
        ]
        return found

    def test_the_same_clocks_in_both_runs_decide(self, judged, rows):
        clocks = {"0": 1800.0, ("fused", "4"): 1700.0}
        same = judged(self.capped(rows(1), clocks), self.capped(rows(2), clocks))
        assert same.decision == PASSED
        slow = self.capped(rows(2, slowdown=0.10), clocks)
        assert judged(self.capped(rows(1), clocks), slow).decision == FAILED

    def test_a_card_that_is_slower_throughout_taints_times_and_no_ratio(self, judged, rows):
        half = dict.fromkeys(("0", "4", "8"), 950.0)
        gate = judged(self.capped(rows(1), {}), self.capped(rows(2), half), self.absolute)
        assert self.verdict(gate).verdict == "same"
        assert self.verdict(gate, "verify_us").why == (
            "the GPU ran at 950 MHz, in the reference at 1900",
        )

    @pytest.mark.parametrize("case", [("fused", "4"), ("baseline", "4")])
    @pytest.mark.parametrize("side", [0, 1])
    def test_another_ratio_of_clocks_is_undecided(self, judged, rows, case, side):
        clocks = [{}, {}]
        clocks[side] = {case: 1805.0}
        runs = [self.capped(rows(day), here) for day, here in zip((1, 2), clocks, strict=True)]
        gate = judged(*runs)
        for gamma in ("4", "all"):
            found = self.verdict(gate, gamma=gamma)
            assert found.verdict == "inconclusive"
            assert found.why[0].startswith(
                "GPU slowed down (sw_power_cap): its clock over that of "
            )
        assert self.verdict(gate, gamma="8").verdict == "same"

    @pytest.mark.parametrize("case", [("fused", "4"), ("baseline", "4")])
    def test_clocks_that_were_not_sampled_taint(self, judged, rows, case):
        gate = judged(self.capped(rows(1), {}), self.capped(rows(2), {case: None}))
        assert self.verdict(gate).why == ("GPU slowed down (sw_power_cap)",)

    def test_clocks_that_were_not_sampled_taint_times_too(self, judged, rows):
        none = dict.fromkeys(("0", "4", "8"))
        gate = judged(*(self.capped(rows(day), none) for day in (1, 2)), self.absolute)
        assert "GPU slowed down (sw_power_cap)" in self.verdict(gate, "verify_us").why

    @pytest.mark.parametrize(
        "reason", ["sw_thermal_slowdown", "hw_slowdown", "hw_power_brake_slowdown", "unknown_0x200"]
    )
    def test_other_reasons_taint_whatever_the_clocks(self, judged, rows, reason):
        gate = judged(self.capped(rows(1), {}), self.capped(rows(2), {}, reason))
        assert self.verdict(gate).why == (f"GPU slowed down ({reason})",)

    @pytest.mark.parametrize("name", ["bass-h100", "attention-h100"])
    def test_a_real_card_at_its_limit_is_no_doubt_in_itself(self, name):
        path = Path(__file__).parents[2] / "results" / "reference" / f"{name}.parquet"
        old, new = read_run(path), read_run(path)
        assert any("sw_power_cap" in reasons for reasons in new.rows["throttle_reasons"])
        new.metadata["run_id"] = "again"
        gate = gate_runs(old, [new], self.absolute)
        assert not [why for v in gate.verdicts for why in v.why if "slowed down" in why]

    @pytest.mark.parametrize("clock", [1600.0, None])
    def test_in_turns_a_build_that_draws_more_power_is_slower(self, judged, rows, clock):
        old = self.capped(rows(1), {})
        new = self.capped(rows(2, slowdown=0.10), {("fused", "4"): clock, ("fused", "8"): clock})
        gate = judged(old, new, **{INTERLEAVED: "ab"})
        assert self.verdict(gate).verdict == "slower"
        assert judged(old, new).decision == UNDECIDED

    def test_in_turns_times_of_another_clock_count(self, judged, rows):
        old = self.capped(rows(1), {})
        new = self.capped(scaled(rows(2), 1.2), dict.fromkeys(("0", "4", "8"), 1500.0))
        found = self.verdict(judged(old, new, self.absolute, **{INTERLEAVED: "ab"}), "verify_us")
        assert found.finding.doubts == ()

    @pytest.mark.parametrize("clock", [1862.4, 1938.4])  # 1/1.0202 and 1.0202 of 1900 MHz
    def test_clocks_are_held_apart_the_same_both_ways(self, judged, rows, clock):
        runs = [self.capped(rows(1), {}), self.capped(rows(2), {("fused", "4"): clock})]
        there, back = (self.verdict(judged(*order)).verdict for order in (runs, runs[::-1]))
        assert there == back == "inconclusive"

    @pytest.mark.parametrize("clock", [1600.0, None])
    def test_within_a_run_who_draws_more_power_is_slower(self, write_run, rows, clock):
        run = read_run(write_run(self.capped(rows(1), {("fused", "4"): clock})))
        assert not any(v.finding.doubts for v in methods_against_baseline(run))


class TestComparable:
    def test_the_same_run_twice_is_refused(self, write_run, rows):
        run = read_run(write_run(rows(1, repeats=1)))
        with pytest.raises(InputError, match="is the same run as the baseline"):
            gate_runs(run, [run], ALL)
        other = read_run(write_run(rows(2, repeats=1)))
        with pytest.raises(InputError, match="is given twice"):
            gate_runs(run, [other, other], ALL)

    def test_nothing_in_common_says_what_differs(self, judged, rows):
        old = rows(1, repeats=1)
        with pytest.raises(NotComparableError, match="no figure in common") as error:
            judged(old, changed(old, dtype="bfloat16"))
        assert "dtype (float16 / bfloat16)" in error.value.hint

    def test_new_cases_are_listed(self, judged, rows):
        old = [row for row in rows(1) if row["gamma"] != "8"]
        gate = judged(old, rows(2))
        assert {(case["label"], case["gamma"]) for case in gate.alone} == {
            (method, "8") for method in ("baseline", "fused", "block")
        }

    def test_several_runs_share_one_correction(self, write_run, rows):
        old, *new = (read_run(write_run(rows(day))) for day in (1, 2, 3))
        gate = gate_runs(old, new, ALL)
        assert {v.finding.run_id for v in gate.verdicts} == {run.run_id for run in new}
        alone = gate_runs(old, new[:1], ALL)
        assert max(v.tests for v in gate.verdicts) == 2 * max(v.tests for v in alone.verdicts)

    def test_the_order_of_rows_does_not_matter(self, judged, rows):
        old, new = rows(1), rows(2, slowdown=0.05)
        shuffled = [new[i] for i in np.random.default_rng(0).permutation(len(new))]
        once, again = judged(old, new), judged(old, shuffled)
        for one, other in zip(once.verdicts, again.verdicts, strict=True):
            assert other.reason == one.reason

    def test_a_run_that_was_cut_off_loses_its_last_repeat(self, judged, rows):
        new = [row for row in rows(2) if row["repeat"] < 4 or row["sample_id"] == "s0"]
        gate = judged(rows(1), new)
        assert {v.finding.estimate.repeats for v in gate.verdicts if v.finding.over} == {4}
        assert gate.decision == PASSED

    def test_batches_are_paired_by_what_is_in_them(self, judged, rows):
        def in_batches(rows, places):
            where = {f"s{i}": place for i, place in enumerate(places)}
            return changed(rows, batch_size=2, batch_index=lambda r: where[r["sample_id"]])

        same = judged(in_batches(rows(1), [0, 0, 1, 1]), in_batches(rows(2), [1, 1, 0, 0]))
        assert {v.finding.estimate.samples for v in same.verdicts if v.finding.over} == {2}
        other = judged(in_batches(rows(1), [0, 0, 1, 2]), in_batches(rows(2), [0, 0, 1, 1]))
        assert {v.finding.estimate.samples for v in other.verdicts if v.finding.over} == {1}


class TestWithinARun:
    def test_a_faster_method_is_called_faster(self, write_run, rows):
        found = methods_against_baseline(read_run(write_run(rows(1))))
        (fused,) = [
            v
            for v in found
            if (v.finding.label, v.finding.key["gamma"]) == ("fused", "4")
            and v.finding.figure == "verify_us / baseline"
        ]
        assert fused.verdict == "faster"
        assert fused.change == pytest.approx(11 / 105 - 1, abs=0.01)
        assert not any(v.finding.gates for v in found)

    def test_without_repeats_nothing_is_certain(self, write_run, rows):
        found = methods_against_baseline(read_run(write_run(rows(1, repeats=1))))
        assert {v.verdict for v in found} == {"inconclusive"}


def test_step_medians_leave_out_what_verified_nothing():
    lists = np.array([None, [], [0.0, 3.0, 1.0], [2.0, 4.0], [0.0]], dtype=object)
    expected = [math.nan, math.nan, 2.0, 3.0, math.nan]
    assert step_medians(lists) == pytest.approx(expected, nan_ok=True)


def test_a_large_file_takes_seconds(write_run, simulation):
    """54,400 rows a file: some 3 s on a core of its own, and a core is rarely that here."""
    design = simulation.Design(repeats=5, samples=680)
    frames = []
    for day in (1, 2):
        small = simulation.simulated_rows(
            simulation.Design(repeats=5, samples=17), np.random.default_rng(day), 0.0, 0, 0
        )
        run = read_run(write_run(small, **MACHINE))
        copies = [
            run.rows.assign(
                sample_id=run.rows["sample_id"] + f"-{i}",
                batch_index=run.rows["batch_index"] + 17 * i,
            )
            for i in range(design.samples // 17)
        ]
        frames.append(type(run)(run.path, run.metadata, pd.concat(copies, ignore_index=True)))
    assert len(frames[0].rows) == 54_400
    begin = time.perf_counter()
    gate = gate_runs(frames[0], [frames[1]], ALL)
    assert time.perf_counter() - begin < 30
    assert gate.decision != FAILED
