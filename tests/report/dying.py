"""A process that writes a run and dies by SIGKILL at its n-th file-system operation, for every n.

    python dying.py ROOT begin|resume [BEFORE]

Makes ROOT/1, ROOT/2, ... and prints how many there are; in the last of them the writer came to its end.
A writer that dies at an fsync leaves half of the file, as one that is killed while it writes. BEFORE is a
folder that `resume` goes on with, each time a copy.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from specbench.report.writer import RunWriter

RUN_ID = "0badcafe"
OPERATIONS = ["open", "fsync", "replace", "rename", "unlink", "rmdir", "mkdir"]


def row(sample: str, **changed: Any) -> dict[str, Any]:
    return {
        "case_id": "fused-2", "sample_id": sample, "repeat": 0, "status": "ok", "new_tokens": 7,
    } | changed  # fmt: skip


def begin(folder: Path) -> None:
    """Four parts, one of them with a failure, and a note."""
    writer = RunWriter(folder, "demo", {"created_utc": "2026-11-22T10:00:00+00:00"}, RUN_ID)
    for sample in "abcd":
        failed = {"status": "failed", "error": "oom"} if sample == "c" else {}
        writer.write([row(sample, **failed)])
    writer.note("fused-2", {"verify_kernel_us": 4.5})
    writer.finish()


def resume(folder: Path) -> None:
    """Does what is missing."""
    writer = RunWriter(folder, "", {}, RUN_ID, resume=True)
    for sample in "abcd":
        if ("fused-2", 0, sample, 0) not in writer.finished():
            writer.write([row(sample)])
    writer.note("fused-2", {"verify_kernel_us": 4.5})
    writer.finish()


def die_at(fatal: int) -> None:
    count = itertools.count(1)

    def deadly(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            if next(count) == fatal:
                if name == "fsync" and os.fstat(args[0]).st_mode & 0o100000:
                    half(args[0])
                os.kill(os.getpid(), signal.SIGKILL)
            return (
                None if name == "fsync" else call(*args, **kwargs)
            )  # no power cut: no need to wait

        return counted

    for name in OPERATIONS:
        setattr(os, name, deadly(name, getattr(os, name)))


def half(descriptor: int) -> None:
    path = f"/proc/self/fd/{descriptor}"
    os.truncate(path, os.stat(path).st_size // 2)  # noqa: PTH116


def main(root: Path, what: str, before: Path | None = None) -> None:
    warm = root / "warm"
    begin(warm)  # what pyarrow loads late, once for all children
    shutil.rmtree(warm)
    for fatal in itertools.count(1):
        folder = root / str(fatal)
        if before is not None:
            shutil.copytree(before, folder)
        child = os.fork()
        if child == 0:
            die_at(fatal)
            (begin if what == "begin" else resume)(folder)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if status == 0:
            break
        if not os.WIFSIGNALED(status):
            sys.exit(f"at operation {fatal} the writer failed: {status}")
    print(fatal)  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], *(Path(name) for name in sys.argv[3:]))
