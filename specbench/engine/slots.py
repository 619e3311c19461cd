"""The device's side of a batch: each slot's tokens, length and state, moved on without the host.

A slot is a row of every tensor here and of both caches. Its memory never moves, so that a captured
graph finds what changed since.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from specbench.sampling.verifier import Verification

RUNNING, EOS, LENGTH, BROKEN = range(4)
"""What became of a slot in a step: it goes on, ended by an end token or at its limit, or its rows were
no distribution."""
FACTS = 4
"""Columns of a report before the tokens: drafts offered, drafts kept, tokens kept, what became of it."""


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

    def seat(self, slot: int, prompt: Sequence[int], limit: int, seed: int) -> None:
        """A sequence takes the slot."""
        device = self.tokens.device
        self.tokens[slot, : len(prompt)] = torch.tensor(prompt, device=device)
        self.lengths[slot] = self.begins[slot] = len(prompt)
        self.limits[slot], self.seeds[slot] = limit, seed
        self.running[slot] = True

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
        """(B, count): where each sequence's drafts stand, from the one numbered `first` on.

        Nowhere if the slot is empty, or if it could not keep the draft: a neighbour drafts on.
        """
        places = self.lengths[:, None] + first + torch.arange(count, device=self.lengths.device)
        kept = self.running[:, None] & (places < self.limits[:, None])
        return torch.where(kept, places, self.capacity)

    def feed(
        self,
        start: Tensor | int,
        width: int,
        until: Tensor | None = None,
        rows: slice | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Tokens and positions, (rows, width) each, from `start` on.

        Positions before 0, at or past `until` (the sequence's end), or of an empty slot, are nowhere.
        """
        stop = self.lengths if until is None else until
        first = start if isinstance(start, Tensor) else torch.full_like(self.lengths, start)
        rows = slice(None) if rows is None else rows
        places = first[rows, None] + torch.arange(width, device=self.lengths.device)
        real = (places >= 0) & (places < stop[rows, None]) & self.running[rows, None]
        places = torch.where(real, places, self.capacity)
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
        state = torch.where(ends.any(1), EOS, state)
        state = torch.where(broken, BROKEN, state)
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
