"""From the cases of one run, or of a run and its reference, to findings: every figure with its doubts."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from specbench.floors import LESS_IS_BETTER, METRICS, Floor, Metric, floors, parse_floor
from specbench.report.captions import group_title
from specbench.report.compare import BASELINE, bounds_text
from specbench.report.doubts import apart, at_power_limit, disturbed, missing_sequences
from specbench.report.evidence import Estimate, of_counts, of_steps
from specbench.report.measured import Runs, level, logs, rate, scored, speed, unlike
from specbench.report.noise import Noise
from specbench.report.pairing import (
    Batches,
    Case,
    CaseKey,
    Floats,
    Sequences,
    aligned,
    as_one,
    measured,
    pooled,
    same_sequences,
)
from specbench.report.reader import Run
from specbench.report.summary import GROUP_KEY, STEADY_REPEATS, STEADY_SPREAD
from specbench.report.verdict import ALL, Finding, Halves

PLAIN = "γ = 0"


@dataclass(frozen=True)
class Rules:
    """What counts, and how much of a change.

    Attributes:
        gates: what decides, of `floors.GATES`.
        thresholds: metric → fields of its floor; they replace the scenario's, which replace the defaults.
        absolute: whether times are held against the reference's without a baseline between them.
        noise: the machine's own, which lifts a floor that is lower.
    """

    gates: frozenset[str] = frozenset()
    thresholds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    absolute: bool = False
    noise: Noise | None = None


@dataclass(frozen=True)
class Side:
    """A run with its cases."""

    run: Run

    @cached_property
    def cases(self) -> dict[CaseKey, Case]:
        """See `pairing.measured`."""
        return measured(self.run.rows)

    @cached_property
    def plain(self) -> dict[tuple[Any, ...], list[Case]]:
        """Group → its cases of plain decoding, which is the same whatever the method is called."""
        found: dict[tuple[Any, ...], list[Case]] = {}
        for case in self.cases.values():
            if case.key["gamma"] == "0" and len(case.sequences.item):
                found.setdefault(case.group, []).append(case)
        return found

    def named(self, case: Case) -> str:
        """The method, with its range where there are several."""
        if case.key["method"] == ALL:
            return "plain"
        low, high = case.key["sigmoid_alpha"], case.key["sigmoid_beta"]
        method = str(case.key["method"])
        return (
            f"{method} {bounds_text(low, high)}" if self._ranges > 1 and low is not None else method
        )

    @cached_property
    def _ranges(self) -> int:
        keys = [case.key for case in self.cases.values()]
        return len({(key["sigmoid_alpha"], key["sigmoid_beta"]) for key in keys} - {(None, None)})


def scenario_floors(run: Run) -> dict[str, dict[str, float]]:
    """The field `gate` of a run's scenario; nothing if the file has none.

    Raises:
        InputError: it names a metric or a floor that this version does not know.
    """
    try:
        gate = json.loads(run.metadata["resolved_scenario"])["gate"]
    except (KeyError, TypeError, ValueError):
        return {}
    return {name: parse_floor(name, value) for name, value in dict(gate or {}).items()}


def findings(sides: Sequence[Side], rules: Rules) -> list[Finding]:
    """Every figure of the cases that all sides have.

    Args:
        sides: the run and its reference; or a run alone, whose methods are held against `baseline`.
    """
    limits = floors(scenario_floors(sides[0].run), rules.thresholds)
    common = [key for key in sides[0].cases if all(_finished(side, key) for side in sides)]
    plain, methods = _sorted_out({key: sides[0].cases[key] for key in common})
    found: list[Finding] = []
    for keys in plain:
        whole = [[as_one([side.cases[key] for key in keys], ALL)] for side in sides]
        found += _Subject(sides, whole, rules, limits).plain()
    for keys in methods:
        cases = [[side.cases[key] for key in keys] for side in sides]
        for place in range(len(keys)):
            alone = [[side[place]] for side in cases]
            found += _Subject(sides, alone, rules, limits).drafting()
        if len(keys) > 1 and len(sides) > 1:
            found += _Subject(sides, cases, rules, limits).timed()
    return found


def _finished(side: Side, key: CaseKey) -> bool:
    case = side.cases.get(key)
    return case is not None and len(case.sequences.item) > 0


def _sorted_out(cases: Mapping[CaseKey, Case]) -> tuple[list[list[CaseKey]], list[list[CaseKey]]]:
    """Of each group the cases without drafts, under all methods' names; and each method's at all γ."""
    plain: dict[CaseKey, list[CaseKey]] = {}
    methods: dict[CaseKey, list[CaseKey]] = {}
    for key, case in cases.items():
        if case.key["gamma"] == "0":
            plain.setdefault(case.group, []).append(key)
        else:
            rest = tuple(value for name, value in case.key.items() if name != "gamma")
            methods.setdefault(rest, []).append(key)
    return list(plain.values()), list(methods.values())


@dataclass(frozen=True)
class _Subject:
    """A case that all sides have; or a method at several γ, of which the mean is judged: what slows a
    method down does so at all γ, and the mean of several ratios is surer than each.

    Attributes:
        cases: those of each side.
    """

    sides: Sequence[Side]
    cases: Sequence[Sequence[Case]]
    rules: Rules
    limits: Mapping[str, Floor]

    @property
    def members(self) -> Sequence[Case]:
        """Those of the new run."""
        return self.cases[0]

    @property
    def case(self) -> Case:
        """The first one, of the new run."""
        return self.members[0]

    @property
    def _metadata(self) -> list[dict[str, Any]]:
        return [side.run.metadata for side in self.sides]

    def drafting(self) -> Iterator[Finding]:
        """Of a case that drafts."""
        yield from self.timed()
        if len(self.sides) > 1:
            yield from self._sampled()

    def timed(self) -> Iterator[Finding]:
        """Times: over `baseline`, over plain decoding, and the times themselves if asked."""
        bases = [_baseline_of(case) for case in self.members]
        has_base = [all(_finished(side, base) for base in bases) for side in self.sides]
        if self.case.key["method"] != BASELINE:
            if all(has_base):
                yield from self._over(BASELINE, [[[s.cases[b]] for b in bases] for s in self.sides])
            elif has_base[-1]:
                yield from self._over_nothing(BASELINE, ["verify_us", "tokens_per_s"])
        plain = [side.plain.get(self.case.group, []) for side in self.sides]
        if all(plain):
            yield from self._over(PLAIN, [[one] * len(self.members) for one in plain])
        elif plain[-1]:
            yield from self._over_nothing(PLAIN, ["speedup"])
        yield from self._itself()

    def _over_nothing(self, over: str, names: Sequence[str]) -> Iterator[Finding]:
        """What the reference held against something that the new run has no figures of."""
        why = f"the new run has no figures of {over}"
        for name in names:
            yield self._finding(METRICS[name], over, None, [math.nan, math.nan], [why])

    def plain(self) -> Iterator[Finding]:
        """Of a case that does not draft: it is held against nothing inside its run."""
        yield from self._itself()
        if len(self.sides) > 1:
            yield from (one for one in self._sampled() if one.metric.name == "quality")

    def _itself(self) -> Iterator[Finding]:
        if len(self.sides) > 1 and self.rules.absolute:
            yield from self._over("", [[[] for _ in self.members] for _ in self.sides])

    def _over(self, over: str, others: Sequence[Sequence[list[Case]]]) -> Iterator[Finding]:
        """Times, held against other cases of the same run: those of each side and member, pooled."""
        parts = [
            [case.batches, *([pooled(base)] if base else [])]
            for cases, bases in zip(self.cases, others, strict=True)
            for case, base in zip(cases, bases, strict=True)
        ]
        flat = iter(aligned([part for case in parts for part in case]))
        grids = [tuple(next(flat) for _ in case) for case in parts]
        many = len(self.members)
        runs = [grids[i : i + many] for i in range(0, len(grids), many)]
        flat_bases = [[one for base in side for one in base] for side in others]
        doubts = self._doubts([one for side in flat_bases for one in side])
        beside = [list(zip(*one, strict=True)) for one in zip(self.cases, others, strict=True)]
        doubts += at_power_limit(self._metadata, over, beside)
        doubts += [] if over else apart(self._metadata, self.cases)

        def timed(name: str, estimate: Estimate | None, known: list[str]) -> Finding:
            found = self._timed(name, over, estimate, runs, known)
            if not over or len(self.sides) < 2:
                return found
            return replace(found, halves=partial(self._halves, name, runs, flat_bases))

        if over != PLAIN and self.case.key["gamma"] != "0":
            verify = logs("verify_us", runs)
            yield timed("verify_us", of_steps(verify), doubts + unlike(verify))
            kernel = of_steps(logs("kernel_us", runs))
            if over and kernel is not None:
                passes = [] if kernel.error > 0 else ["one profiling pass has no repeats"]
                found = timed("verify_kernel_us", kernel, doubts + passes)
                yield replace(found, gates=False)
        name = "speedup" if over == PLAIN else "tokens_per_s"
        yield timed(name, speed(runs), doubts + unlike(logs("tokens_per_s", runs)))

    def _halves(self, name: str, runs: Runs, bases: Sequence[Sequence[Case]]) -> Halves:
        """Of a ratio: the same batches' own figures, and those of what they are held against."""
        of_time = {"verify_us": "verify_us", "verify_kernel_us": "kernel_us"}.get(name)
        # Days differ by more in times than in ratios: the floor that is calibrated for them would hide a
        # method's own loss.
        plainly = replace(self, rules=replace(self.rules, noise=None))

        def half(part: int, cases: Sequence[Sequence[Case]]) -> Finding:
            alone = [[(case[part],) for case in run] for run in runs]
            estimate = of_steps(logs(of_time, alone)) if of_time else speed(alone)
            metric = name if of_time else "tokens_per_s"
            return plainly._timed(metric, "", estimate, alone, apart(self._metadata, cases))

        return Halves(half(0, self.cases), half(1, bases))

    def _timed(
        self,
        name: str,
        over: str,
        estimate: Estimate | None,
        runs: Runs,
        doubts: list[str],
    ) -> Finding:
        found = list(doubts)
        if estimate is None:
            found.append(_why_nothing(runs[0][0][0]))
        elif estimate.repeats < STEADY_REPEATS:
            found.append(f"{_count(estimate.repeats, 'repeat')}, not {STEADY_REPEATS}")
        levels = [level(name, [case[0] for case in run]) for run in runs]
        known = self._finding(METRICS[name], over, estimate, levels, found)
        wide = estimate is not None and estimate.spread > STEADY_SPREAD
        return (
            replace(known, unsteady=f"spread over {STEADY_SPREAD:.0%} between repeats")
            if wide
            else known
        )

    def _sampled(self) -> Iterator[Finding]:
        """Acceptance and quality, from the sequences that both runs have."""
        if self.case.key["synthetic_acceptance"] is not None:
            return
        both = same_sequences(*(cases[0].sequences for cases in self.cases))
        yield self._rate(METRICS["tau"], both, lambda s: (s.new_tokens, s.verify_steps))
        yield self._rate(METRICS["alpha"], both, lambda s: (s.accepted, s.drafted))
        if any(cases[0].metrics for cases in self.cases):
            yield self._quality(both)

    def _quality(self, both: Sequence[Sequences]) -> Finding:
        """Of the sequences that both runs have scored."""
        metric = METRICS["quality"]
        if self.case.metrics & LESS_IS_BETTER:
            metric = replace(metric, worse=+1)
        new, old = (scored(one) for one in both)
        doubts = [] if np.array_equal(new, old) else ["not scored in every sequence of both runs"]
        names = [cases[0].metrics for cases in self.cases]
        if names[0] != names[1]:
            doubts.append(f"metric {_listed(names[1])} / {_listed(names[0])}")
        known = [one.take(new & old) for one in both]
        return self._rate(metric, known, lambda s: (s.value * s.weight, s.weight), doubts)

    def _rate(
        self,
        metric: Metric,
        both: Sequence[Sequences],
        parts: Callable[[Sequences], tuple[Floats, Floats]],
        known: Sequence[str] = (),
    ) -> Finding:
        """A rate of sums, from paired sequences."""
        new, old = (parts(one) for one in both)
        repeats = len(np.unique(both[0].repeat))
        estimate = of_counts(new, old, both[0].sample, repeats, metric.is_difference)
        doubts = [*self._doubts([], timed=False), *known]
        if estimate is None:
            doubts.append("not measured" if self._has_common else "no sequence in common")
        elif estimate.samples < STEADY_REPEATS:
            doubts.append(f"{_count(estimate.samples, 'sample')}, not {STEADY_REPEATS}")
        return self._finding(metric, "", estimate, [rate(*new), rate(*old)], doubts)

    @property
    def _has_common(self) -> bool:
        return len(same_sequences(*(cases[0].sequences for cases in self.cases))[0].item) > 0

    def _finding(
        self,
        metric: Metric,
        over: str,
        estimate: Estimate | None,
        levels: Sequence[float],
        doubts: Sequence[str],
    ) -> Finding:
        size = float(np.exp(np.mean(np.log(np.abs(levels))))) if all(levels) else math.nan
        floor = self.limits[metric.name].on(0 if math.isnan(size) else size, metric.is_difference)
        noise = self.rules.noise.of(metric.name, over) if self.rules.noise else 0.0
        effective = max(floor, noise)
        return Finding(
            key=self.case.key | ({"gamma": ALL} if len(self.members) > 1 else {}),
            where=group_title({name: self.case.key[name] for name in GROUP_KEY}),
            label=self.sides[0].named(self.case),
            metric=metric,
            over=over,
            run_id=self.sides[0].run.run_id,
            reference_run=self.sides[1].run.run_id if len(self.sides) > 1 else None,
            gates=metric.gate in self.rules.gates,
            estimate=estimate,
            new=levels[0],
            old=levels[-1] if len(levels) > 1 else math.nan,
            floor=effective if metric.is_difference else math.log1p(effective),
            calibrated=noise > floor,
            doubts=tuple(dict.fromkeys(doubts)),
        )

    def _doubts(self, others: Sequence[Case], timed: bool = True) -> list[str]:
        """Why the rows of these cases are no evidence, whatever they say."""
        every = [*(case for cases in self.cases for case in cases), *others]
        found = self._other_build() + missing_sequences(every)
        return found + (disturbed(self._metadata, every) if timed else [])

    def _other_build(self) -> list[str]:
        """What verified is not of the same make in both runs: the method, or what it is held against."""
        found = []
        for case in self.members if self.case.key["gamma"] != "0" else ():
            for key in (tuple(case.key.values()), _baseline_of(case)):
                cases = [side.cases[key] for side in self.sides if key in side.cases]
                kinds = [" and ".join(sorted(one.implementations)) or "unknown" for one in cases]
                if len(set(kinds)) > 1:
                    found.append(f"implementation {' / '.join(reversed(kinds))}")
        return found


def _baseline_of(case: Case) -> CaseKey:
    """`baseline` where all else is the same."""
    its = {"method": BASELINE, "sigmoid_alpha": None, "sigmoid_beta": None}
    return tuple(its.get(name, value) for name, value in case.key.items())


def _why_nothing(grid: Batches) -> str:
    if grid.tokens.size:
        return "not measured"
    return "no sequence in common: samples, seeds or batches differ"


def _listed(names: frozenset[str]) -> str:
    return " and ".join(sorted(names)) or "none"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
