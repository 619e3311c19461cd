"""Drawing a token from a row of logits: the draft model's side of speculative sampling."""

from __future__ import annotations

import torch
from torch import Tensor

from specbench.sampling import philox

LARGEST = 1 << 23
"""Numbers drawn in one call: Philox in torch holds some 32 bytes for each while it works."""


def gumbel(
    seeds: Tensor, positions: Tensor, purpose: philox.Purpose, slots: Tensor, vocab_size: int
) -> Tensor:
    """Gumbel noise of some slots of a step, for `sample`: (B, S, V) float32.

    Args:
        seeds, positions: (B,) int64.
        slots: (S,) or (B, S) int64. Small vocabularies pay by the call, not by the slot.
    """
    at_once = max(1, LARGEST // (len(seeds) * vocab_size))
    parts = [
        -philox.exponential(philox.words(seeds, positions, purpose, some, vocab_size)).log()
        for some in slots.split(at_once, dim=-1)
    ]
    return torch.cat(parts, dim=1)


def sample(logits: Tensor, temperature: Tensor, noise: Tensor | None) -> Tensor:
    """One token for each sequence, by Gumbel-max.

    Args:
        logits: (B, V) float32, float16 or bfloat16, already masked by top-k and top-p.
        temperature: (B,) float32; 0 takes the argmax.
        noise: (B, V) from `gumbel`; None if every temperature is 0.

    Returns:
        (B,) int64. A row without a finite log-normaliser gives an arbitrary id below V;
        verification rejects it.
    """
    best = logits.argmax(-1)
    if noise is None:
        return best
    return torch.where(temperature == 0, best, (scale(logits, temperature) + noise).argmax(-1))


def scale(logits: Tensor, temperature: Tensor) -> Tensor:
    """float32 logits over the temperature of their sequence; a temperature of 0 leaves them alone.

    Args:
        logits: (B, ..., V).
        temperature: (B,) float32.
    """
    safe = torch.where(temperature == 0, torch.ones_like(temperature), temperature)
    return logits.float() / safe.view(-1, *[1] * (logits.dim() - 1))
