"""Why a machine's times are not to be trusted, or not comparable with another's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from specbench.report.clocks import tainting
from specbench.report.pairing import FOREIGN, Case
from specbench.report.schema import INTERLEAVED

SAME_CLOCK = 0.02
"""So far apart two runs' median clocks may be for their absolute times to be comparable."""


def disturbed(files: Sequence[Mapping[str, Any]], cases: Sequence[Case]) -> list[str]:
    """Why no time in these cases can be trusted.

    Args:
        files: the metadata of each run's file.
    """
    found = []
    slow = {why for case in cases for why in tainting(case.throttled)}
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


def apart(files: Sequence[Mapping[str, Any]], cases: Sequence[Case]) -> list[str]:
    """Why absolute times of two runs cannot be held against each other.

    Args:
        files: the metadata of the new run's file and of the reference's; `cases`: theirs.
    """
    if len(files) < 2:
        return []
    found = other_machine(*files)
    new, old = (case.sm_clock_mhz for case in cases)
    if not (math.isnan(new) and math.isnan(old)) and not abs(new / old - 1) <= SAME_CLOCK:
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
