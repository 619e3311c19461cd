"""A split of a data set on the hub: from the hub's cache if all of it is there, else streamed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specbench.errors import InputError, MachineError, SpecbenchError

SHUFFLE_BUFFER = 400
"""Rows that are fetched before the first is picked. Parquet is read by groups of rows, of speech usually
100, which come in random order: so a small pick is spread over several places of the set."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class HubSplit:
    """A split of a repository on the hub whose files are Parquet.

    Attributes:
        name: as users call it.
        files: glob of the split's files in the repository.
        revision: commit; None for what the repository has today.
    """

    name: str
    repository: str
    files: str
    revision: str | None = None


@dataclass(frozen=True)
class HubTable:
    """The rows of a split.

    Attributes:
        instead: what a user can do who cannot have it from the hub, after "or".
        audio: the column of encoded sound, which datasets would decode with torchcodec.
        buffer: rows that are fetched before the first is picked; None is `SHUFFLE_BUFFER`.
    """

    split: HubSplit
    instead: str = "give a local file with --dataset"
    audio: str | None = None
    buffer: int | None = None

    def check_available(self) -> None:
        """At most one request; no row is fetched.

        Raises:
            InputError: the repository or its revision is not there.
            MachineError: the hub cannot be reached, or the repository is gated.
        """
        self._location()

    def rows(self, seed: int | None = None) -> Iterator[Row]:
        """All rows in their own order; with a seed shuffled group by group.

        The shuffled order depends on the seed, on the revision and on the version of datasets.

        Raises:
            InputError, MachineError: as `check_available`, or what came cannot be read.
        """
        location = self._location()
        try:
            yield from _rows(location, seed, self.audio, self.buffer or SHUFFLE_BUFFER)
        except SpecbenchError:
            raise
        except Exception as error:  # the network, the hub, Arrow: each complains in its own way
            reason = next(iter(str(error).strip().splitlines()), repr(error))
            raise MachineError(
                f"{self.where}: the data cannot be read: {reason}", self._download
            ) from error

    def cached(self) -> list[str]:
        """The split's files in the hub's cache; none if one is missing."""
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            folder = snapshot_download(
                self.split.repository,
                repo_type="dataset",
                revision=self.split.revision,
                local_files_only=True,
            )
        except LocalEntryNotFoundError:
            return []
        files = sorted(str(path) for path in Path(folder).glob(self.split.files))
        promised = re.search(r"-of-(\d+)\.parquet$", files[0]) if files else None
        return [] if promised and len(files) < int(promised[1]) else files

    def changed(self, absent: Sequence[str], row: Row) -> InputError:
        """The error for a row that lacks what the data set had."""
        return InputError(
            f"{self.where}: a row has no {' and no '.join(absent)}; its columns are {', '.join(row)}",
            f"The data set has changed: {self.instead}.",
        )

    @property
    def where(self) -> str:
        """The set as messages name it."""
        return f"dataset {self.split.name!r}: {self.split.repository}"

    def _location(self) -> str | list[str]:
        """The split's files: in the hub's cache, or else on the hub.

        Raises:
            InputError, MachineError: as `check_available`.
        """
        if files := self.cached():
            return files
        self._ask_hub()
        revision = f"@{self.split.revision}" if self.split.revision else ""
        return f"hf://datasets/{self.split.repository}{revision}/{self.split.files}"

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

        repository, revision = self.split.repository, self.split.revision
        card = hf_hub_url(repository, "README.md", repo_type="dataset", revision=revision)
        try:
            get_hf_file_metadata(card, token=get_token(), timeout=5)
        except RemoteEntryNotFoundError:
            return
        except GatedRepoError:
            raise MachineError(
                f"{self.where} is gated",
                f"Accept its licence at https://huggingface.co/datasets/{repository}, then log in: "
                "hf auth login",
            ) from None
        except (RepositoryNotFoundError, RevisionNotFoundError) as error:
            gone = "revision" if isinstance(error, RevisionNotFoundError) else "repository"
            raise InputError(
                f"{self.where}: the hub no longer has this {gone}",
                f"{_sentence(self.instead)}, or another data set.",
            ) from None
        except Exception:  # offline mode, no name service, no route, refused, too slow, broken
            raise MachineError(
                f"{self.where} is not whole on this machine and the hub cannot be reached",
                self._download,
            ) from None

    @property
    def _download(self) -> str:
        """What to do where the hub cannot be reached."""
        revision = f" --revision {self.split.revision}" if self.split.revision else ""
        return (
            "Where there is a network run `hf download --repo-type dataset "
            f"{self.split.repository}{revision} --include '{self.split.files}'` and point HF_HOME to "
            f"that cache, or {self.instead}."
        )


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _rows(
    location: str | list[str], seed: int | None, audio: str | None, buffer: int
) -> Iterator[Row]:
    """Rows of Parquet files, streamed."""
    from datasets import Audio, load_dataset

    rows = load_dataset("parquet", data_files={"test": location}, split="test", streaming=True)
    if audio is not None:
        rows = rows.cast_column(audio, Audio(decode=False))
    if seed is not None:
        # One input shard: with more, datasets sleeps five seconds when a stream is left early.
        rows = rows.reshard().shuffle(seed=seed, buffer_size=buffer, max_buffer_input_shards=1)
    yield from rows
