"""A static key-value cache in which every sequence of a batch has its own length."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

BUCKET = 64
"""Attention reads the cache up to the sequence's length, rounded up to this many slots."""


class RaggedCache(Cache):  # type: ignore[misc]
    """Keys and values of fixed capacity, written at the positions of each sequence's own tokens.

    Nothing is ever rolled back: a rejected draft's keys stay until they are overwritten, and the
    mask hides every slot past the query's own position (hidden, not zeroed: a zero key would still
    add e⁰ to the softmax). One slot more than the capacity takes what must be written nowhere:
    padding of ragged prompts, and sequences that are finished.

    Memory is taken at the first forward: 2 · layers · B · H · (capacity + 1) · D · itemsize bytes.
    """

    def __init__(self, size: int, capacity: int) -> None:
        super().__init__(layers=[])
        self.size, self.capacity = size, capacity
        self.positions: Tensor
        self.window = 0
        self.rows: slice | None = None
        self.is_placed = False
        """Whether the attentions write for themselves (`compiled`)."""
        self.handed_on: list[Tensor] | None = None
        """What the last layer then gave, where somebody wants to know."""
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []

    @property
    def allocated(self) -> bool:
        """Whether the memory has been taken."""
        return bool(self._keys)

    @property
    def allocated_bytes(self) -> int:
        """The memory that was taken."""
        return sum(one.nbytes for one in [*self._keys, *self._values])

    def place(self, positions: Tensor, window: int, rows: slice | None = None) -> None:
        """Says where the next forward's tokens stand, and how much is read.

        Args:
            positions: (B, T) int64; `capacity` means nowhere.
            window: slots that are read, at most the capacity; no token may stand past them.
            rows: the sequences that the B are, of those of the batch; None is all.
        """
        self.positions, self.rows = positions, rows
        self.window = min(window, self.capacity)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Writes one layer's (B, H, T, D) keys and values and returns all up to the window."""
        if self.is_placed:
            if self.handed_on is not None:
                self.handed_on[:] = [key_states, value_states]
            return key_states, value_states
        if layer_idx == len(self._keys):
            self._keys.append(self._empty(key_states))
            self._values.append(self._empty(value_states))
        keys, values = self._keys[layer_idx], self._values[layer_idx]
        if self.rows is not None:
            keys, values = keys[self.rows], values[self.rows]
        write(keys, self.positions, key_states)
        write(values, self.positions, value_states)
        return keys[:, :, : self.window], values[:, :, : self.window]

    @property
    def layers_held(self) -> int:
        """How many layers' memory has been taken."""
        return len(self._keys)

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """A layer's keys and values, (B, H, capacity + 1, D) each, once memory is taken."""
        return self._keys[index], self._values[index]

    def heard(self, index: int) -> tuple[Tensor, Tensor]:
        """What a layer attends to of an encoder's output; a text model has none."""
        raise NotImplementedError

    def clear(self, rows: slice = slice(None)) -> None:
        """Zeroes what these sequences left: the mask hides their keys, but not if they hold a NaN."""
        for one in [*self._keys, *self._values]:
            one[rows].zero_()

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """transformers asks; positions are always given, so no answer is ever used."""
        return 0

    def _empty(self, states: Tensor) -> Tensor:
        _, heads, _, width = states.shape
        return states.new_zeros(self.size, heads, self.capacity + 1, width)


def causal_mask(positions: Tensor, window: int, dtype: torch.dtype) -> Tensor:
    """(B, 1, T, window): 0 where a token at (B, T) positions may attend, slots up to its own; −inf
    elsewhere."""
    slots = torch.arange(window, device=positions.device)
    hidden = slots > positions[:, None, :, None]
    nothing = torch.zeros((), dtype=dtype, device=positions.device)
    return nothing.masked_fill(hidden, -torch.inf)


def write(memory: Tensor, positions: Tensor, states: Tensor) -> None:
    """Puts (B, H, T, D) states at their (B, T) positions of (B, H, capacity + 1, D) memory.

    By index: of a scatter, torch.compile makes a copy of the whole memory.
    """
    rows = torch.arange(len(positions), device=positions.device)[:, None]
    memory[rows, :, positions] = states.transpose(1, 2)
