"""Hostile and honest programs in every isolation that this machine offers."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from pathlib import Path

import pytest

from specbench.assets import demo_dir
from specbench.errors import MachineError
from specbench.sandbox import Limits, Problem, child, isolation, judge, judge_all, supervisor

WALLED = [kind for kind in supervisor.KINDS if kind != "none" and supervisor.fault(kind) is None]
QUICK = Limits(wall_s=5.0, cpu_s=4)
CPU = Limits(wall_s=30.0, cpu_s=1)
ROWS = [json.loads(line) for line in (demo_dir() / "code.jsonl").read_text().splitlines()]

PROMPT = 'def double(x):\n    """Twice x."""\n'
TEST = "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-3) == -6\n"
DOUBLE = Problem(PROMPT, TEST, "double")


@pytest.fixture(params=["bubblewrap", "namespaces"])
def kind(request):
    if (why := supervisor.fault(request.param)) is not None:
        pytest.skip(f"{request.param} does not work on this machine: {why}")
    return request.param


def run(kind, body, limits=QUICK, problem=DOUBLE):
    """The verdict on a function body."""
    return supervisor.run(kind, problem, textwrap.indent(textwrap.dedent(body), "    "), limits)


def seen(kind, body, limits=QUICK):
    """What a body returns inside, as far as it is true that the test sees it."""
    told = Problem("def f():\n", "def check(candidate):\n    raise Exception(candidate())\n", "f")
    verdict = run(kind, body, limits, told)
    assert verdict.reason.startswith("Exception: "), verdict
    return verdict.reason.removeprefix("Exception: ")


def descendants(pid):
    found, left = [], [pid]
    while left:
        try:
            for task in Path(f"/proc/{left.pop()}/task").iterdir():
                left += (children := (task / "children").read_text().split())
                found += children
        except OSError:
            continue
    return found


def processes_with(text):
    """Ids of running processes whose command line has `text`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if text.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


# --- honest programs ----------------------------------------------------------------------------------


def test_this_machine_has_an_isolation():
    """Where it has none, the refusal says so, and the tests of hostile programs are skipped."""
    if WALLED:
        assert isolation() == WALLED[0]
    else:
        with pytest.raises(MachineError, match="cannot be run safely"):
            isolation()


def test_every_embedded_solution_passes_and_a_wrong_one_fails(kind):
    rows = ROWS if kind == WALLED[0] else ROWS[::8]  # once is enough, for it takes a while
    problems = [Problem(row["prompt"], row["test"], row["entry_point"]) for row in rows]
    jobs = [(one, row["canonical_solution"]) for one, row in zip(problems, rows, strict=True)]
    wrong = [(one, "    return 'none of these'\n") for one in problems]
    verdicts = judge_on(kind, jobs + wrong)
    assert [v for v in verdicts[: len(jobs)] if not v.passed] == []
    assert {v.reason for v in verdicts[len(jobs) :]} == {"AssertionError"}


def judge_on(kind, jobs):
    before = supervisor.isolation
    supervisor.isolation = lambda allow_unsandboxed=False: kind
    try:
        return judge_all(jobs, Limits(), workers=2)
    finally:
        supervisor.isolation = before


@pytest.mark.parametrize("kind", supervisor.KINDS)
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("return 2 * x", "passed"),
        ("import math, re, collections, dataclasses\nreturn 2 * x", "passed"),
        ("print('a' * 30_000)\nreturn 2 * x", "passed"),
        ("return x", "AssertionError"),
        ("return nothing", "NameError: name 'nothing' is not defined"),
        ("return (", "SyntaxError: '(' was never closed (solution, line 3)"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise StopIteration", "Exception: StopIteration"),
        ("import os\nos._exit(0)", "the process ended (exit code 0)"),
        ("import os, signal\nos.kill(os.getpid(), 11)", "the process ended (exit code 139)"),
        ("return double(x)", "RecursionError: maximum recursion depth exceeded"),
        (
            "return lambda: x",
            "ValueError: cannot take what was returned: function is not plain data",
        ),
    ],
)
def test_the_reason(kind, body, reason):
    if (why := supervisor.fault(kind)) is not None:
        pytest.skip(f"{kind} does not work on this machine: {why}")
    verdict = run(kind, body)
    assert (verdict.passed, verdict.reason) == (reason == "passed", reason)
    assert 0.0 <= verdict.seconds < QUICK.wall_s


