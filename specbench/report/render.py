"""What `specbench run` and `specbench compare` print: tables for a terminal, markdown, JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import pandas as pd
from rich.console import Console

from specbench.errors import NotComparableError
from specbench.report import captions
from specbench.report.compare import BASELINE, Across, Comparison, Group, Within, within
from specbench.report.findings import Rules
from specbench.report.gate import gate_runs, methods_against_baseline
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
from specbench.report.verdict import Verdict
from specbench.report.verdict_render import methods_sheet, verdict_sheet, verdicts_json

WIDTH = 100
"""Columns of the page where there is no terminal to ask (a pipe, a CI job)."""

Line = dict[Any, Any]


def render_run(run: Run, console: Console | None = None) -> None:
    """Prints a run's main tables: method × γ, with what was fastest; last, the batch sizes.

    Raises:
        NotComparableError: no case of the run finished.
    """
    console = console or page()
    one = within(run)
    for sheet in [*main_sheets(one), *_batch_size_sheets(_that_ran(one.groups))]:
        print_sheet(sheet, console)


def main_sheets(one: Within) -> list[Sheet]:
    """A run's main tables, method × γ: one for each group of cases that ran."""
    return [_main_sheet(group) for group in _that_ran(one.groups)]


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


def comparison_sheets(comparison: Comparison, *, whole: bool = True) -> list[Sheet]:
    """Every table of a comparison: methods inside each run, then the runs against each other.

    Args:
        whole: verdicts one and all, not the worst of them alone.
    """
    sheets = []
    for one in comparison.withins:
        for group in _that_ran(one.groups):
            sheets += [_delta_sheet(one, group), *_reading_sheets(one, group)]
        sheets += [*_methods_sheets(one), *_batch_size_sheets(one.groups)]
    if comparison.across is not None:
        sheets += _across_sheets(comparison.across, comparison.withins)
        sheets += [verdict_sheet(verdicts, [], whole=whole) for verdicts in _judged(comparison)]
    return sheets


def _print_sheets(comparison: Comparison, console: Console, markdown: bool) -> None:
    for sheet in comparison_sheets(comparison, whole=markdown):
        if markdown:
            _write(to_markdown(sheet) + "\n", console)
        else:
            print_sheet(sheet, console)
    for note in comparison.notes:
        console.print(f"note: {note}", markup=False, highlight=False)


def _methods_sheets(one: Within) -> list[Sheet]:
    """How sure the differences between a run's methods are; nothing where repeats are too few."""
    verdicts = methods_against_baseline(one.run)
    wheres = dict.fromkeys(verdict.finding.where for verdict in verdicts)
    found = [
        methods_sheet(
            f"how sure: {one.run.path.name}: {where}",
            [verdict for verdict in verdicts if verdict.finding.where == where],
        )
        for where in wheres
    ]
    return [sheet for sheet in found if sheet is not None]


def _judged(comparison: Comparison) -> list[list[Verdict]]:
    """Verdicts on the runs against the first of them; none if they have no figure in common."""
    first, *others = [one.run for one in comparison.withins]
    try:
        return [gate_runs(first, others, Rules()).verdicts]
    except NotComparableError:
        return []


def to_json(comparison: Comparison) -> str:
    """The comparison with all its figures unrounded; what is not known is null."""
    across = comparison.across
    return json.dumps(
        {
            "runs": [_run_json(one) for one in comparison.withins],
            "across": _records(across.lines) if across else [],
            "alone": _records(across.alone) if across else [],
            "verdicts": [v for found in _judged(comparison) for v in verdicts_json(found)]
            if across
            else [],
            "notes": comparison.notes + (across.notes if across else []),
        },
        indent=2,
        ensure_ascii=False,
    )


def _run_json(one: Within) -> dict[str, Any]:
    names = ["created_utc", "scenario_name", "device_name", "driver", "git_sha", "complete"]
    about = {name: one.run.metadata.get(name) for name in names}
    groups = [{"key": group.key, "cases": _records(group.lines)} for group in one.groups]
    verdicts = verdicts_json(methods_against_baseline(one.run))
    ids = {"run_id": one.run.run_id, "path": str(one.run.path)}
    return {**ids, **about, "groups": groups, "verdicts": verdicts}


def _records(lines: pd.DataFrame) -> list[dict[str, Any]]:
    names = [str(name) for name in lines.columns]
    return [dict(zip(names, values, strict=True)) for values in keys_of(lines, names)]


def _that_ran(groups: Sequence[Group]) -> list[Group]:
    """Without those all of whose cases were skipped, unless they are all there is."""
    ran = [one for one in groups if (one.lines["sequences"] + one.lines["failed"]).any()]
    return ran or list(groups)


