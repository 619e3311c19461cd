"""From rows (one per sequence) to one line per case: raw counts first, then the rates."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from specbench.report import stats
from specbench.report.schema import CASE_KEY

Columns: TypeAlias = dict[str, NDArray[Any]]

GROUP_KEY = [
    name for name in CASE_KEY if name not in {"method", "gamma", "sigmoid_alpha", "sigmoid_beta"}
]
"""Cases that differ in nothing but these share the plain decoding (γ = 0) they are held against."""

STEADY_REPEATS, STEADY_SPREAD = 3, 0.10
"""Fewer repeats, or a wider spread, and a figure is called unsteady."""

_TEXTS = ["run_id", *CASE_KEY, "implementation", "device_name", "status", "error", "metric"]
_NUMBERS = [
    *["new_tokens", "verify_steps", "drafted", "accepted", "wall_s", "verify_s"],
    *["metric_value", "metric_weight", "repeat", "batch_index"],
]
_LISTS = ["step_draft_us", "step_target_us", "step_verify_us"]


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """One line per run and case, in order of appearance.

    Columns: `run_id`, `schema.CASE_KEY`, `implementation`, `device_name`, `metric`, then

    - how much: `sequences` (status ok), `failed`, `skipped`, `repeats`, `first_error`
    - counts over the ok rows: `new_tokens`, `verify_steps`, `drafted`, `accepted`
    - `wall_s`: time that batches took; the sequences of a batch share it (the longest counts)
    - rates (see `stats`): `tau`, `alpha`, `tokens_per_s`, `verify_share`, `speedup` over γ = 0 of
      the same group, `quality` (the corpus figure of `metric`)
    - medians over all steps: `draft_us`, `target_us`, `verify_us`
    - spreads (interquartile range / median): `verify_us_spread` over the steps,
      `tokens_per_s_spread` over the repeats
    - `unsteady`: why `tokens_per_s` is not to be trusted, "" if it is

    Args:
        rows: of `load_results` or `read_run`; several runs stay apart by `run_id`.
    """
    summary = pd.DataFrame([_line(case) for case in _split(rows, ["run_id", *CASE_KEY])])
    if summary.empty:
        return summary
    summary["speedup"] = _speedups(summary)
    return summary


def keys_of(summary: pd.DataFrame, names: list[str]) -> list[tuple[Any, ...]]:
    """Each line's values of `names`, null as None: a NaN equals no other NaN."""
    columns = [[None if pd.isna(value) else value for value in summary[name]] for name in names]
    return list(zip(*columns, strict=True))


def _split(rows: pd.DataFrame, key: list[str]) -> list[Columns]:
    """The rows of each case as plain arrays: pandas' own groups cost a millisecond apiece."""
    case = rows.groupby(key, dropna=False, sort=False).ngroup().to_numpy()
    order = np.argsort(case, kind="stable")
    starts = np.flatnonzero(np.diff(case[order])) + 1
    columns: Columns = {name: rows[name].to_numpy() for name in [*_TEXTS, *_LISTS]}
    columns |= {name: rows[name].to_numpy(float, na_value=np.nan) for name in _NUMBERS}
    parts = np.split(order, starts) if len(order) else []
    return [{name: values[part] for name, values in columns.items()} for part in parts]


def _line(case: Columns) -> dict[str, Any]:
    fine = case["status"] == "ok"
    ok = {name: values[fine] for name, values in case.items()}
    line = {name: case[name][0] for name in ["run_id", *CASE_KEY, "implementation", "device_name"]}
    line |= _how_much(case, ok)
    counts = ["new_tokens", "verify_steps", "drafted", "accepted"]
    line |= {name: int(np.nansum(ok[name])) for name in counts}
    line |= _rates(line, ok) | _step_times(ok)
    line["unsteady"] = _doubts(line)
    return line


