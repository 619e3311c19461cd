"""`specbench compare`: methods against baseline, runs against each other, and the regression gate."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from specbench.errors import InputError, unknown_name
from specbench.floors import GATES, parse_thresholds

if TYPE_CHECKING:
    from specbench.report.gate import Gate
    from specbench.report.reader import Run


class Format(StrEnum):
    """How results are printed."""

    table = "table"
    markdown = "markdown"
    json = "json"
    junit = "junit"


def compare(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="Result files, folders, or patterns in quotes."),
    ],
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="The reference: judge each FILE against it. Of micro files several, one by one or as a "
            "pattern.",
        ),
    ] = None,
    fail_on: Annotated[
        str | None,
        typer.Option(
            metavar="LIST", help=f"What exits with 1: {','.join(GATES)} (with --baseline all)."
        ),
    ] = None,
    threshold: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC=FLOOR",
            help="A change below its floor passes: verify_us=3%, verify_us=0.5us, quality=0.02. One by "
            "one, or separated by commas. Replaces a metric's whole floor; of two for one metric the "
            "larger counts.",
        ),
    ] = None,
    absolute: Annotated[
        bool,
        typer.Option(
            "--absolute", help="Also judge times themselves; on the same GPU, driver and clocks."
        ),
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 4 if a figure is inconclusive.")
    ] = False,
    output_format: Annotated[
        Format,
        typer.Option(
            "--format",
            help="For a terminal, a pull request, a script; junit, with --baseline, for a CI server.",
        ),
    ] = Format.table,
) -> None:
    """Compare methods with baseline inside each run, and runs with each other, case by case.

    Takes files of `specbench run`, or files of `specbench micro`.

    With --baseline it is a gate: every figure gets a verdict (faster, slower, same or inconclusive), and
    a regression, or a case that failed where the reference's did not, exits with 1. Ratios within a run
    are judged, which do not drift with the machine.

    Without it the first file that has a case is the reference for it, and no verdict changes the exit
    code.

    Example: specbench compare results/*.parquet

    Example: specbench compare new.parquet --baseline reference.parquet --threshold verify_us=2%

    Exit codes: 1 a regression or a failed case, 3 nothing is comparable, 4 inconclusive under --strict.
    """
    # pandas takes half a second to import: `specbench --help` must not wait for it
    from specbench.report.reader import read_runs

    if baseline:
        gate = _gate(files, baseline, _gates(fail_on), threshold or [], absolute, strict)
        from specbench.report.gate_render import render_gate

        render_gate(gate, output_format.value)
        if gate.exit_code:
            raise typer.Exit(gate.exit_code)
        return
    given = {
        "--fail-on": fail_on, "--threshold": threshold, "--absolute": absolute, "--strict": strict,
        "--format junit": output_format is Format.junit,
    }  # fmt: skip
    if idle := [name for name, value in given.items() if value]:
        raise InputError(
            f"{idle[0]} belongs to the gate, and there is no --baseline",
            "Name the reference: specbench compare FILE --baseline REFERENCE",
        )
    _show(read_runs(files), output_format.value)


def _gates(text: str | None) -> frozenset[str]:
    names = [part.strip() for part in (",".join(GATES) if text is None else text).split(",")]
    for name in names:
        if name not in GATES:
            raise _no_gate(name)
    return frozenset(names)


def _no_gate(name: str) -> InputError:
    error = unknown_name("gate", name, GATES)
    return InputError(error.message, f"--fail-on takes {', '.join(GATES)}, separated by commas.")


def _gate(
    files: Sequence[str],
    baseline: Sequence[str],
    gates: frozenset[str],
    threshold: Sequence[str],
    absolute: bool,
    strict: bool,
) -> Gate:
    thresholds = parse_thresholds(threshold)
    from specbench.report.findings import Rules
    from specbench.report.gate import gate_micro, gate_runs
    from specbench.report.noise import noise_of
    from specbench.report.reader import read_runs
    from specbench.report.schema import MICRO

    references, runs = read_runs(baseline), read_runs(files)
    if references[0].kind != runs[0].kind:
        raise InputError(
            f"{references[0].path} is a file of `specbench {references[0].kind}`, {runs[0].path} one of "
            f"`specbench {runs[0].kind}`: they have nothing in common",
            "Give a baseline of the same kind.",
        )
    rules = Rules(gates, thresholds, absolute, noise_of([one.path for one in references]))
    if runs[0].kind == MICRO:
        return gate_micro(references, runs, rules, strict)
    if len(references) > 1:
        raise InputError(
            f"{len(references)} files as the baseline of runs, where one is the reference",
            "Name one with --baseline; only files of `specbench micro` make a reference together.",
        )
    return gate_runs(references[0], runs, rules, strict)


def _show(runs: Sequence[Run], output_format: str) -> None:
    from specbench.report.compare import compare_runs
    from specbench.report.micro_render import render_micro_comparison
    from specbench.report.render import page, render_comparison
    from specbench.report.schema import MICRO

    if runs[0].kind == MICRO:
        failure = render_micro_comparison(runs, output_format, page())
        if failure is not None:
            raise failure
        return
    comparison = compare_runs(runs)
    render_comparison(comparison, output_format)
    if comparison.failure is not None:
        raise comparison.failure
