"""Encoder-decoder speech models as the loop sees them: a decoder that has heard something.

The encoder runs once for each sequence, when it takes its slot. What the decoder's layers attend to, the
encoder's output through their own projections, stays in static memory beside the ragged cache.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, EncoderDecoderCache

from specbench.engine.attention import PAD
from specbench.engine.cache import RaggedCache
from specbench.engine.model import CausalModel

FRAME_S = 0.02
"""Seconds of audio that a frame of the encoder's output stands for: two of 160 samples, at 16 kHz."""


class SpeechCache(RaggedCache):
    """The decoder's own keys and values, and those of what it has heard.

    Memory besides a `RaggedCache`'s: 2 · layers · B · H · S · D · itemsize bytes, S the encoder's frames.
    """

    def __init__(self, size: int, capacity: int, layers: int) -> None:
        super().__init__(size, capacity)
        self._heard = _Heard(layers)
        self._listens = False

    @property
    def both(self) -> EncoderDecoderCache:
        """As transformers wants it; made anew for each forward. Kept, it would hold this cache and be
        held by it, so that their memory would wait for the garbage collector."""
        pair = EncoderDecoderCache(self, self._heard)
        pair.is_updated = dict.fromkeys(range(len(self._heard)), not self._listens)
        return pair

    def place(self, positions: Tensor, window: int, rows: slice | None = None) -> None:
        """See `RaggedCache.place`."""
        super().place(positions, window, rows)
        for layer in self._heard.layers:
            layer.rows = rows

    @property
    def allocated_bytes(self) -> int:
        """The memory that was taken."""
        return super().allocated_bytes + self._heard.allocated_bytes

    def heard(self, index: int) -> tuple[Tensor, Tensor]:
        """(B, H, S, D) each."""
        layer = self._heard.layers[index]
        return layer.keys, layer.values

    def hear_nothing(self, silence: Tensor) -> None:
        """Takes the memory for what layers hear, (B, H, S, D) each, like this."""
        for layer in self._heard.layers:
            layer.memory = [silence.clone(), silence.clone()]

    def listen(self, now: bool) -> None:
        """Whether the next forwards keep an encoder's output, or attend to what was kept of one."""
        self._listens = now


class _Heard(Cache):  # type: ignore[misc]
    """The side of a `SpeechCache` that transformers calls its cross-attention cache."""

    def __init__(self, layers: int) -> None:
        super().__init__(layers=[_Layer() for _ in range(layers)])

    @property
    def allocated_bytes(self) -> int:
        return sum(one.nbytes for layer in self.layers for one in layer.memory)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        return self.layers[layer_idx].keep(key_states, value_states)  # type: ignore[no-any-return]


class _Layer:
    """What one layer has heard, (B, H, S, D) each; `rows`: of which sequences the next forward asks."""

    def __init__(self) -> None:
        self.rows: slice | None = None
        self.memory: list[Tensor] = []

    @property
    def keys(self) -> Tensor:
        return self._rows(self.memory[0])

    @property
    def values(self) -> Tensor:
        return self._rows(self.memory[1])

    def keep(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        self.keys.copy_(keys)
        self.values.copy_(values)
        return self.keys, self.values

    def _rows(self, memory: Tensor) -> Tensor:
        return memory if self.rows is None else memory[self.rows]


class SpeechModel(CausalModel):
    """A transformers encoder-decoder model of Whisper's kind.

    Its vocabulary, positions and cache are the decoder's.

    Args:
        model: an `AutoModelForSpeechSeq2Seq`, in eval mode, on its device.

    Attributes:
        encoder: the part that hears; two models may share one.
        parameters: the decoder's, which work on every token.
        encoder_parameters: the encoder's, which work on every frame.
        frames: S, of the encoder's output.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.has_our_attention = True  # it does, though transformers' flag, meant for text, says no
        config = model.config
        self.encoder, self._decoder = model.get_encoder(), model.get_decoder()
        self.encoder_parameters = int(self.encoder.num_parameters())
        self.parameters = int(self._decoder.num_parameters())
        self.frames, self._width = int(config.max_source_positions), int(config.d_model)
        self._layers, self._heads = int(config.decoder_layers), int(config.decoder_attention_heads)
        # Stands for the encoder's output where that is kept: without one the decoder does not attend.
        self._heard = torch.zeros(1, 1, self._width, dtype=self.dtype, device=self.device)

    def new_cache(self, size: int, capacity: int) -> SpeechCache:
        """As of `CausalModel`."""
        return SpeechCache(size, capacity, self._layers)

    def allocate(self, cache: RaggedCache, attention: str = PAD) -> None:
        """Takes the cache's memory; nothing has been heard."""
        assert isinstance(cache, SpeechCache)
        cache.hear_nothing(
            self._heard.new_zeros(cache.size, self._heads, self.frames, self._width // self._heads)
        )
        super().allocate(cache, attention)

    @torch.no_grad()
    def encode(self, features: Tensor, attention: str = PAD) -> Tensor:
        """(B, S, width) in the model's dtype, of (B, mel bins, frames of audio) features."""
        self._attend_by(attention)
        out: Tensor = self.encoder(features.to(self.device, self.dtype)).last_hidden_state
        return out

    def listen(
        self, heard: Tensor, cache: RaggedCache, rows: slice | None = None, attention: str = PAD
    ) -> None:
        """Keeps what the decoder's layers make of an encoder's output, by a token that goes nowhere.

        Args:
            heard: (B, S, width).
            cache: this model's.
            rows: the sequences of the cache that the B are; None is all.
            attention: "pad" or "split".
        """
        assert isinstance(cache, SpeechCache)
        nowhere = torch.full((len(heard), 1), cache.capacity, device=self.device)
        nothing, self._heard = self._heard, heard
        cache.listen(True)
        try:
            self.forward(
                torch.zeros_like(nowhere), nowhere, cache, [1] * len(heard), keep=1, rows=rows,
                attention=attention,
            )  # fmt: skip
        finally:
            self._heard = nothing
            cache.listen(False)

    def _logits(self, cache: RaggedCache, keep: int, compiled: bool, **inputs: Any) -> Tensor:
        assert isinstance(cache, SpeechCache)
        call = self._compiled_model(self._decoder, cache) if compiled else self._decoder
        hidden = call(
            past_key_values=cache.both, use_cache=True, encoder_hidden_states=self._heard, **inputs
        ).last_hidden_state
        logits: Tensor = self.model.get_output_embeddings()(hidden[:, -keep:])
        return logits
