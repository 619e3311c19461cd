"""The GPU's own counters through NVML, sampled beside a run; the only importer of pynvml.

Any query may be unsupported (a slice of a GPU, a laptop's, a virtual one): its column is then null and
the others stay. Without a GPU every column is null and nothing fails.
"""

from __future__ import annotations

import importlib
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

from specbench.telemetry.energy import EnergyCounter
from specbench.telemetry.gpu import Gpu, Sample, UnavailableError, own_slice, quietly
from specbench.telemetry.pace import Pace
from specbench.telemetry.processes import Process

_T = TypeVar("_T")

COLUMNS = {
    "nvml_gpu_util_pct": "gpu_util_pct",
    "nvml_mem_used_bytes": "mem_used_bytes",
    "nvml_power_w": "power_w",
    "nvml_sm_clock_mhz": "sm_clock_mhz",
}
"""Column of the result file → attribute of `Sample`."""

QUERIES = {
    "nvml_gpu_util_pct": "nvmlDeviceGetUtilizationRates",
    "nvml_mem_used_bytes": "nvmlDeviceGetMemoryInfo",
    "nvml_power_w": "nvmlDeviceGetPowerUsage",
    "nvml_sm_clock_mhz": "nvmlDeviceGetClockInfo",
    "energy_j": "nvmlDeviceGetTotalEnergyConsumption",
    "throttle_reasons": "nvmlDeviceGetCurrentClocksThrottleReasons",
    "foreign_processes": "nvmlDeviceGetComputeRunningProcesses",
}
"""Column → the query that it comes from, the last that is tried."""

CLOCK_EVENTS = {
    0x2: "applications_clocks_setting",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}
"""NVML's bits for why the clocks are low; `report.clocks` says which of them matter. 0x1, an idle GPU, is
left out: it slows nothing. A bit that is not known is "unknown_0x200"."""

IDLE = 0x1

PROCESS_INTERVAL_S = 1.0
"""Who else is there is asked less often than the rest."""

SOON_S = 0.05
"""A sample so soon after a window still tells of it: clocks fall later, and utilisation and power are
averages over what was before."""

KEPT_SAMPLES = 100_000
"""Well over an hour at the default interval; a nightly run must not fill the memory."""


