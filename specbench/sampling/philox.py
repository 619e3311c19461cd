"""Counter-based random numbers: Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as
1, 2, 3", SC 2011), bit for bit the numbers of kernels/philox.cuh.

Every number is addressed, never drawn from a stream: key = the sequence's 64-bit seed, counter =
(element >> 2, slot, position, purpose), and element & 3 picks the word. So a sequence gets the same
numbers whatever batch it stands in.

`position` is the number of tokens the sequence holds when the step begins and `slot` the draft's
index inside the step. Addressing by position + slot instead would look simpler and be wrong: block
verification looks at every drafted token and every uniform of a step, so the next step, which begins
inside this one's drafts, would meet numbers that have already been conditioned on.
"""

from __future__ import annotations

from enum import IntEnum
from functools import cache

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIER = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


class Purpose(IntEnum):
    """What a number is for. Two purposes never share one: sharing shifts the output law."""

    DRAFT = 0
    ACCEPT = 1
    RESIDUAL = 2
    """The resampled or the bonus token: one of them a step, never both."""


def philox4x32(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ten rounds of Philox 4x32.

    Args:
        counter: four int64 tensors holding unsigned 32-bit words, of shapes that broadcast.
        key: two int64 tensors holding unsigned 32-bit words.

    Returns:
        Four int64 tensors of unsigned 32-bit words.
    """
    shape = torch.broadcast_shapes(*(word.shape for word in (*counter, *key)))
    # Words 0 and 2 in one tensor, 1 and 3 in another, so that each operation serves both halves.
    even = torch.stack([counter[0].expand(shape), counter[2].expand(shape)])
    odd = torch.stack([counter[1].expand(shape), counter[3].expand(shape)])
    start = torch.stack(torch.broadcast_tensors(*key))
    start = start.view(2, *[1] * (len(shape) + 1 - start.dim()), *start.shape[1:])
    multiplier, weyl = (
        _constant(pair, even.device).view(2, *[1] * len(shape)) for pair in (_MULTIPLIER, _WEYL)
    )
    for r in range(_ROUNDS):
        # The product of two 32-bit words overflows int64 and wraps, which keeps all 64 bits right.
        product = even * multiplier
        even = ((product.flip(0) >> 32) ^ odd ^ (start + r * weyl)) & _MASK
        odd = product.flip(0) & _MASK
    return even[0], odd[0], even[1], odd[1]


@cache
def _constant(pair: tuple[int, int], device: torch.device) -> Tensor:
    """(2,) on the device; copying it there each time would stop a GPU's stream."""
    with torch.inference_mode(False):
        return torch.tensor(pair, device=device)


def words(
    seeds: Tensor, positions: Tensor, purpose: Purpose, slots: Tensor, elements: int
) -> Tensor:
    """The 32-bit words of some slots of a step.

    Args:
        seeds: (B,) int64.
        positions: (B,) int64, tokens held when the step begins (taken modulo 2^32).
        slots: (S,) or (B, S) int64, indices inside the step.
        elements: how many words for each slot, e.g. the vocabulary's size.

    Returns:
        (B, S, elements) int64, each in [0, 2^32).
    """
    device = seeds.device
    groups = (elements + 3) // 4
    element = torch.arange(groups, device=device)[None, None, :]
    slot = slots.to(device).expand(len(seeds), slots.shape[-1])[:, :, None]
    position = (positions & _MASK)[:, None, None]
    counter = (element, slot, position, torch.full_like(position, int(purpose)))
    key = ((seeds & _MASK)[:, None, None], ((seeds >> 32) & _MASK)[:, None, None])
    four = torch.stack(philox4x32(counter, key), dim=-1)
    return four.reshape(len(seeds), slots.shape[-1], groups * 4)[..., :elements]


def uniform(word: Tensor) -> Tensor:
    """Words to float32 uniforms in [0, 1): 24 bits, so that none ever rounds up to 1."""
    return (word >> 8).float() * 2.0**-24


def exponential(word: Tensor) -> Tensor:
    """Words to float32 standard exponentials, precise where they are small.

    argmin E/w and argmax (log w − log E) both pick index i with probability w_i / Σw. The winners
    are the small E, so r must keep its precision near 0: log1p(−r), with r = (word + ½)/2^32. The
    usual −log(−log u) in float32 cannot give more than 16.6; this reaches 22.9.
    """
    r = ((word.float() + 0.5) * 2.0**-32).clamp(max=1 - 2.0**-24)
    return -torch.log1p(-r)
