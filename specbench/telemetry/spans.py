"""Times of the engine's phases: CUDA events on a GPU, a monotonic clock on the host."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import pairwise

import torch

from specbench.engine.observer import Phase


@dataclass(frozen=True)
class Spans:
    """What a batch took, in seconds and microseconds.

    Attributes:
        start_s: monotonic host clock at the start, as `time.perf_counter` counts.
        wall_s: from the start to the end of the last sequence.
        ttft_s: to the first step's tokens on the host, prefill included; None if there was no step.
        finished_s: for each sequence of the batch, to its last token.
        draft_us, target_us, verify_us: one entry for each step.
    """

    start_s: float
    wall_s: float
    ttft_s: float | None
    finished_s: dict[int, float]
    draft_us: list[float]
    target_us: list[float]
    verify_us: list[float]


@dataclass
class _Mark:
    phase: Phase | None
    host_s: float
    event: torch.cuda.Event | None


@dataclass
class SpanRecorder:
    """An engine's observer. A phase lasts from the mark before it to its own.

    On a GPU the marks are events in the stream, which the host does not wait for; phases are what
    the GPU spent. On a CPU the work is done when the mark is made.
    """

    device: torch.device
    _marks: list[_Mark] = field(default_factory=list)
    _finished: dict[int, float] = field(default_factory=dict)

    def start(self) -> None:
        """Forgets what was before and starts the clock on an idle device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self._marks.clear()
        self._finished.clear()
        self._add(None)

    def mark(self, phase: Phase) -> None:
        """A phase's work has been issued."""
        self._add(phase)

    def finished(self, sequence: int) -> None:
        """A sequence has its last token; the host has just read it."""
        self._finished[sequence] = time.perf_counter() - self._marks[0].host_s

    def spans(self) -> Spans:
        """What was recorded since `start`."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        start = self._marks[0].host_s
        commits = [mark.host_s - start for mark in self._marks if mark.phase == "commit"]
        return Spans(
            start_s=start,
            wall_s=max(self._finished.values(), default=self._marks[-1].host_s - start),
            ttft_s=commits[0] if commits else None,
            finished_s=dict(self._finished),
            draft_us=self._durations("draft"),
            target_us=self._durations("target"),
            verify_us=self._durations("verify"),
        )

    def _add(self, phase: Phase | None) -> None:
        event = None
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
        self._marks.append(_Mark(phase, time.perf_counter(), event))

    def _durations(self, phase: Phase) -> list[float]:
        return [_microseconds(a, b) for a, b in pairwise(self._marks) if b.phase == phase]


def _microseconds(start: _Mark, end: _Mark) -> float:
    if start.event is not None and end.event is not None:
        return float(start.event.elapsed_time(end.event)) * 1e3
    return (end.host_s - start.host_s) * 1e6
