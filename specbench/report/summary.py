"""From rows (one per sequence) to one line per case: raw counts first, then the rates."""

from __future__ import annotations

from dataclasses import dataclass
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

PASS = "pass@1"
"""The metric of code that was run."""

STEADY_REPEATS, STEADY_SPREAD = 3, 0.10
"""Fewer repeats, or a wider spread, and a figure is called unsteady."""

_TEXTS = [
    "run_id",
    "case_id",
    *CASE_KEY,
    "implementation",
    "device_name",
    "status",
    "error",
    "metric",
    "finish_reason",
    "sample_id",
]
_NUMBERS = [
    *["new_tokens", "verify_steps", "drafted", "accepted", "wall_s", "verify_s"],
    *["start_s", "batch_wall_s", "host_gap_s", "mfu", "audio_s"],
    *["metric_value", "metric_weight", "repeat", "batch_index"],
    *["answer_tokens", "target_logprob", "document_kept"],
    *["law_tv", "repetition_4", "distinct_1", "distinct_2"],
    *["verify_kernel_us", "verify_launches"],
    *["energy_j", "energy_coarse_j", "energy_period_s"],
]
ENERGY_PERIODS, USUAL_PERIOD_S = 10, 0.1
"""Energy of a case is known if its batches hold so many of the counter's periods (see `_energy`); files
before schema 1.5 do not say how long one is."""
_PROFILED = ["verify_kernel_us", "verify_launches"]
_READS = {
    "logprob": "target_logprob", "law_tv": "law_tv", "repetition_4": "repetition_4",
    "distinct_1": "distinct_1", "distinct_2": "distinct_2",
}  # fmt: skip
_TIMES = ["step_draft_us", "step_target_us", "step_verify_us"]
_LISTS = [*_TIMES, "step_accepted", "step_end_s"]


def summarise(rows: pd.DataFrame, time_budget_s: float | None = None) -> pd.DataFrame:
    """One line per run and case, in order of appearance.

    Columns: `run_id`, `schema.CASE_KEY`, `implementation`, `device_name`, `metric`, then

    - how much: `sequences` (status ok), `cut_off` (those of them that found no end), `went_on` (those
      that decoded past the end of their answer), `shortened` (those whose prompt lacks a part of its
      document), `failed`, `skipped`, `repeats`, `first_error`
    - counts over the ok rows: `new_tokens`, `verify_steps`, `drafted`, `accepted`
    - `wall_s`: time that batches took; the sequences of a batch share it
    - rates (see `stats`): `tau`, `alpha`, `tokens_per_s`, `verify_share`, `host_gap_share`, `mfu`,
      `rtf` (NaN where nothing was heard), `quality` (the corpus figure of `metric`; none where
      acceptance is synthetic)
    - how it reads, means over the answers' tokens: `logprob` (nats, under the target), `repetition_4`,
      `distinct_1`, `distinct_2` of an output (see `tasks.fluency`), and of an approximation `law_tv`
      (see `sampling.deviation`)
    - latency (see `stats`): `ptl_s` over all sequences; `ptl_first_s` and `ptl_last_s`, means over
      the batches
    - `time_budget_s`, and `budget_tokens`: tokens of a sequence that are there by then, the mean;
      the budget starts with the batch, or under refill with the sequence's own start
    - of code, NaN elsewhere: `pass_at_k`, the mean over the problems of pass@k with k the completions
      per sample, of all completions in all repeats; within the time budget `pass_first` and `pass_all`
      (see `stats`), the means over the problems that a batch holds, whose clock starts with the batch,
      or under refill with the first of a problem's sequences. Which sequences a batch holds of a problem
      is the run's: with a batch of one each is a trial of its own
    - `j_per_token`: energy of the whole GPU over the new tokens; NaN where the batches are too few and
      too short for its counter, or it is not told
    - over γ = 0 of the same group: `speedup` (of `tokens_per_s`), `ptl_speedup`
    - medians over all steps: `draft_us`, `target_us`, `verify_us`
    - of a step, by the profiling pass: `verify_kernel_us`, `verify_launches`
    - spreads (interquartile range / median): `verify_us_spread` over the steps,
      `tokens_per_s_spread` over the repeats
    - `unsteady`: why `tokens_per_s` is not to be trusted, "" if it is

    Args:
        rows: of `load_results` or `read_run`; several runs stay apart by `run_id`.
        time_budget_s: None: no budget, `budget_tokens` is NaN.
    """
    cases = _split(rows, ["run_id", *CASE_KEY])
    budget_s = stats.NAN if time_budget_s is None else time_budget_s
    summary = pd.DataFrame([_line(case, budget_s) for case in cases])
    return summary if summary.empty else summary.assign(**_against_plain(summary))


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


