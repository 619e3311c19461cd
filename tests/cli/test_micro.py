"""`specbench micro` from the command line, on a CPU: the table, the file, exit codes, `compare`."""

from __future__ import annotations

import pytest
import torch

from specbench.cli.app import main
from specbench.errors import ExitCode
from specbench.report.reader import read_run

TINY = ["--vocab-size", "31", "--batch-size", "2", "--gamma", "1,3", "--dtype", "float32"]
CPU = ["--device", "cpu", "--replays", "3", "--method", "baseline,fused"]


@pytest.fixture
def micro(tmp_path, monkeypatch, capsys, no_sync):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments):
        code = main(["micro", *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def files(folder):
    return sorted(folder.glob("*.parquet"))


def test_table_on_stdout_talk_on_stderr_and_a_file_that_compare_reads(micro, tmp_path, capsys):
    code, out, err = micro(*TINY, *CPU)
    (path,) = files(tmp_path / "results")
    assert code == 0
    assert "fastest exact at B = 1" not in out
    assert [line.split()[:4] for line in out.splitlines() if " 31 " in line] == [
        ["2", "1", "31", "f32"], ["2", "3", "31", "f32"],
    ]  # fmt: skip
    assert f"wrote results/{path.name}" in err
    run = read_run(path)
    assert run.metadata["argv"][0] == "specbench"
    assert run.metadata["methods"]["fused"]["exact"] is True
    assert run.metadata["complete"] is True
    assert len(run.rows) == 4

    assert main(["compare", str(path)]) == 0
    assert "Δ against baseline" in capsys.readouterr().out
    assert micro(*TINY, *CPU, "--format", "markdown")[1].startswith("### verify step alone")
    assert main(["compare", "results/micro-*.parquet"]) == 0
    assert "run / reference" in capsys.readouterr().out


def test_without_a_file(micro, tmp_path):
    code, out, err = micro(*TINY, *CPU, "--no-save")
    assert (code, err.strip()) == (0, "measuring the card")
    assert "verify step alone" in out
    assert not (tmp_path / "results").exists()


def test_files_without_a_case_in_common(micro, tmp_path, capsys):
    micro(*TINY, *CPU)
    micro(*TINY, *CPU, "--noise", "1")
    assert main(["compare", "results"]) == ExitCode.NOT_COMPARABLE
    assert "no case in common" in capsys.readouterr().err


def test_a_run_and_a_micro_file_are_refused(micro, tmp_path, capsys):
    from specbench.report.writer import RunWriter

    micro(*TINY, *CPU)
    runs = RunWriter(tmp_path / "results", "demo", {})
    runs.write([{"method": "fused", "status": "ok"}])
    runs.finish()
    assert main(["compare", "results"]) == ExitCode.USAGE
    assert "nothing in common" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_a_cpu_must_be_asked_for(micro, tmp_path):
    code, out, err = micro()
    assert (code, out) == (ExitCode.USAGE, "")
    assert "error: device 'cuda' is not there" in err
    assert "--device cpu" in err
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "fuzed"], "unknown method 'fuzed'"),
        (["--gamma", "129"], "gamma 129 is too large"),
        (["--vocab-size", "300000"], "vocab-size holds '300000'"),
        (["--dtype", "int8"], "dtype 'int8' is unknown"),
        (["--device", "tpu"], "device 'tpu' is unknown"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_measured(micro, tmp_path, arguments, message):
    code, out, err = micro("--device", "cpu", *arguments)
    assert (code, out) == (ExitCode.USAGE, "")
    assert f"error: {message}" in err
    assert "hint:" in err
    assert not (tmp_path / "results").exists()


def test_an_unknown_preset_is_a_usage_error(micro):
    assert micro("--preset", "papers")[0] == ExitCode.USAGE


def test_a_failed_method_exits_5_and_the_rest_is_there(micro, tmp_path, monkeypatch):
    from specbench.micro.subject import Subject

    prepare = Subject.prepare

    def fail(self):
        if self.method.name == "fused":
            raise RuntimeError("no such kernel")
        prepare(self)

    monkeypatch.setattr(Subject, "prepare", fail)
    code, out, _ = micro(*TINY, *CPU)
    assert code == ExitCode.FAILED_CASES
    assert "fused failed at 2 shapes: RuntimeError: no such kernel" in out
    (path,) = files(tmp_path / "results")
    assert sorted(read_run(path).rows["status"]) == ["failed", "failed", "ok", "ok"]


def test_a_lost_gpu_exits_5_and_what_was_finished_is_in_the_file(micro, tmp_path, monkeypatch):
    from specbench.micro import measure

    make_sets = measure.make_sets

    def vanish(shape, *arguments, **options):
        if shape.gamma == 3:
            error = torch.AcceleratorError("CUDA error: unknown error")
            error.error_code = 46
            raise error
        return make_sets(shape, *arguments, **options)

    monkeypatch.setattr(measure, "make_sets", vanish)
    code, out, err = micro(*TINY, *CPU)
    assert code == ExitCode.FAILED_CASES
    assert "the GPU was lost in making inputs of B 2 γ 3 V 31 float32: CUDA error" in err
    assert "interrupted: not all" in " ".join(out.split())
    run = read_run(*files(tmp_path / "results"))
    assert list(run.rows["status"]) == ["ok", "ok", "failed", "failed"]
    assert run.rows["wall_us"].notna().tolist() == [True, True, False, False]
    assert run.metadata["complete"] is False


@pytest.mark.parametrize(
    ("finished", "talk"), [(1, "is in the table"), (0, "nothing was finished")]
)
def test_ctrl_c_keeps_what_was_finished(micro, tmp_path, monkeypatch, finished, talk):
    from specbench.micro import measure

    make_sets, made = measure.make_sets, []

    def interrupted(*arguments, **options):
        made.append(1)
        if len(made) > finished:
            raise KeyboardInterrupt
        return make_sets(*arguments, **options)

    monkeypatch.setattr(measure, "make_sets", interrupted)
    code, out, err = micro(*TINY, *CPU)
    assert code == ExitCode.INTERRUPTED
    assert talk in err
    rows = [len(read_run(path).rows) for path in files(tmp_path / "results")]
    assert rows == [2] * finished
    assert ("interrupted: not all" in " ".join(out.split())) is bool(finished)
