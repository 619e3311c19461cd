"""What the steps of a generation do, phase by phase, as torch.profiler saw it.

The engine's marks stand in the trace as annotations. A kernel belongs to the phase in which the host
launched it, wherever on the GPU's own clock it ran: so it is found also where the host runs ahead, and in
a replayed CUDA graph, whose kernels all bear the replay's number. Of some launches, a cooperative one by
the driver among them, the trace has the kernel alone. Its number tells when that was: numbers rise with
every call, and each mark makes one that the trace knows.
"""

from __future__ import annotations

import gzip
import json
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self, get_args

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from specbench.engine.observer import Phase
from specbench.telemetry.profile import GPU_WORK, KernelTimes, kernel_times, trace_events

MARK, READY = "specbench:", "ready"
LAUNCHES = frozenset({"cuda_runtime", "cuda_driver"})
"""Categories of a trace's events in which the host launches work, CuPy's launches among them."""
_HOST, _GPU = "phases, launched by the host", "phases, on the GPU"


@dataclass(frozen=True)
class PhaseWork:
    """One phase of one step, in the trace's µs.

    Attributes:
        begin_us, end_us: on the host, from the mark before to its own.
        work: the trace's events of the GPU that were launched meanwhile.
    """

    phase: Phase
    begin_us: float
    end_us: float
    work: list[dict[str, Any]] = field(default_factory=list)


class StepTrace:
    """An engine's observer, and the profiler that records meanwhile.

        with StepTrace(device) as trace:
            engine.generate(..., observer=trace)
        trace.kernels("verify").kernel_us

    Profiling slows launches down, and may go on doing so: what is to be timed comes first.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * self._on_gpu
        self._recorded = profile(activities=activities)
        self._flag = torch.zeros(1, device=device)
        self._events: list[dict[str, Any]] | None = None

    def __enter__(self) -> Self:
        """Begins to record."""
        self._recorded.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        """Ends it, when the GPU has done its work."""
        if self._on_gpu and error is None:
            torch.cuda.synchronize()
        self._recorded.__exit__(kind, error, where)

    def start(self) -> None:
        """Where the first phase may begin."""
        self._mark(READY)

    def admitted(self, sequence: int) -> None:
        """Ignores it."""

    def ready(self) -> None:
        """As of `Observer`."""
        self._mark(READY)

    def mark(self, phase: Phase) -> None:
        """As of `Observer`."""
        self._mark(phase)

    def finished(self, sequence: int) -> None:
        """Ignores it."""

    def kernels(self, phase: Phase) -> KernelTimes | None:
        """What a phase did on the GPU, the mean over its steps; None if no step had it.

        Raises:
            MachineError: the profiler saw nothing of it there: CUPTI is missing, may not be used, or is
                taken by another profiler.
        """
        own = [one for one in phases(self.events) if one.phase == phase]
        if not own:
            return None
        return kernel_times([event for one in own for event in one.work], len(own))

    @property
    def events(self) -> list[dict[str, Any]]:
        """Of the trace, without those of this module's own tracks."""
        if self._events is None:
            self._events = trace_events(self._recorded)
        return self._events

    def write(self, path: Path) -> None:
        """For Perfetto and chrome://tracing, compressed; the phases have tracks of their own."""
        events = [*self.events, *tracks(phases(self.events))]
        with gzip.open(path, "wt", encoding="utf-8") as file:
            json.dump({"traceEvents": events}, file)

    def _mark(self, what: str) -> None:
        with record_function(MARK + what):
            if self._on_gpu:
                self._flag.zero_()


def phases(events: Sequence[dict[str, Any]]) -> list[PhaseWork]:
    """The phases of a trace in their order, each with its work on the GPU."""
    marks = sorted(
        (event["ts"], event["ts"] + event["dur"], event["name"].removeprefix(MARK))
        for event in events
        if event.get("cat") == "user_annotation" and event["name"].startswith(MARK)
    )
    found: list[PhaseWork] = []
    for (_, begin, _), (end, _, what) in pairwise(marks):
        if what in get_args(Phase):
            found.append(PhaseWork(what, begin, end))
    launched = _Launches(events, [(begin, end) for begin, end, _ in marks])
    begins = [one.begin_us for one in found]
    for event in events:
        if event.get("cat") not in GPU_WORK:
            continue
        at = launched.at_us(event.get("args", {}).get("correlation"))
        place = -1 if at is None else bisect_right(begins, at) - 1
        if place >= 0 and at is not None and at < found[place].end_us:
            found[place].work.append(event)
    return found


class _Launches:
    """When the host launched what, by the number that a launch and its kernels share."""

    def __init__(
        self, events: Iterable[dict[str, Any]], marks: Sequence[tuple[float, float]]
    ) -> None:
        self._times = {
            int(event["args"]["correlation"]): float(event["ts"])
            for event in events
            if event.get("cat") in LAUNCHES and "correlation" in event.get("args", {})
        }
        self._numbers, self._marks = sorted(self._times), marks

    def at_us(self, number: int | None) -> float | None:
        """Of a launch that the trace does not have: right after the last that it has, or after the mark
        that made that one. None if nothing is known."""
        if number is None or number in self._times:
            return None if number is None else self._times[number]
        before = bisect_left(self._numbers, number) - 1
        if before < 0 or before + 1 == len(self._numbers):
            return None
        at = self._times[self._numbers[before]]
        mark = bisect_right(self._marks, (at, math.inf)) - 1
        return max(at, self._marks[mark][1]) if mark >= 0 and at <= self._marks[mark][1] else at


def tracks(found: Iterable[PhaseWork]) -> list[dict[str, Any]]:
    """Events that show the phases: as the host launched them, and from first kernel to last."""
    shown: list[dict[str, Any]] = []
    for one in found:
        shown.append(_span(_HOST, one.phase, one.begin_us, one.end_us))
        if one.work:
            begin = min(event["ts"] for event in one.work)
            end = max(event["ts"] + event["dur"] for event in one.work)
            shown.append(_span(_GPU, one.phase, begin, end))
    return shown


def _span(track: str, name: str, begin_us: float, end_us: float) -> dict[str, Any]:
    return {
        "ph": "X", "cat": "phase", "name": name, "pid": "specbench", "tid": track, "ts": begin_us,
        "dur": end_us - begin_us,
    }  # fmt: skip
