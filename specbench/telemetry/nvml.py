"""The GPU's own counters through NVML, sampled beside a run; the only importer of pynvml.

Any query may be unsupported (MIG, a laptop GPU, a virtual one): its column is then null and the
others stay. Without a GPU every column is null and nothing fails.
"""

from __future__ import annotations

import importlib
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np

COLUMNS = {
    "nvml_gpu_util_pct": "gpu_util_pct",
    "nvml_mem_used_bytes": "mem_used_bytes",
    "nvml_power_w": "power_w",
    "nvml_sm_clock_mhz": "sm_clock_mhz",
}
"""Column of the result file → attribute of `Sample`."""

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
"""NVML's bits for why the clocks are low. 0x1, an idle GPU, is left out: it slows nothing."""

MIN_ENERGY_WINDOW_S = 1.0
"""The energy counter moves every 0.1 s (measured on an H100): over less than ten of its steps the
figure would be wrong by more than 10 %, so it is null."""

KEPT_SAMPLES = 100_000
"""Well over an hour at the default interval; a nightly run must not fill the memory."""


@dataclass(frozen=True)
class Sample:
    """One look at the GPU; None is what it does not tell.

    Attributes:
        t: `time.perf_counter()` seconds.
        energy_j: the counter since the driver was loaded.
        clock_events: NVML's bit mask, see `CLOCK_EVENTS`.
    """

    t: float
    gpu_util_pct: float | None = None
    mem_used_bytes: int | None = None
    power_w: float | None = None
    sm_clock_mhz: float | None = None
    energy_j: float | None = None
    clock_events: int | None = None


