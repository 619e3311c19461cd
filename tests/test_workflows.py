"""The workflows: shell that parses, actions that stand still, no more rights than needed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def load(path):
    # YAML 1.1 reads the key `on` as true
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps(path):
    return [step for job in load(path)["jobs"].values() for step in job["steps"]]


def blocks(kind):
    text = (ROOT / "docs" / "nightly.md").read_text(encoding="utf-8")
    return re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)


SHELL = [
    (path.name, step.get("name", step["run"].splitlines()[0]), step["run"])
    for path in WORKFLOWS
    for step in steps(path)
    if "run" in step
]

SHELL += [("nightly.md", "cron", text) for text in blocks("sh")]
SHELL += [
    ("nightly.md", name, "\n".join(job["script"]))
    for text in blocks("yaml")
    for name, job in yaml.safe_load(text).items()
]


def test_both_are_there():
    assert [path.stem for path in WORKFLOWS] == ["ci", "nightly"]


@pytest.mark.parametrize(("file", "name", "script"), SHELL)
class TestShell:
    def test_parses(self, file, name, script):
        done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def test_takes_what_a_user_wrote_from_the_environment_alone(self, file, name, script):
        """An expression in a script is pasted into it before the shell reads it."""
        assert "${{" not in script


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
class TestSafety:
    def test_actions_are_pinned_to_a_commit(self, path):
        used = re.findall(r"uses: (\S+)(.*)", path.read_text(encoding="utf-8"))
        assert used
        for action, version in used:
            assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", action)
            assert re.fullmatch(r" # v[\d.]+", version)

    def test_may_read_and_no_more(self, path):
        workflow = load(path)
        assert workflow["permissions"] == {"contents": "read"}
        assert all("permissions" not in job for job in workflow["jobs"].values())
        keeps = [s["with"]["persist-credentials"] for s in steps(path) if "checkout" in str(s)]
        assert keeps
        assert not any(keeps)

    def test_ends_by_itself_and_does_not_pile_up(self, path):
        workflow = load(path)
        assert workflow["concurrency"]["group"]
        assert all(job["timeout-minutes"] for job in workflow["jobs"].values())


def test_other_ways_are_shown_too():
    assert [name for file, name, _ in SHELL if file == "nightly.md"] == ["cron", "nightly"]


def test_ci_runs_on_every_python_that_is_supported():
    matrix = load(ROOT / ".github/workflows/ci.yml")["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["python"] == ["3.11", "3.12", "3.13"]
    assert 'requires-python = ">=3.11"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_nightly_keeps_its_files_whatever_happened():
    last = steps(ROOT / ".github/workflows/nightly.yml")[-1]
    assert "upload-artifact" in last["uses"]
    assert last["if"] == "${{ always() }}"
    assert all(kind in last["with"]["path"] for kind in ("*.parquet", "*.xml"))
