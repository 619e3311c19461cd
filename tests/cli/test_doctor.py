"""`specbench doctor`: it has an answer on every machine, most of all on a broken one."""

from __future__ import annotations

import pytest
import torch

from specbench import assets
from specbench.cli import doctor
from specbench.cli.app import main


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")


def finding(what):
    found = [one for one in doctor.findings() if what in one.what]
    assert len(found) == 1
    return found[0]


def test_report_is_on_stdout(capsys):
    assert main(["doctor"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for one in doctor.findings():
        assert one.what in out
        assert one.detail.split(",")[0] in out


def test_packages_have_versions():
    assert f"torch {torch.__version__}" in finding("packages").detail
    assert "None" not in finding("packages").detail


def test_torch_without_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    gpu = finding("run on a GPU")
    assert gpu.works is None
    assert "built without CUDA" in gpu.detail


def test_torch_with_cuda_but_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    gpu = finding("run on a GPU")
    assert gpu.works is None
    assert "13.0" in gpu.detail
    assert "nvidia-smi" in gpu.detail


def test_gpus_have_names(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"Card {index}")
    gpu = finding("run on a GPU")
    assert gpu.works is True
    assert "Card 0, Card 1" in gpu.detail


def test_missing_folders_are_a_finding_not_a_crash(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(assets, "PACKAGE", tmp_path / "site-packages" / "specbench")
    assert finding("kernels and scenarios").works is False
    assert "kernels/" in finding("kernels and scenarios").detail
    assert finding("demo-lm").works is False
    assert main(["doctor"]) == 0
    assert "Reinstall" in capsys.readouterr().out


def test_demo_weights_are_looked_for(monkeypatch, tmp_path):
    package = tmp_path / "specbench"
    monkeypatch.setattr(assets, "PACKAGE", package)
    for role in ("target", "draft"):
        (package / "demo" / "lm" / role).mkdir(parents=True)
    assert finding("demo-lm").works is False
    for role in ("target", "draft"):
        (package / "demo" / "lm" / role / "model.safetensors").write_bytes(b"0" * 1_500_000)
    demo = finding("demo-lm")
    assert demo.works is True
    assert "3.0 MB" in demo.detail


@pytest.mark.parametrize(("offline", "works"), [(True, None), (False, True)])
def test_hub(monkeypatch, tmp_path, offline, works):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("models--a--b", "models--c--d", "datasets--e--f"):
        (tmp_path / name).mkdir()
    hub = finding("model hub")
    assert hub.works is works
    assert str(tmp_path) in hub.detail
    assert offline or "2 models" in hub.detail


def test_a_path_in_brackets_is_shown_as_it_is(monkeypatch, tmp_path, capsys):
    """Rich would take `[red]` for a colour."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", "/cache/[red]/hub")
    main(["doctor"])
    assert "/cache/[red]/hub" in capsys.readouterr().out
