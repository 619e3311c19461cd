"""Hub sets, against Parquet files in the hub's own layout: a cache on this machine, or a small server."""

from __future__ import annotations

import io
import time

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from specbench.errors import InputError, MachineError
from specbench.tasks import hub
from specbench.tasks.asr import SpeechRecognition
from specbench.tasks.speech_sets import HUB_SETS

GAP = "ignore_time_segment_in_scoring"


def flac(number):
    """A clip whose length tells its number."""
    file = io.BytesIO()
    soundfile.write(file, np.full(1600 + number, 0.25), 16_000, format="FLAC")
    return file.getvalue()


def table(first, count, text="text", named=True):
    numbers = range(first, first + count)
    columns = {
        "audio": [{"bytes": flac(i), "path": f"clip_{i}.flac"} for i in numbers],
        text: [f"WORDS OF {i}" for i in numbers],
    }
    return pa.table(columns | ({"id": [f"u-{i}" for i in numbers]} if named else {}))


pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def download(put_into_cache):
    return lambda name, files, size=20: put_into_cache(HUB_SETS[name], files, size)


@pytest.fixture
def librispeech(download):
    download("librispeech-clean", {"clean/test/0000.parquet": table(0, 200)})
    return SpeechRecognition("librispeech-clean")


class TestRows:
    def test_all_in_their_own_order(self, librispeech):
        librispeech.check_available()
        samples = librispeech.samples()
        assert [s.sample_id for s in samples] == [f"u-{i}" for i in range(200)]
        assert samples[7].reference == "WORDS OF 7"
        assert samples[7].prompt == ""
        assert samples[7].audio.load().shape == (1607,)
        assert "librispeech-clean u-7" in samples[7].audio.name

    @pytest.mark.parametrize("network", ["offline", "dead"])
    def test_a_download_is_enough(self, librispeech, network, request):
        if network == "dead":
            request.getfixturevalue("dead_hub")
        start = time.perf_counter()
        librispeech.check_available()
        assert len(librispeech.pick(3, 0)) == 3
        assert time.perf_counter() - start < 4

    def test_each_set_reads_its_own_columns(self, download):
        files = {
            f"en/test-{i:05}-of-00002.parquet": table(10 * i, 10, "sentence", False) for i in (0, 1)
        }
        download("common-voice", files)
        samples = SpeechRecognition("common-voice").samples()
        assert [s.sample_id for s in samples] == [f"clip_{i}" for i in range(20)]

    def test_what_is_not_to_be_scored_is_left_out(self, download):
        rows = table(0, 4).to_pydict()
        rows["text"] = ["first", GAP, " ", "last"]
        download("tedlium", {"data/test-00000-of-00001.parquet": pa.table(rows)})
        task = SpeechRecognition("tedlium")
        assert [s.reference for s in task.samples()] == ["first", "last"]
        assert len(task.pick(2, 5)) == 2
        with pytest.raises(InputError, match="3 samples asked, tedlium has 2"):
            task.pick(3, 5)

    def test_rows_with_neither_id_nor_path(self, download):
        rows = table(0, 3, named=False).to_pydict()
        rows["audio"] = [{"bytes": audio["bytes"]} for audio in rows["audio"]]
        download("librispeech-clean", {"clean/test/0000.parquet": pa.table(rows)})
        ids = [s.sample_id for s in SpeechRecognition("librispeech-clean").samples()]
        assert len(set(ids)) == 3

    @pytest.mark.parametrize(
        ("columns", "words"),
        [
            ({"audio": [{"bytes": b"x", "path": "p"}], "words": ["a"]}, "has no text"),
            (
                {"audio": [{"bytes": b"x", "path": "p"}], "text": pa.array([None], "string")},
                "no text",
            ),
            ({"audio": [{"bytes": None, "path": "p"}], "text": ["a"]}, "no audio bytes"),
        ],
    )
    def test_a_set_that_has_changed(self, download, columns, words):
        if columns["audio"][0]["bytes"] is None:
            kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
            columns = {**columns, "audio": pa.array(columns["audio"], kind)}
        download("librispeech-clean", {"clean/test/0000.parquet": pa.table(columns)})
        with pytest.raises(InputError, match=words) as caught:
            SpeechRecognition("librispeech-clean").samples()
        assert "librispeech_asr" in caught.value.message

    def test_a_file_that_is_no_parquet(self, librispeech, cache):
        next(cache.rglob("0000.parquet")).write_bytes(b"PAR1 and then nothing")
        with pytest.raises(MachineError, match="cannot be read") as caught:
            librispeech.pick(1, 0)
        assert "\n" not in caught.value.message


