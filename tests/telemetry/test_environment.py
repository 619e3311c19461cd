from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import pytest

from specbench.cuda import loader
from specbench.errors import MachineError
from specbench.telemetry.environment import capture, git_state, kernel_hash, package_versions

UNKNOWN = {"git_sha": None, "git_dirty": None}


def git(folder, *arguments):
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    command = ["git", "-C", str(folder), *who, *arguments]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "code.py").write_text("x = 1\n")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def test_capture_has_what_the_result_file_promises():
    found = capture(["specbench", "run", "demo"], "name: demo\n", "cpu")
    assert json.loads(json.dumps(found)) == found
    assert found["argv"] == ["specbench", "run", "demo"]
    assert found["scenario"] == "name: demo\n"
    assert found["scenario_sha256"] == hashlib.sha256(b"name: demo\n").hexdigest()
    assert found["created_utc"].endswith("+00:00")
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["cpu"]["threads"] >= 1
    assert found["device_name"]
    assert {"git_sha", "git_dirty", "kernel_hash", "platform"} <= set(found)
    assert (found["driver"], found["cuda"], found["clocks"]) == (None, None, None)


def test_without_a_scenario_or_a_device_these_are_null():
    found = capture(["specbench"], None)
    assert (found["scenario"], found["scenario_sha256"], found["device_name"]) == (None, None, None)


def test_no_environment_variable_is_recorded(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_a-secret-that-must-not-leak")
    assert "must-not-leak" not in json.dumps(capture(["specbench"], "", "cpu"))


def test_versions_of_what_is_installed():
    versions = package_versions()
    assert {"numpy", "pandas", "pyarrow", "torch"} <= set(versions)
    assert all(versions.values())


def test_a_clean_and_a_dirty_checkout(checkout):
    state = git_state(checkout)
    assert len(state["git_sha"]) == 40
    assert state["git_dirty"] is False
    (checkout / "code.py").write_text("x = 2\n")
    assert git_state(checkout) == state | {"git_dirty": True}


def test_a_repository_around_an_installed_package_is_not_its_own(checkout):
    inside = checkout / "site-packages"
    inside.mkdir()
    assert git_state(inside) == UNKNOWN
    assert git_state(None) == UNKNOWN


def test_no_repository_and_no_git(tmp_path, checkout, monkeypatch):
    assert git_state(tmp_path) == UNKNOWN
    monkeypatch.setenv("PATH", "")
    assert git_state(checkout) == UNKNOWN


def test_a_git_that_hangs_is_given_up(checkout, monkeypatch):
    def hang(*arguments, timeout, **options):
        assert timeout == 2.0
        raise subprocess.TimeoutExpired("git", timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    assert git_state(checkout) == UNKNOWN


def test_a_hooks_git_dir_does_not_mislead(tmp_path, checkout, monkeypatch):
    sha = git_state(checkout)["git_sha"]
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert git_state(checkout)["git_sha"] == sha


def test_the_kernel_hash_is_the_loaders():
    assert capture([], None)["kernel_hash"] == loader.kernel_hash()


def test_missing_kernels_have_no_hash(monkeypatch):
    def missing():
        raise MachineError("the folder kernels/ is missing")

    monkeypatch.setattr(loader, "kernels_dir", missing)
    assert kernel_hash() is None


def test_torch_is_imported_for_a_cuda_device_only():
    script = (
        "import sys; from specbench.telemetry.environment import capture;"
        "capture([], None); capture([], None, 'cpu'); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.gpu
def test_a_gpu_is_described():
    import torch

    found = capture([], None, "cuda")
    assert found["device_name"] == torch.cuda.get_device_name()
    assert found["cuda"]["torch"] == torch.version.cuda
    assert found["driver"]
    assert found["clocks"]["sm_max_mhz"] > 0
    json.dumps(found)
