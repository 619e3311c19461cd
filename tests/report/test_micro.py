"""Files of `specbench micro`: written whole, read back, held against baseline, floor and each other."""

from __future__ import annotations

import importlib.util
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from specbench.errors import InputError, MachineError, NotComparableError
from specbench.report.micro import across, read_bench
from specbench.report.micro_render import markdown_table, render_micro, render_micro_comparison
from specbench.report.micro_writer import MicroWriter
from specbench.report.reader import read_run, read_runs
from specbench.report.writer import RunWriter

ROOT = Path(__file__).resolve().parents[2]
METADATA = {
    "device_name": "Test GPU",
    "driver": "570",
    "methods": {"flashinfer": {"leaves_out": "needs softmax first"}},
}


def make_line(method="fused", l2="cold", **changed):
    """B 1, γ 5, V 32000, f32: 1.408 MB, which 1000 GB/s read in 1.408 µs."""
    row = {
        "preset": "paper", "method": method, "exact": method != "sigmoid", "implementation": "cuda",
        "batch_size": 1, "gamma": 5, "vocab_size": 32000, "dtype": "float32", "noise": 0.6, "l2": l2,
        "seed": 0, "status": "ok", "input_sets": 200, "set_bytes": 1_408_000, "l2_bytes": 50_000_000,
        "calls_per_replay": 200, "replays": 30, "accepted": 3.5, "time_us": 7.04,
        "time_from": "graph", "bytes_moved": 1_408_000.0, "read_gbps": 1000.0,
        "launch_floor_us": 1.0, "floor_us": 1.408, "floor_ratio": 5.0, "bandwidth_share": 0.2,
        "kernel_us": 6.0, "launches": 1.0, "graph_us": 7.04, "graph_us_spread": 0.01,
        "graph_us_samples": [7.0, 7.04, 7.1], "host_us": 20.0, "wall_us": 30.0,
    }  # fmt: skip
    return row | changed


@pytest.fixture
def write(tmp_path, no_sync):
    def write_file(*rows, complete=True, **metadata):
        writer = MicroWriter(tmp_path / "results", "paper", METADATA | metadata)
        writer.write(list(rows), complete)
        return writer.path

    return write_file


@pytest.fixture
def bench(write):
    return lambda *rows, **metadata: read_bench(read_run(write(*rows, **metadata)))


def printed(render, *arguments):
    console = Console(file=io.StringIO(), width=120, highlight=False)
    result = render(*arguments, console)
    return console.file.getvalue(), result


class TestFile:
    def test_says_what_it_is_and_keeps_the_samples(self, write):
        run = read_run(write(make_line()))
        assert run.kind == "micro"
        assert run.path.name.startswith("micro-paper-")
        assert (run.metadata["preset"], run.metadata["complete"]) == ("paper", True)
        row = run.rows.iloc[0]
        assert row["graph_us_samples"].tolist() == pytest.approx([7.0, 7.04, 7.1])
        assert (row["run_id"], row["device_name"]) == (run.run_id, "Test GPU")

    def test_each_write_replaces_the_rows(self, tmp_path):
        writer = MicroWriter(tmp_path, "vocab", {})
        assert list(tmp_path.iterdir()) == []
        writer.write([make_line()])
        writer.write([make_line(), make_line("block")], complete=True)
        assert read_run(writer.path).rows["method"].tolist() == ["fused", "block"]
        assert list(tmp_path.iterdir()) == [writer.path]

    def test_refuses_an_unknown_column(self, tmp_path):
        with pytest.raises(ValueError, match="no such columns in the result file: speed"):
            MicroWriter(tmp_path, "vocab", {}).write([make_line(speed=1)])

    def test_a_folder_that_cannot_be_made_is_said_before_anything_is_measured(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match="cannot write to the output directory"):
            MicroWriter(tmp_path / "file", "vocab", {})

    def test_a_full_disk_is_a_sentence(self, tmp_path, monkeypatch):
        writer = MicroWriter(tmp_path, "vocab", {})

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("specbench.report.micro_writer.write_parquet", full)
        with pytest.raises(MachineError, match="No space left"):
            writer.write([make_line()])

    def test_without_rows_there_is_nothing_to_compare(self, bench):
        with pytest.raises(NotComparableError, match="nothing was measured"):
            bench()

    def test_an_unknown_kind_is_refused(self, tmp_path, monkeypatch):
        monkeypatch.setattr("specbench.report.micro_writer.MICRO", "macro")
        writer = MicroWriter(tmp_path, "vocab", {})
        writer.write([make_line()])
        with pytest.raises(InputError, match="kind 'macro'"):
            read_run(writer.path)

    def test_a_run_and_a_micro_file_do_not_mix(self, write, tmp_path):
        path = write(make_line())
        runs = RunWriter(tmp_path / "results", "demo", {})
        runs.write([{"method": "fused", "status": "ok"}])
        with pytest.raises(InputError, match="nothing in common"):
            read_runs([runs.finish(), path])