def _main_sheet(group: Group) -> Sheet:
    """Method × γ. PTL for batches, the host gap on a GPU, the tokens in time if a budget was set."""
    lines = group.lines
    most = dict.fromkeys(["tau", "tokens_per_s", "speedup", "budget_tokens"], max)
    best = _best(lines, {**most, "ptl_s": min, "rtf": min})
    syn, budget = _synthetic(lines), Column(f"in {lines['time_budget_s'].iloc[0]:g} s", "tok/seq")
    many = lines["completions_per_sample"].max()
    batched, timed, on_gpu, heard, profiled, approximate, several, judged = (
        bool(shown.any())
        for shown in (
            lines["batch_size"] > 1,
            lines["budget_tokens"].notna(),
            lines["host_gap_share"].notna(),
            lines["rtf"].notna(),
            lines["verify_kernel_us"].notna(),
            lines["law_tv"].notna(),
            (lines["completions_per_sample"] > 1) & lines["pass_at_k"].notna(),
            lines["pass_first"].notna(),
        )
    )

    def rate(name: str, show: Callable[[float], str]) -> Callable[[Line], Cell]:
        return lambda line: Cell(_marked(show(line[name]), line), best(name, line))

    fields: list[tuple[bool, Column, Callable[[Line], Cell]]] = [
        (True, Column(f"τ{syn}", "tok/step"), lambda x: Cell(fixed(x["tau"], 2), best("tau", x))),
        (True, Column(f"α{syn}", "%"), lambda x: Cell(percent(x["alpha"]))),
        (True, Column("tokens/s"), rate("tokens_per_s", amount)),
        (True, Column("speed-up", "vs γ = 0"), rate("speedup", times)),
        (batched, Column("PTL", "ms"), rate("ptl_s", lambda ptl_s: amount(1e3 * ptl_s))),
        (heard, Column("RTF"), rate("rtf", amount)),
        (True, Column("verify", "µs/step"), lambda x: Cell(_verify(x))),
        (profiled, Column("kernels", "µs/step"), lambda x: Cell(amount(x["verify_kernel_us"]))),
        (True, Column("verify", "% of wall"), lambda x: Cell(_verify_share(x))),
        (on_gpu, Column("host gap", "% wall"), lambda x: Cell(percent(x["host_gap_share"]))),
        (timed, budget, lambda x: Cell(amount(x["budget_tokens"]), best("budget_tokens", x))),
        (approximate, Column("TV"), lambda x: Cell(fixed(x["law_tv"], 3))),
        (True, _quality(lines), lambda x: Cell(fixed(x["quality"], 3))),
        (several, Column(f"pass@{many}"), lambda x: Cell(fixed(x["pass_at_k"], 3))),
        (judged, Column("Pass@", "First"), lambda x: Cell(fixed(x["pass_first"], 3))),
        (judged, Column("Pass@", "All"), lambda x: Cell(fixed(x["pass_all"], 3))),
    ]
    shown = [(column, cell) for wanted, column, cell in fields if wanted]
    columns = [Column("γ"), Column("method", right=False), *(column for column, _ in shown)]

    def row(line: Line) -> list[Cell]:
        return [*_who(line), *(cell(line) for _, cell in shown)]

    title = captions.group_title(group.key)
    return Sheet(title, columns, _blocks(lines, row), captions.group_captions(lines))


def _delta_sheet(one: Within, group: Group) -> Sheet:
    """Every method against `baseline`; without baseline rows, the same table without Δ. Energy where it
    was measured: its counter is too slow for short runs, and CPUs have none."""
    lines = group.lines
    has_baseline = bool((lines[lines["sequences"] > 0]["method"] == BASELINE).any())
    best = _best(lines, {"tau": max, "tokens_per_s": max, "speedup": max, "j_per_token": min})
    metered = lines["j_per_token"].notna().any()
    delta, syn = Column("Δ", "%"), _synthetic(lines)
    columns = [Column("γ"), Column("method", right=False), Column("verify", "µs/step"), delta]
    columns += [Column(f"τ{syn}"), delta, Column(f"α{syn}", "%"), delta]
    columns += [Column("tokens/s"), delta]
    columns += [Column("speed-up", "vs γ = 0"), *([Column("energy", "J/token")] if metered else [])]
    columns += [_quality(lines), Column("Δ")]

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
            *([Cell(amount(line["j_per_token"]), best("j_per_token", line))] if metered else []),
            Cell(fixed(line["quality"], 3)),
            Cell(quality),
        ]

    title = f"{one.run.path.name}: {captions.group_title(group.key)}"
    below = ["Δ against baseline at the same γ" if has_baseline else "no rows of baseline: no Δ"]
    sheet = Sheet(title, columns, _blocks(lines, row), [*captions.group_captions(lines), *below])
    return sheet if has_baseline else _without_delta(sheet)


