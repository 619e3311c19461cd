"""Reads result files: `load_results` for everyone, `read_run` for the layers above."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pandas.api.extensions import ExtensionDtype

from specbench.errors import InputError, given_path
from specbench.report.schema import (
    BEFORE_1_1,
    BEFORE_1_3,
    CASE_KEY,
    METADATA_KEY,
    MICRO,
    MICRO_KEY,
    RUN,
    SCHEMA_VERSION,
    SCHEMAS,
)

BEFORE = BEFORE_1_1 | BEFORE_1_3

REQUIRED = {
    RUN: frozenset(
        {"run_id", "sample_id", "repeat", "status", "new_tokens", "verify_steps", "drafted"}
        | {"accepted", "step_verify_us", "wall_s", "verify_s"}
        | (set(CASE_KEY) - set(BEFORE))
    ),
    MICRO: frozenset({"run_id", "status", "time_us", "time_from", "bytes_moved", *MICRO_KEY}),
}
"""By kind of file: without these there is nothing to compare; any other missing column reads as null,
or as what is known of files that lack it."""


_TEXTS = {"run_id", "created_utc", "scenario", "resolved_scenario", "device_name", "driver"}
_OBJECTS = {"methods", "packages", "clocks", "cuda", "cpu"}
"""Kinds of the metadata's fields; each may be null, or missing."""


@dataclass(frozen=True)
class Run:
    """One result file: its rows have the schema's columns, and any that a newer one added."""

    path: Path
    metadata: dict[str, Any]
    rows: pd.DataFrame

    @property
    def run_id(self) -> str:
        """Eight hex digits; the file's name if it does not say."""
        return str(self.metadata.get("run_id") or self.path.stem)

    @property
    def kind(self) -> str:
        """`schema.RUN` or `schema.MICRO`."""
        return _kind(self.metadata)


def load_results(paths: str | Path | Iterable[str | Path]) -> pd.DataFrame:
    """The rows of all result files, one line per generated sequence; `run_id` tells them apart.

    Of files of `specbench micro`: one line per shape, method and state of the L2.

    Args:
        paths: files, folders (their `*.parquet`) and glob patterns.

    Raises:
        InputError: a path matches nothing, a file is damaged, foreign or too new, or the files are
            of both kinds.

    Example:
        >>> load_results("results/*.parquet").groupby("method")["verify_s"].sum()
    """
    runs = [run.rows for run in read_runs(paths)]
    return pd.concat(runs, ignore_index=True)


def read_runs(paths: str | Path | Iterable[str | Path]) -> list[Run]:
    """Each result file by itself, in the order given; errors as in `load_results`."""
    runs = [read_run(path) for path in expand(paths)]
    if other := next((run for run in runs if run.kind != runs[0].kind), None):
        raise InputError(
            f"{runs[0].path} is a file of `specbench {runs[0].kind}`, {other.path} one of "
            f"`specbench {other.kind}`: they have nothing in common",
            "Give files of one kind; those of micro are named micro-*.parquet.",
        )
    return runs


def read_run(path: str | Path) -> Run:
    """One result file; errors as in `load_results`."""
    path = given_path(path)
    if not path.exists():
        raise InputError(f"no such file: {path}", "`ls results` shows the runs there are.")
    with _damage_reported(path):
        file = pq.ParquetFile(path, page_checksum_verification=True)
    with file:
        metadata = _metadata(path, file.schema_arrow)
        with _damage_reported(path):
            table = file.read()
    ours = _conform(path, table, _kind(metadata))
    return Run(path, metadata, ours.to_pandas(maps_as_pydicts="lossy", types_mapper=_integers))


def _integers(kind: pa.DataType) -> ExtensionDtype | None:
    """Counts stay whole numbers also in columns with nulls (a float holds no 64-bit seed)."""
    integers: dict[pa.DataType, ExtensionDtype] = {
        pa.int32(): pd.Int32Dtype(),
        pa.int64(): pd.Int64Dtype(),
    }
    return integers.get(kind)