def _line(case: Columns, budget_s: float) -> dict[str, Any]:
    fine = case["status"] == "ok"
    ok = {name: values[fine] for name, values in case.items()}
    line = {name: case[name][0] for name in ["run_id", *CASE_KEY, "implementation", "device_name"]}
    line |= _how_much(case, ok)
    counts = ["new_tokens", "verify_steps", "drafted", "accepted"]
    line |= {name: int(np.nansum(ok[name])) for name in counts}
    batches = _batches(ok)
    line |= _rates(line, ok, batches) | _latency(ok, batches) | _step_times(ok)
    line["j_per_token"] = _energy(ok, batches)
    line |= {"time_budget_s": budget_s, "budget_tokens": _tokens_within(budget_s, ok)}
    line |= _passes(line, ok, budget_s)
    line["unsteady"] = _doubts(line)
    return line


def _how_much(case: Columns, ok: Columns) -> dict[str, Any]:
    errors = case["error"][pd.notna(case["error"])]
    metrics = ok["metric"][pd.notna(ok["metric"])]
    return {
        "sequences": len(ok["status"]),
        "cut_off": int(np.sum((ok["finish_reason"] == "length") & np.isnan(ok["answer_tokens"]))),
        "went_on": int(np.sum(ok["answer_tokens"] < ok["new_tokens"])),
        "shortened": int(np.sum(ok["document_kept"] < 1)),
        "failed": int(np.sum(case["status"] == "failed")),
        "skipped": int(np.sum(case["status"] == "skipped")),
        "repeats": len(np.unique(ok["repeat"])),
        "first_error": str(errors[0]) if len(errors) else None,
        "metric": str(metrics[0]) if len(metrics) else None,
    }


def _rates(line: dict[str, Any], ok: Columns, batches: _Batches) -> dict[str, float]:
    tokens, wall_s, gap_s = batches.tokens, batches.wall_s, batches.host_gap_s
    speeds = [
        stats.tokens_per_s(tokens[here].sum(), wall_s[here].sum())
        for here in (batches.repeat == one for one in np.unique(batches.repeat))
    ]
    answer = np.where(np.isnan(ok["answer_tokens"]), ok["new_tokens"], ok["answer_tokens"])
    # What was accepted by the throw of a die is no model's text.
    real = pd.isna(line["synthetic_acceptance"])
    quality = stats.weighted_mean(ok["metric_value"], ok["metric_weight"]) if real else stats.NAN
    verify_s = np.nansum(
        ok["verify_s"]
    )  # 0: where nothing is drafted, transformers verifies nothing
    return {
        "wall_s": float(wall_s.sum()) if len(wall_s) else stats.NAN,
        "tau": stats.mean_acceptance_length(line["new_tokens"], line["verify_steps"]),
        "alpha": stats.acceptance_rate(line["drafted"], line["accepted"]),
        "tokens_per_s": stats.tokens_per_s(tokens.sum(), wall_s.sum()),
        "tokens_per_s_spread": stats.median_and_spread(speeds)[1],
        "verify_share": stats.verify_share(verify_s or stats.NAN, np.nansum(ok["wall_s"])),
        "host_gap_share": stats.host_gap_share(np.nansum(gap_s), wall_s[~np.isnan(gap_s)].sum()),
        "mfu": stats.weighted_mean(batches.mfu, wall_s),
        "rtf": stats.real_time_factor(wall_s.sum(), ok["audio_s"].sum()),
        "quality": quality,
        **{name: stats.weighted_mean(ok[of], answer) for name, of in _READS.items()},
        **{name: stats.weighted_mean(ok[name], ok["new_tokens"]) for name in _PROFILED},
    }


