"""A recommendation in a sentence, as a table, as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pandas as pd

from specbench.report.candidates import Candidate
from specbench.report.captions import APPROXIMATE, UNKNOWN, group_title
from specbench.report.compare import gamma_order
from specbench.report.interval import ADVICE_LEVEL, Interval
from specbench.report.recommend import DRAFT, OPEN, PAYS, PLAIN, Recommendation
from specbench.report.recommend import UNKNOWN as NO_PLAIN
from specbench.report.sheet import (
    NO_VALUE,
    Cell,
    Column,
    Sheet,
    amount,
    fixed,
    times,
)

NAMED = 3
"""So many equals are named; of the rest the number."""


def title(found: Recommendation) -> str:
    """demo-lm · code · temperature 0.6 ... on NVIDIA H100"""
    pairs = list(dict.fromkeys(one.line["pair"] for one in found.candidates))
    name = pairs[0] if len(pairs) == 1 else found.key["target"]
    device = found.key["device_name"]
    return group_title(found.key | {"pair": name}) + (f" · {device}" if device else "")


def sentence(found: Recommendation) -> str:
    """What to do, what it buys, and what would do as well."""
    return " ".join(part for part in (advice(found), alternatives(found)) if part)


def advice(found: Recommendation) -> str:
    """What to do and what it buys."""
    best = found.best
    if best is None:
        excluded = ", ".join(f"{name(one)}: {one.excluded}" for one in found.candidates[:NAMED])
        return f"Nothing here can be recommended ({excluded})."
    which = f"{name(best)}{_run(best, found)}"
    fastest = f"{which}, the fastest, is {gain(best.speedup)}"
    return {
        DRAFT: f"Draft with {which}: {gain(best.speedup)}.",
        PLAIN: f"Decode plainly: {fastest}.",
        OPEN: f"It is open whether drafting pays: {fastest}.",
        NO_PLAIN: f"{_capital(which)} is the fastest with {amount(best.tokens_per_s)} tokens/s; "
        "whether it beats plain decoding is not known: γ = 0 was not run.",
    }[found.verdict]


def alternatives(found: Recommendation) -> str:
    """What the noise cannot tell from it; "" if there is nothing."""
    others = [one for one in found.equal if found.best is None or _case(one) != _case(found.best)]
    if not others or found.verdict == PLAIN:
        return ""
    parts = _by_method(others)
    rest = len(parts) - NAMED
    more = [f"{rest} more method{'s' if rest != 1 else ''}"] if rest > 0 else []
    return f"Or equally: {'; '.join(parts[:NAMED] + more)}. The noise hides which is faster."


def _by_method(candidates: Iterable[Candidate]) -> list[str]:
    """block at γ = 4, 8"""
    gammas: dict[str, set[str]] = {}
    for one in candidates:
        gammas.setdefault(_who(one), set()).add(one.line["gamma"])
    return [f"{who} at {_listed(values)}" for who, values in gammas.items()]


def _listed(values: set[str]) -> str:
    order = sorted(values, key=gamma_order)
    if len(order) <= NAMED + 1:
        return f"γ = {', '.join(order)}"
    return f"{len(order)} γ from {order[0]} to {order[-1]}"


def name(one: Candidate) -> str:
    """fused at γ = 4"""
    return f"{_who(one)} at γ = {one.line['gamma']}"


def _who(one: Candidate) -> str:
    sign = {True: "", False: f" {APPROXIMATE}"}.get(one.line["exact"], f" {UNKNOWN}")
    return f"{one.line['label']}{sign}"


def _case(one: Candidate) -> tuple[str, str, str]:
    return one.line["label"], one.line["pair"], one.line["gamma"]


def _twice(found: Recommendation) -> bool:
    """Whether some case was run in several files, each with its own plain decoding."""
    return len({_case(one) for one in found.candidates}) < len(found.candidates)


def _run(one: Candidate, found: Recommendation) -> str:
    return f" in run {one.line['run_id']}" if _twice(found) else ""


def gain(speedup: Interval) -> str:
    """1.22× plain decoding (1.15 to 1.29)"""
    return (
        f"{times(speedup.value)} plain decoding{f' ({between(speedup)})' if speedup.known else ''}"
    )


def between(interval: Interval, sign: str = " to ") -> str:
    """1.15 to 1.29"""
    ends = (fixed(end, 2) for end in (interval.low, interval.high))
    return sign.join(ends) if interval.known else NO_VALUE


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def support(found: Recommendation) -> str:
    """How sure it is: well supported, supported with reservations, weakly supported."""
    if found.best is None or found.verdict in (OPEN, NO_PLAIN) or not found.best.speedup.known:
        return "weakly supported"
    return "supported with reservations" if found.doubts else "well supported"


def reasons(found: Recommendation) -> list[str]:
    """What speaks for and against believing it."""
    if found.best is None:
        return []
    speedup = found.best.speedup
    counts = (speedup.repeats, "repeat", ""), (speedup.samples, "batch", "e")
    repeats, batches = (f"{n} {what}{'' if n == 1 else f'{e}s'}" for n, what, e in counts)
    rests = f"{repeats} of {batches} beside plain decoding"
    if not speedup.known:
        return found.doubts
    return [f"{rests}, whose interval {_touches(found)}", *found.doubts]


def _touches(found: Recommendation) -> str:
    """Why it is that verdict; up to `PAYS` nothing is worth drafting for."""
    assert found.best is not None
    pays = f"{fixed(PAYS, 2)}×"
    if found.verdict == PLAIN:
        return f"stays under {pays}"
    if found.verdict == DRAFT:
        return f"does not touch {pays}"
    return f"holds {pays}"


def belief(found: Recommendation) -> str:
    """Whether to believe it, in a sentence."""
    listed = "; ".join(reasons(found))
    return f"{_capital(support(found))}: {listed}." if listed else ""


def theory(found: Recommendation) -> str:
    """What the formula makes of it, and a γ that was not run."""
    best = found.best
    if best is None or math.isnan(best.prediction.decoding):
        return ""
    said = best.prediction
    parts = [
        f"Predicted for {name(best)}: {times(said.decoding)} of decoding alone (α {said.alpha:.2f}, "
        f"c {said.c:.2f})"
    ]
    if not math.isnan(said.whole):
        parts[0] += f", {times(said.whole)} with the prompt"
    if said.scoring > 1.1:
        parts.append(
            f"scoring its drafts takes {times(said.scoring)} a plain step, which the formula leaves out"
        )
    if found.unmeasured is not None:
        other = found.unmeasured
        parts.append(
            f"γ = {other.gamma} may reach {times(other.speedup)} (not measured: by the formula between "
            "its neighbours)"
        )
    return "; ".join(parts) + "."


def sheet(found: Recommendation, explained: bool = True) -> Sheet:
    """Each method and draft at its fastest γ, and the γ that was not run.

    Args:
        explained: whether the sentences stand below it.
    """
    several = len({one.line["pair"] for one in found.candidates}) > 1
    columns = [Column("method", right=False), Column("γ")]
    columns += [Column("pair", right=False)] if several else []
    columns += [Column("run", right=False)] if _twice(found) else []
    columns += [Column("tokens/s"), Column("speed-up", "vs γ = 0")]
    columns += [Column(f"{100 * ADVICE_LEVEL:g} %", "interval")]
    columns += [Column("predicted", "whole"), Column("α", "per draft"), Column("c")]
    columns += [Column("scoring", "× plain")]
    columns += [_metric(found), Column("Δ", "to plain"), Column("standing", right=False)]
    rows = [_row(one, found, several) for one in _shown(found)]
    if found.unmeasured is not None:
        rows.append(_unmeasured_row(found, several, len(columns)))
    below = [sentence(found), belief(found), theory(found)] if explained else []
    below = [caption for caption in below if caption] + _notes(found)
    return Sheet(f"recommended: {title(found)}", columns, [rows], below)


def _metric(found: Recommendation) -> Column:
    metrics = {one.line["metric"] for one in found.candidates if not pd.isna(one.line["metric"])}
    return Column(metrics.pop() if len(metrics) == 1 else "quality")


def _shown(found: Recommendation) -> list[Candidate]:
    """The fastest of each method and draft, the fastest first; the candidates come in that order."""
    first: dict[tuple[str, str], Candidate] = {}
    for one in found.candidates:
        first.setdefault((one.line["label"], one.line["pair"]), one)
    if found.best is not None:
        first[found.best.line["label"], found.best.line["pair"]] = found.best
    return list(first.values())


def _row(one: Candidate, found: Recommendation, several: bool) -> list[Cell]:
    said, best = one.prediction, one is found.best
    texts = [_who(one), one.line["gamma"], *([one.line["pair"]] if several else [])]
    texts += [one.line["run_id"]] if _twice(found) else []
    texts += [amount(one.line["tokens_per_s"]), times(one.speedup.value)]
    texts.append(between(one.speedup, "–"))
    texts += [times(said.whole), fixed(said.alpha, 3), fixed(said.c, 3)]
    texts += [
        fixed(said.scoring, 2),
        fixed(one.line["quality"], 3),
        fixed(one.quality.value, 3, True),
    ]
    return [Cell(text, best) for text in (*texts, _standing(one, found))]


def _standing(one: Candidate, found: Recommendation) -> str:
    if one.excluded:
        return one.excluded
    if found.verdict != NO_PLAIN and math.isnan(one.speedup.value):
        return "γ = 0 not run"
    if one is found.best:
        return "recommended" if found.verdict == DRAFT else "fastest"
    return "equal" if any(one is other for other in found.equal) else "slower"


def _unmeasured_row(found: Recommendation, several: bool, width: int) -> list[Cell]:
    other = found.unmeasured
    assert other is not None
    texts = [other.label, str(other.gamma), *([other.pair] if several else [])]
    texts += [NO_VALUE] * (_twice(found) + 3) + [times(other.speedup)]
    return [Cell(text) for text in (*texts, *[NO_VALUE] * (width - len(texts) - 1), "not measured")]


def _notes(found: Recommendation) -> list[str]:
    notes = [
        "each method at its fastest γ; predicted: theorem 3.8 of 2211.17192 from α (accepted / tested "
        "drafts) and c (a draft token / a plain target step), with the prompt as it was "
        "timed; scoring: the target's step"
    ]
    if (found.key["batch_size"] or 1) > 1:
        notes.append(
            "in a batch α is of its sequences and c of its steps; the formula takes scoring γ + 1 tokens "
            "for the price of one, which a batch leaves behind: see scoring"
        )
    return notes
