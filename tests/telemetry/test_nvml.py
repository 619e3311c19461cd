from __future__ import annotations

import os
import threading
import time
from collections import Counter
from types import SimpleNamespace

import pytest

from specbench.report.schema import MACHINE
from specbench.telemetry.nvml import NvmlSampler, Sample, cuda_uuid, describe

COLUMNS = {
    *("nvml_t_s", "nvml_gpu_util_pct", "nvml_mem_used_bytes", "nvml_power_w"),
    *("nvml_sm_clock_mhz", "energy_j", "energy_coarse_j", "energy_period_s", "throttle_reasons"),
    "foreign_processes",
}

UUID = "12345678-9abc-def0-1234-56789abcdef0"


class NVMLError(Exception):
    pass


class FakeNvml:
    """One GPU with a steady 200 W; queries named in `broken` raise as the real ones do."""

    NVMLError = NVMLError
    NVML_CLOCK_SM, NVML_CLOCK_MEM = 1, 2

    def __init__(self, broken=(), events=0, processes=None):
        self.broken, self.events = set(broken), events
        self.processes = processes or [(os.getpid(), 10), (4711, 2)]
        self.open = self.asked = 0
        self.error = NVMLError("Not Supported")

    def __getattribute__(self, name):
        if not name.startswith("nvml"):
            return object.__getattribute__(self, name)
        if name in self.broken:
            return self._unsupported
        return object.__getattribute__(self, name)

    def _unsupported(self, *_):
        self.asked += 1
        raise self.error

    def lose(self):
        self.error = NVMLError("GPU is lost")
        self.error.value = 15
        self.broken = {name for name in dir(FakeNvml) if name.startswith("nvmlDevice")}

    def nvmlInit(self):  # noqa: N802
        self.open += 1

    def nvmlShutdown(self):  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        return ("index", index)

    def nvmlDeviceGetHandleByPciBusId(self, bus):  # noqa: N802
        return ("bus", bus)

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        if uuid != f"GPU-{UUID}":
            raise NVMLError("Not Found")
        return ("uuid", uuid)

    def nvmlDeviceGetUtilizationRates(self, handle):  # noqa: N802
        return SimpleNamespace(gpu=87, memory=40)

    def nvmlDeviceGetMemoryInfo(self, handle):  # noqa: N802
        return SimpleNamespace(used=3 * 2**30, total=80 * 2**30)

    def nvmlDeviceGetPowerUsage(self, handle):  # noqa: N802
        return 200_000

    def nvmlDeviceGetClockInfo(self, handle, domain):  # noqa: N802
        return {1: 1980, 2: 2619}[domain]

    def nvmlDeviceGetMaxClockInfo(self, handle, domain):  # noqa: N802
        return {1: 1980, 2: 2619}[domain]

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):  # noqa: N802
        return time.perf_counter() * 200_000

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle):  # noqa: N802
        return self.events

    def nvmlDeviceGetComputeRunningProcesses(self, handle):  # noqa: N802
        return [
            SimpleNamespace(pid=pid, usedGpuMemory=None if gb is None else gb * 10**9)
            for pid, gb in self.processes
        ]

    def nvmlSystemGetProcessName(self, pid):  # noqa: N802
        return "/usr/bin/python3"

    def nvmlDeviceGetName(self, handle):  # noqa: N802
        return "NVIDIA Test GPU"

    def nvmlDeviceGetUUID(self, handle):  # noqa: N802
        return f"GPU-{UUID}"

    def nvmlSystemGetDriverVersion(self):  # noqa: N802
        return "580.65.06"

    def nvmlSystemGetCudaDriverVersion(self):  # noqa: N802
        return 13000


@pytest.fixture
def short_energy(monkeypatch):
    """Energy over windows that a test has the time for."""
    monkeypatch.setattr("specbench.telemetry.energy.PERIODS", 2)
    monkeypatch.setattr("specbench.telemetry.energy.USUAL_PERIOD_S", 0.05)


def sampled(nvml, seconds=0.15, interval_s=0.01):
    with NvmlSampler(0, interval_s, nvml) as sampler:
        start = time.perf_counter()
        time.sleep(seconds)
        return sampler.window(start, time.perf_counter())