def test_a_subclass_crosses_as_the_value_it_holds(kind):
    body = """
    import collections, enum
    Point = collections.namedtuple("Point", "x y")
    class Kind(enum.IntEnum):
        A = 7
    return [collections.Counter("aab"), Point(1, 2), Kind.A, True]
    """
    assert seen(kind, body) == "[{'a': 2, 'b': 1}, (1, 2), 7, True]"


def test_an_expected_exception_can_be_caught_by_the_test(kind):
    body = "class Mine(ValueError): pass\nraise Mine('no')"
    test = (
        "def check(candidate):\n    try:\n        candidate(1)\n    except ValueError as error:\n"
        "        assert str(error) == 'Mine: no'\n    else:\n        assert False\n"
    )
    assert run(kind, body, problem=Problem(PROMPT, test, "double")).passed


def test_helpers_of_the_prompt_serve_the_test_and_the_function_is_known_by_its_name(kind):
    prompt = "def twice(x):\n    return 2 * x\n\n\n" + PROMPT
    test = "def check(candidate):\n    assert candidate(3) == double(3) == twice(3)\n"
    problem = Problem(prompt, test, "double")
    assert run(kind, "return twice(x)", problem=problem).passed
    # What the completion makes of the helper does not reach the test.
    liar = "return 5\n\ndef twice(x):\n    return 5"
    assert not run(kind, liar, problem=problem).passed


def test_arguments_cross_as_copies(kind):
    test = (
        "def check(candidate):\n    data = [3, 1]\n    assert candidate(data, key={1: (2, {3})}) == 2\n"
        "    assert data == [3, 1]\n"
    )
    body = "data.sort()\nassert key == {1: (2, {3})}\nreturn len(data)"
    problem = Problem("def f(data, key):\n", test, "f")
    assert run(kind, body, problem=problem).reason == "passed"


def test_a_test_that_sends_what_is_no_plain_data_says_so(kind):
    problem = Problem(PROMPT, "def check(candidate):\n    candidate(len)\n", "double")
    reason = "the test's arguments cannot be sent: builtin_function_or_method is not plain data"
    assert run(kind, "return 1", problem=problem).reason == reason


def test_the_same_seed_and_the_same_order_of_sets_every_time(kind):
    problem = Problem(
        "def f(x):\n",
        "import random\ndef check(c):\n    raise Exception(random.random(), c(1))\n",
        "f",
    )
    first, second = (run(kind, "return str(set('abcdef'))", problem=problem) for _ in range(2))
    assert first.reason == second.reason


# --- hostile programs ---------------------------------------------------------------------------------


def test_a_loop_and_a_sleep_are_stopped(kind):
    assert run(kind, "while True: pass", CPU).reason == "the process used more than 1 s of CPU"
    limits = Limits(wall_s=0.5)
    assert run(kind, "import time\ntime.sleep(99)", limits).reason == "timed out after 0.5 s"
    hides = "import time\nclass E(Exception):\n    def __str__(self): time.sleep(99)\nraise E"
    assert run(kind, hides, limits).reason == "timed out after 0.5 s"
    dies = "import time\nclass D:\n    def __del__(self): time.sleep(99)\nD()\nreturn 2 * x"
    assert run(kind, dies, limits).reason == "timed out after 0.5 s"


def test_exit_handlers_get_no_turn(kind):
    begun = time.monotonic()
    verdict = run(kind, "import atexit, time\natexit.register(time.sleep, 99)\nreturn 2 * x")
    assert verdict.passed
    assert time.monotonic() - begun < 3.0


def test_memory_is_bounded(kind):
    limits = Limits(wall_s=5.0, memory_bytes=256 << 20)
    assert run(kind, "return len(bytearray(1 << 40)) * [0]", limits).reason == "memory"
    assert (
        run(kind, "grown = []\nwhile True: grown.append(bytes(1 << 20))", limits).reason == "memory"
    )
    # Not by what is touched alone: address space counts, too.
    reserve = (
        "import mmap\ntry:\n    mmap.mmap(-1, 1 << 30)\nexcept OSError as e:\n    return str(e)"
    )
    assert seen(kind, reserve, limits) == "[Errno 12] Cannot allocate memory"
    together = """
    import os, time
    for _ in range(8):
        if os.fork() == 0:
            held = b"x" * (100 << 20)
            time.sleep(99)
    time.sleep(99)
    """
    assert run(kind, together, limits).reason == "memory"


