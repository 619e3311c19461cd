"""What a new run lacks of its reference: cases that were not run, and cases whose sequences failed.

A case that is not there may have been taken out of the scenario: nothing can be said of it. One that was
tried and failed, where the reference had figures, is broken, and that needs no statistics.
"""

from __future__ import annotations

from typing import Any

from specbench.floors import METRICS
from specbench.report.captions import group_title
from specbench.report.findings import Rules, Side
from specbench.report.pairing import Case
from specbench.report.summary import GROUP_KEY
from specbench.report.verdict import Finding

MUCH_MORE = 2.0
"""More than so many times the reference's share of failed sequences, and the case is broken: any, where
the reference has none."""


def lost_cases(new: Side, old: Side, rules: Rules) -> list[Finding]:
    """A finding for each case of the reference that the new run lacks, or that is broken in it."""
    found = []
    for key, case in old.cases.items():
        if not len(case.sequences.item):
            continue
        other = new.cases.get(key)
        if other is None:
            found.append(_finding(case, new, old, "not in the new run", rules))
        elif _is_broken(other, case):
            found.append(_finding(case, new, old, _failures(other, case), rules, failed=True))
    return found


def _is_broken(new: Case, old: Case) -> bool:
    return not len(new.sequences.item) or _share(new) > MUCH_MORE * _share(old)


def _share(case: Case) -> float:
    return case.failed / (case.failed + len(case.sequences.item))


def _failures(new: Case, old: Case) -> str:
    tried = new.failed + len(new.sequences.item)
    number = f"all {tried}" if new.failed == tried else f"{new.failed} of {tried}"
    before = f" (in the reference {old.failed} of {old.failed + len(old.sequences.item)})"
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


def cases_alone(new: Side, old: Side) -> list[dict[str, Any]]:
    """Cases of the new run that the reference lacks: columns of their key, `label`, `where`, `run_id`."""
    return [
        case.key | {"label": new.named(case), "where": where(case), "run_id": new.run.run_id}
        for key, case in new.cases.items()
        if len(case.sequences.item)
        and not (key in old.cases and len(old.cases[key].sequences.item))
    ]
