from __future__ import annotations

import math

import pytest

from specbench.errors import ExitCode, NotComparableError
from specbench.report.compare import across, compare_runs, gamma_order, within
from specbench.report.reader import read_run


@pytest.fixture
def run_of(write_run):
    def run(rows, **metadata):
        return read_run(write_run(rows, **metadata))

    return run


def cases(lines):
    return {(line["method"], line["gamma"]): line for line in lines.to_dict("records")}


def test_methods_against_baseline_at_the_same_gamma(run_of, demo):
    (group,) = within(run_of(demo())).groups
    fused = cases(group.lines)["fused", "2"]
    assert fused["verify_us_delta"] == pytest.approx(-0.5)  # 100 against 200 µs
    assert fused["tokens_per_s_delta"] == pytest.approx(0.6)  # 0.5 against 0.8 s
    assert fused["tau_delta"] == fused["alpha_delta"] == 0
    assert fused["speedup"] == pytest.approx(2.0)  # 0.5 against 1 s of plain decoding
    assert cases(group.lines)["sigmoid", "2"]["quality_delta"] == pytest.approx(-0.3)
    assert cases(group.lines)["baseline", "2"]["verify_us_delta"] == 0


def test_a_gamma_without_baseline_has_no_delta(run_of, demo, row):
    lines = within(run_of([*demo(), row(gamma="8")])).groups[0].lines
    assert math.isnan(cases(lines)["fused", "8"]["verify_us_delta"])
    assert math.isnan(cases(lines)["fused", "8"]["quality_delta"])


def test_exactness_comes_from_the_file_and_may_be_unknown(run_of, demo, row):
    lines = within(run_of([*demo(), row(method="mine")])).groups[0].lines
    marks = {line["method"]: line["exact"] for line in lines.to_dict("records")}
    assert marks == {"baseline": True, "sigmoid": False, "fused": True, "mine": None}


@pytest.mark.parametrize("methods", [None, {}, {"fused": None}])
def test_a_file_that_does_not_list_its_methods(run_of, row, methods):
    lines = within(run_of([row()], methods=methods)).groups[0].lines
    assert lines["exact"].tolist() == [None]


def test_groups_never_mix(run_of, row):
    rows = [row(batch_size=1), row(batch_size=8), row(batch_size=8, temperature=0.0)]
    groups = within(run_of(rows)).groups
    keys = [(group.key["batch_size"], group.key["temperature"]) for group in groups]
    assert keys == [(1, 1.0), (8, 1.0), (8, 0.0)]


def test_lines_are_sorted_by_gamma_then_method(run_of, row):
    names = [("block", "8"), ("fused", "16"), ("mine", "2"), ("fused", "2"), ("baseline", "2")]
    names += [("fused", "heuristic"), ("fused", "bass")]
    rows = [row(method=method, gamma=gamma) for method, gamma in names]
    lines = within(run_of(rows)).groups[0].lines
    assert list(zip(lines["method"], lines["gamma"], strict=True)) == [
        *[("baseline", "2"), ("fused", "2"), ("mine", "2"), ("block", "8"), ("fused", "16")],
        *[("fused", "bass"), ("fused", "heuristic")],
    ]


def test_gamma_order():
    assert sorted(["10", "bass", "9", "0"], key=gamma_order) == ["0", "9", "10", "bass"]


def test_several_ranges_of_sigmoid_are_told_apart(run_of, row):
    bounds = [(-10.0, 10.0), (-1e4, 1e4), (0.0, 5.0)]
    rows = [row(method="sigmoid", sigmoid_alpha=low, sigmoid_beta=high) for low, high in bounds]
    labels = within(run_of([*rows, row()])).groups[0].lines["label"].tolist()
    assert labels == ["sigmoid ±10", "sigmoid ±10000", "sigmoid 0,5", "fused"]
    assert within(run_of([rows[0]])).groups[0].lines["label"].tolist() == ["sigmoid"]


