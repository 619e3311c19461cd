"""Runs code that a model wrote, and judges it where that code cannot reach.

Two sandboxed processes per completion: the *solver* executes prompt and completion and answers calls;
the *judge* executes the data set's test, whose `candidate` sends each call to the solver. Between them
cross lines of plain data alone (`child.py`). This process only supervises: time, output and
memory; it kills both process trees and removes what they left.

In both kinds of isolation the two processes have pid, mount, net, ipc and uts namespaces of their own
(and a user namespace where this process is not root; root drops to a user id used by nobody else), see
the system's libraries and Python's read-only, no /home, /root, /proc or /sys, and a bounded /tmp of
their own; resource limits bind each process, `Limits.memory_bytes` also the whole tree, looked at every
50 ms. "none" has the resource limits and the forbidden system calls only: such code can read and remove
whatever its user can, and reach the judge by way of /proc. No kind protects against faults of the kernel.

A solution that changes its arguments in place changes copies: the test sees only what is returned.
"""

from __future__ import annotations

import functools
import json
import os
import secrets
import select
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from specbench.errors import MachineError
from specbench.sandbox.walls import PATH, executable, wrapper

KINDS = ("bubblewrap", "namespaces", "none")
START_S = 60.0  # for both processes to come up on a loaded machine
TICK_S = 0.05
BOOT = "source, _, job = open(0).read().partition('\\0'); exec(source)"
GONE_S = 5.0  # for killed processes to be gone
MARK = "SPECBENCH_SANDBOX"  # names the processes of one judging where no pid namespace holds them

HINT = (
    "Install bubblewrap (apt install bubblewrap), or let this user create namespaces (Ubuntu: sysctl "
    "kernel.apparmor_restrict_unprivileged_userns=0; a container: --security-opt seccomp=unconfined "
    "--cap-add SYS_ADMIN), or give --allow-unsandboxed-code (in Python allow_unsandboxed=True): "
    "generated code then runs with your rights."
)


@dataclass(frozen=True)
class Limits:
    """What one completion may use: wall and CPU seconds, bytes, and processes with their threads.

    `cpu_s` and `memory_bytes` bind each process; the latter the resident memory of all together, too.
    """

    wall_s: float = 10.0
    cpu_s: int = 8
    memory_bytes: int = 1 << 30
    processes: int = 16
    scratch_bytes: int = 16 << 20
    output_bytes: int = 64 << 10


@dataclass(frozen=True)
class Problem:
    """HumanEval's columns; `test` defines `check(candidate)`."""

    prompt: str
    test: str
    entry_point: str


@dataclass(frozen=True)
class Verdict:
    """Whether the test passed; why not, in one line; wall seconds from the start of the code."""

    passed: bool
    reason: str
    seconds: float


def isolation(allow_unsandboxed: bool = False) -> str:
    """ "bubblewrap", "namespaces" or, if allowed, "none": the first that works here, tried once.

    Raises:
        MachineError: neither of the first two works, and running without was not allowed.
    """
    for kind in KINDS[:2]:
        if fault(kind) is None:
            return kind
    if allow_unsandboxed and sys.platform == "linux":
        return "none"
    faults = "; ".join(f"{kind}: {fault(kind)}" for kind in KINDS[:2])
    raise MachineError(f"generated code cannot be run safely on this machine ({faults})", HINT)


@functools.cache
def fault(kind: str) -> str | None:
    """Why an isolation does not work here; None if a trivial problem passes in it."""
    if sys.platform != "linux":
        return f"needs Linux, this is {sys.platform}"
    tool = {"bubblewrap": "bwrap", "namespaces": "unshare"}.get(kind)
    if tool and not shutil.which(tool, path=PATH):
        return f"{tool} is not installed"
    trial = Problem("def one():\n", "def check(candidate):\n    assert candidate() == 1\n", "one")
    try:
        verdict = run(kind, trial, "    return 1\n", Limits())
    except MachineError as error:
        return error.message
    return None if verdict.passed else verdict.reason


def judge(
    problem: Problem,
    completion: str,
    limits: Limits = Limits(),
    allow_unsandboxed: bool = False,
) -> Verdict:
    """Run `problem.prompt + completion` against the problem's test.

    Raises:
        MachineError: no isolation works here, or it failed before the code began.
    """
    return run(isolation(allow_unsandboxed), problem, completion, limits)


