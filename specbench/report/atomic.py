"""Files that appear whole or not at all, also after a power cut or `kill -9`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TEMP_SUFFIX = ".tmp"
"""What an interrupted write leaves behind ends in this; no reader looks at such a file."""


@contextmanager
def atomic_file(path: Path, temp_dir: Path | None = None) -> Iterator[Path]:
    """Yields a temporary path to write to; on success it becomes `path`, on failure it goes.

    Args:
        path: the final name; an existing file is replaced in one step.
        temp_dir: where the unfinished file lies, on the same file system; `path`'s folder if None.
    """
    temp = (temp_dir or path.parent) / f".{path.name}{TEMP_SUFFIX}"
    try:
        yield temp
        _sync(temp)
        temp.replace(path)
    except BaseException:
        with suppress(OSError):  # what cannot be written can often not be deleted either
            temp.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def remove_leftovers(directory: Path) -> None:
    """Deletes the temporary files that an interrupted write left in `directory`."""
    for leftover in directory.glob(f".*{TEMP_SUFFIX}"):
        leftover.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Flushes a file, or a folder's list of names, to the disk.

    Without it the rename may reach the disk before the content: a whole name, half a file.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
