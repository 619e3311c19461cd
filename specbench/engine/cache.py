"""A static key-value cache in which every sequence of a batch has its own length."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

BUCKET = 64
"""Attention reads the cache up to the longest sequence, rounded up to this many slots."""


class RaggedCache(Cache):  # type: ignore[misc]
    """Keys and values of fixed capacity, written at the positions of each sequence's own tokens.

    Nothing is ever rolled back: a rejected draft's keys stay until they are overwritten, and the
    mask hides every slot past the query's own position (hidden, not zeroed: a zero key would still
    add e⁰ to the softmax). One slot more than the capacity takes what must be written nowhere:
    padding of ragged prompts, and sequences that are finished.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(layers=[])
        self.capacity = capacity
        self.positions: Tensor
        self.window = 0
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []

    def place(self, positions: Tensor, longest: int) -> Tensor:
        """Says where the next forward's tokens stand, and what they may see.

        Args:
            positions: (B, T) int64; `capacity` means nowhere.
            longest: tokens of the longest sequence, these included; on the host.

        Returns:
            (B, 1, T, window) bool, True where a query may attend: slots up to its own.
        """
        self.positions = positions
        self.window = min(-(-longest // BUCKET) * BUCKET, self.capacity)
        slots = torch.arange(self.window, device=positions.device)
        return slots <= positions[:, None, :, None]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Writes one layer's (B, H, T, D) keys and values and returns all up to the window."""
        if layer_idx == len(self._keys):
            self._keys.append(self._empty(key_states))
            self._values.append(self._empty(value_states))
        keys, values = self._keys[layer_idx], self._values[layer_idx]
        slots = self.positions[:, None, :, None].expand_as(key_states)
        keys.scatter_(2, slots, key_states)
        values.scatter_(2, slots, value_states)
        return keys[:, :, : self.window], values[:, :, : self.window]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """transformers asks; positions are always given, so no answer is ever used."""
        return 0

    def _empty(self, states: Tensor) -> Tensor:
        batch, heads, _, width = states.shape
        return states.new_zeros(batch, heads, self.capacity + 1, width)
