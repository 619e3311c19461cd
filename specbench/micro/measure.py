"""Shapes and methods to rows of `report.schema.MICRO_SCHEMA`.

Two passes: everything is timed before anything is profiled, since the profiler slows down what comes
after it too. The methods of one shape take turns, A B C … then … C B A, so that drift of the machine
hits all of them alike.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch

from specbench.micro.inputs import count_sets, expected_accepted, make_sets, set_bytes
from specbench.micro.plan import Plan, Shape
from specbench.micro.subject import Row, Subject, against_floor, sentence
from specbench.micro.timing import Card, measure_card
from specbench.sampling.registry import Method
from specbench.telemetry.lost import lost_reason
from specbench.telemetry.nvml import NvmlSampler, cuda_uuid

NVML_INTERVAL_S = 0.2


@dataclass
class Outcome:
    """The rows, by shape, method and L2; after an interruption those of the finished shapes."""

    rows: list[Row] = field(default_factory=list)
    interrupted: bool = False
    lost: str | None = None
    """How the GPU was lost, if it was; nothing was tried on it afterwards."""

    def loses_gpu(self, reason: str | None, where: str) -> bool:
        """Notes it, if there is a reason of `lost_reason`'s."""
        if reason is not None and self.lost is None:
            self.lost = f"the GPU was lost in {where}: {reason}"
        return reason is not None


def measure(plan: Plan, save: Callable[[list[Row]], None], say: Callable[[str], None]) -> Outcome:
    """Times, then profiles every case. A method that fails becomes rows with the reason; if it took
    the GPU along, so does everything that was not finished by then.

    Args:
        save: takes all rows so far, after each shape; a column that a row lacks is null.
        say: takes what is going on.

    Returns:
        all rows; after Ctrl-C those of the finished shapes, with `interrupted` set.
    """
    outcome = Outcome()
    try:
        with _on(plan.device):
            say("measuring the card")
            _Bench(plan, _card(plan.device, outcome), outcome).run(save, say)
    except KeyboardInterrupt:
        outcome.interrupted = True
    except Exception as error:  # leaving the device's context can fail once more
        if outcome.lost is None or not lost_reason(error):
            raise
    return outcome


def _card(device: torch.device, outcome: Outcome) -> Card:
    try:
        return measure_card(device)
    except Exception as error:
        if not outcome.loses_gpu(lost_reason(error), "measuring the card"):
            raise
    return Card()


