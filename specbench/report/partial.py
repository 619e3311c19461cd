"""Unfinished runs: what lies under `<output_dir>/.partial/` and can be resumed."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specbench.errors import InputError
from specbench.report.schema import SCHEMA_VERSION

PARTIAL = ".partial"
METADATA_FILE = "run.json"


@dataclass(frozen=True)
class PartialRun:
    """An unfinished run's own description.

    Attributes:
        scenario: the scenario's name; its text is `metadata["scenario"]`.
        metadata: as the run began.
    """

    run_id: str
    scenario: str
    metadata: dict[str, Any]


def list_partial(output_dir: Path) -> list[str]:
    """The ids of the runs under `output_dir` that can be resumed, sorted."""
    return sorted(path.parent.name for path in (output_dir / PARTIAL).glob(f"*/{METADATA_FILE}"))


def read_partial(output_dir: Path, run_id: str) -> PartialRun:
    """What the unfinished run `run_id` set out to do.

    Raises:
        InputError: no such run (the hint names the ones there are), its description is damaged,
            or another version of the schema began it.
    """
    known = list_partial(output_dir)
    if run_id not in known:
        raise _unknown_run(output_dir, run_id, known)
    path = output_dir / PARTIAL / run_id / METADATA_FILE
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
        scenario, version = metadata["scenario_name"], metadata["schema_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} cannot be read: {error}", "The run must be started anew, without --resume."
        ) from error
    if version != SCHEMA_VERSION:
        raise InputError(
            f"run {run_id} was begun with result schema {version}, "
            f"this specbench writes {SCHEMA_VERSION}",
            "Finish it with the specbench that began it, or start anew without --resume.",
        )
    return PartialRun(run_id, scenario, metadata)


def _unknown_run(output_dir: Path, run_id: str, known: list[str]) -> InputError:
    message = f"no unfinished run {run_id!r} in {output_dir}"
    if not known:
        return InputError(message, "There is none: a finished run needs no --resume.")
    nearest = difflib.get_close_matches(run_id, known, n=1, cutoff=0.4)
    suggestion = f"Did you mean {nearest[0]}? " if nearest else ""
    return InputError(message, f"{suggestion}Unfinished runs there: {', '.join(known)}.")
