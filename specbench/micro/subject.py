"""One method on one shape's inputs, cold or warm: its calls, its samples and its row."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from specbench.cuda.graphs import Call, capture
from specbench.micro.inputs import InputSet, bytes_moved
from specbench.micro.plan import Shape
from specbench.micro.timing import (
    Card,
    host_us,
    nothing,
    replay_us,
    wall_us,
    warm_up,
)
from specbench.report.stats import median_and_spread
from specbench.sampling.names import SIGMOID_RANGE
from specbench.sampling.registry import Method
from specbench.sampling.step import Step
from specbench.sampling.verifier import Verification, Verifier
from specbench.telemetry.lost import lost_reason
from specbench.telemetry.profile import profile_kernels

Row = dict[str, Any]

WARM_CALLS = 32
"""Calls of the one warm set in a graph; of cold sets there is one call of each."""
PROFILED_CALLS = 20
HOST_CALLS = {"cuda": 50, "torch": 5}
"""Calls that a host time is the mean of, by implementation: torch operations are dozens of launches
each, and the driver queues some 1,000 before it makes the host wait."""


class Subject:
    """What is measured as one row.

    Args:
        sets: all of the shape's; warm inputs are the first of them, again and again.
        l2: "cold", "warm", or None on a CPU.
        device: where the sets lie.
        card: whose L2 is swept before cold inputs are read.

    Attributes:
        turns: the calls of one graph, in order; eager calls take them in `cycle`.
        samples: column → one figure a replay.
        error: why it is no longer measured.
        lost: how the GPU was lost in one of its calls, if it was.
    """

    def __init__(
        self,
        method: Method,
        shape: Shape,
        sets: list[InputSet],
        l2: str | None,
        device: torch.device,
        card: Card,
    ) -> None:
        self.method, self.shape, self.l2, self.device = method, shape, l2, device
        self.sets = sets[:1] if l2 == "warm" else sets
        self.before = card.sweep if l2 == "cold" else nothing
        self.kernels_before = card.sweep_kernels if l2 == "cold" else frozenset()
        self.turns: list[Call] = []
        self.cycle: Iterator[Call] = iter(())
        self.graph: torch.cuda.CUDAGraph | None = None
        self.samples: dict[str, list[float]] = {}
        self.error: str | None = None
        self.lost: str | None = None
        self.facts: Row = {}

    def guarded(self, step: Callable[[], None]) -> None:
        """Does a step unless an earlier one failed: whatever another package's method may raise
        stops that method alone."""
        if self.error is not None:
            return
        try:
            step()
        except Exception as error:  # as text: its traceback would keep the failed call's memory
            self.error, self.graph = self._told(error), None

    def prepare(self) -> None:
        """Counts what is accepted, warms up and captures the graph."""
        verifier = self._build()
        accepted = _accepted(verifier, self.sets)
        self.facts["accepted"] = float(accepted.float().mean())
        self.facts["bytes_moved"] = bytes_moved(self.shape, self.method, accepted, verifier.wave)
        if self.l2 is None:
            return
        warm_up(self.turns[0])
        try:
            self.graph = capture(self.turns)
        except Exception as error:  # then the sum of the kernels stands for it
            self.facts["graph_error"] = self._told(error)

    def sample(self) -> None:
        """One sample of each figure."""
        if self.graph is not None:
            self._add("graph_us", replay_us(self.graph, len(self.turns), self.before))
        if self.l2 is not None:
            self._add("host_us", host_us(self.cycle, HOST_CALLS[self.facts["implementation"]]))
        self._add("wall_us", wall_us(self.cycle, self.device, self.before))

    def row(self) -> Row:
        """The figures, or why there are none."""
        if self.error is not None:
            return self.facts | {"status": "failed", "error": self.error}
        row = self.facts | {"status": "ok", "replays": len(self.samples["wall_us"])}
        for column, samples in self.samples.items():
            row[column], row[f"{column}_spread"] = median_and_spread(samples)
            row[f"{column}_samples"] = samples
        return row

    def profile(self) -> Row:
        """Kernel time and launches of one call; if the profiler fails, why."""
        try:
            self._build()
            times = profile_kernels(
                lambda: next(self.cycle)(), PROFILED_CALLS,
                before=self.before, without=self.kernels_before,
            )  # fmt: skip
        except Exception as error:  # the times stand; the profile alone is missing
            return {"profile_error": self._told(error)}
        return {"kernel_us": times.kernel_us, "launches": times.launches}

    def _build(self) -> Verifier:
        shape = self.shape
        verifier = Verifier(
            self.method, shape.batch_size, shape.gamma, shape.vocab_size, shape.torch_dtype,
            self.device,
        )  # fmt: skip
        once = [timed_call(verifier, one) for one in self.sets]
        self.turns = once * WARM_CALLS if self.l2 == "warm" else once
        self.cycle = itertools.cycle(self.turns)
        self.facts |= {
            "implementation": verifier.implementation,
            "input_sets": len(self.sets),
            "calls_per_replay": len(self.turns),
        }
        return verifier

    def _told(self, error: Exception) -> str:
        self.lost = self.lost or lost_reason(error)
        return sentence(error)

    def _add(self, column: str, value: float) -> None:
        self.samples.setdefault(column, []).append(value)


def _accepted(verifier: Verifier, sets: list[InputSet]) -> Tensor:
    """(sets, B) int64, on the host. A Verifier hands out its own buffers: each is read at once."""
    return torch.stack([verify_call(verifier, one)().num_accepted.cpu() for one in sets])


def timed_call(verifier: Verifier, one: InputSet) -> Call:
    """What is timed: a verify step at temperature 1, as the method's users make it.

    A kernel draws its random numbers and writes all outputs itself. Torch operations get their
    numbers ready-made, since Philox in torch would drown the method, and end with the accepted count
    and the next token; other projects' methods get their arguments in the layout they want. Both
    favours go to what we compare ourselves with.
    """
    if verifier.implementation == "cuda":
        return verify_call(verifier, one)
    batch, gamma = one.draft_tokens.shape
    ones = torch.ones(batch, device=one.target_logits.device)
    step = Step(
        one.target_logits, one.draft_logits, one.draft_tokens,
        torch.full_like(one.seeds, gamma), ones, one.numbers, SIGMOID_RANGE,
        greedy=False, tempered=False,
    )  # fmt: skip
    bind = verifier.method.bind
    return bind(step) if bind else partial(verifier.method.law, step)


def verify_call(verifier: Verifier, one: InputSet) -> Callable[[], Verification]:
    """One whole verify step at temperature 1."""
    return partial(
        verifier, one.target_logits, one.draft_logits, one.draft_tokens, seeds=one.seeds,
        positions=one.positions,
        numbers=one.numbers if verifier.implementation == "torch" else None,
    )  # fmt: skip


def against_floor(row: Row) -> Row:
    """The time that counts, and how far it is from reading the bytes once.

    `time_us` is the graph replay's; where no graph could be captured the sum of the kernels, gaps
    between them left out; on a CPU, where there is neither, the wall time.
    """
    sources = [("graph", "graph_us"), ("kernels", "kernel_us")]
    sources += [("wall", "wall_us")] if row["l2"] is None else []
    known = [source for source, column in sources if row.get(column) is not None]
    if not known:
        return {}
    time_us = row[dict(sources)[known[0]]]
    found: Row = {"time_us": time_us, "time_from": known[0]}
    if row["read_gbps"]:
        floor_us = row["bytes_moved"] / row["read_gbps"] / 1e3
        found["floor_us"] = floor_us
        found["floor_ratio"] = time_us / floor_us
        found["bandwidth_share"] = floor_us / time_us
    return found


def sentence(error: Exception) -> str:
    """The error's first line: CUDA's go on for half a page."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