def _on(device: torch.device) -> AbstractContextManager[object]:
    """Events and graphs belong to the current device: it must be the one that works."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@dataclass(frozen=True)
class _Bench:
    """A plan on a card."""

    plan: Plan
    card: Card
    outcome: Outcome

    def run(self, save: Callable[[list[Row]], None], say: Callable[[str], None]) -> None:
        rows, shapes = self.outcome.rows, self.plan.shapes
        with NvmlSampler(cuda_uuid(self.plan.device), NVML_INTERVAL_S) as nvml:
            for number, shape in enumerate(shapes, 1):
                say(f"timing {number}/{len(shapes)}: {shape}")
                rows += self._timed(shape, nvml)
                save(rows)
        for number, shape in enumerate(shapes, 1) if self.plan.device.type == "cuda" else ():
            say(f"profiling {number}/{len(shapes)}: {shape}")
            self._profile(shape, [row for row in rows if _is_of(row, shape)])
            save(rows)

    def _timed(self, shape: Shape, nvml: NvmlSampler) -> list[Row]:
        """One row for each method on cold and on warm inputs."""
        if self.outcome.lost is not None:
            return self._failed(shape, self._not("measured"))
        begin = time.perf_counter()
        try:
            subjects, theory = self._subjects(shape)
        except Exception as error:  # out of memory, mostly: then no method can be measured
            self.outcome.loses_gpu(lost_reason(error), f"making inputs of {shape}")
            rows = self._failed(shape, sentence(error))
        else:
            self._take_turns(subjects)
            events = nvml.window(begin, time.perf_counter())["throttle_reasons"]
            rows = [self._row(subject, theory, events) for subject in subjects]
            subjects.clear()
        self._free()
        return rows

    def _failed(self, shape: Shape, error: str) -> list[Row]:
        failure = {"status": "failed", "error": error}
        return [self._base(shape, *who) | failure for who in self._who()]

    def _not(self, done: str) -> str:
        return f"not {done}: {self.outcome.lost}"

    def _take_turns(self, subjects: list[Subject]) -> None:
        """All samples of all; none has enough of them if the GPU is lost meanwhile."""
        for subject, step in self._turns(subjects):
            subject.guarded(step)
            if self._has_lost(subject):
                break
        else:
            return
        for subject in subjects:
            subject.error = subject.error or self._not("measured")

    def _turns(self, subjects: list[Subject]) -> Iterator[tuple[Subject, Callable[[], None]]]:
        yield from ((subject, subject.prepare) for subject in subjects)
        for turn in range(self.plan.replays):
            order = subjects if turn % 2 == 0 else subjects[::-1]
            yield from ((subject, subject.sample) for subject in order)

    def _has_lost(self, subject: Subject) -> bool:
        return self.outcome.loses_gpu(subject.lost, f"{subject.method.name} at {subject.shape}")

    def _profile(self, shape: Shape, rows: list[Row]) -> None:
        """Fills in kernel time and launches, on the same inputs made anew."""
        finished = {(row["method"], row["l2"]): row for row in rows if row["status"] == "ok"}
        if not finished:
            return
        if self.outcome.lost is None:
            try:
                subjects, _ = self._subjects(shape)
            except Exception as error:  # the times stand
                self.outcome.loses_gpu(lost_reason(error), f"making inputs of {shape}")
                for row in finished.values():
                    row["profile_error"] = sentence(error)
            else:
                self._fill_in(subjects, finished)
                subjects.clear()
            self._free()
        if self.outcome.lost is not None:
            for row in finished.values():
                if "kernel_us" not in row:
                    row.setdefault("profile_error", self._not("profiled"))

    def _fill_in(
        self, subjects: list[Subject], finished: dict[tuple[str, str | None], Row]
    ) -> None:
        for subject in subjects:
            row = finished.get((subject.method.name, subject.l2), {})
            if row:
                row |= subject.profile()
                row |= against_floor(row)
                if self._has_lost(subject):
                    return

    def _free(self) -> None:
        """Graphs and their memory go before the next shape asks for as much again."""
        gc.collect()
        if self.plan.device.type != "cuda" or self.outcome.lost is not None:
            return
        try:
            torch.cuda.empty_cache()
        except RuntimeError as error:  # if it means anything else, the next shape's rows say so
            self.outcome.loses_gpu(lost_reason(error), "giving memory back")

    def _subjects(self, shape: Shape) -> tuple[list[Subject], float]:
        """Every method on every kind of input, and the drafts that theory says are accepted."""
        device = self.plan.device
        free_bytes = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
        count = count_sets(shape, free_bytes)
        sets = make_sets(shape, count, noise=self.plan.noise, seed=self.plan.seed, device=device)
        found = [Subject(method, shape, sets, l2, device, self.card) for method, l2 in self._who()]
        return found, expected_accepted(sets)

    def _who(self) -> list[tuple[Method, str | None]]:
        kinds: list[str | None] = ["cold", "warm"] if self.plan.device.type == "cuda" else [None]
        return [(method, l2) for method in self.plan.methods for l2 in kinds]

    def _row(self, subject: Subject, theory: float, throttle_reasons: list[str] | None) -> Row:
        row = self._base(subject.shape, subject.method, subject.l2) | subject.row()
        row["throttle_reasons"] = throttle_reasons
        row["expected_accepted"] = theory if subject.method.rule == "token" else None
        return row | against_floor(row)

    def _base(self, shape: Shape, method: Method, l2: str | None) -> Row:
        return {
            "preset": self.plan.name,
            "method": method.name,
            "exact": method.exact,
            "batch_size": shape.batch_size,
            "gamma": shape.gamma,
            "vocab_size": shape.vocab_size,
            "dtype": shape.dtype,
            "noise": self.plan.noise,
            "l2": l2,
            "seed": self.plan.seed,
            "set_bytes": set_bytes(shape),
            "l2_bytes": self.card.l2_bytes,
            "read_gbps": self.card.read_gbps,
            "launch_floor_us": self.card.launch_floor_us,
        }


def _is_of(row: Row, shape: Shape) -> bool:
    return Shape(row["batch_size"], row["gamma"], row["vocab_size"], row["dtype"]) == shape
