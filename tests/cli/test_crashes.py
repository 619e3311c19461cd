"""`specbench run` killed at any moment, run twice at once, resumed twice at once: real processes.

`tests/report/test_crashes.py` kills the writer alone, at each of its operations.
"""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from specbench.report import lock
from specbench.report.partial import PARTIAL, list_partial
from specbench.report.reader import read_run
from specbench.report.writer import RunWriter

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

HERE = Path(__file__).parent
KILLS, SEED = 50, 7
ROWS = 2 * 2 * 3 * 2
"""Methods, γ, samples, repeats."""

SAME = [
    "case_id", "repeat", "sample_id", "completion", "status", "hypothesis", "new_tokens", "drafted",
    "accepted", "verify_steps", "step_drafted", "step_accepted", "finish_reason", "batch_index", "seed",
]  # fmt: skip
"""Columns that do not depend on the clock."""


class Zygote:
    """See zygote.py; `specbench(...)` runs a command in a fork of it."""

    def __init__(self, child, folder):
        self.child, self.log = child, folder / "log"

    def ask(self, **order):
        self.child.stdin.write(json.dumps({"log": str(self.log)} | order) + "\n")
        self.child.stdin.flush()
        return json.loads(self.child.stdout.readline())

    def specbench(self, *argv, kill_after_s=None):
        return self.ask(argv=[*argv], kill_after_s=kill_after_s)

    def cut_off(self, argv, out, part=4):
        """The id of a run that was killed once that part was there."""
        kill_at = f"{out}/{PARTIAL}/*/part-{part:06d}.parquet"
        found = self.ask(argv=[*argv, "--output-dir", str(out)], kill_at=kill_at)
        assert found["code"] == -9, self.said()
        (run_id,) = list_partial(out)
        return run_id

    def said(self):
        return self.log.read_text()


@pytest.fixture(scope="module")
def options(tiny_pair):
    return [
        "run", "--pair", tiny_pair.name, "--task", "summarization", "--method", "baseline,fused",
        "--gamma", "0,2", "--samples", "3", "--repeats", "2", "--max-new-tokens", "5",
        "--device", "cpu",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def zygote(options, tmp_path_factory):
    folder = tmp_path_factory.mktemp("zygote")
    path = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [
        sys.executable, str(HERE / "zygote.py"), *options, "--samples", "1",
        "--output-dir", str(folder / "warm"),
    ]  # fmt: skip
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=os.environ | {"PYTHONPATH": path}, cwd=folder,
    )  # fmt: skip
    with child:
        assert json.loads(child.stdout.readline()) == {"ready": True}
        yield Zygote(child, folder)
        child.stdin.close()


@pytest.fixture(scope="module")
def uninterrupted(zygote, options, tmp_path_factory):
    """(what its rows say, seconds that it took)"""
    out = tmp_path_factory.mktemp("whole")
    found = zygote.specbench(*options, "--output-dir", str(out))
    assert found["code"] == 0, zygote.said()
    (file,) = out.glob("*.parquet")
    rows = told(file)
    assert rows.total() == ROWS
    return rows, found["wall_s"]


def told(file):
    """How often each row is there, without its times."""
    rows = read_run(file).rows[SAME].map(lambda value: str(value))
    return Counter(rows.itertuples(index=False, name=None))


def safe(out):
    """Keys of the sequences that are finished on the disk; raises if a part is half written."""
    keys = set()
    for part in out.glob(f"{PARTIAL}/*/part-*.parquet"):
        rows = pq.read_table(part, columns=["case_id", "repeat", "sample_id", "status"]).to_pylist()
        keys |= {tuple(row.values()) for row in rows if row["status"] == "ok"}
    return keys


def test_killed_at_fifty_moments_and_resumed(zygote, options, uninterrupted, tmp_path):
    whole, wall_s = uninterrupted
    moments = random.Random(SEED)
    kills = runs = 0
    out, before = tmp_path / "0", set()
    while kills < KILLS:
        ids = list_partial(out)
        what = ["run", "--resume", *ids] if ids else options
        moment = moments.uniform(0.05, 1.0) * wall_s
        found = zygote.specbench(*what, "--output-dir", str(out), kill_after_s=moment)
        assert found["code"] in (0, -9), zygote.said()
        kills += found["code"] == -9
        files = list(out.glob("*.parquet"))
        now = safe(out)
        if files:
            assert told(files[0]) == whole
            assert read_run(files[0]).metadata["complete"] is True
            runs += 1
            out, before = tmp_path / str(runs), set()
            continue
        assert now >= before, "what was finished is gone"
        before = now
    if ids := list_partial(out):
        assert zygote.specbench("run", "--resume", *ids, "--output-dir", str(out))["code"] == 0
        (file,) = out.glob("*.parquet")
        assert told(file) == whole
    assert runs > 0


