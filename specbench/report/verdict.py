"""What is known of a figure, and the verdict on it: faster, slower, same, inconclusive or failed.

`judge` finds the verdicts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from specbench.floors import SLOWER, Metric
from specbench.report.evidence import Estimate

FASTER, BETTER, WORSE = "faster", "better", "worse"
SAME, INCONCLUSIVE, BROKEN = "same", "inconclusive", "failed"
ALL = "all"
"""In the place of γ where a figure is of all γ that a method has, and in that of the method where one is
of plain decoding, which is the same whatever the method is called."""
BAD = {SLOWER, WORSE, BROKEN}
"""Verdicts that fail a gate. Times and rates are faster or slower, acceptance and quality better or
worse; a case whose sequences failed is `BROKEN`."""


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
        unsteady: why it may say that a figure is worse, whose interval holds the unsteadiness, but not
            that it is the same or better; "" if nothing.
        failed: whether the case itself failed in the new run, where the reference has figures; `doubts`
            then holds how much of it, and the error.
        halves: of a ratio of two runs how its halves changed, reckoned when it is asked for.
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
    unsteady: str = ""
    failed: bool = False
    halves: Callable[[], Halves] | None = field(default=None, compare=False, repr=False)

    @property
    def is_trusted(self) -> bool:
        """Whether nothing speaks against the evidence, whatever it says."""
        return not self.doubts and not self.unsteady

    @property
    def is_missing(self) -> bool:
        """Whether the new run has nothing of this figure."""
        return self.estimate is None and math.isnan(self.new) and not self.failed

    @property
    def figure(self) -> str:
        """verify_us / baseline"""
        return f"{self.metric.name} / {self.over}" if self.over else self.metric.name


@dataclass(frozen=True)
class Halves:
    """Of a ratio the method's own figure, and that of what it is held against, as with --absolute."""

    own: Finding
    base: Finding


@dataclass(frozen=True)
class Verdict:
    """A finding with its verdict.

    Attributes:
        p: Holm's adjusted p-value among the figures that gate; of others their own. NaN: not tested.
        tests: how many figures the correction is for.
        why: of an inconclusive or failed one, in few words.
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
