from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from specbench.errors import InputError
from specbench.report.compare import compare_runs
from specbench.report.reader import load_results, read_run, read_runs
from specbench.report.schema import METADATA_KEY, SCHEMA

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def result(write_run, demo):
    return write_run(demo())


def rewrite(path, table=None, **metadata):
    """The file with other columns or metadata, as another version or tool might write it."""
    table = pq.read_table(path) if table is None else table
    stored = json.loads(pq.read_schema(path).metadata[METADATA_KEY]) | metadata
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: json.dumps(stored)}), path)


def refused(path):
    with pytest.raises(InputError) as error:
        load_results([path])
    assert error.value.hint
    assert error.value.exit_code == 2
    return error.value.message


def test_files_folders_and_patterns_each_once(write_run, row, monkeypatch):
    paths = [write_run([row(sample_id=name)], run_id=f"0000000{name}") for name in "abc"]
    folder = paths[0].parent
    assert load_results(paths[1])["sample_id"].tolist() == ["b"]
    assert load_results(str(folder / "*.parquet"))["sample_id"].tolist() == ["a", "b", "c"]
    assert load_results([folder])["sample_id"].tolist() == ["a", "b", "c"]
    assert len(read_runs([paths[2], folder, str(folder / "demo-*")])) == 3
    monkeypatch.chdir(folder.parent)
    assert len(load_results("**/*.parquet")) == 3


def test_a_file_name_with_brackets_is_a_file_name(result):
    odd = result.with_name("run[1].parquet")
    result.rename(odd)
    assert len(load_results(odd)) == 12


def test_the_public_name(result):
    import specbench

    assert len(specbench.load_results(result)) == 12


def test_read_run_has_metadata_and_rows(result):
    run = read_run(result)
    assert run.path == result
    assert run.run_id == run.rows["run_id"][0] == run.metadata["run_id"]
    assert run.rows["step_accepted"][3].tolist() == [2, 2, 2, 0]


def test_nothing_given():
    with pytest.raises(InputError, match="no result file given"):
        load_results([])


def test_nothing_matches(tmp_path):
    assert "nothing matches" in refused(str(tmp_path / "*.parquet"))
    assert "no *.parquet file in" in refused(tmp_path)


def test_missing_file(tmp_path):
    assert "no such file" in refused(tmp_path / "gone.parquet")


@pytest.mark.parametrize("kept", [0, 3, 100, -1, -100])
def test_truncated_file(result, kept):
    content = result.read_bytes()
    result.write_bytes(content[:kept])
    message = refused(result)
    assert str(result) in message
    assert "damaged or no Parquet file" in message


def test_no_parquet_at_all(tmp_path):
    path = tmp_path / "notes.parquet"
    path.write_text("τ, α and γ")
    assert "damaged or no Parquet file" in refused(path)


def test_parquet_of_another_tool(tmp_path):
    path = tmp_path / "other.parquet"
    pd.DataFrame({"method": ["fused"], "gamma": [4]}).to_parquet(path)
    assert "not written by specbench" in refused(path)


def test_a_newer_major_schema(result):
    rewrite(result, schema_version="2.0")
    assert "was written by schema 2.0, this specbench reads 1.x" in refused(result)


def test_a_newer_minor_schema_with_more_columns(result):
    table = pq.read_table(result)
    more = table.append_column("warp_stalls", pa.array([7] * len(table), pa.int64()))
    rewrite(result, more, schema_version="1.9")
    assert set(load_results(result)["warp_stalls"]) == {7}


def test_missing_columns(result):
    rewrite(result, pq.read_table(result).drop_columns(["gamma", "wall_s"]))
    assert "lacks the columns gamma, wall_s" in refused(result)


def test_a_missing_column_that_nothing_depends_on_reads_as_null(result):
    rewrite(result, pq.read_table(result).drop_columns(["mfu", "nvml_t_s"]))
    rows = load_results(result)
    assert rows["mfu"].isna().all()
    assert list(rows.columns) == SCHEMA.names


def test_a_column_of_the_wrong_type(result):
    table = pq.read_table(result)
    place = table.column_names.index("new_tokens")
    rewrite(result, table.set_column(place, "new_tokens", pa.array(["many"] * len(table))))
    assert "column of the wrong type" in refused(result)


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"schema_version": 1}', '{"schema_version":"x"}']
)
def test_metadata_that_cannot_be_read(result, text):
    table = pq.read_table(result).replace_schema_metadata({METADATA_KEY: text})
    pq.write_table(table, result)
    assert "metadata that cannot be read" in refused(result)


def test_the_report_layer_imports_no_torch():
    script = (
        "import sys, specbench.report.render, specbench.report.reader, specbench.report.writer;"
        "import specbench.cli.compare;"
        "heavy = {'torch', 'cupy', 'transformers', 'scipy', 'matplotlib', 'pynvml'};"
        "ours = {'specbench.telemetry', 'specbench.engine', 'specbench.sampling'};"
        "print(sorted((heavy | ours) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


NEW = [
    "execution", "load_format", "synthetic_acceptance", "prompt_lengths", "refill", "first_step",
    "step_random_us", "step_commit_us", "step_end_s", "start_s", "batch_wall_s", "prefill_s",
    "capture_s", "gpu_s", "host_gap_s",
]  # fmt: skip


def test_a_file_of_schema_1_0_reads_as_what_its_runs_did(result):
    rewrite(result, pq.read_table(result).drop_columns(NEW), schema_version="1.0")
    rows = load_results(result)
    assert list(rows.columns) == SCHEMA.names
    assert set(rows["execution"]) == {"eager"}
    assert set(rows["load_format"]) == {"auto"}
    assert not rows["refill"].any()
    assert rows[NEW].drop(columns=["execution", "load_format", "refill"]).isna().all(axis=None)


def test_a_file_of_schema_1_0_compares_with_a_later_one(write_run, row):
    old = write_run([row()])
    rewrite(old, pq.read_table(old).drop_columns(NEW), schema_version="1.0")
    same = {"execution": "eager", "load_format": "auto", "refill": False}
    new = write_run([row(**same, batch_wall_s=0.25), row(**(same | {"execution": "graphs"}))])
    found = compare_runs([read_run(old), read_run(new)]).across
    assert found.lines["tokens_per_s_ratio"].tolist() == [2.0]
    assert found.alone["execution"].tolist() == ["graphs"]


def test_a_null_in_a_later_file_stays_unknown(write_run, row):
    assert load_results(write_run([row()]))["execution"].isna().all()


@pytest.mark.parametrize("name", ["demo-cpu", "demo-h100"])
def test_the_committed_runs_still_read(name):
    run = read_run(ROOT / "results" / "reference" / f"{name}.parquet")
    assert [len(group.lines) for group in compare_runs([run]).withins[0].groups] == [25, 25]
