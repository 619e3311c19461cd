"""One case against another over what both decoded: the ratio of speeds, the difference in quality.

Methods are interleaved batch by batch, so the machine's drift is in both alike and leaves the ratio
alone; what remains between repeats is the noise that a verdict has to beat.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student

from specbench.report import stats

CONFIDENCE, QUALITY_CONFIDENCE = 0.95, 0.99
"""Of an interval of speed, and of quality: a method is thrown out for that, and many are tried."""

LESS_IS_BETTER = {"wer"}
"""Metrics of which a greater value is a worse text."""

Totals = pd.DataFrame


@dataclass(frozen=True)
class Interval:
    """A figure and where it lies; `low` and `high` are NaN if too few were measured to say.

    Attributes:
        count: repeats (of speed) or samples (of quality) that it rests on.
    """

    value: float
    low: float = stats.NAN
    high: float = stats.NAN
    count: int = 0

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return not math.isnan(self.low)


def totals(rows: pd.DataFrame) -> Totals:
    """Tokens and seconds of each batch of a case: index (repeat, batch), columns `tokens`, `wall_s`.

    Args:
        rows: of `read_run`, status ok; of several cases (plain decoding under several methods' names)
            they are added up.
    """
    index = rows["batch_index"]
    batch = index.astype(str).where(index.notna(), rows["sample_id"].astype(str))
    whole = rows["batch_wall_s"].fillna(rows["wall_s"])
    each = pd.DataFrame(
        {
            "case": rows["case_id"].astype(str), "repeat": rows["repeat"].fillna(-1),
            "batch": batch, "tokens": rows["new_tokens"].astype(float), "wall_s": whole.astype(float),
        }
    )  # fmt: skip
    batches = each.groupby(["case", "repeat", "batch"]).agg({"tokens": "sum", "wall_s": "max"})
    return batches.groupby(["repeat", "batch"]).sum()


def speed_ratio(new: Totals, reference: Totals) -> Interval:
    """Tokens/s of one case over another's, on the batches that both have, with its interval."""
    ratios = repeat_ratios(new, reference)
    common = new.index.intersection(reference.index)
    value = stats.ratio(*(_speed(part.loc[common]) for part in (new, reference)))
    return Interval(value, *geometric_interval(ratios), len(ratios))


def repeat_ratios(new: Totals, reference: Totals) -> NDArray[np.float64]:
    """(repeats,) the ratio of tokens/s in each repeat, on the batches that both have of it."""
    common = new.index.intersection(reference.index)
    new, reference = new.loc[common], reference.loc[common]
    speeds = [
        part.groupby("repeat")["tokens"].sum() / part.groupby("repeat")["wall_s"].sum()
        for part in (new, reference)
    ]
    return (speeds[0] / speeds[1]).to_numpy(float)


def _speed(part: Totals) -> float:
    return stats.tokens_per_s(part["tokens"].sum(), part["wall_s"].sum())


def geometric_interval(ratios: ArrayLike) -> tuple[float, float]:
    """Student's interval of the mean of log ratios: where the true ratio lies in `CONFIDENCE`.

    NaN for fewer than two. With two or three it is wide, as it should be.
    """
    logs = np.log(np.asarray(ratios, float))
    logs = logs[np.isfinite(logs)]
    half = _half_width(logs, CONFIDENCE)
    return float(np.exp(logs.mean() - half)) if logs.size else stats.NAN, (
        float(np.exp(logs.mean() + half)) if logs.size else stats.NAN
    )


def _half_width(values: NDArray[np.float64], confidence: float) -> float:
    if values.size < 2:
        return stats.NAN
    error = float(values.std(ddof=1)) / math.sqrt(values.size)
    return float(student.ppf((1 + confidence) / 2, values.size - 1)) * error


def quality_change(rows: pd.DataFrame, plain: pd.DataFrame) -> Interval:
    """Quality of a case minus plain decoding's, paired by sample; positive: the metric is greater.

    A sample's repeats and completions are not independent of each other, so the samples are what is
    counted: Σ wₛdₛ / Σ wₛ with dₛ a sample's mean difference and wₛ its weight.

    Args:
        rows: of one case, status ok.
        plain: of γ = 0 in the same group.
    """
    new, old = _by_sample(rows), _by_sample(plain)
    common = new.index.intersection(old.index)
    if common.empty:
        return Interval(stats.NAN)
    change = (new.loc[common, "value"] - old.loc[common, "value"]).to_numpy(float)
    weight = new.loc[common, "weight"].to_numpy(float)
    mean = stats.weighted_mean(change, weight)
    half = _half_width(mean + weight / weight.mean() * (change - mean), QUALITY_CONFIDENCE)
    return Interval(mean, mean - half, mean + half, len(common))


def _by_sample(rows: pd.DataFrame) -> pd.DataFrame:
    known = rows[rows["metric_value"].notna() & (rows["metric_weight"] > 0)]
    columns = {"value": known["metric_value"], "weight": known["metric_weight"]}
    samples: Any = pd.DataFrame(columns, dtype=float).groupby(known["sample_id"].astype(str))
    return pd.DataFrame(samples.mean())
