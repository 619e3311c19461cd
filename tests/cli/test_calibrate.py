"""`specbench calibrate`: from files, and by running a scenario."""

from __future__ import annotations

import json

import pytest

from specbench.cli.app import main
from specbench.report.writer import RunWriter


def rows(factor):
    return [
        {
            **{"case_id": f"{method}-{gamma}", "pair": "demo-lm", "task": "summarization"},
            **{"dataset": "demo", "engine": "native", "method": method, "gamma": gamma},
            **{"implementation": "torch", "device_name": "cpu", "batch_size": 1, "status": "ok"},
            **{"batch_index": sample, "repeat": repeat, "sample_id": f"s{sample}", "seed": 0},
            **{"new_tokens": 10, "verify_steps": 4, "drafted": 8, "accepted": 6, "wall_s": 0.5},
            **{
                "verify_s": 0.1,
                "step_verify_us": [100.0 * (factor if method == "fused" else 1)] * 4,
            },
        }
        for method, gamma in (("baseline", "0"), ("baseline", "2"), ("fused", "2"))
        for repeat in range(3)
        for sample in range(2)
    ]


@pytest.fixture
def write(tmp_path):
    def write_run(factor, **metadata):
        writer = RunWriter(tmp_path / "results", "demo", {"kernel_hash": "k", **metadata})
        writer.write(rows(factor))
        return writer.finish()

    return write_run


def test_files_of_one_build(write, capsys):
    files = [write(factor) for factor in (1.0, 1.02, 1.05)]
    assert main(["calibrate", *map(str, files)]) == 0
    out, err = capsys.readouterr()
    assert "noise between 3 runs of one build" in out
    (line,) = [line for line in out.splitlines() if line.startswith("verify_us / baseline")]
    assert line.split()[-2:] == ["5.00%", "1"]
    saved = files[0].with_suffix(".noise.json")
    assert f"wrote {saved}" in err
    content = json.loads(saved.read_text())
    assert content["floors"]["verify_us/baseline"] == pytest.approx(0.05, rel=1e-5)
    assert main(["compare", str(files[2]), "--baseline", str(files[0])]) == 0
    assert "calibrated over 3 runs" in capsys.readouterr().out


H100 = {"device_name": "H100", "driver": "580.1"}


def test_the_reference_may_be_another_file_of_this_machine(write, capsys):
    files = [write(factor, **H100) for factor in (1.0, 1.02)]
    reference = write(1.0, git_sha="older", **H100)
    assert main(["calibrate", *map(str, files), "--reference", str(reference)]) == 0
    content = json.loads(reference.with_suffix(".noise.json").read_text())
    assert {name: content[name] for name in H100} == H100


@pytest.mark.parametrize("name", H100)
def test_the_reference_of_another_machine_is_refused(write, tmp_path, capsys, name):
    files = [write(factor, **H100) for factor in (1.0, 1.02)]
    reference = write(1.0, **H100 | {name: "another"})
    assert main(["calibrate", *map(str, files), "--reference", str(reference)]) == 2
    err = capsys.readouterr().err
    assert f"{name.replace('_', ' ')} {H100[name]}, and the reference another" in err
    assert "hint: " in err
    assert not list(tmp_path.rglob("*.noise.json"))


@pytest.mark.parametrize("what", ["no such file", "is damaged"])
def test_a_reference_that_cannot_be_read_is_refused_before_anything_runs(tmp_path, capfd, what):
    reference = tmp_path / "typo.parquet"
    if what == "is damaged":
        reference.write_bytes(b"PAR1")
    results = tmp_path / "results"
    asked = ["calibrate", "smoke", "--reference", str(reference), "--output-dir", str(results)]
    assert main(asked) == 2
    out, err = capfd.readouterr()
    assert what in err
    assert "hint: " in err
    assert "run 1 of" not in out + err
    assert not results.exists()
    assert not reference.with_suffix(".noise.json").exists()


def test_a_scenario_on_another_machine_than_the_references_ends_after_one_run(
    write, tiny_pair, tmp_path, capfd
):
    reference = write(1.0, **H100)
    asked = ["calibrate", "smoke", "--reference", str(reference), "--output-dir", str(tmp_path)]
    options = ["--pair", tiny_pair.name, "--samples", "1", "--max-new-tokens", "4"]
    assert main([*asked, "--", *options, "--device", "cpu"]) == 2
    err = capfd.readouterr().err
    assert "run 1 of 5" in err
    assert "run 2 of 5" not in err
    assert "and the reference H100" in err


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        ([], 2, "Missing argument"),
        (["nowhere/*.parquet"], 2, "nothing matches"),
        (["demo", "--runs", "1"], 2, "Invalid value for '--runs'"),
        (["demo", "--", "--resume", "x"], 2, "--resume is no option for a calibration"),
        (["a.parquet", "--", "--repeats", "5"], 2, "options of `specbench run` are for a scenario"),
    ],
)
def test_wrong_use(capsys, argv, code, words):
    assert main(["calibrate", *argv]) == code
    assert words in capsys.readouterr().err


def test_one_file_and_another_build_are_refused(write, capsys):
    first, other = write(1.0), write(1.0, git_sha="another")
    assert main(["calibrate", str(first)]) == 2
    assert "there is one run" in capsys.readouterr().err
    assert main(["calibrate", str(first), str(other)]) == 2
    assert "they differ in git_sha" in capsys.readouterr().err


def test_runs_a_scenario_as_run_does(tmp_path, capfd):
    options = ["--method", "baseline,fused", "--gamma", "0,2", "--task", "code", "--samples", "3"]
    options += ["--repeats", "3", "--max-new-tokens", "8", "--device", "cpu"]
    asked = ["calibrate", "smoke", "--runs", "2", "--output-dir", str(tmp_path), "--", *options]
    assert main(asked) == 0
    (folder,) = tmp_path.iterdir()
    files, noise = sorted(folder.glob("*.parquet")), list(folder.glob("*.noise.json"))
    assert (len(files), len(noise)) == (2, 1)
    floors = json.loads(noise[0].read_text())["floors"]
    assert (
        floors["alpha/"] == 0
    )  # the same seeds, the same tokens; of times a busy machine has none
    assert main(["calibrate", "no-such-scenario", "--output-dir", str(tmp_path)]) == 2
    assert "ended with exit code 2" in capfd.readouterr().err
