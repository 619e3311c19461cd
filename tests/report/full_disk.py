"""A process whose disk is full, at another byte each time, or turns read-only while a run is written.

    python full_disk.py FOLDER limit|tmpfs|read-only

Prints a JSON line for each writer: what it said, and the samples before and after it could go on. `limit`
is the kernel's limit of a file's size; the others mount a small file system and need the right to do so.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from dying import RUN_ID, row

from specbench.errors import SpecbenchError
from specbench.report.partial import list_partial
from specbench.report.reader import load_results
from specbench.report.writer import RunWriter

SAMPLES = "abcdef"
PAGE, MOST, ROOMY = 4096, 100, 16 * 2**20


def main(folder: Path, how: str) -> None:
    if how == "read-only":
        return read_only(folder)
    for pages in range(0, MOST, 3 if how == "tmpfs" else 1):
        if how == "tmpfs":
            mount(folder, f"size={(pages + 4) * PAGE}")
        else:
            limit((pages + 1) * PAGE)
        before: list[str] = []
        said = attempt(write_all, folder, before, resume=False)
        mount(folder, f"remount,size={ROOMY}") if how == "tmpfs" else limit(ROOMY)
        if said:
            write_all(folder, [], resume=bool(list_partial(folder)))
        tell(said=said, before=before, after=sorted(load_results(folder)["sample_id"]))
        subprocess.run(["umount", folder], check=True) if how == "tmpfs" else wipe(folder)
        if not said:
            break
    return None


def read_only(folder: Path) -> None:
    mount(folder, f"size={ROOMY}")
    writer = RunWriter(folder, "demo", {}, RUN_ID)
    writer.write([text_row("a")])
    writer.close()  # its lock is open for writing, so that only a kernel in trouble would remount
    mount(folder, "remount,ro")
    tell(said=attempt(writer.write, [text_row("b")]))
    tell(said=attempt(RunWriter, folder, "", {}, RUN_ID, resume=True))
    tell(said=attempt(RunWriter, folder, "demo", {}))
    mount(folder, "remount,rw")
    write_all(folder, [], resume=True)
    tell(after=sorted(load_results(folder)["sample_id"]))


def write_all(folder: Path, done: list[str], resume: bool) -> None:
    """Writes what is missing."""
    writer = RunWriter(folder, "demo", {}, RUN_ID, resume)
    try:
        for sample in SAMPLES:
            if ("fused-2", 0, sample, 0) not in writer.finished():
                writer.write([text_row(sample)])
                done.append(sample)
        writer.finish()
    finally:
        writer.close()


def text_row(sample: str) -> dict[str, object]:
    """Longer from sample to sample, and nothing that could be compressed."""
    return row(sample, hypothesis=os.urandom(2000 * SAMPLES.index(sample)).hex())


def mount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], check=True)


def limit(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def wipe(folder: Path) -> None:
    for child in folder.iterdir():
        shutil.rmtree(child) if child.is_dir() else child.unlink()


def attempt(call: Callable[..., object], *arguments: object, **named: object) -> str | None:
    try:
        call(*arguments, **named)
    except SpecbenchError as error:
        return f"{error.message} / {error.hint}"
    return None


def tell(**what: object) -> None:
    print(json.dumps(what), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
