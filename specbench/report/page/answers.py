"""The page's first screen: what to deploy, what it buys, whether to believe it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from specbench.report import micro_captions
from specbench.report.candidates import Candidate
from specbench.report.interval import ADVICE_LEVEL
from specbench.report.micro import Bench
from specbench.report.recommend import Recommendation
from specbench.report.recommend_text import (
    advice,
    alternatives,
    between,
    reasons,
    support,
    theory,
    title,
)
from specbench.report.sheet import NO_VALUE, amount, fixed, percent, times

SUPPORT = {
    "well supported": "well", "supported with reservations": "reserved", "weakly supported": "weak",
}  # fmt: skip
"""Classes of the style sheet."""


@dataclass(frozen=True)
class Number:
    """A figure that stands out, with what it is held against."""

    name: str
    value: str
    beside: str


@dataclass(frozen=True)
class Answer:
    """One card.

    Attributes:
        flags: what must not be overlooked: nothing here is a model's quality.
        lines: further sentences.
    """

    verdict: str
    subject: str
    answer: str
    rest: str = ""
    flags: list[str] = field(default_factory=list)
    numbers: list[Number] = field(default_factory=list)
    support: str = ""
    support_class: str = ""
    reasons: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


def answer(found: Recommendation) -> Answer:
    """The card of a recommendation."""
    sure = support(found) if found.best else ""
    return Answer(
        verdict=found.verdict,
        subject=title(found),
        answer=advice(found),
        rest=alternatives(found),
        flags=_flags(found),
        numbers=_numbers(found.best, found) if found.best else [],
        support=sure.capitalize(),
        support_class=SUPPORT.get(sure, ""),
        reasons=reasons(found),
        lines=[line for line in [theory(found)] if line],
    )


def _flags(found: Recommendation) -> list[str]:
    flags = []
    if found.key["synthetic_acceptance"] is not None:
        flags.append("synthetic acceptance: no quality")
    if found.key["load_format"] == "dummy":
        flags.append("random weights")
    if found.best is not None and found.best.line["exact"] is not True:
        flags.append("not exact: the output does not follow the target's law")
    return flags


def _numbers(best: Candidate, found: Recommendation) -> list[Number]:
    line, plain = best.line, found.plain_tokens_per_s
    spread = (
        f"{between(best.speedup)} ({100 * ADVICE_LEVEL:g} %)"
        if best.speedup.known
        else "no interval"
    )
    share = percent(line["verify_share"])
    numbers = [
        Number("speed-up, end to end", times(best.speedup.value), spread),
        Number("tokens/s", amount(line["tokens_per_s"]), f"plain decoding {amount(plain)}"),
        Number(
            "tokens per step, τ",
            fixed(line["tau"], 2),
            f"{percent(line['alpha'])} % of drafts kept",
        ),
        Number(
            "verify step", f"{share} %", f"of the wall time, {amount(line['verify_us'])} µs a step"
        ),
    ]
    if pd.notna(line["quality"]):
        beside = f"{fixed(best.quality.value, 3, True)} to plain decoding"
        numbers.append(Number(str(line["metric"]), fixed(line["quality"], 3), beside))
    return [number for number in numbers if number.value.strip(" %") != NO_VALUE]


def micro_answer(bench: Bench) -> Answer:
    """The card of a file of `specbench micro`: its table's own first sentences."""
    said = micro_captions.captions(bench) or ["nothing finished"]
    first, *rest = [f"{one[:1].upper()}{one[1:]}." for one in said]
    return Answer(
        verdict="micro",
        subject=f"verify step alone · {bench.run.path.name}",
        answer=first,
        lines=rest[:3],
    )


def answers(found: Sequence[Recommendation], benches: Sequence[Bench]) -> list[Answer]:
    """All cards, in order."""
    return [*map(answer, found), *map(micro_answer, benches)]