@contextmanager
def _damage_reported(path: Path) -> Iterator[None]:
    """Whatever the Parquet library raises on a damaged file, in a sentence."""
    try:
        yield
    except (OSError, ValueError, MemoryError, pa.ArrowException) as error:
        reason = (str(error) or repr(error)).splitlines()[0]
        raise InputError(
            f"{path} is damaged or no Parquet file: {reason}",
            "Was it cut off while copying? Copy it again, or leave it out.",
        ) from error


def expand(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """The files that the paths, folders and patterns mean, each once, in the order given.

    Patterns are expanded here too, since quotes and Windows' shell leave them as they are.

    Raises:
        InputError: nothing is given, or one of them matches nothing.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    if not given:
        raise InputError("no result file given", "Name one, or a pattern: 'results/*.parquet'.")
    found = [file for path in given for file in _expand_one(path)]
    return list({file.resolve(): file for file in found}.values())


def _expand_one(given: str | Path) -> Sequence[Path]:
    path = given_path(given)
    if path.is_dir():
        files = sorted(path.glob("*.parquet"))
    elif not path.exists() and glob.has_magic(str(path)):
        files = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207
    else:
        return [path]
    if not files:
        what = "no *.parquet file in" if path.is_dir() else "nothing matches"
        raise InputError(
            f"{what} {str(given)!r}", "`specbench run` writes a result file into results/."
        )
    return files


def _metadata(path: Path, schema: pa.Schema) -> dict[str, Any]:
    text = (schema.metadata or {}).get(METADATA_KEY)
    if text is None:
        raise InputError(
            f"{path} is Parquet, but not written by specbench",
            "Give the files that `specbench run` wrote.",
        )
    try:
        metadata = json.loads(text)
        version = metadata["schema_version"]
        newer = int(version.split(".")[0]) > int(SCHEMA_VERSION.split(".")[0])
        _check_kinds(metadata)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path} has specbench metadata that cannot be read: {error!r}",
            "The file was changed by another program; take the original.",
        ) from error
    if newer:
        major = SCHEMA_VERSION.split(".")[0]
        raise InputError(
            f"{path} was written by schema {version}, this specbench reads {major}.x",
            "Update specbench: pip install --upgrade specbench",
        )
    if _kind(metadata) not in SCHEMAS:
        raise InputError(
            f"{path} is a result of kind {_kind(metadata)!r}, which this specbench does not know",
            "Update specbench: pip install --upgrade specbench",
        )
    return dict(metadata)


def _check_kinds(metadata: dict[str, Any]) -> None:
    """What the layers above rely on, in what they know of a newer version's metadata too.

    Raises:
        ValueError: a field is of another kind than any version wrote.
    """
    for names, kind in ((_TEXTS, str), (_OBJECTS, dict)):
        for name in names & metadata.keys():
            if metadata[name] is not None and not isinstance(metadata[name], kind):
                raise ValueError(f"{name} is {metadata[name]!r}")
    methods = metadata.get("methods") or {}
    if wrong := next((one for one in methods.values() if not isinstance(one, dict)), None):
        raise ValueError(f"a method is {wrong!r}")


def _kind(metadata: dict[str, Any]) -> str:
    return str(metadata.get("kind", RUN))


def _conform(path: Path, table: pa.Table, kind: str) -> pa.Table:
    """The table with this schema's columns and types; columns of a newer schema stay."""
    schema = SCHEMAS[kind]
    names = set(table.column_names)
    missing = sorted(REQUIRED[kind] - names)
    if missing:
        raise InputError(
            f"{path} lacks the columns {', '.join(missing)}",
            "The file was changed by another program; take the original.",
        )
    for field in schema:
        if field.name not in names:
            known = pa.scalar(BEFORE.get(field.name), field.type)
            table = table.append_column(field, pa.repeat(known, table.num_rows))
    extra = [field for field in table.schema if field.name not in schema.names]
    ours = table.select([*schema.names, *(field.name for field in extra)])
    try:
        return ours.cast(pa.schema([*schema, *extra]))
    except pa.ArrowException as error:
        raise InputError(
            f"{path} has a column of the wrong type: {error}",
            "The file was changed by another program; take the original.",
        ) from error