class NvmlSampler:
    """Samples one GPU in a thread, for as long as the `with` block lasts.

    Args:
        device: a UUID ("GPU-..." or as torch gives it, without the prefix), a PCI bus id, or
            NVML's index. The index counts all GPUs of the machine in bus order: CUDA's differs
            under CUDA_VISIBLE_DEVICES, so prefer `cuda_uuid`. None: there is no GPU to sample.
        interval_s: time between samples; more where the driver is slow, see `pace`.
        nvml: the NVML module; None imports pynvml.

    Example:
        >>> with NvmlSampler(cuda_uuid("cuda:0")) as sampler:
        ...     start = time.perf_counter()
        ...     ...
        ...     row |= sampler.window(start, time.perf_counter())
    """

    def __init__(
        self, device: int | str | None, interval_s: float = 0.05, nvml: Any = None
    ) -> None:
        self._device, self._nvml = device, nvml
        self._gpu: Gpu | None = None
        self._pace = Pace(interval_s)
        self._energy = EnergyCounter(self._joules, interval_s)
        self._samples: list[Sample] = []
        self._looks: list[tuple[float, list[Process] | None]] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def available(self) -> tuple[bool, str]:
        """Whether the GPU can be sampled, and in one line why not."""
        if self._gpu is not None:
            return True, ""
        try:
            with _opened(self._device, self._nvml):
                return True, ""
        except UnavailableError as error:
            return False, f"no GPU telemetry: {error}"

    def gaps(self) -> dict[str, str]:
        """Columns that this GPU does not tell, each with NVML's reason; {} before the first sample."""
        if self._gpu is None:
            return {}
        refused = self._gpu.refused
        return {column: refused[query] for column, query in QUERIES.items() if query in refused}

    @property
    def lost(self) -> str | None:
        """Why the GPU no longer answers; None while it does."""
        return None if self._gpu is None else self._gpu.lost

    def __enter__(self) -> Self:
        try:
            self._nvml, handle = _open(self._device, self._nvml)
        except UnavailableError:
            return self
        self._gpu = Gpu(self._nvml, handle)
        self._stop.clear()
        self._take()
        self._thread = threading.Thread(target=self._loop, name="nvml-sampler", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._thread is None:
            return
        self._stop.set()
        try:
            self._thread.join()
            self._take(at_end=True, look=True)
        finally:
            self._thread, self._gpu = None, None
            quietly(self._nvml.nvmlShutdown)

    def begin(self) -> None:
        """Reads the energy counter before a window, which then knows its start as well as its end."""
        with self._lock:
            if self._gpu is not None and not self._gpu.lost:
                self._energy.take(at_once=True)

    def window(self, t0: float, t1: float) -> dict[str, Any]:
        """The columns `nvml_*`, `energy_*`, `throttle_reasons` and `foreign_processes` of a row.

        Ask soon after `t1`, and outside any timed span: it takes a sample itself (some milliseconds),
        which stands for the window if none fell into it. A list is empty if that came too late, and
        null if the GPU does not tell. Of `foreign_processes` the last look before the window counts too.

        Energy is `energy_j` where the window holds ten periods of the counter, else
        `energy_coarse_j`, which is fit for sums over many windows alone.

        Args:
            t0, t1: `time.perf_counter()` at both ends.
        """
        self._take(at_end=True)
        with self._lock:
            around = _around(self._samples, t0, t1, lambda sample: sample.t)
            looks = _around(self._looks, t0, t1, lambda look: look[0])
            energy = self._energy.columns(t0, t1)
        inside = [sample for sample in around if t0 <= sample.t <= t1]
        if not inside:
            inside = [sample for sample in around if t1 < sample.t <= t1 + SOON_S][:1]
        columns: dict[str, Any] = {"nvml_t_s": [s.t - t0 for s in inside] if around else None}
        for name, attribute in COLUMNS.items():
            told = any(getattr(sample, attribute) is not None for sample in around)
            columns[name] = [getattr(s, attribute) for s in inside] if told else None
        return columns | {
            **energy,
            "throttle_reasons": _events(inside),
            "foreign_processes": _named(
                [found for t, found in looks if found is not None and t <= t1]
            ),
        }

    def _loop(self) -> None:
        while not self._stop.wait(self._pace.pause_s) and self.lost is None:
            self._take()

    def _joules(self) -> float | None:
        return None if self._gpu is None else self._gpu.energy_j()

    def _take(self, at_end: bool = False, look: bool = False) -> None:
        """Thread-safe: the samples stay in the order of their times.

        Args:
            at_end: of a window, which needs the energy there.
            look: who else is there, though it is not time for it.
        """
        with self._lock:
            if self._gpu is None or self._gpu.lost:
                return
            self._samples.append(self._gpu.sample())
            now = self._samples[-1].t
            self._pace.took(time.perf_counter() - now)
            self._energy.take(at_once=at_end)
            if look or not self._looks or now - self._looks[-1][0] >= PROCESS_INTERVAL_S:
                self._looks.append((now, self._gpu.foreign()))
            for kept in (self._samples, self._looks):
                if len(kept) > KEPT_SAMPLES:
                    del kept[: KEPT_SAMPLES // 2]


def cuda_uuid(device: Any) -> str | None:
    """The UUID of a torch CUDA device, which NVML knows too; None if it is no CUDA device.

    Args:
        device: torch.device or its name.
    """
    if not str(device).startswith("cuda"):
        return None
    import torch

    return str(torch.cuda.get_device_properties(torch.device(device)).uuid)


def describe(device: int | str | None, nvml: Any = None) -> dict[str, Any]:
    """Name, driver, CUDA version of the driver, memory and clocks; {} without NVML."""
    try:
        with _opened(device, nvml) as (module, handle):
            return _describe(module, handle)
    except UnavailableError:
        return {}


@contextmanager
def _opened(device: int | str | None, nvml: Any) -> Iterator[tuple[Any, Any]]:
    nvml, handle = _open(device, nvml)
    try:
        yield nvml, handle
    finally:
        quietly(nvml.nvmlShutdown)


def _open(device: int | str | None, nvml: Any) -> tuple[Any, Any]:
    """(NVML module, handle of the device), initialised; the caller shuts it down."""
    if device is None:
        raise UnavailableError("not running on an NVIDIA GPU")
    try:
        nvml = nvml or importlib.import_module("pynvml")
    except ImportError as error:
        raise UnavailableError("the package nvidia-ml-py is not installed") from error
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise UnavailableError(str(error)) from error
    try:
        return nvml, _find(nvml, device)
    except BaseException:
        quietly(nvml.nvmlShutdown)
        raise


def _find(nvml: Any, device: int | str) -> Any:
    for query, name in _queries(nvml, device):
        try:
            handle = query(name)
        except nvml.NVMLError as error:
            reason = str(error)
        else:
            return handle if isinstance(device, int) else own_slice(nvml, handle)
    raise UnavailableError(f"NVML does not know the GPU {device!r}: {reason}")


def _queries(nvml: Any, device: int | str) -> list[tuple[Callable[[Any], Any], Any]]:
    if isinstance(device, int):
        return [(nvml.nvmlDeviceGetHandleByIndex, device)]
    if ":" in device:
        return [(nvml.nvmlDeviceGetHandleByPciBusId, device)]
    names = [device] if device.startswith(("GPU-", "MIG-")) else [f"GPU-{device}", f"MIG-{device}"]
    return [(nvml.nvmlDeviceGetHandleByUUID, name) for name in names]


def _around(items: list[_T], t0: float, t1: float, time_of: Callable[[_T], float]) -> list[_T]:
    """Those in the window, and the one on either side of it."""
    first, last = bisect_left(items, t0, key=time_of), bisect_right(items, t1, key=time_of)
    return items[max(first - 1, 0) : last + 1]


def _named(looks: list[list[Process]]) -> list[str] | None:
    """Every process that was seen, once, at its most memory; [] if there was none, None if unknown."""
    if not looks:
        return None
    most: dict[int, Process] = {}
    for process in (one for look in looks for one in look):
        before = most.setdefault(process.pid, process)
        if (process.memory_bytes or 0) > (before.memory_bytes or 0):
            most[process.pid] = process
    return sorted(str(process) for process in most.values())


def _events(samples: list[Sample]) -> list[str] | None:
    """Every reason that occurred; [] if there was none, None if it could not be asked."""
    known = [sample.clock_events for sample in samples if sample.clock_events is not None]
    if not known:
        return None
    bits = {1 << place for mask in known for place in range(mask.bit_length()) if mask >> place & 1}
    return sorted(CLOCK_EVENTS.get(bit, f"unknown_{bit:#x}") for bit in bits - {IDLE})


def _describe(nvml: Any, handle: Any) -> dict[str, Any]:
    def ask(name: str, *arguments: Any) -> Any:
        return quietly(lambda: getattr(nvml, name)(*arguments))

    memory = ask("nvmlDeviceGetMemoryInfo", handle)
    cuda = ask("nvmlSystemGetCudaDriverVersion")
    clocks = {
        f"{domain}_{kind}_mhz": ask(query, handle, getattr(nvml, f"NVML_CLOCK_{domain.upper()}"))
        for domain in ("sm", "mem")
        for kind, query in (("now", "nvmlDeviceGetClockInfo"), ("max", "nvmlDeviceGetMaxClockInfo"))
    }
    return {
        "device_name": ask("nvmlDeviceGetName", handle),
        "device_uuid": ask("nvmlDeviceGetUUID", handle),
        "device_memory_bytes": None if memory is None else int(memory.total),
        "driver": ask("nvmlSystemGetDriverVersion"),
        "driver_cuda": None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
        "clocks": clocks,
    }