class TestDoubts:
    @pytest.mark.parametrize(
        ("changed", "doubt"),
        [
            ({}, []),
            ({"replays": 9}, ["fewer than 10 replays"]),
            ({"graph_us_spread": 0.11}, ["spread over 10% between replays"]),
            ({"wall_us_spread": 0.5}, []),
            ({"throttle_reasons": ["sw_power_cap"]}, ["GPU slowed down (sw_power_cap)"]),
            ({"throttle_reasons": ["sync_boost"]}, []),
            ({"status": "failed", "replays": None, "time_from": None, "input_sets": None}, []),
        ],
    )
    def test_are_named(self, bench, changed, doubt):
        assert bench(make_line(**changed)).lines[0]["unsteady"] == doubt


class TestAgainstBaseline:
    def test_with_the_same_inputs(self, bench):
        found = bench(
            make_line("baseline", time_us=70.4, kernel_us=60.0),
            make_line("baseline", "warm", time_us=14.08, kernel_us=12.0),
            make_line(), make_line(l2="warm"), make_line(batch_size=2),
        )  # fmt: skip
        deltas = [(line["time_delta"], line["kernel_delta"]) for line in found.lines]
        assert deltas == [
            (0, 0), (0, 0), (pytest.approx(-0.9), pytest.approx(-0.9)),
            (pytest.approx(-0.5), pytest.approx(-0.5)), (None, None),
        ]  # fmt: skip

    def test_a_sum_of_kernels_is_not_held_against_a_graph(self, bench):
        plain = make_line("baseline", time_us=60.0, kernel_us=60.0, time_from="kernels")
        line = bench(plain, make_line()).lines[1]
        assert line["time_delta"] is None
        assert line["kernel_delta"] == pytest.approx(-0.9)


class TestAcross:
    def test_the_same_case_in_two_files(self, bench):
        first = bench(make_line(), make_line("block"))
        second = bench(make_line(time_us=3.52), make_line(gamma=6), driver="580")
        found = across([first, second])
        (line,) = found.lines
        assert (line["reference_run"], line["run_id"]) == (first.run.run_id, second.run.run_id)
        assert (line["ratio"], line["method"]) == (0.5, "fused")
        assert "differ in driver (570 / 580)" in found.notes[0]
        assert found.notes[1] == "2 cases are in one file alone"

    def test_no_ratio_of_a_graph_and_a_sum_of_kernels(self, bench):
        found = across([bench(make_line()), bench(make_line(time_from="kernels"))])
        assert found.lines[0]["ratio"] is None

    def test_failed_rows_do_not_count(self, bench):
        with pytest.raises(NotComparableError, match="no case in common"):
            across([bench(make_line()), bench(make_line(status="failed", time_us=None))])


def full_file(write):
    """Every branch: failed, no graph, noisy, missing, approximate, another project's, large."""
    large = {"batch_size": 64, "gamma": 8, "vocab_size": 128256, "set_bytes": 558_000_000,
             "bytes_moved": 558e6, "floor_us": 558.0, "input_sets": 2}  # fmt: skip
    return write(
        make_line("baseline", time_us=100.0, kernel_us=80.0, implementation="torch"),
        make_line("sigmoid", bytes_moved=2e5, floor_us=0.2, floor_ratio=35.0, input_sets=800),
        make_line(),
        make_line(l2="warm", time_us=5.0),
        make_line("flashinfer", time_us=36.0, time_from="kernels", graph_us=None,
                  graph_error="RuntimeError: waits for the GPU", implementation="torch"),
        make_line("fused", graph_us_spread=0.2, time_us=620.0, floor_ratio=1.11,
                  bandwidth_share=0.9, **large),
        make_line("block", status="failed", error="OutOfMemoryError: no", time_us=None,
                  time_from=None, floor_ratio=None, bandwidth_share=None, replays=None, **large),
    )  # fmt: skip


