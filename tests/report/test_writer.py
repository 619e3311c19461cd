from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from specbench.errors import InputError, MachineError
from specbench.report import atomic
from specbench.report.partial import list_partial, read_partial
from specbench.report.reader import load_results, read_run
from specbench.report.schema import METADATA_KEY, SCHEMA, SCHEMA_VERSION
from specbench.report.writer import RunWriter


@pytest.fixture
def out(tmp_path):
    return tmp_path / "results"


@pytest.fixture
def writer(out):
    return RunWriter(out, "demo", {"argv": ["specbench", "run"]})


def resumed(writer):
    """Another process's writer, after this one's is gone."""
    writer.close()
    return RunWriter(
        writer.output_dir, "ignored", {"argv": ["--resume"]}, writer.run_id, resume=True
    )


def part_files(writer):
    return sorted((writer.output_dir / ".partial" / writer.run_id).glob("part-*.parquet"))


def test_parts_become_one_file_in_order(writer, row):
    writer.write([row(sample_id="a"), row(sample_id="b")])
    writer.write([row(sample_id="c")])
    path = writer.finish()
    rows = load_results(path)
    assert rows["sample_id"].tolist() == ["a", "b", "c"]
    assert set(rows["run_id"]) == {writer.run_id}
    assert set(rows["scenario"]) == {"demo"}


def test_many_parts_become_few_row_groups(writer, row):
    for index in range(20):
        writer.write([row(sample_id=str(index))])
    assert pq.ParquetFile(writer.finish()).num_row_groups == 1


def test_the_file_has_the_schema_the_metadata_and_its_name(out, row):
    metadata = {"created_utc": "2026-11-22T12:00:00+02:00", "scenario": "text"}
    writer = RunWriter(out, "my demo/1", metadata, run_id="0badcafe")
    writer.write([row()])
    path = writer.finish()
    assert path.name == "my-demo-1-20261122T100000Z-0badcafe.parquet"
    file = pq.ParquetFile(path)
    assert file.schema_arrow.names == SCHEMA.names
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    stored = json.loads(file.schema_arrow.metadata[METADATA_KEY])
    assert stored["schema_version"] == SCHEMA_VERSION
    assert (stored["run_id"], stored["scenario"]) == ("0badcafe", "text")
    assert (stored["scenario_name"], stored["complete"]) == ("my demo/1", True)


def test_the_partial_folder_goes_when_the_file_is_there(writer, row):
    writer.write([row()])
    writer.finish()
    assert list_partial(writer.output_dir) == []
    assert [path.suffix for path in writer.output_dir.iterdir() if path.is_file()] == [".parquet"]


def test_missing_values_are_null_and_maps_survive(writer, row):
    writer.write([row(metrics={"rouge1": 0.5, "rouge2": 0.25}, seed=2**62 + 1), {"status": "ok"}])
    rows = load_results(writer.finish())
    assert rows["metrics"][0] == {"rouge1": 0.5, "rouge2": 0.25}
    assert rows["seed"][0] == 2**62 + 1  # a float would lose the last digits
    assert rows.drop(columns=["run_id", "scenario", "status"]).loc[1].isna().all()


def test_an_unknown_column_is_a_programming_error(writer, row):
    with pytest.raises(ValueError, match="tokens_per_second"):
        writer.write([row(tokens_per_second=3)])
    assert writer.finish() is None


def test_no_rows_write_no_part_and_no_file(writer):
    writer.write([])
    assert part_files(writer) == []
    assert writer.finish() is None
    assert list(writer.output_dir.glob("*")) == [writer.output_dir / ".partial"]
    assert list_partial(writer.output_dir) == []


def test_finished_are_the_ok_rows_on_disk(writer, row):
    writer.write([row(case_id="c", repeat=1, sample_id="a"), row(status="failed", sample_id="b")])
    assert writer.finished() == {("c", 1, "a", 0)}
    assert resumed(writer).finished() == {("c", 1, "a", 0)}


def test_resume_goes_on_and_does_failed_rows_again(writer, row):
    writer.write([row(sample_id="a"), row(sample_id="b", status="failed", error="oom")])
    second = resumed(writer)
    second.write([row(sample_id="b"), row(sample_id="c", status="failed", error="oom")])
    run = read_run(second.finish())
    assert run.rows[["sample_id", "status"]].to_numpy().tolist() == [
        ["a", "ok"],
        ["b", "ok"],
        ["c", "failed"],
    ]
    assert run.metadata["argv"] == ["specbench", "run"]
    assert run.metadata["resumed"] == [{"argv": ["--resume"]}]
    assert second.scenario == "demo"


def test_a_batch_that_is_run_again_counts_once(writer, row):
    batch = [row(sample_id="a", wall_s=1.0), row(sample_id="b", status="failed", error="oom")]
    writer.write([*batch, row(sample_id="c", seed=1), row(sample_id="c", seed=2)])
    second = resumed(writer)
    second.write([row(sample_id="a", wall_s=2.0), row(sample_id="b")])
    rows = load_results(resumed(second).finish())
    assert rows["sample_id"].tolist() == ["c", "c", "a", "b"]
    assert rows["wall_s"].tolist() == [0.5, 0.5, 2.0, 0.5]


def test_an_interrupted_run_has_a_file_and_can_be_resumed(writer, row):
    writer.write([row(sample_id="a")])
    first = writer.finish(complete=False)
    assert read_run(first).metadata["complete"] is False
    second = resumed(writer)
    second.write([row(sample_id="b")])
    assert second.finish() == first
    assert load_results(first)["sample_id"].tolist() == ["a", "b"]
    assert read_run(first).metadata["complete"] is True


