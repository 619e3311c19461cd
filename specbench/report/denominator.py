"""A ratio also gets worse when what it is held against gets faster, and then its method is not slower.

Two files tell that apart only in part: a machine that was faster on one day makes what a method is held
against faster too, and a method that lost as much as the machine gained looks the same as before. Then
the other methods' ratios stand still, so they are asked as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from specbench.report.verdict import Finding, Verdict, change_text, number

_METHOD = {"method", "sigmoid_alpha", "sigmoid_beta"}


def improved_base(finding: Finding, findings: Sequence[Finding]) -> str:
    """Why a ratio got worse though its method did not; "" if that cannot be said.

    It can if both runs' own times are comparable; what the method is held against got better past the
    floor with certainty; the method's own time did not get worse past it; and the ratio of every other
    method over the same got worse by more than the floor too.

    Args:
        findings: all of the comparison.
    """
    if finding.halves is None:
        return ""
    halves = finding.halves()
    if not (_is_better(halves.base) and _is_no_worse(halves.own)):
        return ""
    if not all(_moved(other) > finding.floor for other in _others(finding, findings)):
        return ""
    base, own = Verdict(halves.base, ""), Verdict(halves.own, "")
    low, high = (number(base, value) for value in base.interval)
    name = halves.base.metric.name
    tells = "" if name == "time_us" else "; `specbench run --against` tells"
    return (
        f"{finding.over} itself is faster ({name} {change_text(base)} [{low}, {high}]), this method is "
        f"no slower ({change_text(own)}): what it is held against improved{tells}"
    )


def _is_better(finding: Finding) -> bool:
    """Past the floor, the whole interval."""
    if not finding.is_trusted or finding.estimate is None:
        return False
    return all(end * finding.metric.worse < -finding.floor for end in finding.estimate.interval())


def _is_no_worse(finding: Finding) -> bool:
    return finding.is_trusted and _moved(finding) <= finding.floor


def _moved(finding: Finding) -> float:
    """How far to the worse, in point estimate."""
    return finding.estimate.change * finding.metric.worse if finding.estimate else float("nan")


def _others(finding: Finding, findings: Sequence[Finding]) -> Iterator[Finding]:
    """The other methods' same ratio where all else is the same, if there is no doubt about it."""
    for other in findings:
        if (
            other is not finding
            and other.is_trusted
            and other.estimate
            and _place(other) == _place(finding)
        ):
            yield other


def _place(finding: Finding) -> tuple[Any, ...]:
    key = tuple(value for name, value in finding.key.items() if name not in _METHOD)
    return finding.run_id, finding.reference_run, finding.metric.name, finding.over, key
