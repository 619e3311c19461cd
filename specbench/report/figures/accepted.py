"""How many drafts a step keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from specbench.report.captions import fastest_line
from specbench.report.compare import Group
from specbench.report.figures.chart import Chart, Material, Source
from specbench.report.figures.style import Theme, legend, series
from specbench.report.repeats import case_key
from specbench.report.schema import CASE_KEY
from specbench.report.summary import keys_of

ACCEPTED = "accepted"


def accepted_charts(material: Material) -> list[Chart]:
    """One chart for each group of cases: at the γ of its fastest exact method."""
    found = []
    for source in material.sources:
        for group in source.within.groups:
            best = fastest_line(group.lines)
            if best is not None and (kept := _kept(source, group, best["gamma"])):
                found.append(_chart(source.subject(group.key), group, best["gamma"], kept))
    return found


def _kept(source: Source, group: Group, gamma: str) -> dict[str, NDArray[Any]]:
    """Label → share of the steps that kept 0, 1, 2 ... drafts; without those that a text's end cut."""
    rows = source.within.run.rows
    rows = rows[(rows["status"] == "ok") & (rows["gamma"] == gamma)]
    cases = pd.Series(keys_of(rows, CASE_KEY), index=rows.index, dtype=object)
    found = {}
    for line in group.lines[group.lines["gamma"] == gamma].to_dict("records"):
        part = rows[cases.isin([case_key(line)])]
        lists = part[["step_accepted", "step_drafted", "step_gamma"]].dropna()
        if lists.empty:
            continue
        accepted, drafted, made = (np.concatenate(list(lists[name])) for name in lists)
        whole = accepted[(drafted == made) & (made > 0)]
        if whole.size:
            found[line["label"]] = np.bincount(whole.astype(int)) / whole.size
    return found


def _chart(subject: str, group: Group, gamma: str, kept: dict[str, NDArray[Any]]) -> Chart:
    most = max(len(shares) for shares in kept.values())

    def paint(figure: Figure, theme: Theme) -> None:
        axes = figure.add_subplot()
        width = 0.84 / len(kept)
        for i, (label, style) in enumerate(series(kept, theme).items()):
            shares = 100 * np.pad(kept[label], (0, most - len(kept[label])))
            places = np.arange(most)
            if most > 12:
                axes.plot(places, shares, label=label, **style.line())
            else:
                left = places - 0.42 + width * (i + 0.5)
                axes.bar(left, shares, width, label=label, color=style.colour, **_hatch(i, theme))
        if most <= 12:
            axes.set_xticks(range(most))
            axes.grid(visible=False, axis="x")
        axes.set_xlabel(f"accepted drafts in a step, γ = {gamma}")
        axes.set_ylabel("% of steps")
        legend(figure, axes)

    caption = (
        "Steps that a text's end cut short are left out. Methods by the same rule and the same random "
        "numbers keep the same drafts."
    )
    title = "Accepted drafts per step"
    if group.lines["synthetic_acceptance"].notna().any():
        title += " (synthetic)"
    return Chart(ACCEPTED, subject, title, caption, paint)


def _hatch(place: int, theme: Theme) -> dict[str, Any]:
    hatches = ("", "///", "xxx", "...", "", "---")
    return {"hatch": hatches[place % len(hatches)], "edgecolor": theme.ground, "linewidth": 0}
