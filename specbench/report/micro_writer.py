"""Writes a file of `specbench micro`: small, so it is written anew, whole, whenever rows come in."""

from __future__ import annotations

import json
import secrets
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from specbench.errors import MachineError
from specbench.report.atomic import atomic_file
from specbench.report.schema import METADATA_KEY, MICRO, MICRO_SCHEMA, SCHEMA_VERSION
from specbench.report.writer import file_name, not_writable, write_parquet


class MicroWriter:
    """The rows of one `specbench micro`.

    A reader finds the rows of the last `write`, never half of them, also after `kill -9`.

    Attributes:
        path: the file; it is there after the first `write`.
        metadata: what the file says about itself, see `schema.METADATA_KEY`.

    Args:
        output_dir: made if it is not there.
        preset: its name, or "custom".
        metadata: JSON values.

    Raises:
        InputError: the folder cannot be made.
    """

    def __init__(self, output_dir: Path, preset: str, metadata: dict[str, Any]) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self.metadata = {"created_utc": now} | metadata
        self.metadata |= {
            "schema_version": SCHEMA_VERSION,
            "kind": MICRO,
            "run_id": secrets.token_hex(4),
            "preset": preset,
        }
        self.path = output_dir / file_name(f"micro-{preset}", self.metadata)
        try:
            output_dir.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=output_dir) as probe:  # before anything is measured
                probe.write(b"0")
        except OSError as error:
            raise not_writable(output_dir, error) from error

    def write(self, rows: list[dict[str, Any]], complete: bool = False) -> None:
        """Replaces the file's rows (keys: the schema's columns; missing ones become null).

        Args:
            complete: whether this is all that was to be measured.

        Raises:
            ValueError: a row has a key that is no column.
            MachineError: the disk is full or gone; what was written before is safe.
        """
        unknown = {key for row in rows for key in row} - set(MICRO_SCHEMA.names)
        if unknown:
            raise ValueError(f"no such columns in the result file: {', '.join(sorted(unknown))}")
        about = json.dumps(self.metadata | {"complete": complete})
        schema = MICRO_SCHEMA.with_metadata({METADATA_KEY: about})
        own = {name: self.metadata.get(name) for name in ("run_id", "device_name")}
        table = pa.Table.from_pylist([own | row for row in rows], schema=schema)
        try:
            with atomic_file(self.path) as temp:
                write_parquet(temp, schema, [table])
        except OSError as error:
            raise MachineError(
                f"cannot write {self.path}: {error.strerror or error}",
                "What was written before is safe in it; free some space and start again.",
            ) from error
