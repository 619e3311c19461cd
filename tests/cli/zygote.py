"""Runs `specbench` commands that are killed: a process that has loaded everything, and forks for each.

    python zygote.py WARM_UP_ARGUMENT...

Runs `specbench` with these arguments itself. Then reads lines of JSON and answers each with one:

{"argv": [...], "log": file, "limit_bytes": of a file's size, "kill_after_s": seconds, "kill_at": a file
to wait for, "signal": SIGKILL if not given} → {"code": exit code, or minus the signal, "wall_s": ...}.
With "wait": false the answer is {"pid": ...}, at once; {"join": pid} waits for that process.
"""

from __future__ import annotations

import glob
import json
import os
import resource
import signal
import sys
import time

from specbench.cli.app import main


def run(argv: list[str], log: str, limit_bytes: int | None) -> None:
    if limit_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, resource.RLIM_INFINITY))
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    code = main(argv)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def watch(child: int, kill_after_s: float | None, kill_at: str | None, number: int) -> int:
    """The exit code."""
    if kill_at is not None:
        while not glob.glob(kill_at, include_hidden=True):  # noqa: PTH207
            time.sleep(0.001)
    elif kill_after_s is not None:
        time.sleep(kill_after_s)
    if kill_at or kill_after_s:
        os.kill(child, number)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def serve() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        start = time.perf_counter()
        child = order.get("join") or os.fork()
        if child == 0:
            run(order["argv"], order["log"], order.get("limit_bytes"))
        if not order.get("wait", True):
            answer(pid=child)
            continue
        number = order.get("signal", signal.SIGKILL)
        code = watch(child, order.get("kill_after_s"), order.get("kill_at"), number)
        answer(code=code, wall_s=time.perf_counter() - start)


def answer(**what: object) -> None:
    os.write(ANSWERS, (json.dumps(what) + "\n").encode())


if __name__ == "__main__":
    ANSWERS = os.dup(1)
    os.dup2(2, 1)
    main(sys.argv[1:])
    answer(ready=True)
    serve()
