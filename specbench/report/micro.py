"""Files of `specbench micro`: methods against `baseline` and the floor, and files against each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from specbench.errors import NotComparableError
from specbench.report.clocks import TAINTING, tainting
from specbench.report.compare import BASELINE
from specbench.report.reader import Run
from specbench.report.schema import MICRO_KEY, SHAPE_KEY
from specbench.report.summary import STEADY_SPREAD, keys_of

Line = dict[str, Any]
Shape = tuple[Any, ...]
"""Values of `schema.SHAPE_KEY`, and the noise."""

STEADY_REPLAYS = 10
"""Fewer, and a figure is called unsteady."""
"""Cold inputs hold this many times the L2 together; with less, some of them were warm."""
SLOWED = tuple(TAINTING)
"""Reasons for low clocks that mean a slower GPU than it could be."""

_LISTS = {"throttle_reasons", "graph_us_samples", "host_us_samples", "wall_us_samples"}


@dataclass(frozen=True)
class Bench:
    """A file of `specbench micro`.

    Attributes:
        lines: its rows in order, null as None, without the samples; with `unsteady` (the reasons why
            the time is not to be trusted) and, against `baseline` with the same inputs,
            `time_delta` and `kernel_delta` (0.1 is +10 %; None where either is not known).
    """

    run: Run
    lines: list[Line]

    def table(self, l2: str | None) -> dict[Shape, dict[str, Line]]:
        """Shape → method → line, of one state of the L2."""
        found: dict[Shape, dict[str, Line]] = {}
        for line in self.lines:
            if line["l2"] == l2:
                found.setdefault(shape_of(line), {})[line["method"]] = line
        return found

    @property
    def states(self) -> list[str | None]:
        """Of the L2, the one that counts first: cold, warm; None alone on a CPU."""
        known = {line["l2"] for line in self.lines}
        return [state for state in ("cold", "warm", None) if state in known]

    @property
    def methods(self) -> dict[str, Line]:
        """Each method with a line of its own, in the order of the file."""
        return {line["method"]: line for line in self.lines}


@dataclass(frozen=True)
class Across:
    """Files against each other.

    Attributes:
        lines: one per case and later file: `schema.MICRO_KEY`, `reference_run`, `run_id`,
            `reference_us`, `time_us`, `ratio` (time / reference, None where they are not of the same
            make), `unsteady`.
        notes: in what the files differ, and what is in one alone.
    """

    lines: list[Line]
    notes: list[str]


def read_bench(run: Run) -> Bench:
    """The rows of a file, each held against `baseline`.

    Raises:
        NotComparableError: there are none.
    """
    if run.rows.empty:
        raise NotComparableError(f"nothing was measured in {run.path}", "Run it again.")
    names = [name for name in run.rows.columns if name not in _LISTS]
    lines = [
        {name: _plain(value) for name, value in zip(names, values, strict=True)}
        for values in keys_of(run.rows, names)
    ]
    for line, reasons in zip(lines, run.rows["throttle_reasons"], strict=True):
        line["throttle_reasons"] = [] if reasons is None else list(reasons)
        line["unsteady"] = _doubts(line)
    plain = {_inputs_of(line): line for line in lines if line["method"] == BASELINE}
    for line in lines:
        line |= _deltas(line, plain.get(_inputs_of(line)))
    return Bench(run, lines)


def _plain(value: Any) -> Any:
    """Python's own number in the place of numpy's, which json cannot write."""
    return value.item() if isinstance(value, np.generic) else value


def shape_of(line: Line) -> Shape:
    """What makes two lines the same row of a table."""
    return tuple(line[name] for name in [*SHAPE_KEY, "noise"])


def _inputs_of(line: Line) -> Shape:
    return (*shape_of(line), line["l2"])


def _doubts(line: Line) -> list[str]:
    doubts = []
    if line["replays"] is not None and line["replays"] < STEADY_REPLAYS:
        doubts.append(f"fewer than {STEADY_REPLAYS} replays")
    if (line.get(f"{line['time_from']}_us_spread") or 0) > STEADY_SPREAD:
        doubts.append(f"spread over {STEADY_SPREAD:.0%} between replays")
    if slow := tainting(line["throttle_reasons"]):
        doubts.append(f"GPU slowed down ({', '.join(slow)})")
    return doubts if line["status"] == "ok" else []


def _deltas(line: Line, base: Line | None) -> Line:
    if base is None:
        return {"time_delta": None, "kernel_delta": None}
    # A graph's time has the gaps between kernels in it and their sum has not.
    alike = line["time_from"] == base["time_from"]
    return {
        "time_delta": _delta(line["time_us"], base["time_us"]) if alike else None,
        "kernel_delta": _delta(line["kernel_us"], base["kernel_us"]),
    }


def _delta(new: float | None, base: float | None) -> float | None:
    return None if new is None or not base else new / base - 1


def across(benches: Sequence[Bench]) -> Across:
    """Each case against the first file that has it.

    Raises:
        NotComparableError: no two files have a case in common.
    """
    first: dict[Shape, Line] = {}
    lines, seen = [], set()
    for bench in benches:
        for line in bench.lines:
            if line["status"] != "ok":
                continue
            case = tuple(line[name] for name in MICRO_KEY)
            reference = first.setdefault(case, line)
            if reference["run_id"] != line["run_id"]:
                lines.append(_against(line, reference))
                seen.add(case)
    if not lines:
        raise NotComparableError(
            f"the {len(benches)} files have no case in common",
            "A case is a method with B, γ, V, dtype, noise and L2: measure the same preset.",
        )
    alone = len(first) - len(seen)
    notes = [f"{alone} cases are in one file alone"] if alone else []
    return Across(lines, [*_differences(benches), *notes])


def _against(line: Line, reference: Line) -> Line:
    alike = line["time_from"] == reference["time_from"] and None not in (
        line["time_us"],
        reference["time_us"],
    )
    return {name: line[name] for name in MICRO_KEY} | {
        "reference_run": reference["run_id"],
        "run_id": line["run_id"],
        "reference_us": reference["time_us"],
        "time_us": line["time_us"],
        "ratio": line["time_us"] / reference["time_us"] if alike else None,
        "unsteady": list(dict.fromkeys(line["unsteady"] + reference["unsteady"])),
    }


def _differences(benches: Sequence[Bench]) -> list[str]:
    facts = {
        "device": [_values(bench.run.rows["device_name"]) for bench in benches],
        "driver": [str(bench.run.metadata.get("driver")) for bench in benches],
        "implementation": [_values(bench.run.rows["implementation"]) for bench in benches],
    }
    return [
        f"the files differ in {what} ({' / '.join(dict.fromkeys(values))}): the ratio is not the "
        "method's alone"
        for what, values in facts.items()
        if len(set(values)) > 1
    ]


def _values(column: Iterable[Any]) -> str:
    return " and ".join(sorted({str(value) for value in column if not pd.isna(value)}))