def test_a_window_has_every_column_of_the_schema_that_nvml_fills(short_energy):
    window = sampled(FakeNvml())
    assert set(window) == COLUMNS <= {field.name for field in MACHINE}
    count = len(window["nvml_t_s"])
    assert count >= 3
    assert window["nvml_t_s"] == sorted(window["nvml_t_s"])
    assert 0 <= window["nvml_t_s"][0] < window["nvml_t_s"][-1] < 1
    assert window["nvml_gpu_util_pct"] == [87.0] * count
    assert window["nvml_mem_used_bytes"] == [3 * 2**30] * count
    assert window["nvml_power_w"] == [200.0] * count
    assert window["nvml_sm_clock_mhz"] == [1980] * count
    assert window["throttle_reasons"] == []
    assert window["foreign_processes"] == ["python3 (pid 4711, 2.0 GB)"]
    assert window["energy_j"] > 0


def test_an_answer_that_cannot_be_decoded_is_none(monkeypatch):
    """A foreign process in a folder whose name is no UTF-8 must not end a run."""
    nvml = FakeNvml()

    def undecodable(*_):
        raise UnicodeDecodeError("utf-8", b"\xf6", 0, 1, "invalid start byte")

    monkeypatch.setattr(nvml, "nvmlSystemGetProcessName", undecodable, raising=False)
    monkeypatch.setattr(nvml, "nvmlDeviceGetPowerUsage", undecodable)
    with NvmlSampler(0, 0.01, nvml) as sampler:
        time.sleep(0.05)
        assert sampler._thread.is_alive()
        window = sampler.window(0.0, time.perf_counter())
    assert window["foreign_processes"] == ["pid 4711, 2.0 GB"] or "4711" in str(window)
    assert window["nvml_power_w"] is None
    assert window["nvml_sm_clock_mhz"]


def test_a_slow_counter_is_asked_seldom_and_the_rest_as_often_as_ever(monkeypatch):
    nvml, asked = FakeNvml(), Counter()
    energy, clock = nvml.nvmlDeviceGetTotalEnergyConsumption, nvml.nvmlDeviceGetClockInfo

    def slow(handle):
        asked["energy"] += 1
        time.sleep(0.005)
        return energy(handle)

    def quick(handle, domain):
        asked["clock"] += 1
        return clock(handle, domain)

    monkeypatch.setattr(nvml, "nvmlDeviceGetTotalEnergyConsumption", slow)
    monkeypatch.setattr(nvml, "nvmlDeviceGetClockInfo", quick)
    with NvmlSampler(0, 0.02, nvml) as sampler:
        while sampler._energy._is_new:
            time.sleep(0.01)
        asked.clear()
        start = time.perf_counter()
        time.sleep(0.5)
        assert asked["clock"] > 3 * asked["energy"]
        end = time.perf_counter()
        window = sampler.window(start, end)
    assert window["energy_coarse_j"] or window["energy_j"], "asked at the window's end"


def test_energy_is_that_of_the_window_not_of_its_samples(short_energy):
    with NvmlSampler(0, 0.04, FakeNvml()) as sampler:
        start = time.perf_counter()
        time.sleep(0.13)
        end = time.perf_counter()
        energy = sampler.window(start, end)["energy_j"]
    assert energy == pytest.approx(200 * (end - start), rel=0.02)


def test_energy_over_a_few_steps_of_the_counter_is_fit_for_sums_alone():
    window = sampled(FakeNvml(), seconds=0.2, interval_s=0.05)
    assert window["energy_j"] is None
    assert window["energy_coarse_j"] == pytest.approx(200 * 0.2, rel=0.2)
    assert window["energy_period_s"] == 0.1, "too few steps were seen to know better"


def test_a_counter_that_moves_faster_wants_shorter_windows():
    """The fake's moves with every look, each 0.01 s: ten of them are 0.1 s."""
    with NvmlSampler(0, 0.01, FakeNvml()) as sampler:
        time.sleep(0.3)
        start = time.perf_counter()
        time.sleep(0.4)
        window = sampler.window(start, time.perf_counter())
    assert 0.01 <= window["energy_period_s"] < 0.04
    assert window["energy_j"] is not None
    assert window["energy_coarse_j"] is None


