"""Every rate that the field names, one function each, from the raw counts.

A rate that has no value (nothing was drafted, no time was taken) is NaN, never 0.
Sources: Leviathan et al., arXiv 2211.17192 (acceptance, expected tokens, speed-up);
Chen et al., arXiv 2302.01318 (speculative sampling); BASS, arXiv 2404.15778 (per-token latency,
Pass@First, Pass@All); Chen et al., arXiv 2107.03374 (pass@k).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

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


def independent_acceptance(step_drafted: ArrayLike, step_accepted: ArrayLike) -> float:
    """The α of 2211.17192 that explains the counts best: Σ accepted / Σ min(accepted + 1, drafted).

    A step tests its drafts up to the first rejection, so those behind it say nothing of α: the
    maximum-likelihood estimate if each is accepted independently with the same probability. It is
    greater than `acceptance_rate`, which counts what came behind a rejection as rejected too.

    Args:
        step_drafted: (steps,) drafts offered.
        step_accepted: (steps,) drafts accepted.
    """
    drafted, accepted = np.asarray(step_drafted, float), np.asarray(step_accepted, float)
    return ratio(float(accepted.sum()), float(np.minimum(accepted + 1, drafted).sum()))


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
    """New tokens / wall time: a batch's throughput, all its tokens over its one wall time."""
    return ratio(new_tokens, wall_s)


def real_time_factor(wall_s: float, audio_s: float) -> float:
    """RTF = time that batches took / length of the audio in them: under 1 is faster than speech.

    NaN where nothing was heard.
    """
    return wall_s / audio_s if audio_s > 0 else NAN


def per_token_latency(wall_s: ArrayLike, new_tokens: ArrayLike) -> NDArray[np.float64]:
    """PTL of each sequence = its wall time / its new tokens (BASS), in s per token; prefill included.

    Args:
        wall_s: (sequences,) from when it took its slot to its last token.
        new_tokens: (sequences,); none has no latency, NaN.
    """
    tokens = np.asarray(new_tokens, float)
    return np.asarray(wall_s, float) / np.where(tokens > 0, tokens, np.nan)


def ptl_first(ptl_s: ArrayLike, end_s: ArrayLike) -> float:
    """PTL of the sequence of a batch that finished first; of several, the mean.

    Args:
        ptl_s: (sequences,) see `per_token_latency`.
        end_s: (sequences,) when each finished, on one clock; at least one.
    """
    end = np.asarray(end_s, float)
    return ptl_mean(np.asarray(ptl_s, float)[end == end.min()])


def ptl_last(ptl_s: ArrayLike, end_s: ArrayLike) -> float:
    """PTL of the sequence of a batch that finished last; arguments as for `ptl_first`."""
    end = np.asarray(end_s, float)
    return ptl_mean(np.asarray(ptl_s, float)[end == end.max()])


def ptl_mean(ptl_s: ArrayLike) -> float:
    """PTL, the mean over sequences: Σ PTLᵢ / sequences, whatever their lengths."""
    ptl = np.asarray(ptl_s, float)
    return ratio(float(np.nansum(ptl)), int(np.sum(~np.isnan(ptl))))


def ptl_speedup(ptl_s: float, plain_ptl_s: float) -> float:
    """PTL of plain decoding (γ = 0) over the PTL, both of the same run and batch size."""
    return ratio(plain_ptl_s, ptl_s)


def tokens_within(
    budget_s: float, step_end_s: ArrayLike, step_accepted: ArrayLike, new_tokens: float
) -> float:
    """Tokens of a sequence that are there within a time budget.

    Σ (accepted + 1) over the steps that ended in time, at most `new_tokens`: an end token, or the
    token limit, cuts the last step short. NaN if the ends of the steps are not known.

    Args:
        budget_s: it is in time what ended at this moment or before.
        step_end_s: (steps,) on a clock that starts with the budget.
        step_accepted: (steps,) drafts accepted.
        new_tokens: of the whole sequence.
    """
    ends, accepted = np.asarray(step_end_s, float), np.asarray(step_accepted, float)
    if ends.size != accepted.size or np.isnan(ends).any():
        return NAN
    return float(min(np.sum(accepted[ends <= budget_s] + 1), new_tokens))


def token_end_s(
    token: float, step_end_s: ArrayLike, step_accepted: ArrayLike, new_tokens: float
) -> float:
    """When a sequence's n-th token is there: with the first step by which Σ (accepted + 1) ≥ n.

    NaN if the ends of the steps are not known, or there is no such token.

    Args:
        token: n, from 1.
        step_end_s: (steps,) on any clock.
        step_accepted: (steps,) drafts accepted.
        new_tokens: of the whole sequence.
    """
    ends, accepted = np.asarray(step_end_s, float), np.asarray(step_accepted, float)
    if ends.size != accepted.size or not 0 < token <= new_tokens:
        return NAN
    there = np.flatnonzero(np.cumsum(accepted + 1) >= token)
    return float(ends[there[0]]) if there.size else NAN


def pass_at_k(completions: int, passed: int, k: int) -> float:
    """The chance that one of k completions of a problem passes, without bias from n ≥ k of them.

    1 − C(n − c, k) / C(n, k), as the product 1 − Π_{i = n−c+1}^{n} (1 − k/i), which neither overflows
    nor cancels (2107.03374, eq. 1 and figure 3). NaN if there are fewer than k.

    Args:
        completions: n.
        passed: c of them.
    """
    if not 1 <= k <= completions:
        return NAN
    if completions - passed < k:
        return 1.0
    later = np.arange(completions - passed + 1, completions + 1)
    return float(1 - np.prod(1 - k / later))


def pass_first_and_all(
    passed: ArrayLike, logprob: ArrayLike, answer_s: ArrayLike, budget_s: float
) -> tuple[float, float]:
    """Pass@First and Pass@All of a problem within a time budget, 1 or 0 each (BASS).

    Of the sequences that are there in time, First asks the one with the highest mean log-probability
    under the target, and All asks whether any passes. If none is there in time, both are 0.

    Args:
        passed: (sequences,) 1 or 0.
        logprob: (sequences,) mean per token, nats; one without comes last.
        answer_s: (sequences,) when its answer was whole, on a clock that starts with the budget; NaN:
            not known, which makes both NaN.
        budget_s: it is in time what is whole at this moment or before.
    """
    right, sure, end = (np.asarray(values, float) for values in (passed, logprob, answer_s))
    if np.isnan(end).any() or np.isnan(right).any():
        return NAN, NAN
    in_time = end <= budget_s
    if not in_time.any():
        return 0.0, 0.0
    first = int(np.argmax(np.nan_to_num(sure[in_time], nan=-np.inf)))
    return float(right[in_time][first]), float(right[in_time].max())


def host_gap_share(host_gap_s: float, batch_wall_s: float) -> float:
    """What part of a batch's wall time the GPU had nothing to do, since the host was not ready."""
    return ratio(host_gap_s, batch_wall_s)


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
