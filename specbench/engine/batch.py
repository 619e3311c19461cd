"""The sequences of a batch: their tokens, their own lengths, and how each of them ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from specbench.errors import InputError
from specbench.sampling.verifier import Verification


@dataclass(frozen=True)
class Request:
    """A prompt, at least one token, and the seed of its sequence."""

    prompt: tuple[int, ...]
    seed: int = 0


@dataclass
class Generation:
    """What became of a request.

    Attributes:
        tokens: the new tokens, the end token included.
        finish_reason: "eos", "length", or None after an error.
        step_drafted: for each verify step, the drafts offered to the verifier: not past the token
            limit, and not past an end token among the drafts.
        step_accepted: for each step, the drafts kept.
        step_gamma: for each step, the tokens that the draft model drafted.
        error: why the sequence could not go on.
    """

    tokens: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    step_drafted: list[int] = field(default_factory=list)
    step_accepted: list[int] = field(default_factory=list)
    step_gamma: list[int] = field(default_factory=list)
    error: str | None = None

    @property
    def done(self) -> bool:
        """Whether the sequence has ended, well or not."""
        return self.finish_reason is not None or self.error is not None


@dataclass
class Committed:
    """A step of the sequences that ran in it: drafts kept, drafts offered; and who ended with it."""

    accepted: list[int] = field(default_factory=list)
    offered: list[int] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)


class Batch:
    """Tokens (B, capacity + 1) on the device and each sequence's own length, there and on the host.

    Args:
        requests: at least one, none empty.
        max_new_tokens: at least 1.
        gamma_limit: the most drafts that a step can ever hold.
        eos_tokens: ids that end a sequence.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        max_new_tokens: int,
        gamma_limit: int,
        eos_tokens: Sequence[int],
        device: torch.device,
    ) -> None:
        if not requests or not all(request.prompt for request in requests):
            raise InputError("a prompt is empty", "Every prompt needs at least one token.")
        self.size = len(requests)
        self.held = [len(request.prompt) for request in requests]
        """Tokens each sequence holds, on the host."""
        self.lengths = torch.tensor(self.held, device=device)
        """(B,) int64: the same on the device."""
        self.seeds = torch.tensor([request.seed for request in requests], device=device)
        # A step may draft past the token limit of a sequence whose neighbour still has room.
        self.capacity = max(self.held) + max_new_tokens + gamma_limit
        self.tokens = torch.zeros(
            len(requests), self.capacity + 1, dtype=torch.int64, device=device
        )
        for sequence, request in enumerate(requests):
            self.tokens[sequence, : len(request.prompt)] = torch.tensor(request.prompt)
        self._rows = torch.arange(len(requests), device=device)[:, None]
        self._running = torch.ones(len(requests), dtype=torch.bool, device=device)
        self._limits = self.lengths + max_new_tokens
        self._max_new_tokens = max_new_tokens
        self._eos = set(eos_tokens)
        self._eos_on_device = torch.tensor(sorted(self._eos), dtype=torch.int64, device=device)
        self._generations = [Generation() for _ in requests]

    @property
    def active(self) -> bool:
        """Whether any sequence still runs."""
        return not all(generation.done for generation in self._generations)

    def most_drafts(self) -> int:
        """The most drafts that any running sequence can use: one token of its limit is the verifier's."""
        return max(
            self._max_new_tokens - len(generation.tokens) - 1
            for generation in self._generations
            if not generation.done
        )

    def positions(self, offset: int) -> Tensor:
        """(B,): where each sequence's draft number `offset` stands.

        Nowhere if the sequence is done, or if it could not keep the draft: a neighbour drafts on.
        """
        place = self.lengths + offset
        return torch.where(self._running & (place < self._limits), place, self.capacity)

    def feed(
        self, start: Tensor | int, width: int, until: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Tokens and positions, (B, width) each, from `start` on.

        Positions before 0, at or past `until`, or of a sequence that is done, are nowhere.
        """
        first = start if isinstance(start, Tensor) else torch.full_like(self.lengths, start)
        places = first[:, None] + torch.arange(width, device=self.lengths.device)
        stop = self.lengths if until is None else until
        real = (places >= 0) & (places < stop[:, None]) & self._running[:, None]
        places = torch.where(real, places, self.capacity)
        return self.tokens[self._rows, places], places

    def worth_verifying(self, draft_tokens: Tensor) -> Tensor:
        """(B,) int64: how many drafts are worth verifying.

        None of a finished sequence; none past the token limit, since the verifier adds a token; and
        none after an end token, since they could not be kept.
        """
        gamma = draft_tokens.shape[1]
        ends = torch.isin(draft_tokens, self._eos_on_device)
        before_end = (ends.long().cumsum(1) - ends.long() == 0).sum(1)
        room = (self._limits - self.lengths - 1).clamp(0, gamma)
        return torch.where(self._running, torch.minimum(room, before_end), 0)

    def commit(self, result: Verification, offered: Tensor, gamma: int) -> Committed:
        """Takes over a step's tokens; the one place where the host reads from the device.

        Args:
            result: of the step's verification.
            offered: (B,) the drafts that were offered to it.
            gamma: the drafts that were made.
        """
        drafted = offered.tolist()
        tokens, counts = result.tokens.tolist(), result.num_accepted.tolist()
        step = Committed()
        for sequence, generation in enumerate(self._generations):
            if generation.done:
                continue
            emitted = tokens[sequence][: counts[sequence] + 1]
            kept = self._append(generation, emitted, drafted[sequence], counts[sequence])
            self.held[sequence] += kept
            generation.step_gamma.append(gamma)
            step.accepted.append(generation.step_accepted[-1])
            step.offered.append(drafted[sequence])
            if generation.done:
                step.ended.append(sequence)
        self._store(result.tokens)
        return step

    def generations(self) -> list[Generation]:
        """What became of each request, in order."""
        return self._generations

    def _append(self, generation: Generation, emitted: list[int], drafted: int, count: int) -> int:
        """Adds a step's tokens to one sequence; returns how many."""
        if emitted[-1] == -1:
            generation.error = (
                "no token to emit: the target's logits hold a NaN, a +inf or nothing but -inf, "
                "or the sigmoid range leaves none of them any weight"
            )
            emitted = emitted[:-1]
        end = next((i for i, token in enumerate(emitted) if token in self._eos), None)
        if end is not None:
            emitted = emitted[: end + 1]
        generation.tokens += emitted
        generation.step_drafted.append(drafted)
        generation.step_accepted.append(min(count, len(emitted)))
        if generation.error is None:
            if end is not None:
                generation.finish_reason = "eos"
            elif len(generation.tokens) >= self._max_new_tokens:
                generation.finish_reason = "length"
        return len(emitted)

    def _store(self, tokens: Tensor) -> None:
        """Writes the step's tokens behind each sequence; what lies past its new length is not read."""
        column = torch.arange(tokens.shape[1], device=tokens.device)
        places = torch.where(
            self._running[:, None], self.lengths[:, None] + column, self.capacity
        ).clamp(max=self.capacity)
        self.tokens.scatter_(1, places, tokens.clamp(min=0))
        self.lengths = torch.tensor(self.held, device=tokens.device)
        self._running = torch.tensor(
            [not generation.done for generation in self._generations], device=tokens.device
        )
