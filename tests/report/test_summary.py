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
    assert line["verify_share"] == pytest.approx(8e-4 / 0.75)


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


def batch(row, *sequences, **changed):
    """Rows of one batch: the changes of each sequence."""
    size = {"batch_size": len(sequences)}
    return [
        row(**(size | {"sample_id": f"s{i}"} | changed | one)) for i, one in enumerate(sequences)
    ]


def test_a_batch_says_itself_how_long_it_took(summary_of, row):
    """Under refill no sequence was there from beginning to end."""
    rows = batch(row, {"wall_s": 0.3}, {"wall_s": 0.5, "start_s": 0.3}, batch_wall_s=0.8)
    line = summary_of(rows)["fused", "2"]
    assert line["wall_s"] == 0.8
    assert line["tokens_per_s"] == 25


def test_latency_of_a_batch(summary_of, row):
    first = batch(row, {"wall_s": 0.2}, {"wall_s": 0.4, "new_tokens": 20}, batch_wall_s=0.4)
    second = batch(row, {"wall_s": 0.6}, {"wall_s": 0.5}, batch_index=1, batch_wall_s=0.6)
    line = summary_of([*first, *second])["fused", "2"]
    assert line["ptl_s"] == pytest.approx((0.02 + 0.02 + 0.06 + 0.05) / 4)
    assert line["ptl_first_s"] == pytest.approx((0.02 + 0.05) / 2)
    assert line["ptl_last_s"] == pytest.approx((0.02 + 0.06) / 2)


def test_who_finishes_first_may_have_begun_last(summary_of, row):
    rows = batch(row, {"wall_s": 0.9}, {"wall_s": 0.1, "start_s": 0.5}, batch_wall_s=0.9)
    line = summary_of(rows)["fused", "2"]
    assert (line["ptl_first_s"], line["ptl_last_s"]) == (0.01, 0.09)


def test_a_sequence_alone_finishes_first_and_last(summary_of, row):
    line = summary_of([row(), row(batch_index=1, wall_s=1.0)])["fused", "2"]
    assert line["ptl_s"] == line["ptl_first_s"] == line["ptl_last_s"] == pytest.approx(0.075)


def test_latency_against_plain_decoding(summary_of, row, plain):
    lines = summary_of([plain(), plain(repeat=1, wall_s=3.0), row()])
    assert lines["fused", "2"]["ptl_speedup"] == pytest.approx(0.2 / 0.05)
    assert lines["baseline", "0"]["ptl_speedup"] == 1


@pytest.mark.parametrize(
    ("plain_sort", "sort"),
    [
        ({"execution": "eager"}, {"execution": "graphs"}),
        ({"attention": "pad"}, {"attention": "split"}),
        ({"load_format": "auto"}, {"load_format": "dummy"}),
        ({"refill": False}, {"refill": True}),
        ({"synthetic_acceptance": None}, {"synthetic_acceptance": 0.8}),
        ({"prompt_lengths": "128"}, {"prompt_lengths": "2048"}),
        ({"batch_size": 1}, {"batch_size": 2}),
    ],
)
def test_only_its_own_sort_of_plain_decoding_is_a_reference(
    summary_of, row, plain, plain_sort, sort
):
    apart = summary_of([plain(**plain_sort), row(**sort)])["fused", "2"]
    assert math.isnan(apart["speedup"])
    assert math.isnan(apart["ptl_speedup"])
    together = summary_of([plain(**sort), row(**sort)])["fused", "2"]
    assert (together["speedup"], together["ptl_speedup"]) == (2, pytest.approx(2))


def test_host_gap_and_utilisation_are_the_batches(summary_of, row):
    """Each row of a batch repeats them: they count once, by the batch's time."""
    rows = [
        *batch(row, {}, {}, batch_wall_s=1.0, host_gap_s=0.5, mfu=0.1),
        *batch(row, {}, {}, batch_index=1, batch_wall_s=3.0, host_gap_s=0.3, mfu=0.3),
    ]
    line = summary_of(rows)["fused", "2"]
    assert line["host_gap_share"] == pytest.approx(0.8 / 4)
    assert line["mfu"] == pytest.approx((0.1 * 1 + 0.3 * 3) / 4)


def test_what_a_cpu_cannot_tell_is_no_zero(summary_of, row):
    line = summary_of([row(batch_wall_s=0.5, host_gap_s=None, mfu=None)])["fused", "2"]
    assert math.isnan(line["host_gap_share"])
    assert math.isnan(line["mfu"])


