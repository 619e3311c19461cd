"""Verdicts on figures: faster, slower, same or inconclusive, each with its reason in words.

Slower (or faster): past the floor, even after Holm's correction over all figures that gate. Same: the
whole interval is inside the floor on both sides. Everything else is inconclusive, and so is whatever
there is a doubt about: bad evidence is never a pass, nor a regression.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from specbench.floors import SLOWER, Metric
from specbench.report.evidence import LEVEL, Estimate, holm

FASTER, BETTER, WORSE = "faster", "better", "worse"
SAME, INCONCLUSIVE = "same", "inconclusive"
ALL = "all"
"""In the place of γ where a figure is of all γ that a method has."""
BAD = {SLOWER, WORSE}
"""Verdicts that fail a gate. Times and rates are faster or slower, acceptance and quality better or
worse."""


@dataclass(frozen=True)
class Finding:
    """What is known of one figure before the others are looked at.

    Attributes:
        key: the case's columns; `where`: what sets its group apart, in words; `label`: the method.
        over: what the figure was held against within its run: "baseline", "γ = 0", or "" for nothing.
        run_id, reference_run: `reference_run` is None for a figure of one run alone.
        gates: whether it counts for the exit code.
        estimate: None if there is no evidence at all.
        new, old: the figure itself in both runs, NaN if it is not known.
        floor: of `Estimate.change`.
        calibrated: whether the floor is the machine's measured noise.
        doubts: why the evidence is not to be trusted.
    """

    key: dict[str, Any]
    where: str
    label: str
    metric: Metric
    over: str
    run_id: str
    reference_run: str | None
    gates: bool
    estimate: Estimate | None
    new: float = math.nan
    old: float = math.nan
    floor: float = 0.0
    calibrated: bool = False
    doubts: tuple[str, ...] = ()

    @property
    def is_missing(self) -> bool:
        """Whether the new run has nothing of this case."""
        return self.estimate is None and math.isnan(self.new)

    @property
    def figure(self) -> str:
        """verify_us / baseline"""
        return f"{self.metric.name} / {self.over}" if self.over else self.metric.name


@dataclass(frozen=True)
class Verdict:
    """A finding with its verdict.

    Attributes:
        p: Holm's adjusted p-value among the figures that gate; of others their own. NaN: not tested.
        tests: how many figures the correction is for.
        why: of an inconclusive one, in few words.
    """

    finding: Finding
    verdict: str
    p: float = math.nan
    tests: int = 1
    why: tuple[str, ...] = field(default=())

    @property
    def fails(self) -> bool:
        """Whether it fails the gate."""
        return self.finding.gates and self.verdict in BAD

    @property
    def change(self) -> float:
        """new / reference - 1, or the difference."""
        return shown(
            self.finding, self.finding.estimate.change if self.finding.estimate else np.nan
        )

    @property
    def interval(self) -> tuple[float, float]:
        """Of `change`, at 99 %."""
        estimate = self.finding.estimate
        low, high = estimate.interval() if estimate else (np.nan, np.nan)
        return shown(self.finding, low), shown(self.finding, high)

    @property
    def floor(self) -> float:
        """As `change` has it, upwards."""
        return shown(self.finding, self.finding.floor)

    @property
    def reason(self) -> str:
        """slower: verify_us / baseline +5.1 % [4.2, 6.0], floor 3 %"""
        figure = f"{self.finding.figure} {in_words(self)}" if self.finding.estimate else ""
        return f"{self.verdict}: {'; '.join(part for part in (figure, *self.why) if part)}"


def shown(finding: Finding, value: float) -> float:
    """From the scale of estimates to the one that people read."""
    return value if finding.metric.is_difference else float(np.expm1(value))


def in_words(verdict: Verdict) -> str:
    """+5.1 % [4.2, 6.0], floor 3 %"""
    change, (low, high) = change_text(verdict), verdict.interval
    interval = f" [{number(verdict, low)}, {number(verdict, high)}]" if not math.isnan(low) else ""
    return f"{change}{interval}, floor {floor_text(verdict)}"


def change_text(verdict: Verdict) -> str:
    """+5.1 %, or of a difference +0.021."""
    sign = "" if verdict.finding.metric.is_difference else " %"
    value = number(verdict, verdict.change)
    return f"{'' if value.startswith('-') else '+'}{value}{sign}"


def floor_text(verdict: Verdict) -> str:
    """3 %, and where it is from if it was measured."""
    if verdict.finding.metric.is_difference:
        text = f"{verdict.floor:.3g}"
    else:
        text = f"{100 * verdict.floor:.2g} %"
    return f"{text} (calibrated)" if verdict.finding.calibrated else text


def number(verdict: Verdict, value: float) -> str:
    """A change in percent, or a difference."""
    if not math.isfinite(value):
        return "?"
    if verdict.finding.metric.is_difference:
        return f"{round(value, 3) + 0.0:.3f}"
    return f"{round(100 * value, 1) + 0.0:,.1f}"


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
    return sorted((_judged(f, by_holm.get(id(f))) for f in findings), key=_rank)


def _p_values(findings: Sequence[Finding]) -> list[float]:
    return [f.estimate.p_value(f.floor) if f.estimate else math.nan for f in findings]


def _is_uncertain(estimate: Estimate | None) -> bool:
    """Where the same seeds gave the same tokens there is no chance, and nothing to correct for."""
    return estimate is not None and estimate.error != 0


def _judged(finding: Finding, corrected: tuple[float, int] | None) -> Verdict:
    estimate = finding.estimate
    if finding.doubts or estimate is None:
        return Verdict(finding, INCONCLUSIVE, why=finding.doubts or ("nothing to compare",))
    own = estimate.p_value(finding.floor)
    p, tests = corrected or (own, 1)
    if math.isnan(p):
        return Verdict(finding, INCONCLUSIVE, p, tests, ("its error cannot be told",))
    if p <= 1 - LEVEL:
        return Verdict(finding, _direction(finding, estimate.change), p, tests)
    low, high = estimate.interval()
    if -finding.floor <= low and high <= finding.floor:
        return Verdict(finding, SAME, p, tests)
    if own <= 1 - LEVEL:
        why = f"not past the floor after Holm's correction over {tests} figures"
    elif low < -finding.floor and high > finding.floor:
        why = "the interval is wider than the floor"
    else:
        why = "the interval crosses the floor"
    return Verdict(finding, INCONCLUSIVE, p, tests, (why,))


def _direction(finding: Finding, change: float) -> str:
    is_worse = change * finding.metric.worse > 0
    if finding.metric.gate == SLOWER:
        return SLOWER if is_worse else FASTER
    return WORSE if is_worse else BETTER


def _rank(verdict: Verdict) -> tuple[int, bool, float]:
    order = {SLOWER: 0, WORSE: 0, INCONCLUSIVE: 1, FASTER: 2, BETTER: 2, SAME: 3}
    finding = verdict.finding
    if finding.estimate is None:
        return order[verdict.verdict], not finding.gates, math.inf
    floors_past = finding.estimate.change * finding.metric.worse / (finding.floor or 1.0)
    return order[verdict.verdict], not finding.gates, -floors_past
