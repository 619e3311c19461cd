"""The drafting cases that compete, each held against the plain decoding of its own pair and run."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from specbench.floors import LESS_IS_BETTER, METRICS
from specbench.report import stats
from specbench.report.compare import Within
from specbench.report.evidence import Estimate, unpaired
from specbench.report.interval import ADVICE_LEVEL, Interval, as_difference, as_ratio
from specbench.report.measured import quality_over, speed_over
from specbench.report.pairing import (
    Batches,
    Case,
    Sequences,
    measured,
    pooled,
    together,
    unit_of,
)
from specbench.report.phases import phase_shares
from specbench.report.prediction import Prediction, predict, prompt_ratio, prompt_seconds
from specbench.report.repeats import Key, Line, case_key
from specbench.report.schema import CASE_KEY
from specbench.report.summary import STEADY_SPREAD, keys_of


@dataclass(frozen=True)
class DecodedCase:
    """A case that finished: its line of the summary, its rows, and what these measured."""

    within: Within
    line: Line
    rows: pd.DataFrame
    case: Case

    @property
    def plain(self) -> bool:
        """Whether it is γ = 0."""
        return bool(self.line["gamma"] == "0")

    @property
    def pool(self) -> Key:
        """Whose plain decoding it is held against."""
        return (self.within.run.run_id, self.line["pair"])


@dataclass(frozen=True)
class PlainDecoding:
    """Plain decoding of one pair in one run, under all its methods' names together."""

    batches: Batches
    sequences: Sequences
    prompt_share: float
    prompt_s: pd.Series[float]
    target_us: float
    tokens: int
    wall_s: float


@dataclass(frozen=True)
class Candidate:
    """A drafting case.

    Attributes:
        line: of the summary, with `label` and `exact`, `target` and `draft`.
        speedup: measured, over plain decoding on the same batches; NaN without any.
        quality: its metric minus plain decoding's.
        excluded: why it is not recommended whatever its speed; "" if it may be.
        evidence: what `speedup` is from.
    """

    line: Line
    batches: Batches
    speedup: Interval
    prediction: Prediction
    quality: Interval
    excluded: str
    evidence: Estimate | None

    @property
    def tokens_per_s(self) -> float:
        """Measured over all repeats."""
        return float(self.line["tokens_per_s"])


def decoded_cases(within: Within) -> list[DecodedCase]:
    """Every case of a run that finished, γ = 0 too; its line knows `target` and `draft`."""
    rows = within.run.rows
    ok = rows[rows["status"] == "ok"]
    keys = pd.Series(keys_of(ok, CASE_KEY), index=ok.index, dtype=object)
    parts = {key: ok.loc[index] for key, index in keys.groupby(keys).groups.items()}
    cases = measured(rows)
    lines = within.summary[within.summary["sequences"] > 0].to_dict("records")
    found = []
    for line in lines:
        key = case_key(line)
        part = parts[key]
        target = part["target"].iloc[0]
        about = {
            "target": line["pair"] if pd.isna(target) else target,
            "draft": part["draft"].iloc[0],
        }
        found.append(DecodedCase(within, line | about, part, cases[key]))
    return found


def plain_decoding(cases: list[DecodedCase]) -> dict[Key, PlainDecoding]:
    """By `DecodedCase.pool`."""
    pools: dict[Key, list[DecodedCase]] = {}
    for case in cases:
        if case.plain:
            pools.setdefault(case.pool, []).append(case)
    found = {}
    for key, pool in pools.items():
        rows = pd.concat([case.rows for case in pool])
        target_us = stats.median_and_spread([case.line["target_us"] for case in pool])[0]
        tokens, wall_s = (
            sum(case.line[name] for case in pool) for name in ("new_tokens", "wall_s")
        )
        prompt = phase_shares(rows)["prompt"]
        both = [case.case for case in pool]
        measures = pooled(both), together(both)
        found[key] = PlainDecoding(
            *measures, prompt, prompt_seconds(rows), target_us, tokens, wall_s
        )
    return found


def candidate_of(
    case: DecodedCase, plain: PlainDecoding | None, allow_approximate: bool
) -> Candidate:
    """A drafting case, measured, predicted and judged."""
    evidence, quality = None, Interval()
    target_us, prompt, own_prompt = stats.NAN, stats.NAN, 1.0
    excluded = "" if allow_approximate else _inexact(case.line)
    if plain is not None:
        target_us, prompt = plain.target_us, plain.prompt_share
        own_prompt = prompt_ratio(prompt_seconds(case.rows), plain.prompt_s)
        excluded = excluded or _failed(case.case, plain.sequences)
        evidence = speed_over(case.case.batches, plain.batches)
        if pd.isna(case.line["synthetic_acceptance"]):
            quality = as_difference(quality_over(case.case.sequences, plain.sequences))
    excluded = excluded or _worse(quality, case.line)
    said = predict(case.rows, case.line, target_us, prompt, own_prompt)
    speedup = as_ratio(evidence)
    return Candidate(case.line, case.case.batches, speedup, said, quality, excluded, evidence)


def _inexact(line: Line) -> str:
    if line["exact"] is True:
        return ""
    return "an approximation" if line["exact"] is False else "not known to be exact"


def _failed(case: Case, plain: Sequences) -> str:
    """Its speed is that of the sequences that it finished: who cannot do the rest is no choice."""
    own, needed = (unit_of(one.item, one.repeat) for one in (case.sequences, plain))
    if not case.failed or np.isin(needed, own).all():
        return ""
    return f"failed sequences: {case.failed} of {case.failed + len(own)}"


def _worse(quality: Interval, line: Line) -> str:
    """By more than the gate's floor, and worse at all for sure: an exact method differs from plain
    decoding by luck."""
    floor = METRICS["quality"].floor.absolute
    less = line["metric"] in LESS_IS_BETTER
    worse = quality.low > 0 and quality.value > floor
    if not less:
        worse = quality.high < 0 and quality.value < -floor
    return f"{line['metric']} worse than plain decoding's ({quality.value:+.3f})" if worse else ""


def alike(best: Candidate, other: Candidate) -> bool:
    """Whether noise, of repeats or of samples, may have put `best` first. One without plain decoding is
    not held against one that has it: they are of other days."""
    if math.isnan(best.speedup.value) != math.isnan(other.speedup.value):
        return False
    ahead = _ahead(best, other)
    if ahead is None:
        return best.tokens_per_s <= (1 + STEADY_SPREAD) * other.tokens_per_s
    low = ahead.interval(ADVICE_LEVEL)[0]
    return ahead.change <= math.log1p(STEADY_SPREAD) if math.isnan(low) else low <= 0


def _ahead(best: Candidate, other: Candidate) -> Estimate | None:
    """ln of one's speed over the other's; of different pairs or runs each over its own plain decoding."""
    if (best.line["run_id"], best.line["pair"]) == (other.line["run_id"], other.line["pair"]):
        return speed_over(best.batches, other.batches)
    if best.evidence is None or other.evidence is None:
        return None
    return unpaired(best.evidence, other.evidence)
