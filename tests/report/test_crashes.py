"""What is left of a run whose process is killed, whose disk is full or read-only, or that has rivals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from specbench.errors import InputError
from specbench.report import lock
from specbench.report.partial import list_partial
from specbench.report.reader import load_results, read_run
from specbench.report.writer import RunWriter

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RUN_ID = "0badcafe"
SAMPLES = list("abcd")


def script(name, *arguments, prefix=()):
    """Runs a script of this folder with this specbench; its standard output."""
    command = [*prefix, sys.executable, str(HERE / name), *map(str, arguments)]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def finished(out):
    """Samples with status ok in the parts that a resumed run would keep."""
    writer = RunWriter(out, "", {}, RUN_ID, resume=True)
    assert writer.notices == []
    writer.close()
    return {sample for _, _, sample, _ in writer.finished()}


def complete(out):
    """Resumes a run as `specbench run` would and gives its file's rows."""
    writer = RunWriter(out, "", {}, RUN_ID, resume=True)
    done = {sample for _, _, sample, _ in writer.finished()}
    for sample in sorted(set(SAMPLES) - done):
        writer.write([{"case_id": "fused-2", "repeat": 0, "sample_id": sample, "status": "ok"}])
    return load_results(writer.finish())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
class TestKilled:
    @pytest.fixture
    def interrupted(self, tmp_path, no_sync):
        """a, b are there, c failed, d's part is damaged, and a file says that it is incomplete."""
        out = tmp_path / "before"
        writer = RunWriter(out, "demo", {"created_utc": "2026-11-22T10:00:00+00:00"}, RUN_ID)
        for sample in SAMPLES:
            status = "failed" if sample == "c" else "ok"
            row = {"case_id": "fused-2", "repeat": 0, "sample_id": sample, "status": status}
            writer.write([row])
        writer.finish(complete=False)
        part = out / ".partial" / RUN_ID / "part-000004.parquet"
        part.write_bytes(part.read_bytes()[:-30])
        return out

    def test_at_every_operation_of_a_run(self, tmp_path, no_sync):
        last = int(script("dying.py", tmp_path, "begin"))
        assert last > 30
        kept = 0
        for fatal in range(1, last + 1):
            out = tmp_path / str(fatal)
            files = list(out.glob("*.parquet"))
            for file in files:
                assert read_run(file).metadata["complete"] is True
                assert sorted(read_run(file).rows["sample_id"]) == SAMPLES
            if not list_partial(out):
                assert files or not kept, "nothing that was finished may be gone"
                continue
            now = finished(out)
            assert len(now) >= kept, f"dying at operation {fatal} loses what was safe before"
            kept = len(now)
            rows = complete(out)
            assert sorted(rows["sample_id"]) == SAMPLES
            assert set(rows["status"]) == {"ok"}
            assert len(list(out.glob("*.parquet"))) == 1
        assert kept == 3, "all but the failed one"
        assert files, "the last writer came to its end"

    def test_at_every_operation_of_a_resumed_run(self, tmp_path, interrupted, no_sync):
        last = int(script("dying.py", tmp_path, "resume", interrupted))
        assert last > 20
        for fatal in range(1, last + 1):
            out = tmp_path / str(fatal)
            (file,) = out.glob("*.parquet")
            whole = read_run(file)
            assert sorted(whole.rows["sample_id"]) == SAMPLES
            if list_partial(out):
                rows = complete(out)
                assert sorted(rows["sample_id"]) == SAMPLES
                assert set(rows["status"]) == {"ok"}
            assert read_run(file).metadata["complete"] is True


def said(text):
    return [json.loads(line) for line in text.splitlines()]


def may_mount(tmp_path):
    """How to start a program that may mount, if this user can."""
    for prefix in (["unshare", "-m"], ["unshare", "-rm"]):
        probe = [*prefix, "mount", "-t", "tmpfs", "none", str(tmp_path)]
        try:
            if subprocess.run(probe, capture_output=True).returncode == 0:
                return prefix
        except OSError:
            break
    pytest.skip("this user may mount no file system")


class TestDisk:
    @pytest.mark.parametrize("how", ["limit", "tmpfs"])
    def test_full_at_any_byte_loses_nothing(self, tmp_path, how):
        prefix = may_mount(tmp_path) if how == "tmpfs" else []
        lines = said(script("full_disk.py", tmp_path, how, prefix=prefix))
        *full, fits = lines
        assert fits["said"] is None
        assert all(line["after"] == list("abcdef") for line in lines)
        reason = "No space left" if how == "tmpfs" else "File too large"
        assert all(reason in line["said"] for line in full)
        assert all(f"--resume {RUN_ID} --output-dir" in line["said"] for line in full)
        assert {len(line["before"]) for line in full} >= {0, 1, 6}, "parts and the joined file"

    def test_that_turns_read_only(self, tmp_path):
        prefix = may_mount(tmp_path)
        writing, resuming, beginning, after = said(
            script("full_disk.py", tmp_path, "read-only", prefix=prefix)
        )
        assert "part-000002.parquet: " in writing["said"]
        assert "Read-only file system" in writing["said"]
        for refused in (resuming, beginning):
            assert "cannot write to the output directory" in refused["said"]
            assert "--output-dir" in refused["said"]
        assert after["after"] == list("abcdef")


