"""Attention over a ragged cache, in the two ways of BASS (2404.15778), for transformers' models.

PAD: one attention for the whole batch, as wide as its longest sequence; a mask hides what a shorter
one does not have. SPLIT: one attention for each sequence, as wide as that sequence. SPLIT reads
less where lengths differ, and launches more.

A model that caps its scores (Gemma 2) has them computed operation by operation, since torch's fused
attention cannot: see `_attend_capped` for what that costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

PAD, SPLIT = "pad", "split"
FEW_QUERIES, WIDEST, HALF = 64, 128, (torch.float16, torch.bfloat16)
"""Queries of a sequence, their width and dtype, for which on a GPU of NVIDIA's Hopper or later each query
becomes a head of its own. Then cuDNN cuts the keys into parts, for as many processors as there are: six
queries of 32 heads over 704 keys take 14 µs instead of 24, over 4096 keys 36 instead of 93 (H100)."""
WINDOWS = "specbench_windows"
"""Keyword under which a forward hands SPLIT the slots that each sequence attends to."""


def implementation(name: str) -> str:
    """transformers' name for "pad" or "split", after making it known there."""
    functions = {PAD: attend_padded, SPLIT: attend_split}
    AttentionInterface.register(f"specbench_{name}", functions[name])
    # For whoever calls the model himself, and leaves the mask to transformers.
    AttentionMaskInterface.register(f"specbench_{name}", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    return f"specbench_{name}"


def attend_padded(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """One attention for all sequences.

    Args:
        module: of the model; it holds the place of its keys while compiled code runs.
        query: (B, H, T, D).
        key, value: (B, H', W, D) where H' divides H: a key head serves H / H' query heads in turn.
        attention_mask: (B, 1, T, W), added to the scores; None if it is not the engine that calls.
        scaling: of the scores; None is 1/√D.
        softcap: c of scores that become c·tanh(scores / c); None leaves them as they are.
        kwargs: what other implementations take.

    Returns:
        (B, T, H, D), and None for the weights, which nobody asks for.

    Raises:
        NotImplementedError: the model wants sinks beside its keys.
    """
    _refuse_more(kwargs)
    key, value = _placed(module, key, value)
    if attention_mask is None and softcap is None:
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, None, scaling=scaling, **kwargs
        )
        return found
    return _attend(query, key, value, attention_mask, scaling, softcap), None


def attend_split(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """One attention for each sequence, over as many slots as `kwargs[WINDOWS]` says for it.

    Otherwise as `attend_padded`, which does it if the model does not hand the windows through.
    """
    _refuse_more(kwargs)
    windows: Sequence[int] | None = kwargs.get(WINDOWS)
    if windows is None or attention_mask is None:
        return attend_padded(module, query, key, value, attention_mask, scaling, softcap, **kwargs)
    key, value = _placed(module, key, value)
    found = [
        _attend(
            query[i : i + 1], key[i : i + 1, :, :window], value[i : i + 1, :, :window],
            attention_mask[i : i + 1, :, :, :window], scaling, softcap,
        )
        for i, window in enumerate(windows)
    ]  # fmt: skip
    return torch.cat(found), None


def _placed(module: Any, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """In compiled code the cache has handed the new keys on, and the attention writes them."""
    place = getattr(module, "specbench_place", None)
    return (key, value) if place is None else place.write(key, value)


def _refuse_more(wanted: Mapping[str, Any]) -> None:
    if wanted.get("s_aux") is not None:
        raise NotImplementedError("this model has attention sinks, which the engine does not know")


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float | None,
    softcap: float | None,
) -> Tensor:
    """torch's attention over heads that share keys, in the layout that it is fastest in."""
    if softcap is not None:
        return _attend_capped(query, key, value, mask, scaling, softcap)
    assert mask is not None
    batch, heads, length, width = query.shape
    groups = heads // key.shape[1]
    is_half = query.dtype in HALF
    if _is_by_cudnn(query.device) and is_half and width <= WIDEST and length <= FEW_QUERIES:
        # Each query becomes a head of its own, of which cuDNN cuts the keys into parts.
        query = query.reshape(batch, heads * length, 1, width)
        if length > 1:
            mask = mask.expand(-1, heads, -1, -1).reshape(batch, heads * length, 1, -1)
        out = scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )  # fmt: skip
    else:
        # Query heads that share a key head become more queries of it, so that no key is copied.
        if groups > 1:
            query = query.reshape(batch, key.shape[1], groups * length, width)
            mask = mask.repeat(1, 1, groups, 1)
        out = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    return out.reshape(batch, heads, length, value.shape[-1]).transpose(1, 2).contiguous()


def _attend_capped(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float | None,
    softcap: float,
) -> Tensor:
    """Attention with capped scores (Gemma 2, 2408.00118, section 2), the softmax in float32.

    All scores lie in memory, up to 8 bytes for each head, query and slot, and nine operations read or
    write them, where fused attention keeps them on the chip. That is little beside the weights in a step
    of a few tokens, and much in a prompt of thousands.

    Args:
        mask: also, from whoever calls the model himself, of bool, where False hides; or None, if a query
            sees all up to its own place and the last query is at the last slot.
    """
    batch, heads, length, width = query.shape
    shared = query.reshape(batch, key.shape[1], -1, width)  # as more queries of each key head
    scores = shared @ key.transpose(2, 3)
    scores = scores.view(batch, key.shape[1], -1, length, key.shape[2])
    scores = scores.mul_(width**-0.5 if scaling is None else scaling)
    scores = scores.div_(softcap).tanh_().mul_(softcap)
    if mask is None:
        mask = torch.ones_like(scores[:1, 0, :1], dtype=torch.bool).tril(key.shape[2] - length)
    if mask.dtype == torch.bool:
        scores = scores.masked_fill_(~mask[:, None], torch.finfo(scores.dtype).min)
    else:
        scores = scores.add_(mask[:, None])
    wide = torch.promote_types(scores.dtype, torch.float32)
    weights = scores.softmax(-1, dtype=wide).to(value.dtype)
    out = weights.view(batch, key.shape[1], -1, key.shape[2]) @ value
    return out.view(batch, heads, length, value.shape[-1]).transpose(1, 2).contiguous()


# Asked of a compiler's trace too, which takes a bool for a constant, but not what it is made of.
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _is_by_cudnn(device: torch.device) -> bool:
    """Whether torch prefers cuDNN's attention on the device: Hopper and later."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
