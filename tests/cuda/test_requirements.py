"""What is missing is said exactly, on machines that lack it in turn."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from specbench.cuda import requirements
from specbench.errors import MachineError


class FakeError(RuntimeError):
    """In the place of CUDARuntimeError."""


@pytest.fixture
def cupy(monkeypatch):
    """A machine that has everything, to take things from."""
    runtime = SimpleNamespace(
        driverGetVersion=lambda: 13000,
        runtimeGetVersion=lambda: 13020,
        getDeviceCount=lambda: 1,
        CUDARuntimeError=FakeError,
    )
    nvrtc = SimpleNamespace(getVersion=lambda: (13, 5))
    fake = SimpleNamespace(__version__="14.2.0", cuda=SimpleNamespace(runtime=runtime, nvrtc=nvrtc))
    monkeypatch.setitem(sys.modules, "cupy", fake)
    return fake


def missing():
    with pytest.raises(MachineError) as error:
        requirements.require()
    return error.value


def test_a_machine_that_has_everything(cupy):
    requirements.require()
    assert requirements.check_cupy() == "14.2.0, built for CUDA 13.2"
    assert requirements.check_driver() == "for CUDA 13.0, new enough for CUDA 13"
    assert requirements.check_nvrtc() == "NVRTC 13.5"


@pytest.mark.parametrize(
    ("cuda", "hint"),
    [
        ("12.8", "pip install 'specbench[cuda12]'"),
        ("13.0", "pip install 'specbench[cuda13]'"),
        (None, "pip install 'specbench[cuda13]', or [cuda12] for a driver older than 580"),
    ],
)
def test_no_cupy(monkeypatch, cuda, hint):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    assert missing().message == "CuPy is not installed"
    assert missing().hint == hint


@pytest.mark.parametrize(
    "error", [ImportError("libcudart.so.13:\nno"), ModuleNotFoundError("no numpy", name="numpy")]
)
def test_a_cupy_that_cannot_be_imported(monkeypatch, error):
    class Finder:
        def find_spec(self, name, *_):
            if name == "cupy":
                raise error

    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    text = "CuPy cannot be imported: " + " ".join(str(error).split())
    assert missing().message == text
    assert "install that one again" in missing().hint


def test_no_driver(cupy):
    cupy.cuda.runtime.driverGetVersion = lambda: 0
    assert "no NVIDIA driver" in missing().message
    assert "nvidia-smi" in missing().hint


def test_a_driver_too_old_for_this_cupy(cupy):
    cupy.cuda.runtime.driverGetVersion = lambda: 12080
    assert "the driver is for CUDA 12.8, too old for this CuPy" in missing().message
    assert "580" in missing().hint
    assert "pip uninstall cupy-cuda13x; pip install 'specbench[cuda12]'" in missing().hint


def test_a_driver_that_is_older_within_the_major_version_will_do(cupy):
    cupy.cuda.runtime.driverGetVersion = lambda: 13000
    requirements.require()


def test_no_gpu(cupy, monkeypatch):
    cupy.cuda.runtime.getDeviceCount = lambda: 0
    assert missing().message == "the driver shows no GPU"

    def fail():
        raise FakeError("cudaErrorNoDevice: no CUDA-capable device is detected")

    cupy.cuda.runtime.getDeviceCount = fail
    assert "no GPU: cudaErrorNoDevice" in missing().message
    assert "CUDA_VISIBLE_DEVICES" in missing().hint


@pytest.mark.parametrize(
    ("build", "package"), [(13020, "nvidia-cuda-nvrtc"), (12090, "nvidia-cuda-nvrtc-cu12")]
)
def test_no_nvrtc(cupy, build, package):
    def fail():
        raise RuntimeError("CuPy failed to load libnvrtc.so")

    cupy.cuda.runtime.runtimeGetVersion = lambda: build
    cupy.cuda.nvrtc.getVersion = fail
    assert f"no NVRTC, the compiler of CUDA {build // 1000}: CuPy failed" in missing().message
    assert missing().hint == f"pip install {package}"


@pytest.mark.parametrize("able", [1, 0])
def test_cooperative_launch(cupy, able):
    cupy.cuda.Device = lambda index: SimpleNamespace(attributes={"CooperativeLaunch": able})
    if able:
        assert requirements.check_cooperative_launch(1) == "cooperative launch"
        return
    with pytest.raises(MachineError, match="GPU 1 has no cooperative launch"):
        requirements.check_cooperative_launch(1)


@pytest.mark.gpu
def test_this_machine_has_everything():
    requirements.require()
    requirements.check_cooperative_launch(0)
