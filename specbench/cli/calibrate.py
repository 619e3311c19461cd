"""`specbench calibrate`: how far apart runs of one and the same build are on this machine."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from specbench.errors import ExitCode, InputError, MachineError

if TYPE_CHECKING:
    from specbench.report.noise import Noise
    from specbench.report.reader import Run

RESULTS = Path("results")


def calibrate(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE... | SCENARIO [-- OPTIONS]",
            help="Two result files of one build or more; or a scenario to run, with options of "
            "`specbench run` behind two dashes.",
        ),
    ],
    runs: Annotated[int, typer.Option(min=2, help="How often to run the scenario.")] = 5,
    reference: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Whose noise it is, of this machine; the first file, if not given."
        ),
    ] = None,
    output_dir: Annotated[
        Path, typer.Option(help="Where the scenario's runs go, in a folder of their own.")
    ] = RESULTS,
) -> None:
    """Measure the noise of this machine, and keep it beside a reference for `compare --baseline`.

    Every two runs are held against each other; the floor of a figure is what nine cases in ten stay
    within, so that one that went wrong does not lift it. What `compare` would not judge (a slowed GPU,
    another process on it, failed sequences, fewer than three repeats) is left out. `compare` takes the
    floor where it is larger than the one it would take otherwise.

    Example: specbench calibrate demo -- --repeats 5

    Example: specbench calibrate first.parquet second.parquet third.parquet
    """
    is_scenario = not _is_files(what)
    if not is_scenario and any(one.startswith("-") for one in what):
        raise InputError(
            "options of `specbench run` are for a scenario, and files were given",
            "Give the files alone.",
        )
    from specbench.report.calibration import calibrated
    from specbench.report.noise import save_noise
    from specbench.report.reader import read_run, read_runs

    whose = read_run(reference) if reference else None
    talk = Console(stderr=True, highlight=False)
    found = []
    ran = (read_run(path) for path in _run(what[0], what[1:], runs, output_dir, talk))
    for run in ran if is_scenario else read_runs(what):
        if whose:
            _refuse_another_machine(run, whose)
        found.append(run)
    noise = calibrated(found)
    _show(noise)
    for warning in noise.warnings:
        talk.print(f"warning: {warning}", markup=False, soft_wrap=True)
    whose = whose or found[0]
    where = save_noise(noise, whose.path)
    talk.print(f"wrote {where}", markup=False, soft_wrap=True)
    talk.print(_how(whose), markup=False, soft_wrap=True)


def _is_files(what: Sequence[str]) -> bool:
    first = Path(what[0])
    return first.suffix == ".parquet" or first.is_dir() or any(c in what[0] for c in "*?[")


def _run(
    scenario: str, options: Sequence[str], runs: int, output_dir: Path, talk: Console
) -> Iterator[Path]:
    """Runs the scenario, each time in a process of its own (a build's noise is also in where a process
    finds its memory), and yields each file as it is whole."""
    own = {"--output-dir", "--resume", "--dry-run"} & {one.partition("=")[0] for one in options}
    if own:
        raise InputError(
            f"{min(own)} is no option for a calibration",
            "Its runs go into a folder of their own: specbench calibrate --output-dir DIR.",
        )
    folder = output_dir / f"calibration-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
    command = [sys.executable, "-m", "specbench", "run", scenario, *options]
    seen: set[Path] = set()
    for number in range(1, runs + 1):
        talk.print(f"run {number} of {runs}")
        done = subprocess.run(
            [*command, "--output-dir", str(folder)], stdout=subprocess.DEVNULL, check=False
        )
        if done.returncode == ExitCode.INTERRUPTED:
            raise KeyboardInterrupt
        if done.returncode:
            raise MachineError(
                f"run {number} of {scenario} ended with exit code {done.returncode}",
                "What went wrong stands above; a run with failed cases says nothing about noise.",
            )
        yield from (new := set(folder.glob("*.parquet")) - seen)
        seen |= new


def _refuse_another_machine(run: Run, reference: Run) -> None:
    """Noise is a machine's own.

    Raises:
        InputError: the reference names another device or driver, or is of another kind.
    """
    for name in ("kind", "device_name", "driver"):
        here, there = (getattr(one, name, one.metadata.get(name)) for one in (run, reference))
        if here != there:
            raise InputError(
                f"{run.path} has {name.replace('_', ' ')} {here}, and the reference {there}",
                "A reference's noise is measured on the machine that the reference is of: renew the "
                "reference on this one, or leave out --reference.",
            )


def _show(noise: Noise) -> None:
    from specbench.floors import METRICS
    from specbench.report.render import page
    from specbench.report.sheet import Cell, Column, Sheet, print_sheet

    columns = [Column("figure", right=False), Column("noise"), Column("cases")]

    def row(name: str) -> list[Cell]:
        metric, _, over = name.partition("/")
        is_difference = METRICS[metric].is_difference
        size = f"{noise.floors[name]:.4f}" if is_difference else f"{noise.floors[name]:.2%}"
        figure = f"{metric} / {over}" if over else metric
        return [Cell(figure), Cell(size), Cell(str(noise.figures[name]))]

    below = [
        "noise: what nine cases in ten stay within, each with its largest change between two runs; of "
        "three or more at least the largest is left out"
    ]
    title = f"noise between {len(noise.runs)} runs of one build"
    print_sheet(Sheet(title, columns, [[row(name) for name in noise.floors]], below), page())


def _how(whose: Run) -> str:
    command = f"specbench compare NEW --baseline {whose.path}"
    return f"`{command}` uses it for files of `specbench {whose.kind}`"
