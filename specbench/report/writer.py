"""Writes a run's rows part by part, so that a killed run loses at most the part in flight.

`<output_dir>/.partial/<run_id>/` holds `run.json` (the run's metadata) and `part-000001.parquet`,
`part-000002.parquet`, ... until `RunWriter.finish` joins them into one file.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from specbench.errors import InputError, MachineError
from specbench.report.atomic import atomic_file, remove_leftovers
from specbench.report.partial import METADATA_FILE, PARTIAL, read_partial
from specbench.report.schema import METADATA_KEY, SCHEMA, SCHEMA_VERSION

DAMAGED_SUFFIX, NOTES_FILE = ".damaged", "notes.json"
ROWS_PER_GROUP = 4096

SEQUENCE = ["case_id", "repeat", "sample_id", "completion"]
"""Columns that tell the sequences of a run apart."""

SequenceKey = tuple[str, int, str, int]
"""Their values."""


@dataclass(frozen=True)
class _Part:
    """One written part; `redo` is true if a resumed run does its failed rows again."""

    path: Path
    redo: bool = False

    def read(self) -> pa.Table:
        table = pq.read_table(self.path, page_checksum_verification=True).cast(SCHEMA)
        if not self.redo:
            return table
        finished = [status == "ok" for status in table["status"].to_pylist()]
        return table.filter(pa.array(finished, pa.bool_()))


class RunWriter:
    """Collects the rows of one run.

    A resumed run goes on with its own scenario and metadata (see `partial.read_partial`), keeps
    the rows with status "ok" and expects everything else to be done again.

    Attributes:
        run_id: eight hex digits, also in each row and in the file's name.
        metadata: what the file will say about itself.
        notices: sentences for the user about damaged parts that were set aside.
        noted: case → what `note` was told of it, also before a resumed run was cut off.

    Args:
        output_dir: made if it is not there.
        scenario: its name, the first part of the file's name; a resumed run keeps its own.
        metadata: JSON values, see `schema.METADATA_KEY`; of a resumed run it is kept under
            `resumed`, beside the metadata that the run began with.
        run_id: None makes one up; needed with `resume`.

    Raises:
        InputError: the folder cannot be written, or `run_id` cannot be resumed.
    """

    def __init__(
        self,
        output_dir: Path,
        scenario: str,
        metadata: dict[str, Any],
        run_id: str | None = None,
        resume: bool = False,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.notices: list[str] = []
        self.noted: dict[str, dict[str, Any]] = {}
        self._parts: list[_Part] = []
        self._next_part = 1
        if resume:
            self._resume(run_id, metadata)
        else:
            self._start(run_id or secrets.token_hex(4), scenario, metadata)

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Adds rows (keys: the schema's columns; missing ones become null) as one durable part.

        Raises:
            ValueError: a row has a key that is no column.
            MachineError: the disk is full or gone; what was written before is safe.
        """
        if not rows:
            return
        unknown = {key for row in rows for key in row} - set(SCHEMA.names)
        if unknown:
            raise ValueError(f"no such columns in the result file: {', '.join(sorted(unknown))}")
        own = {"run_id": self.run_id, "scenario": self.scenario}
        table = pa.Table.from_pylist([own | row for row in rows], schema=SCHEMA)
        path = self._dir / f"part-{self._next_part:06d}.parquet"
        with self._disk_errors(path), atomic_file(path) as temp:
            write_parquet(temp, SCHEMA, [table])
        self._parts.append(_Part(path))
        self._next_part += 1

    def finished(self) -> set[SequenceKey]:
        """Every sequence with status "ok" that is on the disk."""
        done: set[SequenceKey] = set()
        for part in self._parts:
            table = pq.read_table(part.path, columns=[*SEQUENCE, "status"])
            columns = (column.to_pylist() for column in table.columns)
            done.update(
                (case, repeat, sample, completion or 0)
                for case, repeat, sample, completion, status in zip(*columns, strict=True)
                if status == "ok"
            )
        return done

    def note(self, case_id: str, columns: dict[str, Any]) -> None:
        """Keeps what is found out about a case after its rows were written; it goes into each of them
        that is "ok" when the run is joined.

        Raises:
            MachineError: the disk is full or gone.
        """
        self.noted[case_id] = columns
        path = self._dir / NOTES_FILE
        with self._disk_errors(path), atomic_file(path) as temp:
            temp.write_text(json.dumps(self.noted), encoding="utf-8")

    def finish(self, complete: bool = True) -> Path | None:
        """Joins the parts into `<scenario>-<UTC start>-<run_id>.parquet`, atomically.

        Args:
            complete: False after an interruption: the file is written all the same, but the parts
                stay for `resume`, whose own `finish` then replaces the file.

        Returns:
            The file, or None if the run has no rows (then nothing is left of it).

        Raises:
            MachineError: the disk is full or gone; the parts are kept.
        """
        if not self._parts:
            shutil.rmtree(self._dir, ignore_errors=True)
            return None
        schema = SCHEMA.with_metadata(
            {METADATA_KEY: json.dumps(self.metadata | {"complete": complete})}
        )
        path = self.output_dir / file_name(self.scenario, self.metadata)
        with self._disk_errors(path), atomic_file(path, temp_dir=self._dir) as temp:
            write_parquet(temp, schema, self._joined())
        if complete:
            shutil.rmtree(self._dir, ignore_errors=True)
        return path

    def _joined(self) -> Iterator[pa.Table]:
        """The parts' rows. Of a sequence that was run again (a resumed run repeats a batch as a
        whole) the later row counts."""
        if not any(part.redo for part in self._parts):
            yield from (self._with_notes(part.read()) for part in self._parts)
            return
        last = {key: i for i, part in enumerate(self._parts) for key in _sequences(part.read())}
        for i, part in enumerate(self._parts):
            table = part.read()
            wanted = pa.array([last[key] == i for key in _sequences(table)], pa.bool_())
            yield self._with_notes(table.filter(wanted))

    def _with_notes(self, table: pa.Table) -> pa.Table:
        """The rows with what was noted of their cases."""
        names = {name for columns in self.noted.values() for name in columns}
        rows = zip(table["case_id"].to_pylist(), table["status"].to_pylist(), strict=True)
        notes = [self.noted.get(str(case), {}) if status == "ok" else {} for case, status in rows]
        for name in names:
            values = pa.array([note.get(name) for note in notes], SCHEMA.field(name).type)
            table = table.set_column(SCHEMA.get_field_index(name), SCHEMA.field(name), values)
        return table

    @property
    def _dir(self) -> Path:
        return self.output_dir / PARTIAL / self.run_id

    def _start(self, run_id: str, scenario: str, metadata: dict[str, Any]) -> None:
        self.run_id, self.scenario = run_id, scenario
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self.metadata = {"created_utc": now} | metadata
        self.metadata |= {
            "schema_version": SCHEMA_VERSION,
            "run_id": run_id,
            "scenario_name": scenario,
        }
        try:
            self._dir.mkdir(parents=True)
            self._save_metadata()
        except FileExistsError as error:
            raise self._cannot_start(error) from error
        except OSError as error:
            raise not_writable(self.output_dir, error) from error

    def _cannot_start(self, error: OSError) -> InputError:
        if not self._dir.is_dir():
            return not_writable(self.output_dir, error)
        return InputError(
            f"run {self.run_id} exists already in {self._dir.parent}",
            f"Go on with it: --resume {self.run_id}; or delete its folder.",
        )

    def _resume(self, run_id: str | None, metadata: dict[str, Any]) -> None:
        if run_id is None:
            raise ValueError("resume needs a run_id")
        partial = read_partial(self.output_dir, run_id)
        self.run_id, self.scenario = run_id, partial.scenario
        self.metadata = partial.metadata
        self.metadata["resumed"] = [*self.metadata.get("resumed", []), metadata]
        try:
            remove_leftovers(self._dir)
            self._save_metadata()
        except OSError as error:
            raise not_writable(self.output_dir, error) from error
        self._adopt_parts()
        with suppress(OSError, ValueError):  # it is found out again
            self.noted = json.loads((self._dir / NOTES_FILE).read_text(encoding="utf-8"))

    def _adopt_parts(self) -> None:
        """Takes up the parts that are there; one that cannot be read is renamed, not deleted."""
        for path in sorted(self._dir.glob("part-*.parquet*")):
            self._next_part = int(path.name[5:11]) + 1
            if path.name.endswith(DAMAGED_SUFFIX):
                continue
            part = _Part(path, redo=True)
            try:
                if part.read().num_rows:
                    self._parts.append(part)
            except (OSError, ValueError, pa.ArrowException) as error:
                aside = path.rename(path.with_name(path.name + DAMAGED_SUFFIX))
                reason = str(error).splitlines()[0]
                self.notices.append(
                    f"part {path.name} of run {self.run_id} is damaged ({reason}): "
                    f"set aside as {aside.name}, its samples are run again"
                )

    def _save_metadata(self) -> None:
        """Also the probe that the folder can be written: before any model is loaded."""
        with atomic_file(self._dir / METADATA_FILE) as temp:
            temp.write_text(json.dumps(self.metadata, indent=1), encoding="utf-8")

    @contextmanager
    def _disk_errors(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise MachineError(
                f"cannot write {path}: {error.strerror or error}",
                f"What was finished is safe in {self._dir}; free some space, "
                f"then go on with --resume {self.run_id}.",
            ) from error


def _sequences(table: pa.Table) -> list[tuple[Any, ...]]:
    """What makes each row a sequence of its own; one sample may be decoded with several seeds."""
    columns = table.select([*SEQUENCE, "seed"]).columns
    return list(zip(*(column.to_pylist() for column in columns), strict=True))


def file_name(what: str, metadata: dict[str, Any]) -> str:
    """`<what>-<UTC start>-<run_id>.parquet`, from the metadata of a run."""
    started = datetime.fromisoformat(metadata["created_utc"]).astimezone(UTC)
    name = re.sub(r"[^\w.-]+", "-", what)
    return f"{name}-{started:%Y%m%dT%H%M%SZ}-{metadata['run_id']}.parquet"


def write_parquet(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Writes the tables one after the other, in groups of rows: many small ones read slowly, and
    all at once may not fit into memory."""
    waiting: list[pa.Table] = []
    with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
        for table in tables:
            waiting.append(table)
            if sum(one.num_rows for one in waiting) >= ROWS_PER_GROUP:
                writer.write_table(pa.concat_tables(waiting).cast(schema))
                waiting.clear()
        if waiting:
            writer.write_table(pa.concat_tables(waiting).cast(schema))


def not_writable(output_dir: Path, error: OSError) -> InputError:
    """The error for a folder of results that refuses a file."""
    return InputError(
        f"cannot write to the output directory {output_dir}: {error.strerror or error}",
        "Name another folder with --output-dir, or change its permissions.",
    )
