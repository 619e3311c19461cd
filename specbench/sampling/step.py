"""What the verification laws share: a step's inputs, its random numbers and how a token is emitted.

A row of logits is *valid* if its log-normaliser is finite. An invalid row (a NaN, a +inf, or nothing
but −inf) has one clear outcome in every exact method: an invalid target row ends the step, accepts no
draft and emits no token (−1); an invalid draft row rejects its draft and leaves the target row to be
sampled alone. `sigmoid` never normalises a row: it says for itself what it does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from specbench.sampling import philox
from specbench.sampling.draft import scale

EMPTY = 1e-30
"""A residual below this is numerically zero. Where all of it is, target and draft agree to the last
bit, and the token is sampled from the target."""


@dataclass(frozen=True)
class Numbers:
    """The random numbers of a verify step: uniforms (B, γ) in [0, 1), exponentials (B, V) > 0."""

    uniforms: Tensor
    exponentials: Tensor


def draw(seeds: Tensor, positions: Tensor, gamma: int, vocab_size: int) -> Numbers:
    """The numbers that belong to each sequence's seed and position, both (B,) int64."""
    slots = torch.arange(gamma, device=seeds.device)
    accept = philox.words(seeds, positions, philox.Purpose.ACCEPT, slots, 1)[:, :, 0]
    first = torch.zeros(1, dtype=torch.int64, device=seeds.device)
    race = philox.words(seeds, positions, philox.Purpose.RESIDUAL, first, vocab_size)[:, 0]
    return Numbers(philox.uniform(accept), philox.exponential(race))


@dataclass(frozen=True)
class Step:
    """One verify step of a batch, checked.

    target_logits: (B, γ+1, V) float32, float16 or bfloat16.
    draft_logits: (B, γ, V), same dtype.
    draft_tokens: (B, γ) int64; what lies at or past `lengths` is padding.
    lengths: (B,) int64, real drafts of each sequence, 0 to γ.
    temperature: (B,) float32; 0 is greedy.
    numbers: the step's random numbers.
    sigmoid_range: (alpha, beta) in logits; used by `sigmoid` alone.
    greedy: True if every temperature is 0, False if none is, None if only the device knows.
    tempered: False if every temperature is known to be 1, so that nothing need be divided.
    """

    target_logits: Tensor
    draft_logits: Tensor
    draft_tokens: Tensor
    lengths: Tensor
    temperature: Tensor
    numbers: Numbers
    sigmoid_range: tuple[float, float]
    greedy: bool | None
    tempered: bool = True

    @property
    def gamma(self) -> int:
        """The longest draft the tensors can hold."""
        return self.draft_tokens.shape[1]

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.target_logits.shape[2]


def scaled(logits: Tensor, step: Step) -> Tensor:
    """float32 logits (B, ..., V) over the temperature of their sequence; 0 leaves them alone."""
    return scale(logits, step.temperature) if step.tempered else logits.float()


def real_drafts(step: Step) -> Tensor:
    """(B, γ) bool: neither padding nor an id outside the vocabulary."""
    slots = torch.arange(step.gamma, device=step.lengths.device)
    inside = (step.draft_tokens >= 0) & (step.draft_tokens < step.vocab_size)
    return (slots < step.lengths[:, None]) & inside


def at_tokens(rows: Tensor, step: Step) -> Tensor:
    """(B, γ): each row's value at its drafted token, from (B, γ or γ+1, V)."""
    index = step.draft_tokens.clamp(0, step.vocab_size - 1)[:, :, None]
    return rows[:, : step.gamma].gather(2, index)[:, :, 0]


def leading(accept: Tensor) -> Tensor:
    """(B,): how many of (B, γ) are true before the first false."""
    return accept.long().cumprod(1).sum(1)


def stop_row(rows: Tensor, accepted: Tensor) -> Tensor:
    """(B, V): the row where each sequence stopped, from (B, R, V).

    A draft has no row after full acceptance: then any row is returned, for `where_drafted` to drop.
    """
    if rows.shape[1] == 0:
        return rows.new_zeros(rows.shape[0], rows.shape[2])
    return rows[torch.arange(len(rows), device=rows.device), accepted.clamp(max=rows.shape[1] - 1)]


def where_drafted(draft: Tensor, accepted: Tensor, step: Step) -> Tensor:
    """The draft's (B, V) weights at the stop row, zero where the token is the target's alone to give:
    after full acceptance, and where the draft's row is invalid (NaN)."""
    has_row = (accepted < step.lengths) & ~draft.isnan().any(1)
    return draft.where(has_row[:, None], 0)


def emit(residual: Tensor, target: Tensor, step: Step) -> Tensor:
    """One token ∝ residual, or ∝ target where the residual is numerically empty.

    An exponential race, argmax w/E: no cumulative sum whose tail could emit a token of weight zero,
    and no normaliser.

    Args:
        residual: (B, V) float32 weights >= 0; NaN counts as empty.
        target: (B, V) float32 weights; a row with a NaN, or without any weight, is invalid.

    Returns:
        (B,) int64; −1 for an invalid target row.
    """
    empty = ~(residual.amax(1, keepdim=True) >= EMPTY)
    weights = torch.where(empty, target, residual.masked_fill(residual < EMPTY, 0))
    token = (weights / step.numbers.exponentials).argmax(1)
    largest = target.amax(1)
    return torch.where(largest.isfinite() & (largest > 0), token, -1)


def verify_greedy(step: Step) -> tuple[Tensor, Tensor]:
    """Temperature 0, for every method: accept while the draft is the target's argmax; emit the argmax.

    Returns:
        num_accepted (B,), next_token (B,) with −1 for an invalid target row; int64.
    """
    largest, best = step.target_logits.max(2)
    best = torch.where(largest.isfinite(), best, -1)
    accepted = leading(real_drafts(step) & (step.draft_tokens == best[:, : step.gamma]))
    return accepted, best.gather(1, accepted[:, None])[:, 0]
