"""What `specbench run` and `specbench compare` print: tables for a terminal, markdown, JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import pandas as pd
from rich.console import Console

from specbench.report import captions
from specbench.report.compare import BASELINE, Across, Comparison, Group, Within, within
from specbench.report.reader import Run
from specbench.report.sheet import (
    Cell,
    Column,
    Sheet,
    amount,
    fixed,
    percent,
    print_sheet,
    times,
    to_markdown,
)
from specbench.report.summary import GROUP_KEY, STEADY_SPREAD, keys_of

WIDTH = 100
"""Columns of the page where there is no terminal to ask (a pipe, a CI job)."""

Line = dict[Any, Any]


def render_run(run: Run, console: Console | None = None) -> None:
    """Prints a run's main table: method × γ, with what was fastest.

    Raises:
        NotComparableError: no case of the run finished.
    """
    console = console or page()
    for group in within(run).groups:
        print_sheet(_main_sheet(group), console)


def render_comparison(
    comparison: Comparison, output_format: str = "table", console: Console | None = None
) -> None:
    """Prints a comparison.

    Args:
        output_format: "table" (for a terminal), "markdown" or "json".
    """
    console = console or page()
    if output_format == "json":
        _write(to_json(comparison), console)
    else:
        _print_sheets(comparison, console, output_format == "markdown")


def _print_sheets(comparison: Comparison, console: Console, markdown: bool) -> None:
    sheets = [_delta_sheet(one, group) for one in comparison.withins for group in one.groups]
    if comparison.across is not None:
        sheets += _across_sheets(comparison.across, comparison.withins)
    for sheet in sheets:
        if markdown:
            _write(to_markdown(sheet) + "\n", console)
        else:
            print_sheet(sheet, console)
    for note in comparison.notes:
        console.print(f"note: {note}", markup=False, highlight=False)


def to_json(comparison: Comparison) -> str:
    """The comparison with all its figures unrounded; what is not known is null."""
    across = comparison.across
    return json.dumps(
        {
            "runs": [_run_json(one) for one in comparison.withins],
            "across": _records(across.lines) if across else [],
            "alone": _records(across.alone) if across else [],
            "notes": comparison.notes + (across.notes if across else []),
        },
        indent=2,
        ensure_ascii=False,
    )


def _run_json(one: Within) -> dict[str, Any]:
    names = ["created_utc", "scenario_name", "device_name", "driver", "git_sha", "complete"]
    about = {name: one.run.metadata.get(name) for name in names}
    groups = [{"key": group.key, "cases": _records(group.lines)} for group in one.groups]
    return {"run_id": one.run.run_id, "path": str(one.run.path), **about, "groups": groups}


def _records(lines: pd.DataFrame) -> list[dict[str, Any]]:
    names = [str(name) for name in lines.columns]
    return [dict(zip(names, values, strict=True)) for values in keys_of(lines, names)]


def _main_sheet(group: Group) -> Sheet:
    lines = group.lines
    best = _best(lines, {"tau": max, "tokens_per_s": max, "speedup": max})
    columns = [Column("γ"), Column("method", right=False), Column("τ", "tok/step")]
    columns += [Column("α", "%"), Column("tokens/s"), Column("speed-up", "vs γ = 0")]
    columns += [Column("verify", "µs/step"), Column("verify", "% of wall"), _quality(lines)]

    def row(line: Line) -> list[Cell]:
        return [
            *_who(line),
            Cell(fixed(line["tau"], 2), best("tau", line)),
            Cell(percent(line["alpha"])),
            Cell(_marked(amount(line["tokens_per_s"]), line), best("tokens_per_s", line)),
            Cell(_marked(times(line["speedup"]), line), best("speedup", line)),
            Cell(_verify(line)),
            Cell(percent(line["verify_share"])),
            Cell(fixed(line["quality"], 3)),
        ]

    title = captions.group_title(group.key)
    return Sheet(title, columns, _blocks(lines, row), captions.group_captions(lines))


def _delta_sheet(one: Within, group: Group) -> Sheet:
    """Every method against `baseline`; without baseline rows, the same table without Δ."""
    lines = group.lines
    has_baseline = bool((lines[lines["sequences"] > 0]["method"] == BASELINE).any())
    best = _best(lines, {"tau": max, "tokens_per_s": max, "speedup": max})
    delta = Column("Δ", "%")
    columns = [Column("γ"), Column("method", right=False), Column("verify", "µs/step"), delta]
    columns += [Column("τ"), delta, Column("α", "%"), delta, Column("tokens/s"), delta]
    columns += [Column("speed-up", "vs γ = 0"), _quality(lines), Column("Δ")]

    def change(line: Line, name: str) -> Cell:
        return Cell("" if line["method"] == BASELINE else percent(line[f"{name}_delta"], True))

    def row(line: Line) -> list[Cell]:
        quality = "" if line["method"] == BASELINE else fixed(line["quality_delta"], 3, True)
        return [
            *_who(line),
            Cell(_verify(line)),
            change(line, "verify_us"),
            Cell(fixed(line["tau"], 2), best("tau", line)),
            change(line, "tau"),
            Cell(percent(line["alpha"])),
            change(line, "alpha"),
            Cell(_marked(amount(line["tokens_per_s"]), line), best("tokens_per_s", line)),
            change(line, "tokens_per_s"),
            Cell(_marked(times(line["speedup"]), line), best("speedup", line)),
            Cell(fixed(line["quality"], 3)),
            Cell(quality),
        ]

    title = f"{one.run.path.name}: {captions.group_title(group.key)}"
    below = ["Δ against baseline at the same γ" if has_baseline else "no rows of baseline: no Δ"]
    sheet = Sheet(title, columns, _blocks(lines, row), [*captions.group_captions(lines), *below])
    return sheet if has_baseline else _without_delta(sheet)


def _without_delta(sheet: Sheet) -> Sheet:
    keep = [i for i, column in enumerate(sheet.columns) if column.name != "Δ"]
    blocks = [[[row[i] for i in keep] for row in block] for block in sheet.blocks]
    return Sheet(sheet.title, [sheet.columns[i] for i in keep], blocks, sheet.captions)


def _across_sheets(across: Across, withins: Sequence[Within]) -> list[Sheet]:
    """One sheet per group, and a last caption for what could not be compared."""
    columns = [Column("γ"), Column("method", right=False), Column("reference", right=False)]
    columns += [Column("run", right=False), Column("verify", "×"), Column("τ", "×")]
    columns += [Column("tokens/s", "×"), Column("speed-up", "×"), Column("quality", "Δ")]

    def row(line: Line) -> list[Cell]:
        return [
            Cell(line["gamma"]),
            Cell(line["label"]),
            Cell(line["reference_run"]),
            Cell(line["run_id"]),
            Cell(fixed(line["verify_us_ratio"], 3)),
            Cell(fixed(line["tau_ratio"], 3)),
            Cell(_marked(fixed(line["tokens_per_s_ratio"], 3), line)),
            Cell(_marked(fixed(line["speedup_ratio"], 3), line)),
            Cell(fixed(line["quality_delta"], 3, True)),
        ]

    keys = pd.Series(keys_of(across.lines, GROUP_KEY), index=across.lines.index)
    sheets = []
    for key in keys.unique():
        lines = across.lines[keys == key]
        title = captions.group_title(dict(zip(GROUP_KEY, key, strict=True)))
        sheets.append(Sheet(f"run / reference: {title}", columns, _blocks(lines, row)))
    sheets[-1].captions.extend(captions.across_captions(across, withins))
    return sheets


def _blocks(lines: pd.DataFrame, row: Callable[[Line], list[Cell]]) -> list[list[list[Cell]]]:
    """A block of rows per γ."""
    columns = {str(name): lines[name].tolist() for name in lines.columns}
    values = zip(*columns.values(), strict=True)
    records = [dict(zip(columns, line, strict=True)) for line in values]
    return [[row(line) for line in block] for _, block in groupby(records, key=itemgetter("gamma"))]


def _best(
    lines: pd.DataFrame, wanted: dict[str, Callable[[list[float]], float]]
) -> Callable[[str, Line], bool]:
    """Tells whether a line holds the best value of a column: an approximation never does."""
    pool = lines[lines["exact"].map(lambda mark: mark is not False)]
    known = {name: pool[name].dropna().tolist() for name in wanted}
    bests = {name: choose(known[name]) for name, choose in wanted.items() if known[name]}
    return lambda name, line: line["exact"] is not False and line[name] == bests.get(name)


def _who(line: Line) -> list[Cell]:
    sign = {True: "", False: f" {captions.APPROXIMATE}"}.get(line["exact"], f" {captions.UNKNOWN}")
    return [Cell(line["gamma"]), Cell(f"{line['label']}{sign}")]


def _verify(line: Line) -> str:
    unsteady = line["verify_us_spread"] > STEADY_SPREAD
    return amount(line["verify_us"]) + (captions.UNSTEADY if unsteady else "")


def _marked(text: str, line: Line) -> str:
    return text + (captions.UNSTEADY if line["unsteady"] else "")


def _quality(lines: pd.DataFrame) -> Column:
    names = lines["metric"].dropna().unique()
    return Column(str(names[0]) if len(names) == 1 else "quality")


def _write(text: str, console: Console) -> None:
    """As it is: rich would look for markup and wrap in half a megabyte of JSON."""
    console.file.write(text + "\n")


def page() -> Console:
    """The terminal on stdout, or a page of `WIDTH` columns where there is none."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    return console
