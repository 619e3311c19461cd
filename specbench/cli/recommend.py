"""`specbench recommend`: which method, γ and draft to deploy."""

from __future__ import annotations

from typing import Annotated

import typer

from specbench.cli.compare import Format
from specbench.errors import InputError


def recommend(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="Result files, folders, or patterns in quotes."),
    ],
    allow_approximate: Annotated[
        bool,
        typer.Option("--allow-approximate", help="Let methods compete that are not exact."),
    ] = False,
    output_format: Annotated[
        Format, typer.Option("--format", help="For a terminal, for a pull request, for a script.")
    ] = Format.table,
) -> None:
    """Say which method, γ and draft to deploy, what that buys, and how sure it is.

    One recommendation for each device, target, task, batch size, temperature and way of running. The
    speed-up is measured over plain decoding on the same samples, with the 95 % interval that repeats
    and samples leave; beside it stands what theory predicts from the acceptance rate and the draft's
    cost. Drafting pays past 3 %, and if the choice of the fastest alone cannot explain it. A method
    whose quality is worse than plain decoding's, or that failed where plain decoding did not, is not
    recommended.

    Example: specbench recommend results/gamma_sweep-*.parquet

    Exit code 3: nothing was drafted.
    """
    from specbench.report.compare import compare_runs
    from specbench.report.reader import read_runs
    from specbench.report.recommend import recommend as recommended
    from specbench.report.recommend_render import render
    from specbench.report.schema import MICRO

    runs = read_runs(files)
    if runs[0].kind == MICRO:
        raise InputError(
            f"{runs[0].path} is a file of `specbench micro`, which decodes nothing",
            "Give files of `specbench run`.",
        )
    comparison = compare_runs(runs)
    render(recommended(comparison.withins, allow_approximate), output_format.value)