def test_ended_by_sigterm_and_resumed(zygote, options, uninterrupted, tmp_path):
    part = f"{tmp_path}/{PARTIAL}/*/part-000002.parquet"
    found = zygote.ask(
        argv=[*options, "--output-dir", str(tmp_path)], kill_at=part, signal=signal.SIGTERM
    )
    assert found["code"] == 130, zygote.said()
    (run_id,) = list_partial(tmp_path)
    resume = f"specbench run --resume {run_id} --output-dir {shlex.quote(str(tmp_path))}"
    assert f"interrupted: {resume} goes on" in zygote.said()
    assert zygote.specbench(*shlex.split(resume)[1:])["code"] == 0, zygote.said()
    (file,) = tmp_path.glob("*.parquet")
    assert told(file) == uninterrupted[0]


def test_two_runs_in_one_folder_at_once(zygote, options, uninterrupted, tmp_path):
    arguments = [*options, "--output-dir", str(tmp_path)]
    first = zygote.ask(argv=arguments, wait=False, log=str(tmp_path / "first"))
    assert zygote.specbench(*arguments)["code"] == 0, zygote.said()
    assert zygote.ask(join=first["pid"])["code"] == 0
    files = list(tmp_path.glob("*.parquet"))
    assert len(files) == 2
    assert all(told(file) == uninterrupted[0] for file in files)
    assert list((tmp_path / PARTIAL).iterdir()) == []


@pytest.mark.skipif(lock.fcntl is None, reason="no locks here")
def test_a_run_that_is_being_written_is_not_resumed(zygote, options, uninterrupted, tmp_path):
    out = str(tmp_path)
    run_id = zygote.cut_off(options, tmp_path)
    resume = ["run", "--resume", run_id, "--output-dir", out]
    writer = RunWriter(tmp_path, "", {}, run_id, resume=True)
    assert zygote.specbench(*resume)["code"] == 2
    error, hint = zygote.said().splitlines()[-2:]
    assert error.startswith(f"error: run {run_id} is being written by process {os.getpid()} on ")
    assert hint.startswith("hint: Let it finish")
    writer.close()
    assert zygote.specbench(*resume)["code"] == 0, zygote.said()
    (file,) = tmp_path.glob("*.parquet")
    assert told(file) == uninterrupted[0]


def test_a_cut_part_and_a_lost_description(zygote, options, uninterrupted, tmp_path):
    out = str(tmp_path)
    run_id = zygote.cut_off(options, tmp_path)
    folder = tmp_path / PARTIAL / run_id
    *_, last = sorted(folder.glob("part-*.parquet"))
    last.write_bytes(last.read_bytes()[:1000])
    (folder / "run.json").write_text("{")
    assert zygote.specbench("run", "--resume", run_id, "--output-dir", out)["code"] == 0
    assert f"part {last.name} of run {run_id} is damaged" in zygote.said()
    assert "taken from a finished part" in zygote.said()
    (file,) = tmp_path.glob("*.parquet")
    assert told(file) == uninterrupted[0]


def test_a_scenario_that_cannot_be_read(zygote, tmp_path):
    RunWriter(tmp_path, "demo", {"resolved_scenario": "{"}, "0badcafe").close()
    found = zygote.specbench("run", "--resume", "0badcafe", "--output-dir", str(tmp_path))
    assert found["code"] == 2
    assert "saved scenario cannot be read: '{'" in zygote.said()
    assert "Traceback" not in zygote.said()


def test_a_full_disk_says_how_to_go_on(zygote, options, uninterrupted, tmp_path):
    """The parts fit, and the joined file does not."""
    whole = tmp_path / "whole"
    zygote.specbench(*options, "--output-dir", str(whole))
    (file,) = whole.glob("*.parquet")
    arguments = [*options, "--output-dir", str(tmp_path)]
    found = zygote.ask(argv=arguments, limit_bytes=file.stat().st_size - 2000)
    assert found["code"] == 2
    error, hint = zygote.said().splitlines()[-2:]
    assert error.startswith(f"error: cannot write {tmp_path}/demo-")
    assert "Traceback" not in zygote.said()
    assert list(tmp_path.glob("*.parquet")) == []
    command = hint.partition("specbench ")[2]
    assert zygote.specbench(*shlex.split(command))["code"] == 0
    (file,) = tmp_path.glob("*.parquet")
    assert told(file) == uninterrupted[0]