@pytest.mark.parametrize(
    ("query", "column"),
    [
        ("nvmlDeviceGetUtilizationRates", "nvml_gpu_util_pct"),
        ("nvmlDeviceGetMemoryInfo", "nvml_mem_used_bytes"),
        ("nvmlDeviceGetPowerUsage", "nvml_power_w"),
        ("nvmlDeviceGetClockInfo", "nvml_sm_clock_mhz"),
        ("nvmlDeviceGetTotalEnergyConsumption", "energy_j"),
        ("nvmlDeviceGetCurrentClocksEventReasons", "throttle_reasons"),
        ("nvmlDeviceGetComputeRunningProcesses", "foreign_processes"),
    ],
)
def test_an_unsupported_query_is_null_and_the_others_stay(query, column, short_energy):
    nvml = FakeNvml(broken=[query])
    with NvmlSampler(0, 0.01, nvml) as sampler:
        start = time.perf_counter()
        time.sleep(0.15)
        window = sampler.window(start, time.perf_counter())
        gaps = sampler.gaps()
    null = {name for name, value in window.items() if value is None} - {"energy_coarse_j"}
    assert null - {"energy_period_s"} == {column}
    assert set(gaps) == {column}
    assert "Not Supported" in gaps[column] or "not in this nvidia-ml-py" in gaps[column]


def test_a_gpu_that_tells_everything_has_no_gaps():
    with NvmlSampler(0, 0.01, FakeNvml()) as sampler:
        assert sampler.gaps() == {}
    assert NvmlSampler(None).gaps() == {}


def test_the_older_name_of_the_clock_events_is_asked_too():
    nvml = FakeNvml(broken=["nvmlDeviceGetCurrentClocksEventReasons"])
    nvml.nvmlDeviceGetCurrentClocksThrottleReasons = lambda handle: 0x40
    assert sampled(nvml)["throttle_reasons"] == ["hw_thermal_slowdown"]


def test_clock_events_are_named_once_over_the_window_and_idle_is_none():
    with NvmlSampler(0, 60, FakeNvml()) as sampler:
        now = sampler._samples[0].t - 10
        masks = [0x1, 0x4 | 0x1, None, 0x4 | 0x8, 0x200]
        sampler._samples = [Sample(now + i, clock_events=mask) for i, mask in enumerate(masks)]
        assert sampler.window(now, now + 3)["throttle_reasons"] == ["hw_slowdown", "sw_power_cap"]
        assert sampler.window(now, now)["throttle_reasons"] == []
        assert sampler.window(now + 4, now + 4)["throttle_reasons"] == ["unknown_0x200"]
        assert sampler.window(now + 2, now + 2)["throttle_reasons"] is None


def test_only_samples_inside_the_window_count():
    with NvmlSampler(0, 60, FakeNvml()) as sampler:
        now = sampler._samples[0].t - 10
        sampler._samples = [Sample(now + i, power_w=100.0 * i) for i in range(5)]
        window = sampler.window(now + 1, now + 3)
    assert window["nvml_power_w"] == [100, 200, 300]
    assert window["nvml_t_s"] == [0, 1, 2]


def test_a_window_between_two_samples_has_the_one_at_its_end():
    """Or a short row would not know the clock that it ran at."""
    with NvmlSampler(0, 60, FakeNvml()) as sampler:
        end = time.perf_counter()
        soon = sampler.window(end - 0.01, end)
        late = sampler.window(end - 10, end - 5)
        now = sampler._samples[0].t - 10
        sampler._samples = [Sample(now + 0.01 * i, power_w=100.0 * i) for i in range(5)]
        first = sampler.window(now + 0.011, now + 0.019)
    assert len(soon["nvml_t_s"]) == len(soon["nvml_sm_clock_mhz"]) == 1
    assert soon["throttle_reasons"] == []
    assert late["nvml_power_w"] == []
    assert first["nvml_power_w"] == [200]


def test_who_else_is_there_is_asked_at_both_ends_and_in_between(monkeypatch):
    monkeypatch.setattr("specbench.telemetry.nvml.PROCESS_INTERVAL_S", 0.02)
    own = (os.getpid(), 10)
    nvml = FakeNvml(processes=[own])
    with NvmlSampler(0, 0.01, nvml) as sampler:
        time.sleep(0.05)
        first = time.perf_counter()
        nvml.processes = [own, (4711, 1)]
        time.sleep(0.05)
        nvml.processes = [own, (4711, 3), (4712, None)]
        time.sleep(0.05)
        nvml.processes = [own]
        time.sleep(0.05)
        assert sampler.window(0, first)["foreign_processes"] == []
        seen = sampler.window(first, time.perf_counter())["foreign_processes"]
    assert seen == ["python3 (pid 4711, 3.0 GB)", "python3 (pid 4712)"]


