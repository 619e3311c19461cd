"""Sliding windows: layers in which a token sees the last so many tokens, itself among them, and no more.

The ragged cache keeps all positions, those behind the window too, and attention reads over them: all of a
sequence's layers know a token's place in one way. So a window saves no memory and no reading here.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

FULL, SLIDING = "full_attention", "sliding_attention"
"""What transformers calls the kinds of layers, and the masks of a model that has both."""
THEIRS = "create_sliding_window_causal_mask"
"""The function of transformers by which a model makes its own mask. It hands a ready one through."""


@dataclass(frozen=True)
class Sliding:
    """How a model with sliding layers is told what its tokens see.

    Attributes:
        window: tokens that a token of a sliding layer sees, itself included.
        by_layer: whether the model takes a mask for each kind of layer; else all slide, and take one.
    """

    window: int
    by_layer: bool

    def masks(self, mask: Tensor, positions: Tensor, nowhere: int) -> Tensor | dict[str, Tensor]:
        """What the model takes, made of the mask of a layer that does not slide; see `slide`."""
        slid = slide(mask, positions, self.window, nowhere)
        return {FULL: mask, SLIDING: slid} if self.by_layer else slid


def slide(mask: Tensor, positions: Tensor, window: int, nowhere: int) -> Tensor:
    """Hides the slots at or before position − window, as transformers' masks do.

    Args:
        mask: (B, 1, T, W), added to the scores, that hides what follows a token.
        positions: (B, T) int64, of the queries.
        window: tokens that are seen.
        nowhere: the position of a token that counts for nothing. It goes on seeing all, since a softmax
            over nothing is NaN.

    Returns:
        (B, 1, T, W); the mask itself if no slot of it can be so far behind.
    """
    if mask.shape[-1] <= window:
        return mask
    last = (positions - window).masked_fill(positions == nowhere, -1)
    slots = torch.arange(mask.shape[-1], device=mask.device)
    return mask.masked_fill(slots <= last[:, None, :, None], -torch.inf)


def sliding(model: Any) -> Sliding | None:
    """How to tell a model; None if it does not slide, or cannot be told."""
    config = model.config.get_text_config()
    window = window_of(config)
    modules = {type(one).__module__ for one in model.modules()}
    if window is None or not any(hasattr(sys.modules[name], THEIRS) for name in modules):
        return None
    return Sliding(window, by_layer=getattr(config, "layer_types", None) is not None)


def window_of(config: Any) -> int | None:
    """The window of the layers that slide; None if none does."""
    kinds = getattr(config, "layer_types", None)
    if "local" in (getattr(config, "attention_layers", None) or ()):  # GPT-Neo
        return int(config.window_size)
    window = getattr(config, "sliding_window", None)
    return int(window) if window and (kinds is None or SLIDING in kinds) else None
