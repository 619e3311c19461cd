"""Turns of an A/B become one ordinary result file, or are refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from specbench.errors import InputError, MachineError
from specbench.report import atomic
from specbench.report.doubts import other_machine
from specbench.report.reader import read_run
from specbench.report.schema import INTERLEAVED, METADATA_KEY
from specbench.report.turns import BUILD, MACHINE, check_alike, join_turns, read_turn, workspace
from specbench.report.writer import RunWriter

ABOUT = {"build": "new", "argv": ["specbench", "run", "--against", "ref"]}
FACTS = {
    "driver": "580.1", "device_name": "H100", "git_sha": "abc", "kernel_hash": "k1",
    "packages": {"torch": "2.13.0"}, "scenario_sha256": "s1", "cuda": {"torch": "13.0"},
    "resolved_scenario": json.dumps({"name": "demo", "repeats": 1, "first_repeat": 0}),
}  # fmt: skip


@pytest.fixture
def turn(tmp_path, monkeypatch, row):
    """One turn's file as `specbench run --repeats 1 --first-repeat N` writes it, read back."""
    monkeypatch.setattr(atomic, "_sync", lambda path: None)

    def make(repeat=0, place=0, rows=None, **metadata):
        folder = tmp_path / f"turn-{place}"
        writer = RunWriter(folder, "demo", FACTS | metadata)
        writer.write([row(repeat=repeat)] if rows is None else rows)
        writer.finish()
        return read_turn(folder, repeat, place)

    return make


def metadata_of(path):
    return json.loads(pq.read_schema(path).metadata[METADATA_KEY])


class TestJoining:
    def test_makes_one_run_of_all_repeats(self, turn, tmp_path, row):
        turns = [
            turn(i, place, [row(repeat=i, sample_id=s) for s in "ab"])
            for i, place in enumerate((0, 3, 4))
        ]
        path = join_turns(turns, tmp_path, "0badcafe", ABOUT, complete=True)
        run = read_run(path)
        assert path.name.startswith("demo-new-")
        assert path.name.endswith("-0badcafe.parquet")
        assert run.run_id == "0badcafe"
        assert set(run.rows["run_id"]) == {"0badcafe"}
        assert run.rows["repeat"].tolist() == [0, 0, 1, 1, 2, 2]
        assert [one["place"] for one in run.metadata["turns"]] == [0, 3, 4]
        assert json.loads(run.metadata["resolved_scenario"])["repeats"] == 3
        assert run.metadata["argv"] == ABOUT["argv"]
        assert run.metadata["complete"] is True
        assert list(tmp_path.glob("*.tmp")) == []

    def test_again_with_one_more_turn_replaces_the_file(self, turn, tmp_path):
        turns = [turn(0, 0), turn(1, 3)]
        first = join_turns(turns[:1], tmp_path, "0badcafe", ABOUT, complete=False)
        assert metadata_of(first)["complete"] is False
        assert join_turns(turns, tmp_path, "0badcafe", ABOUT, complete=True) == first
        assert [path.name for path in tmp_path.glob("*.parquet")] == [first.name]

    def test_a_skipped_case_has_one_row(self, turn, tmp_path, row):
        skipped = {"status": "skipped", "case_id": "block-2", "method": "block"}
        turns = [
            turn(i, i, [row(repeat=i), row(**skipped, repeat=0, error="no room")]) for i in range(2)
        ]
        rows = read_run(join_turns(turns, tmp_path, "0badcafe", ABOUT, True)).rows
        assert (rows["status"] == "skipped").sum() == 1
        assert (rows["status"] == "ok").sum() == 2

    def test_columns_of_another_version_stay(self, turn, tmp_path):
        turns = [turn(i, i) for i in range(2)]
        added = [
            type(one)(one.table.append_column("novelty", pa.array([i])), one.metadata, one.place)
            for i, one in enumerate(turns)
        ]
        rows = read_run(join_turns(added, tmp_path, "0badcafe", ABOUT, True)).rows
        assert rows["novelty"].tolist() == [0, 1]

    def test_every_foreign_process_is_named(self, turn, tmp_path):
        turns = [turn(0, 0), turn(1, 3, foreign_processes=["blender"])]
        path = join_turns(turns, tmp_path, "0badcafe", ABOUT, True)
        assert metadata_of(path)["foreign_processes"] == ["blender"]

    @pytest.mark.parametrize("name", [*MACHINE, *BUILD])
    def test_is_refused_where_the_turns_differ(self, turn, tmp_path, name):
        turns = [turn(0, 0), turn(1, 3)]
        turns[1].metadata[name] = "another"
        with pytest.raises(InputError, match=f"turn 4 has another {name.replace('_', ' ')}"):
            join_turns(turns, tmp_path, "0badcafe", ABOUT, True)
        assert list(tmp_path.glob("*.parquet")) == []

    def test_two_builds_need_one_machine_and_may_differ_in_the_rest(self, turn):
        one, other = turn(0, 0), turn(0, 1, git_sha="def", kernel_hash="k2")
        check_alike(one, other, ("device_name", "driver"))
        with pytest.raises(InputError, match="turn 3 has another device name than turn 1: L4"):
            check_alike(one, turn(0, 2, device_name="L4"), ("device_name", "driver"))


class TestReading:
    def test_another_repeat_than_was_asked_for_is_refused(self, turn, row):
        """A build that takes no notice of the number would decode the first repeat each time."""
        with pytest.raises(MachineError, match=r"repeats \[0\], and 2 was asked for"):
            turn(2, 4, [row(repeat=0)])

    def test_no_file_is_refused(self, tmp_path):
        with pytest.raises(MachineError, match="turn 3 left 0 result files"):
            read_turn(tmp_path, 0, 2)


def test_files_of_one_ab_are_of_one_machine_whatever_it_does_not_say():
    nothing = {"device_name": "cpu", "driver": None, "clocks": None}
    assert other_machine(nothing | {INTERLEAVED: "1"}, nothing | {INTERLEAVED: "1"}) == []
    assert other_machine(nothing | {INTERLEAVED: "1"}, nothing | {INTERLEAVED: "2"}) != []
    assert other_machine(nothing, nothing) != []


class TestWorkspace:
    def test_is_gone_afterwards_also_after_an_error(self, tmp_path):
        def full(folder):
            (folder / "file").touch()
            raise OSError("No space left on device")

        with pytest.raises(OSError, match="No space"), workspace(tmp_path, "1") as folder:
            full(folder)
        assert not folder.exists()

    def test_a_folder_that_cannot_be_written_is_named(self, tmp_path):
        (tmp_path / "file").touch()
        with (
            pytest.raises(InputError, match="cannot write to the output directory"),
            workspace(tmp_path / "file", "1"),
        ):
            pytest.fail("nothing can lie in a file")

    def test_is_no_run_that_could_be_resumed(self, tmp_path):
        from specbench.report.partial import list_partial

        with workspace(tmp_path, "1") as folder:
            assert Path(folder).is_dir()
            assert list_partial(tmp_path) == []
