"""Times of single calls, on the GPU and on the host, and what this card can do at best."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

import torch

from specbench.cuda.graphs import Call, capture
from specbench.errors import MachineError
from specbench.telemetry.profile import profile_kernels

WARM_UPS = 3
BLOCK_BYTES = 2**30
"""What the bandwidth is measured on: many times any L2."""
BLOCK_READS, FLOOR_KERNELS, FLOOR_REPLAYS = 20, 200, 10
SWEPT_ROW = 1024
"""Numbers in a row of the swept block."""

SWEPT_L2S = 3
"""How many times its own size is read through an L2, so that none of what it held is left."""


def nothing() -> None:
    """What comes before a call whose inputs shall stay in the L2."""


@dataclass(frozen=True)
class Card:
    """What bounds every kernel here; all None on a CPU.

    Attributes:
        read_gbps: 10⁹ bytes per second of reading a GiB once, measured.
        launch_floor_us: the smallest kernel in a graph, launch gap included.
        l2_bytes: size of the L2.
        sweep: leaves the L2 without any of what it held. Reads, so that nothing is left to be written
            back at the expense of what comes next.
        sweep_kernels: the names of its kernels, for the profiler to leave out.
    """

    read_gbps: float | None = None
    launch_floor_us: float | None = None
    l2_bytes: int | None = None
    sweep: Call = nothing
    sweep_kernels: frozenset[str] = frozenset()


def measure_card(device: torch.device) -> Card:
    """Measures the card; takes a moment, so once for all shapes."""
    if device.type != "cuda":
        return Card()
    size = torch.cuda.get_device_properties(device).L2_cache_size
    sweep = _sweep(size, device)
    read_gbps, launch_floor_us = _read_gbps(device), _launch_floor_us(device)
    return Card(read_gbps, launch_floor_us, size, sweep, _kernels(sweep))


def _sweep(l2_bytes: int, device: torch.device) -> Call:
    # In double precision: a kernel that no verification method has, so a profile can tell it apart. Row
    # by row: one sum over all would need a memset before it, and those cannot be told apart.
    rows = SWEPT_L2S * l2_bytes // 8 // SWEPT_ROW
    block = torch.ones(rows, SWEPT_ROW, dtype=torch.float64, device=device)
    sums = torch.empty(rows, dtype=torch.float64, device=device)

    def sweep() -> None:
        torch.sum(block, dim=1, out=sums)

    return sweep


def _kernels(call: Call) -> frozenset[str]:
    """Not its memsets, which go by one name whoever asks for them: they stay in what is measured."""
    try:
        names = profile_kernels(call, 1).by_name
    except MachineError:  # no profiler: the rows will say so
        return frozenset()
    return frozenset(name for name in names if not name.startswith("Mem"))


def _read_gbps(device: torch.device) -> float:
    free_bytes, _ = torch.cuda.mem_get_info(device)
    block = torch.ones(min(BLOCK_BYTES, free_bytes // 4) // 4, device=device)
    spans = [_events() for _ in range(BLOCK_READS)]
    warm_up(block.sum)
    for start, end in spans:
        start.record()
        block.sum()
        end.record()
    torch.cuda.synchronize()
    read_us = median(float(start.elapsed_time(end)) * 1e3 for start, end in spans)
    return block.numel() * block.element_size() / read_us / 1e3


def _launch_floor_us(device: torch.device) -> float:
    one = torch.zeros(1, device=device)
    warm_up(lambda: one.add_(1))
    graph = capture([lambda: one.add_(1)] * FLOOR_KERNELS)
    return median(replay_us(graph, FLOOR_KERNELS) for _ in range(FLOOR_REPLAYS))


def warm_up(call: Call) -> None:
    """Compiles, allocates and initialises, on a side stream as graph capture asks for."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            call()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()


def replay_us(graph: torch.cuda.CUDAGraph, calls: int, before: Call = nothing) -> float:
    """GPU time of one of the graph's calls, gaps between its kernels included.

    The replay before the timed one keeps the GPU busy while the host issues the timed one, so no
    launch latency is in the figure; it also leaves warm inputs in the L2.

    Args:
        before: issued between the two replays, such as a sweep of the L2.
    """
    start, end = _events()
    graph.replay()
    before()
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1e3 / calls


def host_us(calls: Iterator[Call], count: int) -> float:
    """Host time to issue one call. So few that the driver's queue of launches never fills."""
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(count):
        next(calls)()
    spent_s = time.perf_counter() - begin
    torch.cuda.synchronize()
    return spent_s * 1e6 / count


def wall_us(calls: Iterator[Call], device: torch.device, before: Call = nothing) -> float:
    """From the call to its result, as an eager caller waits for it; what comes before does not count."""
    next(calls)()
    before()
    wait(device)
    begin = time.perf_counter()
    next(calls)()
    wait(device)
    return (time.perf_counter() - begin) * 1e6


def wait(device: torch.device) -> None:
    """Until the device has done what was issued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _events() -> tuple[torch.cuda.Event, torch.cuda.Event]:
    return torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
