"""`specbench report`: one self-contained page, or single figures for papers."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from specbench.errors import InputError


class Format(StrEnum):
    """What is written."""

    html = "html"
    svg = "svg"
    png = "png"


class Theme(StrEnum):
    """The ground of single figures; a page follows its reader's setting."""

    light = "light"
    dark = "dark"


FIGURES = (
    "gamma-speed, gamma-tau, gamma-verify, phases, accepted, law, sigmoid-range, batch-throughput, "
    "batch-latency, gpu, roofline, micro-gamma"
)


def report(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="Result files, folders, or patterns in quotes."),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The page (report.html if not given); NAME.svg or NAME.png for one drawing, with "
            "--format a folder that exists.",
        ),
    ] = None,
    output_format: Annotated[
        Format | None,
        typer.Option(
            "--format", help="A page, or single figures; as --output ends if not given, or html."
        ),
    ] = None,
    figure: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Of --format svg and png, comma-separated: {FIGURES}. All, if none is given."
        ),
    ] = None,
    theme: Annotated[Theme, typer.Option(help="Of single figures.")] = Theme.light,
    allow_approximate: Annotated[
        bool, typer.Option("--allow-approximate", help="As in `specbench recommend`.")
    ] = False,
) -> None:
    """Write one page with everything: what to deploy, whether to believe it, figures, tables, machine.

    The page is one file that loads nothing and needs no network. Files of `specbench run` and of
    `specbench micro` go together. An earlier report of the same name is replaced, any other file is not.

    Example: specbench report results/*.parquet -o report.html

    Exit code 3: no case finished in any of the files, or they hold none of the figures.
    """
    output_format = _checked(output_format, output)
    if output_format is Format.html and figure:
        raise InputError(
            "--figure draws single figures, a page has them all",
            "Add --format svg or --format png.",
        )
    with Console(stderr=True).status("reading"):
        written = (
            _page(files, output or Path("report.html"), allow_approximate)
            if (output_format is Format.html)
            else _figures(files, output or Path(), output_format.value, figure or [], theme.value)
        )
    for path in written:
        sys.stderr.write(f"wrote {path} ({path.stat().st_size / 1e3:,.0f} kB)\n")


def _checked(asked: Format | None, output: Path | None) -> Format:
    """The format asked for, or the one that the output's name says.

    Raises:
        InputError: the name says none, or a picture where a page is asked for.
    """
    ending = output.suffix.lower().lstrip(".") if output is not None else Format.html.value
    if asked is None and ending in list(Format):
        return Format(ending)
    if asked is None and ending != "htm" and output is not None and not output.is_dir():
        raise InputError(
            f"{output} does not end in .html, .svg or .png", "Name it so, or give --format."
        )
    if asked is Format.html and ending in (Format.svg, Format.png):
        raise InputError(f"{output} is no name for a page", f"Leave --format out for {ending}.")
    return asked or Format.html


def _page(files: list[str], output: Path, allow_approximate: bool) -> list[Path]:
    # matplotlib and pandas take a second to import: `specbench --help` must not wait for them
    from specbench.report.figures.chart import CREATOR
    from specbench.report.output import check_target, write_whole
    from specbench.report.page.html import read_findings, to_html
    from specbench.report.reader import expand, read_run

    check_target(output, CREATOR)
    findings = read_findings([read_run(path) for path in expand(files)], allow_approximate)
    write_whole(output, to_html(findings).encode())
    return [output]


def _figures(
    files: list[str], output: Path, suffix: str, asked: list[str], theme: str
) -> list[Path]:
    from specbench.report.page.html import read_findings
    from specbench.report.papers import figure_names, write_figures
    from specbench.report.reader import expand, read_run

    names = figure_names([name for text in asked for name in text.split(",")])
    findings = read_findings([read_run(path) for path in expand(files)])
    return write_figures(findings.material, names, suffix, output, theme)
