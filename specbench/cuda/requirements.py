"""What CUDA kernels need of a machine: CuPy, driver, GPU, NVRTC, and a GPU that launches cooperatively.

Each check returns what it found in words, or raises a `MachineError` that says exactly what is missing.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from specbench.errors import MachineError

OLDEST_DRIVER = {12: "525", 13: "580"}
"""First driver release of each CUDA major version; any release of the same major will do."""


def require() -> None:
    """Raises MachineError unless kernels can be compiled and run here, and says what is missing."""
    check_cupy()
    check_driver()
    check_nvrtc()


def check_cupy() -> str:
    """CuPy's version, and the CUDA version that it is built for.

    Raises:
        MachineError: it is not installed, or cannot be imported.
    """
    cupy = import_cupy()
    return f"{cupy.__version__}, built for CUDA {_dotted(_build(cupy))}"


def check_driver() -> str:
    """The CUDA version of the driver, which must be that of CuPy's build or newer in its major.

    Raises:
        MachineError: there is no driver, it is too old, or it shows no GPU.
    """
    cupy = import_cupy()
    found, needed = cupy.cuda.runtime.driverGetVersion(), _build(cupy) // 1000
    if found == 0:
        raise MachineError(
            "there is no NVIDIA driver: libcuda was not found",
            "CUDA kernels need an NVIDIA GPU and its driver. If there is one, check `nvidia-smi`.",
        )
    if found // 1000 < needed:
        raise MachineError(
            f"the driver is for CUDA {_dotted(found)}, too old for this CuPy, built for CUDA {needed}",
            f"Update the driver to {OLDEST_DRIVER.get(needed, 'a newer release')} or later, or exchange "
            f"CuPy for the build of CUDA {found // 1000}: "
            f"pip uninstall cupy-cuda{needed}x; {_install(found // 1000)}",
        )
    _check_gpu(cupy)
    return f"for CUDA {_dotted(found)}, new enough for CUDA {needed}"


def check_nvrtc() -> str:
    """The version of NVRTC, the compiler.

    Raises:
        MachineError: CuPy finds none.
    """
    cupy = import_cupy()
    try:
        return "NVRTC " + ".".join(map(str, cupy.cuda.nvrtc.getVersion()))
    except (ImportError, OSError, RuntimeError) as error:
        major = _build(cupy) // 1000
        package = "nvidia-cuda-nvrtc" if major >= 13 else f"nvidia-cuda-nvrtc-cu{major}"
        raise MachineError(
            f"CuPy finds no NVRTC, the compiler of CUDA {major}: {_one_line(error)}",
            f"pip install {package}",
        ) from error


def check_cooperative_launch(device_index: int) -> str:
    """Whether a GPU starts all thread blocks of a launch at once, as a grid barrier needs.

    Raises:
        MachineError: it does not.
    """
    device = import_cupy().cuda.Device(device_index)
    if not device.attributes["CooperativeLaunch"]:
        raise MachineError(
            f"GPU {device_index} has no cooperative launch, which the kernels' grid barrier needs",
            "Take another GPU; under MPS or virtualisation it may be switched off.",
        )
    return "cooperative launch"


def import_cupy() -> Any:
    """The module cupy.

    Raises:
        MachineError: it is not installed, or cannot be imported.
    """
    try:
        import cupy
    except ModuleNotFoundError as error:
        if error.name == "cupy":
            raise MachineError("CuPy is not installed", _install(_torch_cuda())) from None
        raise _broken(error) from error
    except ImportError as error:
        raise _broken(error) from error
    return cupy


def _broken(error: ImportError) -> MachineError:
    return MachineError(
        f"CuPy cannot be imported: {_one_line(error)}",
        "Keep one of cupy-cuda12x and cupy-cuda13x, and install that one again.",
    )


def _check_gpu(cupy: ModuleType) -> None:
    try:
        count, reason = cupy.cuda.runtime.getDeviceCount(), ""
    except cupy.cuda.runtime.CUDARuntimeError as error:
        count, reason = 0, f": {_one_line(error)}"
    if count == 0:
        raise MachineError(
            f"the driver shows no GPU{reason}", "Check `nvidia-smi` and CUDA_VISIBLE_DEVICES."
        )


def _build(cupy: ModuleType) -> int:
    """CUDA version of CuPy's build: 13020 is 13.2."""
    return int(cupy.cuda.runtime.runtimeGetVersion())


def _torch_cuda() -> int | None:
    """The CUDA major version that torch is built for; None if it is built for the CPU."""
    import torch

    return None if torch.version.cuda is None else int(torch.version.cuda.partition(".")[0])


def _install(major: int | None) -> str:
    if major is None:
        return f"{_install(13)}, or [cuda12] for a driver older than {OLDEST_DRIVER[13]}"
    return f"pip install 'specbench[cuda{12 if major <= 12 else 13}]'"


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
