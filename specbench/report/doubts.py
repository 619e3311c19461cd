"""Why a machine's times are not to be trusted, or not comparable with another's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np

from specbench.report.clocks import POWER_LIMIT, tainting_ratio
from specbench.report.pairing import FOREIGN, Case, unit_of
from specbench.report.schema import INTERLEAVED

SAME_CLOCK = 0.02
"""So far apart two runs' mean clocks may be for their absolute times to be comparable; of cases at the
power limit their ratio, for their ratios."""

NEARLY_ALL = 0.9
"""Of a case's sequences, in all runs the same: the rest may have failed."""


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


def missing_sequences(cases: Sequence[Case]) -> list[str]:
    """Cases of which sequences failed, unless nearly all are there, in all runs the same: then these are
    judged, and the cost of a few that always fail is not a case for ever unseen.

    Args:
        cases: of all runs; those of one key belong together.
    """
    alike: dict[tuple[Any, ...], list[Case]] = {}
    for case in cases:
        alike.setdefault(tuple(case.key.values()), []).append(case)
    return [
        f"{case.failed} of {case.failed + len(case.sequences.item)} sequences failed: {case.error}"
        for group in alike.values()
        if any(case.failed for case in group) and _common_share(group) < NEARLY_ALL
        for case in group
        if case.failed
    ]


def _common_share(cases: Sequence[Case]) -> float:
    units = [unit_of(case.sequences.item, case.sequences.repeat) for case in cases]
    common = reduce(np.intersect1d, units)
    return len(common) / max(case.failed + len(case.sequences.item) for case in cases)


def at_power_limit(
    files: Sequence[Mapping[str, Any]],
    over: str,
    runs: Sequence[Sequence[tuple[Case, Sequence[Case]]]],
) -> list[str]:
    """Why a card at its power limit makes a change between two runs untrustworthy: nothing holds it to
    the same clock on both days, for the case and for what it is held against. In turns they share the
    day: a build that draws more power is slower at this limit in earnest.

    Args:
        files: the metadata of each run's file.
        over: what the cases are held against within their run; "" for nothing: then `apart` compares
            the clocks, where there are any.
        runs: the cases of each run, with those that each is held against. Of a run alone there is no
            doubt: see `clocks.tainting_ratio`.
    """
    every = [one for run in runs for case, bases in run for one in (case, *bases)]
    if (
        len(runs) < 2
        or in_turns(*files)
        or not any(POWER_LIMIT in case.throttled for case in every)
    ):
        return []
    slow = f"GPU slowed down ({POWER_LIMIT})"
    if any(math.isnan(case.sm_clock_mhz) for case in every):
        return [slow]
    for new, old in zip(*runs, strict=True) if over else ():
        clocks = [_relative_clock(*one) for one in (new, old)]
        if not _is_same_clock(*clocks):
            shown = f"{clocks[0]:.2f}, in the reference {clocks[1]:.2f}"
            return [f"{slow}: its clock over that of {over} is {shown}"]
    return []


def _is_same_clock(new: float, old: float) -> bool:
    """Whichever of them is the reference's; what is not known is not the same."""
    return abs(math.log(new / old)) <= math.log1p(SAME_CLOCK)


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
    if in_turns(*files):
        return []
    found = other_machine(*files)
    new, old = (_mean_clock(cases) for cases in runs)
    if math.isnan(new) != math.isnan(old):
        found.append("one file alone says at what clock the GPU ran")
    elif not math.isnan(new) and not _is_same_clock(new, old):
        found.append(f"the GPU ran at {new:.0f} MHz, in the reference at {old:.0f}")
    return found


def in_turns(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    """Whether two files are of one A/B: their turns share the machine, its cooling and its power."""
    return bool(new.get(INTERLEAVED)) and new[INTERLEAVED] == old.get(INTERLEAVED)


def other_machine(new: Mapping[str, Any], old: Mapping[str, Any]) -> list[str]:
    """In what two files' machines differ; what is not known is a difference, but in an A/B."""
    if in_turns(new, old):
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