def test_the_last_look_before_a_short_window_counts():
    nvml = FakeNvml()
    with NvmlSampler(0, 60, nvml) as sampler:
        now = time.perf_counter()
        assert len(sampler.window(now, now)["foreign_processes"]) == 1


class MigNvml(FakeNvml):
    """A GPU that is cut up: the whole one's counters count all slices; a slice tells its memory alone."""

    def __init__(self, slices):
        super().__init__()
        self.slices = slices

    def nvmlDeviceGetMigMode(self, handle):  # noqa: N802
        if handle[0] == "slice":
            raise NVMLError("Not Supported")
        return [1, 1]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle):  # noqa: N802
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle, index):  # noqa: N802
        if index >= len(self.slices):
            raise NVMLError("Not Found")
        return ("slice", self.slices[index])

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        if uuid in self.slices:
            return ("slice", uuid)
        return super().nvmlDeviceGetHandleByUUID(uuid)

    def nvmlDeviceGetPowerUsage(self, handle):  # noqa: N802
        if handle[0] == "slice":
            raise NVMLError("Not Supported")
        return 200_000


class TestSlices:
    @pytest.mark.parametrize(
        ("device", "visible", "slices", "found"),
        [
            (UUID, "", ["MIG-a"], "MIG-a"),
            (UUID, "MIG-b,MIG-a", ["MIG-a", "MIG-b"], "MIG-b"),
            ("MIG-b", "0", ["MIG-a", "MIG-b"], "MIG-b"),
            ("MIG-b", "", ["MIG-a", "MIG-b"], "MIG-b"),
        ],
    )
    def test_the_own_one_is_found(self, monkeypatch, device, visible, slices, found):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        with NvmlSampler(device, 60, MigNvml(slices)) as sampler:
            now = time.perf_counter()
            window = sampler.window(now - 1, now)
            assert sampler._gpu.handle == ("slice", found)
            assert sampler.gaps() == {"nvml_power_w": "Not Supported"}
        assert window["nvml_power_w"] is None
        assert window["nvml_mem_used_bytes"] is not None

    @pytest.mark.parametrize("visible", ["", "0", "MIG-shortened"])
    def test_which_is_ours_is_not_guessed(self, monkeypatch, visible):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        works, reason = NvmlSampler(UUID, nvml=MigNvml(["MIG-a", "MIG-b"])).available()
        assert not works
        assert "cut into 2 slices (MIG)" in reason
        assert "CUDA_VISIBLE_DEVICES" in reason

    def test_a_whole_gpu_is_itself(self, monkeypatch):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", f"GPU-{UUID}")
        with NvmlSampler(UUID, 60, FakeNvml()) as sampler:
            assert sampler._gpu.handle == ("uuid", f"GPU-{UUID}")


def test_a_window_after_the_block_still_answers(short_energy):
    with NvmlSampler(0, 0.01, FakeNvml()) as sampler:
        start = time.perf_counter()
        time.sleep(0.12)
        end = time.perf_counter()
    assert sampler.window(start, end)["energy_j"] == pytest.approx(200 * (end - start), rel=0.02)


def test_a_gpu_that_vanishes_keeps_what_was_sampled_and_is_left_alone():
    nvml = FakeNvml()
    with NvmlSampler(0, 0.01, nvml) as sampler:
        start = time.perf_counter()
        time.sleep(0.05)
        assert sampler.lost is None
        nvml.lose()
        time.sleep(0.05)
        asked = nvml.asked
        window = sampler.window(start, time.perf_counter())
        time.sleep(0.05)
        assert nvml.asked == asked
        assert sampler.lost == "GPU is lost"
    assert window["nvml_power_w"][0] == 200
    assert window["nvml_power_w"][-1] is None
    assert window["energy_j"] is None
    assert nvml.open == 0


def test_the_thread_and_nvml_are_closed_also_after_an_error():
    nvml = FakeNvml()
    sampler = NvmlSampler(0, 0.01, nvml)

    def interrupted():
        with sampler:
            assert nvml.open == 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert nvml.open == 0
    assert not any(thread.name == "nvml-sampler" for thread in threading.enumerate())


