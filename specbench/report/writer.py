"""Writes a run's rows part by part, so that a killed run loses at most the part in flight.

`<output_dir>/.partial/<run_id>/` holds `run.json` (the run's metadata), `lock` (see `report.lock`) and
`part-000001.parquet`, `part-000002.parquet`, ... until `RunWriter.finish` joins them into one file. Each
part has the metadata too, so that the loss of `run.json` alone loses nothing.
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
from shlex import quote
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from specbench.errors import InputError, MachineError
from specbench.report.atomic import atomic_file, remove_leftovers
from specbench.report.lock import HeldError, hold
from specbench.report.partial import (
    METADATA_FILE,
    PARTIAL,
    list_partial,
    part_number,
    read_partial,
    unknown_run,
)
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
        InputError: the folder cannot be written, `run_id` cannot be resumed, or another process is
            writing it.
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
        self._lock: IO[str] | None = None
        self.run_id = run_id or secrets.token_hex(4)
        try:
            if resume:
                self._resume(metadata)
            else:
                self._start(scenario, metadata)
        except BaseException:
            self.close()
            raise

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
        self._next_part += 1  # also if this fails: its name may be taken all the same
        with self._disk_errors(path), atomic_file(path) as temp:
            write_parquet(temp, SCHEMA.with_metadata(_stored(self.metadata)), [table])
        self._parts.append(_Part(path))

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

        Whatever comes of it, nothing can be written afterwards.

        Raises:
            MachineError: the disk is full or gone; the parts are kept.
        """
        try:
            if not self._parts:
                self._discard()
                return None
            schema = SCHEMA.with_metadata(_stored(self.metadata | {"complete": complete}))
            path = self.output_dir / file_name(self.scenario, self.metadata)
            with self._disk_errors(path), atomic_file(path, temp_dir=self._dir) as temp:
                write_parquet(temp, schema, self._joined())
            if complete:
                self._discard()
            return path
        finally:
            self.close()

    def close(self) -> None:
        """Lets another process write the run; `finish` does it too."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _discard(self) -> None:
        """Deletes the parts, after what makes them a run that can be resumed: one with half its parts
        would replace the whole file."""
        with suppress(OSError):
            (self._dir / METADATA_FILE).unlink(missing_ok=True)
            shutil.rmtree(self._dir, ignore_errors=True)

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

    def _start(self, scenario: str, metadata: dict[str, Any]) -> None:
        self.scenario = scenario
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self.metadata = {"created_utc": now} | metadata
        self.metadata |= {
            "schema_version": SCHEMA_VERSION,
            "run_id": self.run_id,
            "scenario_name": scenario,
        }
        try:
            self._dir.mkdir(parents=True)
            self._lock = hold(self._dir)
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

    def _resume(self, metadata: dict[str, Any]) -> None:
        if self.run_id not in list_partial(self.output_dir):
            raise unknown_run(self.output_dir, self.run_id)
        try:
            self._lock = hold(self._dir)
            remove_leftovers(self._dir)
        except HeldError as error:
            raise InputError(
                f"run {self.run_id} is being written by {error}",
                "Let it finish, or stop it first; then give the same command again.",
            ) from None
        except OSError as error:
            raise not_writable(self.output_dir, error) from error
        partial = read_partial(self.output_dir, self.run_id)
        self.scenario, self.metadata = partial.scenario, partial.metadata
        self.notices += partial.notices
        self.metadata["resumed"] = [*self.metadata.get("resumed", []), metadata]
        try:
            self._save_metadata()
        except OSError as error:
            raise not_writable(self.output_dir, error) from error
        self._adopt_parts()
        self.noted = _read_notes(self._dir / NOTES_FILE)

    def _adopt_parts(self) -> None:
        """Takes up the parts that are there; one that cannot be read is renamed, not deleted."""
        parts = [path for path in self._dir.iterdir() if part_number(path)]
        for path in sorted(parts, key=part_number):
            self._next_part = part_number(path) + 1
            if path.name.endswith(DAMAGED_SUFFIX):
                continue
            part = _Part(path, redo=True)
            try:
                if part.read().num_rows:
                    self._parts.append(part)
            except (OSError, ValueError, MemoryError, pa.ArrowException) as error:
                self._set_aside(path, error)

    def _set_aside(self, path: Path, error: Exception) -> None:
        with self._disk_errors(path):
            aside = path.rename(path.with_name(path.name + DAMAGED_SUFFIX))
        reason = (str(error) or repr(error)).splitlines()[0]
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
                f"What was finished is safe in {self._dir}; make room or mend the folder, then go on: "
                f"specbench run --resume {self.run_id} --output-dir {quote(str(self.output_dir))}",
            ) from error


def _stored(metadata: dict[str, Any]) -> dict[bytes, str]:
    return {METADATA_KEY: json.dumps(metadata)}


def _read_notes(path: Path) -> dict[str, dict[str, Any]]:
    """What was noted before; nothing if it cannot be read, since it is found out again."""
    with suppress(OSError, ValueError, RecursionError, pa.ArrowException):
        notes = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(notes, dict) and all(_fits(columns) for columns in notes.values()):
            return notes
    return {}


def _fits(columns: Any) -> bool:
    """Whether they can be a row's.

    Raises:
        pyarrow.ArrowException: a value is of another type than its column.
    """
    if not isinstance(columns, dict) or not columns.keys() <= set(SCHEMA.names):
        return False
    pa.Table.from_pylist([columns], schema=SCHEMA)
    return True


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
