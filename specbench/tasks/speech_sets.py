"""Where utterances with transcripts come from: a folder, or a data set of the hub in Parquet."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, Protocol

from specbench.assets import demo_dir
from specbench.audio import Clip
from specbench.errors import InputError, given_path
from specbench.tasks.base import ASR, DEMO, Sample, too_few, unknown_dataset
from specbench.tasks.hub import HubSplit, HubTable, Row
from specbench.tasks.speech_folder import LAYOUTS, SpeechFolder


@dataclass(frozen=True)
class HubSet(HubSplit):
    """A split of utterances.

    Attributes:
        text: the transcript's column; the audio's is `audio`, with the encoded bytes.
        ignored: transcripts of what is not to be scored; such rows are left out.
    """

    text: str = "text"
    ignored: frozenset[str] = frozenset()


_LIBRISPEECH = ("openslr/librispeech_asr", "71cacbfb7e2354c4226d01e70d77d5fca3d04ba1")

HUB_SETS = {
    one.name: one
    for one in (
        HubSet(
            "librispeech-clean",
            _LIBRISPEECH[0],
            "clean/test/*.parquet",
            revision=_LIBRISPEECH[1],
        ),
        HubSet(
            "librispeech-other",
            _LIBRISPEECH[0],
            "other/test/*.parquet",
            revision=_LIBRISPEECH[1],
        ),
        # No commit of this repository is on record, so today's is taken. LIUM's own repository needs a
        # loading script, which datasets no longer runs.
        HubSet(
            "tedlium",
            "sanchit-gandhi/tedlium-data",
            "data/test-*.parquet",
            ignored=frozenset({"ignore_time_segment_in_scoring"}),
        ),
        # Version 17, English. Mozilla no longer publishes on the hub, but at Mozilla Data Collective.
        HubSet(
            "common-voice",
            "fixie-ai/common_voice_17_0",
            "en/test-*.parquet",
            text="sentence",
            revision="3c806d71386012dc9dcc9a94f09dabee22aeca0b",
        ),
    )
}


class SpeechSet(Protocol):
    """Utterances with transcripts. The errors are those of `SpeechRecognition`."""

    def check_available(self) -> None:
        """Makes sure that they can be had."""

    def samples(self) -> list[Sample]:
        """All of them in a fixed order."""

    def pick(self, count: int, seed: int, longest: float | None = None) -> list[Sample]:
        """`count` of them; a larger count begins with the smaller one's."""

    def fingerprint(self) -> str:
        """A name that tells the set from others."""


def find_speech_set(name: str) -> SpeechSet:
    """The set of that name: "demo", one of `HUB_SETS`, or a folder. `./NAME` is always a folder.

    Raises:
        InputError: it is none; the nearest name is suggested.
    """
    if name == DEMO:
        return SpeechFolder(demo_dir() / "asr" / "audio", embedded=True)
    if name in HUB_SETS:
        return HubSpeech(HUB_SETS[name])
    folder = given_path(name)
    if folder.is_dir():
        return SpeechFolder(folder)
    if folder.exists():
        raise InputError(f"dataset {name!r} is a file", f"Give a folder. {LAYOUTS}")
    if len(folder.parts) != 1 or name.startswith((".", "~")):
        raise InputError(f"dataset {name!r}: there is no such folder", "Check the path.")
    raise unknown_dataset(name, ASR, "a folder")


@dataclass(frozen=True)
class HubSpeech:
    """Utterances of a hub set, read from the hub's cache if it holds the whole split, else streamed."""

    spec: HubSet

    def check_available(self) -> None:
        """At most one request; no audio is fetched.

        Raises:
            InputError: the repository or its revision is not there.
            MachineError: the hub cannot be reached, or the repository is gated.
        """
        self._table.check_available()

    def samples(self) -> list[Sample]:
        """The whole split, in its own order.

        Raises:
            InputError, MachineError: as `check_available`; what came is not such a data set.
        """
        return list(self._stream(seed=None))

    def fingerprint(self) -> str:
        """Its name."""
        return self.spec.name

    def pick(self, count: int, seed: int, longest: float | None = None) -> list[Sample]:
        """The first `count` of a stream that is shuffled group by group, without what is longer.

        The order depends on the seed, on the revision and on the version of datasets.

        Raises:
            InputError, MachineError: as `samples`, or there are fewer.
        """
        fitting = (
            sample for sample in self._stream(seed)
            if longest is None or sample.audio is None or sample.audio.seconds <= longest
        )  # fmt: skip
        picked = list(islice(fitting, count))
        if len(picked) < count:
            raise too_few(self.spec.name, count, len(picked))
        return picked

    @property
    def _table(self) -> HubTable:
        return HubTable(self.spec, "give a local folder with --dataset", audio="audio")

    def _stream(self, seed: int | None) -> Iterator[Sample]:
        """Every utterance that is to be scored; shuffled if there is a seed."""
        for row in self._table.rows(seed):
            sample = self._sample(row)
            if sample is not None:
                yield sample

    def _sample(self, row: Row) -> Sample | None:
        """The utterance of a row; None if it is not to be scored."""
        absent = [column for column in ("audio", self.spec.text) if row.get(column) is None]
        if absent or row["audio"].get("bytes") is None:
            raise self._table.changed(absent or ["audio bytes"], row)
        text, audio = str(row[self.spec.text]).strip(), row["audio"]
        if not text or text.lower() in self.spec.ignored:
            return None
        sample_id = _row_id(row, audio)
        return Sample(
            sample_id, "", text, audio=Clip(f"{self.spec.name} {sample_id}", audio["bytes"])
        )


def _row_id(row: Mapping[str, Any], audio: Mapping[str, Any]) -> str:
    """The row's id, or else its file's name, or else its content's."""
    if row.get("id"):
        return str(row["id"])
    if audio.get("path"):
        return PurePosixPath(str(audio["path"])).stem
    return hashlib.sha256(audio["bytes"]).hexdigest()[:16]
