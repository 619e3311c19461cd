"""The device's side of a batch: each slot's tokens, length and state, moved on without the host.

A slot is a row of every tensor here and of both caches. Its memory never moves, so that a captured
graph finds what changed since.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from specbench.sampling.verifier import Verification

RUNNING, EOS, LENGTH, BROKEN = range(4)
"""What became of a slot in a step: it goes on, ended by an end token or at its limit, or its rows were
no distribution."""
FACTS = 4
"""Columns of a report before the tokens: drafts offered, drafts kept, tokens kept, what became of it."""


class Seat(NamedTuple):
    """A sequence that takes a slot: its prompt, the tokens at which it ends, and its seed."""

    prompt: Sequence[int]
    limit: int
    seed: int


@dataclass(frozen=True)
class Report:
    """A step, read from the device at once. Lists by slot; those of empty slots mean nothing.

    Attributes:
        offered: drafts offered to the verifier.
        accepted: drafts kept; not those past an end token.
        tokens: the tokens that the step added.
        state: RUNNING, EOS, LENGTH or BROKEN.
    """

    offered: list[int]
    accepted: list[int]
    tokens: list[list[int]]
    state: list[int]


class Slots:
    """Tokens (B, capacity + 1) and, of each of the B slots, how far it is.

    Args:
        size: B.
        capacity: the most tokens that a sequence may hold, drafts included.
        eos_tokens: ids that end a sequence.
        most_drafts: of a step.

    Attributes:
        lengths: (B,) int64, tokens held.
        begins: (B,) int64, tokens of its prompt.
        limits: (B,) int64, tokens at which the sequence ends.
        seeds: (B,) int64.
        running: (B,) bool.
    """

    def __init__(
        self,
        size: int,
        capacity: int,
        most_drafts: int,
        eos_tokens: Sequence[int],
        device: torch.device,
    ) -> None:
        self.size, self.capacity = size, capacity
        self.tokens = torch.zeros(size, capacity + 1, dtype=torch.int64, device=device)
        self.lengths, self.begins, self.limits, self.seeds = (
            torch.zeros(size, dtype=torch.int64, device=device) for _ in range(4)
        )
        self.running = torch.zeros(size, dtype=torch.bool, device=device)
        self._report = torch.zeros(size, FACTS + most_drafts + 1, dtype=torch.int64, device=device)
        self._rows = torch.arange(size, device=device)[:, None]
        self._eos = torch.tensor(sorted(eos_tokens), dtype=torch.int64, device=device)

    def seat(self, seats: Mapping[int, Seat]) -> None:
        """Sequences take these slots, with few copies whatever their number."""
        device, taken = self.tokens.device, list(seats.values())
        slots = torch.tensor(list(seats), device=device)
        prompts = [torch.tensor(one.prompt) for one in taken]
        padded = pad_sequence(prompts, batch_first=True).to(device)
        self.tokens[slots, : padded.shape[1]] = padded
        facts = torch.tensor([[len(one.prompt), one.limit, one.seed] for one in taken]).to(device)
        self.lengths[slots] = self.begins[slots] = facts[:, 0]
        self.limits[slots], self.seeds[slots] = facts[:, 1], facts[:, 2]
        self.running[slots] = True

    def leave(self, slot: int) -> None:
        """The slot's sequence goes on no more, though no end token said so. The host does not wait."""
        self.running[slot].fill_(False)

    def state(self) -> tuple[Tensor, Tensor]:
        """What a commit changes for good; what it writes past the lengths is nobody's."""
        return self.lengths.clone(), self.running.clone()

    def restore(self, state: tuple[Tensor, Tensor]) -> None:
        """Undoes the commits since `state`."""
        self.lengths.copy_(state[0])
        self.running.copy_(state[1])

    def clear(self) -> None:
        """Empties all slots."""
        self.running.zero_()

    def positions(self, first: int, count: int) -> Tensor:
        """(B, count): where a sequence's tokens stand, its drafts too, from its length + `first` on.

        Nowhere if the slot is empty, before the sequence's begin, or if it could not keep the draft: a
        neighbour drafts on.
        """
        shift = torch.arange(first, first + count, device=self.lengths.device)
        places = self.lengths[:, None] + shift
        real = (places >= 0) & (places < self.limits[:, None]) & self.running[:, None]
        return torch.where(real, places, self.capacity)

    def tokens_at(self, positions: Tensor) -> Tensor:
        """(B, T) tokens at such positions; anything where that is nowhere."""
        return self.tokens[self._rows, positions]

    def prompts(self, start: int, width: int, rows: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Tokens and positions, (rows, width) each, of sequences up to their last token but one.

        What comes after that, or of an empty slot, is nowhere.
        """
        shift = torch.arange(start, start + width, device=self.lengths.device)
        real = (shift < self.lengths[rows, None] - 1) & self.running[rows, None]
        places = torch.where(real, shift, self.capacity)
        return self.tokens[self._rows[rows], places], places

    def worth_verifying(self, draft_tokens: Tensor) -> Tensor:
        """(B,) int64: how many of (B, γ) drafts are worth verifying.

        None of an empty slot; none past the token limit, since the verifier adds a token; and none
        after an end token, since they could not be kept.
        """
        gamma = draft_tokens.shape[1]
        ends = self._is_end(draft_tokens).long()
        before_end = (ends.cumsum(1) - ends == 0).sum(1)
        room = (self.limits - self.lengths - 1).clamp(0, gamma)
        return torch.where(self.running, torch.minimum(room, before_end), 0)

    def commit(self, result: Verification, offered: Tensor) -> None:
        """Takes over a step's tokens, and writes the report that `report` reads."""
        # Another project's method may accept what was not offered: it is not taken.
        tokens, counts = result.tokens, torch.minimum(result.num_accepted, offered)
        column = torch.arange(tokens.shape[1], device=tokens.device)
        emitted = (column <= counts[:, None]) & (tokens >= 0)
        ends = (self._is_end(tokens) & emitted).long()
        kept = emitted & (ends.cumsum(1) - ends == 0) & self.running[:, None]
        number = kept.sum(1)
        places = torch.where(kept, self.lengths[:, None] + column, self.capacity)
        self.tokens.scatter_(1, places, tokens.clamp(min=0))
        self.lengths.add_(number)
        broken = tokens.gather(1, counts[:, None])[:, 0] < 0
        state = torch.where(self.lengths >= self.limits, LENGTH, RUNNING)
        state = torch.where(broken, BROKEN, state)
        state = torch.where(ends.any(1), EOS, state)  # of a text that has ended no row is asked
        self.running.logical_and_(state == RUNNING)
        accepted = torch.minimum(counts, number)
        facts = torch.stack([offered, accepted, number, state], 1)
        self._report[:, : FACTS + tokens.shape[1]] = torch.cat([facts, tokens], 1)

    def report(self, gamma: int) -> Report:
        """The last step's, of γ drafts. The one place where the host waits for the device."""
        rows = self._report[:, : FACTS + gamma + 1].tolist()
        return Report(
            offered=[row[0] for row in rows],
            accepted=[row[1] for row in rows],
            tokens=[row[FACTS : FACTS + row[2]] for row in rows],
            state=[row[3] for row in rows],
        )

    def _is_end(self, tokens: Tensor) -> Tensor:
        return (tokens[..., None] == self._eos).any(-1)
