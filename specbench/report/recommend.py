"""Which method, γ and draft to deploy, what that buys, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from specbench.errors import NotComparableError
from specbench.floors import METRICS
from specbench.report import stats
from specbench.report.candidates import (
    Candidate,
    DecodedCase,
    alike,
    candidate_of,
    decoded_cases,
    plain_decoding,
)
from specbench.report.compare import Within
from specbench.report.interval import Interval, as_ratio_of_best
from specbench.report.prediction import between
from specbench.report.repeats import Key
from specbench.report.reservations import doubts
from specbench.report.summary import GROUP_KEY, STEADY_SPREAD

TASK_KEY = ["device_name", "target", *(name for name in GROUP_KEY if name != "pair")]
"""What a recommendation is for; methods, γ and the drafts of one target compete in it."""

DRAFT, PLAIN, OPEN, UNKNOWN = "draft", "plain", "open", "unknown"
"""Verdicts: drafting pays; it does not; the noise hides which; there is no γ = 0 to tell."""

PAYS = 1 + METRICS["speedup"].floor.relative
"""A speed-up up to here is not worth drafting for: less counts for nothing in the gate either."""


@dataclass(frozen=True)
class Unmeasured:
    """A γ between two that were run, and what it may reach."""

    label: str
    pair: str
    gamma: int
    speedup: float


@dataclass(frozen=True)
class Recommendation:
    """What to deploy for one task on one device.

    Attributes:
        key: of `TASK_KEY`.
        verdict: `DRAFT`, `PLAIN`, `OPEN` or `UNKNOWN`.
        best: the fastest that may be recommended; None if all are excluded.
        among: of how many it is the fastest: those that may be recommended.
        selected: its speed-up with an interval that allows for this choice.
        equal: others whose difference from it lies within the noise, the fastest first.
        candidates: all, the fastest first.
        unmeasured: the γ of the best method that was not run and may be faster than all that were.
        plain_tokens_per_s: NaN if γ = 0 was not run.
        doubts: why not to believe it, in words; none if it is well supported.
    """

    key: dict[str, Any]
    verdict: str
    best: Candidate | None
    among: int
    selected: Interval
    equal: list[Candidate]
    candidates: list[Candidate]
    unmeasured: Unmeasured | None
    plain_tokens_per_s: float
    doubts: list[str]


def recommend(withins: Sequence[Within], allow_approximate: bool = False) -> list[Recommendation]:
    """One recommendation for each device, target, task and way of running.

    Args:
        withins: runs; the drafts of one target may stand in several.
        allow_approximate: methods that are not exact compete too.

    Raises:
        NotComparableError: nothing was drafted in any of the runs.
    """
    groups: dict[Key, list[DecodedCase]] = {}
    for case in (case for within in withins for case in decoded_cases(within)):
        key = tuple(_plain_value(case.line[name]) for name in TASK_KEY)
        groups.setdefault(key, []).append(case)
    found = [
        _recommendation(dict(zip(TASK_KEY, key, strict=True)), cases, allow_approximate)
        for key, cases in groups.items()
        if not all(case.plain for case in cases)
    ]
    if not found:
        raise NotComparableError(
            "no run drafted anything: there is nothing to choose from",
            "Run it with a γ over 0 too: `specbench run --gamma 0,2,4,8`.",
        )
    return found


def _plain_value(value: Any) -> Any:
    """Null as None, and Python's own number in the place of numpy's, which json cannot write."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if pd.isna(value) else value


def _recommendation(
    key: dict[str, Any], cases: list[DecodedCase], allow_approximate: bool
) -> Recommendation:
    plain = plain_decoding(cases)
    candidates = [
        candidate_of(case, plain.get(case.pool), allow_approximate)
        for case in cases
        if not case.plain
    ]
    candidates.sort(key=_rank)
    allowed = [one for one in candidates if not one.excluded]
    best = allowed[0] if allowed else None
    selected = as_ratio_of_best(best.evidence if best is not None else None, len(allowed))
    tokens, wall_s = (sum(getattr(one, n) for one in plain.values()) for n in ("tokens", "wall_s"))
    return Recommendation(
        key,
        _verdict(best),
        best,
        len(allowed),
        selected,
        [one for one in allowed[1:] if best is not None and alike(best, one)],
        candidates,
        _unmeasured(best, candidates) if best is not None else None,
        stats.tokens_per_s(tokens, wall_s),
        [*_chosen(selected, len(allowed)), *doubts(best, cases)] if best is not None else [],
    )


def _rank(one: Candidate) -> tuple[bool, float]:
    """By the speed-up, since pairs and runs differ in their plain decoding; where there was none nothing
    but tokens/s is left, which says nothing beside other days' speed-ups: they come last."""
    alone = math.isnan(one.speedup.value)
    return alone, -(one.tokens_per_s if alone else one.speedup.value)


def _chosen(selected: Interval, among: int) -> list[str]:
    """The fastest of many is partly the luckiest."""
    if not selected.known or selected.low > 1:
        return []
    return [
        f"the fastest of {among}: widened for that choice, its interval holds 1× "
        f"({selected.low:.2f} to {selected.high:.2f})"
    ]


def _verdict(best: Candidate | None) -> str:
    """Drafting pays if the interval lies past `PAYS`."""
    if best is None:
        return OPEN
    speedup = best.speedup
    if math.isnan(speedup.value):
        return UNKNOWN
    low, high = speedup.low, speedup.high
    if not speedup.known:  # one repeat: more than the spread that is called unsteady
        low, high = speedup.value / (1 + STEADY_SPREAD), speedup.value * (1 + STEADY_SPREAD)
    if low > PAYS:
        return DRAFT
    return PLAIN if high < PAYS else OPEN


def _unmeasured(best: Candidate, candidates: list[Candidate]) -> Unmeasured | None:
    """The γ between measured ones that may beat the best, if there is one."""
    same = {
        int(one.line["gamma"]): one
        for one in candidates
        if all(one.line[part] == best.line[part] for part in ("label", "pair", "run_id"))
        and one.line["gamma"].isdecimal()
        and not math.isnan(one.prediction.decoding * one.speedup.value)
    }
    run = sorted(same)
    if len(run) < 2:
        return None
    predictions = [same[gamma].prediction for gamma in run]
    found = between(run, predictions, [same[gamma].speedup.value for gamma in run])
    gamma, speedup = max(found.items(), key=lambda pair: pair[1], default=(0, 0.0))
    if speedup <= best.speedup.value:
        return None
    return Unmeasured(best.line["label"], best.line["pair"], gamma, speedup)