def judge_all(
    jobs: Sequence[tuple[Problem, str]],
    limits: Limits = Limits(),
    workers: int = 1,
    allow_unsandboxed: bool = False,
) -> list[Verdict]:
    """The verdicts of (problem, completion) pairs, in their order, `workers` at a time.

    Raises:
        MachineError: as `judge`.
    """
    kind = isolation(allow_unsandboxed)
    pool = ThreadPoolExecutor(max_workers=max(1, workers))
    try:
        return list(pool.map(lambda job: run(kind, job[0], job[1], limits), jobs))
    finally:
        pool.shutdown(cancel_futures=True)  # after an error or Ctrl-C, no new ones begin


# --- one judging --------------------------------------------------------------------------------------


def run(kind: str, problem: Problem, completion: str, limits: Limits) -> Verdict:
    """`judge` in the named isolation.

    Raises:
        MachineError: a process cannot be started, or ended before the code began.
    """
    common = {
        "limits": asdict(limits),
        "count_others": kind == "none",
        "entry_point": problem.entry_point,
    }
    solver_job = {**common, "code": problem.prompt + completion}
    judge_job = {**common, "prompt": problem.prompt, "test": problem.test}
    with ExitStack() as stack:
        scratch = tempfile.mkdtemp(prefix="specbench-sandbox-")
        stack.callback(remove, scratch)

        def pipe() -> tuple[FileIO, FileIO]:
            read_fd, write_fd = os.pipe()
            ends = FileIO(read_fd, "r"), FileIO(write_fd, "w")
            return stack.enter_context(ends[0]), stack.enter_context(ends[1])

        call, answer, verdict = pipe(), pipe(), pipe()
        judge_ends = [answer[0], call[1], verdict[1]]
        try:
            solver = Child(kind, "solver", solver_job, [call[0], answer[1]], limits, scratch)
            stack.callback(solver.close)
            judge = Child(kind, "judge", judge_job, judge_ends, limits, scratch)
            stack.callback(judge.close)
        except OSError as error:
            raise MachineError(f"the sandbox ({kind}) cannot be started: {error}", HINT) from error
        for end in (*call, *answer, verdict[1]):
            end.close()
        return supervise(kind, solver, judge, verdict[0], limits)


def remove(folder: str) -> None:
    """Remove a folder whose owner may have taken his own rights from parts of it."""
    for parent, names, _ in os.walk(folder):
        for path in (Path(parent, name) for name in names):
            if not path.is_symlink():
                path.chmod(0o700)  # before the walk goes down into it
    shutil.rmtree(folder, ignore_errors=True)


