"""Why a GPU's clocks were low, and which reasons make a time untrustworthy."""

from __future__ import annotations

from collections.abc import Iterable

POWER_LIMIT = "sw_power_cap"

TAINTING = {
    # The card protects itself: its clocks fell by half or more, for as long as it took.
    "hw_slowdown": "too hot, too much power, or a power brake",
    "hw_thermal_slowdown": "too hot",
    "hw_power_brake_slowdown": "the power supply asked for less",
    # The driver holds the card at a temperature, or at its power limit: the clock moves with what ran
    # before, with the room and with how much power a kernel takes, so that two methods side by side
    # do not run at the same one.
    "sw_thermal_slowdown": "near its temperature limit",
    # Under load a large card's normal state, see `tainting_ratio`.
    POWER_LIMIT: "at its power limit",
}
"""Reasons under which a time says more about the card's state than about the code."""

HARMLESS = {
    "gpu_idle": "nothing was running",
    # Somebody set these, and they hold for the whole run.
    "applications_clocks_setting": "clocks were set",
    "display_clock_setting": "clocks were set for a display",
    "sync_boost": "clocks follow the group's slowest card",
}
"""Reasons that change nothing during a run."""


def tainting(reasons: Iterable[str] | None) -> list[str]:
    """The reasons that make a time untrustworthy, sorted; what is not known is among them.

    Args:
        reasons: of the column `throttle_reasons`; None where the GPU does not tell.

    Example:
        >>> tainting(["sync_boost", "hw_slowdown"])
        ['hw_slowdown']
    """
    return sorted(set(() if reasons is None else reasons) - set(HARMLESS))


def tainting_ratio(reasons: Iterable[str] | None) -> list[str]:
    """The reasons that make a ratio of two cases of one run untrustworthy too; arguments as above.

    Not the power limit: cases in turns meet the same limit, and one that draws more power, and so is
    clocked lower, is slower at this limit in earnest.
    """
    return [reason for reason in tainting(reasons) if reason != POWER_LIMIT]
