"""The drafting cases that compete, each held against the plain decoding of its own pair and run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pandas as pd

from specbench.report import stats
from specbench.report.compare import Within
from specbench.report.paired import (
    LESS_IS_BETTER,
    Interval,
    Totals,
    geometric_interval,
    quality_change,
    repeat_ratios,
    speed_ratio,
    totals,
)
from specbench.report.phases import phase_shares
from specbench.report.prediction import Prediction, predict
from specbench.report.repeats import Key, Line, case_key
from specbench.report.schema import CASE_KEY
from specbench.report.summary import STEADY_SPREAD, keys_of


@dataclass(frozen=True)
class DecodedCase:
    """A case that finished: its line of the summary and its rows."""

    within: Within
    line: Line
    rows: pd.DataFrame

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

    rows: pd.DataFrame
    batches: Totals
    prompt_share: float
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
    """

    line: Line
    speedup: Interval
    prediction: Prediction
    quality: Interval
    excluded: str = ""
    batches: Totals = field(default_factory=pd.DataFrame, repr=False)
    ratios: tuple[float, ...] = ()

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
    lines = within.summary[within.summary["sequences"] > 0].to_dict("records")
    found = []
    for line in lines:
        part = parts[case_key(line)]
        target = part["target"].iloc[0]
        about = {
            "target": line["pair"] if pd.isna(target) else target,
            "draft": part["draft"].iloc[0],
        }
        found.append(DecodedCase(within, line | about, part))
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
        found[key] = PlainDecoding(rows, totals(rows), prompt, target_us, tokens, wall_s)
    return found


def candidate_of(
    case: DecodedCase, plain: PlainDecoding | None, allow_approximate: bool
) -> Candidate:
    """A drafting case, measured, predicted and judged."""
    batches = totals(case.rows)
    speedup, quality = Interval(stats.NAN), Interval(stats.NAN)
    target_us, prompt = stats.NAN, stats.NAN
    ratios: tuple[float, ...] = ()
    if plain is not None:
        target_us, prompt = plain.target_us, plain.prompt_share
        speedup = speed_ratio(batches, plain.batches)
        ratios = tuple(repeat_ratios(batches, plain.batches))
        if pd.isna(case.line["synthetic_acceptance"]):
            quality = quality_change(case.rows, plain.rows)
    excluded = "" if allow_approximate else _inexact(case.line)
    excluded = excluded or _worse(quality, case.line)
    said = predict(case.rows, case.line, target_us, prompt)
    return Candidate(case.line, speedup, said, quality, excluded, batches, ratios)


def _inexact(line: Line) -> str:
    if line["exact"] is True:
        return ""
    return "an approximation" if line["exact"] is False else "not known to be exact"


def _worse(quality: Interval, line: Line) -> str:
    """Only what the whole interval says: an exact method differs from plain decoding by luck."""
    less = line["metric"] in LESS_IS_BETTER
    worse = quality.low > 0 if less else quality.high < 0
    return f"{line['metric']} worse than plain decoding's ({quality.value:+.3f})" if worse else ""


def alike(best: Candidate, other: Candidate) -> bool:
    """Whether the noise between repeats may have put `best` first."""
    same = (best.line["run_id"], best.line["pair"]) == (other.line["run_id"], other.line["pair"])
    if same:
        ahead = speed_ratio(best.batches, other.batches)
    else:  # each against its own plain decoding: repeats of different runs are in no order
        ratios = [one / two for one, two in zip(best.ratios, other.ratios, strict=False)]
        value = best.speedup.value / other.speedup.value
        value = best.tokens_per_s / other.tokens_per_s if math.isnan(value) else value
        ahead = Interval(value, *geometric_interval(ratios))
    return ahead.low <= 1 if ahead.known else ahead.value <= 1 + STEADY_SPREAD
