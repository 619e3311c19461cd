"""What the engine tells the outside while it decodes. It never asks anything back."""

from __future__ import annotations

from typing import Literal, Protocol

Phase = Literal["prefill", "random", "draft", "target", "verify", "commit", "capture"]


class Observer(Protocol):
    """Hears of each boundary in the order of the loop: prefill, then for each step the rest.

    `random` is the drawing of a step's random numbers for torch operations, which is no part of any
    method; a kernel draws its own in passing. `capture` is the capturing of a CUDA graph or the
    compiling of a model, which may happen before any phase and belongs to no figure. A sequence that
    takes the slot of another one brings a `prefill` between two steps.
    """

    def start(self) -> None:
        """Decoding of a batch begins."""

    def admitted(self, sequence: int) -> None:
        """Sequence number `sequence` of the batch has taken a slot; its prefill follows."""

    def ready(self) -> None:
        """The host is about to launch the next phase's work; `mark` says afterwards which it was."""

    def mark(self, phase: Phase) -> None:
        """A phase's work has been issued; on a GPU it may still be running.

        After `commit` the host has read the step's tokens, so everything issued has run; the same
        after `capture`, which ends with the host waiting for the GPU.
        """

    def finished(self, sequence: int) -> None:
        """Sequence number `sequence` of the batch has its last token."""


class Silent:
    """The observer of an untimed run."""

    def start(self) -> None:
        """Ignores it."""

    def admitted(self, sequence: int) -> None:
        """Ignores it."""

    def ready(self) -> None:
        """Ignores it."""

    def mark(self, phase: Phase) -> None:
        """Ignores it."""

    def finished(self, sequence: int) -> None:
        """Ignores it."""
