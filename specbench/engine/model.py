"""One causal language model as the loop sees it: tokens and positions in, logits out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from specbench.engine.cache import RaggedCache


class CausalModel:
    """A transformers decoder-only model.

    Args:
        model: an `AutoModelForCausalLM`, in eval mode, on its device.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.device: torch.device = model.device
        self.dtype: torch.dtype = model.dtype
        self.vocab_size = int(model.get_output_embeddings().weight.shape[0])
        self.parameters = int(model.num_parameters())
        self.max_positions = _longest_context(model.config)

    @torch.inference_mode()
    def forward(
        self, tokens: Tensor, positions: Tensor, cache: RaggedCache, longest: int, *, keep: int = 0
    ) -> Tensor:
        """Logits of the tokens' successors; writes the tokens into the cache.

        Args:
            tokens: (B, T) int64.
            positions: (B, T) int64; `cache.capacity` marks a token that counts for nothing.
            cache: this model's.
            longest: tokens of the longest sequence, these included.
            keep: logits of the last `keep` tokens only; 0 means all.

        Returns:
            (B, T or keep, V) in the model's dtype.
        """
        mask = cache.place(positions, longest)
        # Nowhere is a slot of the cache, not a position: learned positions end before it.
        places = positions.masked_fill(positions == cache.capacity, 0)
        out = self.model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=places,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=keep,
        )
        logits: Tensor = out.logits
        return logits


def _longest_context(config: Any) -> int | None:
    """Tokens up to which the model is itself: its positions, or its sliding window if that is less.

    The ragged mask lets every token see all before it, which is a sliding window's own law only while
    the sequence fits into it.
    """
    kinds = getattr(config, "layer_types", None)
    slides = any(kind == "sliding_attention" for kind in kinds) if kinds else True
    limits = [
        getattr(config, "max_position_embeddings", None),
        getattr(config, "sliding_window", None) if slides else None,
    ]
    return min((int(limit) for limit in limits if limit), default=None)
