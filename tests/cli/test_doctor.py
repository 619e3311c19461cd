"""`specbench doctor`: it has an answer on every machine, most of all on a broken one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from specbench import assets
from specbench.cli import doctor
from specbench.cli.app import main
from specbench.cuda import compile, loader, requirements
from specbench.errors import MachineError


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


def test_where_generated_code_can_be_run(monkeypatch):
    from specbench.sandbox import supervisor

    monkeypatch.setattr(supervisor, "fault", lambda kind: None)
    assert finding("sandbox for code").works is True
    assert finding("sandbox for code").detail.startswith("bubblewrap")
    monkeypatch.setattr(supervisor, "fault", lambda kind: "tried in vain")
    sandbox = finding("sandbox for code")
    assert sandbox.works is None, "nothing but one task needs it"
    for words in ("tried in vain", "apt install bubblewrap", "--allow-unsandboxed-code"):
        assert words in sandbox.detail


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


@pytest.fixture
def gpu(monkeypatch):
    """A machine with a GPU and all that kernels need; nothing is compiled."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Card")
    monkeypatch.setattr(requirements, "check_cupy", lambda: "14.2.0, built for CUDA 13.2")
    monkeypatch.setattr(requirements, "check_driver", lambda: "for CUDA 13.0")
    monkeypatch.setattr(requirements, "check_nvrtc", lambda: "NVRTC 13.0")
    monkeypatch.setattr(loader, "load", lambda *what: SimpleNamespace(registers=40))


def fail():
    raise MachineError("it is missing", "get it")


def test_without_a_gpu_one_line_says_what_works(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    kernels = finding("CUDA kernels")
    assert kernels.works is None
    assert "every method runs as torch operations" in kernels.detail
    assert not {"CuPy", "CUDA driver", "kernel compiler"} & {x.what for x in doctor.findings()}


def test_a_machine_for_kernels(gpu):
    assert finding("CuPy").detail == "14.2.0, built for CUDA 13.2"
    assert finding("CUDA driver").works is True
    assert finding("kernel compiler").detail == "NVRTC 13.0"
    assert finding("CUDA kernels").works is True
    assert finding("CUDA kernels").detail.startswith("18 compiled in ")
    assert "40 registers at most; cooperative launch" in finding("CUDA kernels").detail


@pytest.mark.parametrize(
    ("check", "what"),
    [("check_cupy", "CuPy"), ("check_driver", "CUDA driver"), ("check_nvrtc", "kernel compiler")],
)
def test_what_kernels_miss_is_named_and_nothing_is_compiled(gpu, monkeypatch, check, what):
    monkeypatch.setattr(requirements, check, fail)
    assert finding(what).works is False
    assert finding(what).detail == "it is missing: get it"
    assert "CUDA kernels" not in {one.what for one in doctor.findings()}


def test_a_kernel_that_does_not_compile(gpu, monkeypatch):
    monkeypatch.setattr(loader, "load", lambda *what: fail())
    assert finding("CUDA kernels").works is False


@pytest.mark.gpu
def test_every_kernel_compiles_here():
    assert finding("CUDA kernels").works is True, finding("CUDA kernels").detail


def test_the_table_of_kernels(monkeypatch, capsys):
    def compile_kernel(stem, dtype, architecture):
        spill_bytes = 24 if (stem, architecture) == ("verify_block", "sm_100") else 0
        return compile.Compiled(
            stem, dtype, architecture, 64, spill_bytes // 3, spill_bytes, 512, ""
        )

    monkeypatch.setattr(compile, "compile_kernel", compile_kernel)
    assert main(["doctor", "--kernels"]) == 0
    out = capsys.readouterr().out
    rows = [[x.strip() for x in line.split("│")[1:-1]] for line in out.splitlines() if "│" in line]
    assert ["verify_fused", "bfloat16", "512", *["64"] * 6] in rows
    assert ["verify_block", "float32", "512", *["64"] * 5, "64 stack 8 SPILLS 24"] in rows
    assert len(rows) == 18
    assert "NVRTC 13." in out


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
