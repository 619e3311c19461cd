"""Where a run took place: everything one needs to tell whether two runs are comparable.

Environment variables are not recorded: they hold secrets.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from specbench.assets import checkout_dir
from specbench.cuda import loader
from specbench.errors import SpecbenchError
from specbench.telemetry.nvml import cuda_uuid, describe

PACKAGES = (
    *("specbench", "torch", "transformers", "tokenizers", "datasets", "triton"),
    *("cupy-cuda12x", "cupy-cuda13x", "cupy", "numpy", "pandas", "pyarrow", "nvidia-ml-py"),
    *("flashinfer-python", "vllm"),
)
GIT_TIMEOUT_S = 2.0


def capture(argv: Sequence[str], scenario_text: str | None, device: Any = None) -> dict[str, Any]:
    """The result file's metadata, see `report.schema.METADATA_KEY`; null is what is not known.

    Args:
        argv: the command line.
        scenario_text: the scenario's YAML, None if there is none.
        device: torch.device or its name; None: no model runs (and torch is not imported).
    """
    return {
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        # A result file is passed on: it names neither folders of this machine nor its serial numbers.
        "argv": ["specbench", *argv[1:]],
        "scenario": scenario_text,
        "scenario_sha256": None if scenario_text is None else _sha256(scenario_text.encode()),
        **git_state(checkout_dir()),
        "packages": package_versions(),
        "python": platform.python_version(),
        "platform": f"{platform.system()}-{platform.machine()}",
        "cpu": {"model": cpu_model(), "threads": os.cpu_count()},
        "kernel_hash": kernel_hash(),
        **device_facts(device),
    }


def git_state(checkout: Path | None) -> dict[str, Any]:
    """`git_sha` and `git_dirty` of specbench's own checkout; null in a wheel or without git.

    Args:
        checkout: its root; a repository that merely contains the folder does not count.
    """
    unknown = {"git_sha": None, "git_dirty": None}
    root = _git(checkout, "rev-parse", "--show-toplevel") if checkout else None
    if checkout is None or root is None or Path(root).resolve() != checkout.resolve():
        return unknown
    sha, changes = _git(checkout, "rev-parse", "HEAD"), _git(checkout, "status", "--porcelain")
    return {"git_sha": sha, "git_dirty": None if changes is None else bool(changes)}


def package_versions() -> dict[str, str]:
    """Version of each package that can change a result, of those that are installed."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def cpu_model() -> str | None:
    """As the machine calls it: "AMD EPYC 9334 32-Core Processor"."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or None


def kernel_hash() -> str | None:
    """The CUDA C of kernels/, see `loader.kernel_hash`; None if it is missing."""
    try:
        return loader.kernel_hash()
    except SpecbenchError:
        return None


def device_facts(device: Any) -> dict[str, Any]:
    """`device_name`, `driver`, `cuda` and `clocks`: of the GPU, or the CPU's name and nulls."""
    facts: dict[str, Any] = {"device_name": None, "driver": None, "cuda": None, "clocks": None}
    if device is None:
        return facts
    uuid = cuda_uuid(device)
    if uuid is None:
        is_cpu = str(device).startswith("cpu")
        return facts | {"device_name": cpu_model() if is_cpu else str(device)}
    import torch

    known = {"device_name": torch.cuda.get_device_name(device)} | {
        name: value
        for name, value in describe(uuid).items()
        if value is not None and name != "device_uuid"
    }
    cuda = {"torch": torch.version.cuda, "driver": known.pop("driver_cuda", None)}
    return facts | known | {"cuda": cuda}


def _git(directory: Path, *arguments: str) -> str | None:
    # a git hook's GIT_DIR would point at another repository
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(directory), *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=GIT_TIMEOUT_S, env=clean, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
