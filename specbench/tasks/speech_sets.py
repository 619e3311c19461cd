"""Where utterances with transcripts come from: a folder, or a data set of the hub in Parquet."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from specbench.assets import demo_dir
from specbench.audio import Clip
from specbench.errors import InputError, MachineError, SpecbenchError, nearest
from specbench.tasks.base import Sample
from specbench.tasks.speech_folder import LAYOUTS, SpeechFolder, too_few

DEMO = "demo"

SHUFFLE_BUFFER = 400
"""Utterances that are fetched before the first is picked. Parquet is read by groups of rows, usually 100
here, which come in random order: so a small pick is spread over four places of the set."""


@dataclass(frozen=True)
class HubSet:
    """A split of a repository on the hub whose files are Parquet.

    Attributes:
        files: glob of the split's files in the repository.
        text: the transcript's column; the audio's is `audio`, with the encoded bytes.
        revision: commit; None for what the repository has today.
        ignored: transcripts of what is not to be scored; such rows are left out.
    """

    name: str
    repository: str
    files: str
    text: str = "text"
    revision: str | None = None
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
    folder = Path(name).expanduser()
    if folder.is_dir():
        return SpeechFolder(folder)
    if folder.exists():
        raise InputError(f"dataset {name!r} is a file", f"Give a folder. {LAYOUTS}")
    if len(folder.parts) != 1 or name.startswith((".", "~")):
        raise InputError(f"dataset {name!r}: there is no such folder", "Check the path.")
    known = [DEMO, *HUB_SETS]
    raise InputError(
        f"unknown dataset {name!r}",
        f"{nearest(name, known)}There are {', '.join(known)}, or give a folder.",
    )


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
        self._location()

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

    def _stream(self, seed: int | None) -> Iterator[Sample]:
        """Every utterance that is to be scored; shuffled if there is a seed."""
        location = self._location()
        try:
            for row in _rows(location, seed):
                sample = self._sample(row)
                if sample is not None:
                    yield sample
        except SpecbenchError:
            raise
        except Exception as error:  # the network, the hub, Arrow: each complains in its own way
            reason = next(iter(str(error).strip().splitlines()), repr(error))
            raise MachineError(
                f"{self._where}: the data cannot be read: {reason}", self._download
            ) from error

    def _sample(self, row: Mapping[str, Any]) -> Sample | None:
        """The utterance of a row; None if it is not to be scored."""
        absent = [column for column in ("audio", self.spec.text) if row.get(column) is None]
        if absent or row["audio"].get("bytes") is None:
            raise InputError(
                f"{self._where}: a row has no {' and no '.join(absent) or 'audio bytes'}; its columns "
                f"are {', '.join(row)}",
                "The data set has changed: give a local folder with --dataset.",
            )
        text, audio = str(row[self.spec.text]).strip(), row["audio"]
        if not text or text.lower() in self.spec.ignored:
            return None
        sample_id = _row_id(row, audio)
        return Sample(
            sample_id, "", text, audio=Clip(f"{self.spec.name} {sample_id}", audio["bytes"])
        )

    def _location(self) -> str | list[str]:
        """The split's files: in the hub's cache, or else on the hub.

        Raises:
            InputError, MachineError: as `check_available`.
        """
        cached = self._cached()
        if cached:
            return cached
        self._ask_hub()
        revision = f"@{self.spec.revision}" if self.spec.revision else ""
        return f"hf://datasets/{self.spec.repository}{revision}/{self.spec.files}"

    def _cached(self) -> list[str]:
        """The split's files in the hub's cache; none if one is missing."""
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            folder = snapshot_download(
                self.spec.repository,
                repo_type="dataset",
                revision=self.spec.revision,
                local_files_only=True,
            )
        except LocalEntryNotFoundError:
            return []
        files = sorted(str(path) for path in Path(folder).glob(self.spec.files))
        promised = re.search(r"-of-(\d+)\.parquet$", files[0]) if files else None
        return [] if promised and len(files) < int(promised[1]) else files

    def _ask_hub(self) -> None:
        """One request for the data set's card, which needs the same rights as its data.

        It is not left to a download, which tries for half a minute.
        """
        from huggingface_hub import get_hf_file_metadata, get_token, hf_hub_url
        from huggingface_hub.errors import (
            GatedRepoError,
            RemoteEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        repository, revision = self.spec.repository, self.spec.revision
        card = hf_hub_url(repository, "README.md", repo_type="dataset", revision=revision)
        try:
            get_hf_file_metadata(card, token=get_token(), timeout=5)
        except RemoteEntryNotFoundError:
            return
        except GatedRepoError:
            raise MachineError(
                f"{self._where} is gated",
                f"Accept its licence at https://huggingface.co/datasets/{repository}, then log in: "
                "hf auth login",
            ) from None
        except (RepositoryNotFoundError, RevisionNotFoundError) as error:
            gone = "revision" if isinstance(error, RevisionNotFoundError) else "repository"
            raise InputError(
                f"{self._where}: the hub no longer has this {gone}",
                "Give a local folder with --dataset, or another data set.",
            ) from None
        except Exception:  # offline mode, no name service, no route, refused, too slow, broken
            raise self._unreachable() from None

    @property
    def _where(self) -> str:
        return f"dataset {self.spec.name!r}: {self.spec.repository}"

    @property
    def _download(self) -> str:
        """What to do where the hub cannot be reached."""
        revision = f" --revision {self.spec.revision}" if self.spec.revision else ""
        return (
            "Where there is a network run `hf download --repo-type dataset "
            f"{self.spec.repository}{revision} --include '{self.spec.files}'` and point HF_HOME to "
            "that cache, or give a local folder with --dataset."
        )

    def _unreachable(self) -> MachineError:
        return MachineError(
            f"{self._where} is not whole on this machine and the hub cannot be reached",
            self._download,
        )


def _rows(location: str | list[str], seed: int | None) -> Iterator[Mapping[str, Any]]:
    """Rows of Parquet files, whose audio stays encoded: datasets would decode it with torchcodec."""
    from datasets import Audio, load_dataset

    rows = load_dataset("parquet", data_files={"test": location}, split="test", streaming=True)
    rows = rows.cast_column("audio", Audio(decode=False))
    if seed is not None:
        # One input shard: with more, datasets sleeps five seconds when a stream is left early.
        rows = rows.reshard().shuffle(
            seed=seed, buffer_size=SHUFFLE_BUFFER, max_buffer_input_shards=1
        )
    yield from rows


def _row_id(row: Mapping[str, Any], audio: Mapping[str, Any]) -> str:
    """The row's id, or else its file's name, or else its content's."""
    if row.get("id"):
        return str(row["id"])
    if audio.get("path"):
        return PurePosixPath(str(audio["path"])).stem
    return hashlib.sha256(audio["bytes"]).hexdigest()[:16]