@pytest.mark.skipif(lock.fcntl is None, reason="no locks here")
class TestLock:
    def test_a_second_writer_of_a_run_is_refused_with_the_first_ones_name(self, tmp_path):
        writer = RunWriter(tmp_path, "demo", {}, RUN_ID)
        with pytest.raises(InputError, match=f"being written by process {os.getpid()} on") as error:
            RunWriter(tmp_path, "", {}, RUN_ID, resume=True)
        assert "same command again" in error.value.hint
        writer.close()
        again = RunWriter(tmp_path, "", {}, RUN_ID, resume=True)
        with pytest.raises(InputError, match="being written"):
            RunWriter(tmp_path, "", {}, RUN_ID, resume=True)
        again.write([{"status": "ok"}])
        again.finish(complete=False)
        RunWriter(tmp_path, "", {}, RUN_ID, resume=True).close()

    def test_a_refused_writer_disturbs_nothing(self, tmp_path):
        writer = RunWriter(tmp_path, "demo", {}, RUN_ID)
        writer.write([{"sample_id": "a", "status": "ok"}])
        in_flight = tmp_path / ".partial" / RUN_ID / ".part-000002.parquet.tmp"
        in_flight.touch()
        before = {path: path.read_bytes() for path in in_flight.parent.iterdir()}
        with pytest.raises(InputError, match="being written"):
            RunWriter(tmp_path, "", {}, RUN_ID, resume=True)
        assert {path: path.read_bytes() for path in in_flight.parent.iterdir()} == before

    def test_a_dead_process_locks_nothing(self, tmp_path):
        code = (
            "import os, sys, pathlib, specbench.report.writer as w;"
            f"writer = w.RunWriter(pathlib.Path(sys.argv[1]), 'demo', {{}}, '{RUN_ID}');"
            "writer.write([{'sample_id': 'a', 'status': 'ok'}]); print('ready', flush=True);"
            "sys.stdin.read()"
        )
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": path},
        )  # fmt: skip
        with child:
            child.stdout.readline()
            with pytest.raises(InputError, match=f"process {child.pid} on"):
                RunWriter(tmp_path, "", {}, RUN_ID, resume=True)
            child.send_signal(signal.SIGKILL)
        assert finished(tmp_path) == {"a"}

    def test_where_the_file_system_has_no_locks_there_is_none(self, tmp_path, monkeypatch):
        def unsupported(*_):
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr(lock.fcntl, "flock", unsupported)
        RunWriter(tmp_path, "demo", {}, RUN_ID)
        assert RunWriter(tmp_path, "", {}, RUN_ID, resume=True).run_id == RUN_ID


class TestDamagedDescription:
    @pytest.fixture
    def out(self, tmp_path, no_sync):
        writer = RunWriter(tmp_path, "demo", {"scenario": "gamma: 2"}, RUN_ID)
        writer.write([{"case_id": "fused-2", "sample_id": "a", "repeat": 0, "status": "ok"}])
        writer.note("fused-2", {"verify_kernel_us": 4.5})
        writer.close()
        return tmp_path

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", "null", "{}", '{"scenario_name": 3}', "[" * 100_000, "\xff"]
    )
    def test_is_taken_from_a_part(self, out, text):
        (out / ".partial" / RUN_ID / "run.json").write_text(text, encoding="latin-1")
        writer = RunWriter(out, "", {}, RUN_ID, resume=True)
        assert "run.json cannot be read" in writer.notices[0]
        assert (writer.scenario, writer.metadata["scenario"]) == ("demo", "gamma: 2")
        run = read_run(writer.finish())
        assert run.rows["sample_id"].tolist() == ["a"]
        assert run.rows["verify_kernel_us"].tolist() == [4.5]

    @pytest.mark.parametrize(
        "changed",
        [{"created_utc": "yesterday"}, {"scenario_name": None}, {"resumed": 3}, {"run_id": 3}],
    )
    def test_of_the_wrong_kind_too(self, out, changed):
        path = out / ".partial" / RUN_ID / "run.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))
        assert RunWriter(out, "", {}, RUN_ID, resume=True).notices

    @pytest.mark.parametrize(
        "text",
        [
            "[]", "3", "[" * 100_000, '{"fused-2": 3}', '{"fused-2": {"nonsense": 1}}',
            '{"fused-2": {"verify_kernel_us": "x"}}',
        ],
    )  # fmt: skip
    def test_notes_that_cannot_be_read_are_found_out_again(self, out, text):
        (out / ".partial" / RUN_ID / "notes.json").write_text(text)
        writer = RunWriter(out, "", {}, RUN_ID, resume=True)
        assert writer.noted == {}
        assert read_run(writer.finish()).rows["verify_kernel_us"].isna().all()

    def test_a_file_that_is_no_part_is_left_alone(self, out):
        stray = out / ".partial" / RUN_ID / "part-copy.parquet"
        stray.write_text("mine")
        writer = RunWriter(out, "", {}, RUN_ID, resume=True)
        assert writer.notices == []
        assert len(writer.finished()) == 1
        assert stray.read_text() == "mine"
