"""The sentences below a table: what was fastest, what ran, and what not to believe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from specbench.report.compare import Across, Within
from specbench.report.sheet import amount, times
from specbench.report.summary import GROUP_KEY, STEADY_SPREAD, keys_of

UNSTEADY = "~"
APPROXIMATE = "≈"
UNKNOWN = "?"
STALLED = 2
"""So many times the median step is the mean one, where few steps take most of the time."""
LEAST_MFU = 0.00005
"""What is less would be shown as 0.00 %: small models, for which MFU is no measure."""
EMBEDDED = {"stdlib-functions", "demo-problems", "random-tokens"}
"""Data sets that go without saying."""
DUMMY = "dummy"
"""The load format of random weights."""

_IMPLEMENTATIONS = {"torch": "torch ops", "cuda": "CUDA kernels"}


def group_captions(lines: pd.DataFrame) -> list[str]:
    """All that is to be said below the table of one `compare.Group`."""
    found = [fastest(lines), latency(lines), utilisation(lines), energy(lines)]
    found += [implementation(lines), in_time(lines), cut_off(lines), went_on(lines)]
    found += [shortened(lines), variation(lines)]
    found += [*marks(lines), *invented(lines), *failures(lines)]
    return [caption for caption in found if caption]


def group_title(key: dict[str, Any]) -> str:
    """demo-lm · code · batch 8 · temperature 0.6 · native · pad · graphs · float16 · dummy weights"""
    lengths, task = key["prompt_lengths"], key["task"]
    if key["dataset"] and key["dataset"] not in EMBEDDED:
        task = f"{task} {key['dataset']}"
    shown = [key["pair"], task, lengths and f"prompts {lengths}"]
    shown += ["chat template" if key["chat_template"] else None]
    many = key["completions_per_sample"]
    shown += [f"{many} completions" if many and many > 1 else None]
    shown += [_named("batch", key["batch_size"])]
    shown += [_named("temperature", key["temperature"]), _named("top-k", key["top_k"])]
    shown += [_named("top-p", key["top_p"]), key["engine"], key["attention"], key["execution"]]
    shown += ["refill" if key["refill"] else None, key["dtype"]]
    shown += ["dummy weights" if key["load_format"] == DUMMY else None]
    shown += [_named("synthetic acceptance", key["synthetic_acceptance"])]
    return " · ".join(str(part) for part in shown if part is not None)


def variation(lines: pd.DataFrame) -> str | None:
    """What TV is."""
    if lines["law_tv"].isna().all():
        return None
    return (
        "TV: total variation between the law of a token under an approximation and the target's, 0 the "
        "same, 1 nothing in common; an exact method's is 0"
    )


def reading_captions(lines: pd.DataFrame) -> list[str]:
    """What is to be said below the table of how outputs read."""
    found = [
        variation(lines),
        "log p: of the output under the target, at temperature 1; repeated: 4-grams that stood in the "
        "output before; distinct: different words of one or two tokens over all. γ = 0 is how the target "
        "writes",
        *marks(lines),
    ]
    return [caption for caption in found if caption]


def cut_off(lines: pd.DataFrame) -> str | None:
    """That outputs which were scored had no end: what is missing counts against them."""
    scored = lines[lines["quality"].notna()]
    number, of = int(scored["cut_off"].sum()), int(scored["sequences"].sum())
    return f"{number} of {of} outputs were cut off at max_new_tokens" if number else None


def went_on(lines: pd.DataFrame) -> str | None:
    """That decoding went on behind the answers: that part is in every time and in no score."""
    number, of = int(lines["went_on"].sum()), int(lines["sequences"].sum())
    what = (
        f"{number} of {of} outputs went on behind the end of their answer: the rest is not scored"
    )
    return f"{what}, and is in tokens/s" if number else None


def shortened(lines: pd.DataFrame) -> str | None:
    """That models did not see all of a document."""
    number, of = int(lines["shortened"].sum()), int(lines["sequences"].sum())
    return (
        f"{number} of {of} prompts have a part of their document, as much as the models have room for"
        if number
        else None
    )


def in_time(lines: pd.DataFrame) -> str | None:
    """What Pass@First and Pass@All are of."""
    if lines["pass_first"].isna().all():
        return None
    return (
        f"Pass@First, Pass@All: problems solved by the likeliest, by any of the completions that a batch "
        f"has whole within {lines['time_budget_s'].iloc[0]:g} s (BASS)"
    )


def fastest(lines: pd.DataFrame) -> str | None:
    """The exact method and γ with the most tokens per second, and whether that beats γ = 0."""
    best = fastest_line(lines)
    if best is None:
        return None
    kind = "exact" if best["exact"] is True else "of methods not known to be exact"
    chance = "" if pd.isna(best["synthetic_acceptance"]) else ", acceptance synthetic"
    return f"fastest {kind}: {_case(best)}: {_gain(best)}{chance}{_doubt(best)}"


def fastest_line(lines: pd.DataFrame) -> pd.Series[Any] | None:
    """The drafting line with the most tokens per second: of an exact method if one finished."""
    return _first(lines, "tokens_per_s", descending=True)


def _first(lines: pd.DataFrame, name: str, descending: bool) -> pd.Series[Any] | None:
    """The drafting line with the best value in a column: of an exact method if there is one."""
    drafted = lines[(lines["gamma"] != "0") & lines[name].notna()]
    exact = drafted[drafted["exact"].map(lambda mark: mark is True)]
    pool = exact if len(exact) else drafted
    if pool.empty:
        return None
    values = pool[name].to_numpy(float)
    return pool.iloc[int(values.argmax() if descending else values.argmin())]


def _case(line: pd.Series[Any]) -> str:
    return f"{line['label']} at γ = {line['gamma']}"


def _gain(best: pd.Series[Any]) -> str:
    if pd.isna(best["speedup"]):
        return f"{best['tokens_per_s']:,.1f} tokens/s (no γ = 0 in this run to hold it against)"
    if best["speedup"] < 1:
        return f"{best['speedup']:.2f}× plain decoding, which is faster"
    return f"{best['speedup']:.2f}× over plain decoding"


def _doubt(best: pd.Series[Any]) -> str:
    return f" (unsteady: {best['unsteady']})" if best["unsteady"] else ""


def latency(lines: pd.DataFrame) -> str | None:
    """Of a batch: the lowest PTL, and how far its sequences lie apart."""
    best = _first(lines, "ptl_s", descending=False)
    if best is None or not (lines["batch_size"] > 1).any():
        return None
    mean, first, last = (amount(1e3 * best[f"ptl{part}_s"]) for part in ("", "_first", "_last"))
    known = pd.notna(best["ptl_speedup"])
    beside = f"; plain decoding's is {times(best['ptl_speedup'])} that" if known else ""
    return (
        f"PTL, a sequence's time per token, is lowest with {_case(best)}: {mean} ms (first finished "
        f"{first}, last {last}){beside}"
    )


def utilisation(lines: pd.DataFrame) -> str | None:
    """The highest MFU of a drafting line, and plain decoding's; None where it says nothing."""
    best = _first(lines, "mfu", descending=True)
    if best is None or best["mfu"] < LEAST_MFU:
        return None
    plain = lines[(lines["gamma"] == "0") & lines["mfu"].notna()]["mfu"]
    beside = f", plain decoding's {_mfu(plain.max())} %" if len(plain) else ""
    return f"MFU is highest with {_case(best)}: {_mfu(best['mfu'])} %{beside}"


