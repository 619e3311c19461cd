"""Joins the turns of an A/B: files of one build, one repeat each, become one ordinary result file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from specbench.errors import InputError, MachineError
from specbench.report.atomic import atomic_file
from specbench.report.pairing import FOREIGN
from specbench.report.partial import PARTIAL
from specbench.report.reader import read_run
from specbench.report.schema import METADATA_KEY
from specbench.report.writer import file_name, not_writable, write_parquet

MACHINE = ("device_name", "driver", "cuda")
BUILD = (*("schema_version", "scenario_sha256", "git_sha", "kernel_hash", "packages", "python"),)


@dataclass(frozen=True)
class Turn:
    """One turn's file.

    Attributes:
        table: as its build wrote it, whatever columns that build knows.
        place: its number among all turns of the A/B, from 0.
    """

    table: pa.Table
    metadata: dict[str, Any]
    place: int


def read_turn(folder: Path, repeat: int, place: int) -> Turn:
    """The one result file in a turn's folder.

    Raises:
        MachineError: there is none, or it has other repeats than that one.
        InputError: it cannot be read, see `reader.read_run`.
    """
    files = list(folder.glob("*.parquet"))
    if len(files) != 1:
        raise MachineError(f"turn {place + 1} left {len(files)} result files, not one")
    metadata = read_run(files[0]).metadata
    table = pq.read_table(files[0])
    measured = table.filter(pc.field("status") != "skipped")
    found = pc.unique(measured["repeat"]).to_pylist()
    if found != [repeat]:
        raise MachineError(
            f"turn {place + 1} decoded the repeats {found}, and {repeat} was asked for"
        )
    return Turn(table, metadata, place)


def join_turns(
    turns: Sequence[Turn], output_dir: Path, run_id: str, about: dict[str, Any], complete: bool
) -> Path:
    """Writes the turns of one build as one result file, atomically; a former one of the id is replaced.

    The columns stay as that build wrote them. What the file says of itself is what the first turn says,
    with `turns`: when each began, and its place among all.

    Args:
        about: metadata that replaces the first turn's; `build` becomes part of the file's name.

    Raises:
        InputError: the turns differ in machine, build or scenario.
        MachineError: the disk is full or gone; the file before stands.
    """
    for turn in turns[1:]:
        check_alike(turns[0], turn, (*MACHINE, *BUILD))
    first = turns[0].metadata
    metadata = first | about | {"run_id": run_id, "complete": complete}
    metadata["resolved_scenario"] = _as_one(first["resolved_scenario"], len(turns))
    metadata["turns"] = [
        {"place": turn.place, "created_utc": turn.metadata["created_utc"]} for turn in turns
    ]
    foreign = {name for turn in turns for name in turn.metadata.get(FOREIGN) or ()}
    if foreign:
        metadata[FOREIGN] = sorted(foreign)
    tables = [_of_run(turn.table, run_id, skipped=turn is turns[0]) for turn in turns]
    schema = tables[0].schema.with_metadata({METADATA_KEY: json.dumps(metadata)})
    path = output_dir / file_name(f"{first['scenario_name']}-{about['build']}", metadata)
    try:
        with atomic_file(path) as temp:
            write_parquet(temp, schema, tables)
    except OSError as error:
        raise MachineError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def check_alike(before: Turn, turn: Turn, names: Sequence[str]) -> None:
    """Refuses a turn that cannot be held against one before it.

    Raises:
        InputError: their metadata differ in one of the names.
    """
    for name in names:
        old, new = (one.metadata.get(name) for one in (before, turn))
        if old != new:
            raise InputError(
                f"turn {turn.place + 1} has another {name.replace('_', ' ')} than turn "
                f"{before.place + 1}: {new}, not {old}",
                "An A/B is two builds on one machine, which stay as they are until it ends.",
            )


def _as_one(resolved: str, repeats: int) -> str:
    """The scenario of a turn with all turns' repeats."""
    return json.dumps(json.loads(resolved) | {"repeats": repeats})


def _of_run(table: pa.Table, run_id: str, skipped: bool) -> pa.Table:
    """Rows of the joined run; a case that is skipped is so in each turn, and needs one row."""
    if not skipped:
        table = table.filter(pc.field("status") != "skipped")
    name = table.schema.field("run_id")
    return table.set_column(
        table.schema.get_field_index("run_id"), name, pa.repeat(pa.scalar(run_id), table.num_rows)
    )


@contextmanager
def workspace(output_dir: Path, ab_id: str) -> Iterator[Path]:
    """The folder of an A/B's turns, `<output_dir>/.partial/ab-<id>/`; afterwards it goes.

    Raises:
        InputError: the output folder cannot be written.
    """
    path = output_dir / PARTIAL / f"ab-{ab_id}"
    try:
        path.mkdir(parents=True)
    except OSError as error:
        raise not_writable(output_dir, error) from error
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
