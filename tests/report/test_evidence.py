from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as laws

from specbench.report.evidence import (
    Estimate,
    fewest_samples,
    holm,
    of_counts,
    of_rates,
    of_steps,
    unpaired,
)
from specbench.report.pairing import Batches


class TestHolm:
    def test_against_numbers_worked_out_by_hand(self):
        # sorted 0.005 0.01 0.03 0.04, times 4 3 2 1: 0.02 0.03 0.06 0.04, of which the last is lifted
        assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])

    def test_known_values(self):
        # p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm") of R
        assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])

    def test_keeps_the_order_never_helps_and_stays_a_probability(self):
        p = np.random.default_rng(0).uniform(0, 0.2, 50)
        found = holm(p)
        assert (np.diff(found[np.argsort(p)]) >= 0).all()
        assert (found >= p).all()
        assert found.max() <= 1

    def test_what_was_not_tested_does_not_count(self):
        found = holm([0.01, math.nan, 0.02])
        assert found[[0, 2]] == pytest.approx([0.02, 0.02])
        assert math.isnan(found[1])
        assert holm([]).size == 0


class TestEstimate:
    def test_one_source_is_students_interval(self):
        values = np.array([0.04, 0.05, 0.055, 0.06, 0.045])
        estimate = Estimate(values.mean(), ((values.var(ddof=1) / 5, 4.0),), 5, 1)
        expected = laws.t.interval(0.99, 4, values.mean(), laws.sem(values))
        assert estimate.interval() == pytest.approx(expected)
        expected_p = laws.ttest_1samp(values, 0.03, alternative="greater").pvalue
        assert estimate.p_value(0.03) == pytest.approx(2 * expected_p)

    def test_two_sources_are_welchs(self):
        new, old = np.array([1.0, 1.2, 1.1]), np.array([0.8, 0.81, 0.83, 0.79])
        sources = tuple((x.var(ddof=1) / len(x), len(x) - 1.0) for x in (new, old))
        expected = laws.ttest_ind(new, old, equal_var=False)
        estimate = Estimate(new.mean() - old.mean(), sources, 3, 1)
        assert estimate.df == pytest.approx(expected.df)
        assert estimate.p_value(0.0) == pytest.approx(expected.pvalue)

    def test_without_a_variance_there_is_no_telling(self):
        estimate = Estimate(0.5, ((math.nan, 0.0),), 1, 1)
        assert all(math.isnan(value) for value in (estimate.error, *estimate.interval()))
        assert math.isnan(estimate.p_value(0.03))

    def test_what_is_certain_needs_no_law(self):
        assert Estimate(0.0, ((0.0, 4.0),), 5, 1).p_value(0.03) == 1
        assert Estimate(0.1, ((0.0, 4.0),), 5, 1).p_value(0.03) == 0


def simulated(random, repeats, items, change=0.0, spread=0.005, noise=0.02):
    """A new run and its reference: (1, repeats, items), with items of very different cost."""
    cost = random.normal(0, 1, items)
    return [
        (
            shift
            + cost
            + random.normal(0, spread, (repeats, 1))
            + random.standard_t(3, (repeats, items)) * noise
        )[None]
        for shift in (change, 0.0)
    ]


@pytest.mark.parametrize("repeats", [3, 5, 10])
def test_the_interval_covers_the_truth(repeats):
    """99 % of 600 intervals: fewer than 582 would be a chance of 1 in 10,000 (binomial)."""
    random = np.random.default_rng(repeats)
    found = [of_steps(simulated(random, repeats, 6, 0.05)).interval() for _ in range(600)]
    assert sum(low <= 0.05 <= high for low, high in found) >= 582


def test_swapping_the_runs_turns_the_change_around():
    new, old = simulated(np.random.default_rng(1), 5, 8, 0.04)
    there, back = of_steps([new, old]), of_steps([old, new])
    assert back.change == pytest.approx(-there.change)
    assert back.interval() == pytest.approx([-end for end in there.interval()[::-1]])


def test_more_rows_in_a_repeat_are_not_more_repeats():
    new, old = simulated(np.random.default_rng(2), 5, 8, spread=0.02, noise=0.001)
    once, twice = of_steps([new, old]), of_steps([np.tile(run, 2) for run in (new, old)])
    assert twice.change == pytest.approx(once.change)
    assert twice.error == pytest.approx(once.error, rel=0.05)


def test_a_change_of_half_the_samples_is_not_certain():
    """It would be another one with other samples."""
    new, old = simulated(np.random.default_rng(3), 10, 8, spread=0.001, noise=0.001)
    new[:, :, ::2] += 0.2
    low, high = of_steps([new, old]).interval()
    assert high - low > 0.1


