"""pass@k, Pass@First and Pass@All: against enumeration, and on rows made by hand."""

from __future__ import annotations

import io
import itertools
import math

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from specbench.report import stats
from specbench.report.captions import group_title
from specbench.report.compare import within
from specbench.report.reader import load_results, read_run
from specbench.report.render import render_run
from specbench.report.schema import SCHEMA_VERSION
from specbench.report.summary import summarise


class TestPassAtK:
    def test_against_every_choice_of_k(self):
        for completions in range(1, 8):
            for passed in range(completions + 1):
                results = [i < passed for i in range(completions)]
                for k in range(1, completions + 1):
                    chosen = list(itertools.combinations(results, k))
                    expected = sum(map(any, chosen)) / len(chosen)
                    found = stats.pass_at_k(completions, passed, k)
                    assert found == pytest.approx(expected, abs=1e-12)

    @given(st.integers(1, 2000), st.data())
    def test_against_binomials(self, completions, data):
        passed = data.draw(st.integers(0, completions))
        k = data.draw(st.integers(1, completions))
        expected = 1 - math.comb(completions - passed, k) / math.comb(completions, k)
        assert stats.pass_at_k(completions, passed, k) == pytest.approx(expected, abs=1e-9)

    def test_of_one_it_is_the_share_that_passes(self):
        assert stats.pass_at_k(200, 37, 1) == pytest.approx(37 / 200)

    def test_the_naive_estimate_is_another(self):
        """1 − (1 − p)^k is biased: section 2.1 of 2107.03374."""
        assert stats.pass_at_k(4, 1, 2) == pytest.approx(0.5)
        naive = 1 - (1 - 1 / 4) ** 2
        assert naive == pytest.approx(0.4375)

    @pytest.mark.parametrize("k", [-1, 0, 5])
    def test_of_more_than_there_are_it_is_unknown(self, k):
        assert math.isnan(stats.pass_at_k(4, 2, k))


class TestTokenEnd:
    @pytest.mark.parametrize(("token", "end"), [(1, 1.0), (3, 1.0), (4, 2.0), (5, 3.0), (6, 3.0)])
    def test_is_its_steps(self, token, end):
        # 3 + 1 + 3 tokens, of which the last step's end token cut one off.
        assert stats.token_end_s(token, [1.0, 2.0, 3.0], [2, 0, 2], 6) == end

    @pytest.mark.parametrize("token", [0, 7, math.nan])
    def test_of_no_such_token_is_unknown(self, token):
        assert math.isnan(stats.token_end_s(token, [1.0, 2.0, 3.0], [2, 0, 2], 6))

    def test_without_the_ends_of_steps_is_unknown(self):
        assert math.isnan(stats.token_end_s(1, [], [2], 3))

    @given(st.lists(st.integers(0, 8), min_size=1, max_size=20), st.data())
    def test_agrees_with_the_tokens_within_a_budget(self, accepted, data):
        ends = [float(i) for i in range(1, len(accepted) + 1)]
        new = sum(accepted) + len(accepted)
        token = data.draw(st.integers(1, new))
        end = stats.token_end_s(token, ends, accepted, new)
        assert stats.tokens_within(end, ends, accepted, new) >= token
        assert stats.tokens_within(end - 0.5, ends, accepted, new) < token


class TestFirstAndAll:
    @pytest.mark.parametrize(
        ("budget", "expected"),
        [
            (0.5, (0.0, 0.0)),  # nothing is there
            (1.0, (0.0, 0.0)),  # the wrong one
            (2.0, (0.0, 1.0)),  # the right one too, which the target likes less
            (3.0, (1.0, 1.0)),  # another right one, which it likes best
        ],
    )
    def test_by_hand(self, budget, expected):
        passed, logprob, ends = [0, 1, 1], [-0.2, -0.3, -0.1], [1.0, 2.0, 3.0]
        assert stats.pass_first_and_all(passed, logprob, ends, budget) == expected

    def test_an_unknown_end_or_verdict_is_unknown(self):
        for passed, ends in (([1, 0], [1.0, math.nan]), ([1, math.nan], [1.0, 1.0])):
            found = stats.pass_first_and_all(passed, [0, 0], ends, 9)
            assert all(map(math.isnan, found))

    def test_one_without_a_probability_comes_last(self):
        assert stats.pass_first_and_all([0, 1], [math.nan, -9], [1, 1], 2) == (1.0, 1.0)

    @given(
        st.lists(
            st.tuples(st.booleans(), st.floats(-9, 0), st.floats(0, 9)), min_size=1, max_size=9
        ),
        st.floats(0, 9),
        st.floats(0, 9),
    )
    def test_first_implies_all_and_all_grows_with_the_budget(self, sequences, budget, more):
        columns = [list(column) for column in zip(*sequences, strict=True)]
        first, every = stats.pass_first_and_all(*columns, budget)
        assert first <= every <= stats.pass_first_and_all(*columns, budget + more)[1]