class TestPick:
    def test_depends_on_the_seed_alone(self, librispeech):
        assert librispeech.pick(10, 1) == SpeechRecognition("librispeech-clean").pick(10, 1)
        assert librispeech.pick(10, 1) != librispeech.pick(10, 2)

    def test_a_larger_count_begins_with_the_smaller(self, librispeech):
        assert librispeech.pick(150, 3)[:6] == librispeech.pick(6, 3)

    def test_all_of_them_once(self, librispeech):
        ids = {s.sample_id for s in librispeech.pick(200, 2**63 - 1)}
        assert len(ids) == 200

    def test_more_than_there_are(self, librispeech):
        with pytest.raises(InputError, match="201 samples asked, librispeech-clean has 200"):
            librispeech.pick(201, 0)

    def test_a_few_are_spread_over_the_set_but_not_all_is_read(self, download, monkeypatch):
        monkeypatch.setattr(hub, "SHUFFLE_BUFFER", 40)
        download("librispeech-clean", {"clean/test/0000.parquet": table(0, 200)}, 10)
        read = []
        task = SpeechRecognition("librispeech-clean")
        rows = hub._rows
        monkeypatch.setattr(hub, "_rows", lambda *a: (read.append(row) or row for row in rows(*a)))
        groups = {int(s.sample_id[2:]) // 10 for s in task.pick(8, 0)}
        assert len(groups) >= 3
        assert len(read) == 8


class TestMissing:
    @pytest.mark.parametrize("name", HUB_SETS)
    @pytest.mark.parametrize("network", ["offline", "dead"])
    def test_without_network(self, request, name, network, capfd):
        if network == "dead":
            request.getfixturevalue("dead_hub")
        task = SpeechRecognition(name)
        for ask in (task.check_available, task.samples, lambda: task.pick(1, 0)):
            start = time.perf_counter()
            with pytest.raises(MachineError, match="cannot be reached") as caught:
                ask()
            assert time.perf_counter() - start < 3
            assert HUB_SETS[name].repository in caught.value.message
            for way_out in ("hf download --repo-type dataset", "HF_HOME", "--dataset"):
                assert way_out in caught.value.hint
        assert "Retry" not in "".join(capfd.readouterr())

    def test_half_a_download_is_none(self, download):
        """It would be scored in silence as though it were the whole split."""
        files = {f"en/test-{i:05}-of-00003.parquet": table(i, 1, "sentence") for i in (0, 2)}
        download("common-voice", files)
        with pytest.raises(MachineError, match="not whole on this machine"):
            SpeechRecognition("common-voice").check_available()

    @pytest.mark.parametrize(
        ("status", "code", "expected", "words"),
        [
            (401, "GatedRepo", MachineError, "is gated"),
            (404, "RepoNotFound", InputError, "no longer has this repository"),
            (404, "RevisionNotFound", InputError, "no longer has this revision"),
            (500, "", MachineError, "cannot be reached"),
        ],
    )
    def test_what_the_hub_answers(self, answering_hub, status, code, expected, words):
        start = time.perf_counter()
        with answering_hub(status, code), pytest.raises(expected, match=words) as caught:
            SpeechRecognition("librispeech-clean").check_available()
        assert time.perf_counter() - start < 3
        assert caught.value.hint


def test_every_pinned_revision_is_a_commit():
    revisions = [spec.revision for spec in HUB_SETS.values() if spec.revision]
    assert len(revisions) >= 3
    assert all(len(one) == 40 and int(one, 16) for one in revisions)