@pytest.mark.parametrize(
    "bomb",
    [
        "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass",
        "import os\nwhile True:\n    try:\n        if os.fork() == 0: os._exit(0)\n"
        "    except OSError:\n        pass",
        "import threading, time\nwhile True:\n    try:\n        threading.Thread(target=time.sleep, "
        "args=(99,)).start()\n    except RuntimeError:\n        pass",
    ],
    ids=["fork", "zombies", "threads"],
)
def test_processes_are_bounded_and_gone_afterwards(kind, bomb):
    before = set(descendants(os.getpid()))
    verdicts = []
    limits = Limits(wall_s=1.5, processes=8)
    thread = threading.Thread(target=lambda: verdicts.append(run(kind, bomb, limits)))
    thread.start()
    peak = 0
    while thread.is_alive():
        peak = max(peak, len(set(descendants(os.getpid())) - before))
        time.sleep(0.01)
    assert not verdicts[0].passed
    # Two trees of a wrapper, the namespace's first process and at most eight more.
    assert 4 <= peak <= 2 * (2 + 8)
    assert set(descendants(os.getpid())) <= before


def test_a_daemon_dies_with_its_sandbox(kind):
    name = f"daemon-{uuid.uuid4()}"
    body = f"""
    import os, subprocess, sys, time
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.closerange(0, 64)
            os.execve("/bin/sh", ["sh", "-c", "while :; do sleep 1; done", {name!r}], {{}})
        os._exit(0)
    os.wait()
    time.sleep(0.3)
    return 2 * x
    """
    limits, verdicts = Limits(), []
    thread = threading.Thread(target=lambda: verdicts.append(run(kind, body, limits)))
    thread.start()
    lived = False
    while thread.is_alive():
        lived = lived or bool(processes_with(name))
        time.sleep(0.01)
    assert lived
    assert verdicts[0].passed
    assert processes_with(name) == []


def test_nothing_runs_on_when_the_supervisor_is_killed(kind, tmp_path):
    source = (
        "from specbench.sandbox import supervisor as s\n"
        "problem = s.Problem('def f():\\n', 'def check(candidate): candidate()\\n', 'f')\n"
        f"s.run({kind!r}, problem, '    import time\\n    time.sleep(99)\\n', s.Limits(wall_s=99))\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}  # for the scratch that stays behind
    with subprocess.Popen([sys.executable, "-c", source], env=environment) as outer:
        # A wrapper, the first process of the namespace and Python, twice.
        assert until(lambda: len(descendants(outer.pid)) >= 6)
        time.sleep(0.3)
        inside = descendants(outer.pid)
        assert len(inside) >= 6
        outer.send_signal(signal.SIGKILL)
    assert until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in inside))


