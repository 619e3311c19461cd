"""`specbench micro`: the verify step alone, against the memory floor."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from specbench.cli.interrupts import before_measuring
from specbench.cli.progress import Lines
from specbench.errors import ExitCode

if TYPE_CHECKING:
    from specbench.micro.measure import Outcome
    from specbench.micro.plan import Plan

RESULTS = Path("results")
_LISTS = "One, or several separated by commas."


class Preset(StrEnum):
    """The shapes of one question."""

    paper = "paper"
    vocab = "vocab"
    batch = "batch"
    gamma = "gamma"


class Format(StrEnum):
    """How the table is printed."""

    table = "table"
    markdown = "markdown"


def micro(
    preset: Annotated[
        Preset, typer.Option(help="The shapes: the papers' sizes, or one axis at a time.")
    ] = Preset.paper,
    method: Annotated[
        str | None, typer.Option(help=f"Verification method; all there are by default. {_LISTS}")
    ] = None,
    gamma: Annotated[
        str | None, typer.Option(help="Instead of the preset's: 5, 1,2,4, 1..20, 1..20:5.")
    ] = None,
    vocab_size: Annotated[
        str | None, typer.Option(help=f"Instead of the preset's: V. {_LISTS}")
    ] = None,
    batch_size: Annotated[
        str | None, typer.Option(help=f"Instead of the preset's: B. {_LISTS}")
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help=f"Instead of the preset's: float32, float16 or bfloat16. {_LISTS}"),
    ] = None,
    noise: Annotated[
        float,
        typer.Option(help="Standard deviation of draft - target: more, and less is accepted."),
    ] = 0.6,
    replays: Annotated[int, typer.Option(help="Samples of each figure.")] = 30,
    seed: Annotated[int, typer.Option(help="Of the inputs.")] = 0,
    device: Annotated[
        str, typer.Option(help="cuda, cuda:N, or cpu (wall time only, no floor).")
    ] = "cuda",
    output_dir: Annotated[Path, typer.Option(help="Where the result file goes.")] = RESULTS,
    no_save: Annotated[bool, typer.Option("--no-save", help="Write no result file.")] = False,
    output_format: Annotated[
        Format, typer.Option("--format", help="For a terminal, or the full table in markdown.")
    ] = Format.table,
) -> None:
    """Time the verify step alone, and hold it against the time that reading its inputs once takes.

    GPU time in a replayed CUDA graph with cold and warm L2, kernels, launches, host and wall time.

    Example: specbench micro --preset gamma --method baseline,fused,block --dtype float16
    """
    with before_measuring():
        from specbench.micro.measure import measure
        from specbench.micro.plan import make_plan
        from specbench.planning import resolve_device

        todo = make_plan(
            resolve_device(device), preset=preset.value, method=method, gamma=gamma,
            vocab_size=vocab_size, batch_size=batch_size, dtype=dtype, noise=noise,
            replays=replays, seed=seed,
        )  # fmt: skip
    talk = Console(stderr=True, highlight=False)
    with _place(output_dir, no_save) as folder:
        writer = _writer(todo, folder)
        with talk.status("starting") as status:
            lines = Lines(talk)

            def say(text: str) -> None:
                status.update(text)
                lines.stage(text)

            outcome = measure(todo, writer.write, say)
        if outcome.rows:
            writer.write(outcome.rows, complete=not outcome.interrupted and outcome.lost is None)
            _show(writer.path, output_format)
        _report(outcome, None if no_save else writer.path, talk)


def _place(output_dir: Path, no_save: bool) -> AbstractContextManager[Any]:
    """The folder of the result file; without one to keep, a folder that goes again."""
    from tempfile import TemporaryDirectory

    return TemporaryDirectory() if no_save else nullcontext(output_dir)


def _writer(todo: Plan, folder: Path | str) -> Any:
    from specbench.report.micro_writer import MicroWriter
    from specbench.telemetry.environment import capture

    metadata = capture(sys.argv, None, todo.device)
    metadata["methods"] = {
        found.name: {
            "exact": found.exact, "input": found.input, "source": found.source,
            "leaves_out": found.leaves_out,
        }
        for found in todo.methods
    }  # fmt: skip
    return MicroWriter(Path(folder), todo.name, metadata)


def _show(path: Path, output_format: Format) -> None:
    from specbench.report.micro_render import render_micro
    from specbench.report.reader import read_run
    from specbench.report.render import page

    render_micro(read_run(path), output_format.value, page())


def _report(outcome: Outcome, path: Path | None, talk: Console) -> None:
    """What happened, on stderr, and the exit code."""
    if path is not None and outcome.rows:
        talk.print(f"wrote {path}", markup=False, soft_wrap=True)
    if outcome.interrupted:
        what = "what was finished is in the table" if outcome.rows else "nothing was finished yet"
        talk.print(f"interrupted: {what}", markup=False, soft_wrap=True)
        raise typer.Exit(ExitCode.INTERRUPTED)
    if outcome.lost is not None:
        talk.print(
            f"failed: {outcome.lost}; what was finished is kept", markup=False, soft_wrap=True
        )
    if outcome.lost is not None or any(row["status"] == "failed" for row in outcome.rows):
        raise typer.Exit(ExitCode.FAILED_CASES)
