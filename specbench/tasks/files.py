"""Local files of text: plain, packed by gzip, one JSON object a line."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from specbench.errors import InputError


@contextmanager
def open_text(path: Path) -> Iterator[IO[str]]:
    """The file's text, unpacked, without the mark that Windows programs put in front.

    Raises:
        InputError: where it is read, if it is not UTF-8, or its packing is damaged.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8-sig") as file:
            yield file
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text", "Save it again as UTF-8.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {error}", "Copy it again.") from None


def read_text(path: Path) -> str:
    """All of a file's text; errors as `open_text`."""
    with open_text(path) as file:
        return file.read()


def json_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The objects of a file of JSON lines, one by one, each with the number of its line.

    Raises:
        InputError: as `open_text`, or a line is no JSON object.
    """
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                raise InputError(
                    f"{path}, line {number}: no JSON object", "Expected one JSON object a line."
                )
            yield number, row
