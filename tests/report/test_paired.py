"""Ratios of speed and differences of quality, paired, against figures worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from specbench.report import paired


def rows(wall_s, tokens=10, metric=0.5, weight=1.0, **changed):
    """One row for each wall time, batch by batch of one repeat."""
    count = len(wall_s)
    table = {
        "case_id": "a", "repeat": 0, "batch_index": pd.array(range(count), dtype="Int32"),
        "sample_id": [f"s{i}" for i in range(count)], "new_tokens": tokens, "wall_s": wall_s,
        "batch_wall_s": np.nan, "metric_value": metric, "metric_weight": weight,
    }  # fmt: skip
    return pd.DataFrame(table | changed)


def test_a_batch_takes_as_long_as_itself_not_as_its_sequences_together():
    batch = rows([1.0, 2.0], batch_index=pd.array([0, 0], dtype="Int32"), batch_wall_s=[2.5, 2.5])
    found = paired.totals(batch)
    assert found["tokens"].tolist() == [20]
    assert found["wall_s"].tolist() == [2.5]


def test_rows_without_a_batch_are_told_apart_by_their_sample():
    alone = rows([1.0, 2.0], batch_index=pd.array([None, None], dtype="Int32"))
    assert paired.totals(alone)["wall_s"].tolist() == [1.0, 2.0]


def test_the_ratio_is_over_the_batches_that_both_have():
    new, reference = rows([1.0, 1.0]), rows([2.0, 2.0, 100.0])
    assert paired.speed_ratio(paired.totals(new), paired.totals(reference)).value == 2


def test_drift_that_hits_both_alike_leaves_no_interval_to_speak_of():
    repeats = range(3)
    new, reference = (
        pd.concat([rows([wall * (1 + 0.2 * r)], repeat=r) for r in repeats]) for wall in (1.0, 1.5)
    )
    found = paired.speed_ratio(paired.totals(new), paired.totals(reference))
    assert (found.value, found.count) == (pytest.approx(1.5), 3)
    assert (found.low, found.high) == (pytest.approx(1.5), pytest.approx(1.5))


def test_the_interval_is_student_s_of_the_logarithms():
    ratios = [1.1, 1.2, 1.35]
    mean = np.log(ratios)
    expected = scipy_stats.ttest_1samp(mean, 0).confidence_interval(0.95)
    low, high = paired.geometric_interval(ratios)
    assert (math.log(low), math.log(high)) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("ratios", [[], [1.2]])
def test_one_repeat_has_no_interval(ratios):
    assert all(math.isnan(end) for end in paired.geometric_interval(ratios))


def test_the_interval_holds_the_truth_as_often_as_it_says():
    random = np.random.default_rng(5)
    trials = np.exp(random.normal(np.log(1.2), 0.05, size=(2000, 4)))
    ends = np.array([paired.geometric_interval(trial) for trial in trials])
    held = np.mean((ends[:, 0] <= 1.2) & (ends[:, 1] >= 1.2))
    assert held == pytest.approx(0.95, abs=0.02)


def test_quality_is_weighed_and_paired_by_sample():
    new = rows([1.0, 1.0], metric=[0.2, 0.6], weight=[1.0, 3.0])
    plain = rows([1.0, 1.0], metric=[0.1, 0.2], weight=[1.0, 3.0])
    found = paired.quality_change(new, plain)
    assert (found.value, found.count) == (pytest.approx((0.1 + 3 * 0.4) / 4), 2)
    assert found.low < found.value < found.high


def test_repeats_of_a_sample_count_once():
    once = rows([1.0, 1.0, 1.0], metric=[0.2, 0.6, 0.3])
    plain = rows([1.0, 1.0, 1.0], metric=0.1)
    thrice = pd.concat([once.assign(repeat=r) for r in range(3)])
    assert paired.quality_change(thrice, plain) == paired.quality_change(once, plain)


def test_quality_that_was_not_scored_is_not_known():
    found = paired.quality_change(rows([1.0], metric=np.nan), rows([1.0]))
    assert math.isnan(found.value)
    assert not found.known
