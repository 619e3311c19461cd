"""The embedded pair through the whole tool: what the README and the model card promise of it."""

import pandas as pd
import pytest

from specbench import load_results
from specbench.cli.app import main
from specbench.report.stats import acceptance_rate


def decode(folder, *options) -> pd.DataFrame:
    common = ["run", "smoke", "--device", "cpu", "--output-dir", str(folder)]
    assert main([*common, *options]) == 0
    rows = load_results(folder)
    assert set(rows["status"]) == {"ok"}
    return rows


def test_the_smoke_scenario_runs(tmp_path, capsys):
    rows = decode(tmp_path)
    assert len(rows) == 2 * 2 * 2
    assert set(rows["metric"]) == {"rouge1"}
    assert "fastest exact" in capsys.readouterr().out


@pytest.mark.gpu
def test_on_a_gpu_the_kernels_verify_and_the_table_says_so(tmp_path, capsys):
    folder = tmp_path / "gpu"
    options = ["--device", "cuda", "--output-dir", str(folder), "--gamma", "0,4"]
    assert main(["run", "smoke", *options, "--method", "baseline,exact,sigmoid,fused,block"]) == 0
    rows = load_results(folder)
    assert set(rows["status"]) == {"ok"}
    by_method = rows.groupby("method")["implementation"].unique().map(list).to_dict()
    kernels = {name: ["cuda"] for name in ("exact", "sigmoid", "fused", "block")}
    assert by_method == {"baseline": ["torch"]} | kernels
    assert rows["verify_s"].between(0, rows["wall_s"], inclusive="neither").all()
    out = " ".join(capsys.readouterr().out.split())
    assert "% of wall" in out
    assert "baseline as torch ops; exact, sigmoid" in out


def test_greedy_speculation_writes_what_plain_decoding_writes(tmp_path):
    """All methods and γ, both tasks, real weights: token ties apart, one text for each sample."""
    rows = decode(
        tmp_path, "--temperature", "0", "--task", "summarization,code", "--gamma", "0,3,8",
        "--method", "baseline,exact,sigmoid,fused,block",
    )  # fmt: skip
    assert (rows.groupby("sample_id")["hypothesis"].nunique() == 1).all()
    assert rows.loc[rows["gamma"] == "8", "accepted"].sum() > 0


@pytest.mark.parametrize(("task", "samples"), [("summarization", 60), ("code", 12)])
def test_agreement_is_in_the_range_where_gamma_matters(tmp_path, task, samples):
    """α at γ = 4 and temperature 1 between 0.6 and 0.9; the card's figures are of all samples."""
    rows = decode(
        tmp_path, "--task", task, "--samples", str(samples), "--gamma", "4", "--method", "fused",
        "--max-new-tokens", "64",
    )  # fmt: skip
    assert 0.6 < acceptance_rate(rows["drafted"].sum(), rows["accepted"].sum()) < 0.9


def test_the_target_writes_better_summaries_than_sigmoid_lets_it(tmp_path):
    """The approximation's error stands beside its speed: 40 samples, temperature 0.6, γ = 4."""
    rows = decode(
        tmp_path, "--samples", "40", "--gamma", "4", "--method", "fused,sigmoid",
        "--temperature", "0.6",
    )  # fmt: skip
    quality = rows.groupby("method")["metric_value"].mean()
    accepted = rows.groupby("method")[["accepted", "drafted"]].sum()
    assert quality["fused"] > quality["sigmoid"]
    assert accepted.loc["sigmoid", "accepted"] == accepted.loc["sigmoid", "drafted"]
