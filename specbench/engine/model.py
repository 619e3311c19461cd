"""One causal language model as the loop sees it: tokens and positions in, logits out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from specbench.engine.attention import PAD, SPLIT, WINDOWS, implementation
from specbench.engine.cache import BUCKET, RaggedCache, causal_mask
from specbench.engine.compiled import CompiledModel
from specbench.engine.sight import Sight
from specbench.engine.sliding import FULL, SLIDING, sliding, window_of
from specbench.errors import InputError


class CausalModel:
    """A transformers decoder-only model.

    Args:
        model: an `AutoModelForCausalLM`, in eval mode, on its device.

    Raises:
        InputError: its attention is of a kind that the ragged mask does not say.
    """

    def __init__(self, model: Any) -> None:
        config = model.config.get_text_config()
        _check_attention(config)
        self.model = model
        self.device: torch.device = model.device
        self.dtype: torch.dtype = model.dtype
        self.vocab_size = int(model.get_output_embeddings().weight.shape[0])
        self.parameters = int(model.num_parameters())
        self._sliding = sliding(model)
        # A window that the model cuts by itself, counted from the last slot that is read.
        self._window = None if self._sliding else window_of(config)
        self.max_positions = _longest_context(config, self._window)
        # An older architecture has its own attention, which adds the mask as it should.
        self.has_our_attention = bool(getattr(model, "_supports_attention_backend", True))
        self._compiled: CompiledModel | None = None

    def new_cache(self, size: int, capacity: int) -> RaggedCache:
        """For so many sequences of so many tokens."""
        return RaggedCache(size, capacity)

    def allocate(self, cache: RaggedCache, attention: str = PAD) -> None:
        """Takes the cache's memory, by a forward of one token that goes nowhere."""
        nowhere = torch.full((cache.size, 1), cache.capacity, device=self.device)
        windows = [min(BUCKET, cache.capacity)] * cache.size
        self.forward(torch.zeros_like(nowhere), nowhere, cache, windows, attention=attention)

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
        sight: Sight | None = None,
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
            sight: what `look` says of these positions and the widest window; None asks it.

        Returns:
            (B, T or keep, V) in the model's dtype.
        """
        width = min(max(windows), self._window or cache.capacity)
        if sight is None:
            sight = self.look(positions, width, cache.capacity)
        cache.place(positions, width, rows)
        self._attend_by(attention)
        more = {WINDOWS: tuple(windows)} if attention == SPLIT else {}
        return self._logits(
            cache,
            keep,
            compiled,
            input_ids=tokens,
            attention_mask=sight.mask,
            position_ids=sight.places,
            **more,
        )

    def look(self, positions: Tensor, window: int, nowhere: int) -> Sight:
        """What tokens at (B, T) positions see of the first slots of a cache: those up to their own, and
        in a layer that slides those of its window."""
        width = min(window, self._window or nowhere, nowhere)
        mask: Any = causal_mask(positions, width, self.dtype)
        if self._sliding is not None:
            mask = self._sliding.masks(mask, positions, nowhere)
        return Sight(positions.masked_fill(positions == nowhere, 0), mask)

    def _logits(self, cache: RaggedCache, keep: int, compiled: bool, **inputs: Any) -> Tensor:
        call = self._compiled_model(self.model, cache) if compiled else self.model
        out = call(past_key_values=cache, use_cache=True, logits_to_keep=keep, **inputs)
        logits: Tensor = out.logits
        return logits

    def _attend_by(self, attention: str) -> None:
        if not self.has_our_attention:
            if attention != PAD:
                raise InputError(
                    f"{type(self.model).__name__} has its own attention, which cannot be {attention}",
                    "Give --attention pad.",
                )
            return
        name = implementation(attention)
        if self.model.config._attn_implementation != name:
            self.model.set_attn_implementation(name)

    def _compiled_model(self, model: Any, cache: RaggedCache) -> Callable[..., Any]:
        if self._compiled is None:
            self._compiled = CompiledModel(model, self.has_our_attention)
        return partial(self._compiled, cache)


def _longest_context(config: Any, window: int | None) -> int | None:
    """Tokens up to which the model is itself: its positions, or a window that no mask can tell it."""
    limits = [
        getattr(config, "max_position_embeddings", None),
        getattr(config, "max_target_positions", None),  # a speech model's decoder
        window,
    ]
    return min((int(limit) for limit in limits if limit), default=None)


def _check_attention(config: Any) -> None:
    name = config.architectures[0] if getattr(config, "architectures", None) else config.model_type
    kinds = set(getattr(config, "layer_types", None) or ())
    others = kinds - {FULL, SLIDING}
    if others:
        raise InputError(
            f"{name} has layers of {', '.join(sorted(others))}, which the engine does not know",
            "Choose a model with full or sliding attention.",
        )
    if getattr(config, "use_bidirectional_attention", None) is True:
        raise InputError(
            f"{name} lets a token see what follows it, so it cannot write one after the other",
            "Choose a model that was trained to write.",
        )
    if getattr(config, "alibi", False) or config.model_type == "bloom":
        raise InputError(
            f"{name} tells positions by a bias of the attention (ALiBi), which the engine does not know",
            "Choose a model with rotary or learned positions.",
        )
