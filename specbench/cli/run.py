"""`specbench run`: decodes a scenario's cases, shows a table, writes one Parquet file."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from shlex import quote
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer
from rich.console import Console

from specbench.cli.interrupts import before_measuring
from specbench.cli.progress import Lines
from specbench.errors import ExitCode, InputError

if TYPE_CHECKING:
    from specbench.outcome import Outcome
    from specbench.planning import Plan
    from specbench.report.writer import RunWriter
    from specbench.scenario import Scenario

RESULTS = Path("results")
LACKS = "cannot run here"
"""How `--dry-run` begins to say what this machine lacks."""
_LISTS = "One, or several separated by commas."


def run(
    scenario: Annotated[
        str | None,
        typer.Argument(
            metavar="[SCENARIO]", help="A name of `specbench list scenarios`, or a YAML file."
        ),
    ] = None,
    pair: Annotated[
        str | None, typer.Option(help=f"Pair of models, or TARGET+DRAFT. {_LISTS}")
    ] = None,
    task: Annotated[str | None, typer.Option(help=f"Task. {_LISTS}")] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="xsum, cnn-dailymail, humaneval, librispeech-clean, ..., a file of texts (.jsonl, "
            ".jsonl.gz, .parquet) or a folder of audio."
        ),
    ] = None,
    method: Annotated[str | None, typer.Option(help=f"Verification method. {_LISTS}")] = None,
    gamma: Annotated[
        str | None,
        typer.Option(help="Drafted tokens a step: 5, 1,2,4, 1..20, 1..20:5, heuristic, bass."),
    ] = None,
    batch_size: Annotated[str | None, typer.Option(help=f"Sequences at once. {_LISTS}")] = None,
    temperature: Annotated[str | None, typer.Option(help=f"0 is greedy. {_LISTS}")] = None,
    top_k: Annotated[int | None, typer.Option(help="Keep the k likeliest tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Keep the nucleus of this mass.")] = None,
    sigmoid_range: Annotated[
        str | None,
        typer.Option(help="ALPHA,BETA of `sigmoid`; several separated by semicolons."),
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help=f"Decoding loop: native, transformers. {_LISTS}")
    ] = None,
    attention: Annotated[
        str | None, typer.Option(help=f"Of a ragged batch: pad or split. {_LISTS}")
    ] = None,
    execution: Annotated[
        str | None, typer.Option(help=f"auto, eager, graphs or compiled. {_LISTS}")
    ] = None,
    compile_: Annotated[
        bool, typer.Option("--compile", help="The same as --execution compiled.")
    ] = False,
    load_format: Annotated[
        str | None,
        typer.Option(help="auto, or dummy: random weights of the pair's shapes, no network."),
    ] = None,
    prompt_tokens: Annotated[
        str | None,
        typer.Option(help="Lengths of the prompts of the task synthetic: 512, or 128,2048."),
    ] = None,
    synthetic_acceptance: Annotated[
        float | None,
        typer.Option(metavar="RATE", help="Accept each draft with this chance, whatever it is."),
    ] = None,
    refill: Annotated[
        bool | None,
        typer.Option("--refill/--no-refill", help="Give a finished sequence's place to the next."),
    ] = None,
    completions_per_sample: Annotated[
        int | None,
        typer.Option(metavar="N", help="Sequences of each sample, with other random numbers."),
    ] = None,
    chat_template: Annotated[
        bool | None,
        typer.Option(
            "--chat-template/--no-chat-template",
            help="Ask through the tokenizer's chat template; by default if the target is known to chat.",
        ),
    ] = None,
    allow_unsandboxed_code: Annotated[
        bool,
        typer.Option(
            "--allow-unsandboxed-code",
            help="Where no sandbox works, run what a model writes all the same: with your rights.",
        ),
    ] = False,
    time_budget: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Show the tokens that each sequence had by then, and of code Pass@First and Pass@All.",
        ),
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, float16 or bfloat16.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    samples: Annotated[int | None, typer.Option(help="Samples of the task for each case.")] = None,
    repeats: Annotated[int | None, typer.Option(help="Times that each sample is decoded.")] = None,
    first_repeat: Annotated[
        int | None,
        typer.Option(metavar="N", help="Number of the first repeat, which decides its luck."),
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Limit of each sequence.")] = None,
    seed: Annotated[int | None, typer.Option(help="Chooses samples and randomness.")] = None,
    profile: Annotated[
        bool,
        typer.Option(
            "--profile", help="Also write a trace of a few steps of each case, for Perfetto."
        ),
    ] = False,
    output_dir: Annotated[Path, typer.Option(help="Where the result file goes.")] = RESULTS,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="REF_ENV",
            help="Another environment with specbench, its folder or its python: run both builds in "
            "turns on this machine, and judge this one against it.",
        ),
    ] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="ID", help="Go on with a run that was cut off.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Show the cases, and what this machine lacks; load no models."
        ),
    ] = False,
) -> None:
    """Decode a task by every method and gamma, show what each buys, and write one Parquet file.

    Without an argument: the embedded demo, which needs no network and no GPU.

    Example: specbench run gamma_sweep --method baseline,fused --gamma 0..8

    Example: specbench run nightly --against path/to/other/.venv
    """
    # Before torch is imported: its profiler would write into the progress bar.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    if compile_:
        if execution is not None:
            raise InputError(
                f"--compile means --execution compiled, and --execution {execution} is given too",
                "Give one of the two.",
            )
        execution = "compiled"
    overrides = {
        "pair": pair, "task": task, "dataset": dataset, "method": method, "gamma": gamma,
        "batch_size": batch_size, "temperature": temperature, "top_k": top_k, "top_p": top_p,
        "sigmoid_range": sigmoid_range, "engine": engine, "attention": attention,
        "execution": execution,
        "load_format": load_format, "prompt_tokens": prompt_tokens,
        "synthetic_acceptance": synthetic_acceptance, "refill": refill, "time_budget": time_budget,
        "completions_per_sample": completions_per_sample, "chat_template": chat_template,
        "profile": "trace" if profile else None,
        "allow_unsandboxed_code": allow_unsandboxed_code or None,
        "dtype": dtype, "device": device, "samples": samples, "repeats": repeats,
        "first_repeat": first_repeat, "max_new_tokens": max_new_tokens, "seed": seed,
    }  # fmt: skip
    given = {name: value for name, value in overrides.items() if value is not None}
    talk = Console(stderr=True, highlight=False)
    if resume is None:
        with before_measuring():
            chosen, text = _chosen(scenario, given)
        if against is not None:
            from specbench.cli.against import run_against

            run_against(chosen, against, output_dir, dry_run, talk)
            return
        with before_measuring():
            todo = _plan(chosen, talk, dry_run)
            if dry_run:
                _show_cases(todo, talk)
                return
            writer = _new_writer(todo, text, output_dir)
    else:
        if scenario is not None or given or dry_run or against is not None:
            raise InputError(
                "--resume goes on with a run as it was asked; it takes no scenario and no options",
                f"Give only: specbench run --resume {resume} --output-dir {output_dir}",
            )
        writer, chosen = _reopened_writer(output_dir, resume)
        todo = _plan(chosen, talk)
        _require_same_device(writer, todo)
    _execute(todo, writer, talk)


def _chosen(scenario: str | None, given: dict[str, Any]) -> tuple[Scenario, str]:
    """The scenario with the options that were given, and its text; see `load_scenario`."""
    from specbench.scenario import load_scenario

    if scenario is None:
        task, load_format, dataset = (given.get(n) for n in ("task", "load_format", "dataset"))
        pair = given.get("pair")
        scenario = "demo" if task is not None else _default_scenario(pair, load_format, dataset)
        if task is None and (scenario == "asr" or load_format == "dummy" or dataset is not None):
            given["task"] = "auto"  # what suits the data set; one of several pairs may read
    return load_scenario(scenario, given)


def _default_scenario(pair: str | None, load_format: str | None, dataset: str | None) -> str:
    """The demo's tasks are texts; pairs that hear, and other data sets, have scenarios of their own."""
    from specbench.pairs import check_available, get_pair, pair_kind
    from specbench.tasks.base import CODE, DEMO, SUMMARIZATION, check_dataset, dataset_tasks

    if dataset is not None and dataset != DEMO:
        check_dataset(dataset)
        return {SUMMARIZATION: "summaries", CODE: "humaneval"}.get(dataset_tasks(dataset)[0], "asr")
    for name in pair.split(",") if pair else []:
        spec = get_pair(name.strip())
        if spec.kind is None:  # its own files say, which may have to be fetched
            check_available(spec, "dummy" if load_format == "dummy" else "auto")
        if pair_kind(spec) == "speech":
            return "asr"
    return "demo"


