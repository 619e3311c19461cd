from __future__ import annotations

import pynvml
import pytest

from specbench.report.clocks import HARMLESS, TAINTING, tainting, tainting_ratio
from specbench.telemetry.gpu import GPU_IS_LOST
from specbench.telemetry.nvml import CLOCK_EVENTS, IDLE


def test_every_reason_of_nvml_has_a_name_and_is_judged():
    bits = {
        bit for bit in (1 << place for place in range(64)) if pynvml.nvmlClocksEventReasonAll & bit
    }
    assert bits == set(CLOCK_EVENTS) | {IDLE}
    assert set(CLOCK_EVENTS.values()) | {"gpu_idle"} == set(TAINTING) | set(HARMLESS)
    assert not set(TAINTING) & set(HARMLESS)


def test_the_numbers_are_nvmls():
    names = {
        "nvmlClocksEventReasonSwPowerCap": "sw_power_cap",
        "nvmlClocksEventReasonSyncBoost": "sync_boost",
        "nvmlClocksThrottleReasonHwSlowdown": "hw_slowdown",
        "nvmlClocksThrottleReasonHwPowerBrakeSlowdown": "hw_power_brake_slowdown",
        "nvmlClocksThrottleReasonHwThermalSlowdown": "hw_thermal_slowdown",
        "nvmlClocksEventReasonSwThermalSlowdown": "sw_thermal_slowdown",
    }
    assert {CLOCK_EVENTS[getattr(pynvml, name)] for name in names} == set(names.values())
    assert GPU_IS_LOST == pynvml.NVML_ERROR_GPU_IS_LOST


@pytest.mark.parametrize(
    ("reasons", "found"),
    [
        (None, []),
        ([], []),
        (["gpu_idle", "applications_clocks_setting", "sync_boost", "display_clock_setting"], []),
        (["sync_boost", "sw_power_cap", "hw_slowdown"], ["hw_slowdown", "sw_power_cap"]),
        (["unknown_0x200"], ["unknown_0x200"]),
    ],
)
def test_what_taints_a_time(reasons, found):
    assert tainting(reasons) == found
    assert tainting_ratio(reasons) == [reason for reason in found if reason != "sw_power_cap"]
