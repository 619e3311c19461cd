from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import stdtrit

from specbench.report.evidence import Estimate
from specbench.report.interval import as_ratio, as_ratio_of_best, maximum_modulus


@pytest.mark.parametrize("df", [1, 2, 7.5, 1e9, math.inf])
def test_of_one_it_is_students(df):
    expected = stdtrit(min(df, 1e6), 0.975)
    assert maximum_modulus(1, df, 0.95) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(("among", "df"), [(2, 3), (16, 2), (100, 8)])
def test_the_largest_of_so_many_stays_within_as_often_as_it_says(among, df):
    random = np.random.default_rng(among)
    largest = np.abs(random.normal(size=(20_000, among))).max(axis=1)
    scale = np.sqrt(random.chisquare(df, 20_000) / df)
    inside = np.mean(largest <= maximum_modulus(among, df, 0.95) * scale)
    assert inside == pytest.approx(0.95, abs=0.006)


def test_the_choice_widens_the_interval_and_moves_nothing():
    estimate = Estimate(math.log(1.2), ((0.001, 2.0), (0.0005, 7.0)), 3, 8)
    alone, one, chosen = (
        as_ratio(estimate), as_ratio_of_best(estimate, 1), as_ratio_of_best(estimate, 16),
    )  # fmt: skip
    assert (one.low, one.high) == pytest.approx((alone.low, alone.high), rel=1e-3)
    assert chosen.low < alone.low < chosen.value == alone.value < alone.high < chosen.high


def test_without_variance_or_evidence_there_is_nothing_to_widen():
    certain = as_ratio_of_best(Estimate(0.1, ((0.0, 2.0),), 3, 8), 16)
    assert certain.low == certain.high == certain.value
    assert not as_ratio_of_best(Estimate(0.1, ((math.nan, 0.0),), 1, 8), 16).known
    assert math.isnan(as_ratio_of_best(None, 16).value)