def _plan(scenario: Scenario, talk: Console, dry_run: bool = False) -> Plan:
    with talk.status("checking"):
        from specbench.planning import plan

        return plan(scenario, any_machine=dry_run)


def _new_writer(todo: Plan, text: str, output_dir: Path) -> RunWriter:
    from specbench.report.writer import RunWriter
    from specbench.sampling.registry import methods
    from specbench.telemetry.environment import capture

    metadata = capture(sys.argv, text, todo.device)
    metadata["resolved_scenario"] = todo.scenario.model_dump_json()
    metadata["methods"] = {
        name: {"exact": found.exact, "input": found.input, "source": found.source}
        for name, found in methods().items()
    }
    return RunWriter(output_dir, todo.scenario.name, metadata)


def _reopened_writer(output_dir: Path, run_id: str) -> tuple[RunWriter, Scenario]:
    from specbench.report.writer import RunWriter
    from specbench.scenario import restore_scenario
    from specbench.telemetry.environment import capture

    writer = RunWriter(output_dir, "", capture(sys.argv, None), run_id=run_id, resume=True)
    return writer, restore_scenario(writer.metadata.get("resolved_scenario"))


def _require_same_device(writer: RunWriter, todo: Plan) -> None:
    """One file, one device: times of two would be averaged."""
    from specbench.telemetry.environment import device_facts

    begun, here = writer.metadata.get("device_name"), device_facts(todo.device)["device_name"]
    if begun != here:
        raise InputError(
            f"run {writer.run_id} was begun on {begun}, this is {here}",
            "Go on with it on such a machine, or start a run of its own here.",
        )