def _mfu(share: float) -> str:
    """In %, two digits at least, however small."""
    return amount(100 * share) if share >= 0.001 else f"{100 * share:.2g}"


def is_stalled(line: Mapping[Any, Any]) -> bool:
    """Whether few long steps take most of the verify time: its share of the wall, a sum, shows them, and
    the median of a step does not. Of batches the summary does not say how long all steps took together.
    """
    if line["batch_size"] > 1 or not line["verify_steps"]:
        return False
    mean_us = 1e6 * line["verify_share"] * line["wall_s"] / line["verify_steps"]
    return bool(mean_us > STALLED * line["verify_us"])


def energy(lines: pd.DataFrame) -> str | None:
    """The least energy per token of a drafting line, and plain decoding's."""
    best = _first(lines, "j_per_token", descending=False)
    if best is None:
        return None
    plain = lines[(lines["gamma"] == "0") & lines["j_per_token"].notna()]["j_per_token"]
    beside = f", plain decoding's {amount(plain.min())}" if len(plain) else ""
    least = f"{amount(best['j_per_token'])} J a token"
    return f"energy of the whole GPU is least with {_case(best)}: {least}{beside}"


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
    if any(is_stalled(line) for line in lines.to_dict("records")):
        reasons.append(
            f"few long steps make verify's share of the wall more than {STALLED} times its median step's"
        )
    if reasons := [why for why in reasons if why]:
        found.append(f"{UNSTEADY} unsteady: {'; '.join(reasons)}")
    if any(mark is False for mark in lines["exact"]):
        found.append(f"{APPROXIMATE} approximation: the output does not follow the target's law")
    if any(mark is None for mark in lines["exact"]):
        found.append(f"{UNKNOWN} the file does not say whether the method is exact")
    return found


def invented(lines: pd.DataFrame) -> list[str]:
    """What no model decided."""
    rates = lines["synthetic_acceptance"].dropna().unique()
    found = [
        f"acceptance is synthetic ({rate:g} per draft): nothing here says anything about quality"
        for rate in rates
    ]
    if (lines["load_format"] == DUMMY).any():
        what = "" if len(rates) else ", and τ, α and quality are not its own"
        found.append(f"weights are random: the pair's in shape alone{what}")
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


def batch_size_captions(best: dict[int, dict[Any, Any]]) -> list[str]:
    """Up to which batch size drafting pays.

    Args:
        best: batch size → the fastest drafting line.
    """
    known = {size: line["speedup"] for size, line in best.items() if pd.notna(line["speedup"])}
    slower = [f"{size}" for size, speedup in known.items() if speedup < 1]
    found = []
    if slower:
        found.append(f"at batch {', '.join(slower)} plain decoding has more tokens/s")
    elif known:
        found.append("drafting has more tokens/s than plain decoding at each of these batch sizes")
    if doubts := sorted({line["unsteady"] for line in best.values() if line["unsteady"]}):
        found.append(f"{UNSTEADY} unsteady: {'; '.join(doubts)}")
    return found + (invented(pd.DataFrame(list(best.values()))) if best else [])


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