def test_old_samples_are_dropped(monkeypatch):
    monkeypatch.setattr("specbench.telemetry.nvml.KEPT_SAMPLES", 10)
    with NvmlSampler(0, 60, FakeNvml()) as sampler:
        for _ in range(50):
            sampler._take()
        assert len(sampler._samples) <= 10


@pytest.mark.parametrize(
    ("device", "handle"),
    [
        (1, ("index", 1)),
        ("0000:65:00.0", ("bus", "0000:65:00.0")),
        (UUID, ("uuid", f"GPU-{UUID}")),
        (f"GPU-{UUID}", ("uuid", f"GPU-{UUID}")),
    ],
)
def test_the_gpu_is_found_by_uuid_bus_or_index(device, handle):
    with NvmlSampler(device, 60, FakeNvml()) as sampler:
        assert sampler._gpu.handle == handle
        assert sampler.available() == (True, "")


@pytest.mark.parametrize(
    ("device", "broken", "reason"),
    [
        (None, [], "not running on an NVIDIA GPU"),
        (0, ["nvmlInit"], "Not Supported"),
        ("GPU-other", [], "NVML does not know the GPU 'GPU-other': Not Found"),
    ],
)
def test_without_a_gpu_every_column_is_null_and_the_reason_is_one_line(device, broken, reason):
    nvml = FakeNvml(broken=broken)
    with NvmlSampler(device, nvml=nvml) as sampler:
        window = sampler.window(0.0, 1.0)
        works, text = sampler.available()
    assert window == dict.fromkeys(COLUMNS)
    assert not works
    assert reason in text
    assert "\n" not in text
    assert nvml.open == 0


def test_available_may_be_asked_before_and_leaves_nothing_open():
    nvml = FakeNvml()
    assert NvmlSampler(0, nvml=nvml).available() == (True, "")
    assert nvml.open == 0


def test_a_missing_package_is_said(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    works, reason = NvmlSampler(0).available()
    assert not works
    assert "nvidia-ml-py is not installed" in reason


def test_the_real_library_without_a_gpu():
    """On a machine without a driver this is the real path; with one, it must work."""
    sampler = NvmlSampler(0)
    works, reason = sampler.available()
    with sampler:
        window = sampler.window(0.0, 1.0)
    assert set(window) == COLUMNS
    if not works:
        assert reason.startswith("no GPU telemetry: ")
        assert window == dict.fromkeys(COLUMNS)


def test_describe():
    assert describe(0, FakeNvml()) == {
        "device_name": "NVIDIA Test GPU",
        "device_uuid": f"GPU-{UUID}",
        "device_memory_bytes": 80 * 2**30,
        "driver": "580.65.06",
        "driver_cuda": "13.0",
        "clocks": {"sm_now_mhz": 1980, "sm_max_mhz": 1980, "mem_now_mhz": 2619}
        | {"mem_max_mhz": 2619},
    }
    assert describe(0, FakeNvml(broken=["nvmlDeviceGetUUID"]))["device_uuid"] is None
    assert describe(None, FakeNvml()) == {}


@pytest.mark.parametrize("device", ["cpu", "mps", "meta"])
def test_only_cuda_devices_have_a_uuid(device):
    assert cuda_uuid(device) is None


@pytest.mark.gpu
def test_a_busy_gpu_is_seen():
    import torch

    matrix = torch.randn(4096, 4096, device="cuda")
    with NvmlSampler(cuda_uuid("cuda"), 0.02) as sampler:
        assert sampler.available() == (True, "")
        start = time.perf_counter()
        while time.perf_counter() - start < 0.6:
            matrix = torch.nn.functional.normalize(matrix @ matrix)
            torch.cuda.synchronize()
        window = sampler.window(start, time.perf_counter())
    assert len(window["nvml_t_s"]) >= 5
    assert max(window["nvml_power_w"]) > 0
    assert min(window["nvml_mem_used_bytes"]) >= matrix.nbytes
    assert max(window["nvml_gpu_util_pct"]) > 0
    assert min(window["nvml_sm_clock_mhz"]) > 0
    assert window["energy_j"] is None or window["energy_j"] > 0
    assert describe(cuda_uuid("cuda"))["device_name"] == torch.cuda.get_device_name()