def _execute(todo: Plan, writer: RunWriter, talk: Console) -> None:
    from specbench.report.reader import read_run
    from specbench.report.render import render_run
    from specbench.runner import execute

    try:
        _quiet_libraries()
        with _Progress(talk) as progress:
            for notice in writer.notices:
                progress.notice(notice)
            outcome = execute(todo, writer, progress)
    except (Exception, KeyboardInterrupt):  # no later pair, a full disk: keep what there is
        if writer.finish(complete=False) is not None:
            talk.print(f"stopped: {_resume(writer)} goes on", markup=False, soft_wrap=True)
        raise
    path = writer.finish(complete=not outcome.interrupted and outcome.lost is None)
    if path is not None and (run := read_run(path)).rows["status"].eq("ok").any():
        render_run(run)
    _report(outcome, path, _resume(writer), talk)


def _resume(writer: RunWriter) -> str:
    where = "" if writer.output_dir == RESULTS else f" --output-dir {quote(str(writer.output_dir))}"
    return f"specbench run --resume {writer.run_id}{where}"


def _report(outcome: Outcome, path: Path | None, resume: str, talk: Console) -> None:
    """What happened, on stderr, and the exit code."""
    for reason in outcome.errors:
        talk.print(f"failed: {reason}", markup=False, soft_wrap=True)
    if outcome.skipped:
        talk.print(f"{outcome.skipped} impossible cases skipped; --dry-run says why")
    if path is not None:
        talk.print(f"wrote {path}", markup=False, soft_wrap=True)
    if outcome.interrupted:
        how = f"{resume} goes on" if path is not None else "nothing was finished yet"
        talk.print(f"interrupted: {how}", markup=False, soft_wrap=True)
        raise typer.Exit(ExitCode.INTERRUPTED)
    if outcome.lost is not None:
        talk.print(f"{outcome.lost}: {resume} goes on", markup=False, soft_wrap=True)
    if outcome.failed:
        raise typer.Exit(ExitCode.FAILED_CASES)


def _show_cases(todo: Plan, talk: Console) -> None:
    """The cases on stdout; on stderr why this machine cannot run them, if it cannot."""
    from specbench.cli.dry_run import plan_sheet
    from specbench.report.render import page
    from specbench.report.sheet import print_sheet

    print_sheet(plan_sheet(todo), page())
    for lack in todo.lacks:
        talk.print(f"{LACKS}: {lack.message}", markup=False, soft_wrap=True)
        if lack.hint:
            talk.print(f"hint: {lack.hint}", markup=False, soft_wrap=True)


def _quiet_libraries() -> None:
    """transformers shows a bar for each model it loads; ours is the one that counts."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


class _Progress:
    """The runner's `Talk` as a rich progress bar on stderr; as lines where that is no terminal."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as Remaining

        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining(),
            console=console, transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("starting", total=None)
        self._lines = Lines(console)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def stage(self, text: str) -> None:
        self._bar.update(self._task, description=text)
        self._lines.stage(text)

    def total(self, sequences: int) -> None:
        self._bar.update(self._task, total=sequences)

    def notice(self, text: str) -> None:
        self._bar.console.print(f"note: {text}", markup=False, soft_wrap=True)

    def advance(self, sequences: int, text: str) -> None:
        self._bar.update(self._task, advance=sequences, description=text)
        task = self._bar.tasks[0]
        self._lines.count(int(task.completed), int(task.total or 1), "sequences")
