"""Every rate that the field names, one function each, from the raw counts.

A rate that has no value (nothing was drafted, no time was taken) is NaN, never 0.
Sources: Leviathan et al., arXiv 2211.17192 (acceptance, expected tokens, speed-up);
Chen et al., arXiv 2302.01318 (speculative sampling).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

NAN = float("nan")


def ratio(numerator: float, denominator: float) -> float:
    """numerator / denominator, NaN where that has no value."""
    return float(numerator) / float(denominator) if denominator else NAN


def acceptance_rate(drafted: float, accepted: float) -> float:
    """α = accepted / drafted, over all drafts offered to the verifier."""
    return ratio(accepted, drafted)


def conditional_acceptance(
    step_drafted: Sequence[int], step_accepted: Sequence[int]
) -> list[float]:
    """P(draft i is accepted | the i − 1 before it were), for i = 1 ... the longest draft.

    #(steps with ≥ i accepted) / #(steps with ≥ i − 1 accepted and an i-th draft offered). The
    second condition matters where lengths differ (γ policies, the end of a text): a draft that was
    never offered was not rejected.

    Args:
        step_drafted: (steps,) drafts offered.
        step_accepted: (steps,) drafts accepted.
    """
    drafted, accepted = np.asarray(step_drafted), np.asarray(step_accepted)
    longest = int(drafted.max(initial=0))
    return [
        ratio(int(np.sum(accepted >= i)), int(np.sum((accepted >= i - 1) & (drafted >= i))))
        for i in range(1, longest + 1)
    ]


def mean_acceptance_length(new_tokens: float, verify_steps: float) -> float:
    """τ = new tokens per verify step, the resampled or bonus token included.

    1 + accepted / steps, except where a text's end cuts the last step short.
    """
    return ratio(new_tokens, verify_steps)


def expected_tokens(alpha: float, gamma: int) -> float:
    """E[new tokens per step] = (1 − α^(γ+1)) / (1 − α) if drafts are accepted independently.

    Eq. 1 of 2211.17192. Computed as the sum α⁰ + ... + α^γ, which also holds for α = 1 (γ + 1).
    """
    return float(sum(alpha**i for i in range(gamma + 1)))


def predicted_speedup(alpha: float, gamma: int, c: float) -> float:
    """(1 − α^(γ+1)) / ((1 − α)(γc + 1)): theorem 3.8 of 2211.17192.

    Args:
        c: time of a draft step / time of a target step.
    """
    return ratio(expected_tokens(alpha, gamma), gamma * c + 1)


def tokens_per_s(new_tokens: float, wall_s: float) -> float:
    """New tokens / wall time; the sequences of a batch share one wall time."""
    return ratio(new_tokens, wall_s)


def speedup(tokens_per_s: float, plain_tokens_per_s: float) -> float:
    """Tokens per second over those of plain decoding (γ = 0), both of the same run."""
    return ratio(tokens_per_s, plain_tokens_per_s)


def verify_share(verify_s: float, wall_s: float) -> float:
    """What part of the wall time the verify step takes: the most that a faster one can save."""
    return ratio(verify_s, wall_s)


def weighted_mean(values: ArrayLike, weights: ArrayLike) -> float:
    """Σ wᵢvᵢ / Σ wᵢ over the pairs where both are known; WER weighted by words is corpus WER."""
    value, weight = np.asarray(values, float), np.asarray(weights, float)
    known = ~(np.isnan(value) | np.isnan(weight))
    return ratio(float(np.sum(value[known] * weight[known])), float(np.sum(weight[known])))


def median_and_spread(values: ArrayLike) -> tuple[float, float]:
    """The median, and the interquartile range over it (0.1: a spread of 10 %).

    Both are NaN without values; the spread of a single value is NaN, since it is not known.
    """
    known = np.asarray(values, float)
    known = known[~np.isnan(known)]
    if known.size == 0:
        return NAN, NAN
    low, median, high = (float(q) for q in np.percentile(known, [25, 50, 75]))
    return median, ratio(high - low, median) if known.size > 1 else NAN
