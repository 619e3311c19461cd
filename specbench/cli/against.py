"""`specbench run --against`: two installed builds in turns on one machine, and the gate between them.

Each turn is a process of its own, which runs the scenario once: what differs from process to process
(where it finds its memory, what it captures) is then part of the spread between repeats, as it has to be
(Kalibera & Jones 2013). The order A B B A A B B A ... spreads a drift of the machine over both.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from shlex import quote
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from specbench.cli.run import LACKS
from specbench.errors import ExitCode, InputError, MachineError

if TYPE_CHECKING:
    from specbench.report.turns import Turn
    from specbench.scenario import Scenario

REFERENCE, NEW = "reference", "new"
PROBE_TIMEOUT_S = 120.0
NEEDED_FIELD = "first_repeat"
"""What a build's scenarios must know to take part: the first version that can be released does."""

_PROBE = """
import json, pathlib, sys
import specbench
from specbench.scenario import Scenario
print(json.dumps({
    "version": specbench.__version__, "folder": str(pathlib.Path(specbench.__file__).resolve().parent),
    "prefix": sys.prefix, "fields": list(Scenario.model_fields),
}))
"""


@dataclass(frozen=True)
class Build:
    """An installed specbench.

    Attributes:
        name: `REFERENCE` or `NEW`.
        python: its interpreter.
        environment: of its processes.
        folder, prefix: of the package, and of the environment that it is installed in.
        fields: of a scenario, that it knows.
    """

    name: str
    python: str
    environment: Mapping[str, str]
    version: str
    folder: str
    prefix: str
    fields: frozenset[str]

    def command(self, *arguments: str) -> list[str]:
        """Of `specbench` in this build. -P: a checkout in the current folder must not take its place."""
        return [self.python, "-P", "-m", "specbench", *arguments]

    def __str__(self) -> str:
        return f"specbench {self.version} of {self.folder}"


def run_against(
    scenario: Scenario, ref_env: Path, output_dir: Path, dry_run: bool, talk: Console
) -> None:
    """Runs the scenario with this build and with the reference, each repeat in a process of its own.

    Raises:
        InputError: no such interpreter, no specbench there, one that is too old or does not know the
            scenario; a turn that was not of the same build, machine or scenario as the one before.
        MachineError: this machine cannot run the scenario, or a turn failed as a whole. What was finished
            is kept.
        typer.Exit: with the gate's exit code, or 5 if cases failed.
    """
    if scenario.profile == "trace":
        raise InputError(
            "an A/B writes no traces, and the scenario's profile is 'trace'",
            "Leave --profile out; trace each build by a run of its own.",
        )
    builds = {REFERENCE: probe(REFERENCE, interpreter(ref_env)), NEW: this_build()}
    _introduce(builds, talk)
    text = common_scenario(scenario, builds[REFERENCE])
    ab_id = secrets.token_hex(4)
    with _folder(output_dir, ab_id, dry_run) as folder:
        path = Path(folder) / "scenario.yaml"
        path.write_text(text, encoding="utf-8")
        with talk.status("asking both builds"), ThreadPoolExecutor() as both:
            ask = partial(_ask, path=path, repeat=scenario.first_repeat)
            lacks = [lack for lack in both.map(ask, builds.values()) if lack is not None]
        if dry_run:
            _show_order(scenario, builds)
            for lack in lacks:
                talk.print(f"{LACKS}: {lack.message}", markup=False, soft_wrap=True)
            return
        if lacks:
            raise lacks[0]
        ab = _Comparison(scenario, builds, path, output_dir, ab_id, talk)
        try:
            ab.run()
        except BaseException:
            ab.say_what_is_kept()
            raise
    ab.judge()


def _folder(output_dir: Path, ab_id: str, dry_run: bool) -> AbstractContextManager[str | Path]:
    """Of the turns; a dry run leaves no trace."""
    if dry_run:
        return TemporaryDirectory()
    from specbench.report.turns import workspace

    return workspace(output_dir, ab_id)


def interpreter(ref_env: Path) -> str:
    """The interpreter that a path names: itself, or that of a virtual environment's folder.

    Raises:
        InputError: there is none.
    """
    path = ref_env.expanduser()
    tried = [path / "bin" / "python", path / "Scripts" / "python.exe"] if path.is_dir() else [path]
    found = next((one for one in tried if one.is_file()), None)
    if found is None:
        why = "no interpreter in that folder" if path.is_dir() else "no such file"
        raise InputError(
            f"--against {ref_env}: {why}",
            "Give another environment's interpreter, REF/bin/python, or the folder REF.",
        )
    return str(Path.cwd() / found)  # a virtual environment's link must not be resolved


