"""The sentences below a table: what was fastest, what ran, and what not to believe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from specbench.report.compare import Across, Within
from specbench.report.summary import GROUP_KEY, STEADY_SPREAD, keys_of

UNSTEADY = "~"
APPROXIMATE = "≈"
UNKNOWN = "?"

_IMPLEMENTATIONS = {"torch": "torch ops", "cuda": "CUDA kernels"}


def group_captions(lines: pd.DataFrame) -> list[str]:
    """All that is to be said below the table of one `compare.Group`."""
    found = [fastest(lines), implementation(lines), *marks(lines), *failures(lines)]
    return [caption for caption in found if caption]


def group_title(key: dict[str, Any]) -> str:
    """demo-lm · summarization · batch 1 · temperature 1 · native · float16"""
    shown = [key["pair"], key["task"], _named("batch", key["batch_size"])]
    shown += [_named("temperature", key["temperature"]), _named("top-k", key["top_k"])]
    shown += [_named("top-p", key["top_p"]), key["engine"], key["attention"], key["dtype"]]
    return " · ".join(str(part) for part in shown if part is not None)


def fastest(lines: pd.DataFrame) -> str | None:
    """The exact method and γ with the most tokens per second, and whether that beats γ = 0."""
    drafted = lines[(lines["gamma"] != "0") & lines["tokens_per_s"].notna()]
    exact = drafted[drafted["exact"].map(lambda mark: mark is True)]
    kind, pool = ("exact", exact) if len(exact) else ("of methods not known to be exact", drafted)
    if pool.empty:
        return None
    best = pool.iloc[int(pool["tokens_per_s"].to_numpy(float).argmax())]
    return f"fastest {kind}: {best['label']} at γ = {best['gamma']}: {_gain(best)}{_doubt(best)}"


def _gain(best: pd.Series[Any]) -> str:
    if pd.isna(best["speedup"]):
        return f"{best['tokens_per_s']:,.1f} tokens/s (no γ = 0 in this run to hold it against)"
    if best["speedup"] < 1:
        return f"{best['speedup']:.2f}× plain decoding, which is faster"
    return f"{best['speedup']:.2f}× over plain decoding"


def _doubt(best: pd.Series[Any]) -> str:
    return f" (unsteady: {best['unsteady']})" if best["unsteady"] else ""


def implementation(lines: pd.DataFrame) -> str | None:
    """What the verify step ran as; without CUDA kernels no time here is theirs.

    Where both ran, the torch ops are favoured: Philox in torch would drown them.
    """
    ran = lines[lines["sequences"] > 0]
    kinds = {
        kind: list(dict.fromkeys(part["label"]))
        for kind, part in ran.groupby("implementation", sort=False)
    }
    device = " and ".join(dict.fromkeys(ran["device_name"].dropna()))
    if not kinds:
        return None
    if list(kinds) == ["torch"]:
        where = f" on {device}" if device else ""
        return f"verify implemented as torch ops{where}; the CUDA kernels are not in this run"
    named = [f"{', '.join(who)} as {_IMPLEMENTATIONS.get(str(k), k)}" for k, who in kinds.items()]
    if "torch" in kinds:
        named.append("torch ops get their random numbers before the clock, kernels draw their own")
    return f"verify on {device}: {'; '.join(named)}"


def marks(lines: pd.DataFrame) -> list[str]:
    """What the signs in the cells mean, for those that occur."""
    found = []
    reasons = list(dict.fromkeys(why for text in lines["unsteady"] for why in text.split("; ")))
    if (lines["verify_us_spread"] > STEADY_SPREAD).any():
        reasons.append(f"verify time spread over {STEADY_SPREAD:.0%} between steps")
    if reasons := [why for why in reasons if why]:
        found.append(f"{UNSTEADY} unsteady: {'; '.join(reasons)}")
    if any(mark is False for mark in lines["exact"]):
        found.append(f"{APPROXIMATE} approximation: the output does not follow the target's law")
    if any(mark is None for mark in lines["exact"]):
        found.append(f"{UNKNOWN} the file does not say whether the method is exact")
    return found


def failures(lines: pd.DataFrame) -> list[str]:
    """One sentence for each case with failed or skipped sequences, with the first reason."""
    return [
        f"{line['label']} at γ = {line['gamma']}: {_lost(line)}: {line['first_error']}"
        for line in lines.to_dict("records")
        if line["failed"] or line["skipped"]
    ]


def _lost(line: dict[Any, Any]) -> str:
    if not line["failed"]:
        return "skipped"
    return f"{line['failed']} of {line['failed'] + line['sequences']} sequences failed"


def _named(name: str, value: Any) -> str | None:
    return None if value is None else f"{name} {value:g}"


def across_captions(across: Across, withins: Sequence[Within]) -> list[str]:
    """Which file each run is, what was in one run alone, and what cannot be compared."""
    found = [
        f"{one.run.run_id}: {one.run.path.name}, {one.run.metadata.get('created_utc', 'undated')}"
        for one in withins
    ]
    found += across.notes
    if doubts := [text for text in across.lines["unsteady"].unique() if text]:
        found.append(f"{UNSTEADY} unsteady: {'; '.join(doubts)}")
    found += [f"only in {run}: {_listed(part)}" for run, part in across.alone.groupby("run_id")]
    return found


def _listed(cases: pd.DataFrame) -> str:
    """fused at γ = 1, 2 (demo-lm · summarization · batch 1); ..."""
    gammas: dict[tuple[str, str], list[str]] = {}
    for key, line in zip(keys_of(cases, GROUP_KEY), cases.to_dict("records"), strict=True):
        title = group_title(dict(zip(GROUP_KEY, key, strict=True)))
        gammas.setdefault((line["label"], title), []).append(line["gamma"])
    return "; ".join(
        f"{label} at γ = {', '.join(values)} ({title})" for (label, title), values in gammas.items()
    )
