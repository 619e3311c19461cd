"""The sentences below a table of `specbench micro`, and the signs in its cells."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import median
from typing import Any

from specbench.report.captions import APPROXIMATE, UNSTEADY
from specbench.report.compare import BASELINE
from specbench.report.micro import Bench, Line, shape_of
from specbench.report.sheet import NO_VALUE, amount

KERNELS = "*"
LARGE_BYTES = 100e6
"""From here on the memory's bandwidth decides, not the launch."""


def captions(bench: Bench) -> list[str]:
    """The sentences below the table: what was fastest, how far from the floor, what not to believe."""
    lines = [line for line in bench.lines if line["l2"] == bench.states[0]]
    ok = [line for line in lines if line["status"] == "ok"]
    found = [_fastest_alone(ok), _bandwidth(ok), _against_baseline(ok), _conditions(bench, ok)]
    left_out = _left_out(bench)
    found += [_as_torch(line for line in ok if line["method"] not in left_out)]
    found += [*doubts(bench.lines), *_marks(lines), *_failures(bench.lines)]
    found += [f"{method} is measured so: {text}" for method, text in left_out.items()]
    return [caption for caption in found if caption]


def _fastest_alone(ok: list[Line]) -> str | None:
    """The exact method with the least median time at B = 1, of those that finished every shape."""
    alone = [line for line in ok if line["batch_size"] == 1 and line["time_us"] is not None]
    shapes = {shape_of(line) for line in alone}
    by_method: dict[str, list[Line]] = {}
    for line in alone:
        if line["exact"]:
            by_method.setdefault(line["method"], []).append(line)
    times = {
        method: median(line["time_us"] for line in found)
        for method, found in by_method.items()
        if len(found) == len(shapes)
    }
    if not times:
        return None
    best = min(times, key=times.__getitem__)
    text = f"fastest exact at B = 1: {best}: {amount(times[best])} µs, median of {_count(shapes)}"
    ratios = [one["floor_ratio"] for one in by_method[best] if one["floor_ratio"] is not None]
    if not ratios:
        return text
    over_us = median(one["time_us"] - one["floor_us"] for one in by_method[best])
    least = known(by_method[best][0]["launch_floor_us"], amount)
    return (
        f"{text}, {median(ratios):.1f}× the floor and {amount(over_us)} µs over it "
        f"(the smallest kernel takes {least})"
    )


def _bandwidth(ok: list[Line]) -> str | None:
    large = [line for line in ok if line["set_bytes"] >= LARGE_BYTES and line["bandwidth_share"]]
    shares: dict[str, list[float]] = {}
    for line in large:
        if line["exact"]:
            shares.setdefault(line["method"], []).append(line["bandwidth_share"])
    if not shares:
        return None
    listed = ", ".join(f"{method} {median(found):.0%}" for method, found in shares.items())
    speed = large[0]["read_gbps"] / 1e3
    return f"of the read bandwidth ({speed:.2f} TB/s) at 100 MB and more: {listed}"


def _against_baseline(ok: list[Line]) -> str | None:
    """Kernel times where the profiler gave them: those compare methods with and without a graph."""
    for what, column in (("kernel time", "kernel_delta"), ("time", "time_delta")):
        deltas: dict[str, list[float]] = {}
        for line in ok:
            if line["method"] != BASELINE and line[column] is not None:
                deltas.setdefault(label(line), []).append(line[column])
        if deltas:
            listed = ", ".join(f"{name} {median(found):+.0%}" for name, found in deltas.items())
            return f"{what} against baseline, median: {listed}"
    return None


def _conditions(bench: Bench, ok: list[Line]) -> str | None:
    if not ok:
        return None
    first = ok[0]
    parts = [first["device_name"], f"{first['replays']} replays a figure, methods interleaved"]
    if first["l2"] == "cold":
        parts.append(
            "cold L2: swept before each replay, and each of its calls has inputs of its own"
        )
    parts.append(f"draft = target + noise {first['noise']:g}")
    if not bench.run.metadata.get("complete", True):
        parts.append("interrupted: not all that was asked for")
    return " · ".join(str(part) for part in parts if part)


def _left_out(bench: Bench) -> dict[str, str]:
    """What the adapters of other projects' methods say about themselves, by method."""
    about = bench.run.metadata.get("methods") or {}
    texts = {method: (about.get(method) or {}).get("leaves_out") for method in bench.methods}
    return {method: text for method, text in texts.items() if text}


def _as_torch(ok: Iterable[Line]) -> str | None:
    torch_ops = dict.fromkeys(line["method"] for line in ok if line["implementation"] == "torch")
    if not torch_ops:
        return None
    return f"as torch operations, their random numbers drawn beforehand: {', '.join(torch_ops)}"


def doubts(lines: list[Line]) -> list[str]:
    """What makes some of the lines unsteady, in a sentence; none if they are all steady."""
    reasons = dict.fromkeys(reason for line in lines for reason in line["unsteady"])
    return [f"{UNSTEADY} unsteady: {'; '.join(reasons)}"] if reasons else []


def _marks(lines: list[Line]) -> list[str]:
    found = []
    kernels = [line for line in lines if line["time_from"] == "kernels"]
    if kernels:
        reason = next((line["graph_error"] for line in kernels if line["graph_error"]), None)
        found.append(f"{KERNELS} sum of kernel times, no graph could be captured: {reason}")
    if any(line["exact"] is False for line in lines):
        found.append(f"{APPROXIMATE} approximation: the output does not follow the target's law")
    return found


def _failures(lines: list[Line]) -> list[str]:
    """One sentence for each method, with the first reason."""
    failed: dict[str, list[Line]] = {}
    for line in lines:
        if line["status"] == "failed":
            failed.setdefault(line["method"], []).append(line)
    return [
        f"{method} failed at {_count({shape_of(line) for line in found})}: {found[0]['error']}"
        for method, found in failed.items()
    ]


def _count(shapes: set[Any]) -> str:
    return f"{len(shapes)} shape{'s' if len(shapes) != 1 else ''}"


def label(line: Line) -> str:
    """The method's name, with a sign if it is an approximation."""
    return f"{line['method']}{'' if line['exact'] else f' {APPROXIMATE}'}"


def known(value: float | None, write: Callable[[float], str]) -> str:
    """The value as `write` has it, or the sign for none."""
    return NO_VALUE if value is None else write(value)
