"""`specbench compare`: methods against baseline, and runs against each other."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Format(StrEnum):
    """How results are printed."""

    table = "table"
    markdown = "markdown"
    json = "json"


def compare(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="Result files, folders, or patterns in quotes."),
    ],
    output_format: Annotated[
        Format, typer.Option("--format", help="For a terminal, for a pull request, for a script.")
    ] = Format.table,
) -> None:
    """Compare methods with baseline inside each run, and runs with each other, case by case.

    Takes files of `specbench run`, or files of `specbench micro`.

    The first file that has a case is the reference for it. Speed-ups are ratios within a run;
    absolute times mean something only on the same machine.

    Example: specbench compare results/*.parquet

    Exit code 3: nothing is comparable.
    """
    # pandas takes half a second to import: `specbench --help` must not wait for it
    from specbench.report.compare import compare_runs
    from specbench.report.micro_render import render_micro_comparison
    from specbench.report.reader import read_runs
    from specbench.report.render import page, render_comparison
    from specbench.report.schema import MICRO

    runs = read_runs(files)
    if runs[0].kind == MICRO:
        failure = render_micro_comparison(runs, output_format.value, page())
        if failure is not None:
            raise failure
        return
    comparison = compare_runs(runs)
    render_comparison(comparison, output_format.value)
    if comparison.failure is not None:
        raise comparison.failure
