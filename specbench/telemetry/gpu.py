"""One GPU through NVML: what it tells of itself, and which slice of it is ours.

NVML comes as an argument, `telemetry.nvml` imports it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from specbench.telemetry.processes import Process, foreign, program

GPU_IS_LOST = 15
"""NVML_ERROR_GPU_IS_LOST: it fell off the bus."""


@dataclass(frozen=True)
class Sample:
    """One look at the GPU; None is what it does not tell.

    Attributes:
        t: `time.perf_counter()` seconds.
        clock_events: NVML's bit mask, see `CLOCK_EVENTS`.
    """

    t: float
    gpu_util_pct: float | None = None
    mem_used_bytes: int | None = None
    power_w: float | None = None
    sm_clock_mhz: float | None = None
    clock_events: int | None = None


class UnavailableError(Exception):
    """NVML, or the GPU, is not there; the text says why."""


class Gpu:
    """An open device.

    Attributes:
        refused: query → why it had no answer the first time.
    """

    def __init__(self, nvml: Any, handle: Any) -> None:
        self.nvml, self.handle = nvml, handle
        self.refused: dict[str, str] = {}
        self.lost: str | None = None
        self._names: dict[int, str | None] = {}

    def ask(self, name: str, *arguments: Any) -> Any:
        """The answer, or None where the GPU, its driver or this pynvml has none."""
        try:
            return getattr(self.nvml, name)(self.handle, *arguments)
        except AttributeError as error:
            self.refused.setdefault(name, f"not in this nvidia-ml-py: {error}")
        except Exception as error:  # NVMLError, or pynvml's own on an answer that it cannot decode
            self.refused.setdefault(name, str(error))
            if getattr(error, "value", None) == GPU_IS_LOST:
                self.lost = str(error)
        return None

    def sample(self) -> Sample:
        """All but energy and who else is there."""
        t = time.perf_counter()
        utilization = self.ask("nvmlDeviceGetUtilizationRates")
        memory = self.ask("nvmlDeviceGetMemoryInfo")
        power_mw = self.ask("nvmlDeviceGetPowerUsage")
        events = self.ask("nvmlDeviceGetCurrentClocksEventReasons")
        if events is None:  # the name before driver 535
            events = self.ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        return Sample(
            t=t,
            gpu_util_pct=None if utilization is None else float(utilization.gpu),
            mem_used_bytes=None if memory is None else int(memory.used),
            power_w=None if power_mw is None else power_mw / 1e3,
            sm_clock_mhz=self.ask("nvmlDeviceGetClockInfo", self.nvml.NVML_CLOCK_SM),
            clock_events=events,
        )

    def energy_j(self) -> float | None:
        """The counter since the driver was loaded: on some hosts that takes milliseconds."""
        energy_mj = self.ask("nvmlDeviceGetTotalEnergyConsumption")
        return None if energy_mj is None else energy_mj / 1e3

    def foreign(self) -> list[Process] | None:
        """Who else computes there; None if it is not told."""
        listed = self.ask("nvmlDeviceGetComputeRunningProcesses")
        if listed is None:
            return None
        found = [Process(one.pid, self._name(one.pid), one.usedGpuMemory) for one in listed]
        return foreign(found)

    def _name(self, pid: int) -> str | None:
        if pid not in self._names:
            query = getattr(self.nvml, "nvmlSystemGetProcessName", None)
            name = quietly(lambda: query(pid)) if query else None
            self._names[pid] = program(name)
        return self._names[pid]


def own_slice(nvml: Any, handle: Any) -> Any:
    """The handle; of a GPU that is cut into slices (MIG) that of this process's slice.

    The whole GPU's counters have the other slices' work in them. A slice tells its memory and little
    else.
    """
    mode = quietly(lambda: nvml.nvmlDeviceGetMigMode(handle))
    if mode is None or not mode[0]:  # (current, pending); a slice's own handle has none
        return handle
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    if named.startswith("MIG-"):
        found = quietly(lambda: nvml.nvmlDeviceGetHandleByUUID(named))
        if found is not None:
            return found
    most = quietly(lambda: nvml.nvmlDeviceGetMaxMigDeviceCount(handle)) or 0
    ask = nvml.nvmlDeviceGetMigDeviceHandleByIndex
    slices = [quietly(partial(ask, handle, place)) for place in range(most)]
    there = [one for one in slices if one is not None]
    if len(there) == 1:
        return there[0]
    raise UnavailableError(
        f"the GPU is cut into {len(there)} slices (MIG), and which is this process's is not known: "
        "name it in full in CUDA_VISIBLE_DEVICES"
    )


def quietly(query: Callable[[], Any]) -> Any:
    """The answer, or None where the GPU, its driver or this pynvml has none, or none that it can decode:
    no telemetry is worth a run."""
    try:
        return query()
    except Exception:
        return None