class TestTables:
    def test_for_a_terminal(self, write):
        out, _ = printed(render_micro, read_run(full_file(write)), "table")
        lines = out.splitlines()
        assert max(len(line) for line in lines[:7]) <= 100
        small, large = (next(line.split() for line in lines if key in line) for key in
                        ("32000", "128256"))  # fmt: skip
        assert small == ["1", "5", "32000", "f32", "1.41", "1.41", "100", "7.04", "7.04", "5.00",
                         "36.0*", "–"]  # fmt: skip
        assert large == ["64", "8", "128256", "f32", "558", "558", "–", "–", "620~", "1.11", "–",
                         "failed"]  # fmt: skip
        flat = " ".join(out.split())
        for sentence in (
            "sigmoid ≈",
            "fastest exact at B = 1: fused: 7.04 µs, median of 1 shape, 5.0× the floor and 5.63 µs "
            "over it (the smallest kernel takes 1.00)",
            "of the read bandwidth (1.00 TB/s) at 100 MB and more: fused 90%",
            "kernel time against baseline, median: sigmoid ≈ -92%, fused -92%, flashinfer -92%",
            "Test GPU · 30 replays a figure",
            "swept before each replay",
            "as torch operations, their random numbers drawn beforehand: baseline",
            "~ unsteady: spread over 10% between replays",
            "* sum of kernel times, no graph could be captured: RuntimeError: waits for the GPU",
            "≈ approximation",
            "block failed at 1 shape: OutOfMemoryError: no",
            "flashinfer is measured so: needs softmax first",
        ):
            assert sentence in flat

    def test_in_markdown(self, write):
        table = markdown_table(read_run(full_file(write)))
        assert "| 1, 5, 32000, f32 | 1.41 (1.41) | 100 5.00× [30.0] | 7.04 35.0× [30.0] |" in table
        assert "**7.04 5.00× [30.0]**" in table
        assert "| 36.0* 5.00× [30.0] |" in table
        assert "| failed |" in table
        assert "warm L2" in table
        assert "warm L2" not in markdown_table(read_run(full_file(write)), every_state=False)

    def test_an_interrupted_file_says_so(self, write):
        out, _ = printed(render_micro, read_run(write(make_line(), complete=False)), "table")
        assert "interrupted" in out

    def test_of_a_cpu_has_no_floor(self, write):
        row = make_line(l2=None, time_from="wall", time_us=30.0, read_gbps=None, floor_ratio=None,
                        bandwidth_share=None, kernel_us=None, launches=None, host_us=None)  # fmt: skip
        out, _ = printed(render_micro, read_run(write(row)), "table")
        assert "CPU, wall time" in out
        assert "floor" not in out


class TestComparison:
    def test_of_one_file(self, write):
        out, failure = printed(render_micro_comparison, [read_run(full_file(write))], "table")
        assert failure is None
        fused = next(line.split() for line in out.splitlines() if " fused " in line)
        assert fused == ["1", "5", "32000", "f32", "fused", "7.04", "5.00", "-93.0", "5.00", "20.0",
                         "6.00", "-92.5", "1", "20.0", "30.0", "3.50"]  # fmt: skip
        assert "Δ against baseline with the same inputs" in out

    def test_of_two(self, write):
        paths = [write(make_line()), write(make_line(time_us=3.52, replays=3))]
        out, failure = printed(render_micro_comparison, read_runs(paths), "table")
        assert failure is None
        assert "0.500~" in out
        assert "no baseline: no Δ" in out
        assert "0.500~" in printed(render_micro_comparison, read_runs(paths), "markdown")[0]

    def test_of_two_without_a_case_in_common_shows_both_and_returns_why(self, write):
        runs = read_runs([write(make_line()), write(make_line(gamma=6))])
        out, failure = printed(render_micro_comparison, runs, "table")
        assert isinstance(failure, NotComparableError)
        assert out.count("verify step alone") == 2

    def test_in_json(self, write):
        runs = read_runs([full_file(write), write(make_line())])
        found = json.loads(printed(render_micro_comparison, runs, "json")[0])
        assert [len(run["lines"]) for run in found["runs"]] == [7, 1]
        assert found["runs"][0]["lines"][0]["batch_size"] == 1
        assert found["across"][0]["ratio"] == 1.0


class TestReadme:
    @pytest.fixture
    def script(self):
        spec = importlib.util.spec_from_file_location("micro_table", ROOT / "docs/micro_table.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def test_the_section_is_rewritten_and_checked(self, script, write, tmp_path):
        result, readme = str(full_file(write)), tmp_path / "README.md"
        readme.write_text(f"before\n{script.BEGIN}\nstale\n{script.END}\nafter\n", encoding="utf-8")
        assert script.main(result, str(readme), check=True) == 1
        assert script.main(result, str(readme)) == 0
        assert script.main(result, str(readme), check=True) == 0
        text = readme.read_text(encoding="utf-8")
        assert text.startswith("before\n")
        assert text.endswith("after\n")
        assert "stale" not in text
        assert "32000" in text

    @pytest.mark.parametrize("text", ["", "{END}{BEGIN}", "{BEGIN}{BEGIN}{END}"])
    def test_wrong_markers_are_refused(self, script, text):
        with pytest.raises(ValueError, match="needs one"):
            script.with_table(text.format(BEGIN=script.BEGIN, END=script.END), "table")

    def test_the_committed_table_is_the_committed_file(self, script):
        readme = ROOT / "README.md"
        (result,) = (ROOT / "results" / "reference").glob("micro-paper*.parquet")
        assert script.main(str(result), str(readme), check=True) == 0, (
            f"python docs/micro_table.py {result.relative_to(ROOT)} README.md writes it anew"
        )