def _reading_sheets(one: Within, group: Group) -> list[Sheet]:
    """What each method does to the text: whether the target would have written it, and how it reads."""
    lines = group.lines[group.lines["logprob"].notna()]
    if lines.empty:
        return []
    columns = [Column("γ"), Column("method", right=False), Column("α", "%"), Column("TV")]
    columns += [_quality(lines), Column("log p", "nats/token"), Column("repeated", "4-grams, %")]
    columns += [Column("distinct-1"), Column("distinct-2"), Column("tokens/s")]

    def row(line: Line) -> list[Cell]:
        return [
            *_who(line),
            Cell(percent(line["alpha"])),
            Cell(fixed(line["law_tv"], 3)),
            Cell(fixed(line["quality"], 3)),
            Cell(fixed(line["logprob"], 3)),
            Cell(percent(line["repetition_4"])),
            Cell(fixed(line["distinct_1"], 3)),
            Cell(fixed(line["distinct_2"], 3)),
            Cell(_marked(amount(line["tokens_per_s"]), line)),
        ]

    title = f"how it reads: {one.run.path.name}: {captions.group_title(group.key)}"
    return [Sheet(title, columns, _blocks(lines, row), captions.reading_captions(lines))]


def _without_delta(sheet: Sheet) -> Sheet:
    keep = [i for i, column in enumerate(sheet.columns) if column.name != "Δ"]
    blocks = [[[row[i] for i in keep] for row in block] for block in sheet.blocks]
    return Sheet(sheet.title, [sheet.columns[i] for i in keep], blocks, sheet.captions)


def _batch_size_sheets(groups: Sequence[Group]) -> list[Sheet]:
    """Batch size × the fastest γ, where batch sizes are all that some groups differ in."""
    alike: dict[tuple[Any, ...], list[Group]] = {}
    for group in groups:
        rest = tuple(value for name, value in group.key.items() if name != "batch_size")
        alike.setdefault(rest, []).append(group)
    sheets = [_batch_size_sheet(same) for same in alike.values() if len(same) > 1]
    return [sheet for sheet in sheets if any(sheet.blocks)]


def _batch_size_sheet(groups: Sequence[Group]) -> Sheet:
    syn = _synthetic(groups[0].lines)
    columns = [Column("batch"), Column("γ = 0", "tokens/s"), Column("best γ")]
    columns += [Column("method", right=False), Column(f"τ{syn}", "tok/step"), Column("tokens/s")]
    columns += [Column("speed-up", "vs γ = 0"), Column("PTL", "ms"), Column("PTL", "vs γ = 0")]

    def row(size: int, line: Line) -> list[Cell]:
        return [
            Cell(str(size)),
            Cell(amount(line["tokens_per_s"] / line["speedup"])),
            *_who(line),
            Cell(fixed(line["tau"], 2)),
            Cell(_marked(amount(line["tokens_per_s"]), line)),
            Cell(_marked(times(line["speedup"]), line)),
            Cell(_marked(amount(1e3 * line["ptl_s"]), line)),
            Cell(_marked(times(line["ptl_speedup"]), line)),
        ]

    found = {group.key["batch_size"]: captions.fastest_line(group.lines) for group in groups}
    best = {size: line.to_dict() for size, line in sorted(found.items()) if line is not None}
    title = captions.group_title(groups[0].key | {"batch_size": None})
    block = [row(size, line) for size, line in best.items()]
    below = captions.batch_size_captions(best)
    return Sheet(f"by batch size: {title}", columns, [block], below)


def _across_sheets(across: Across, withins: Sequence[Within]) -> list[Sheet]:
    """One sheet per group, and a last caption for what could not be compared."""
    before = [Column("γ"), Column("method", right=False), Column("reference", right=False)]
    before += [Column("run", right=False), Column("verify", "×")]
    after = [Column("tokens/s", "×"), Column("speed-up", "×"), Column("quality", "Δ")]

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
        columns = [*before, Column(f"τ{_synthetic(lines)}", "×"), *after]
        below = captions.invented(lines)
        sheets.append(Sheet(f"run / reference: {title}", columns, _blocks(lines, row), below))
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


def _verify_share(line: Line) -> str:
    return percent(line["verify_share"]) + (captions.UNSTEADY if captions.is_stalled(line) else "")


def _marked(text: str, line: Line) -> str:
    return text + (captions.UNSTEADY if line["unsteady"] else "")


def _quality(lines: pd.DataFrame) -> Column:
    names = lines["metric"].dropna().unique()
    return Column(str(names[0]) if len(names) == 1 else "quality")


def _synthetic(lines: pd.DataFrame) -> str:
    """What marks the columns of an acceptance that no model decided."""
    return " syn" if lines["synthetic_acceptance"].notna().any() else ""


def _write(text: str, console: Console) -> None:
    """As it is: rich would look for markup and wrap in half a megabyte of JSON."""
    console.file.write(text + "\n")


def page() -> Console:
    """The terminal on stdout, or a page of `WIDTH` columns where there is none."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    return console
