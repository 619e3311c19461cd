"""What an approximation trades: total variation of its law, acceptance, quality, speed."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from specbench.report.compare import Group
from specbench.report.figures.chart import Chart, Material, Source
from specbench.report.figures.style import Series, Theme, legend, logarithmic, series
from specbench.report.repeats import Repeats

LAW, RANGE = "law", "sigmoid-range"
PANELS = {
    "law_tv": ("total\nvariation", 1.0), "alpha": ("α, %", 100.0),
    "quality": ("quality", 1.0), "speedup": ("speed-up,\n× γ = 0", 1.0),
}  # fmt: skip


def law_charts(material: Material) -> list[Chart]:
    """Speed against total variation, one chart for each group of cases with an approximation."""
    return [
        _law_chart(source, group)
        for source in material.sources
        for group in source.within.groups
        if _placed(group.lines)["law_tv"].gt(0).any()
    ]


def _speed(lines: pd.DataFrame) -> str:
    """Over plain decoding where there is one."""
    return "speedup" if lines["speedup"].notna().any() else "tokens_per_s"


def _placed(lines: pd.DataFrame) -> pd.DataFrame:
    """Drafting lines whose law is known: an exact method's is the target's."""
    exact = lines["exact"].map(lambda mark: mark is True)
    lines = lines.assign(law_tv=lines["law_tv"].mask(exact, 0.0))
    return lines[(lines["gamma"] != "0") & lines["law_tv"].notna() & lines[_speed(lines)].notna()]


def _law_chart(source: Source, group: Group) -> Chart:
    lines = _placed(group.lines)

    def paint(figure: Figure, theme: Theme) -> None:
        axes = figure.add_subplot()
        name = _speed(lines)
        for label, style in series(lines["label"], theme).items():
            _points(axes, lines[lines["label"] == label], name, source.repeats, style)
        if name == "speedup":
            axes.axhline(1, color=theme.ink, linewidth=1)
        axes.set_xlabel("total variation of a token's law from the target's")
        axes.set_ylabel("speed-up, × γ = 0" if name == "speedup" else "tokens/s")
        axes.set_xlim(left=-0.02)
        legend(figure, axes)

    caption = (
        "Left is right: at 0 the output follows the target's law. Numbers: γ. Bars: from "
        "the slowest to the fastest whole repeat."
    )
    title = "Speed against total variation"
    return Chart(LAW, source.subject(group.key), title, caption, paint)


def _points(axes: Axes, lines: pd.DataFrame, name: str, repeats: Repeats, style: Series) -> None:
    label, several = lines["label"].iloc[0], lines["gamma"].nunique() > 1
    for line in lines.to_dict("records"):
        x, y = line["law_tv"], line[name]
        axes.plot([x, x], repeats.band(line, name), color=style.colour, linewidth=1, alpha=0.5)
        axes.plot(x, y, color=style.colour, marker=style.marker, linestyle="", label=label)
        label = None
        if x > 0 and several:
            axes.annotate(line["gamma"], (x, y), (4, 3), textcoords="offset points", fontsize=7.5)


@dataclass(frozen=True)
class _Sweep:
    """A group over the widths of the range, and what an exact method has at the same γ."""

    name: str
    lines: pd.DataFrame
    exact: dict[str, float]
    repeats: Repeats


def range_charts(material: Material) -> list[Chart]:
    """Everything over the range of `sigmoid`, one chart a run: its tasks are the curves."""
    found = []
    for source in material.sources:
        sweeps = [sweep for group in source.within.groups for sweep in _sweeps(source, group)]
        if sweeps:
            found.append(_range_chart(source, sweeps))
    return found


def _sweeps(source: Source, group: Group) -> list[_Sweep]:
    """One for each γ at which there are three symmetric ranges at least."""
    lines = group.lines
    symmetric = (lines["sigmoid_beta"] == -lines["sigmoid_alpha"]) & lines["alpha"].notna()
    found = []
    for gamma, part in lines[symmetric].groupby("gamma", sort=False):
        if part["sigmoid_beta"].nunique() < 3:
            continue
        name = _name(group, part, source, str(gamma))
        exact = lines[lines["exact"].map(lambda mark: mark is True) & (lines["gamma"] == gamma)]
        beside = {one: exact[one].mean() for one in PANELS} | {"law_tv": 0.0}
        found.append(_Sweep(name, part, beside if len(exact) else {}, source.repeats))
    return found


def _name(group: Group, lines: pd.DataFrame, source: Source, gamma: str) -> str:
    """speech's wer, γ = 4 only where there are several."""
    metrics = lines["metric"].dropna().unique()
    name = str(group.key["task"]) + (f", {metrics[0]}" if len(metrics) else "")
    several = source.within.summary.loc[source.within.summary["gamma"] != "0", "gamma"].nunique()
    return f"{name}, γ = {gamma}" if several > 1 else name


def _range_chart(source: Source, sweeps: list[_Sweep]) -> Chart:
    shown = [name for name in PANELS if any(one.lines[name].notna().any() for one in sweeps)]

    def paint(figure: Figure, theme: Theme) -> None:
        panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
        styles = series([one.name for one in sweeps], theme)
        for axes, name in zip(panels, shown, strict=True):
            for sweep in sweeps:
                _curve(axes, sweep, name, styles[sweep.name])
            axes.set_ylabel(PANELS[name][0])
            axes.margins(y=0.15)
        panels[-1].set_xscale("log")
        logarithmic(panels[-1].xaxis)
        panels[-1].set_xlabel("half the width of the range of logits, β = −α")
        legend(figure, panels[0])
        figure.align_ylabels()

    caption = (
        "Dashed: an exact method at the same γ. Bands: between whole repeats. Quality is each task's "
        "own metric; of wer less is better."
    )
    title, subject = "The sigmoid method over its range", source.within.run.path.name
    return Chart(RANGE, subject, title, caption, paint, height_in=1.1 + 1.15 * len(shown))


def _curve(axes: Axes, sweep: _Sweep, name: str, style: Series) -> None:
    scale = PANELS[name][1]
    lines = sweep.lines.sort_values("sigmoid_beta").to_dict("records")
    widths = [line["sigmoid_beta"] for line in lines]
    bands = [sweep.repeats.band(line, name) for line in lines]
    low, high = ([scale * band[i] for band in bands] for i in (0, 1))
    axes.fill_between(widths, low, high, color=style.colour, alpha=0.16, linewidth=0)
    values = [scale * line[name] for line in lines]
    axes.plot(widths, values, label=sweep.name, color=style.colour, marker=style.marker)
    if name in sweep.exact:
        axes.axhline(scale * sweep.exact[name], color=style.colour, linewidth=1, linestyle="--")
