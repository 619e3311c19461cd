"""Unfinished runs: what lies under `<output_dir>/.partial/` and can be resumed."""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from specbench.errors import InputError
from specbench.report.schema import METADATA_KEY, SCHEMA_VERSION

PARTIAL = ".partial"
METADATA_FILE = "run.json"


@dataclass(frozen=True)
class PartialRun:
    """An unfinished run's own description.

    Attributes:
        scenario: the scenario's name; its text is `metadata["scenario"]`.
        metadata: as the run began.
        notices: sentences for the user.
    """

    run_id: str
    scenario: str
    metadata: dict[str, Any]
    notices: list[str] = field(default_factory=list)


def list_partial(output_dir: Path) -> list[str]:
    """The ids of the runs under `output_dir` that can be resumed, sorted."""
    return sorted(path.parent.name for path in (output_dir / PARTIAL).glob(f"*/{METADATA_FILE}"))


def part_number(path: Path) -> int:
    """The number of a part, or of one that was set aside; 0 of a file that is neither."""
    found = re.match(r"part-([0-9]+)\.parquet", path.name)
    return int(found[1]) if found else 0


def read_partial(output_dir: Path, run_id: str) -> PartialRun:
    """What the unfinished run `run_id` set out to do: by `run.json`, else by a part of it.

    Raises:
        InputError: no such run (the hint names the ones there are), its description is damaged and
            no part has it, or another version of the schema began it.
    """
    if run_id not in list_partial(output_dir):
        raise unknown_run(output_dir, run_id)
    path = output_dir / PARTIAL / run_id / METADATA_FILE
    notices = []
    try:
        metadata = _checked(path.read_bytes())
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        found = _of_a_part(path.parent)
        if found is None:
            raise InputError(
                f"{path} cannot be read: {error}",
                "No finished part says what it was either: start anew, without --resume.",
            ) from error
        metadata = found
        notices = [f"{path} cannot be read ({error}): taken from a finished part"]
    if metadata["schema_version"] != SCHEMA_VERSION:
        raise InputError(
            f"run {run_id} was begun with result schema {metadata['schema_version']}, "
            f"this specbench writes {SCHEMA_VERSION}",
            "Finish it with the specbench that began it, or start anew without --resume.",
        )
    return PartialRun(run_id, metadata["scenario_name"], metadata, notices)


def _checked(text: bytes) -> dict[str, Any]:
    """The metadata of a run, if a writer can go on with it.

    Raises:
        ValueError, KeyError, TypeError, RecursionError: it cannot.
    """
    metadata = json.loads(text)
    for name in ("scenario_name", "schema_version", "run_id"):
        if not isinstance(metadata[name], str):
            raise ValueError(f"{name} is {metadata[name]!r}")
    datetime.fromisoformat(metadata["created_utc"])
    if not isinstance(metadata.get("resumed", []), list):
        raise ValueError("resumed is no list")
    return dict(metadata)


def _of_a_part(directory: Path) -> dict[str, Any] | None:
    """The metadata that the first readable part has."""
    for path in sorted(directory.glob("part-*.parquet"), key=part_number):
        try:
            return _checked((pq.read_schema(path).metadata or {})[METADATA_KEY])
        except (OSError, ValueError, KeyError, TypeError, MemoryError, pa.ArrowException):
            continue
    return None


def unknown_run(output_dir: Path, run_id: str) -> InputError:
    """The error for a run that cannot be resumed, naming those that can."""
    known = list_partial(output_dir)
    message = f"no unfinished run {run_id!r} in {output_dir}"
    if not known:
        return InputError(message, "There is none: a finished run needs no --resume.")
    nearest = difflib.get_close_matches(run_id, known, n=1, cutoff=0.4)
    suggestion = f"Did you mean {nearest[0]}? " if nearest else ""
    return InputError(message, f"{suggestion}Unfinished runs there: {', '.join(known)}.")