@dataclass(frozen=True)
class _Batches:
    """The batches of a case: (batches,) each, but `of` (rows,): the number of each row's batch."""

    of: NDArray[Any]
    repeat: NDArray[Any]
    tokens: NDArray[Any]
    wall_s: NDArray[Any]
    host_gap_s: NDArray[Any]
    mfu: NDArray[Any]


def _batches(ok: Columns) -> _Batches:
    """A row without a batch index is a batch of its own; files before schema 1.1 do not say how long
    a batch took: as long as its longest sequence."""
    alone = np.isnan(ok["batch_index"])
    index = np.where(alone, -1.0 - np.arange(len(alone)), ok["batch_index"])
    case = pd.factorize(ok["case_id"])[0]
    where = np.stack([np.nan_to_num(ok["repeat"], nan=-1.0), index, case])
    names, first, batch = np.unique(where, axis=1, return_index=True, return_inverse=True)
    of = batch.ravel()
    wall_s, tokens = np.zeros(names.shape[1]), np.zeros(names.shape[1])
    whole = np.where(np.isnan(ok["batch_wall_s"]), ok["wall_s"], ok["batch_wall_s"])
    np.maximum.at(wall_s, of, whole)
    np.add.at(tokens, of, np.nan_to_num(ok["new_tokens"]))
    return _Batches(of, names[0], tokens, wall_s, ok["host_gap_s"][first], ok["mfu"][first])


def _latency(ok: Columns, batches: _Batches) -> dict[str, float]:
    ptl_s = stats.per_token_latency(ok["wall_s"], ok["new_tokens"])
    mean = stats.ptl_mean(ptl_s)
    if len(batches.wall_s) == len(ptl_s):  # who is alone finishes first and last
        return {"ptl_s": mean, "ptl_first_s": mean, "ptl_last_s": mean}
    end_s = np.nan_to_num(ok["start_s"]) + ok["wall_s"]
    order = np.argsort(batches.of, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(batches.of[order])) + 1)
    return {
        "ptl_s": mean,
        "ptl_first_s": stats.ptl_mean([stats.ptl_first(ptl_s[i], end_s[i]) for i in parts]),
        "ptl_last_s": stats.ptl_mean([stats.ptl_last(ptl_s[i], end_s[i]) for i in parts]),
    }


def _energy(ok: Columns, batches: _Batches) -> float:
    """Joules per new token, over the batches whose energy was read.

    The counter moves once a period and so tells, on average, of a moment half a period ago: a batch after
    a pause lacks up to half a period's energy, each of n the same way. Besides, each is off by up to half
    a period at either end, by luck: as √n. Asked is that both together stay under 10 % of the time:
    (n + √n)/2 periods under a tenth of it, ten periods for a single batch.
    """
    joules = np.where(np.isnan(ok["energy_j"]), ok["energy_coarse_j"], ok["energy_j"])
    told = ~np.isnan(joules)
    read = np.unique(batches.of[told])
    if not len(read):
        return stats.NAN
    periods = ok["energy_period_s"][told]
    period_s = USUAL_PERIOD_S if np.isnan(periods).all() else float(np.nanmax(periods))
    unknown_s = (len(read) + np.sqrt(len(read))) / 2 * period_s
    if batches.wall_s[read].sum() < ENERGY_PERIODS * unknown_s:
        return stats.NAN
    tokens = ok["new_tokens"][told].sum()
    return float(joules[told].sum() / tokens) if tokens else stats.NAN


def _tokens_within(budget_s: float, ok: Columns) -> float:
    """The mean over the sequences that say when their steps ended."""
    if np.isnan(budget_s):
        return stats.NAN
    begin = np.where(ok["refill"] == np.True_, np.nan_to_num(ok["start_s"]), 0.0)
    steps = zip(begin, ok["step_end_s"], ok["step_accepted"], ok["new_tokens"], strict=True)
    tokens = [
        stats.tokens_within(budget_s, np.asarray(end) - start, accepted, new)
        for start, end, accepted, new in steps
        if end is not None
    ]
    return stats.weighted_mean(tokens, np.ones(len(tokens)))


