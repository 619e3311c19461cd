"""The methods in float64, one sequence at a time, as plainly as the papers write them.

Two oracles for everything else: `verify_one` decides a step from given random numbers, to be compared
token by token; `emitted_law` is the exact probability of every outcome, to be compared with counts.
Slow on purpose.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import Tensor

Prefix = tuple[int, ...]
Model = Callable[[Prefix], Tensor]
"""Logits (V,) of the token that follows a prefix."""
Law = dict[Prefix, float]
"""Probability of each sequence of tokens."""


def weights(logits: Tensor, method: str, sigmoid_range: tuple[float, float]) -> Tensor:
    """(V,) float64: softmax, or for `sigmoid` σ((z − α)/(β − α)), 0 below α and 1 above β."""
    z = logits.double()
    if method != "sigmoid":
        return z.softmax(0)
    alpha, beta = sigmoid_range
    inside = ((z - alpha) / (beta - alpha)).sigmoid()
    return torch.where(z < alpha, 0.0, torch.where(z > beta, 1.0, inside))


def prefix_probabilities(
    target: Sequence[Tensor], draft: Sequence[Tensor], path: Prefix
) -> list[float]:
    """P_0 … P_γ of block verification (2403.10444): P_i = min(1, P_{i−1} p(x_i)/q(x_i)).

    Nothing follows a prefix that the target forbids, not even a draft of probability 0 (ratio ∞).
    """
    prefix = [1.0]
    for i, x in enumerate(path):
        ratio = _ratio(target[i], draft[i], x)
        prefix.append(min(1.0, prefix[-1] * ratio) if prefix[-1] > 0 else 0.0)
    return prefix


def thresholds(
    method: str, target: Sequence[Tensor], draft: Sequence[Tensor], path: Prefix
) -> list[float]:
    """What each uniform is compared with: for `block` h_1 … h_γ, else min(1, p/q) at each draft.

    Args:
        target: γ+1 rows (V,) of weights.
        draft: γ rows (V,).
        path: the γ drafted tokens.
    """
    if method != "block":
        return [min(1.0, _ratio(target[i], draft[i], x)) for i, x in enumerate(path)]
    prefix = prefix_probabilities(target, draft, path)
    found = []
    for i in range(1, len(path)):
        excess = float((prefix[i] * target[i] - draft[i]).clamp(min=0).sum())
        rest = 1 - prefix[i]
        found.append(1.0 if excess == rest == 0 else excess / (excess + rest))
    return found + prefix[-1:] if path else []


def emission(
    method: str, target: Sequence[Tensor], draft: Sequence[Tensor], path: Prefix, accepted: int
) -> Tensor:
    """(V,) normalised law of the token that follows `accepted` drafts."""
    row = target[accepted]
    if accepted < len(path):
        scale = prefix_probabilities(target, draft, path)[accepted] if method == "block" else 1.0
        residual = (scale * row - draft[accepted]).clamp(min=0)
        row = residual if residual.sum() > 0 else row
    return row / row.sum()


def verify_one(
    method: str,
    target_logits: Tensor,
    draft_logits: Tensor,
    path: Prefix,
    uniforms: Sequence[float],
    exponentials: Tensor,
    sigmoid_range: tuple[float, float] = (-1e4, 1e4),
) -> tuple[int, int, float]:
    """Decides one step from given random numbers.

    Args:
        target_logits: (γ+1, V), already divided by the temperature.
        draft_logits: (γ, V).
        path: the γ drafted tokens.
        uniforms: γ numbers in [0, 1).
        exponentials: (V,) standard exponentials; the smallest E/w wins.

    Returns:
        accepted count, next token, and how near the decision was to another one: the smallest
        relative distance between a number and what it was compared with. Float32 may decide
        otherwise where that is within its rounding.
    """
    target = [weights(row, method, sigmoid_range) for row in target_logits]
    draft = [weights(row, method, sigmoid_range) for row in draft_logits]
    limits = thresholds(method, target, draft, path)
    accepted = accepted_count(method, [u < h for u, h in zip(uniforms, limits, strict=True)])
    law = emission(method, target, draft, path, accepted)
    arrival = exponentials.double() / law
    first, second = arrival.sort().values[:2].tolist() if len(law) > 1 else (0.0, 1.0)
    gaps = [abs(u - h) for u, h in zip(uniforms, limits, strict=True)]
    return accepted, int(arrival.argmin()), min([*gaps, (second - first) / second])


def accepted_count(method: str, passed: Sequence[bool]) -> int:
    """`block`: the largest i whose test passed; else the number of tests before the first failure."""
    if method == "block":
        return max((i + 1 for i, ok in enumerate(passed) if ok), default=0)
    return next((i for i, ok in enumerate(passed) if not ok), len(passed))


def emitted_law(
    method: str,
    target: Model,
    draft: Model,
    gamma: int,
    sigmoid_range: tuple[float, float] = (-1e4, 1e4),
) -> Law:
    """The probability of every sequence a step can emit: accepted drafts and the token after them.

    Sums over all V^γ drafted paths, each weighted by the draft's own law.
    """
    law: Law = defaultdict(float)
    for path in product(range(len(target(()))), repeat=gamma):
        drafted = math.prod(
            float(draft(path[:i]).double().softmax(0)[x]) for i, x in enumerate(path)
        )
        if drafted == 0:
            continue
        p = [weights(target(path[:i]), method, sigmoid_range) for i in range(gamma + 1)]
        q = [weights(draft(path[:i]), method, sigmoid_range) for i in range(gamma)]
        for accepted, chance in enumerate(stop_law(method, thresholds(method, p, q, path))):
            if chance > 0:
                for token, mass in enumerate(emission(method, p, q, path, accepted).tolist()):
                    law[(*path[:accepted], token)] += drafted * chance * mass
    return dict(law)


def stop_law(method: str, limits: Sequence[float]) -> list[float]:
    """Probability of each accepted count 0 … γ, given what the uniforms are compared with."""
    if method == "block":
        fails_above = [math.prod(1 - h for h in limits[i:]) for i in range(len(limits) + 1)]
        return [fails_above[0]] + [h * fails_above[i + 1] for i, h in enumerate(limits)]
    passes = [math.prod(limits[:i]) for i in range(len(limits) + 1)]
    return [passes[i] * (1 - h) for i, h in enumerate(limits)] + passes[-1:]


def complete(law: Law, target: Model, length: int) -> Law:
    """Lets the target write on until every sequence has `length` tokens."""
    done: Law = defaultdict(float)
    for sequence, chance in law.items():
        if len(sequence) == length:
            done[sequence] += chance
            continue
        row = target(sequence).double().softmax(0).tolist()
        grown = {(*sequence, token): chance * p for token, p in enumerate(row)}
        for longer, mass in complete(grown, target, length).items():
            done[longer] += mass
    return dict(done)


def target_law(target: Model, length: int) -> Law:
    """The target's own law of sequences of `length` tokens: what an exact method must give."""
    return complete({(): 1.0}, target, length)


def expected_accepted(law: Law, power: int = 1) -> float:
    """Mean accepted count of an `emitted_law`, or of its `power`.

    Each emitted sequence holds one token that was not drafted.
    """
    return math.fsum(chance * (len(sequence) - 1) ** power for sequence, chance in law.items())


def total_variation(one: Law, other: Law) -> float:
    """½ Σ |one − other|, from 0 (the same law) to 1."""
    keys = one.keys() | other.keys()
    return 0.5 * sum(abs(one.get(k, 0.0) - other.get(k, 0.0)) for k in keys)


def _ratio(target: Tensor, draft: Tensor, token: int) -> float:
    p, q = float(target[token]), float(draft[token])
    if q == 0:
        return 0.0 if p == 0 else math.inf
    return p / q
