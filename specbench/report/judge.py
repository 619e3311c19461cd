"""From findings to verdicts: faster, slower, same or inconclusive, each with its reason in words.

Slower (or faster): past the floor, even after Holm's correction over all figures that gate. Same: the
whole interval is inside the floor on both sides. Everything else is inconclusive, and so is whatever
there is a doubt about: bad evidence is never a pass, nor a regression. Repeats that spread widely make no
pass either; but a regression that makes a method unsteady is one, if the interval is past the floor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from specbench.floors import SLOWER
from specbench.report.denominator import improved_base
from specbench.report.evidence import LEVEL, Estimate, fewest_samples, holm
from specbench.report.verdict import (
    ALL,
    BETTER,
    BROKEN,
    FASTER,
    INCONCLUSIVE,
    SAME,
    WORSE,
    Finding,
    Verdict,
)


def judge(findings: Sequence[Finding]) -> list[Verdict]:
    """All findings at once, because Holm's correction counts how many figures gate; worst first.

    Half of the 1 % goes to the figures over all γ, half to those of a single γ: there are fewer of the
    former, and what slows a method down shows in them first.
    """
    tested = [f for f in findings if f.gates and not f.doubts and _is_uncertain(f.estimate)]
    wide = [f for f in tested if f.key["gamma"] == ALL]
    families = [part for part in (wide, [f for f in tested if f.key["gamma"] != ALL]) if part]
    by_holm = {
        id(finding): (min(1.0, len(families) * p), len(families) * len(family))
        for family in families
        for finding, p in zip(family, holm(_p_values(family)).tolist(), strict=True)
    }
    judged = [_judged(f, by_holm.get(id(f))) for f in findings]
    return sorted((_with_its_base(verdict, findings) for verdict in judged), key=_rank)


def _with_its_base(verdict: Verdict, findings: Sequence[Finding]) -> Verdict:
    """Slower over something that got faster is not slower."""
    if verdict.verdict != SLOWER:
        return verdict
    why = improved_base(verdict.finding, findings)
    return replace(verdict, verdict=INCONCLUSIVE, why=(why,)) if why else verdict


def _p_values(findings: Sequence[Finding]) -> list[float]:
    return [f.estimate.p_value(f.floor) if f.estimate else math.nan for f in findings]


def _is_uncertain(estimate: Estimate | None) -> bool:
    """Where the same seeds gave the same tokens there is no chance, and nothing to correct for."""
    return estimate is not None and estimate.error != 0


def _judged(finding: Finding, corrected: tuple[float, int] | None) -> Verdict:
    estimate = finding.estimate
    if finding.failed:
        return Verdict(finding, BROKEN, why=finding.doubts)
    if finding.doubts or estimate is None:
        return Verdict(finding, INCONCLUSIVE, why=finding.doubts or ("nothing to compare",))
    own = estimate.p_value(finding.floor)
    p, tests = corrected or (own, 1)
    if math.isnan(p):
        return Verdict(finding, INCONCLUSIVE, p, tests, ("its error cannot be told",))
    if p <= 1 - LEVEL and (finding.is_trusted or estimate.change * finding.metric.worse > 0):
        return Verdict(finding, _direction(finding, estimate.change), p, tests)
    if finding.unsteady:
        return Verdict(finding, INCONCLUSIVE, p, tests, (finding.unsteady,))
    low, high = estimate.interval()
    if -finding.floor <= low and high <= finding.floor:
        return Verdict(finding, SAME, p, tests)
    if few := _too_few_samples(finding, estimate.samples, tests):
        why = few
    elif own <= 1 - LEVEL:
        why = f"not past the floor after Holm's correction over {tests} figures"
    elif low < -finding.floor and high > finding.floor:
        why = "the interval is wider than the floor"
    else:
        why = "the interval crosses the floor"
    return Verdict(finding, INCONCLUSIVE, p, tests, (why,))


def _too_few_samples(finding: Finding, samples: int, tests: int) -> str:
    """Of what is sampled, if not even a total loss could have been a verdict; else ""."""
    metric = finding.metric
    if metric.gate == SLOWER:
        return ""
    # τ and rates of errors have no end: their total loss is past any floor
    is_bounded = metric.is_difference and metric.worse < 0 and finding.old > 0
    needed = fewest_samples(tests, finding.floor / finding.old if is_bounded else 0.0)
    if needed is None or samples >= needed:
        return ""
    return f"too few samples to tell ({samples}; at least {needed})"


def _direction(finding: Finding, change: float) -> str:
    is_worse = change * finding.metric.worse > 0
    if finding.metric.gate == SLOWER:
        return SLOWER if is_worse else FASTER
    return WORSE if is_worse else BETTER


def _rank(verdict: Verdict) -> tuple[int, bool, float]:
    order = {BROKEN: -1, SLOWER: 0, WORSE: 0, INCONCLUSIVE: 1, FASTER: 2, BETTER: 2, SAME: 3}
    finding = verdict.finding
    if finding.estimate is None:
        return order[verdict.verdict], not finding.gates, math.inf
    floors_past = finding.estimate.change * finding.metric.worse / (finding.floor or 1.0)
    return order[verdict.verdict], not finding.gates, -floors_past
