"""What the engine tells the outside while it decodes. It never asks anything back."""

from __future__ import annotations

from typing import Literal, Protocol

Phase = Literal["prefill", "random", "draft", "target", "verify", "commit"]


class Observer(Protocol):
    """Hears of each boundary in the order of the loop: prefill, then for each step the rest.

    `random` is the drawing of a step's random numbers for torch operations, which is no part of any
    method; a kernel draws its own in passing.
    """

    def start(self) -> None:
        """Decoding of a batch begins."""

    def mark(self, phase: Phase) -> None:
        """A phase's work has been issued; on a GPU it may still be running.

        After `commit` the host has read the step's tokens, so everything issued has run.
        """

    def finished(self, sequence: int) -> None:
        """Sequence number `sequence` of the batch has its last token."""


class Silent:
    """The observer of an untimed run."""

    def start(self) -> None:
        """Ignores it."""

    def mark(self, phase: Phase) -> None:
        """Ignores it."""

    def finished(self, sequence: int) -> None:
        """Ignores it."""
