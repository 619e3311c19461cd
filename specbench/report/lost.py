"""What a new run lacks of its reference: cases that were not run, and cases whose sequences failed.

A case that is not there may have been taken out of the scenario: nothing can be said of it. One that was
tried and failed, where the reference had figures, is broken, and that needs no statistics.
"""

from __future__ import annotations

import math
from typing import Any

from specbench.floors import METRICS
from specbench.report.captions import group_title
from specbench.report.findings import Rules, Side
from specbench.report.pairing import Case, CaseKey
from specbench.report.summary import GROUP_KEY
from specbench.report.verdict import Finding

CHANCE = 0.01
"""At most so likely may the new failures be where both builds fail as often, for a case to be broken."""


UNTIL_LOADED = {"dtype": "auto", "chat_template": False}
"""What stands where only a pair's files tell, of a pair that could not be loaded."""


def lost_cases(new: Side, old: Side, rules: Rules) -> list[Finding]:
    """A finding for each case of the reference that the new run lacks, or that is broken in it."""
    found = []
    for key, case in old.cases.items():
        if not len(case.sequences.item):
            continue
        other = new.cases.get(key) or _unloaded(case, new)
        if other is None:
            found.append(_finding(case, new, old, "not in the new run", rules))
        elif _is_broken(other, case):
            found.append(_finding(case, new, old, _failures(other, case), rules, failed=True))
    return found


def _unloaded(case: Case, new: Side) -> Case | None:
    """The case in a run that could not load its pair."""
    return next((other for other in new.cases.values() if _stands_for(other, case)), None)


def _stands_for(other: Case, case: Case) -> bool:
    """Whether one that never came to be loaded is the other: all that was asked for is the same."""
    if other.failed == 0 or len(other.sequences.item):
        return False
    return all(
        other.key[name] == value or other.key[name] == UNTIL_LOADED.get(name, value)
        for name, value in case.key.items()
    )


def _is_new(key: CaseKey, case: Case, old: Side) -> bool:
    return key not in old.cases and not any(
        _stands_for(case, before) for before in old.cases.values()
    )


def _is_broken(new: Case, old: Case) -> bool:
    """All failed, or any where none did, or more than chance explains where some did."""
    if not new.failed or not len(new.sequences.item):
        return new.failed > 0
    return not old.failed or _chance(new, old) <= CHANCE


def _chance(new: Case, old: Case) -> float:
    """Of so many of all failures, or more, in the new run: Fisher's exact test, one-sided."""
    tried, failed = _tried(new), new.failed + old.failed
    ways = [
        math.comb(failed, here) * math.comb(tried + _tried(old) - failed, tried - here)
        for here in range(new.failed, min(failed, tried) + 1)
    ]
    return sum(ways) / math.comb(tried + _tried(old), tried)


def _tried(case: Case) -> int:
    return case.failed + len(case.sequences.item)


def _failures(new: Case, old: Case) -> str:
    tried = _tried(new)
    number = f"all {tried}" if new.failed == tried else f"{new.failed} of {tried}"
    before = f" (in the reference {old.failed} of {_tried(old)})"
    return f"{number} sequences failed{before if old.failed else ''}: {new.error}"


def _finding(
    case: Case, new: Side, old: Side, why: str, rules: Rules, failed: bool = False
) -> Finding:
    return Finding(
        key=case.key, where=where(case), label=old.named(case), metric=METRICS["tokens_per_s"], over="",
        run_id=new.run.run_id, reference_run=old.run.run_id, gates=bool(rules.gates), estimate=None,
        doubts=(why,), failed=failed,
    )  # fmt: skip


def where(case: Case) -> str:
    """What sets its group apart, in words."""
    return group_title({name: case.key[name] for name in GROUP_KEY})


def failure_notes(new: Side, old: Side) -> list[str]:
    """What failed and is no verdict: sequences that the reference lacks too, and cases that it does not
    have at all."""
    both = [(case, old.cases[key]) for key, case in new.cases.items() if key in old.cases]
    found = [
        f"{_failed_of(case)} sequences of {_named(new, case)} failed, "
        f"in the reference {_failed_of(before)}"
        for case, before in both
        if len(before.sequences.item) and before.failed and not _is_broken(case, before)
    ]
    return found + [
        f"{_failed_of(case)} sequences of {_named(new, case)} failed, which the reference lacks: "
        f"{case.error}"
        for key, case in new.cases.items()
        if case.failed and _is_new(key, case, old)
    ]


def _named(side: Side, case: Case) -> str:
    return f"{side.named(case)} at γ = {case.key['gamma']}"


def _failed_of(case: Case) -> str:
    return f"{case.failed} of {_tried(case)}"


def cases_alone(new: Side, old: Side) -> list[dict[str, Any]]:
    """Cases of the new run that the reference lacks: columns of their key, `label`, `where`, `run_id`,
    and `error`, None if none of their sequences failed."""
    return [
        case.key
        | {"label": new.named(case), "where": where(case), "run_id": new.run.run_id}
        | {"error": case.error}
        for key, case in new.cases.items()
        if _is_new(key, case, old)
        or (
            len(case.sequences.item) and key in old.cases and not len(old.cases[key].sequences.item)
        )
    ]
