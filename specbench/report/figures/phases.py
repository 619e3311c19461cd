"""Where the wall time goes: prompt, random numbers, draft, target, verify, commit, the host's gap."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from specbench.report import stats
from specbench.report.compare import Group
from specbench.report.figures.chart import Chart, Material, Source
from specbench.report.figures.style import Theme, short
from specbench.report.phases import PARTS, phase_shares
from specbench.report.repeats import Line, case_key
from specbench.report.schema import CASE_KEY
from specbench.report.summary import keys_of

PHASES = "phases"
_COLOURS = dict(zip(PARTS, (0, 5, 6, 3, 2, 1, 4, 7), strict=True))
_HATCHES = dict(zip(PARTS, ("", "..", "//", "", "", "xx", "--", "||"), strict=True))
REST_SHOWN = 0.01
"""Less than this of every bar, and the rest is not in the legend."""


def phase_charts(material: Material) -> list[Chart]:
    """One chart for each group of cases whose steps were timed."""
    found = []
    for source in material.sources:
        rows = source.within.run.rows
        ok = rows[rows["status"] == "ok"]
        cases = dict(zip(ok.index, keys_of(ok, CASE_KEY), strict=True))
        for group in source.within.groups:
            bars = _bars(group, ok, pd.Series(cases, dtype=object))
            if len(bars):
                found.append(_chart(source, group, bars))
    return found


def _bars(group: Group, ok: pd.DataFrame, cases: pd.Series[Any]) -> list[tuple[str, Line]]:
    """Label → milliseconds per token of each phase: γ = 0, then each method at its fastest γ."""
    lines = group.lines[group.lines["tokens_per_s"].notna()]
    plain, drafted = lines[lines["gamma"] == "0"], lines[lines["gamma"] != "0"]
    chosen: list[tuple[str, pd.DataFrame]] = [("plain", plain)] if len(plain) else []
    for label, part in drafted.groupby("label", sort=False):
        best = part.loc[[part["tokens_per_s"].idxmax()]]
        chosen.append((f"{label}, γ = {best['gamma'].iloc[0]}", best))
    bars = []
    for label, part in chosen:
        wanted = {case_key(line) for line in part.to_dict("records")}
        rows = ok.loc[cases[cases.isin(wanted)].index]
        token_ms = 1e3 * stats.ratio(rows["wall_s"].sum(), rows["new_tokens"].sum())
        shares = phase_shares(rows)
        if not np.isnan(shares["target"]):
            bars.append((label, {"ms": token_ms, **shares}))
    return bars


def _chart(source: Source, group: Group, bars: list[tuple[str, Line]]) -> Chart:
    def paint(figure: Figure, theme: Theme) -> None:
        axes = figure.add_subplot()
        for name in PARTS:
            _part(axes, name, bars, theme)
        for place, (_, bar) in enumerate(bars):
            if not np.isnan(bar["verify"]):
                text, at = f"verify {bar['verify']:.1%}", (bar["ms"], place)
                axes.annotate(text, at, (3, 0), textcoords="offset points", va="center", fontsize=8)
        axes.set_yticks(range(len(bars)), [short(label) for label, _ in bars])
        axes.invert_yaxis()
        axes.set_xlim(0, 1.33 * max(bar["ms"] for _, bar in bars))
        axes.set_xlabel("wall time of a sequence, ms per new token")
        axes.grid(visible=False, axis="y")
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=4, handlelength=1.3)

    caption = (
        "Each method at its fastest γ. The percentage is the verify step's part of the wall time: what "
        "a verify step that takes no time at all could save (Amdahl)."
    )
    height = 1.35 + 0.28 * len(bars)
    return Chart(
        PHASES, source.subject(group.key), "Where the time goes", caption, paint, height_in=height
    )


def _part(axes: Axes, name: str, bars: list[tuple[str, Line]], theme: Theme) -> None:
    shares = [np.nan_to_num(bar[name]) for _, bar in bars]
    if max(shares) < (REST_SHOWN if name == "rest" else 1e-9):
        return
    before = PARTS[: PARTS.index(name)]
    left = [bar["ms"] * float(np.nansum([bar[one] for one in before])) for _, bar in bars]
    width = [share * bar["ms"] for share, (_, bar) in zip(shares, bars, strict=True)]
    axes.barh(
        range(len(bars)), width, left=left, height=0.66, label=name, color=theme.series[_COLOURS[name]],
        hatch=_HATCHES[name], edgecolor=theme.ground, linewidth=0.5,
    )  # fmt: skip
