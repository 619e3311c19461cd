"""Methods against `baseline` inside a run, and runs against each other, on summaries.

Speed-ups are ratios within a run and survive a change of machine; absolute times do not.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from specbench.errors import NotComparableError
from specbench.report.reader import Run
from specbench.report.schema import CASE_KEY
from specbench.report.summary import GROUP_KEY, keys_of, summarise

BASELINE = "baseline"
RELATIVE = ["verify_us", "tau", "alpha", "tokens_per_s"]
"""Columns whose change is a part of the baseline's value; quality's change is a difference."""

_METHOD_ORDER = ["baseline", "exact", "sigmoid", "fused", "block"]


@dataclass(frozen=True)
class Group:
    """Cases of one run that differ in method and γ alone.

    Attributes:
        key: column of `summary.GROUP_KEY` → value, None for null.
        lines: the summary by γ, then method, with `label` (the method, and its range where there
            are several), `exact` (True, False, or None: not known) and, against `baseline` at the
            same γ, `verify_us_delta`, `tau_delta`, `alpha_delta`, `tokens_per_s_delta` (parts of
            the baseline's: 0.1 is +10 %) and `quality_delta` (a difference); NaN without baseline.
    """

    key: dict[str, Any]
    lines: pd.DataFrame


@dataclass(frozen=True)
class Within:
    """One run, its methods held against `baseline`."""

    run: Run
    summary: pd.DataFrame
    groups: list[Group]


@dataclass(frozen=True)
class Across:
    """Runs against each other, case by case.

    Attributes:
        lines: one per case and later run: `schema.CASE_KEY`, `label`, `reference_run` (the first
            run that has the case), `run_id`, `verify_us_ratio`, `tau_ratio`, `tokens_per_s_ratio`,
            `speedup_ratio` (new / reference), `quality_delta` (new − reference), `unsteady`.
        alone: the summary's lines of cases that one run alone has.
        notes: in what the runs differ, and what that makes incomparable.
    """

    lines: pd.DataFrame
    alone: pd.DataFrame
    notes: list[str]


@dataclass(frozen=True)
class Comparison:
    """What `specbench compare` shows.

    Attributes:
        across: None with a single run, or if no two runs have a case in common.
        failure: the reason if runs were given that cannot be compared.
    """

    withins: list[Within]
    across: Across | None = None
    failure: NotComparableError | None = None
    notes: list[str] = field(default_factory=list)


def compare_runs(runs: Sequence[Run]) -> Comparison:
    """Everything that can be said about the runs, the first of them as the reference.

    Raises:
        NotComparableError: no run has a case that finished.
    """
    notes: list[str] = []
    withins: list[Within] = []
    for run in runs:
        if twin := next((w for w in withins if w.run.run_id == run.run_id), None):
            notes.append(f"{run.path} is the same run as {twin.run.path}: left out")
            continue
        try:
            withins.append(within(run))
        except NotComparableError as error:
            if len(runs) == 1:
                raise
            notes.append(f"{error.message}: left out")
    if not withins:
        raise NotComparableError("no case finished in any of the runs", "; ".join(notes))
    if len(withins) == 1:
        return Comparison(withins, notes=notes)
    try:
        return Comparison(withins, across(withins), notes=notes)
    except NotComparableError as error:
        return Comparison(withins, failure=error, notes=notes)


def within(run: Run) -> Within:
    """The methods of one run, grouped by what else they have in common.

    Raises:
        NotComparableError: no case of the run finished.
    """
    summary = summarise(run.rows, time_budget(run.metadata))
    if summary.empty or not summary["sequences"].any():
        errors = [] if summary.empty else summary["first_error"].dropna().unique().tolist()
        hint = f"The first error was: {errors[0]}" if errors else "Run it again."
        raise NotComparableError(f"no case finished in {run.path}", hint)
    summary = _sorted(_labelled(summary, run.metadata))
    keys = pd.Series(keys_of(summary, GROUP_KEY), index=summary.index)
    groups = [
        Group(dict(zip(GROUP_KEY, key, strict=True)), _deltas(summary[keys == key]))
        for key in keys.unique()
    ]
    return Within(run, summary, groups)


def time_budget(metadata: dict[str, Any]) -> float | None:
    """Seconds that the run's scenario asks about; None if it does not, or the file does not say."""
    try:
        found = json.loads(metadata["resolved_scenario"])["time_budget"]
    except (KeyError, TypeError, ValueError):
        return None
    return float(found) if isinstance(found, int | float) else None


def across(withins: Sequence[Within]) -> Across:
    """Each case against the first run that has it.

    Raises:
        NotComparableError: no two runs have a case in common.
    """
    lines = pd.concat([one.summary for one in withins], ignore_index=True)
    lines = lines[lines["sequences"] > 0].reset_index(drop=True)
    case = pd.Series(keys_of(lines, CASE_KEY), index=lines.index)
    first = case.drop_duplicates().reset_index().set_index(0)["index"]
    reference = lines.loc[case.map(first)].reset_index(drop=True)
    later = reference["run_id"] != lines["run_id"]
    if not later.any():
        raise NotComparableError(
            f"the {len(withins)} runs have no case in common", _what_differs(lines)
        )
    alone = lines[~case.duplicated(keep=False)]
    return Across(_ratios(lines[later], reference[later]), alone, _notes(withins))


def gamma_order(gamma: str) -> tuple[int, int, str]:
    """Sorts numbers by value, then the policies by name."""
    return (0, int(gamma), "") if gamma.isdecimal() else (1, 0, gamma)


def _labelled(summary: pd.DataFrame, metadata: dict[str, Any]) -> pd.DataFrame:
    methods = metadata.get("methods") or {}
    bounds = summary[["sigmoid_alpha", "sigmoid_beta"]]
    several = len(bounds.dropna().drop_duplicates()) > 1
    labels = [
        f"{method} {bounds_text(low, high)}" if several and pd.notna(low) else method
        for method, low, high in zip(
            summary["method"], *(bounds[name] for name in bounds), strict=True
        )
    ]
    exact = [(methods.get(method) or {}).get("exact") for method in summary["method"]]
    return summary.assign(label=labels, exact=pd.Series(exact, summary.index, dtype=object))


def bounds_text(low: float, high: float) -> str:
    """A range of `sigmoid`: ±10, or 0,5."""
    return f"±{high:g}" if low == -high else f"{low:g},{high:g}"


def _sorted(summary: pd.DataFrame) -> pd.DataFrame:
    """By γ, then the methods from the plainest to the newest, others as they came."""
    gammas, methods = summary["gamma"].tolist(), summary["method"].tolist()
    known = {method: place for place, method in enumerate(_METHOD_ORDER)}
    place = [
        (*gamma_order(gamma), known.get(method, len(known)), position)
        for position, (gamma, method) in enumerate(zip(gammas, methods, strict=True))
    ]
    return summary.iloc[sorted(range(len(place)), key=place.__getitem__)].reset_index(drop=True)


def _deltas(lines: pd.DataFrame) -> pd.DataFrame:
    plain = lines[lines["method"] == BASELINE].drop_duplicates("gamma").set_index("gamma")
    base = plain.reindex(lines["gamma"])
    changes = {f"{name}_delta": _ratio(lines[name], base[name]) - 1 for name in RELATIVE}
    quality = lines["quality"].to_numpy(float) - base["quality"].to_numpy(float)
    return lines.assign(**changes, quality_delta=quality)


def _ratio(new: pd.Series[Any], reference: pd.Series[Any]) -> np.ndarray[Any, Any]:
    denominator = reference.to_numpy(float)
    return new.to_numpy(float) / np.where(denominator == 0, np.nan, denominator)


def _ratios(lines: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    names = ["verify_us", "tau", "tokens_per_s", "speedup"]
    ratios = {f"{name}_ratio": _ratio(lines[name], reference[name]) for name in names}
    quality = lines["quality"].to_numpy(float) - reference["quality"].to_numpy(float)
    doubts = [new or old for new, old in zip(lines["unsteady"], reference["unsteady"], strict=True)]
    found = lines[[*CASE_KEY, "label", "run_id", "metric"]].assign(
        reference_run=reference["run_id"].to_numpy(), **ratios, quality_delta=quality,
        unsteady=doubts,
    )  # fmt: skip
    return _sorted(found)


def _what_differs(lines: pd.DataFrame) -> str:
    """Names the columns in which each run has its own values: why nothing matches."""
    apart = []
    for name in CASE_KEY:
        values = lines[name].astype(object).where(lines[name].notna(), "null")
        if (lines.groupby(values)["run_id"].nunique() == 1).all():
            shown = values.groupby(lines["run_id"], sort=False).first()
            apart.append(f"{name} ({' / '.join(str(value) for value in shown)})")
    reason = f"They differ in {', '.join(apart)}. " if apart else ""
    return f"{reason}Compare runs of the same scenario."


def _notes(withins: Sequence[Within]) -> list[str]:
    facts = {
        "device": [_values(one, "device_name") for one in withins],
        "driver": [str(one.run.metadata.get("driver")) for one in withins],
        "implementation": [_values(one, "implementation") for one in withins],
    }
    return [
        f"the runs differ in {what} ({' / '.join(dict.fromkeys(values))}): absolute times are not "
        "comparable, only ratios within a run (the speed-up) are"
        for what, values in facts.items()
        if len(set(values)) > 1
    ]


def _values(one: Within, column: str) -> str:
    return " and ".join(sorted(one.summary[column].dropna().astype(str).unique()))