@pytest.mark.parametrize("status", ["failed", "skipped"])
def test_a_run_with_nothing_finished(run_of, row, status):
    run = run_of([row(status=status, error="out of memory")])
    with pytest.raises(NotComparableError, match="no case finished") as error:
        compare_runs([run])
    assert "out of memory" in error.value.hint
    assert error.value.exit_code == ExitCode.NOT_COMPARABLE


def test_run_against_run(run_of, row, plain):
    old = run_of([plain(), row()], run_id="0000000a")
    new = run_of(
        [plain(), row(wall_s=0.4, step_verify_us=[80.0] * 4, new_tokens=8, metric_value=0.6)],
        run_id="0000000b",
    )
    line = cases(across([within(old), within(new)]).lines)["fused", "2"]
    assert (line["reference_run"], line["run_id"]) == ("0000000a", "0000000b")
    assert line["verify_us_ratio"] == pytest.approx(0.8)
    assert line["tau_ratio"] == pytest.approx(0.8)
    assert line["tokens_per_s_ratio"] == pytest.approx(1.0)
    assert line["speedup_ratio"] == pytest.approx(1.0)
    assert line["quality_delta"] == pytest.approx(0.1)


def test_cases_in_one_run_only_are_listed(run_of, row):
    old = run_of([row(), row(method="block")])
    new = run_of([row(), row(gamma="8")])
    found = across([within(old), within(new)])
    assert list(cases(found.lines)) == [("fused", "2")]
    assert set(cases(found.alone)) == {("block", "2"), ("fused", "8")}


def test_the_first_run_that_has_a_case_is_its_reference(run_of, row):
    runs = [run_of([row(method=m) for m in methods]) for methods in ["a", "ab", "b"]]
    lines = across([within(run) for run in runs]).lines
    references = dict(zip(lines["method"], lines["reference_run"], strict=True))
    assert references == {"a": runs[0].run_id, "b": runs[1].run_id}


def test_a_failed_case_is_no_case_to_compare(run_of, row):
    old, new = run_of([row(), row(method="block")]), run_of([row(), row(method="block")])
    new.rows.loc[1, "status"] = "failed"
    found = across([within(old), within(new)])
    assert [line["method"] for line in found.lines.to_dict("records")] == ["fused"]
    assert found.alone["run_id"].tolist() == [old.run_id]


def test_nothing_in_common_says_what_differs(run_of, row):
    runs = [run_of([row(batch_size=1)]), run_of([row(batch_size=8)])]
    comparison = compare_runs(runs)
    assert comparison.across is None
    assert len(comparison.withins) == 2
    assert comparison.failure.exit_code == ExitCode.NOT_COMPARABLE
    assert "batch_size (1 / 8)" in comparison.failure.hint


@pytest.mark.parametrize(
    ("change", "metadata", "words"),
    [
        ({"device_name": "H100"}, {}, "differ in device (cpu / H100)"),
        ({}, {"driver": "580.1"}, "differ in driver (None / 580.1)"),
        ({"implementation": "cuda"}, {}, "differ in implementation (torch / cuda)"),
    ],
)
def test_different_machines_are_noted(run_of, row, change, metadata, words):
    runs = [run_of([row()]), run_of([row(**change)], **metadata)]
    (note,) = compare_runs(runs).across.notes
    assert words in note
    assert "absolute times are not comparable" in note


def test_the_same_machine_needs_no_note(run_of, row):
    assert compare_runs([run_of([row()]), run_of([row()])]).across.notes == []


def test_a_copy_of_a_run_is_left_out(write_run, row, tmp_path):
    path = write_run([row()])
    copy = tmp_path / "copy.parquet"
    copy.write_bytes(path.read_bytes())
    comparison = compare_runs([read_run(path), read_run(copy)])
    assert len(comparison.withins) == 1
    assert "is the same run as" in comparison.notes[0]


def test_a_run_with_nothing_finished_among_others_is_noted(run_of, row):
    comparison = compare_runs([run_of([row()]), run_of([row(status="failed")])])
    assert len(comparison.withins) == 1
    assert "no case finished" in comparison.notes[0]
    assert comparison.failure is None
