"""The field's rates against figures worked out by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specbench.report import stats


def test_rates_from_counts():
    assert stats.acceptance_rate(drafted=8, accepted=6) == 0.75
    assert stats.mean_acceptance_length(new_tokens=10, verify_steps=4) == 2.5
    assert stats.tokens_per_s(new_tokens=10, wall_s=0.5) == 20
    assert stats.speedup(20, 10) == 2
    assert stats.verify_share(0.1, 0.5) == pytest.approx(0.2)


@pytest.mark.parametrize(
    "rate",
    [
        stats.acceptance_rate(0, 0),
        stats.mean_acceptance_length(0, 0),
        stats.tokens_per_s(5, 0.0),
        stats.speedup(5, 0.0),
        stats.speedup(math.nan, 10),
        stats.verify_share(1.0, 0.0),
        stats.weighted_mean([], []),
        stats.weighted_mean([1.0], [0.0]),
        stats.weighted_mean([math.nan], [1.0]),
    ],
)
def test_a_rate_without_a_value_is_nan_not_zero(rate):
    assert math.isnan(rate)


def test_conditional_acceptance_counts_position_by_position():
    # Five steps of γ = 3: 4 of 5 accept the first, 3 of these 4 the second, 1 of these 3 the third.
    assert stats.conditional_acceptance([3] * 5, [0, 1, 2, 2, 3]) == [4 / 5, 3 / 4, 1 / 3]


def test_a_draft_that_was_not_offered_was_not_rejected():
    assert stats.conditional_acceptance([1, 2], [1, 2]) == [1.0, 1.0]


def test_conditional_acceptance_of_plain_decoding_has_no_positions():
    assert stats.conditional_acceptance([0, 0], [0, 0]) == []
    assert stats.conditional_acceptance([], []) == []


def test_a_position_never_reached_has_no_rate():
    rates = stats.conditional_acceptance([2, 2], [0, 0])
    assert rates[0] == 0
    assert math.isnan(rates[1])


@pytest.mark.parametrize(
    ("alpha", "gamma", "tokens"),
    [(0.5, 2, 1.75), (0.0, 5, 1.0), (1.0, 5, 6.0), (0.8, 0, 1.0)],
)
def test_expected_tokens(alpha, gamma, tokens):
    assert stats.expected_tokens(alpha, gamma) == pytest.approx(tokens)


@given(alpha=st.floats(0, 0.999), gamma=st.integers(0, 128))
def test_expected_tokens_is_the_papers_formula(alpha, gamma):
    formula = (1 - alpha ** (gamma + 1)) / (1 - alpha)
    assert stats.expected_tokens(alpha, gamma) == pytest.approx(formula, rel=1e-9)


def test_predicted_speedup():
    # (1 + 0.8 + 0.64) / (2 · 0.1 + 1)
    assert stats.predicted_speedup(0.8, 2, 0.1) == pytest.approx(2.44 / 1.2)
    assert stats.predicted_speedup(0.8, 0, 0.1) == 1
    assert stats.predicted_speedup(1.0, 4, 0.0) == 5


def test_word_errors_weighted_by_words_give_the_corpus_rate():
    # 1 error in 2 words and 0 errors in 8 words are 1 error in 10.
    assert stats.weighted_mean([0.5, 0.0], [2, 8]) == pytest.approx(0.1)


def test_weighted_mean_leaves_out_what_is_not_known():
    assert stats.weighted_mean([0.5, math.nan, 0.1], [1, 1, math.nan]) == 0.5


def test_median_and_spread():
    assert stats.median_and_spread([1, 2, 3, 4, 5]) == (3.0, pytest.approx(2 / 3))
    assert stats.median_and_spread([2.0, 2.0]) == (2.0, 0.0)


def test_the_spread_of_one_value_is_not_known():
    median, spread = stats.median_and_spread([7.0, math.nan])
    assert median == 7
    assert math.isnan(spread)
    assert all(math.isnan(value) for value in stats.median_and_spread([]))


@given(st.lists(st.floats(1e-3, 1e6), min_size=2, max_size=30), st.floats(0.01, 100))
def test_the_spread_does_not_depend_on_the_unit(values, factor):
    _, spread = stats.median_and_spread(values)
    _, scaled = stats.median_and_spread([value * factor for value in values])
    assert scaled == pytest.approx(spread, rel=1e-6, abs=1e-9)


def test_per_token_latency():
    assert stats.per_token_latency([0.5, 3.0], [10, 20]).tolist() == [0.05, 0.15]
    assert math.isnan(stats.per_token_latency([0.5], [0])[0])


def test_latency_of_a_batch():
    # The first to finish was slow per token, since it stopped early.
    ptl, end = [0.10, 0.04, 0.05], [1.0, 2.0, 4.0]
    assert stats.ptl_first(ptl, end) == 0.10
    assert stats.ptl_last(ptl, end) == 0.05
    assert stats.ptl_mean(ptl) == pytest.approx(0.19 / 3)
    assert stats.ptl_speedup(0.05, 0.10) == 2


def test_sequences_that_finish_together_share_the_place():
    assert stats.ptl_first([0.1, 0.3, 9.0], [1, 1, 2]) == pytest.approx(0.2)
    assert stats.ptl_last([9.0, 0.1, 0.3], [1, 2, 2]) == pytest.approx(0.2)


def test_latency_leaves_out_what_is_not_known():
    assert stats.ptl_mean([0.1, math.nan]) == 0.1
    assert math.isnan(stats.ptl_mean([]))
    assert math.isnan(stats.ptl_speedup(math.nan, 0.1))


@given(
    st.lists(st.tuples(st.floats(1e-3, 10), st.floats(1e-3, 10)), min_size=1, max_size=8),
    st.integers(1, 1000),
)
def test_first_and_last_lie_within_the_sequences(sequences, tokens):
    wall, late = (list(part) for part in zip(*sequences, strict=True))
    ptl = stats.per_token_latency(wall, [tokens] * len(wall))
    end = [a + b for a, b in zip(wall, late, strict=True)]
    for one in (stats.ptl_first(ptl, end), stats.ptl_last(ptl, end), stats.ptl_mean(ptl)):
        assert ptl.min() * (1 - 1e-9) <= one <= ptl.max() * (1 + 1e-9)


@pytest.mark.parametrize(
    ("budget", "tokens"),
    [(0.0, 0), (0.99, 0), (1.0, 3), (2.5, 4), (3.0, 6), (99.0, 6)],
)
def test_tokens_within_a_budget(budget, tokens):
    # 3 + 1 + 3 tokens, of which the last step's end token cut one off.
    assert stats.tokens_within(budget, [1.0, 2.0, 3.0], [2, 0, 2], new_tokens=6) == tokens


def test_tokens_within_a_budget_are_unknown_without_the_ends_of_steps():
    assert math.isnan(stats.tokens_within(1.0, [], [2, 0], 4))
    assert math.isnan(stats.tokens_within(1.0, [math.nan], [2], 3))


@given(
    st.lists(st.tuples(st.floats(1e-6, 10), st.integers(0, 8)), max_size=20),
    st.floats(0, 300),
    st.floats(0, 300),
)
def test_a_larger_budget_never_has_fewer_tokens(steps, budget, more):
    ends = [sum(seconds for seconds, _ in steps[: i + 1]) for i in range(len(steps))]
    accepted = [count for _, count in steps]
    new = sum(accepted) + len(accepted)
    few = stats.tokens_within(budget, ends, accepted, new)
    assert few <= stats.tokens_within(budget + more, ends, accepted, new) <= new


def test_host_gap_share():
    assert stats.host_gap_share(0.3, 1.2) == pytest.approx(0.25)
    assert math.isnan(stats.host_gap_share(0.0, 0.0))
