"""`specbench run --against`: two builds in turns, with real processes of real copies of the package."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from specbench.cli.against import Build, common_scenario, interpreter, order, probe
from specbench.cli.app import main
from specbench.errors import InputError
from specbench.report.reader import read_run
from specbench.scenario import Scenario, load_scenario, scenario_files

ROOT = Path(__file__).resolve().parents[2]
SLEEPY = """
def _after(seconds, law):
    def slowed(step):
        import time
        time.sleep(seconds)
        return law(step)
    return slowed
verify_fused, verify_block = _after({fused}, verify_fused), _after(0.02, verify_block)
"""
"""A verify step that is mostly sleep takes the same time on a busy machine."""
SLEEPY_BASELINE = """
_fast = verify_baseline
def verify_baseline(step):
    import time
    time.sleep(0.02)
    return _fast(step)
"""


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """An interpreter whose specbench is a copy of this one, with text added to some of its modules."""

    def make(**added):
        folder = tmp_path_factory.mktemp("build")
        package = folder / "specbench"
        only_code = shutil.ignore_patterns("__pycache__", "lm", "asr")
        shutil.copytree(ROOT / "specbench", package, ignore=only_code)
        for name in ("demo/lm", "demo/asr"):
            (package / name).symlink_to(ROOT / "specbench" / name)
        for name in ("kernels", "scenarios"):
            (package / name).symlink_to(ROOT / name)
        for module, text in added.items():
            with (package / f"{module.replace('__', '/')}.py").open("a") as file:
                file.write(text)
        return wrapper(folder)

    return make


def wrapper(folder):
    """A script that runs this interpreter with `folder` in front of what it can import."""
    script = folder / "python"
    script.write_text(f'#!/bin/sh\nPYTHONPATH={folder} exec {sys.executable} "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return script


@pytest.fixture
def small(tiny_pair):
    return [
        "smoke", "--pair", tiny_pair.name, "--method", "baseline,fused,block", "--gamma", "0,2",
        "--samples", "3", "--max-new-tokens", "12", "--device", "cpu",
    ]  # fmt: skip


def specbench(python, *arguments):
    command = [str(python), "-P", "-m", "specbench", "run", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=280)


def files(folder="results"):
    return {path.name.split("-")[1]: read_run(path) for path in Path(folder).glob("*.parquet")}


def leftovers(folder="results"):
    return list((Path(folder) / ".partial").glob("*"))


class TestOrder:
    def test_is_abba(self):
        names = [name[0] for name, _ in order(range(4))]
        assert "".join(names) == "rnnrrnnr"

    def test_the_turns_of_a_pair_are_the_same_repeat(self):
        assert list(order(range(2, 4))) == [
            ("reference", 2), ("new", 2), ("new", 3), ("reference", 3)
        ]  # fmt: skip

    @pytest.mark.parametrize("repeats", [4, 6, 20])
    def test_a_steady_drift_hits_both_builds_alike(self, repeats):
        places = {"reference": [], "new": []}
        for place, (name, _) in enumerate(order(range(repeats))):
            places[name].append(place)
        assert sum(places["reference"]) == sum(places["new"])


class TestCommonScenario:
    @pytest.fixture
    def reference(self):
        return Build("reference", "python", {}, "0.1.0", "f", "p", frozenset(Scenario.model_fields))

    @pytest.mark.parametrize("name", sorted(scenario_files()))
    def test_means_the_same_as_the_original(self, name, reference, tmp_path):
        scenario, _ = load_scenario(name)
        path = tmp_path / "other.yaml"
        path.write_text(common_scenario(scenario, reference))
        assert load_scenario(str(path))[0] == scenario

    def test_leaves_out_what_the_reference_cannot_know_and_nobody_asked_for(self, reference):
        old = Build("reference", "python", {}, "0.1.0", "f", "p", reference.fields - {"refill"})
        assert "refill" not in yaml.safe_load(common_scenario(Scenario(), old))
        with pytest.raises(InputError, match="does not know the scenario's refill"):
            common_scenario(Scenario(refill=True, batch_size=2), old)


class TestRefusals:
    """At once: before a model is loaded and before a folder is made."""

    def refused(self, capsys, *arguments):
        assert main(["run", "smoke", *map(str, arguments)]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert not Path("results").exists()
        return err

    def test_no_such_interpreter(self, capsys, tmp_path):
        assert "no such file" in self.refused(capsys, "--against", tmp_path / "nowhere/python")

    def test_a_folder_without_one(self, capsys, tmp_path):
        assert "no interpreter in that folder" in self.refused(capsys, "--against", tmp_path)

    def test_a_file_that_is_no_interpreter(self, capsys, tmp_path):
        (tmp_path / "file").write_text("text")
        assert "cannot be run" in self.refused(capsys, "--against", tmp_path / "file")

    def test_an_interpreter_without_specbench(self, capsys, tmp_path):
        script = tmp_path / "python"
        script.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
        script.chmod(0o755)
        err = self.refused(capsys, "--against", script)
        assert "has no specbench" in err
        assert "No module named 'specbench'" in err
        assert "-m pip install specbench" in err

    def test_a_build_that_is_too_old(self, capsys, build):
        old = build(scenario="\nScenario.model_fields.pop('first_repeat')\n")
        err = self.refused(capsys, "--against", old)
        assert re.search(r"specbench [\d.]+ of \S+ is too old for an A/B", err)

    def test_traces(self, capsys):
        assert "writes no traces" in self.refused(
            capsys, "--profile", "--against", ROOT / "nowhere"
        )

    def test_resume(self, capsys):
        assert main(["run", "--resume", "0badcafe", "--against", sys.executable]) == 2
        assert "--resume goes on with a run as it was asked" in capsys.readouterr().err

    def test_a_reference_that_cannot_run_the_scenario_says_so_in_its_own_words(self, small, build):
        gone = "\n_BUILT_IN = tuple(m for m in _BUILT_IN if m.name != 'block')\n"
        done = specbench(build(), *small, "--against", str(build(sampling__registry=gone)))
        assert done.returncode == 2
        assert "error: the reference build cannot run this scenario: unknown method 'block'" in (
            done.stderr
        )
        assert files() == {}
        assert leftovers() == []


class TestInterpreter:
    def test_of_a_virtual_environment_is_not_resolved(self, tmp_path):
        """Its link decides which packages are found."""
        (tmp_path / "venv/bin").mkdir(parents=True)
        (tmp_path / "venv/bin/python").symlink_to(sys.executable)
        assert interpreter(Path("venv")) == str(tmp_path / "venv/bin/python")

    def test_neither_the_folder_nor_the_environment_of_the_new_build_counts(
        self, build, monkeypatch
    ):
        """Else a nightly job in a checkout would measure the checkout twice."""
        reference = build()
        monkeypatch.chdir(ROOT)
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        assert probe("reference", str(reference)).folder == str(reference.parent / "specbench")


def test_dry_run_shows_the_order_and_leaves_nothing(small, build):
    python = build()
    done = specbench(python, *small, "--repeats", "2", "--against", str(python), "--dry-run")
    assert done.returncode == 0, done.stderr
    found = re.findall(r"│ (\d) +│ (\w+) +│ (\d) ", done.stdout)
    assert found == [
        ("1", "reference", "0"), ("2", "new", "0"), ("3", "new", "1"), ("4", "reference", "1")
    ]  # fmt: skip
    assert "the same build twice, an A/A" in done.stderr
    assert not Path("results").exists()


def test_what_the_machine_lacks_ends_a_run_at_once_and_a_dry_run_says_it(small, build):
    python = build()
    ask = [python, *small, "--device", "cuda:99", "--against", str(python)]
    lack = "the reference build cannot run this scenario: device 'cuda:99' is not there"
    done = specbench(*ask, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "│ reference │" in done.stdout
    assert f"cannot run here: {lack}" in done.stderr
    assert not Path("results").exists()
    done = specbench(*ask)
    assert done.returncode == 2
    assert f"error: {lack}" in done.stderr
    assert files() == {}


class TestComparison:
    def test_the_same_build_twice_is_no_regression(self, small, build):
        python = build()
        done = specbench(python, *small, "--repeats", "3", "--against", str(python))
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.startswith(("gate passed", "gate inconclusive"))
        found = files()
        reference, new = found["reference"], found["new"]
        assert leftovers() == []
        columns = ["method", "gamma", "sample_id", "repeat", "hypothesis"]
        rows = [run.rows[columns].sort_values(columns[:4]) for run in (reference, new)]
        assert rows[0].reset_index(drop=True).equals(rows[1].reset_index(drop=True)), "same luck"
        assert sorted(set(new.rows["repeat"])) == [0, 1, 2]
        assert new.rows["hypothesis"].nunique() > 3, "and another in each repeat"
        places = [[turn["place"] for turn in run.metadata["turns"]] for run in (reference, new)]
        assert places == [[0, 3, 4], [1, 2, 5]]
        assert new.metadata["complete"] is True
        again = re.search(r"again: specbench (.+)", done.stderr)[1].split()
        assert main([*again, "--format", "json"]) == 0

    def test_a_method_made_slower_is_called_so_and_no_other(self, small, build):
        old, new = (
            build(sampling__laws=SLEEPY.format(fused=s), sampling__baseline=SLEEPY_BASELINE)
            for s in (0.02, 0.06)
        )
        done = specbench(new, *small, "--repeats", "3", "--against", str(old))
        assert done.returncode == 1, done.stdout + done.stderr
        slower = {line.split()[2] for line in done.stdout.splitlines() if line.startswith("slower")}
        assert slower == {"fused"}
        assert "verify_us / baseline" in done.stdout
        assert re.search(r"^slower +2 fused +verify_us ", done.stdout, re.MULTILINE), "itself too"

    def test_a_method_that_fails_in_the_new_build_fails_the_gate(self, small, build):
        broken = "\ndef verify_fused(step):\n    raise RuntimeError('no such kernel')\n"
        done = specbench(build(sampling__laws=broken), *small, "--against", str(build()))
        assert done.returncode == 1, done.stdout + done.stderr
        assert done.stdout.startswith("gate failed: fused at γ = 2: all 3 sequences failed: ")
        assert "no such kernel" in done.stdout


STOP = """
import os as _os, signal as _signal, sys as _sys
if "run" in _sys.argv and "--dry-run" not in _sys.argv and "--against" not in _sys.argv:
    {what}
