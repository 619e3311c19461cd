"""What `specbench micro` prints, and `specbench compare` of its files."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from rich.console import Console

from specbench.errors import NotComparableError
from specbench.report.captions import UNSTEADY
from specbench.report.compare import BASELINE
from specbench.report.micro import Across, Bench, Line, across, read_bench, shape_of
from specbench.report.micro_captions import KERNELS, captions, doubts, known, label
from specbench.report.reader import Run
from specbench.report.schema import MICRO_KEY, SHAPE_KEY
from specbench.report.sheet import (
    NO_VALUE,
    Cell,
    Column,
    Sheet,
    amount,
    fixed,
    percent,
    print_sheet,
    to_markdown,
)

OURS = ("fused", "block")
"""Their distance from the floor stands beside their time."""

_DTYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
_L2 = {"cold": "cold L2", "warm": "warm L2", None: "CPU, wall time"}

Shown = tuple[Column, Callable[[Line], str]]


def render_micro(run: Run, output_format: str, console: Console) -> None:
    """Prints a file's main table: one line per shape, the methods beside each other.

    Args:
        output_format: "table" (for a terminal) or "markdown" (everything, see `markdown_table`).
    """
    bench = read_bench(run)
    if output_format == "markdown":
        _write(markdown_table(run), console)
    else:
        print_sheet(_main_sheet(bench), console)


def render_micro_comparison(
    runs: Sequence[Run], output_format: str, console: Console
) -> NotComparableError | None:
    """Prints each file's methods against `baseline` and the floor, then the files side by side.

    Args:
        output_format: "table", "markdown" or "json".

    Returns:
        why several files cannot be compared; None if they can.
    """
    benches = [read_bench(run) for run in {run.run_id: run for run in runs}.values()]
    found, failure = None, None
    if len(benches) > 1:
        try:
            found = across(benches)
        except NotComparableError as error:
            failure = error
    if output_format == "json":
        _write(_to_json(benches, found), console)
    elif output_format == "table":
        for sheet in micro_sheets(benches, found):
            print_sheet(sheet, console)
    else:
        for bench in benches:
            _write(markdown_table(bench.run) + "\n", console)
        _write(to_markdown(_across_sheet(found)) if found else "", console)
    return failure


def micro_sheets(benches: Sequence[Bench], found: Across | None = None) -> list[Sheet]:
    """Every table of the files: a line per shape and method, then the files against each other."""
    sheets = [_detail_sheet(bench) for bench in benches]
    return [*sheets, _across_sheet(found)] if found else sheets


def markdown_table(run: Run, every_state: bool = True) -> str:
    """The full table in GitHub's markdown: one line per shape, a table per state of the L2.

    A cell is: time in µs, times its floor, and in brackets the wall time of an eager call.

    Args:
        every_state: False leaves out the warm L2 where there is a cold one.
    """
    bench = read_bench(run)
    sheets = [_full_sheet(bench, state) for state in bench.states[: None if every_state else 1]]
    sheets[0].captions.extend(captions(bench))
    return "\n\n".join(to_markdown(sheet) for sheet in sheets)


def _main_sheet(bench: Bench) -> Sheet:
    state = bench.states[0]
    rows = []
    for shape, by_method in bench.table(state).items():
        any_line = next(iter(by_method.values()))
        fastest = _fastest(by_method)
        cells = [*_shape_cells(shape), Cell(_mb(any_line)), Cell(_floor(any_line))]
        for method in bench.methods:
            line = by_method.get(method)
            cells.append(Cell(_time(line), method == fastest))
            cells += [Cell(_ratio(line))] if method in OURS else []
        rows.append(cells)
    columns = [*_shape_columns(), Column("logits", "MB"), Column("floor", "µs")]
    for method, line in bench.methods.items():
        columns.append(Column(label(line), "µs"))
        columns += [Column("×", "floor")] if method in OURS else []
    return _without_empty(Sheet(_title(bench, state), columns, [rows], captions(bench)))


def _full_sheet(bench: Bench, state: str | None) -> Sheet:
    columns = [Column("B, γ, V, dtype", right=False), Column("MB (floor µs)")]
    columns += [Column(label(line)) for line in bench.methods.values()]
    rows = []
    for shape, by_method in bench.table(state).items():
        any_line = next(iter(by_method.values()))
        fastest = _fastest(by_method)
        where = ", ".join(cell.text for cell in _shape_cells(shape))
        rows.append(
            [
                Cell(where),
                Cell(f"{_mb(any_line)} ({_floor(any_line)})"),
                *(Cell(_full(by_method.get(m)), m == fastest) for m in bench.methods),
            ]
        )
    cells = (
        "µs" if state is None else "µs, times the method's own floor, [wall µs of an eager call]"
    )
    return Sheet(_title(bench, state), columns, [rows], [f"cells: {cells}"])


def _detail_sheet(bench: Bench) -> Sheet:
    """A line per shape and method, a block per shape."""
    state = bench.states[0]
    warm = bench.table("warm")

    def warm_time(line: Line) -> str:
        return _time(warm.get(shape_of(line), {}).get(line["method"]))

    shown: list[Shown] = [
        (Column("method", right=False), label),
        (Column("time", "µs"), _time),
        (Column("warm", "µs"), warm_time if state == "cold" else lambda line: NO_VALUE),
        (Column("Δ", "%"), _delta("time_delta")),
        (Column("× own", "floor"), _of("floor_ratio", amount)),
        (Column("bandw.", "%"), _of("bandwidth_share", percent)),
        (Column("kernels", "µs"), _of("kernel_us", amount)),
        (Column("Δ", "%"), _delta("kernel_delta")),
        (Column("launches"), _of("launches", lambda value: f"{value:g}")),
        (Column("host", "µs"), _of("host_us", amount)),
        (Column("wall", "µs"), lambda line: known(_wall(line), amount)),
        (Column("accepted"), _of("accepted", amount)),
    ]
    blocks = [
        [
            [*_shape_cells(shape), *(Cell(show(line)) for _, show in shown)]
            for line in by_method.values()
        ]
        for shape, by_method in bench.table(state).items()
    ]
    columns = [*_shape_columns(), *(column for column, _ in shown)]
    has_baseline = any(line["method"] == BASELINE for line in bench.lines)
    below = "Δ against baseline with the same inputs" if has_baseline else "no baseline: no Δ"
    title = f"{bench.run.path.name}: {_title(bench, state)}"
    return _without_empty(Sheet(title, columns, blocks, [*captions(bench), below]))


def _across_sheet(found: Across) -> Sheet:
    columns = [*_shape_columns(), Column("L2", right=False), Column("method", right=False)]
    columns += [Column("reference", right=False), Column("µs"), Column("run", right=False)]
    columns += [Column("µs"), Column("run /", "reference")]

    def row(line: Line) -> list[Cell]:
        doubt = UNSTEADY if line["unsteady"] else ""
        return [
            *_shape_cells(shape_of(line)),
            Cell(line["l2"] or NO_VALUE),
            Cell(line["method"]),
            Cell(line["reference_run"]),
            Cell(known(line["reference_us"], amount)),
            Cell(line["run_id"]),
            Cell(known(line["time_us"], amount)),
            Cell(known(line["ratio"], lambda value: fixed(value, 3)) + doubt),
        ]

    blocks = [
        [row(line) for line in block]
        for _, block in groupby(found.lines, key=itemgetter(*MICRO_KEY[:-1]))
    ]
    return Sheet("run / reference", columns, blocks, [*found.notes, *doubts(found.lines)])


def _title(bench: Bench, state: str | None) -> str:
    preset = next((line["preset"] for line in bench.lines), "")
    return f"verify step alone · {preset} · {_L2[state]}"


def _fastest(by_method: dict[str, Line]) -> str | None:
    """The exact method with the least time: an approximation is never the best."""
    times = {
        method: line["time_us"]
        for method, line in by_method.items()
        if line["exact"] and line["time_us"] is not None
    }
    return min(times, key=times.__getitem__) if len(times) > 1 else None


def _shape_columns() -> list[Column]:
    return [Column("B"), Column("γ"), Column("V"), Column("dtype", right=False)]


def _shape_cells(shape: tuple[Any, ...]) -> list[Cell]:
    about = dict(zip(SHAPE_KEY, shape, strict=False))
    texts = [str(about[name]) for name in SHAPE_KEY[:3]]
    return [*(Cell(text) for text in texts), Cell(_DTYPES.get(about["dtype"], about["dtype"]))]


def _mb(line: Line) -> str:
    return amount(line["set_bytes"] / 1e6)


def _floor(line: Line) -> str:
    """Of reading both logits once; a method that needs less has a lower one of its own."""
    return known(line["read_gbps"], lambda speed: amount(line["set_bytes"] / speed / 1e3))


def _time(line: Line | None) -> str:
    if line is None:
        return NO_VALUE
    if line["status"] != "ok":
        return line["status"] or NO_VALUE
    mark = KERNELS if line["time_from"] == "kernels" else ""
    return known(line["time_us"], amount) + mark + (UNSTEADY if line["unsteady"] else "")


def _ratio(line: Line | None) -> str:
    return NO_VALUE if line is None else known(line["floor_ratio"], amount)


def _full(line: Line | None) -> str:
    if line is None or line["time_us"] is None:
        return _time(line)
    ratio = known(line["floor_ratio"], lambda value: f" {amount(value)}×")
    wall = known(_wall(line), lambda value: f" [{amount(value)}]")
    return _time(line) + (ratio + wall).replace(NO_VALUE, "")


def _wall(line: Line) -> float | None:
    """None where it is the time shown already."""
    wall_us: float | None = line["wall_us"]
    return None if line["time_from"] == "wall" else wall_us


def _delta(name: str) -> Callable[[Line], str]:
    """The change against `baseline`, which has none itself."""
    written = _of(name, lambda value: percent(value, True))
    return lambda line: "" if line["method"] == BASELINE else written(line)


def _of(name: str, write: Callable[[float], str]) -> Callable[[Line], str]:
    return lambda line: known(line[name], write)


def _without_empty(sheet: Sheet) -> Sheet:
    """Without the columns that no row has a value for: a CPU has no floor."""
    rows = [row for block in sheet.blocks for row in block]
    keep = [
        i
        for i in range(len(sheet.columns))
        if any(row[i].text not in ("", NO_VALUE) for row in rows)
    ]
    blocks = [[[row[i] for i in keep] for row in block] for block in sheet.blocks]
    return Sheet(sheet.title, [sheet.columns[i] for i in keep], blocks, sheet.captions)


def _to_json(benches: list[Bench], found: Across | None) -> str:
    """All figures unrounded; what is not known is null."""
    names = ["created_utc", "preset", "device_name", "driver", "git_sha", "complete"]
    runs = [
        {"run_id": bench.run.run_id, "path": str(bench.run.path)}
        | {name: bench.run.metadata.get(name) for name in names}
        | {"lines": bench.lines}
        for bench in benches
    ]
    across_lines = found.lines if found else []
    notes = found.notes if found else []
    return json.dumps(
        {"runs": runs, "across": across_lines, "notes": notes}, indent=2, ensure_ascii=False
    )


def _write(text: str, console: Console) -> None:
    """As it is: rich would look for markup and wrap."""
    console.file.write(text + "\n" if text else "")
