"""A folder of audio files with their transcripts."""

from __future__ import annotations

import csv
import hashlib
import io
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from specbench.audio import SUFFIXES, Clip
from specbench.errors import InputError
from specbench.tasks.base import Sample, drawn
from specbench.tasks.files import json_rows, read_text

TEXT_COLUMNS = ("text", "transcription", "transcript", "sentence")
"""Names of the transcript in metadata.csv or metadata.jsonl; the first that is there counts."""

LAYOUTS = (
    "Give it a metadata.csv or metadata.jsonl with file_name and text of each file, or take "
    "LibriSpeech's own tree: ID.flac beside a *.trans.txt with lines 'ID TRANSCRIPT'."
)

Utterance = tuple[str, str, str]
"""File (a path inside the folder), id, transcript."""


@dataclass(frozen=True)
class SpeechFolder:
    """Utterances in one of two layouts.

    1. metadata.csv or metadata.jsonl with `file_name`, a path inside the folder, and one of
       `TEXT_COLUMNS`. `file_name` is the sample's id, and the order is the file's.
    2. LibriSpeech's own tree at any depth, sorted by id.

    Every audio file must have a transcript, and every transcript its file; hidden files do not count.
    Names are compared in Unicode's composed form, since macOS decomposes them.

    Attributes:
        embedded: it is the one that comes with specbench.
    """

    folder: Path
    embedded: bool = False

    def check_available(self) -> None:
        """Reads the transcripts, and the header of each file.

        Raises:
            InputError: the layout is neither, something is missing or twice there, or a file is damaged
                as far as its header tells.
        """
        for sample in self.samples():
            if sample.audio is not None:
                _ = sample.audio.seconds

    def samples(self) -> list[Sample]:
        """All utterances.

        Raises:
            InputError: as `check_available`, but for damaged files.
        """
        utterances = self._utterances()
        audio = self._audio()
        self._check_complete(utterances, audio)
        return [
            Sample(sample_id, "", text, audio=_clip(audio[_composed(file)]))
            for file, sample_id, text in utterances
        ]

    def fingerprint(self) -> str:
        """The folder's name and a digest of all ids and transcripts; "demo" for the embedded one.

        Raises:
            InputError: as `samples`.
        """
        if self.embedded:
            return "demo"
        text = "\n".join(f"{one.sample_id}\t{one.reference}" for one in self.samples())
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return f"{self.folder.resolve().name}@{digest}"

    def pick(self, count: int, seed: int, longest: float | None = None) -> list[Sample]:
        """`count` of them, by the law of `tasks.base.choose`, however long.

        Raises:
            InputError: as `samples`, or there are fewer.
        """
        return drawn(self.samples(), count, seed, str(self.folder))

    def _utterances(self) -> list[Utterance]:
        if not self.folder.is_dir():
            raise self._missing()
        tables = [self.folder / name for name in ("metadata.csv", "metadata.jsonl")]
        tables = [table for table in tables if table.is_file()]
        if len(tables) > 1:
            raise InputError(
                f"{self.folder} has both metadata.csv and metadata.jsonl", "Keep one of them."
            )
        where = tables[0] if tables else self.folder
        found = list(_listed(where) if tables else _librispeech(where))
        if not found:
            raise InputError(f"there are no transcripts in {where}", LAYOUTS)
        _check_unique(found, where)
        return found

    def _audio(self) -> dict[str, Path]:
        """Audio files by their composed path inside the folder."""
        return {
            _composed(path.relative_to(self.folder).as_posix()): path
            for path in sorted(self.folder.rglob("*"))
            if _is_audio(path)
        }

    def _check_complete(self, utterances: Sequence[Utterance], audio: Mapping[str, Path]) -> None:
        texts = {_composed(file): text for file, _, text in utterances}
        silent = [file for file in texts if file not in audio]
        if silent:
            raise InputError(
                f"{self.folder}: no audio for {_some(silent)}",
                f"Add it ({', '.join(sorted(SUFFIXES))}), or take out the transcripts.",
            )
        blank = [file for file in audio if not texts.get(file, "").strip()]
        if blank:
            raise InputError(
                f"{self.folder}: no transcript for {_some(blank)}",
                "Add the transcripts, or move the audio out of the folder.",
            )

    def _missing(self) -> InputError:
        if self.embedded:
            return InputError(
                f"this installation has no embedded utterances ({self.folder})",
                "Reinstall specbench, or give a folder or the name of a data set with --dataset.",
            )
        return InputError(f"there is no folder {self.folder}", "Check the path.")


def _listed(table: Path) -> Iterator[Utterance]:
    """Each row of metadata.csv or metadata.jsonl."""
    for line, row in _csv_rows(table) if table.suffix == ".csv" else json_rows(table):
        column = next((name for name in TEXT_COLUMNS if name in row), None)
        if column is None or "file_name" not in row:
            raise InputError(
                f"{table}, line {line}: expected file_name and one of {', '.join(TEXT_COLUMNS)}, "
                f"found {', '.join(row) or 'nothing'}",
                "Rename the columns.",
            )
        file = _inside(_string(row["file_name"]), table, line)
        yield file, file, _string(row[column]).strip()


def _csv_rows(table: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(io.StringIO(read_text(table), newline=""), restkey="", strict=True)
    try:
        for row in reader:
            if "" in row:
                raise InputError(
                    f"{table}, line {reader.line_num}: more fields than the first line has",
                    "Put a text that has a comma in quotes.",
                )
            yield reader.line_num, row
    except csv.Error as error:
        raise InputError(
            f"{table}, line {reader.reader.line_num}: {error}", "Expected comma-separated values."
        ) from None


def _librispeech(folder: Path) -> list[Utterance]:
    """Each line of every *.trans.txt, sorted by id; the audio may be of another kind than FLAC."""
    found = []
    for transcripts in folder.rglob("*.trans.txt"):
        if transcripts.name.startswith("."):
            continue
        inside = transcripts.parent.relative_to(folder)
        audio = {_composed(p.stem): p.name for p in transcripts.parent.iterdir() if _is_audio(p)}
        for line in filter(str.strip, read_text(transcripts).split("\n")):
            sample_id, *text = line.strip().split(maxsplit=1)
            name = audio.get(_composed(sample_id), f"{sample_id}.flac")
            found.append(((inside / name.lstrip("/")).as_posix(), sample_id, "".join(text)))
    return sorted(found, key=lambda utterance: (utterance[1], utterance[0]))


def _check_unique(utterances: Iterable[Utterance], where: Path) -> None:
    seen: set[str] = set()
    for _, sample_id, _ in utterances:
        if _composed(sample_id) in seen:
            raise InputError(f"{where}: {sample_id} has two transcripts", "Keep one of them.")
        seen.add(_composed(sample_id))


def _inside(file: str, table: Path, line: int) -> str:
    """The name without detours; one that leads out of the folder on any system is refused."""
    path, windows = PurePosixPath(file), PureWindowsPath(file)
    if not file.strip() or path.is_absolute() or windows.anchor or ".." in windows.parts:
        raise InputError(
            f"{table}, line {line}: file_name {file!r} is not a path inside the folder",
            "Copy the audio into the folder and give its path from there.",
        )
    return path.as_posix()


def _is_audio(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _clip(path: Path) -> Clip:
    return Clip(str(path), path)


def _string(value: Any) -> str:
    return "" if value is None else str(value)


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _some(names: Sequence[str]) -> str:
    """How many files, and the first three."""
    shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    return f"{len(names)} file{'s' if len(names) > 1 else ''}: {shown}"
