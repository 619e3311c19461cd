"""Why a machine's times are not to be trusted, or not comparable with another's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from specbench.report.clocks import POWER_LIMIT, tainting_ratio
from specbench.report.pairing import FOREIGN, Case
from specbench.report.schema import INTERLEAVED

SAME_CLOCK = 0.02
"""So far apart two runs' mean clocks may be for their absolute times to be comparable; of cases at the
power limit their ratio, for their ratios."""


def disturbed(files: Sequence[Mapping[str, Any]], cases: Sequence[Case]) -> list[str]:
    """Why no time in these cases can be trusted. The power limit is left to `at_power_limit`.

    Args:
        files: the metadata of each run's file.
    """
    found = []
    slow = {why for case in cases for why in tainting_ratio(case.throttled)}
    if slow:
        found.append(f"GPU slowed down ({', '.join(sorted(slow))})")
    foreign = {name for case in cases for name in case.foreign}
    foreign |= {str(name) for one in files for name in one.get(FOREIGN) or ()}
    if foreign:
        found.append(f"other processes on the GPU ({', '.join(sorted(foreign))})")
    devices = {" and ".join(sorted(case.devices)) or "unknown" for case in cases}
    if len(devices) > 1:
        found.append(f"devices differ ({' / '.join(sorted(devices))})")
    return found


def at_power_limit(over: str, runs: Sequence[Sequence[tuple[Case, Sequence[Case]]]]) -> list[str]:
    """Why a card at its power limit makes a change between two runs untrustworthy: nothing holds it to
    the same clock on both days, for the case and for what it is held against.

    Args:
        over: what the cases are held against within their run; "" for nothing: then `apart` compares
            the clocks, where there are any.
        runs: the cases of each run, with those that each is held against. Of a run alone there is no
            doubt: see `clocks.tainting_ratio`.
    """
    every = [one for run in runs for case, bases in run for one in (case, *bases)]
    if len(runs) < 2 or not any(POWER_LIMIT in case.throttled for case in every):
        return []
    slow = f"GPU slowed down ({POWER_LIMIT})"
    if any(math.isnan(case.sm_clock_mhz) for case in every):
        return [slow]
    for new, old in zip(*runs, strict=True) if over else ():
        clocks = [_relative_clock(*one) for one in (new, old)]
        if not abs(clocks[0] / clocks[1] - 1) <= SAME_CLOCK:
            shown = f"{clocks[0]:.2f}, in the reference {clocks[1]:.2f}"
            return [f"{slow}: its clock over that of {over} is {shown}"]
    return []


def _relative_clock(case: Case, bases: Sequence[Case]) -> float:
    return case.sm_clock_mhz / _mean_clock(bases)


def _mean_clock(cases: Sequence[Case]) -> float:
    """Of those that know it."""
    known = [case.sm_clock_mhz for case in cases if not math.isnan(case.sm_clock_mhz)]
    return sum(known) / len(known) if known else math.nan


def apart(files: Sequence[Mapping[str, Any]], runs: Sequence[Sequence[Case]]) -> list[str]:
    """Why absolute times of two runs cannot be held against each other.

    Args:
        files: the metadata of the new run's file and of the reference's; `runs`: their cases.
    """
    if len(files) < 2:
        return []
    found = other_machine(*files)
    new, old = (_mean_clock(cases) for cases in runs)
    if math.isnan(new) != math.isnan(old):
        found.append("one file alone says at what clock the GPU ran")
    elif abs(new / old - 1) > SAME_CLOCK:
        found.append(f"the GPU ran at {new:.0f} MHz, in the reference at {old:.0f}")
    return found


def other_machine(new: Mapping[str, Any], old: Mapping[str, Any]) -> list[str]:
    """In what two files' machines differ; what is not known is a difference, but in an A/B."""
    if new.get(INTERLEAVED) and new[INTERLEAVED] == old.get(INTERLEAVED):
        return []
    unknown, other = [], []
    for name in ("device_name", "driver", "clocks"):
        facts, words = [_limits(one.get(name)) for one in (new, old)], name.replace("_", " ")
        if None in facts:
            unknown.append(words)
        elif facts[0] != facts[1]:
            other.append(f"another {words} ({facts[1]} / {facts[0]})")
    return [f"a file does not say its {', '.join(unknown)}"] * bool(unknown) + other


def _limits(fact: Any) -> Any:
    """Of clocks the highest ones: those of the moment differ always."""
    if not isinstance(fact, dict):
        return fact
    highest = {name: value for name, value in fact.items() if "now" not in name}
    return highest if any(value is not None for value in highest.values()) else None
