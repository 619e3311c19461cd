"""`specbench compare` from the command line: what it prints, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

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


class TestGate:
    """Rows whose times do not vary: without chance the rules are all there is to see."""

    @staticmethod
    def rows(verify_us=100.0, repeats=3, wall_s=0.5, **changed):
        cases = [
            ("baseline", "0", 0.0, 1.0),
            ("baseline", "2", 200.0, 0.5),
            ("fused", "2", verify_us, wall_s),
        ]
        return [
            row(method, gamma, repeat=repeat, sample_id=f"s{sample}", batch_index=sample)
            | {"step_verify_us": [us] * 4, "wall_s": wall}
            | changed
            for method, gamma, us, wall in cases
            for repeat in range(repeats)
            for sample in range(12)
        ]

    @pytest.mark.parametrize(
        ("new", "options", "code", "words"),
        [
            ({}, [], 0, "gate passed ("),
            (
                {"verify_us": 105.0},
                [],
                1,
                "gate failed: fused at γ = 2: verify_us / baseline +5.0 %",
            ),
            ({"verify_us": 95.0}, [], 0, "gate passed ("),
            ({"verify_us": 105.0}, ["--threshold", "verify_us=6%"], 0, "gate passed ("),
            ({"verify_us": 105.0}, ["--threshold", "tau=1%,verify_us=6us"], 0, "gate passed ("),
            ({"verify_us": 105.0}, ["--fail-on", "quality,acceptance"], 0, "gate passed ("),
            (
                {"wall_s": 0.6},
                [],
                1,
                "gate failed: fused at γ = 2: tokens_per_s / baseline -16.7 %",
            ),
            ({"metric_value": 0.4}, [], 1, "quality -0.100"),
            ({"metric_value": 0.4}, ["--fail-on", "slower"], 0, "gate passed ("),
            ({"accepted": 4, "new_tokens": 8}, ["--fail-on", "acceptance"], 1, "alpha -0.250"),
            ({"repeats": 2}, [], 0, "gate inconclusive, which does not fail without --strict"),
            ({"repeats": 2}, ["--strict"], 4, "gate inconclusive, which fails under --strict"),
            ({"verify_us": 105.0, "repeats": 2}, ["--strict"], 4, "2 repeats, not 3"),
            ({"throttle_reasons": ["sw_power_cap"]}, ["--strict"], 4, "lock its clocks lower"),
            ({}, ["--absolute", "--strict"], 4, "a file does not say its"),
        ],
    )
    def test_exit_codes(self, write, compare, new, options, code, words):
        old, tested = write(*self.rows()), write(*self.rows(**new))
        found, out, err = compare(tested, "--baseline", old, *options)
        assert (found, err) == (code, "")
        assert words in out

    def test_a_threshold_in_percent_holds_for_short_steps_too(self, write, compare):
        old, new = write(*self.rows(verify_us=1.0)), write(*self.rows(verify_us=1.1))
        assert compare(new, "--baseline", old)[0] == 0  # 0.1 µs are less than 0.2
        code, out, _ = compare(new, "--baseline", old, "--threshold", "verify_us=1%")
        assert code == 1
        assert "verify_us / baseline +10.0 % [10.0, 10.0], floor 1 %" in out

    def test_no_sequence_in_common(self, write, compare):
        code, _, err = compare(write(*self.rows(seed=8)), "--baseline", write(*self.rows()))
        assert code == 3
        assert "have no figure in common" in err

    def test_methods_are_shown_with_the_floor_that_they_have(self, write, compare):
        code, out, _ = compare(write(*self.rows(verify_us=1.3)))
        assert code == 0
        assert "the floor (verify over baseline 15 %; tokens/s over baseline 3 %;" in " ".join(
            out.split()
        )

    def test_nothing_comparable(self, write, compare):
        code, out, err = compare(write(*self.rows(batch_size=8)), "--baseline", write(*self.rows()))
        assert (code, out) == (3, "")
        assert "hint: They differ in batch_size (1 / 8)" in err

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--fail-on", "speed"], "unknown gate 'speed'"),
            (["--threshold", "verify_us"], "names no metric and floor"),
            (["--threshold", "verify_us=3"], "'3' is no floor of verify_us"),
            (["--threshold", "tokens_per_s=50"], "'50' is no floor of tokens_per_s"),
            (["--baseline", "nowhere.parquet"], "no such file"),
        ],
    )
    def test_wrong_use(self, write, compare, options, words):
        code, out, err = compare(write(row()), "--baseline", write(row()), *options)
        assert (code, out) == (2, "")
        assert words in err

    @pytest.mark.parametrize(
        "option",
        [
            ["--strict"],
            ["--absolute"],
            ["--fail-on", "slower"],
            ["--threshold", "tau=1%"],
            ["--format", "junit"],
        ],
    )
    def test_what_is_the_gates_needs_a_baseline(self, write, compare, option):
        code, out, err = compare(write(row()), *option)
        assert (code, out) == (2, "")
        assert "belongs to the gate" in err

    def test_the_noise_beside_the_reference_is_used(self, write, compare):
        old, new = write(*self.rows()), write(*self.rows(verify_us=105.0))
        floors = {"verify_us/baseline": 0.08}
        content = {"schema": "specbench.noise/1", "runs": ["a", "b"], "floors": floors}
        old.with_suffix(".noise.json").write_text(json.dumps(content))
        code, out, _ = compare(new, "--baseline", old)
        assert code == 0
        assert "floors lifted to this machine's noise, calibrated over 2 runs" in out

    @pytest.mark.parametrize("output_format", ["json", "junit", "markdown"])
    def test_formats_keep_the_exit_code(self, write, compare, output_format):
        old, new = write(*self.rows()), write(*self.rows(verify_us=105.0))
        code, out, _ = compare(new, "--baseline", old, "--format", output_format)
        assert code == 1
        start = {
            "json": '{\n  "schema": "specbench.gate/1"',
            "junit": "<?xml",
            "markdown": "**gate failed",
        }
        assert out.startswith(start[output_format])

    def test_runs_and_micro_files_do_not_mix(self, write, compare):
        micro = Path(__file__).parents[2] / "results" / "reference" / "micro-gamma-h100.parquet"
        code, _, err = compare(write(row()), "--baseline", micro)
        assert code == 2
        assert "they have nothing in common" in err

    def test_methods_and_runs_have_verdicts_without_a_baseline_too(self, write, compare):
        old, new = write(*self.rows()), write(*self.rows(verify_us=150.0))
        code, out, _ = compare(old, new)
        assert code == 0
        assert "how sure: " in out
        assert "faster -50.0 [-50.0, -50.0]" in out
        assert "slower" in out
        _, out, _ = compare(old, new, "--format", "json")
        found = json.loads(out)
        assert found["verdicts"][0]["verdict"] == "slower"
        assert {v["verdict"] for v in found["runs"][0]["verdicts"]} == {"faster", "same"}
