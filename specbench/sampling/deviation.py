"""How far the token that a verify step emits is from the target's law: for approximations."""

from __future__ import annotations

import torch
from torch import Tensor

from specbench.sampling.draft import scale

ROWS = 8
"""Rows worked on at once: each takes some eight float64 numbers a token of the vocabulary."""


def sigmoid_variation(
    target_logits: Tensor,
    draft_logits: Tensor,
    is_bonus: Tensor,
    temperature: float,
    sigmoid_range: tuple[float, float],
) -> Tensor:
    """Total variation between the law of each emitted token under `sigmoid` and the target's.

    Given what stands before it, a token that was drafted for emerges as the draft, kept with the chance
    min(1, p̂/q̂), or else from the residual max(0, p̂ − q̂), and where that is empty from p̂; the bonus
    token from p̂, normalised (2406.11016). It is ½ Σ |law − softmax of the target's logits|. For an exact
    method that is 0.

    Args:
        target_logits, draft_logits: (T, V), the rows from which each of T tokens might have come,
            masked alike.
        is_bonus: (T,) bool: no draft stood there.
        temperature: 0 is greedy, where every method takes the likeliest token.
        sigmoid_range: (alpha, beta), in logits over the temperature.

    Returns:
        (T,) float64, from 0 to 1.
    """
    if temperature == 0:
        return torch.zeros(len(is_bonus), dtype=torch.float64, device=target_logits.device)
    parts = [
        _variation(*rows, temperature, sigmoid_range)
        for rows in zip(
            target_logits.split(ROWS), draft_logits.split(ROWS), is_bonus.split(ROWS), strict=True
        )
    ]
    return torch.cat(parts)


def _variation(
    target_logits: Tensor,
    draft_logits: Tensor,
    is_bonus: Tensor,
    temperature: float,
    sigmoid_range: tuple[float, float],
) -> Tensor:
    warmth = torch.full((len(is_bonus),), temperature, device=target_logits.device)
    target, draft = (scale(rows, warmth).double() for rows in (target_logits, draft_logits))
    kept_weight, offered_weight = (_weights(rows, sigmoid_range) for rows in (target, draft))
    offered = draft.softmax(-1)
    ratio = (kept_weight / offered_weight).clamp(max=1)
    kept = offered * ratio.masked_fill(
        kept_weight == 0, 0.0
    )  # a draft that weighs nothing is refused
    residual = (kept_weight - offered_weight).clamp(min=0)
    some = residual.sum(-1, keepdim=True)
    own = kept_weight / kept_weight.sum(-1, keepdim=True)
    refused = (1 - kept.sum(-1, keepdim=True)).clamp(min=0)
    drawn = torch.where(some > 0, residual / some.clamp(min=torch.finfo(some.dtype).tiny), own)
    law = torch.where(is_bonus[:, None], own, kept + refused * drawn)
    return (law - target.softmax(-1)).abs().sum(-1) / 2


def _weights(scaled: Tensor, sigmoid_range: tuple[float, float]) -> Tensor:
    """σ((z − α)/(β − α)), 0 below α and 1 above β."""
    alpha, beta = sigmoid_range
    weights = ((scaled - alpha) / (beta - alpha)).sigmoid()
    return weights.masked_fill(scaled < alpha, 0.0).masked_fill(scaled > beta, 1.0)