def this_build() -> Build:
    """The specbench that runs here.

    Raises:
        InputError: a new process of this interpreter finds another one, or none.
    """
    build = probe(NEW, sys.executable)
    here = str(Path(__file__).resolve().parents[1])
    if build.folder != here:
        raise InputError(
            f"this is the specbench of {here}, but {sys.executable} imports that of {build.folder}",
            "Run the `specbench` of an environment in which it is installed: pip install -e .",
        )
    return build


def probe(name: str, python: str) -> Build:
    """Asks an interpreter for its specbench.

    Raises:
        InputError: it does not run, has no specbench, or one that cannot take part.
    """
    # Of this process alone: they would put this build in the reference's place.
    own = () if name == NEW else ("PYTHONPATH", "PYTHONHOME")
    environment = {key: value for key, value in os.environ.items() if key not in own}
    try:
        done = subprocess.run(
            [python, "-P", "-c", _PROBE], env=environment, capture_output=True, text=True,
            timeout=PROBE_TIMEOUT_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise InputError(
            f"{python} cannot be run: {error}", "Give a Python interpreter, 3.11 or newer."
        ) from error
    if done.returncode:
        reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise InputError(
            f"{python} has no specbench that can be run: {reason}",
            f"Install one there: {python} -m pip install specbench",
        )
    said = json.loads(done.stdout.splitlines()[-1])
    fields = frozenset(said.pop("fields"))
    build = Build(name, python, environment, fields=fields, **said)
    if NEEDED_FIELD not in fields:
        raise InputError(
            f"{build} is too old for an A/B: its scenarios have no {NEEDED_FIELD}",
            "A build from specbench 0.1.0 on can be the reference.",
        )
    return build


def common_scenario(scenario: Scenario, reference: Build) -> str:
    """YAML that means the same to both builds: every field that the reference knows, with its value.

    Raises:
        InputError: the scenario sets a field that the reference does not know.
    """
    import yaml

    values = scenario.model_dump(mode="json")
    plain = type(scenario)().model_dump(mode="json")
    strange = values.keys() - reference.fields
    if told := sorted(name for name in strange if values[name] != plain[name]):
        raise InputError(
            f"the reference, {reference}, does not know the scenario's {', '.join(told)}",
            "Leave that out, or take a newer reference.",
        )
    kept = {name: value for name, value in values.items() if name not in strange}
    return str(yaml.safe_dump(kept, sort_keys=False, allow_unicode=True))


def order(repeats: range) -> Iterator[tuple[str, int]]:
    """Build and repeat of each turn: reference, new, new, reference, reference, new, ..."""
    for place, repeat in enumerate(repeats):
        pair = (REFERENCE, NEW) if place % 2 == 0 else (NEW, REFERENCE)
        yield from ((name, repeat) for name in pair)


def _introduce(builds: Mapping[str, Build], talk: Console) -> None:
    for build in builds.values():
        talk.print(f"{build.name}: {build}", markup=False, soft_wrap=True)
    if len({(build.folder, build.prefix) for build in builds.values()}) == 1:
        talk.print("the same build twice, an A/A: what differs is this machine's noise")


def _once(path: Path, repeat: int) -> list[str]:
    return ["run", str(path), "--repeats", "1", "--first-repeat", str(repeat)]


def _ask(build: Build, path: Path, repeat: int) -> MachineError | None:
    """Whether the build can run the scenario, before anything runs; what it lacks on this machine.

    Raises:
        InputError: it cannot on any machine, in its own words.
    """
    done = _talked(build, [*_once(path, repeat), "--dry-run"])
    said = dict(line.partition(": ")[::2] for line in reversed(done.stderr.splitlines()))
    cannot = f"the {build.name} build cannot run this scenario"
    if done.returncode:
        why = said.get("error", f"exit code {done.returncode}")
        raise InputError(f"{cannot}: {why}", said.get("hint"))
    return MachineError(f"{cannot}: {said[LACKS]}", said.get("hint")) if LACKS in said else None


def _talked(build: Build, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Runs a command of the build to its end; Ctrl-C ends it at once."""
    return subprocess.run(
        build.command(*arguments), env=dict(build.environment), text=True, check=False,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def _show_order(scenario: Scenario, builds: Mapping[str, Build]) -> None:
    from rich.table import Table

    table = Table("turn", "build", "repeat", "specbench")
    for place, (name, repeat) in enumerate(order(scenario.repeat_numbers)):
        table.add_row(str(place + 1), name, str(repeat), builds[name].version)
    Console(markup=False).print(table)


@dataclass
class _Comparison:
    """An A/B under way: after each turn both builds' files are whole."""

    scenario: Scenario
    builds: Mapping[str, Build]
    path: Path
    output_dir: Path
    ab_id: str
    talk: Console
    turns: dict[str, list[Turn]] = field(default_factory=lambda: {REFERENCE: [], NEW: []})
    files: dict[str, Path] = field(default_factory=dict)
    has_failures: bool = False
    _told: set[str] = field(default_factory=set)

    def run(self) -> None:
        """All turns, in their order."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as Remaining

        turns = list(order(self.scenario.repeat_numbers))
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining()
        is_terminal = self.talk.is_terminal
        with Progress(*columns, console=self.talk, transient=True, disable=not is_terminal) as bar:
            task = bar.add_task("", total=len(turns))
            for place, (name, repeat) in enumerate(turns):
                what = f"turn {place + 1} of {len(turns)}: {name}, repeat {repeat}"
                bar.update(task, description=what)
                if not is_terminal:
                    self.talk.print(what)
                self._turn(self.builds[name], repeat, place, what)
                bar.advance(task)

    def _turn(self, build: Build, repeat: int, place: int, what: str) -> None:
        from specbench.report.turns import check_alike, read_turn

        folder = self.path.parent / f"{place:03d}"
        done = _talked(build, [*_once(self.path, repeat), "--output-dir", str(folder)])
        self._relay(done, what)
        turn = read_turn(folder, repeat, place)
        if first := next((turns[0] for turns in self.turns.values() if turns), None):
            check_alike(first, turn, ("device_name", "driver"))
        self._join(build.name, [*self.turns[build.name], turn])
        self.turns[build.name].append(turn)

    def _relay(self, done: subprocess.CompletedProcess[str], what: str) -> None:
        """What the turn said that matters, notes once; everything if it failed as a whole."""
        fine = done.returncode in (ExitCode.OK, ExitCode.FAILED_CASES)
        for line in done.stderr.splitlines():
            wanted = line.startswith(("note: ", "failed: ")) or not fine
            if wanted and line not in self._told:
                self._told.add(line)
                self.talk.print(line, markup=False, soft_wrap=True)
        self.has_failures |= done.returncode == ExitCode.FAILED_CASES
        if done.returncode == ExitCode.INTERRUPTED:
            raise KeyboardInterrupt
        if not fine:
            raise MachineError(
                f"{what} ended with exit code {done.returncode}", "What went wrong stands above."
            )

    def _join(self, name: str, turns: Sequence[Turn]) -> None:
        from specbench.report.schema import INTERLEAVED
        from specbench.report.turns import join_turns

        about: dict[str, Any] = {
            "argv": ["specbench", *sys.argv[1:]], "build": name, INTERLEAVED: self.ab_id,
        }  # fmt: skip
        complete = len(turns) == self.scenario.repeats
        run_id = f"{self.ab_id[:7]}{'a' if name == REFERENCE else 'b'}"
        self.files[name] = join_turns(turns, self.output_dir, run_id, about, complete)

    def say_what_is_kept(self) -> None:
        """After Ctrl-C, or a turn that failed."""
        for name, path in self.files.items():
            turns = len(self.turns[name])
            of = f"{turns} of {self.scenario.repeats} repeats"
            self.talk.print(
                f"stopped: {of} of the {name} build are kept in {path}",
                markup=False, soft_wrap=True,
            )  # fmt: skip
        if not self.files:
            self.talk.print("stopped: no turn was finished, nothing is kept")
        elif len(self.files) == 2:
            self.talk.print(f"{self._again()} judges them", markup=False, soft_wrap=True)

    def _again(self) -> str:
        new, reference = (quote(str(self.files[name])) for name in (NEW, REFERENCE))
        return f"specbench compare {new} --baseline {reference} --absolute"

    def judge(self) -> None:
        """Shows the gate's verdict, absolute times included, and leaves with its exit code."""
        from specbench.floors import GATES
        from specbench.report.findings import Rules
        from specbench.report.gate import gate_runs
        from specbench.report.gate_render import render_gate
        from specbench.report.reader import read_run

        for path in self.files.values():
            self.talk.print(f"wrote {path}", markup=False, soft_wrap=True)
        reference, new = (read_run(self.files[name]) for name in (REFERENCE, NEW))
        gate = gate_runs(reference, [new], Rules(frozenset(GATES), absolute=True))
        render_gate(gate)
        self.talk.print(f"again: {self._again()}", markup=False, soft_wrap=True)
        code = gate.exit_code or (ExitCode.FAILED_CASES if self.has_failures else ExitCode.OK)
        if code:
            raise typer.Exit(code)
