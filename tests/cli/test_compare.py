"""`specbench compare` from the command line: what it prints, and its exit codes."""

from __future__ import annotations

import json

import pandas as pd
import pyarrow.parquet as pq
import pytest

from specbench.cli.app import main
from specbench.report.schema import METADATA_KEY
from specbench.report.writer import RunWriter


def row(method="fused", gamma="2", **changed):
    return {
        "case_id": f"{method}-{gamma}",
        **{"pair": "demo-lm", "task": "summarization", "dataset": "demo", "engine": "native"},
        **{"method": method, "gamma": gamma, "implementation": "torch", "device_name": "cpu"},
        **{"batch_size": 1, "batch_index": 0, "repeat": 0, "sample_id": "s0", "status": "ok"},
        **{"new_tokens": 10, "verify_steps": 4, "drafted": 8, "accepted": 6, "wall_s": 0.5},
        **{"verify_s": 0.1, "step_verify_us": [100.0] * 4, "metric": "rouge1"},
        **{"metric_value": 0.5, "metric_weight": 1.0},
    } | changed


@pytest.fixture
def write(tmp_path):
    def write_run(*rows):
        writer = RunWriter(tmp_path / "results", "demo", {"methods": {"fused": {"exact": True}}})
        writer.write(list(rows))
        return writer.finish()

    return write_run


@pytest.fixture
def compare(capsys):
    def run(*argv):
        code = main(["compare", *map(str, argv)])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_one_run(write, compare):
    path = write(row("baseline", "0"), row("baseline"), row(wall_s=0.25))
    code, out, err = compare(path)
    assert (code, err) == (0, "")
    assert "fastest exact: fused at γ = 2: 2.00× over plain decoding" in out
    assert "+100.0" in out


def test_a_quoted_pattern_and_two_runs(write, compare):
    first, _ = write(row()), write(row(wall_s=0.25))
    code, out, _ = compare(first.parent / "*.parquet")
    assert code == 0
    assert "run / reference: demo-lm · summarization" in out


def test_markdown_and_json(write, compare):
    path = write(row("baseline"), row())
    code, out, _ = compare(path, "--format", "markdown")
    assert code == 0
    assert "| ---: | :--- |" in out
    code, out, _ = compare(path, "--format", "json")
    assert code == 0
    assert json.loads(out)["runs"][0]["groups"][0]["cases"][1]["method"] == "fused"


def test_nothing_comparable_prints_what_there_is_and_exits_3(write, compare):
    code, out, err = compare(write(row(batch_size=1)), write(row(batch_size=8)))
    assert code == 3
    assert "batch 1" in out
    assert "batch 8" in out
    assert "error: the 2 runs have no case in common" in err
    assert "hint: They differ in batch_size (1 / 8)" in err


def test_nothing_comparable_as_json_is_still_json(write, compare):
    runs = write(row(gamma="2")), write(row(gamma="4"))
    code, out, _ = compare(*runs, "--format", "json")
    assert code == 3
    assert len(json.loads(out)["runs"]) == 2


def test_a_run_with_no_finished_case_exits_3(write, compare):
    code, out, err = compare(write(row(status="failed", error="CUDA out of memory")))
    assert (code, out) == (3, "")
    assert "no case finished" in err
    assert "CUDA out of memory" in err


def cut(path):
    path.write_bytes(path.read_bytes()[:-50])


def foreign(path):
    pd.DataFrame({"method": ["fused"]}).to_parquet(path)


def newer(path):
    metadata = {METADATA_KEY: json.dumps({"schema_version": "2.0"})}
    pq.write_table(pq.read_table(path).replace_schema_metadata(metadata), path)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (cut, "damaged or no Parquet file"),
        (foreign, "not written by specbench"),
        (newer, "written by schema 2.0, this specbench reads 1.x"),
        (lambda path: path.unlink(), "no such file"),
    ],
)
def test_a_file_that_cannot_be_used_exits_2(write, compare, spoil, words):
    good, bad = write(row()), write(row())
    spoil(bad)
    code, out, err = compare(good, bad)
    assert (code, out) == (2, "")
    assert str(bad) in " ".join(err.split("\n"))
    assert words in err
    assert "hint:" in err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["nowhere/*.parquet"], "nothing matches 'nowhere/*.parquet'"),
        ([], "Missing argument"),
        (["x.parquet", "--format", "yaml"], "'yaml'"),
    ],
)
def test_wrong_use_exits_2(compare, argv, words):
    code, out, err = compare(*argv)
    assert (code, out) == (2, "")
    assert words in err


def test_help_shows_an_example(compare):
    code, out, _ = compare("--help")
    assert code == 0
    assert "specbench compare results/*.parquet" in out