def test_an_item_that_one_repeat_lacks_is_left_out():
    new, old = simulated(np.random.default_rng(4), 5, 8)
    new[0, 2, 3] = np.nan
    assert of_steps([new, old]).samples == 7
    new[:] = np.nan
    assert of_steps([new, old]) is None


def batches(tokens, wall_s):
    codes, none = np.zeros(tokens.shape, np.uint64), np.full(tokens.shape, np.nan)
    return Batches(codes, codes.astype(np.int64), tokens, wall_s, none, none)


def test_rates_are_of_all_tokens_over_all_time():
    tokens = np.array([[10.0, 90.0], [10.0, 90.0], [10.0, 90.0]])
    slow, fast = batches(tokens, np.ones((3, 2))), batches(tokens, np.full((3, 2), 0.5))
    estimate = of_rates([(fast, slow)])
    assert math.exp(estimate.change) == pytest.approx(2.0)
    alone = of_rates([(slow,)])
    assert math.exp(alone.change) == pytest.approx(50.0)  # 100 tokens in 2 s


class TestCounts:
    samples = np.repeat(np.arange(8, dtype=np.uint64), 3)

    def draw(self, seed, rate=0.6):
        random = np.random.default_rng(seed)
        drafted = np.full(24, 40.0)
        return random.binomial(40, rate, 24).astype(float), drafted

    def test_the_same_in_both_runs_is_certain(self):
        both = self.draw(0)
        estimate = of_counts(both, both, self.samples, 3, True)
        assert (estimate.change, estimate.error) == (0.0, 0.0)

    def test_another_luck_is_not_another_rate(self):
        found = [
            of_counts(self.draw(2 * i), self.draw(2 * i + 1), self.samples, 3, True).interval()
            for i in range(300)
        ]
        # 99 % of 300; fewer than 288 would be a chance of 1 in 10,000
        assert sum(low <= 0 <= high for low, high in found) >= 288

    @pytest.mark.parametrize("tests", [1, 60])
    @pytest.mark.parametrize("part", [0.0, 0.2])
    def test_the_fewest_samples_are_those_of_a_total_loss(self, tests, part):
        def p_value(samples):
            old, none = np.full(samples, 0.5), np.zeros(samples)
            codes, ones = np.arange(samples, dtype=np.uint64), np.ones(samples)
            return of_counts((none, ones), (old, ones), codes, 1, True).p_value(0.5 * part)

        needed = fewest_samples(tests, part)
        assert tests * p_value(needed) <= 0.01 < tests * p_value(needed - 1)
        assert fewest_samples(tests, 1.0) is None

    def test_another_rate_is_found(self):
        estimate = of_counts(self.draw(1, 0.4), self.draw(2, 0.6), self.samples, 3, True)
        assert estimate.interval()[1] < -0.1
        ratio = of_counts(self.draw(1, 0.4), self.draw(2, 0.6), self.samples, 3, False)
        assert math.exp(ratio.change) == pytest.approx(2 / 3, abs=0.1)

    def test_repeats_of_a_sample_are_not_more_samples(self):
        one = np.zeros(24, np.uint64)
        assert math.isnan(of_counts(self.draw(1), self.draw(2), one, 24, True).error)

    def test_nothing_drafted_is_no_rate(self):
        zeros = np.zeros(24)
        assert of_counts((zeros, zeros), (zeros, zeros), self.samples, 3, True) is None


@pytest.mark.parametrize(("samples", "is_sure"), [(3, False), (5, True), (8, True)])
def test_samples_that_all_changed_alike_are_evidence_but_no_certainty(samples, is_sure):
    """Quality 1 in all samples, 0 in all of the new run: the bootstrap sees no variance at all."""
    codes, ones = np.arange(samples, dtype=np.uint64), np.ones(samples)
    estimate = of_counts((0 * ones, ones), (ones, ones), codes, 1, True)
    assert estimate.change == -1
    assert estimate.error > 0
    assert (estimate.p_value(0.02) < 0.01) == is_sure
    shifted = of_counts((1.1 * ones, ones), (ones, ones), codes, 1, False)
    assert shifted.p_value(np.log(1.03)) > 1e-6


def test_changes_that_nothing_pairs_are_held_against_each_other_as_welch_does():
    new, old = np.array([0.31, 0.35, 0.3, 0.37]), np.array([0.2, 0.26, 0.11])
    each = [
        Estimate(x.mean(), ((x.var(ddof=1) / len(x), len(x) - 1.0),), len(x), 8) for x in (new, old)
    ]
    found = unpaired(*each)
    expected = laws.ttest_ind(new, old, equal_var=False).confidence_interval(0.99)
    assert found.interval() == pytest.approx((expected.low, expected.high))
    assert found.repeats == 3