def _passes(line: dict[str, Any], ok: Columns, budget_s: float) -> dict[str, float]:
    """pass@k, Pass@First and Pass@All: of the rows that say whether a test passed."""
    unknown = {"pass_at_k": stats.NAN, "pass_first": stats.NAN, "pass_all": stats.NAN}
    if line["metric"] != PASS or not pd.isna(line["synthetic_acceptance"]):
        return unknown
    passed, k = ok["metric_value"] == 1, line["completions_per_sample"]
    k = 1 if pd.isna(k) else int(k)
    problems = [passed[here] for here in _parts([ok["sample_id"]])]
    found = [stats.pass_at_k(len(one), int(one.sum()), k) for one in problems]
    unknown["pass_at_k"] = float(np.mean(found))  # NaN if a problem has too few
    if np.isnan(budget_s):
        return unknown
    answer_s = _answer_ends(ok)
    trials = []
    for here in _parts([ok["sample_id"], ok["repeat"], ok["batch_index"], ok["case_id"]]):
        start_s = np.nan_to_num(ok["start_s"][here])
        begin_s = start_s.min() if line["refill"] else 0.0
        values = ok["metric_value"][here], ok["target_logprob"][here], answer_s[here] - begin_s
        trials.append(stats.pass_first_and_all(*values, budget_s))
    first, every = np.mean(trials, axis=0)
    return unknown | {"pass_first": float(first), "pass_all": float(every)}


def _parts(keys: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """The rows that agree in all keys, together."""
    codes = np.stack([pd.factorize(key, use_na_sentinel=False)[0] for key in keys])
    part = np.unique(codes, axis=1, return_inverse=True)[1].ravel()
    order = np.argsort(part, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(part[order])) + 1)


def _answer_ends(ok: Columns) -> NDArray[np.float64]:
    """When each answer was whole, on its batch's clock; one that never was is there at the end."""
    wanted = np.where(np.isnan(ok["answer_tokens"]), ok["new_tokens"], ok["answer_tokens"])
    rows = zip(wanted, ok["step_end_s"], ok["step_accepted"], ok["new_tokens"], strict=True)
    return np.array(
        [
            stats.NAN if end is None else stats.token_end_s(token, end, accepted, new)
            for token, end, accepted, new in rows
        ]
    )


def _step_times(ok: Columns) -> dict[str, float]:
    times: dict[str, float] = {}
    for name in _TIMES:
        lists = [steps for steps in ok[name] if steps is not None]
        steps = np.concatenate(lists) if lists else np.empty(0)
        steps = steps[steps != 0]  # where there was no such phase
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


def _against_plain(summary: pd.DataFrame) -> dict[str, list[float]]:
    """Each line's tokens/s and PTL over plain decoding's, which is pooled: γ = 0 verifies nothing, so
    it is the same whatever the method is called."""
    keys = keys_of(summary, ["run_id", *GROUP_KEY])
    lines = summary.to_dict("records")
    plain: dict[tuple[Any, ...], list[dict[Any, Any]]] = {}
    for key, line in zip(keys, lines, strict=True):
        if line["gamma"] == "0" and line["sequences"]:
            plain.setdefault(key, []).append(line)
    found: dict[str, list[float]] = {"speedup": [], "ptl_speedup": []}
    for key, line in zip(keys, lines, strict=True):
        pool = plain.get(key, [])
        tokens, wall_s = (sum(one[name] for one in pool) for name in ("new_tokens", "wall_s"))
        ptl_s = stats.weighted_mean(*([one[n] for one in pool] for n in ("ptl_s", "sequences")))
        speed = stats.tokens_per_s(tokens, wall_s)
        found["speedup"].append(stats.speedup(line["tokens_per_s"], speed))
        found["ptl_speedup"].append(stats.ptl_speedup(line["ptl_s"], ptl_s))
    return found
