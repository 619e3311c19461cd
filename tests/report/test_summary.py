from __future__ import annotations

import math

import pytest

from specbench.report.reader import load_results
from specbench.report.summary import keys_of, summarise


@pytest.fixture
def summary_of(write_run):
    def summary(rows):
        lines = summarise(load_results(write_run(rows)))
        return {(line["method"], line["gamma"]): line for line in lines.to_dict("records")}

    return summary


def test_counts_and_rates_of_a_case(summary_of, row):
    line = summary_of([row(), row(sample_id="s1", batch_index=1, new_tokens=5, wall_s=0.25)])
    line = line["fused", "2"]
    assert (line["sequences"], line["repeats"], line["failed"]) == (2, 1, 0)
    assert (line["new_tokens"], line["verify_steps"], line["drafted"]) == (15, 8, 16)
    assert line["tau"] == 15 / 8
    assert line["alpha"] == 12 / 16
    assert line["tokens_per_s"] == pytest.approx(15 / 0.75)
    assert (line["draft_us"], line["target_us"], line["verify_us"]) == (10, 40, 100)
    assert line["verify_share"] == pytest.approx(0.2 / 0.75)


def test_the_sequences_of_a_batch_share_its_wall_time(summary_of, row):
    batch = [row(sample_id="s0", wall_s=0.3), row(sample_id="s1", wall_s=0.5)]
    line = summary_of([one | {"batch_size": 2} for one in batch])["fused", "2"]
    assert line["wall_s"] == 0.5
    assert line["tokens_per_s"] == 40


def test_the_same_batch_index_of_another_repeat_is_another_batch(summary_of, row):
    line = summary_of([row(repeat=0), row(repeat=1)])["fused", "2"]
    assert line["wall_s"] == 1.0
    assert line["repeats"] == 2


def test_rows_without_a_batch_index_are_batches_of_their_own(summary_of, row):
    line = summary_of([row(batch_index=None), row(batch_index=None)])["fused", "2"]
    assert line["wall_s"] == 1.0


def test_failed_rows_are_counted_and_enter_no_rate(summary_of, row):
    failed = row(sample_id="s1", status="failed", error="out of memory", new_tokens=None)
    line = summary_of([row(), failed])["fused", "2"]
    assert (line["sequences"], line["failed"], line["first_error"]) == (1, 1, "out of memory")
    assert line["tokens_per_s"] == 20


def test_a_case_with_no_finished_sequence_has_no_rates(summary_of, row):
    lines = summary_of([row(), row(method="block", status="skipped", error="needs γ > 0")])
    line = lines["block", "2"]
    assert (line["sequences"], line["skipped"]) == (0, 1)
    assert all(math.isnan(line[name]) for name in ["tau", "alpha", "tokens_per_s", "speedup"])
    assert line["unsteady"] == ""


def test_speedup_is_over_all_plain_rows_of_the_group(summary_of, row, plain):
    # 20 tokens in 1 s + 0.6 s without drafting, whatever the method is called: 12.5 tokens/s.
    rows = [plain(), plain(method="fused", wall_s=0.6), row()]
    assert summary_of(rows)["fused", "2"]["speedup"] == pytest.approx(20 / 12.5)


def test_plain_rows_of_another_group_do_not_count(summary_of, row, plain):
    line = summary_of([plain(temperature=0.0), row()])["fused", "2"]
    assert math.isnan(line["speedup"])


def test_plain_rows_of_another_run_do_not_count(write_run, row, plain):
    paths = [write_run([row()]), write_run([plain(wall_s=5.0), row(method="block")])]
    lines = summarise(load_results(paths)).set_index("method")
    assert math.isnan(lines.loc["fused", "speedup"])
    assert lines.loc["block", "speedup"] == pytest.approx(10.0)


def test_plain_decoding_has_no_acceptance_rate(summary_of, plain):
    line = summary_of([plain()])["baseline", "0"]
    assert math.isnan(line["alpha"])
    assert (line["tau"], line["speedup"]) == (1, 1)


def test_quality_is_weighted(summary_of, row):
    rows = [row(metric_value=0.5, metric_weight=2), row(metric_value=0.0, metric_weight=8)]
    assert summary_of(rows)["fused", "2"]["quality"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("walls", "doubts"),
    [
        ([0.5, 0.5, 0.5], ""),
        ([0.5, 0.5], "fewer than 3 repeats"),
        ([0.5, 0.3, 0.9], "tokens/s spread over 10% between repeats"),
        ([0.5, 0.9], "fewer than 3 repeats; tokens/s spread over 10% between repeats"),
    ],
)
def test_unsteady_figures_say_why(summary_of, row, walls, doubts):
    line = summary_of([row(repeat=i, wall_s=wall) for i, wall in enumerate(walls)])["fused", "2"]
    assert line["unsteady"] == doubts


def test_ranges_of_sigmoid_are_cases_of_their_own(write_run, row):
    rows = [
        row(method="sigmoid", sigmoid_alpha=-bound, sigmoid_beta=bound) for bound in (10.0, 1e4)
    ]
    assert len(summarise(load_results(write_run(rows)))) == 2


def test_keys_write_null_as_none(write_run, row):
    lines = summarise(load_results(write_run([row()])))
    assert keys_of(lines, ["gamma", "top_k", "sigmoid_alpha"]) == [("2", None, None)]
