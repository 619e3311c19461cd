"""The scripts of the nightly jobs, run by bash with stand-ins for `specbench` and `mail`."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs/nightly.md").read_text(encoding="utf-8")
SPECBENCH = r"""#!/usr/bin/env bash
# Notes what it was asked, leaves files as the real one does, ends as $CHECK, $RUN, ... say.
command=$1
echo "$*" >> "$CALLS"
echo "this is specbench $command"
code=${command^^}
code=${!code:-0}
[ "$code" != sleep ] || exec sleep 60
[ "$code" != crash ] || { echo "error: it crashed" >&2; exit 2; }
while [ $# -gt 0 ]; do
    case $1 in
        --output-dir) out=$2 ;;
        --reference) touch "${2%.parquet}.noise.json" ;;
    esac
    [ "$command" != run ] || scenario=${scenario:-$2}
    shift
done
if [ "$command" = run ]; then
    mkdir -p "$out"
    touch "$out/$scenario-new-20260102T021700Z-b.parquet"
fi
exit "$code"
"""
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/nightly.yml").read_text(encoding="utf-8"))
STEPS = {step.get("id", ""): step for step in WORKFLOW["jobs"]["gpu"]["steps"]}
MAIL = '#!/bin/sh\n[ -z "$NO_MAIL" ] || exit 1\n{ echo "subject: $2"; cat; } > "$MAILED"\n'


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def git(*arguments):
    who = ["-c", "user.name=n", "-c", "user.email=n@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *who, *map(str, arguments)], check=True, capture_output=True)


@pytest.mark.skipif(not shutil.which("flock"), reason="no flock")
class TestCron:
    @pytest.fixture
    def machine(self, tmp_path):
        """A checkout that can be pulled, an installed `specbench`, a store."""
        opt = tmp_path / "opt"
        git("init", opt / "upstream")
        (opt / "upstream/Makefile").write_text(".venv/.installed:\n\ttouch $@\n")
        git("-C", opt / "upstream", "add", ".")
        git("-C", opt / "upstream", "commit", "-m", "a build")
        git("clone", opt / "upstream", opt / "new")
        executable(opt / "new/.venv/bin/specbench", SPECBENCH)
        executable(tmp_path / "bin/mail", MAIL)
        (tmp_path / "store").mkdir()
        return tmp_path

    def start(self, machine, **environment):
        (script,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
        for there, here in (("/opt/specbench", "opt"), ("/var/lib/specbench", "store")):
            assert there in script
            script = script.replace(there, str(machine / here))
        executable(machine / "nightly.sh", script)
        surroundings = {
            **os.environ, "PATH": f"{machine}/bin:{os.environ['PATH']}", "NO_MAIL": "",
            "CALLS": f"{machine}/calls", "MAILED": f"{machine}/mailed", **environment,
        }  # fmt: skip
        return subprocess.Popen(
            [machine / "nightly.sh"], env=surroundings, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def night(self, machine, **environment):
        process = self.start(machine, **environment)
        said = "".join(process.communicate(timeout=60))
        return process.returncode, self.mailed(machine), said

    def mailed(self, machine):
        path = machine / "mailed"
        return path.read_text() if path.exists() else None

    def calls(self, machine):
        path = machine / "calls"
        return [line.split()[:2] for line in path.read_text().splitlines()] if path.exists() else []

    def test_says_nothing_when_all_is_well(self, machine):
        assert self.night(machine) == (0, None, "")
        assert self.calls(machine) == [
            ["check", "--device"], ["run", "nightly"], ["run", "nightly_shapes"]
        ]  # fmt: skip

    @pytest.mark.parametrize("command", ["CHECK", "RUN", "COMPARE"])
    @pytest.mark.parametrize("code", ["1", "2", "4", "5"])
    def test_reports_what_any_command_ended_with(self, machine, command, code):
        """A regression is 1, under --strict an inconclusive figure 4."""
        (machine / "store/nightly-new-20260101T021700Z-b.parquet").touch()
        (machine / "store/nightly-new-20250101T021700Z-b.parquet").touch()
        returned, mail, said = self.night(machine, **{command: code})
        assert (returned, said) == (int(code), "")
        assert mail.startswith("subject: specbench: exit code " + code)
        assert f"this is specbench {command.lower()}" in mail
        assert "nightly-new-20260101" in (machine / "calls").read_text()
        assert "nightly-new-20250101" not in (machine / "calls").read_text()

    def test_reports_a_run_that_left_nothing(self, machine):
        returned, mail, _ = self.night(machine, RUN="crash")
        assert returned == 2
        assert "exit code 2" in mail
        assert "error: it crashed" in mail
        assert not list((machine / "store").rglob("*.parquet"))

    def test_the_first_failure_is_the_one_that_counts(self, machine):
        assert self.night(machine, CHECK="1", RUN="crash")[0] == 1

    def test_reports_a_machine_without_a_network(self, machine):
        (machine / "opt/upstream").rename(machine / "opt/gone")
        returned, mail, _ = self.night(machine)
        assert returned == 2
        assert "exit code 2" in mail
        assert "upstream" in mail
        assert self.calls(machine) == []

    def test_reports_a_checkout_that_is_not_there(self, machine):
        shutil.rmtree(machine / "opt/new")
        assert "exit code 2" in self.night(machine)[1]

    def test_reports_a_store_that_is_not_there(self, machine):
        (machine / "store").rmdir()
        returned, mail, _ = self.night(machine)
        assert returned
        assert "store" in mail
        assert self.calls(machine) == []

    def test_reports_without_room_for_a_log(self, machine):
        returned, mail, _ = self.night(machine, TMPDIR=f"{machine}/nowhere", RUN="1")
        assert returned == 1
        assert "exit code 1" in mail

    def test_what_cannot_be_mailed_is_printed_for_cron(self, machine):
        returned, mail, said = self.night(machine, RUN="crash", NO_MAIL="yes")
        assert (returned, mail) == (2, None)
        assert "error: it crashed" in said

    def test_reports_a_night_that_has_not_ended_and_its_own_end(self, machine):
        first = self.start(machine, CHECK="sleep")
        while not self.calls(machine):
            time.sleep(0.05)
        returned, mail, _ = self.night(machine)
        assert returned == 2
        assert "has not ended" in mail
        (machine / "mailed").unlink()
        os.killpg(first.pid, signal.SIGTERM)
        assert first.wait(timeout=60) == 143
        assert "exit code 143" in self.mailed(machine)


class TestWorkflow:
    @pytest.fixture
    def workspace(self, tmp_path):
        executable(tmp_path / "new/.venv/bin/specbench", SPECBENCH)
        (tmp_path / "out").mkdir()
        (tmp_path / "store").mkdir()
        return tmp_path

    def step(self, workspace, name, cwd="new", **environment):
        """As GitHub runs it; returns its exit code."""
        script = workspace / "step.sh"
        script.write_text(STEPS[name]["run"])
        surroundings = {
            **os.environ, "OUT": "../out", "STORE": f"{workspace}/store", "REPEATS": "8", "STRICT": "",
            "CALLS": f"{workspace}/calls", "GITHUB_STEP_SUMMARY": f"{workspace}/summary",
            "GITHUB_OUTPUT": f"{workspace}/output", **environment,
        }  # fmt: skip
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", script]
        done = subprocess.run(
            command, cwd=workspace / cwd, env=surroundings, capture_output=True, text=True
        )
        self.said = done.stdout + done.stderr
        return done.returncode

    def stored(self, workspace):
        return sorted(path.name for path in (workspace / "store").iterdir())

    @pytest.mark.parametrize(("code", "fails"), [("0", 0), ("1", 0), ("2", 1), ("3", 1), ("5", 1)])
    def test_a_regression_is_measured_like_anything_else(self, workspace, code, fails):
        assert self.step(workspace, "turns", RUN=code) == fails
        assert len(list((workspace / "out").iterdir())) == 2

    @pytest.mark.parametrize("code", ["0", "1", "4"])
    def test_the_gate_says_what_it_found_also_when_it_fails(self, workspace, code):
        self.step(workspace, "turns")
        assert self.step(workspace, "gate", COMPARE=code) == int(code)
        assert (workspace / "summary").read_text().count("this is specbench compare") == 2
        assert len(list((workspace / "out").glob("*-turns.xml"))) == 2

    def test_without_a_stored_reference_there_is_a_notice(self, workspace):
        self.step(workspace, "turns")
        assert self.step(workspace, "stored", COMPARE="1") == 0
        assert "::notice::no stored reference of nightly_shapes" in self.said

    def test_a_renewed_reference_is_the_newest_with_noise_of_its_own(self, workspace):
        old = [
            "nightly-new-20250101T021700Z-b.parquet",
            "nightly-new-20250101T021700Z-b.noise.json",
        ]
        for name in old:
            (workspace / "store" / name).write_text("old")
        self.step(workspace, "turns")
        assert self.step(workspace, "renew") == 0
        new = [
            f"{scenario}-new-20260102T021700Z-b.{kind}"
            for scenario in ("nightly", "nightly_shapes")
            for kind in ("noise.json", "parquet")
        ]
        assert self.stored(workspace) == sorted(old + new)
        assert all((workspace / "store" / name).read_text() == "old" for name in old)
        (workspace / "calls").unlink()
        assert self.step(workspace, "stored", COMPARE="1") == 1
        calls = (workspace / "calls").read_text()
        assert calls.count("/store/nightly-new-20260102") == 2
        assert "20250101" not in calls

    def test_a_calibration_that_fails_renews_nothing(self, workspace):
        self.step(workspace, "turns")
        assert self.step(workspace, "renew", CALIBRATE="2") == 2
        assert self.stored(workspace) == []

    @pytest.mark.parametrize(
        ("renew", "failed", "renews"),
        [
            ("", (), False), ("no", (), False), ("passed", (), True), ("accept", (), True),
            ("passed", ("gate",), False), ("passed", ("tests",), False), ("accept", ("gate",), True),
            ("accept", ("stored",), True), ("accept", ("exact",), False), ("accept", ("turns",), False),
            ("accept", ("cancelled",), False),
        ],
    )  # fmt: skip
    def test_renews_when_all_passed_or_the_rest_is_accepted(self, renew, failed, renews):
        assert condition(STEPS["renew"]["if"], renew, failed) == renews

    @pytest.mark.parametrize("failed", [("exact",), ("tests",), ("turns",), ("exact", "cancelled")])
    def test_judges_whatever_was_measured(self, failed):
        for name in ("gate", "stored"):
            assert condition(STEPS[name]["if"], "", failed)
            assert not condition(STEPS[name]["if"], "", failed, turns="skipped")

    @pytest.mark.parametrize(
        ("asked", "wanted"), [("", "v0.2"), ("v0.1", "v0.1"), ("side", "origin/side")]
    )
    def test_finds_the_reference(self, workspace, asked, wanted):
        self.repository(workspace, "v0.1", "v0.2")
        assert self.step(workspace, "reference", cwd="clone", ASKED=asked) == 0
        sha = subprocess.check_output(
            ["git", "-C", workspace / "clone", "rev-parse", f"{wanted}^{{commit}}"], text=True
        )
        assert (workspace / "output").read_text() == f"sha={sha}"

    @pytest.mark.parametrize(
        ("asked", "words"), [("", "there is no tag v*"), ("typo", "no tag, branch or commit typo")]
    )
    def test_says_so_where_there_is_none(self, workspace, asked, words):
        self.repository(workspace)
        assert self.step(workspace, "reference", cwd="clone", ASKED=asked) == 1
        assert f"::error::{words}" in self.said
        assert "SPECBENCH_REFERENCE" in self.said

    def repository(self, workspace, *tags):
        origin = workspace / "origin"
        git("init", origin)
        for tag in (*tags, "side"):
            git("-C", origin, "commit", "--allow-empty", "-m", tag)
            git("-C", origin, "branch" if tag == "side" else "tag", tag)
        git("clone", origin, workspace / "clone")


def condition(text, renew, failed, **outcomes):
    """What GitHub makes of a step's `if`, with what the input says and which steps failed before."""
    text = text.removeprefix("${{").removesuffix("}}").replace("&&", " and ").replace("||", " or ")
    text = re.sub(r"steps\.(\w+)\.outcome", r"outcome('\1')", text).replace("inputs.renew", "renew")
    names = {
        "outcome": lambda name: outcomes.get(name, "failure" if name in failed else "success"),
        "renew": renew, "always": lambda: True, "success": lambda: not failed,
        "cancelled": lambda: "cancelled" in failed,
    }  # fmt: skip
    return eval(re.sub(r"!(?!=)", " not ", text).strip(), names)