def until(true, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not (found := true()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def test_printing_without_end_is_cut(kind):
    for body in (
        "while True: print('x' * 10_000)",
        "import os\nwhile True: os.write(2, b'x' * 10_000)",
        "import sys\nprint('x' * (1 << 28))\nreturn 2 * x",
    ):
        assert run(kind, body).reason == "printed more than 65536 bytes"


def test_a_deep_recursion_that_raises_its_own_limit_fails(kind):
    body = (
        "import sys\nsys.setrecursionlimit(10**9)\nf = lambda: sorted([1], key=lambda _: f())\nf()"
    )
    assert run(kind, body).reason in {"the process ended (exit code 139)", "memory"}


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK", "AF_VSOCK"])
def test_there_is_no_network(kind, family):
    body = f"""
    import socket
    try:
        socket.socket(socket.{family}).close()
    except OSError as error:
        return str(error)
    return "open"
    """
    assert seen(kind, body) == "[Errno 1] Operation not permitted"


def test_the_network_namespace_holds_beneath_the_forbidden_system_call(kind, monkeypatch):
    source = supervisor.child_source().replace('"socket": (41, 198), ', "")
    monkeypatch.setattr(supervisor, "child_source", lambda: source)
    assert seen(kind, "import socket\nreturn [n for _, n in socket.if_nameindex()]") == "['lo']"


def test_neither_environment_nor_home_nor_host_can_be_seen(kind, monkeypatch, tmp_path):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    shown = seen(kind, "import os\nreturn sorted(set(os.environ))")
    assert shown == "['LANG', 'PATH', 'PWD', 'PYTHONHASHSEED']"
    places = [
        str(Path.home() / ".ssh"),
        str(Path.home() / ".bashrc"),
        str(secret),
        str(Path.cwd()),
        "/proc/1",
        "/sys/kernel",
        "/etc/passwd",
        "/var/log",
        "/dev/shm",
        "/run",
        "/old/etc",
    ]
    body = f"import os\nreturn [p for p in {places!r} if os.path.exists(p)] + os.listdir('/tmp')"
    assert seen(kind, body) == "[]"


def test_other_processes_can_neither_be_seen_nor_killed(kind):
    body = f"""
    import os
    found = []
    for pid in [{os.getpid()}, {os.getppid()}]:
        try:
            os.kill(pid, 0)
            found.append(pid)
        except OSError:
            pass
    return found
    """
    assert seen(kind, body) == "[]"
    for target in ("os.getppid()", "1", "-1"):
        reason = run(kind, f"import os\nos.kill({target}, 9)\nreturn 5").reason
        # Not the namespace's first process: its end would be another's.
        known = ("AssertionError", "PermissionError", "ProcessLookupError", "the process ended")
        assert reason.startswith(known)


def test_nothing_outside_the_scratch_can_be_written(kind, tmp_path):
    outside = tmp_path / "outside"
    places = [
        "/x",
        "/usr/x",
        "/etc/x",
        "/dev/x",
        "/old/x",
        "/root/x",
        f"{sys.base_prefix}/x",
        str(outside),
    ]
    body = f"""
    import os
    written = []
    for place in {places!r}:
        os.makedirs("/tmp/in", exist_ok=True)
        link = "/tmp/in/" + str(len(os.listdir("/tmp/in")))
        os.symlink(place, link)
        for path in (place, link):
            try:
                open(path, "w").close()
                written.append(path)
            except OSError:
                pass
    open("/tmp/mine", "w").close()
    return written
    """
    assert seen(kind, body) == "[]"
    assert not outside.exists()


def test_the_scratch_is_bounded(kind):
    body = """
    import os
    total = 0
    for n in range(16):  # each file has its own limit, and all together have one
        try:
            with open(f"/tmp/{n}", "wb", buffering=0) as file:
                for _ in range(64):
                    total += file.write(bytes(1 << 20))
        except OSError:
            pass
    return total >> 20
    """
    assert int(seen(kind, body, Limits(scratch_bytes=4 << 20))) <= 5


@pytest.mark.parametrize("call", ["ptrace", "shmget", "memfd_create", "unshare", "keyctl", "bpf"])
def test_system_calls_that_reach_past_the_walls_are_refused(kind, call):
    machines = list(child.AUDIT_ARCH)
    if os.uname().machine not in machines:
        pytest.skip(f"no list of system calls for {os.uname().machine}")
    number = child.FORBIDDEN[call][machines.index(os.uname().machine)]
    body = (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        f"return [libc.syscall({number}, 0x10000000, 0, 0, 0), ctypes.get_errno()]"
    )
    assert seen(kind, body) == "[-1, 1]"


@pytest.mark.parametrize("call", ["setgroups([])", "chroot('/tmp')", "sethostname", "setuid(7)"])
def test_no_capability_is_left(kind, call):
    call = "socket.sethostname('x')" if call == "sethostname" else f"os.{call}"
    body = f"""
    import os, socket
    try:
        {call}
    except OSError as error:
        return str(error)
    return "done"
    """
    assert seen(kind, body).startswith(("[Errno 1]", "[Errno 22]"))


def test_no_user_namespace_and_no_privileges_can_be_had(kind):
    body = """
    import subprocess
    calls = (["unshare", "-U", "true"], ["unshare", "-m", "true"], ["mount", "-t", "tmpfs", "x", "/tmp"])
    return [subprocess.run(c, capture_output=True).returncode == 0 for c in calls]
    """
    assert seen(kind, body) == "[False, False, False]"


LIES = {
    "equal to all": """
        class Liar:
            def __eq__(self, other): return True
            def __ne__(self, other): return False
        return Liar()
    """,
    "a number equal to all": """
        class Liar(int):
            def __eq__(self, other): return True
            def __int__(self): return 4
            __hash__ = int.__hash__
        return Liar(1)
    """,
    "a class that says it is another": """
        class Liar:
            __class__ = int
            def __eq__(self, other): return True
        return Liar()
    """,
    "patched builtins": """
        import builtins, sys
        builtins.AssertionError = type("Never", (Exception,), {})
        builtins.isinstance = lambda *a: True
        builtins.repr = builtins.str = lambda *a: "4"
        sys.modules["json"].dumps = lambda *a, **k: '["passed"]'
        return 5
    """,
    "the frames above": """
        import sys
        frame = sys._getframe()
        while frame:
            for name, value in list(frame.f_locals.items()) + list(frame.f_globals.items()):
                if hasattr(value, "send"):
                    value.send(["passed"])
            frame = frame.f_back
        return 5
    """,
    "gc": """
        import gc
        for thing in gc.get_objects():
            if type(thing).__name__ == "Lines":
                thing.send(["passed"]); thing.send(["ready"])
        return 5
    """,
    "every descriptor": """
        import os
        for fd in range(64):
            for text in (b'["ready"]\\n["passed"]\\n', b'["passed"]\\n'):
                try: os.write(fd, text)
                except OSError: pass
        os._exit(0)
    """,
    "every descriptor closed": """
        import os, time
        os.closerange(0, 64)
        time.sleep(99)
    """,
    "a flood of answers": """
        import os
        while True:
            for fd in range(3, 64):
                try: os.write(fd, b"[" * 65536)
                except OSError: pass
    """,
    "a nest of answers": """
        import os
        for fd in range(3, 64):
            try: os.write(fd, b'["value", ' + b"[" * 50000 + b"]" * 50000 + b"]\\n")
            except OSError: pass
        return 5
    """,
    "an object": """
        import os
        for fd in range(3, 64):
            try: os.write(fd, b'["value", {"a": 4}]\\n')
            except OSError: pass
        import time; time.sleep(99)
    """,
    "an exception the test must not swallow": "raise StopIteration",
    "self-reference": "x = []\nx.append(x)\nreturn x",
    "gigantic": "return 'x' * (1 << 26)",
    "a long integer": "return 1 << (1 << 27)",
    "many": "return [0] * (1 << 24)",
    "a generator": "yield 4",
    "a module": "import sys\nreturn sys",
    "unhashable keys": """
        import os
        for fd in range(3, 64):
            try: os.write(fd, b'["value", ["set", ["list"]]]\\n')
            except OSError: pass
        return 4
    """,
    "a thread left running": """
        import threading, os
        def loop():
            while True: os.write(1, b"x" * 1000)
        threading.Thread(target=loop, daemon=True).start()
        return 5
    """,
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_does_not_pass(kind, lie):
    verdict = run(kind, LIES[lie], Limits(wall_s=3.0, cpu_s=2))
    assert not verdict.passed
    assert verdict.reason
    assert len(verdict.reason) <= 200
    assert "\n" not in verdict.reason


def test_a_dead_solver_is_no_exception_that_a_test_might_expect(kind):
    lines = "def check(c):", "    try:", "        c(1)", "    except BaseException:", "        pass"
    problem = Problem(PROMPT, "\n".join(lines), "double")
    assert run(kind, "raise ValueError", problem=problem).passed
    for body in (
        "import os\nos._exit(0)",
        "raise SystemExit",
        "return lambda: 0",
        "import os\nos.abort()",
    ):
        assert not run(kind, body, problem=problem).passed


def test_a_test_that_ends_its_process_is_a_failure(kind):
    problem = Problem(PROMPT, "import os\ndef check(candidate):\n    os._exit(0)\n", "double")
    assert (
        run(kind, "return 2 * x", problem=problem).reason
        == "the test's process ended (exit code 0)"
    )


def test_the_two_processes_share_no_scratch_and_no_process_ids(kind):
    test = (
        "import os\n"
        "open('/tmp/judge', 'w').close()\n"
        "def check(candidate):\n    raise Exception(candidate(os.getpid()), os.listdir('/tmp'))\n"
    )
    body = "import os\nopen('/tmp/solver', 'w').close()\nreturn os.listdir('/tmp')"
    reason = run(kind, body, problem=Problem("def f(pid):\n", test, "f")).reason
    assert reason == "Exception: (['solver'], ['judge'])"


# --- without walls ------------------------------------------------------------------------------------


def test_without_isolation_only_the_explicit_wish_runs_code(monkeypatch):
    monkeypatch.setattr(supervisor, "fault", lambda kind: "tried in vain")
    with pytest.raises(MachineError, match="bubblewrap: tried in vain") as error:
        judge(DOUBLE, "    return 2 * x\n")
    assert "allow_unsandboxed" in str(error.value.hint)
    assert isolation(allow_unsandboxed=True) == "none"
    assert judge(DOUBLE, "    return 2 * x\n", QUICK, allow_unsandboxed=True).passed


def test_a_sandbox_that_does_not_start_is_no_verdict(monkeypatch):
    monkeypatch.setattr(supervisor, "wrapper", lambda *_: ["sh", "-c", "echo no such wall; exit 3"])
    with pytest.raises(MachineError, match=r"did not start: no such wall"):
        run("namespaces", "return 2 * x")
    monkeypatch.setattr(supervisor, "wrapper", lambda *_: ["/no/such/program"])
    with pytest.raises(MachineError, match="cannot be started"):
        run("namespaces", "return 2 * x")


@pytest.mark.parametrize(
    "lie", ["equal to all", "patched builtins", "every descriptor", "gc", "many"]
)
def test_unsandboxed_code_cannot_lie_either(lie):
    assert not run("none", LIES[lie]).passed


def test_unsandboxed_code_has_limits_and_leaves_no_daemon():
    assert run("none", "while True: pass", CPU).reason == "the process used more than 1 s of CPU"
    assert run("none", "return len(bytearray(1 << 40)) * [0]").reason == "memory"
    assert run("none", "while True: print('x' * 10_000)").reason == "printed more than 65536 bytes"
    name = f"unwalled-{uuid.uuid4()}"
    body = f"""
    import os, time
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execv("/bin/sh", ["sh", "-c", "while :; do sleep 1; done", {name!r}])
        os._exit(0)
    os.wait()
    time.sleep(0.3)
    os._exit(0)
    """
    assert run("none", body).reason == "the process ended (exit code 0)"
    assert processes_with(name) == []
    told = seen("none", "import os\nopen('mine', 'w').close()\nreturn sorted(set(os.environ))")
    assert "SECRET" not in told
    assert "HOME" not in told


# --- plain data ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        None, True, False, 0, -1, 1 << 62, -(1 << 63), 10**5000, 0.1, -0.0, math.inf, -math.inf, 1e-320,
        2 - 3j, "", "é\ud800\n\x00", b"\x00\xff", [], [[], ()], (1, (2,)), {1, "a"}, frozenset({(1, 2)}),
        {}, {"a": [1, {2: None}], (1, 2): {3}, 1.5: b"x"}, ["list", 1], {"int": ["int", "0x1"]},
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_plain_data_crosses_unchanged(value):
    back = child.decode(json.loads(json.dumps(child.encode(value))))
    assert back == value
    assert type(back) is type(value)
    if isinstance(value, float):
        assert math.copysign(1, back) == math.copysign(1, value)


def test_not_a_number_crosses():
    assert math.isnan(child.decode(json.loads(json.dumps(child.encode(math.nan)))))


@pytest.mark.parametrize(
    "text",
    [
        {"a": 1},
        ["no such tag"],
        [],
        [4],
        [["list"]],
        ["set", ["list"]],
        ["dict", 1],
        ["int"],
        ["bytes", "zz"],
        ["int", 7],
    ],
)
def test_what_encode_does_not_write_is_refused(text):
    with pytest.raises((ValueError, TypeError, LookupError)):
        child.decode(text)


def test_judge_all_keeps_the_order():
    if not WALLED:
        pytest.skip("no isolation works on this machine")
    jobs = [(DOUBLE, f"    return {factor} * x\n") for factor in (2, 3, 2, 1)]
    assert [v.passed for v in judge_all(jobs, workers=3)] == [True, False, True, False]


def test_no_scratch_is_left(kind, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run(kind, "import os\nos.makedirs('/tmp/a/b')\nos.chmod('/tmp/a', 0)\nreturn 2 * x")
    run("none", "import os\nos.makedirs('a/b')\nos.chmod('a', 0)\nreturn 2 * x")
    assert list(tmp_path.iterdir()) == []


def test_descriptors_are_given_back(kind):
    run(kind, "return 2 * x")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        run(kind, "return 2 * x")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_listening_socket_of_this_process_is_out_of_reach(kind):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        goal = ("127.0.0.1", server.getsockname()[1])
        body = f"import socket\nsocket.create_connection({goal!r}, 1)\nreturn 2 * x"
        assert not run(kind, body).passed


def test_what_is_shown_is_mounted_read_only(kind):
    """Rights of files alone would not do: an ordinary user may own the Python that is shown."""
    places = seen(
        kind,
        """
        import os, sys
        shown = ["/usr", os.path.dirname(os.__file__), os.path.realpath(sys.executable)]
        return {place: bool(os.statvfs(place).f_flag & os.ST_RDONLY) for place in shown}
        """,
    )
    assert "True" in places
    assert "False" not in places, places
