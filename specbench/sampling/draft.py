"""Drawing a token from a row of logits: the draft model's side of speculative sampling."""

from __future__ import annotations

import torch
from torch import Tensor

from specbench.sampling import philox


def sample(
    logits: Tensor,
    temperature: Tensor,
    seeds: Tensor,
    positions: Tensor,
    *,
    slot: int = 0,
    purpose: philox.Purpose = philox.Purpose.DRAFT,
) -> Tensor:
    """One token for each sequence, by Gumbel-max on the sequence's own Philox numbers.

    Args:
        logits: (B, V) float32, float16 or bfloat16, already masked by top-k and top-p.
        temperature: (B,) float32; 0 takes the argmax.
        seeds: (B,) int64.
        positions: (B,) int64, tokens held when the step begins.
        slot: the draft's index inside the step.

    Returns:
        (B,) int64. A row without a finite log-normaliser gives an arbitrary id below V; verification
        rejects it.
    """
    scaled = scale(logits, temperature)
    noise = philox.words(
        seeds, positions, purpose, torch.tensor([slot], device=logits.device), logits.shape[-1]
    )
    scores = scaled - philox.exponential(noise[:, 0]).log()
    return torch.where(temperature == 0, logits.argmax(-1), scores.argmax(-1))


def scale(logits: Tensor, temperature: Tensor) -> Tensor:
    """float32 logits over the temperature of their sequence; a temperature of 0 leaves them alone.

    Args:
        logits: (B, ..., V).
        temperature: (B,) float32.
    """
    safe = torch.where(temperature == 0, torch.ones_like(temperature), temperature)
    return logits.float() / safe.view(-1, *[1] * (logits.dim() - 1))