def test_the_runs_own_scenario_can_be_read_before_resuming(out, row):
    writer = RunWriter(out, "smoke", {"scenario": "gamma: [1]"})
    partial = read_partial(out, writer.run_id)
    assert (partial.scenario, partial.metadata["scenario"]) == ("smoke", "gamma: [1]")


def test_an_unknown_run_names_the_ones_there_are(out):
    RunWriter(out, "demo", {}, run_id="0badcafe")
    with pytest.raises(InputError, match="no unfinished run '0badcaff'") as error:
        RunWriter(out, "demo", {}, run_id="0badcaff", resume=True)
    assert "Did you mean 0badcafe?" in error.value.hint
    with pytest.raises(InputError) as error:
        read_partial(out / "elsewhere", "0badcafe")
    assert "There is none" in error.value.hint


def test_a_run_of_another_schema_is_not_resumed(writer):
    path = writer.output_dir / ".partial" / writer.run_id / "run.json"
    path.write_text(json.dumps(writer.metadata | {"schema_version": "0.9"}))
    with pytest.raises(InputError, match=r"begun with result schema 0\.9"):
        resumed(writer)


def test_a_damaged_description_is_a_sentence(writer):
    (writer.output_dir / ".partial" / writer.run_id / "run.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        resumed(writer)


def test_a_run_is_not_begun_twice(out):
    RunWriter(out, "demo", {}, run_id="0badcafe")
    with pytest.raises(InputError, match="exists already") as error:
        RunWriter(out, "demo", {}, run_id="0badcafe")
    assert "--resume 0badcafe" in error.value.hint


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_an_output_directory_that_cannot_be_made(tmp_path, below):
    blocker = tmp_path / "file"
    blocker.write_text("not a folder")
    with pytest.raises(InputError, match="cannot write to the output directory") as error:
        RunWriter(blocker / below, "demo", {})
    assert "--output-dir" in error.value.hint


def test_a_folder_that_takes_no_files_is_noticed_at_once(out, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(atomic, "_sync", refuse)
    with pytest.raises(InputError, match="Permission denied"):
        RunWriter(out, "demo", {})


def test_a_leftover_temporary_file_is_ignored_and_removed(writer, row):
    writer.write([row()])
    leftover = part_files(writer)[0].with_name(".part-000002.parquet.tmp")
    leftover.write_bytes(b"PAR1 half a file")
    second = resumed(writer)
    assert not leftover.exists()
    assert len(load_results(second.finish())) == 1


@pytest.mark.parametrize("damage", ["cut", "empty", "flip"])
def test_a_damaged_part_is_set_aside_with_a_notice(writer, row, damage):
    writer.write([row(sample_id="a")])
    writer.write([row(sample_id="b")])
    part = part_files(writer)[1]
    content = bytearray(part.read_bytes())
    content[40] ^= 0xFF
    part.write_bytes({"cut": bytes(content[:-20]), "empty": b"", "flip": bytes(content)}[damage])
    second = resumed(writer)
    assert second.finished() == {("fused-2", 0, "a", 0)}
    assert len(second.notices) == 1
    assert "part-000002.parquet" in second.notices[0]
    second.write([row(sample_id="b")])
    assert part_files(second)[-1].name == "part-000003.parquet"
    assert load_results(second.finish())["sample_id"].tolist() == ["a", "b"]


def test_a_full_disk_loses_nothing_that_was_written(writer, row, monkeypatch):
    writer.write([row(sample_id="a")])

    def full(path):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "_sync", full)
        with pytest.raises(MachineError, match="No space left") as error:
            writer.write([row(sample_id="b")])
        assert f"--resume {writer.run_id}" in error.value.hint
        with pytest.raises(MachineError, match="No space left"):
            writer.finish()
    assert list(writer.output_dir.glob("*.parquet")) == []
    assert load_results(resumed(writer).finish())["sample_id"].tolist() == ["a"]


def test_two_runs_share_an_output_directory(out, row):
    first, second = RunWriter(out, "demo", {}), RunWriter(out, "demo", {})
    first.write([row(sample_id="a")])
    second.write([row(sample_id="b")])
    assert first.run_id != second.run_id
    assert {*load_results([first.finish(), second.finish()])["sample_id"]} == {"a", "b"}


def test_what_is_noted_of_a_case_goes_into_its_rows(writer, row):
    """Into those that are ok, of every part; also after a resume, and if nothing is run again."""
    writer.write([row(), row(status="failed", sample_id="s1")])
    writer.note("fused-2", {"verify_kernel_us": 4.5, "verify_launches": 1.0})
    writer.write([row(case_id="block-2", method="block"), row(repeat=1)])
    writer.finish(complete=False)
    again = resumed(writer)
    assert again.noted == {"fused-2": {"verify_kernel_us": 4.5, "verify_launches": 1.0}}
    again.write([row(status="ok", sample_id="s1")])
    again.note("block-2", {})
    table = pq.read_table(again.finish())
    found = zip(*(table[name].to_pylist() for name in ("case_id", "verify_kernel_us")), strict=True)
    assert sorted(found, key=str) == [
        ("block-2", None), ("fused-2", 4.5), ("fused-2", 4.5), ("fused-2", 4.5),
    ]  # fmt: skip
    assert table.schema.equals(SCHEMA)
