"""Where a report goes: checked before anything is computed, written whole or not at all."""

from __future__ import annotations

from pathlib import Path

from specbench.errors import InputError
from specbench.report.atomic import atomic_file

_HEAD_BYTES = 4096


def check_target(path: Path, creator: str) -> None:
    """Whether a file may be written there; an earlier one of the same make, or an empty
    one, is replaced.

    Args:
        creator: stands near the beginning of every file of this make.

    Raises:
        InputError: its folder is missing, it is a folder, or it is a file of something else.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder", f"Name a file in it: {path / 'report.html'}")
    if not path.parent.is_dir():
        raise InputError(
            f"there is no folder {path.parent}", f"Make it first: mkdir -p {path.parent}"
        )
    if not path.exists() or not (head := _head(path)):
        return
    if creator.encode() not in head:
        raise InputError(
            f"{path} exists and was not made by `{creator}`",
            "Give another name, or remove it first.",
        )


def _head(path: Path) -> bytes:
    if not path.is_file():  # a pipe would wait for ever
        raise InputError(f"{path} is no plain file", "Name a file, such as report.html.")
    with path.open("rb") as file:
        return file.read(_HEAD_BYTES)


def write_whole(path: Path, content: bytes) -> None:
    """Replaces the file in one step.

    Raises:
        InputError: the system does not let it be written.
    """
    try:
        with atomic_file(path) as temp:
            temp.write_bytes(content)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}", None) from error