class NvmlSampler:
    """Samples one GPU in a thread, for as long as the `with` block lasts.

    Args:
        device: a UUID ("GPU-..." or as torch gives it, without the prefix), a PCI bus id, or
            NVML's index. The index counts all GPUs of the machine in bus order: CUDA's differs
            under CUDA_VISIBLE_DEVICES, so prefer `cuda_uuid`. None: there is no GPU to sample.
        interval_s: time between samples.
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
        self.interval_s = interval_s
        self._device, self._nvml = device, nvml
        self._handle: Any = None
        self._samples: list[Sample] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def available(self) -> tuple[bool, str]:
        """Whether the GPU can be sampled, and in one line why not."""
        if self._handle is not None:
            return True, ""
        try:
            with _opened(self._device, self._nvml):
                return True, ""
        except _UnavailableError as error:
            return False, f"no GPU telemetry: {error}"

    def __enter__(self) -> Self:
        try:
            self._nvml, self._handle = _open(self._device, self._nvml)
        except _UnavailableError:
            return self
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
            self._take()
        finally:
            self._thread, self._handle = None, None
            _quietly(self._nvml, self._nvml.nvmlShutdown)

    def window(self, t0: float, t1: float) -> dict[str, Any]:
        """The columns `nvml_*`, `energy_j` and `throttle_reasons` of a row.

        Ask soon after `t1`, and outside any timed span: it takes a sample itself (4 ms) if the
        window is long enough for `energy_j`. A list is empty if no sample fell into the window,
        and null if the GPU does not tell.

        Args:
            t0, t1: `time.perf_counter()` at both ends.
        """
        if t1 - t0 >= MIN_ENERGY_WINDOW_S and self._handle is not None:
            self._take()
        around, inside = self._around(t0, t1)
        columns: dict[str, Any] = {"nvml_t_s": [s.t - t0 for s in inside] if around else None}
        for name, attribute in COLUMNS.items():
            told = any(getattr(sample, attribute) is not None for sample in around)
            columns[name] = [getattr(s, attribute) for s in inside] if told else None
        columns["energy_j"] = _energy(around, t0, t1)
        columns["throttle_reasons"] = _events(inside)
        return columns

    def _around(self, t0: float, t1: float) -> tuple[list[Sample], list[Sample]]:
        """(the samples in the window and the one on either side of it, those in the window)"""
        with self._lock:
            first = bisect_left(self._samples, t0, key=lambda sample: sample.t)
            last = bisect_right(self._samples, t1, key=lambda sample: sample.t)
            around = self._samples[max(first - 1, 0) : last + 1]
        return around, [sample for sample in around if t0 <= sample.t <= t1]

    def _loop(self) -> None:
        while not self._stop.wait(self.interval_s):
            self._take()

    def _take(self) -> None:
        """Thread-safe: the samples stay in the order of their times."""
        with self._lock:
            self._samples.append(_sample(self._nvml, self._handle))
            if len(self._samples) > KEPT_SAMPLES:
                del self._samples[: KEPT_SAMPLES // 2]


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
    except _UnavailableError:
        return {}


class _UnavailableError(Exception):
    """NVML, or the GPU, is not there; the text says why."""


@contextmanager
def _opened(device: int | str | None, nvml: Any) -> Iterator[tuple[Any, Any]]:
    nvml, handle = _open(device, nvml)
    try:
        yield nvml, handle
    finally:
        _quietly(nvml, nvml.nvmlShutdown)


def _open(device: int | str | None, nvml: Any) -> tuple[Any, Any]:
    """(NVML module, handle of the device), initialised; the caller shuts it down."""
    if device is None:
        raise _UnavailableError("not running on an NVIDIA GPU")
    try:
        nvml = nvml or importlib.import_module("pynvml")
    except ImportError as error:
        raise _UnavailableError("the package nvidia-ml-py is not installed") from error
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise _UnavailableError(str(error)) from error
    try:
        return nvml, _find(nvml, device)
    except BaseException:
        _quietly(nvml, nvml.nvmlShutdown)
        raise


def _find(nvml: Any, device: int | str) -> Any:
    for query, name in _queries(nvml, device):
        try:
            return query(name)
        except nvml.NVMLError as error:
            reason = str(error)
    raise _UnavailableError(f"NVML does not know the GPU {device!r}: {reason}")


def _queries(nvml: Any, device: int | str) -> list[tuple[Callable[[Any], Any], Any]]:
    if isinstance(device, int):
        return [(nvml.nvmlDeviceGetHandleByIndex, device)]
    if ":" in device:
        return [(nvml.nvmlDeviceGetHandleByPciBusId, device)]
    names = [device] if device.startswith(("GPU-", "MIG-")) else [f"GPU-{device}", f"MIG-{device}"]
    return [(nvml.nvmlDeviceGetHandleByUUID, name) for name in names]


def _quietly(nvml: Any, query: Callable[[], Any]) -> Any:
    """The answer, or None where the GPU, its driver or this pynvml has none."""
    try:
        return query()
    except (nvml.NVMLError, AttributeError):
        return None


def _sample(nvml: Any, handle: Any) -> Sample:
    def ask(name: str, *arguments: Any) -> Any:
        return _quietly(nvml, lambda: getattr(nvml, name)(handle, *arguments))

    t = time.perf_counter()
    utilization = ask("nvmlDeviceGetUtilizationRates")
    memory = ask("nvmlDeviceGetMemoryInfo")
    power_mw = ask("nvmlDeviceGetPowerUsage")
    energy_mj = ask("nvmlDeviceGetTotalEnergyConsumption")
    events = ask("nvmlDeviceGetCurrentClocksEventReasons")
    if events is None:  # the name before driver 535
        events = ask("nvmlDeviceGetCurrentClocksThrottleReasons")
    return Sample(
        t=t,
        gpu_util_pct=None if utilization is None else float(utilization.gpu),
        mem_used_bytes=None if memory is None else int(memory.used),
        power_w=None if power_mw is None else power_mw / 1e3,
        sm_clock_mhz=ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
        energy_j=None if energy_mj is None else energy_mj / 1e3,
        clock_events=events,
    )


def _energy(samples: list[Sample], t0: float, t1: float) -> float | None:
    """Joules between t0 and t1, the counter interpolated between the samples around them."""
    known = [(sample.t, sample.energy_j) for sample in samples if sample.energy_j is not None]
    if t1 - t0 < MIN_ENERGY_WINDOW_S or not known or known[0][0] > t0 or known[-1][0] < t1:
        return None
    times, joules = zip(*known, strict=True)
    start, end = np.interp([t0, t1], times, joules)
    return float(end - start)


def _events(samples: list[Sample]) -> list[str] | None:
    """Every reason that occurred; [] if there was none, None if it could not be asked."""
    known = [sample.clock_events for sample in samples if sample.clock_events is not None]
    if not known:
        return None
    return sorted({name for bit, name in CLOCK_EVENTS.items() for mask in known if mask & bit})


def _describe(nvml: Any, handle: Any) -> dict[str, Any]:
    def ask(name: str, *arguments: Any) -> Any:
        return _quietly(nvml, lambda: getattr(nvml, name)(*arguments))

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
