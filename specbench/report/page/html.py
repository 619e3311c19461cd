"""Builds the page: one file that loads nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment as Jinja
from jinja2 import PackageLoader, StrictUndefined
from markupsafe import Markup

from specbench import __version__
from specbench.errors import NotComparableError
from specbench.report.compare import Comparison, compare_runs
from specbench.report.figures import KINDS
from specbench.report.figures.chart import CREATOR, Chart, Material, Source
from specbench.report.micro import Bench, read_bench
from specbench.report.micro import across as micro_across
from specbench.report.micro_render import micro_sheets
from specbench.report.page.answers import answers
from specbench.report.page.drawing import STYLES, inline_svg
from specbench.report.page.environment import environment
from specbench.report.reader import Run
from specbench.report.recommend import Recommendation, recommend
from specbench.report.recommend_text import sheet as recommended_sheet
from specbench.report.render import comparison_sheets, main_sheets
from specbench.report.schema import MICRO
from specbench.report.sheet import Sheet

_FOLDER = "page"


@dataclass(frozen=True)
class Findings:
    """All that stands on the page, before it is HTML.

    Attributes:
        comparison: None if only files of `specbench micro` were given.
        notes: what could not be said, and why.
    """

    runs: list[Run]
    comparison: Comparison | None
    recommendations: list[Recommendation]
    benches: list[Bench]
    sheets: list[Sheet]
    notes: list[str]

    @property
    def material(self) -> Material:
        """For the figures."""
        withins = self.comparison.withins if self.comparison else []
        several = len(withins) > 1
        return Material([Source(one, several) for one in withins], self.benches)


def read_findings(runs: Sequence[Run], allow_approximate: bool = False) -> Findings:
    """Everything that can be said about the files, of either kind.

    Raises:
        NotComparableError: no case finished in any of them.
    """
    unique = list({run.run_id: run for run in runs}.values())
    decoded = [run for run in unique if run.kind != MICRO]
    benches = [read_bench(run) for run in unique if run.kind == MICRO]
    notes = [f"{run.path} is given twice: shown once" for run in runs if run not in unique]
    comparison, recommendations = None, []
    if decoded:
        comparison = compare_runs(decoded)
        notes += comparison.notes
        if comparison.failure is not None:
            notes.append(f"{comparison.failure.message}: each run stands for itself")
        try:
            recommendations = recommend(comparison.withins, allow_approximate)
        except NotComparableError as error:
            notes.append(error.message)
    sheets = _sheets(comparison, recommendations) + _micro_sheets(benches, notes)
    return Findings(list(runs), comparison, recommendations, benches, sheets, notes)


def _sheets(comparison: Comparison | None, found: list[Recommendation]) -> list[Sheet]:
    """Those of `recommend`, whose sentences stand above, of `run` and of `compare`."""
    if comparison is None:
        return []
    advised = [recommended_sheet(one, explained=False) for one in found]
    main = [sheet for one in comparison.withins for sheet in main_sheets(one)]
    return [*advised, *main, *comparison_sheets(comparison)]


def _micro_sheets(benches: list[Bench], notes: list[str]) -> list[Sheet]:
    try:
        found = micro_across(benches) if len(benches) > 1 else None
    except NotComparableError as error:
        notes.append(f"{error.message}: each file stands for itself")
        found = None
    return micro_sheets(benches, found)


def to_html(findings: Findings) -> str:
    """The whole page. Whatever the files hold is text in it, never markup."""
    script, style = _asset("page.js"), _asset("page.css")
    for name, text in STYLES.items():
        style = style.replace(name, text)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    figures, left_out = _figures(findings.material)
    jinja = Jinja(
        loader=PackageLoader("specbench.report", _FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
    )
    return jinja.get_template("page.html.j2").render(
        title=_title(findings),
        about=_about(findings),
        answers=answers(findings.recommendations, findings.benches),
        notes=findings.notes,
        figures=figures,
        left_out=left_out,
        sheets=[_table(sheet, number) for number, sheet in enumerate(findings.sheets)],
        environments=[environment(run) for run in findings.runs],
        files=", ".join(run.path.name for run in findings.runs),
        creator=CREATOR,
        version=__version__,
        style=Markup(style),
        script=Markup(script),
        script_hash=f"sha256-{digest}",
    )


def _asset(name: str) -> str:
    return files("specbench.report").joinpath(_FOLDER, name).read_text(encoding="utf-8")


def _title(findings: Findings) -> str:
    names = [
        str(run.metadata.get("scenario_name") or run.metadata.get("preset") or run.path.stem)
        for run in findings.runs
    ]
    return " + ".join(dict.fromkeys(names))


def _about(findings: Findings) -> list[str]:
    """One line for each device."""
    lines = []
    for run in findings.runs:
        device = run.metadata.get("device_name") or "device not known"
        day = str(run.metadata.get("created_utc") or "undated")[:10]
        lines.append(f"{device} · {day} · {len(run.rows):,} rows · {run.path.name}")
    return lines


def _figures(material: Material) -> tuple[list[tuple[str, list[dict[str, Any]]]], list[str]]:
    """Charts by what they show, and a sentence for each kind that has none."""
    charts, left_out = [], []
    for kind in KINDS.values():
        found = kind.charts(material)
        charts += found
        if not found and (kind.of == MICRO) == (not material.sources):
            left_out.append(f"{kind.what}: {kind.needs}")
    subjects: dict[str, list[dict[str, Any]]] = {}
    homes = _homes(material)
    for number, chart in enumerate(charts):
        subject = homes.get(chart.subject, chart.subject)
        subjects.setdefault(subject, []).append(_figure(chart, number))
    return list(subjects.items()), left_out


def _homes(material: Material) -> dict[str, str]:
    """Where a run has one group of cases, what is drawn of the run stands with what is drawn of that."""
    found = {}
    for source in material.sources:
        groups = [one for one in source.within.groups if one.lines["sequences"].any()]
        if len(groups) == 1:
            found[source.within.run.path.name] = source.subject(groups[0].key)
    return found


def _figure(chart: Chart, number: int) -> dict[str, Any]:
    about = {"title": chart.name, "caption": chart.caption, "anchor": f"figure-{number}"}
    return {**about, "svg": inline_svg(chart)}


def _table(sheet: Sheet, number: int) -> dict[str, Any]:
    """A sheet as the template wants it: each row knows its place, each cell its classes."""
    place, blocks = 0, []
    for block in sheet.blocks:
        rows = []
        for row in block:
            cells = [
                {
                    "text": cell.text,
                    "classes": " ".join(["right"] * column.right + ["best"] * cell.best),
                }
                for cell, column in zip(row, sheet.columns, strict=True)
            ]
            rows.append({"cells": cells, "place": place})
            place += 1
        blocks.append(rows)
    about = {"title": sheet.title, "columns": sheet.columns, "captions": sheet.captions}
    return {**about, "blocks": blocks, "anchor": f"table-{number}"}