def test_text_by_dice_has_no_quality(summary_of, row):
    line = summary_of([row(synthetic_acceptance=0.8)])["fused", "2"]
    assert math.isnan(line["quality"])
    assert line["alpha"] == 0.75


def within_budget(write_run, rows, budget):
    (line,) = summarise(load_results(write_run(rows)), budget).to_dict("records")
    return line["budget_tokens"]


@pytest.mark.parametrize(("budget", "tokens"), [(0.05, 0), (0.2, 6), (1.0, 9.5), (None, math.nan)])
def test_tokens_within_a_budget(write_run, row, budget, tokens):
    ends = {"step_end_s": [0.1, 0.2, 0.3, 0.4]}
    rows = [row(**ends), row(sample_id="s1", new_tokens=9, **ends)]
    assert within_budget(write_run, rows, budget) == pytest.approx(tokens, nan_ok=True)


@pytest.mark.parametrize(("refill", "tokens"), [(True, 6), (False, 0)])
def test_under_refill_a_sequence_has_a_budget_of_its_own(write_run, row, refill, tokens):
    late = {"start_s": 1.0, "step_end_s": [1.1, 1.2, 1.3, 1.4], "refill": refill}
    assert within_budget(write_run, [row(**late)], 0.25) == tokens


def test_a_file_without_the_ends_of_steps_has_no_tokens_within_a_budget(write_run, row):
    assert math.isnan(within_budget(write_run, [row()], 1.0))


def test_a_phase_that_no_step_had_has_no_time(summary_of, row):
    """transformers' loop verifies nothing where nothing is drafted."""
    none = row(step_verify_us=[0.0] * 4, verify_s=0.0, gamma="0", case_id="none")
    some = row(step_verify_us=[0.0, 8.0, 10.0, 0.0], verify_s=18e-6)
    lines = summary_of([none, some])
    assert math.isnan(lines["fused", "0"]["verify_us"])
    assert math.isnan(lines["fused", "0"]["verify_share"])
    assert lines["fused", "2"]["verify_us"] == 9.0


class TestEnergy:
    """Of batches of 0.8 s and 10 tokens, with a counter that moves every 0.1 s."""

    def of(self, summary_of, row, count, **columns):
        batch = {"energy_period_s": 0.1, "batch_wall_s": 0.8} | columns
        rows = [row(batch_index=i, **batch) for i in range(count)]
        return summary_of(rows)["fused", "2"]["j_per_token"]

    def test_of_batches_that_are_long_enough(self, summary_of, row):
        long = {"energy_j": 50.0, "batch_wall_s": 1.0}
        assert self.of(summary_of, row, 1, **long) == 5
        assert self.of(summary_of, row, 7, **long) == 5

    @pytest.mark.parametrize(("count", "found"), [(1, None), (2, None), (3, 3.0), (9, 3.0)])
    def test_short_batches_are_pooled_once_there_are_enough(self, summary_of, row, count, found):
        """n of them want 5 (n + √n) periods: 0.8 n ≥ 0.5 (n + √n) from n = 3 on."""
        joules = self.of(summary_of, row, count, energy_coarse_j=30.0)
        assert joules == found if found else math.isnan(joules)

    def test_very_short_batches_are_never_enough(self, summary_of, row):
        """Each lacks the energy that the counter has not shown yet, all the same way."""
        short = {"energy_coarse_j": 30.0, "batch_wall_s": 0.4}
        assert math.isnan(self.of(summary_of, row, 1000, **short))

    def test_batches_without_a_reading_count_neither_energy_nor_tokens(self, summary_of, row):
        batch = {"energy_coarse_j": 30.0, "energy_period_s": 0.1, "batch_wall_s": 0.8}
        told = [row(batch_index=i, **batch) for i in range(4)]
        assert (
            summary_of([*told, row(batch_index=9, new_tokens=1000)])["fused", "2"]["j_per_token"]
            == 3
        )

    def test_a_batch_is_as_long_as_it_was_and_its_sequences_share(self, summary_of, row):
        """Two sequences of 20 J each in a batch of 1 s."""
        both = {"batch_index": 0, "batch_size": 2, "energy_j": 20.0, "batch_wall_s": 1.0}
        rows = [row(sample_id=name, energy_period_s=0.1, **both) for name in "ab"]
        assert summary_of(rows)["fused", "2"]["j_per_token"] == 2

    def test_not_told_is_not_known(self, summary_of, row):
        assert math.isnan(summary_of([row()])["fused", "2"]["j_per_token"])
