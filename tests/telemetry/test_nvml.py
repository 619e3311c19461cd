from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest

from specbench.report.schema import MACHINE
from specbench.telemetry.nvml import NvmlSampler, Sample, cuda_uuid, describe

COLUMNS = {
    *("nvml_t_s", "nvml_gpu_util_pct", "nvml_mem_used_bytes", "nvml_power_w"),
    *("nvml_sm_clock_mhz", "energy_j", "throttle_reasons"),
}

UUID = "12345678-9abc-def0-1234-56789abcdef0"


class NVMLError(Exception):
    pass


class FakeNvml:
    """One GPU with a steady 200 W; queries named in `broken` raise as the real ones do."""

    NVMLError = NVMLError
    NVML_CLOCK_SM, NVML_CLOCK_MEM = 1, 2

    def __init__(self, broken=(), events=0):
        self.broken, self.events = set(broken), events
        self.open = 0

    def __getattribute__(self, name):
        if name in {"broken", "open", "events"} or not name.startswith("nvml"):
            return object.__getattribute__(self, name)
        if name in self.broken:
            return self._unsupported
        return object.__getattribute__(self, name)

    def _unsupported(self, *_):
        raise NVMLError("Not Supported")

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
    monkeypatch.setattr("specbench.telemetry.nvml.MIN_ENERGY_WINDOW_S", 0.1)


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
    assert window["energy_j"] > 0


def test_energy_is_that_of_the_window_not_of_its_samples(short_energy):
    with NvmlSampler(0, 0.04, FakeNvml()) as sampler:
        start = time.perf_counter()
        time.sleep(0.13)
        end = time.perf_counter()
        energy = sampler.window(start, end)["energy_j"]
    assert energy == pytest.approx(200 * (end - start), rel=0.02)


def test_energy_over_a_few_steps_of_the_counter_is_not_known():
    assert sampled(FakeNvml(), seconds=0.2)["energy_j"] is None


@pytest.mark.parametrize(
    ("query", "column"),
    [
        ("nvmlDeviceGetUtilizationRates", "nvml_gpu_util_pct"),
        ("nvmlDeviceGetMemoryInfo", "nvml_mem_used_bytes"),
        ("nvmlDeviceGetPowerUsage", "nvml_power_w"),
        ("nvmlDeviceGetClockInfo", "nvml_sm_clock_mhz"),
        ("nvmlDeviceGetTotalEnergyConsumption", "energy_j"),
        ("nvmlDeviceGetCurrentClocksEventReasons", "throttle_reasons"),
    ],
)
def test_an_unsupported_query_is_null_and_the_others_stay(query, column, short_energy):
    window = sampled(FakeNvml(broken=[query]))
    assert {name for name, value in window.items() if value is None} == {column}


def test_the_older_name_of_the_clock_events_is_asked_too():
    nvml = FakeNvml(broken=["nvmlDeviceGetCurrentClocksEventReasons"])
    nvml.nvmlDeviceGetCurrentClocksThrottleReasons = lambda handle: 0x40
    assert sampled(nvml)["throttle_reasons"] == ["hw_thermal_slowdown"]


def test_clock_events_are_named_once_over_the_window_and_idle_is_none():
    with NvmlSampler(0, 60, FakeNvml()) as sampler:
        now = sampler._samples[0].t - 10
        masks = [0x1, 0x4 | 0x1, None, 0x4 | 0x8]
        sampler._samples = [Sample(now + i, clock_events=mask) for i, mask in enumerate(masks)]
        assert sampler.window(now, now + 3)["throttle_reasons"] == ["hw_slowdown", "sw_power_cap"]
        assert sampler.window(now, now)["throttle_reasons"] == []
        assert sampler.window(now + 2, now + 2)["throttle_reasons"] is None


def test_only_samples_inside_the_window_count():
    with NvmlSampler(0, 60, FakeNvml()) as sampler:
        now = sampler._samples[0].t - 10
        sampler._samples = [Sample(now + i, power_w=100.0 * i) for i in range(5)]
        window = sampler.window(now + 1, now + 3)
    assert window["nvml_power_w"] == [100, 200, 300]
    assert window["nvml_t_s"] == [0, 1, 2]


def test_energy_is_interpolated_between_the_samples_around_the_window():
    with NvmlSampler(0, 60, FakeNvml()) as sampler:
        now = sampler._samples[0].t - 10
        sampler._samples = [Sample(now + i, energy_j=100.0 * i) for i in range(4)]
        assert sampler.window(now + 0.5, now + 2.5)["energy_j"] == pytest.approx(200)
        sampler._samples = sampler._samples[1:]
        assert sampler.window(now + 0.5, now + 2.5)["energy_j"] is None


def test_a_window_after_the_block_still_answers(short_energy):
    with NvmlSampler(0, 0.01, FakeNvml()) as sampler:
        start = time.perf_counter()
        time.sleep(0.12)
        end = time.perf_counter()
    assert sampler.window(start, end)["energy_j"] == pytest.approx(200 * (end - start), rel=0.02)


def test_a_gpu_that_vanishes_keeps_what_was_sampled():
    nvml = FakeNvml()
    with NvmlSampler(0, 0.01, nvml) as sampler:
        start = time.perf_counter()
        time.sleep(0.05)
        nvml.broken = {name for name in dir(FakeNvml) if name.startswith("nvmlDevice")}
        time.sleep(0.05)
        window = sampler.window(start, time.perf_counter())
    assert window["nvml_power_w"][0] == 200
    assert window["nvml_power_w"][-1] is None


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
        assert sampler._handle == handle
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
