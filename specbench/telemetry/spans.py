"""Times of the engine's phases: CUDA events on a GPU, a monotonic clock on the host."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate

import torch

from specbench.engine.observer import Phase


@dataclass(frozen=True)
class Spans:
    """What a batch took, in seconds and microseconds. Captures are cut out of every figure.

    On a GPU a phase's time is what passed in the stream from its `ready` to its `mark`, or from the
    mark before where no `ready` was told. Between a mark and the next `ready` the host works and the
    GPU has nothing to do: that is the host gap, `wall_s - gpu_s`. It is a lower bound, since a phase
    still hides

    - the launch latency of an eager phase: where its kernels run faster than the host issues them,
      the GPU idles between them. A phase replayed as a CUDA graph has one launch;
    - in `commit`, the way of the tokens to the host and what the host does before it makes the mark.

    If the host is ahead, `ready` reaches the GPU while it is busy, and there is no gap to see.

    Attributes:
        start_s: monotonic host clock at the start, as `time.perf_counter` counts.
        wall_s: from the start to the end of the last sequence.
        capture_s: what capturing and compiling took. The clock on the wall stood at
            `start_s + wall_s + capture_s` in the end.
        prefill_s: all prefills, also those of sequences that were admitted later.
        gpu_s: all phases in the stream; None on a CPU.
        admitted_s, finished_s: for each sequence of the batch, from the start to when it took its
            slot, and to its last token.
        step_end_s: for each step, from the start to its tokens on the host.
        random_us, draft_us, target_us, verify_us, commit_us: one entry for each step; 0 where the
            step had no such phase, as one without drafts.
    """

    start_s: float
    wall_s: float
    capture_s: float
    prefill_s: float
    gpu_s: float | None
    admitted_s: dict[int, float]
    finished_s: dict[int, float]
    step_end_s: list[float]
    random_us: list[float]
    draft_us: list[float]
    target_us: list[float]
    verify_us: list[float]
    commit_us: list[float]


@dataclass(frozen=True)
class _Point:
    """A moment on the host's clock and, on a GPU, in the stream; `before`: the spans until then."""

    host_s: float
    event: torch.cuda.Event | None
    before: int


@dataclass(frozen=True)
class _Span:
    phase: Phase
    begin: _Point
    end: _Point

    @property
    def host_s(self) -> float:
        return self.end.host_s - self.begin.host_s

    @property
    def seconds(self) -> float:
        """In the stream on a GPU, on the host otherwise."""
        if self.begin.event is None or self.end.event is None:
            return self.host_s
        return float(self.begin.event.elapsed_time(self.end.event)) / 1e3

    @property
    def cut_s(self) -> float:
        """What a capture cost. On a GPU the host may have begun it while earlier work was running:
        the time until that was done belongs to the work, not to the capture."""
        return min(self.seconds, self.host_s) if self.phase == "capture" else 0.0


@contextmanager
def uncollected() -> Iterator[None]:
    """Nothing is garbage-collected meanwhile: after torch.compile a collection stops the host for more
    than half a second (H100 machine), as long as eighty steps. The engines leave no
    cycles that hold memory of a GPU's."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@dataclass
class SpanRecorder:
    """An engine's observer. A phase lasts from its `ready`, or the mark before it, to its own mark.

    On a GPU the marks are events in the stream, which the host does not wait for; phases are what
    the GPU spent. On a CPU the work is done when the mark is made. A capture lasts from the mark
    before it, whatever was ready.
    """

    device: torch.device
    _last: _Point | None = None
    _ready: _Point | None = None
    _start_s: float = 0.0
    _spans: list[_Span] = field(default_factory=list)
    _admitted: dict[int, _Point] = field(default_factory=dict)
    _finished: dict[int, _Point] = field(default_factory=dict)

    def start(self) -> None:
        """Forgets what was before and starts the clock on an idle device."""
        self._wait()
        self._spans.clear()
        self._admitted.clear()
        self._finished.clear()
        self._ready, self._last = None, self._in_stream()
        self._start_s = self._last.host_s

    def admitted(self, sequence: int) -> None:
        """A sequence has taken a slot."""
        self._admitted[sequence] = self._on_host()

    def ready(self) -> None:
        """The next phase's work is about to be issued."""
        self._ready = self._in_stream()

    def mark(self, phase: Phase) -> None:
        """A phase's work has been issued.

        Raises:
            RuntimeError: nothing was started.
        """
        if self._last is None:
            raise RuntimeError(f"mark({phase!r}) before start()")
        begin = self._last if phase == "capture" else self._ready or self._last
        self._ready, self._last = None, self._in_stream()
        self._spans.append(_Span(phase, begin, self._last))

    def finished(self, sequence: int) -> None:
        """A sequence has its last token, with the step just marked: who end together end at one time."""
        last = self._last or self._on_host()
        self._finished[sequence] = _Point(last.host_s, None, len(self._spans))

    def spans(self) -> Spans:
        """What was recorded since `start`."""
        self._wait()
        # cut[i]: what the captures among the first i spans took
        cut = list(accumulate((span.cut_s for span in self._spans), initial=0.0))

        def clock(point: _Point) -> float:
            return point.host_s - self._start_s - cut[point.before]

        admitted, finished = (
            {sequence: clock(point) for sequence, point in points.items()}
            for points in (self._admitted, self._finished)
        )
        took = [(span.phase, span.seconds) for span in self._spans]
        steps = _by_step(took)
        last_s = self._last.host_s - self._start_s - cut[-1] if self._last else 0.0
        on_gpu = self.device.type == "cuda"
        return Spans(
            start_s=self._start_s,
            wall_s=max(finished.values(), default=last_s),
            capture_s=cut[-1],
            prefill_s=sum(seconds for phase, seconds in took if phase == "prefill"),
            gpu_s=sum(seconds for phase, seconds in took if phase != "capture") if on_gpu else None,
            admitted_s=admitted,
            finished_s=finished,
            step_end_s=[clock(span.end) for span in self._spans if span.phase == "commit"],
            random_us=[1e6 * step.get("random", 0.0) for step in steps],
            draft_us=[1e6 * step.get("draft", 0.0) for step in steps],
            target_us=[1e6 * step.get("target", 0.0) for step in steps],
            verify_us=[1e6 * step.get("verify", 0.0) for step in steps],
            commit_us=[1e6 * step.get("commit", 0.0) for step in steps],
        )

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _on_host(self) -> _Point:
        return _Point(time.perf_counter(), None, len(self._spans))

    def _in_stream(self) -> _Point:
        if self.device.type != "cuda":
            return self._on_host()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return _Point(time.perf_counter(), event, len(self._spans))


def _by_step(took: Iterable[tuple[Phase, float]]) -> list[dict[Phase, float]]:
    """Seconds of each phase in each step; a step ends with its commit."""
    steps: list[dict[Phase, float]] = []
    step: dict[Phase, float] = {}
    for phase, seconds in took:
        step[phase] = step.get(phase, 0.0) + seconds
        if phase == "commit":
            steps.append(step)
            step = {}
    return steps
