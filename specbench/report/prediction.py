"""What theory makes of a case, and of a γ that was not run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from specbench.report import stats
from specbench.report.repeats import Line


@dataclass(frozen=True)
class Prediction:
    """What theorem 3.8 of 2211.17192 makes of a case.

    Attributes:
        alpha: see `stats.independent_acceptance`.
        c: time of one draft token over that of a plain target step, both measured at this batch size.
        decoding: `stats.predicted_speedup`: of decoding alone, where scoring γ + 1 tokens costs as
            much as scoring one, and verification nothing.
        whole: of the whole with its prompt (Amdahl), which takes as long as it was measured to take:
            with drafts longer than without, since the draft reads it too; NaN where it was not timed.
        scoring: the target's step over that in plain decoding, measured: the theorem has 1.
    """

    alpha: float
    c: float
    decoding: float
    whole: float
    scoring: float


def predict(
    rows: pd.DataFrame, line: Line, plain_target_us: float, prompt: float, own_prompt: float
) -> Prediction:
    """From the counts and times of a case.

    Args:
        rows: of the case, status ok.
        line: of its summary.
        plain_target_us: median time of the target's step in plain decoding.
        prompt: part of plain decoding's wall time that its prompts took; NaN: not timed.
        own_prompt: time of the case's prompts over that of plain decoding's, see `prompt_ratio`.
    """
    offered, accepted = (_steps(rows, f"step_{name}") for name in ("drafted", "accepted"))
    alpha = stats.independent_acceptance(offered, accepted)
    made, draft_us = _steps(rows, "step_gamma"), _steps(rows, "step_draft_us")
    if made.size != draft_us.size:
        made = offered  # files that do not say how many were made
    drafting = made > 0
    timed = made.size == draft_us.size
    each_us = draft_us[drafting] / made[drafting] if timed else np.empty(0)
    c = stats.ratio(stats.median_and_spread(each_us)[0], plain_target_us)
    decoding = _in_theory(alpha, line["gamma"], made[drafting], c)
    whole = stats.ratio(1, prompt * own_prompt + (1 - prompt) / decoding)
    return Prediction(alpha, c, decoding, whole, stats.ratio(line["target_us"], plain_target_us))


def prompt_seconds(rows: pd.DataFrame) -> pd.Series[float]:
    """Sample → the mean time of the prompts of its batches; without samples where it was not timed."""
    return rows.groupby("sample_id")["prefill_s"].mean().dropna()


def prompt_ratio(own: pd.Series[float], plain: pd.Series[float]) -> float:
    """The prompts' time over plain decoding's, on the samples that both have; 1 where one was not timed.

    Args:
        own, plain: of `prompt_seconds`.
    """
    both = own.index.intersection(plain.index)
    return stats.ratio(own[both].sum(), plain[both].sum()) if len(both) else 1.0


def _steps(rows: pd.DataFrame, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """All steps of all sequences, in order."""
    lists = [np.asarray(steps, float) for steps in rows[name] if steps is not None]
    return np.concatenate(lists) if lists else np.empty(0)


def _in_theory(alpha: float, gamma: str, made: Any, c: float) -> float:
    """Theorem 3.8; of a policy Σ E[tokens] / Σ (γc + 1) over the γ that it chose."""
    if math.isnan(alpha) or math.isnan(c):
        return stats.NAN
    if gamma.isdecimal():
        return stats.predicted_speedup(alpha, int(gamma), c)
    values, counts = np.unique(made, return_counts=True)
    tokens = sum(
        n * stats.expected_tokens(alpha, int(g)) for g, n in zip(values, counts, strict=True)
    )
    return stats.ratio(tokens, float(np.sum(counts * (values * c + 1))))


def between(
    gammas: Sequence[int], predictions: Sequence[Prediction], speedups: Sequence[float]
) -> dict[int, float]:
    """The speed-up that each γ between measured ones may reach.

    Between two neighbours the ratio of measured to predicted speed-up, α and c are interpolated
    linearly: at a γ that was run this gives what was measured. Nothing is extrapolated.

    Args:
        gammas: that were run, ascending.
        predictions: of each.
        speedups: measured with each.
    """
    alphas, cs = ([getattr(one, name) for one in predictions] for name in ("alpha", "c"))
    factors = [one / said.decoding for one, said in zip(speedups, predictions, strict=True)]
    found = {}
    for gamma in range(gammas[0], gammas[-1] + 1):
        alpha, c, factor = (float(np.interp(gamma, gammas, of)) for of in (alphas, cs, factors))
        found[gamma] = factor * stats.predicted_speedup(alpha, gamma, c)
    return {gamma: speedup for gamma, speedup in found.items() if gamma not in gammas}
