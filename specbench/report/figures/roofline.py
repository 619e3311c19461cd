"""Files of `specbench micro`: time against the bytes that must be read, and over γ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from specbench.report.figures.chart import Chart, Material
from specbench.report.figures.style import Theme, legend, logarithmic, powers_of_two, series
from specbench.report.micro import Bench, Line
from specbench.report.micro_captions import label

ROOFLINE, MICRO_GAMMA = "roofline", "micro-gamma"
_DTYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


def roofline_charts(material: Material) -> list[Chart]:
    """One chart for each file that knows its card's read bandwidth."""
    return [_roofline(bench) for bench in material.benches if _measured(bench)]


def _measured(bench: Bench) -> list[Line]:
    """Of the state of the L2 that counts; without a bandwidth there is no floor."""
    wanted = ("time_us", "bytes_moved", "read_gbps")
    lines = [line for line in bench.lines if line["l2"] == bench.states[0]]
    return [line for line in lines if all(line[name] for name in wanted)]


def _roofline(bench: Bench) -> Chart:
    lines = _measured(bench)

    def paint(figure: Figure, theme: Theme) -> None:
        axes = figure.add_subplot()
        _floor(axes, lines, theme)
        for name, style in series([line["method"] for line in lines], theme).items():
            part = [line for line in lines if line["method"] == name]
            megabytes = [line["bytes_moved"] / 1e6 for line in part]
            times, bars = [line["time_us"] for line in part], _quartiles(part)
            look: dict[str, Any] = {"color": style.colour, "linestyle": ""}
            axes.errorbar(megabytes, times, bars, elinewidth=0.8, **look)
            axes.plot(megabytes, times, marker=style.marker, label=label(part[0]), **look)
        axes.set(xscale="log", yscale="log", ylim=_heights(lines))
        logarithmic(axes.xaxis)
        logarithmic(axes.yaxis)
        axes.set_xlabel("bytes that the method must read, MB")
        axes.set_ylabel("verify step, µs")
        legend(figure, axes)

    speed = lines[0]["read_gbps"] / 1e3
    below = {"cold": "No point can lie under it", "warm": "The L2 is warm: points may lie under it"}
    caption = (
        f"A point is a shape. The slanted line: that many bytes at the read bandwidth measured on this "
        f"card, {speed:.2f} TB/s. {below.get(lines[0]['l2'], '')}. The level one: the smallest kernel. "
        "Bars, mostly smaller than the signs: the middle half of the replays."
    )
    title = "Roofline of the verify step"
    return Chart(ROOFLINE, bench.run.path.name, title, caption, paint, height_in=3.5)


def _floor(axes: Axes, lines: Sequence[Line], theme: Theme) -> None:
    """The memory's, from the measured bandwidth, and the launch's."""
    megabytes = np.array([line["bytes_moved"] / 1e6 for line in lines])
    ends = np.array([megabytes.min() / 1.5, megabytes.max() * 1.5])
    floor_us = ends * 1e3 / lines[0]["read_gbps"]
    axes.plot(ends, floor_us, color=theme.ink, linewidth=1.4, label="memory floor")
    if launch_us := lines[0]["launch_floor_us"]:
        axes.axhline(launch_us, color=theme.ink, linewidth=1, dashes=(1, 2), label="launch floor")


def _heights(lines: Sequence[Line]) -> tuple[float, float]:
    """From under the least floor to over the slowest method."""
    floors = [line["launch_floor_us"] or line["floor_us"] for line in lines]
    return min(floors) / 2, 1.5 * max(line["time_us"] for line in lines)


def _quartiles(lines: Sequence[Line]) -> np.ndarray[Any, Any]:
    """(2, lines): from the figure down to the first quartile of the replays and up to the third."""
    bars = []
    for line in lines:
        spread = line.get(f"{line['time_from']}_us_spread")
        half = (spread or 0.0) * line["time_us"] / 2
        bars.append((half, half))
    return np.array(bars).T


def micro_gamma_charts(material: Material) -> list[Chart]:
    """Time over γ, for every other axis of the shape with three γ at least."""
    found = []
    for bench in material.benches:
        shapes: dict[tuple[Any, ...], list[Line]] = {}
        for line in bench.lines:
            if line["l2"] == bench.states[0] and line["time_us"] is not None:
                key = (line["batch_size"], line["vocab_size"], line["dtype"], line["noise"])
                shapes.setdefault(key, []).append(line)
        found += [
            _gamma_chart(bench, key, lines)
            for key, lines in shapes.items()
            if len({line["gamma"] for line in lines}) >= 3
        ]
    return found


def _gamma_chart(bench: Bench, key: tuple[Any, ...], lines: list[Line]) -> Chart:
    def paint(figure: Figure, theme: Theme) -> None:
        axes = figure.add_subplot()
        for name, style in series([line["method"] for line in lines], theme).items():
            part = sorted((x for x in lines if x["method"] == name), key=lambda x: x["gamma"])
            gammas, times = [x["gamma"] for x in part], np.array([x["time_us"] for x in part])
            down, up = _quartiles(part)
            axes.fill_between(gammas, times - down, times + up, color=style.colour, alpha=0.2)
            axes.plot(gammas, times, label=label(part[0]), **style.line())
        axes.set(yscale="log")
        axes.set_xscale("log", base=2)
        powers_of_two(axes.xaxis)
        logarithmic(axes.yaxis)
        axes.set_xlabel("γ, drafted tokens per step")
        axes.set_ylabel("verify step, µs")
        legend(figure, axes)

    size, vocabulary, dtype, _ = key
    detail = f"B = {size}, V = {vocabulary:,}, {_DTYPES.get(dtype, dtype)}"
    caption = "Bands, mostly thinner than the lines: the middle half of the replays."
    title, subject = "The verify step alone, over γ", bench.run.path.name
    return Chart(MICRO_GAMMA, subject, title, caption, paint, detail)
