"""`specbench recommend` from the command line: the sentence, the formats, the exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from specbench.cli.app import main

REFERENCE = Path(__file__).parents[2] / "results" / "reference"
ASR = REFERENCE / "asr-demo-h100.parquet"


@pytest.fixture
def recommend(capsys):
    def run(*argv):
        code = main(["recommend", *map(str, argv)])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_a_table_and_a_sentence(recommend):
    code, out, err = recommend(ASR)
    assert (code, err) == (0, "")
    assert "Draft with fused at γ = 4: 1.25× plain decoding" in out
    assert "an approximation" in out
    assert "95 %" in out


def test_markdown_and_json(recommend):
    code, out, _ = recommend(ASR, "--format", "markdown")
    assert code == 0
    assert out.startswith("### recommended: demo-asr")
    code, out, _ = recommend(ASR, "--format", "json")
    assert code == 0
    (found,) = json.loads(out)
    assert found["best"]["method"] == "fused"
    assert found["best"]["predicted"]["whole"] == pytest.approx(1.16, abs=0.01)


def test_nothing_drafted_exits_3_and_a_micro_file_2(recommend, tmp_path):
    rows = pq.read_table(REFERENCE / "attention-h100.parquet", filters=[("gamma", "=", "0")])
    pq.write_table(rows, tmp_path / "plain.parquet")
    code, out, err = recommend(tmp_path / "plain.parquet")
    assert (code, out) == (3, "")
    assert "no run drafted anything" in err
    code, _, err = recommend(REFERENCE / "micro-gamma-h100.parquet")
    assert code == 2
    assert "is a file of `specbench micro`" in err


def test_its_help_names_the_level_that_it_shows(recommend):
    code, out, _ = recommend("--help")
    assert code == 0
    assert "95 % interval" in " ".join(out.split())
    assert "99 %" not in out


def test_a_missing_file_is_wrong_use(recommend):
    assert recommend("nothing.parquet")[0] == 2
