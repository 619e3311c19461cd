"""Capturing work in CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

Call = Callable[[], object]


def capture(calls: Sequence[Call], pool: Any = None) -> torch.cuda.CUDAGraph:
    """One CUDA graph of all calls in order, each of which has run before.

    What they read and write must live as long as the graph.

    Args:
        pool: `torch.cuda.graph_pool_handle()` of graphs that share memory and never run at once.

    Raises:
        RuntimeError: a call waits for the GPU, or does something else that no graph can hold.
    """
    # Looked for beforehand: a capture that fails leaves torch's allocator in a bad way (before 2.12
    # it believes for good that a capture is under way).
    refuse_waiting(calls[0])
    torch.cuda.synchronize()
    graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    # What cuBLAS keeps for a stream must not come from a graph's memory, which goes with the graph.
    torch._C._cuda_clearCublasWorkspaces()
    try:
        with torch.cuda.stream(_capture_stream(current.device)):
            # Other threads, such as a sampler's, may go on talking to the driver.
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                for call in calls:
                    call()
            finally:
                graph.capture_end()
    except BaseException:
        # If ending the capture fails too, its stream is left as the current one.
        torch.cuda.set_stream(current)
        raise
    finally:
        torch._C._cuda_clearCublasWorkspaces()
    return graph


_streams: dict[torch.device, torch.cuda.Stream] = {}


def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    if device not in _streams:
        _streams[device] = torch.cuda.Stream(device)
    return _streams[device]


def refuse_waiting(call: Call) -> None:
    """Runs the call once; raises the error of the torch operation in it that waits for the GPU."""
    before, asked = torch.cuda.get_sync_debug_mode(), torch.cuda.is_current_stream_capturing
    # A method may know better than to wait during a capture (the one for FlashInfer does): it is
    # tried as if it were in one.
    torch.cuda.is_current_stream_capturing = lambda: True
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    finally:
        torch.cuda.set_sync_debug_mode(before)
        torch.cuda.is_current_stream_capturing = asked
