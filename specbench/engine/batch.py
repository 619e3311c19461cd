"""The host's side of a batch: which sequence sits in which slot, its tokens, and how it ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from torch import Tensor

from specbench.engine.slots import BROKEN, EOS, LENGTH, Report, Seat, Slots
from specbench.errors import InputError

Ended: TypeAlias = Callable[[Sequence[int], Sequence[int]], int | None]
"""Asked after each step with the new tokens before it and its own, of which there is at least one: how
many of its own make the text whole, at least 1; None while it goes on. Nothing about the prompt."""


@dataclass(frozen=True)
class Request:
    """A prompt, at least one token, the seed of its sequence, and what a speech model is to hear.

    Attributes:
        features: (mel bins, frames of audio) in float32; None for a text model.
        ended: says where the text ends, besides end tokens; None leaves that to them. Called on the
            host once a step, within the phase `commit`.
    """

    prompt: tuple[int, ...]
    seed: int = 0
    features: Tensor | None = field(default=None, compare=False)
    ended: Ended | None = field(default=None, compare=False)

    def whole(self, before: Sequence[int], step: Sequence[int], *, eos: bool) -> int | None:
        """How many tokens of a step make the text whole; None if none do, or its end token did.

        Args:
            before: the new tokens before the step.
            eos: whether the step's last token is an end token.
        """
        count = self.ended(before, step) if self.ended and step else None
        return None if eos and count == len(step) else count


@dataclass
class Generation:
    """What became of a request.

    What a step brought past the end of the text is dropped, as what follows an end token is: it is no
    token, no draft offered and none kept. So a text ends with the same token whatever γ.

    Attributes:
        tokens: the new tokens, those included that ended the text.
        finish_reason: "eos"; "stop", the text was whole (`Request.ended`), also with the last token that
            was allowed; "length"; or None after an error.
        step_drafted: for each verify step, the drafts offered to the verifier: not past the token
            limit, and not past an end among the drafts.
        step_accepted: for each step, the drafts kept.
        step_gamma: for each step, the tokens that the draft model drafted.
        first_step: the batch's step in which the sequence ran first; 0 unless it took the slot of
            another one.
        error: why the sequence could not go on.
    """

    tokens: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    step_drafted: list[int] = field(default_factory=list)
    step_accepted: list[int] = field(default_factory=list)
    step_gamma: list[int] = field(default_factory=list)
    first_step: int = 0
    error: str | None = None

    @property
    def done(self) -> bool:
        """Whether the sequence has ended, well or not."""
        return self.finish_reason is not None or self.error is not None

    def grow(
        self, gamma: int, drafted: int, accepted: int, tokens: Sequence[int], whole: int | None
    ) -> None:
        """Adds a step: `whole` of its tokens make the text whole, or it goes on (None)."""
        if whole is not None:
            self.finish_reason, tokens = "stop", tokens[:whole]
            if whole <= accepted:  # a draft ended it
                drafted = accepted = whole
        self.tokens += tokens
        self.step_gamma.append(gamma)
        self.step_drafted.append(drafted)
        self.step_accepted.append(accepted)


@dataclass
class Committed:
    """A step of the sequences that ran in it: drafts kept, drafts offered; and who ended with it.

    As verified: what lies past the end of a text is in it, for a γ policy learns from it all the same.
    """

    accepted: list[int] = field(default_factory=list)
    offered: list[int] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)


BROKEN_ROWS = (
    "no token to emit: the target's logits hold a NaN, a +inf or nothing but -inf, "
    "or the sigmoid range leaves none of them any weight"
)


class Batch:
    """Requests that go through the slots: each takes one as soon as one is free, in order.

    Args:
        requests: at least one, none empty.
        max_new_tokens: at least 1.
        slots: empty ones.

    Attributes:
        steps: how many were taken.
        held: for each slot, the tokens it holds; 0 where it is empty.
    """

    def __init__(self, requests: Sequence[Request], max_new_tokens: int, slots: Slots) -> None:
        self.steps = 0
        self.held = [0] * slots.size
        self._requests, self._max_new_tokens, self._slots = requests, max_new_tokens, slots
        self._waiting = list(range(len(requests)))[::-1]
        self._seated: list[int | None] = [None] * slots.size
        self._generations = [Generation() for _ in requests]

    @property
    def active(self) -> bool:
        """Whether any sequence sits in a slot."""
        return any(sequence is not None for sequence in self._seated)

    def fill(self) -> dict[int, int]:
        """Gives the free slots to those who wait; returns slot → sequence of the newly seated."""
        free = [slot for slot, sequence in enumerate(self._seated) if sequence is None]
        seated = {slot: self._waiting.pop() for slot in free[: len(self._waiting)]}
        if seated:
            self._slots.seat({slot: self._seat(slot, one) for slot, one in seated.items()})
        return seated

    def features(self, slot: int) -> Tensor | None:
        """What the sequence in the slot is to hear."""
        sequence = self._seated[slot]
        return None if sequence is None else self._requests[sequence].features

    def most_drafts(self) -> int:
        """The most drafts that any running sequence can use: one token of its limit is the verifier's."""
        return max(
            self._max_new_tokens - len(self._generations[sequence].tokens) - 1
            for sequence in self._seated
            if sequence is not None
        )

    def stop(self, report: Report) -> dict[int, int]:
        """Asks whose text is whole with a step; on the device such a slot runs no more.

        Returns:
            slot → how many of the step's tokens make it whole.
        """
        found = {}
        for slot, sequence in enumerate(self._seated):
            if sequence is None:
                continue
            before, new = self._generations[sequence].tokens, report.tokens[slot]
            eos = report.state[slot] == EOS
            if (whole := self._requests[sequence].whole(before, new, eos=eos)) is not None:
                found[slot] = whole
                self._slots.leave(slot)
        return found

    def take(self, report: Report, gamma: int, stopped: Mapping[int, int]) -> Committed:
        """Keeps the books of a step of γ drafts; who ended leaves its slot.

        Args:
            stopped: what `stop` said of it.
        """
        step = Committed()
        for slot, sequence in enumerate(self._seated):
            if sequence is None:
                continue
            generation = self._generations[sequence]
            offered, accepted = report.offered[slot], report.accepted[slot]
            generation.grow(gamma, offered, accepted, report.tokens[slot], stopped.get(slot))
            step.accepted.append(accepted)
            step.offered.append(offered)
            self.held[slot] += len(report.tokens[slot])
            state = report.state[slot]
            if slot not in stopped and state == BROKEN:
                generation.error = BROKEN_ROWS
            elif slot not in stopped:
                generation.finish_reason = {EOS: "eos", LENGTH: "length"}.get(state)
            if generation.done:
                step.ended.append(sequence)
                self._seated[slot], self.held[slot] = None, 0
        self.steps += 1
        return step

    def generations(self) -> list[Generation]:
        """What became of each request, in order."""
        return self._generations

    def _seat(self, slot: int, sequence: int) -> Seat:
        request = self._requests[sequence]
        self._seated[slot], self.held[slot] = sequence, len(request.prompt)
        self._generations[sequence].first_step = self.steps
        return Seat(request.prompt, len(request.prompt) + self._max_new_tokens, request.seed)


def check_requests(requests: Sequence[Request]) -> None:
    """Looks for prompts without a token.

    Raises:
        InputError: there is one, or there is no request at all.
    """
    if not requests or not all(request.prompt for request in requests):
        raise InputError("a prompt is empty", "Every prompt needs at least one token.")
