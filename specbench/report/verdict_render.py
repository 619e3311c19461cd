"""Verdicts as tables and as JSON."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from specbench.report.compare import gamma_order
from specbench.report.evidence import LEVEL
from specbench.report.sheet import NO_VALUE, Cell, Column, Sheet
from specbench.report.summary import STEADY_REPEATS
from specbench.report.verdict import INCONCLUSIVE, SAME, Verdict, change_text, floor_text, number

_ADVICE = {
    "repeat": "repeats are the evidence for a time: specbench run --repeats 5, or more; of specbench "
    "micro three files a side, or more",
    "sample": "samples are the evidence for acceptance and quality: specbench run --samples 16, or more",
    "slowed down": "a GPU at its power or heat limit: lock its clocks lower (nvidia-smi -lgc)",
    "processes": "other processes share the GPU: run the benchmark on it alone",
    "interval": "more repeats or samples make an interval narrower",
    "Holm": "fewer cases in the scenario, or more repeats, make Holm's correction smaller",
}


def verdict_sheet(verdicts: Sequence[Verdict], captions: Sequence[str], whole: bool) -> Sheet:
    """The verdicts, worst first.

    Args:
        whole: False leaves those that are the same, and cases that are missing, to captions.
    """
    shown = [v for v in verdicts if whole or not (v.verdict == SAME or v.finding.is_missing)]
    places = _apart([verdict.finding.where for verdict in verdicts])
    runs = {verdict.finding.run_id for verdict in verdicts}
    columns = [Column("verdict", right=False), Column("γ"), Column("method", right=False)]
    columns += [Column("figure", right=False), Column("change")]
    columns += [Column("interval", f"{100 * LEVEL:g} %"), Column("floor")]
    columns += [Column("run", right=False)] if len(runs) > 1 else []
    columns += [Column("in", right=False)] if len(set(places.values())) > 1 else []
    columns += [Column("why", right=False)]

    def row(verdict: Verdict) -> list[Cell]:
        found = verdict.finding
        texts = [verdict.verdict, found.key["gamma"], found.label, *_figures(verdict)]
        texts += [found.run_id] if len(runs) > 1 else []
        texts += [places[found.where]] if len(set(places.values())) > 1 else []
        return [Cell(str(text)) for text in (*texts, "; ".join(verdict.why))]

    same = Counter(v.finding.figure for v in verdicts if v.verdict == SAME and not whole)
    below = [f"same: {', '.join(f'{figure} {n}×' for figure, n in same.items())}"] if same else []
    below += [] if whole else _missing(verdicts)
    blocks = [[row(v) for v in shown if v.verdict == kind] for kind in _kinds(shown)]
    return Sheet(_title(verdicts), columns, blocks, [*below, *_advice(verdicts), *captions])


def _figures(verdict: Verdict) -> list[str]:
    low, high = (number(verdict, value) for value in verdict.interval)
    if verdict.finding.estimate is None:
        figure = verdict.finding.figure if verdict.finding.over else NO_VALUE
        return [figure, NO_VALUE, NO_VALUE, NO_VALUE]
    interval = NO_VALUE if "?" in (low, high) else f"[{low}, {high}]"
    return [verdict.finding.figure, change_text(verdict), interval, floor_text(verdict)]


def _missing(verdicts: Sequence[Verdict]) -> list[str]:
    """What the new run lacks, by reason."""
    found: dict[str, dict[str, None]] = {}
    for verdict in verdicts:
        if verdict.finding.is_missing:
            case = f"{verdict.finding.label} at γ = {verdict.finding.key['gamma']}"
            found.setdefault("; ".join(verdict.why), {})[case] = None
    return [f"inconclusive, {why}: {', '.join(cases)}" for why, cases in found.items()]


def _kinds(verdicts: Sequence[Verdict]) -> list[str]:
    return list(dict.fromkeys(verdict.verdict for verdict in verdicts))


def _title(verdicts: Sequence[Verdict]) -> str:
    wheres = list(dict.fromkeys(verdict.finding.where for verdict in verdicts))
    against = "new / reference" if any(v.finding.reference_run for v in verdicts) else "verdicts"
    parts = [where.split(" · ") for where in wheres]
    common = [part for part in parts[0] if all(part in other for other in parts)] if parts else []
    return ": ".join(part for part in (against, " · ".join(common)) if part)


def _apart(wheres: Sequence[str]) -> dict[str, str]:
    """Each group's title without the parts that all have."""
    parts = {where: where.split(" · ") for where in dict.fromkeys(wheres)}
    common = set.intersection(*map(set, parts.values())) if parts else set()
    return {w: " · ".join(part for part in own if part not in common) for w, own in parts.items()}


