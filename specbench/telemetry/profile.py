"""Kernel time of a call on the GPU, as CUPTI reports it through torch.profiler.

CUPTI sees every launch of the process, also those of CuPy and of other packages' extensions. It slows
launches down, and may go on doing so once it was loaded: time first, profile afterwards.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from specbench.errors import MachineError

GPU_WORK = frozenset({"kernel", "gpu_memcpy", "gpu_memset"})
"""Categories of a trace's events that occupy the GPU. Annotations span several of them, and would
count what is inside a second time."""


@dataclass(frozen=True)
class KernelTimes:
    """What one call did on the GPU, on average.

    Attributes:
        kernel_us: sum of the durations of all kernels, copies and fills; gaps between them are not
            in it, and what overlaps counts twice.
        launches: how many those are.
        by_name: µs of one call by the kernel's name.
    """

    kernel_us: float
    launches: float
    by_name: dict[str, float]


def profile_kernels(
    call: Callable[[], object],
    calls: int,
    *,
    before: Callable[[], object] = lambda: None,
    without: Set[str] = frozenset(),
) -> KernelTimes:
    """Profiles so many calls, after one that is not counted.

    Args:
        call: issues work to the current GPU, on any stream.
        calls: how often, at least 1.
        before: issued before each call.
        without: names of kernels that do not count, such as those of `before`.

    Raises:
        MachineError: the profiler saw nothing on the GPU: CUPTI is missing, may not be used, or is
            taken by another profiler.
    """
    call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        for _ in range(calls):
            before()
            call()
        torch.cuda.synchronize()
    return kernel_times(trace_events(recorded), calls, without)


def kernel_times(
    events: Iterable[dict[str, Any]], calls: int, without: Set[str] = frozenset()
) -> KernelTimes:
    """Sums the events of a Chrome trace (durations in µs) over so many calls.

    Raises:
        MachineError: there is no work of a GPU among them.
    """
    total_us: Counter[str] = Counter()
    launches = 0
    for event in events:
        if event.get("cat") in GPU_WORK and event["name"] not in without:
            total_us[event["name"]] += event["dur"]
            launches += 1
    if not launches:
        raise MachineError(
            "the profiler saw no kernel",
            "Does another profiler hold the GPU, or does its driver keep CUPTI from users?",
        )
    by_name = {name: us / calls for name, us in total_us.most_common()}
    return KernelTimes(sum(by_name.values()), launches / calls, by_name)


def trace_events(recorded: profile) -> list[dict[str, Any]]:
    """Of the exported trace: its categories are the same in all versions of torch."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(path))
        trace = json.loads(path.read_text(encoding="utf-8"))
    events: list[dict[str, Any]] = trace["traceEvents"]
    return events
