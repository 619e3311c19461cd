"""Seeded inputs with controlled acceptance, and the bytes that a method must read of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from specbench.micro.plan import Shape
from specbench.sampling.draft import sample
from specbench.sampling.registry import Method
from specbench.sampling.step import Numbers
from specbench.sampling.verifier import draw_numbers

TARGET_SPREAD = 2.5
"""Standard deviation of the target's logits: a peaked but not degenerate distribution."""
COLD_SETS, MAX_SETS_BYTES = 32, 8 * 10**9
"""Sets on a GPU, fewer only where they would be larger together: one for each call of a replay."""
CPU_SETS = 2
ALIGNMENT = 256
"""Bytes: where torch's allocator lets a tensor begin, so each set begins as if it were its own."""


@dataclass(frozen=True)
class InputSet:
    """The arguments of one verify step.

    Attributes:
        target_logits: (B, γ+1, V).
        draft_logits: (B, γ, V).
        draft_tokens: (B, γ) int64, drawn from the draft's rows at temperature 1.
        seeds, positions: (B,) int64.
        numbers: what belongs to these seeds and positions, for methods that do not draw it themselves.
    """

    target_logits: Tensor
    draft_logits: Tensor
    draft_tokens: Tensor
    seeds: Tensor
    positions: Tensor
    numbers: Numbers


def set_bytes(shape: Shape) -> int:
    """Of both logits of one set: B · (2γ+1) · V · itemsize."""
    rows = shape.batch_size * (2 * shape.gamma + 1)
    return rows * shape.vocab_size * shape.torch_dtype.itemsize


def bytes_moved(shape: Shape, method: Method, accepted: Tensor, wave: int | None = None) -> float:
    """Bytes that must come from memory for one call, the mean over sets.

    Who normalises needs every row once, up to the end of the wave of slots in which a sequence stops.
    `sigmoid` never normalises: it looks at the drafted entries, and at the target's and the draft's
    row where a sequence stopped; after full acceptance at the target's alone. A row that is never
    read counts for nobody.

    Args:
        accepted: (sets, B) int64, the drafts that the method accepted.
        wave: slots whose rows are read at once; None if all are.
    """
    if method.rule == "sigmoid":
        rows = torch.where(accepted == shape.gamma, 1.0, 2.0)
        entries = 2 * shape.gamma * shape.batch_size
    else:
        wave = shape.gamma + 1 if wave is None else wave
        slots = -(-(accepted + 1) // wave) * wave
        rows = slots.clamp(max=shape.gamma + 1) + slots.clamp(max=shape.gamma)
        entries = 0
    mean = float(rows.double().sum(1).mean())
    return (mean * shape.vocab_size + entries) * shape.torch_dtype.itemsize


def count_sets(shape: Shape, free_bytes: int | None) -> int:
    """How many sets a replay goes through after the L2 was swept, so that each is read cold.

    Args:
        free_bytes: memory that can be had, half of which is left to the methods; None on a CPU, whose
            caches nobody controls here.
    """
    if free_bytes is None:
        return CPU_SETS
    return max(1, min(COLD_SETS, min(MAX_SETS_BYTES, free_bytes // 2) // set_bytes(shape)))


def make_sets(
    shape: Shape, count: int, *, noise: float, seed: int, device: torch.device
) -> list[InputSet]:
    """Target ~ N(0, 2.5²), draft = target + N(0, noise²); the same for equal arguments."""
    generator = torch.Generator(device).manual_seed(seed)
    batch, gamma, vocab = shape.batch_size, shape.gamma, shape.vocab_size
    targets = _slices(count, (batch, gamma + 1, vocab), shape.torch_dtype, device)
    drafts = _slices(count, (batch, gamma, vocab), shape.torch_dtype, device)
    seeds = seed + torch.arange(batch, device=device)
    sets = []
    for index, (target, draft) in enumerate(zip(targets, drafts, strict=True)):
        target.normal_(0, TARGET_SPREAD, generator=generator)
        difference = torch.randn(draft.shape, generator=generator, device=device) * noise
        draft.copy_(target[:, :gamma] + difference)
        positions = torch.full_like(seeds, index)
        numbers = draw_numbers(seeds, positions, gamma, vocab)
        sets.append(InputSet(target, draft, _tokens(draft, generator), seeds, positions, numbers))
    return sets


def _slices(
    count: int, sizes: tuple[int, int, int], dtype: torch.dtype, device: torch.device
) -> list[Tensor]:
    """Tensors of their own memory out of one allocation: hundreds of small ones take their time."""
    length = sizes[0] * sizes[1] * sizes[2]
    unit = ALIGNMENT // dtype.itemsize
    whole = torch.empty(count, -(-length // unit) * unit, dtype=dtype, device=device)
    return [row[:length].view(sizes) for row in whole]


def _tokens(draft: Tensor, generator: torch.Generator) -> Tensor:
    """(B, γ) int64, by Gumbel-max. torch's generator: none of these numbers is one of the verifier's."""
    batch, gamma, vocab = draft.shape
    rows = draft.reshape(batch * gamma, vocab)
    waits = torch.empty(rows.shape, device=draft.device).exponential_(generator=generator)
    ones = torch.ones(len(rows), device=draft.device)
    return sample(rows, ones, -waits.log()).view(batch, gamma)


def expected_accepted(sets: Sequence[InputSet]) -> float:
    """Drafts that token-by-token verification accepts on average: Σ_i Π_{j≤i} Σ_x min(p_j(x), q_j(x)).

    2211.17192, over the mean of all sequences; the rows do not depend on the drafted tokens here.
    """
    means = []
    for one in sets:
        gamma = one.draft_tokens.shape[1]
        target = one.target_logits[:, :gamma].float().softmax(-1)
        overlap = torch.minimum(target, one.draft_logits.float().softmax(-1)).sum(-1)
        means.append(overlap.cumprod(1).sum(1).mean())
    return float(torch.stack(means).mean())