"""


class TestStopped:
    def test_by_a_turn_that_fails(self, small, build):
        broken = STOP.format(what="_sys.stderr.write('out of luck\\n'); _os._exit(7)")
        done = specbench(build(), *small, "--against", str(build(cli__app=broken)))
        assert done.returncode == 2
        assert "turn 1 of 2: reference, repeat 0 ended with exit code 7" in done.stderr
        assert "out of luck" in done.stderr
        assert "no turn was finished" in done.stderr
        assert leftovers() == []

    @pytest.mark.parametrize("sent", ["SIGINT", "SIGTERM"])
    def test_by_a_signal_in_the_second_turn_keeps_the_first(self, small, build, sent, tmp_path):
        left = f"open('{tmp_path}/pid', 'w').write(str(_os.getpid()))"
        broken = STOP.format(
            what=f"{left}; _os.kill(_os.getppid(), _signal.{sent}); _signal.pause()"
        )
        new, old = build(cli__app=broken), build()
        done = specbench(new, *small, "--repeats", "2", "--against", str(old))
        assert done.returncode == 130, done.stderr
        assert "Traceback" not in done.stderr
        [(name, run)] = files().items()
        assert name == "reference"
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)
        assert run.metadata["complete"] is False
        assert set(run.rows["status"]) == {"ok"}
        assert f"1 of 2 repeats of the reference build are kept in {run.path}" in done.stderr
        assert leftovers() == []
