"""`specbench doctor`: what this machine can run, and why not."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from specbench.errors import MachineError

if TYPE_CHECKING:
    from specbench.cuda.compile import Compiled


@dataclass(frozen=True)
class Finding:
    """One line of the report. `works` is None for what is missing and not needed here."""

    what: str
    works: bool | None
    detail: str


_MARKS = {
    True: Text("yes", "green"),
    False: Text("no", "red"),
    None: Text("absent", "yellow"),
}


def doctor(
    kernels: Annotated[
        bool,
        typer.Option(
            "--kernels",
            help="Compile all CUDA kernels for all architectures instead, which needs no GPU, and "
            "show what each takes.",
        ),
    ] = False,
) -> None:
    """Say what this machine can run, and for the rest what is missing and how to get it.

    Example: specbench doctor
    """
    if kernels:
        Console(markup=False).print(_kernel_table())
        return
    table = Table("what", "", "detail")
    for finding in findings():
        table.add_row(finding.what, _MARKS[finding.works], finding.detail)
    Console(markup=False).print(table)


def findings() -> list[Finding]:
    """Everything that is looked at, in order."""
    return [
        _packages(), _torch(), _gpu(), _nvml(), *_cuda(), _methods(), _assets(),
        *map(_demo, ("lm", "asr")), _hub(), _sandbox(),
    ]  # fmt: skip


def _packages() -> Finding:
    names = ("specbench", "torch", "transformers", "pandas", "pyarrow")
    return Finding("packages", True, ", ".join(f"{name} {_version(name)}" for name in names))


def _torch() -> Finding:
    import torch

    return Finding("run on the CPU", True, f"{torch.get_num_threads()} threads")


def _gpu() -> Finding:
    import torch

    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(count))
        return Finding("run on a GPU", True, f"{names}; torch for CUDA {torch.version.cuda}")
    if torch.version.cuda is None:
        reason = f"this torch ({torch.__version__}) is built without CUDA: install a CUDA build"
    else:
        reason = f"torch for CUDA {torch.version.cuda} sees no GPU: check nvidia-smi and the driver"
    return Finding("run on a GPU", None, reason)


def _nvml() -> Finding:
    from specbench.telemetry.nvml import NvmlSampler

    works, reason = NvmlSampler(0).available()
    detail = reason or "utilisation, memory, power, clocks, energy"
    return Finding("GPU telemetry", works or None, detail)


def _cuda() -> list[Finding]:
    import torch

    from specbench.cuda import requirements

    if not torch.cuda.is_available():
        why = "need a GPU; without one every method runs as torch operations, by the same law"
        return [Finding("CUDA kernels", None, why)]
    found = [
        _tried("CuPy", requirements.check_cupy),
        _tried("CUDA driver", requirements.check_driver),
        _tried("kernel compiler", requirements.check_nvrtc),
    ]
    return [*found, _tried("CUDA kernels", _compiled)] if all(f.works for f in found) else found


def _tried(what: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(what, True, check())
    except MachineError as error:
        return Finding(what, False, f"{error.message}: {error.hint}")


def _compiled() -> str:
    """Compiles every kernel for the first GPU.

    Raises:
        MachineError: one does not compile, or the GPU cannot run them.
    """
    from specbench.cuda.loader import DTYPES, KERNELS, load

    start = time.monotonic()
    with Console(stderr=True).status("compiling the kernels"):
        loaded = [load(stem, dtype, 0) for stem in KERNELS for dtype in DTYPES]
    most = max(kernel.registers for kernel in loaded)
    took = time.monotonic() - start
    return f"{len(loaded)} compiled in {took:.1f} s, {most} registers at most; cooperative launch"


def _kernel_table() -> Table:
    from specbench.cuda.compile import ARCHITECTURES, compile_report, compiler

    with Console(stderr=True).status("compiling the kernels"):
        report = list(compile_report())
    table = Table(
        "kernel", "dtype", "shared", *ARCHITECTURES,
        caption="Registers of a thread, and its bytes of stack and of spills if it has any; "
        f"static shared memory of a thread block in bytes. Compiled by {compiler()}, not run.",
    )  # fmt: skip
    width = len(ARCHITECTURES)
    for first in range(0, len(report), width):
        row = report[first : first + width]
        shared = str(max(one.shared_bytes for one in row))
        table.add_row(row[0].stem, row[0].dtype, shared, *map(_resources, row))
    return table


def _resources(compiled: Compiled) -> str:
    parts = [str(compiled.registers)]
    if compiled.stack_bytes:
        parts.append(f"stack {compiled.stack_bytes}")
    if compiled.spill_bytes:
        parts.append(f"SPILLS {compiled.spill_bytes}")
    return " ".join(parts)


def _methods() -> Finding:
    from specbench.sampling.registry import broken_methods, methods, missing_methods

    broken = [f"{name} cannot be loaded ({why})" for name, why in broken_methods().items()]
    missing = [f"{name} is not installed" for name in missing_methods()]
    return Finding("methods", not broken, "; ".join([", ".join(methods()), *missing, *broken]))


def _assets() -> Finding:
    from specbench.assets import kernels_dir, scenarios_dir

    what = "kernels and scenarios"
    try:
        return Finding(what, True, f"{kernels_dir()}, {scenarios_dir()}")
    except MachineError as error:
        return Finding(what, False, f"{error.message}: {error.hint}")


def _demo(name: str) -> Finding:
    from specbench.assets import demo_dir

    what = f"embedded pair demo-{name}"
    try:
        demo_dir()
    except MachineError as error:
        return Finding(what, False, f"{error.message}: {error.hint}")
    folders = [demo_dir() / name / role for role in ("target", "draft")]
    missing = [str(f) for f in folders if not (f / "model.safetensors").is_file()]
    if missing:
        return Finding(what, False, f"weights are missing: {', '.join(missing)}")
    size = sum(f.stat().st_size for folder in folders for f in folder.iterdir())
    return Finding(what, True, f"{size / 1e6:.1f} MB, no network needed")


def _hub() -> Finding:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    if constants.HF_HUB_OFFLINE:
        return Finding("model hub", None, f"HF_HUB_OFFLINE is set; models come from {cache} alone")
    held = len(list(cache.glob("models--*"))) if cache.is_dir() else 0
    return Finding("model hub", True, f"cache {cache}, {held} models; reached when a run needs it")


def _sandbox() -> Finding:
    """Of the task code; nothing else needs it."""
    from specbench.sandbox import isolation

    what = "sandbox for code"
    try:
        return Finding(what, True, f"{isolation()}: the task code runs what a model writes in it")
    except MachineError as error:
        return Finding(what, None, f"{error.message}. {error.hint}")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
