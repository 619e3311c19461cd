"""One causal language model as the loop sees it: tokens and positions in, logits out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from specbench.engine.attention import PAD, SPLIT, WINDOWS, implementation
from specbench.engine.cache import RaggedCache
from specbench.engine.compiled import CompiledModel
from specbench.errors import InputError


class CausalModel:
    """A transformers decoder-only model.

    Args:
        model: an `AutoModelForCausalLM`, in eval mode, on its device.

    Raises:
        InputError: its attention is of a kind that the ragged mask does not say.
    """

    def __init__(self, model: Any) -> None:
        _check_attention(model.config)
        self.model = model
        self.device: torch.device = model.device
        self.dtype: torch.dtype = model.dtype
        self.vocab_size = int(model.get_output_embeddings().weight.shape[0])
        self.parameters = int(model.num_parameters())
        self.max_positions = _longest_context(model.config)
        self._compiled: CompiledModel | None = None

    @torch.no_grad()
    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        cache: RaggedCache,
        windows: Sequence[int],
        *,
        keep: int = 0,
        rows: slice | None = None,
        attention: str = PAD,
        compiled: bool = False,
    ) -> Tensor:
        """Logits of the tokens' successors; writes the tokens into the cache.

        Args:
            tokens: (B, T) int64.
            positions: (B, T) int64; `cache.capacity` marks a token that counts for nothing.
            cache: this model's.
            windows: for each sequence, slots of the cache that hold all its tokens, these included.
            keep: logits of the last `keep` tokens only; 0 means all.
            rows: the sequences of the cache that the B are; None is all.
            attention: "pad" or "split".
            compiled: through torch.compile, which happens at the first call of each shape.

        Returns:
            (B, T or keep, V) in the model's dtype.
        """
        mask = cache.place(positions, max(windows), self.dtype, rows)
        # Nowhere is a slot of the cache, not a position: learned positions end before it.
        places = positions.masked_fill(positions == cache.capacity, 0)
        self._attend_by(attention)
        out = (self._compile() if compiled else self.model)(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=places,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=keep,
            **({WINDOWS: tuple(windows)} if attention == SPLIT else {}),
        )
        logits: Tensor = out.logits
        return logits

    def _attend_by(self, attention: str) -> None:
        if not getattr(self.model, "_supports_attention_backend", True):
            # An older architecture, whose own attention adds the mask as it should.
            if attention != PAD:
                raise InputError(
                    f"{type(self.model).__name__} has its own attention, which cannot be {attention}",
                    "Give --attention pad.",
                )
            return
        name = implementation(attention)
        if self.model.config._attn_implementation != name:
            self.model.set_attn_implementation(name)

    def _compile(self) -> CompiledModel:
        if self._compiled is None:
            self._compiled = CompiledModel(self.model)
        return self._compiled


def _longest_context(config: Any) -> int | None:
    """Tokens up to which the model is itself: its positions, or its sliding window if that is less.

    The ragged mask lets every token see all before it, which is a sliding window's own law only while
    the sequence fits into it.
    """
    kinds = getattr(config, "layer_types", None)
    slides = any(kind == "sliding_attention" for kind in kinds) if kinds else True
    is_local = "local" in (getattr(config, "attention_layers", None) or ())  # GPT-Neo
    limits = [
        getattr(config, "max_position_embeddings", None),
        getattr(config, "sliding_window", None) if slides else None,
        getattr(config, "window_size", None) if is_local else None,
    ]
    return min((int(limit) for limit in limits if limit), default=None)


def _check_attention(config: Any) -> None:
    name = config.architectures[0] if getattr(config, "architectures", None) else config.model_type
    kinds = set(getattr(config, "layer_types", None) or ())
    others = kinds - {"full_attention", "sliding_attention"}
    if others:
        raise InputError(
            f"{name} has layers of {', '.join(sorted(others))}, which the engine does not know",
            "Choose a model with full or sliding attention.",
        )
    if getattr(config, "alibi", False) or config.model_type == "bloom":
        raise InputError(
            f"{name} tells positions by a bias of the attention (ALiBi), which the engine does not know",
            "Choose a model with rotary or learned positions.",
        )
