"""Throughput and time per token over the batch size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from specbench.report.captions import fastest_line
from specbench.report.compare import Group
from specbench.report.figures.chart import Chart, Material, Source
from specbench.report.figures.style import Series, Theme, legend, powers_of_two, series
from specbench.report.repeats import Line, Repeats

BATCH_SPEED, BATCH_LATENCY = "batch-throughput", "batch-latency"
DRAFTING = "drafting, fastest γ"
"""The curve's name where its method or γ changes from size to size; else it is theirs."""
_SHOWN = {
    BATCH_SPEED: (
        "tokens_per_s",
        1.0,
        "tokens/s of the batch",
        "Throughput over the batch size",
        "Where the curves meet, drafting stops to pay.",
    ),
    BATCH_LATENCY: (
        "ptl_s",
        1e3,
        "PTL, ms per token",
        "Time per token over the batch size",
        "What one sequence waits for a token of its own, the mean over sequences (BASS).",
    ),
}


def batch_charts(kind: str) -> Callable[[Material], list[Chart]]:
    """What draws the charts of `BATCH_SPEED` or `BATCH_LATENCY`: groups that differ in size alone."""

    def charts(material: Material) -> list[Chart]:
        return [
            _chart(kind, source, same)
            for source in material.sources
            for same in _alike(source.within.groups)
            if len(same) > 1
        ]

    return charts


def _alike(groups: list[Group]) -> list[list[Group]]:
    found: dict[tuple[Any, ...], list[Group]] = {}
    for group in groups:
        if (group.lines["sequences"] > 0).any():
            rest = tuple(value for name, value in group.key.items() if name != "batch_size")
            found.setdefault(rest, []).append(group)
    return list(found.values())


def _chart(kind: str, source: Source, groups: list[Group]) -> Chart:
    column, scale, axis, title, about = _SHOWN[kind]
    curves = _curves(groups)

    def paint(figure: Figure, theme: Theme) -> None:
        axes = figure.add_subplot()
        for label, style in series(curves, theme).items():
            _curve(axes, label, curves[label], column, scale, source.repeats, style)
        axes.set_xscale("log", base=2)
        powers_of_two(axes.xaxis)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("batch size, sequences")
        axes.set_ylabel(axis)
        legend(figure, axes)

    caption = f"{about} Drafting: the fastest γ at each size. Bands: between whole repeats."
    if any(group.lines["repeats"].max() < 2 for group in groups):
        caption = caption.replace("Bands: between whole repeats.", "One repeat: no band.")
    subject = source.subject(groups[0].key | {"batch_size": None})
    return Chart(kind, subject, title, caption, paint)


def _curves(groups: list[Group]) -> dict[str, list[Line]]:
    """Label → the line at each batch size: plain decoding, the fastest exact method."""
    found: dict[str, list[Line]] = {}
    drafting = []
    for group in sorted(groups, key=lambda group: group.key["batch_size"]):
        plain = group.lines[(group.lines["gamma"] == "0") & (group.lines["sequences"] > 0)]
        if len(plain):
            found.setdefault("plain, γ = 0", []).append(plain.iloc[0].to_dict())
        best = fastest_line(group.lines)
        if best is not None:
            drafting.append(best.to_dict())
    names = {_name(line) for line in drafting}
    label = names.pop() if len(names) == 1 else DRAFTING
    return found | ({label: drafting} if drafting else {})


def _name(line: Line) -> str:
    return f"{line['label']}, γ = {line['gamma']}"


def _curve(
    axes: Axes, label: str, lines: list[Line], column: str, scale: float, repeats: Repeats,
    style: Series,
) -> None:  # fmt: skip
    sizes = [line["batch_size"] for line in lines]
    values = [scale * line[column] for line in lines]
    bands = scale * np.array([repeats.band(line, column) for line in lines]).T
    axes.fill_between(sizes, *bands, color=style.colour, alpha=0.16, linewidth=0)
    axes.plot(sizes, values, label=label, **style.line())
    if label == DRAFTING:
        for line, size, value in zip(lines, sizes, values, strict=True):
            axes.annotate(
                _name(line), (size, value), (4, 6), textcoords="offset points", fontsize=7.5
            )