def _how_much(case: Columns, ok: Columns) -> dict[str, Any]:
    errors = case["error"][pd.notna(case["error"])]
    metrics = ok["metric"][pd.notna(ok["metric"])]
    return {
        "sequences": len(ok["status"]),
        "failed": int(np.sum(case["status"] == "failed")),
        "skipped": int(np.sum(case["status"] == "skipped")),
        "repeats": len(np.unique(ok["repeat"])),
        "first_error": str(errors[0]) if len(errors) else None,
        "metric": str(metrics[0]) if len(metrics) else None,
    }


def _rates(line: dict[str, Any], ok: Columns) -> dict[str, float]:
    repeat, tokens, wall_s = _batches(ok)
    speeds = [
        stats.tokens_per_s(tokens[repeat == one].sum(), wall_s[repeat == one].sum())
        for one in np.unique(repeat)
    ]
    return {
        "wall_s": float(wall_s.sum()) if len(wall_s) else stats.NAN,
        "tau": stats.mean_acceptance_length(line["new_tokens"], line["verify_steps"]),
        "alpha": stats.acceptance_rate(line["drafted"], line["accepted"]),
        "tokens_per_s": stats.tokens_per_s(tokens.sum(), wall_s.sum()),
        "tokens_per_s_spread": stats.median_and_spread(speeds)[1],
        "verify_share": stats.verify_share(np.nansum(ok["verify_s"]), np.nansum(ok["wall_s"])),
        "quality": stats.weighted_mean(ok["metric_value"], ok["metric_weight"]),
    }


def _batches(ok: Columns) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """(repeat, new tokens, wall seconds) of each batch; it lasts as long as its longest sequence.

    A row without a batch index is a batch of its own.
    """
    alone = np.isnan(ok["batch_index"])
    index = np.where(alone, -1.0 - np.arange(len(alone)), ok["batch_index"])
    where = np.stack([np.nan_to_num(ok["repeat"], nan=-1.0), index])
    names, batch = np.unique(where, axis=1, return_inverse=True)
    wall_s, tokens = np.zeros(names.shape[1]), np.zeros(names.shape[1])
    np.maximum.at(wall_s, batch.ravel(), ok["wall_s"])
    np.add.at(tokens, batch.ravel(), np.nan_to_num(ok["new_tokens"]))
    return names[0], tokens, wall_s


def _step_times(ok: Columns) -> dict[str, float]:
    times: dict[str, float] = {}
    for name in _LISTS:
        lists = [steps for steps in ok[name] if steps is not None]
        steps = np.concatenate(lists) if lists else np.empty(0)
        column = name.removeprefix("step_")
        times[column], times[f"{column}_spread"] = stats.median_and_spread(steps)
    return times


def _doubts(line: dict[str, Any]) -> str:
    doubts = []
    if line["repeats"] < STEADY_REPEATS:
        doubts.append(f"fewer than {STEADY_REPEATS} repeats")
    if line["tokens_per_s_spread"] > STEADY_SPREAD:
        doubts.append(f"tokens/s spread over {STEADY_SPREAD:.0%} between repeats")
    return "; ".join(doubts) if line["sequences"] else ""


def _speedups(summary: pd.DataFrame) -> list[float]:
    """Each line's tokens/s over plain decoding's, which is pooled: γ = 0 verifies nothing, so it
    is the same whatever the method is called."""
    keys = keys_of(summary, ["run_id", *GROUP_KEY])
    plain: dict[tuple[Any, ...], list[float]] = {}
    for key, line in zip(keys, summary.to_dict("records"), strict=True):
        if line["gamma"] == "0" and line["sequences"]:
            pool = plain.setdefault(key, [0.0, 0.0])
            pool[0] += line["new_tokens"]
            pool[1] += line["wall_s"]
    return [
        stats.speedup(speed, stats.tokens_per_s(*plain[key])) if key in plain else stats.NAN
        for key, speed in zip(keys, summary["tokens_per_s"], strict=True)
    ]
