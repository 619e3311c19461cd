"""Curves over γ: what the verify step takes, what the whole decodes, how much is accepted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from specbench.report.compare import Group
from specbench.report.figures.chart import Chart, Material, Source
from specbench.report.figures.style import Theme, legend, logarithmic, powers_of_two, series
from specbench.report.repeats import Repeats

VERIFY, SPEED, TAU = "gamma-verify", "gamma-speed", "gamma-tau"
FEW_GAMMAS = "it takes at least two numbers for γ over 0; a policy has no place on that axis"

_BAND = "Bands: from the slowest to the fastest whole repeat."
_CAPTIONS = {
    VERIFY: (
        "Verify time over γ",
        f"Median time of the verify step. The flatter, the less does a longer draft cost. {_BAND}",
    ),
    SPEED: (
        "Tokens per second over γ",
        f"New tokens over wall time, prompts included. Above the line of γ = 0 drafting pays. {_BAND}",
    ),
    TAU: (
        "Tokens per step over γ",
        "Mean acceptance length τ, the resampled or bonus token included. The grey line: all drafts "
        f"accepted. {_BAND.replace('slowest to the fastest', 'lowest to the highest')}",
    ),
}
_COLUMNS = {VERIFY: "verify_us", SPEED: "tokens_per_s", TAU: "tau"}
_AXES = {VERIFY: "verify step, µs", SPEED: "tokens/s", TAU: "τ, tokens/step"}


def gamma_charts(kind: str) -> Callable[[Material], list[Chart]]:
    """What draws the charts of `VERIFY`, `SPEED` or `TAU`, one for each group of cases."""

    def charts(material: Material) -> list[Chart]:
        return [
            _chart(kind, source, group)
            for source in material.sources
            for group in source.within.groups
            if _drafted(group.lines, _COLUMNS[kind])["gamma"].nunique() > 1
        ]

    return charts


def _drafted(lines: pd.DataFrame, column: str) -> pd.DataFrame:
    number = lines["gamma"].map(lambda gamma: gamma.isdecimal() and gamma != "0").astype(bool)
    return lines[number & lines[column].notna()]


def _chart(kind: str, source: Source, group: Group) -> Chart:
    lines = _drafted(group.lines, _COLUMNS[kind])
    syn = " (synthetic)" if lines["synthetic_acceptance"].notna().any() else ""
    title, caption = _CAPTIONS[kind]

    def paint(figure: Figure, theme: Theme) -> None:
        axes = figure.add_subplot()
        gammas = np.array(sorted({int(gamma) for gamma in lines["gamma"]}))
        if kind == SPEED:
            _plain(axes, group.lines, source.repeats, theme)
        if kind == TAU:
            axes.set_ylim(1, 1.25 * lines["tau"].max())
            axes.plot(gammas, gammas + 1, color=theme.ink, alpha=0.35, linewidth=1, label="γ + 1")
        _curves(axes, lines, _COLUMNS[kind], source.repeats, theme)
        _scales(axes, gammas, lines[_COLUMNS[kind]], kind)
        axes.set_ylabel(_AXES[kind] + (syn if kind == TAU else ""))
        legend(figure, axes)

    return Chart(kind, source.subject(group.key), title + syn, caption, paint)


def _curves(axes: Axes, lines: pd.DataFrame, column: str, repeats: Repeats, theme: Theme) -> None:
    for label, style in series(lines["label"], theme).items():
        part = lines[lines["label"] == label].to_dict("records")
        gammas = [int(line["gamma"]) for line in part]
        bands = np.array([repeats.band(line, column) for line in part]).T
        axes.fill_between(gammas, *bands, color=style.colour, alpha=0.12, linewidth=0)
        axes.plot(gammas, [line[column] for line in part], label=label, **style.line())


def _plain(axes: Axes, lines: pd.DataFrame, repeats: Repeats, theme: Theme) -> None:
    """γ = 0 of all methods together, as speed-ups have it."""
    plain = lines[(lines["gamma"] == "0") & (lines["sequences"] > 0)]
    if plain.empty:
        return
    speed = plain["new_tokens"].sum() / plain["wall_s"].sum()
    each = [repeats.of(line, "tokens_per_s") for line in plain.to_dict("records")]
    means = np.mean([one for one in each if len(one) == len(each[0])], axis=0)
    if len(means) > 1:
        axes.axhspan(means.min(), means.max(), color=theme.ink, alpha=0.08, linewidth=0)
    axes.axhline(speed, color=theme.ink, linewidth=1.2, label="plain, γ = 0")


def _scales(axes: Axes, gammas: Any, values: pd.Series[Any], kind: str) -> None:
    axes.set_xlabel("γ, drafted tokens per step")
    if gammas.max() > 24:
        axes.set_xscale("log", base=2)
        powers_of_two(axes.xaxis)
    elif len(gammas) <= 10:
        axes.set_xticks(gammas)
    if kind == VERIFY and values.max() > 6 * values.min():
        axes.set_yscale("log")
        logarithmic(axes.yaxis)
    elif kind == VERIFY:
        axes.set_ylim(bottom=0)
