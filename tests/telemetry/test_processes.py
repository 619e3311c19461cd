"""Who else computes on a GPU: own processes are not foreign, also where pids are another system's."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from specbench.telemetry.processes import Process, descends_from, foreign, program

A, B, C = Process(10, "a", 3 * 10**9), Process(20, "b", 5 * 10**9), Process(30, None, None)


def owns(*pids):
    return lambda pid: pid in pids


@pytest.mark.parametrize(
    ("listed", "own", "others"),
    [
        ([A], owns(10), []),
        ([A, B, C], owns(10), [B, C]),
        ([A, B], owns(10, 20), []),
        # A container whose pids are the host's: one of them is this process.
        ([A], owns(), []),
        ([A, B, C], owns(), [A, C]),
        ([C], owns(), []),
        # A container that is shown nothing, though this process is there.
        ([], owns(10), None),
    ],
)
def test_foreign(listed, own, others):
    assert foreign(listed, own) == others


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_children_of_children_are_own_and_parents_are_not():
    is_own = descends_from(os.getpid())
    inner = "import os; print(os.getpid(), flush=True); input()"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        grandchild = int(child.stdout.readline())
        assert is_own(os.getpid())
        assert is_own(child.pid)
        assert is_own(grandchild)
        assert not is_own(os.getppid())
        assert not is_own(1)
        child.stdin.write(b"\n")
    assert not is_own(grandchild), "it is gone"


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ("/usr/bin/python3", "python3"), (b"/opt/x/train", "train"), ("[Not Found]", "[Not Found]"),
        ("", None), (None, None), (b"\xff", "\ufffd"), ("/", None),
    ],
)  # fmt: skip
def test_a_program_is_named_without_its_folders(told, name):
    assert program(told) == name


def test_how_they_are_told():
    assert [str(one) for one in (A, C, Process(4, "x"), Process(5, None, 10**8))] == [
        "a (pid 10, 3.0 GB)", "pid 30", "x (pid 4)", "pid 5, 0.1 GB",
    ]  # fmt: skip