def _advice(verdicts: Sequence[Verdict]) -> list[str]:
    whys = [why for verdict in verdicts if verdict.verdict == INCONCLUSIVE for why in verdict.why]
    found = [text for word, text in _ADVICE.items() if any(word in why for why in whys)]
    return found[:3]


def methods_sheet(title: str, verdicts: Sequence[Verdict]) -> Sheet | None:
    """A run's methods, a line for each γ and method; None if it has too few repeats for any verdict.

    Args:
        verdicts: of `gate.methods_against_baseline`, of one group.
    """
    estimates = [v.finding.estimate for v in verdicts if v.finding.estimate]
    if not any(estimate.repeats >= STEADY_REPEATS for estimate in estimates):
        return None
    names = {
        "verify_us / baseline": Column("verify over baseline", "%", right=False),
        "tokens_per_s / baseline": Column("tokens/s over baseline", "%", right=False),
        "speedup / γ = 0": Column("tokens/s over γ = 0", "%", right=False),
    }
    lines: dict[tuple[str, str], dict[str, Verdict]] = {}
    for verdict in verdicts:
        found = verdict.finding
        lines.setdefault((found.key["gamma"], found.label), {})[found.figure] = verdict
    shown = [name for name in names if any(name in line for line in lines.values())]
    rows = [
        [Cell(gamma), Cell(label), *(Cell(_short(line.get(name))) for name in shown)]
        for (gamma, label), line in sorted(lines.items(), key=lambda one: gamma_order(one[0][0]))
    ]
    columns = [Column("γ"), Column("method", right=False), *(names[name] for name in shown)]
    floors = "; ".join(f"{names[name].name} {_floors(name, verdicts)}" for name in shown)
    below = [
        f"in brackets {100 * LEVEL:g} % intervals over repeats and samples; unclear: it holds values on "
        f"both sides of the floor ({floors}), or the evidence is not to be trusted",
        *_reasons(verdicts),
    ]
    return Sheet(title, columns, [rows], below)


def _floors(figure: str, verdicts: Sequence[Verdict]) -> str:
    """3 %, or 3 to 15 %: an absolute floor is a larger part of a shorter time."""
    found = sorted(v.floor for v in verdicts if v.finding.figure == figure)
    low, high = (f"{100 * value:.2g}" for value in (found[0], found[-1]))
    return f"{low} %" if low == high else f"{low} to {high} %"


def _short(verdict: Verdict | None) -> str:
    """faster -91.8 [-96.0, -83.3]; where the evidence is in doubt, without an interval."""
    if verdict is None or verdict.finding.estimate is None:
        return NO_VALUE
    low, high = (number(verdict, value) for value in verdict.interval)
    word = "unclear" if verdict.verdict == INCONCLUSIVE else verdict.verdict
    in_doubt = verdict.verdict == INCONCLUSIVE and not verdict.finding.is_trusted
    interval = "" if in_doubt else f" [{low}, {high}]"
    return f"{word} {change_text(verdict).removesuffix(' %')}{interval}"


def _reasons(verdicts: Sequence[Verdict]) -> list[str]:
    """What makes evidence untrustworthy, with how many figures each reason has."""
    doubts = Counter(
        why
        for verdict in verdicts
        if verdict.verdict == INCONCLUSIVE and not verdict.finding.is_trusted
        for why in verdict.why
    )
    return [f"{why}: {number} figures" for why, number in doubts.most_common(3)]


def verdicts_json(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Each verdict as docs/statistics.md describes it."""
    return [_verdict_json(verdict) for verdict in verdicts]


def _verdict_json(verdict: Verdict) -> dict[str, Any]:
    found, estimate = verdict.finding, verdict.finding.estimate
    figures = {
        "change": verdict.change,
        "low": verdict.interval[0],
        "high": verdict.interval[1],
        "floor": verdict.floor,
        "p": verdict.p,
        "new": found.new,
        "reference": found.old,
        "spread": math.nan if estimate is None else estimate.spread,
    }
    return {
        "verdict": verdict.verdict,
        "reason": verdict.reason,
        "why": list(verdict.why),
        "gates": found.gates,
        "fails": verdict.fails,
        "metric": found.metric.name,
        "over": found.over or None,
        "method": found.label,
        "run_id": found.run_id,
        "reference_run": found.reference_run,
        "is_difference": found.metric.is_difference,
        **{name: value if math.isfinite(value) else None for name, value in figures.items()},
        "floor_from": "noise" if found.calibrated else "rules",
        "tests": verdict.tests,
        "repeats": estimate.repeats if estimate else 0,
        "samples": estimate.samples if estimate else 0,
        "key": found.key,
    }