@pytest.fixture
def code(row):
    """A sequence of four steps of 3, 3, 3 and 1 tokens, which end at 1, 2, 3 and 4 s."""

    def make(problem, completion, passed, **changed):
        how = {"task": "code", "dataset": "demo-problems", "metric": "pass@1", "batch_size": 2}
        what = {
            "sample_id": problem, "completion": completion, "metric_value": float(passed),
            "completions_per_sample": 2, "target_logprob": -0.1 * (1 + completion),
            "step_end_s": [1.0, 2.0, 3.0, 4.0], "answer_tokens": 10, "wall_s": 4.0,
            "batch_wall_s": 4.0, "finish_reason": "eos", "verdict": "passed" if passed else "no",
        }  # fmt: skip
        return row(**(how | what | changed))

    return make


@pytest.fixture
def summary_of(write_run):
    def summary(rows, budget=None):
        [line] = summarise(load_results(write_run(rows)), budget).to_dict("records")
        return line

    return summary


class TestSummary:
    def rows(self, code, **changed):
        """Three problems of two completions in two repeats: 4, 1 and 0 of 4 pass."""
        passes = {"a": [1, 1, 1, 1], "b": [0, 1, 0, 0], "c": [0, 0, 0, 0]}
        return [
            code(problem, i % 2, right, repeat=i // 2, batch_index="abc".index(problem), **changed)
            for problem, found in passes.items()
            for i, right in enumerate(found)
        ]

    def test_pass_at_k_is_of_all_completions_of_all_repeats(self, summary_of, code):
        line = summary_of(self.rows(code))
        assert line["quality"] == pytest.approx(5 / 12)
        # C(3, 2) / C(4, 2) of b's pairs have none.
        assert line["pass_at_k"] == pytest.approx((1 + 0.5 + 0) / 3)
        assert math.isnan(line["pass_first"])
        assert math.isnan(line["pass_all"])

    def test_within_a_budget_by_batch_and_repeat(self, summary_of, code):
        """The first completion is the likelier; b's right one is its second, in the first repeat."""
        line = summary_of(self.rows(code), 4.0)
        assert line["pass_first"] == pytest.approx(2 / 6)
        assert line["pass_all"] == pytest.approx(3 / 6)
        line = summary_of(self.rows(code), 3.9)
        assert (line["pass_first"], line["pass_all"]) == (0.0, 0.0)

    def test_what_counts_is_when_the_answer_was_whole(self, summary_of, code):
        line = summary_of(self.rows(code, answer_tokens=6, finish_reason="length"), 2.0)
        assert line["pass_all"] == pytest.approx(3 / 6)
        assert line["went_on"] == 12
        assert line["cut_off"] == 0

    def test_one_that_never_ended_is_there_at_its_last_token(self, summary_of, code):
        rows = self.rows(code, answer_tokens=None, finish_reason="length")
        assert summary_of(rows, 4.0)["pass_all"] == pytest.approx(3 / 6)
        line = summary_of(rows, 3.0)
        assert line["pass_all"] == 0.0
        assert (line["cut_off"], line["went_on"]) == (12, 0)

    def test_a_batch_of_one_is_a_trial_of_its_own(self, summary_of, code):
        """BASS compares a batch with a single sequence in the same time."""
        rows = self.rows(code)
        rows = [one | {"batch_index": i, "batch_size": 1} for i, one in enumerate(rows)]
        line = summary_of(rows, 9.0)
        assert line["pass_first"] == line["pass_all"] == pytest.approx(5 / 12)

    def test_under_refill_the_clock_starts_with_the_problems_first_sequence(self, summary_of, code):
        late = {"refill": True, "start_s": 10.0, "step_end_s": [11.0, 12.0, 13.0, 14.0]}
        assert summary_of(self.rows(code, **late), 4.0)["pass_all"] == pytest.approx(3 / 6)
        assert summary_of(self.rows(code, **late), 3.0)["pass_all"] == 0.0
        # Without refill the budget starts with the batch.
        late["refill"] = False
        assert summary_of(self.rows(code, **late), 4.0)["pass_all"] == 0.0

    def test_a_problem_with_too_few_completions_makes_it_unknown(self, summary_of, code):
        rows = [code("a", 0, 1), code("a", 1, 1), code("b", 0, 1)]
        rows.append(code("b", 1, 0, status="failed", error="boom"))
        line = summary_of(rows)
        assert math.isnan(line["pass_at_k"])
        assert line["quality"] == 1.0

    def test_other_tasks_have_none_of_it(self, summary_of, row):
        line = summary_of([row()], 2.5)
        assert all(math.isnan(line[name]) for name in ("pass_at_k", "pass_first", "pass_all"))

    def test_what_dice_accepted_passes_nothing(self, summary_of, code):
        line = summary_of(self.rows(code, synthetic_acceptance=0.8), 9.0)
        assert all(math.isnan(line[name]) for name in ("pass_at_k", "pass_first", "pass_all"))


class TestTables:
    def printed(self, write_run, rows, **metadata):
        stream = io.StringIO()
        console = Console(file=stream, width=100, highlight=False)
        render_run(read_run(write_run(rows, **metadata)), console)
        return stream.getvalue()

    def test_one_completion_shows_pass_at_1_alone(self, write_run, code):
        text = self.printed(write_run, [code("a", 0, 1, completions_per_sample=1, batch_size=1)])
        assert "pass@1" in text
        assert text.count("ass@") == 1

    def test_several_and_a_budget_show_all_and_fit_the_page(self, write_run, code):
        rows = TestSummary().rows(code)
        budget = {"resolved_scenario": '{"time_budget": 2.5}'}
        text = self.printed(write_run, rows, **budget)
        header = next(line for line in text.splitlines() if "pass@2" in line)
        assert header.split()[-4:] == ["pass@1", "pass@2", "Pass@", "Pass@"]
        assert max(map(len, text.splitlines())) <= 100
        assert "code · 2 completions · batch 2" in text
        assert "within 2.5 s (BASS)" in " ".join(text.split())

    def test_captions_say_what_was_cut(self, write_run, code, row):
        text = self.printed(write_run, [code("a", 0, 1, answer_tokens=4, finish_reason="length")])
        assert "1 of 1 outputs went on behind the end of their answer" in text
        text = self.printed(write_run, [row(document_kept=0.5), row(document_kept=1.0)])
        assert "1 of 2 prompts have a part of their document" in text
        assert "have a part" not in self.printed(write_run, [row(document_kept=1.0)])

    def test_the_heading_names_what_is_not_embedded(self, write_run, row):
        [group] = within(read_run(write_run([row(dataset="xsum", chat_template=True)]))).groups
        title = group_title(group.key)
        assert title.startswith("demo-lm · summarization xsum · chat template · batch 1")
        [group] = within(read_run(write_run([row()]))).groups
        assert group_title(group.key).startswith("demo-lm · summarization · batch 1")


NEW = [
    "completion", "completions_per_sample", "chat_template", "document_kept", "answer_tokens",
    "verdict",
]  # fmt: skip


class TestOlderFiles:
    def test_are_read_and_find_their_twins(self, write_run, row, tmp_path):
        """A file of schema 1.2 has none of the columns."""
        path = write_run([row()])
        table = pq.read_table(path).drop_columns(NEW)
        metadata = {
            key: value.replace(f'"{SCHEMA_VERSION}"'.encode(), b'"1.2"')
            for key, value in table.schema.metadata.items()
        }
        old = tmp_path / "old.parquet"
        pq.write_table(table.replace_schema_metadata(metadata), old)
        rows = read_run(old).rows
        assert read_run(old).metadata["schema_version"] == "1.2"
        assert rows["completion"].tolist() == [0]
        assert rows["completions_per_sample"].tolist() == [1]
        assert rows["chat_template"].tolist() == [False]
        assert rows[["document_kept", "answer_tokens", "verdict"]].isna().all(axis=None)
        keys = [within(read_run(one)).groups[0].key for one in (old, path)]
        assert keys[0] == keys[1]

    def test_the_version_is_newer(self):
        major, minor = map(int, SCHEMA_VERSION.split("."))
        assert (major, minor) >= (1, 3)