class Child:
    """One sandboxed process with all that it starts; `output` is what it printed, cut."""

    def __init__(
        self, kind: str, role: str, job: Any, ends: list[FileIO], limits: Limits, scratch: str
    ) -> None:
        self.kind, self.output, self.printed = kind, b"", 0
        self.mark = f"{MARK}={secrets.token_hex(16)}"
        fds = [end.fileno() for end in ends]
        # -S and the environment leave the standard library alone to import; -P nothing of the folder.
        python = [executable(), "-s", "-S", "-P", "-B", "-c", BOOT, role, *map(str, fds)]
        environment = {"PATH": PATH, "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}
        folder = "/"
        if kind == "none":
            environment |= dict([self.mark.split("=")])
            folder = tempfile.mkdtemp(dir=scratch)
        with tempfile.TemporaryFile() as stdin:
            stdin.write(f"{child_source()}\0{json.dumps(job)}".encode())
            stdin.seek(0)
            command = [*wrapper(kind, limits.scratch_bytes, scratch), *python]
            self.process = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,
                pass_fds=fds,
                env=environment,
                cwd=folder,
                start_new_session=True,
            )
        assert self.process.stdout is not None
        self.stdout = self.process.stdout

    def drain(self, limit: int) -> bool:
        """Read what was printed and keep `limit` bytes of it; whether there may be more."""
        chunk = os.read(self.stdout.fileno(), 1 << 16)
        self.printed += len(chunk)
        self.output += chunk[: max(0, limit - len(self.output))]
        return bool(chunk)

    def resident_bytes(self) -> int:
        """Resident memory of the process and its descendants."""
        total, pids = 0, [str(self.process.pid)]
        while pids:
            pid = Path("/proc", pids.pop())
            with suppress(OSError):  # it ended meanwhile
                pages = int((pid / "statm").read_text().split()[1])
                total += pages * os.sysconf("SC_PAGE_SIZE")
                for task in (pid / "task").iterdir():
                    pids += (task / "children").read_text().split()
        return total

    def exit_code(self) -> int | None:
        """The shell's: 128 + n after signal n. None if it runs on for another second."""
        try:
            code = self.process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return None
        return code if code >= 0 else 128 - code

    def kill(self) -> None:
        """End the process and all that it started."""
        if self.process.poll() is None:
            # The outermost process: its namespace's first dies with it, and all the rest with that.
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        deadline = time.monotonic() + GONE_S
        while self.kind == "none" and kill_marked(self.mark.encode()):
            if time.monotonic() > deadline:
                break

    def close(self) -> None:
        """Kill; then the end of the output tells that the last process is gone."""
        self.kill()
        deadline = time.monotonic() + GONE_S
        while select.select([self.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            if not self.drain(0):
                break
        self.stdout.close()


@functools.cache
def child_source() -> str:
    """The text of what runs inside; read from standard input it needs no file there."""
    return Path(__file__).with_name("child.py").read_text(encoding="utf-8")


def kill_marked(mark: bytes) -> int:
    """Kill the processes that were started with `mark` in their environment; how many there were.

    It finds what left its session. A program that clears its environment as it starts escapes.
    """
    found = 0
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (process / "environ").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)
                found += 1
    return found


def supervise(kind: str, solver: Child, judge: Child, verdict: FileIO, limits: Limits) -> Verdict:
    """Wait for the verdict, or for the first limit that is passed.

    Raises:
        MachineError: one of the two never began.
    """
    with selectors.DefaultSelector() as selector:
        selector.register(verdict, selectors.EVENT_READ)
        for child in (solver, judge):
            selector.register(child.stdout, selectors.EVENT_READ, child)
        said, open_verdict = b"", True
        begun: float | None = None
        began_waiting = looked = time.monotonic()
        while True:
            for key, _ in selector.select(TICK_S):
                if key.data is None:
                    chunk = os.read(key.fd, 1 << 16)
                    said, open_verdict = said + chunk, bool(chunk)
                elif not key.data.drain(limits.output_bytes):
                    selector.unregister(key.fileobj)
            now = time.monotonic()
            lines = [json.loads(line) for line in said.split(b"\n")[:-1]]
            if begun is None and lines[:1] == [["ready"]]:
                begun = now
            if begun is None:
                if not open_verdict or lines or now - began_waiting > START_S:
                    printed = (solver.output or judge.output).decode(errors="replace")
                    raise MachineError(
                        f"the sandbox ({kind}) did not start: {line_of(printed)}", HINT
                    )
                continue
            if len(lines) > 1 or not open_verdict:
                passed, why = conclude(lines[1:], solver, judge, limits)
            elif now - begun > limits.wall_s:
                passed, why = False, f"timed out after {limits.wall_s:g} s"
            elif max(solver.printed, judge.printed) > limits.output_bytes:
                passed, why = False, f"printed more than {limits.output_bytes} bytes"
            elif now - looked >= TICK_S:
                looked = now
                if max(solver.resident_bytes(), judge.resident_bytes()) <= limits.memory_bytes:
                    if solver.process.poll() is not None:
                        solver.kill()  # what it left behind may hold the pipes open
                    continue
                passed, why = False, "memory"
            else:
                continue
            return Verdict(passed, line_of(why), now - begun)


def conclude(
    lines: list[list[str]], solver: Child, judge: Child, limits: Limits
) -> tuple[bool, str]:
    """Passed or not, and why, from what the judge wrote last; nothing if it ended without."""
    if lines and lines[0] == ["passed"]:
        return True, "passed"
    if lines and lines[0][0] == "failed":
        why = lines[0][1]
        return False, "memory" if why.startswith("MemoryError") else why
    who, child = ("process", solver) if lines else ("test's process", judge)
    code = child.exit_code()
    if code is None:
        return False, f"the {who} closed its channel"
    if code == 128 + signal.SIGXCPU:
        return False, f"the {who} used more than {limits.cpu_s} s of CPU"
    return False, f"the {who} ended (exit code {code})"


def line_of(text: str) -> str:
    """One printable line of at most 200 characters."""
    line = " ".join(text.split())
    return "".join(sign if sign.isprintable() else "?" for sign in line)[:200]
