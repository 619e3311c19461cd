"""`specbench calibrate`'s noise: how far apart runs of one build are, figure by figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from specbench.errors import InputError, NotComparableError
from specbench.report.findings import Rules, Side, findings
from specbench.report.micro_findings import micro_findings
from specbench.report.noise import ABOUT, Noise, robust_floor
from specbench.report.reader import Run
from specbench.report.schema import MICRO
from specbench.report.summary import STEADY_REPEATS
from specbench.report.verdict import ALL, Finding

_BUILD = ("kernel_hash", "git_sha", "packages", "device_name", "driver")
"""Metadata that runs of one build on one machine have in common."""
FAR = 3.0
"""So many times the rule's floor, and a floor from noise is warned of: it hides what a gate is for."""


@dataclass(frozen=True)
class _Change:
    """By how much a figure of a case differs between two runs, a part or a difference."""

    finding: Finding

    @property
    def size(self) -> float:
        assert self.finding.estimate is not None
        return self._shown(abs(self.finding.estimate.change))

    @property
    def rule(self) -> float:
        """The floor without noise."""
        return self._shown(self.finding.floor)

    def _shown(self, value: float) -> float:
        return value if self.finding.metric.is_difference else float(np.expm1(value))

    def said(self, value: float) -> str:
        """In the figure's unit."""
        return f"{value:.3g}" if self.finding.metric.is_difference else f"{100 * value:.3g} %"

    @property
    def who(self) -> str:
        """fused at γ = 2 (demo-lm · code)"""
        return f"{self.finding.label} at γ = {self.finding.key['gamma']} ({self.finding.where})"


def calibrated(runs: Sequence[Run]) -> Noise:
    """The noise between runs of one build on one machine: every two of them against each other.

    What `compare` would call inconclusive whatever it says (a slowed GPU, another process on it, failed
    sequences, too few repeats) is no noise of the machine's. Each case's figure counts once, with the
    largest change that it shows; the floor is `noise.robust_floor` of these.

    Raises:
        InputError: fewer than two runs, one of them twice, or not all of one build and machine.
        NotComparableError: they have no figure in common, or none that can be trusted.
    """
    _refuse_others(runs)
    every = [finding for new, old in combinations(runs, 2) for finding in _between(new, old)]
    trusted = [_Change(finding) for finding in every if not finding.doubts and _is_single(finding)]
    doubted = Counter(why for finding in every for why in finding.doubts)
    if not trusted:
        raise _nothing(doubted)
    largest = _largest(trusted)
    floors = {name: robust_floor([c.size for c in found]) for name, found in largest.items()}
    left_out = [
        f"{n} change{'s are' if n > 1 else ' is'} left out: {why}" for why, n in doubted.items()
    ]
    return Noise(
        floors,
        {name: len(found) for name, found in largest.items()},
        [run.run_id for run in runs],
        {name: runs[0].metadata.get(name) for name in ABOUT},
        [*left_out, *_warnings(largest, floors)],
    )


def _refuse_others(runs: Sequence[Run]) -> None:
    unlike = [name for name in _BUILD if len({str(run.metadata.get(name)) for run in runs}) > 1]
    ids = [run.run_id for run in runs]
    if len(set(ids)) < 2 or unlike:
        what = f"they differ in {', '.join(unlike)}" if unlike else "there is one run"
        raise InputError(
            f"noise is between runs of one build on one machine, and {what}",
            "Give at least two result files of the same build, or a scenario to run several times.",
        )
    if twice := next((run for run in runs if ids.count(run.run_id) > 1), None):
        raise InputError(
            f"run {twice.run_id} is given twice",
            "Give each file once; a pattern may name one that is given by itself too.",
        )


def _between(new: Run, old: Run) -> list[Finding]:
    rules = Rules(absolute=True)
    if new.kind == MICRO:
        # A file is one repeat, and here each is held against each: that they are single is no doubt.
        return micro_findings([new] * STEADY_REPEATS, [old] * STEADY_REPEATS, rules)
    return findings([Side(new), Side(old)], rules)


def _is_single(finding: Finding) -> bool:
    """The mean over all γ is of figures that count already, and has less noise than each."""
    return finding.estimate is not None and finding.key["gamma"] != ALL


def _nothing(doubted: Mapping[str, int]) -> NotComparableError:
    if not doubted:
        return NotComparableError(
            "the runs have no figure in common", "Give runs of one scenario, of the same seed."
        )
    return NotComparableError(
        f"no figure of these runs can be trusted: {'; '.join(doubted)}",
        "Calibrate with what `compare` would judge: at least three repeats and samples, on a GPU that "
        "nothing else uses and that keeps its clocks.",
    )


def _largest(changes: Sequence[_Change]) -> dict[str, list[_Change]]:
    """metric/over → each case's largest change, the smallest first."""
    found: dict[str, dict[tuple[Any, ...], _Change]] = {}
    for change in changes:
        finding = change.finding
        cases = found.setdefault(f"{finding.metric.name}/{finding.over}", {})
        key = tuple(finding.key.values())
        cases[key] = max(cases.get(key, change), change, key=lambda one: one.size)
    return {name: sorted(of.values(), key=lambda one: one.size) for name, of in found.items()}


def _warnings(
    largest: Mapping[str, Sequence[_Change]], floors: Mapping[str, float]
) -> Iterator[str]:
    """What to look at before a floor is relied on."""
    for name, changes in largest.items():
        floor, figure = floors[name], changes[0].finding.figure
        for change in changes:
            size = change.said(change.size)
            if change.size > max(floor, change.rule):
                yield (
                    f"{figure} of {change.who} differs by {size}: an outlier, which lifts no floor; the "
                    "gate may call it slower or faster in runs of one build"
                )
            elif change.size == floor > FAR * change.rule:
                yield (
                    f"the floor of {figure} is {size}, more than {FAR:g} times the rule's "
                    f"{change.said(change.rule)}, from {change.who}: the gate will pass a regression "
                    "up to that"
                )
