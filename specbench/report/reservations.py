"""Why not to believe a recommendation, in words."""

from __future__ import annotations

from collections import Counter

import pandas as pd

from specbench.report import captions
from specbench.report.candidates import Candidate, DecodedCase
from specbench.report.clocks import tainting_ratio
from specbench.report.repeats import Line
from specbench.report.summary import GROUP_KEY, STEADY_REPEATS, keys_of

FEW_SAMPLES = 8
"""Fewer, and what one text does decides."""


def doubts(best: Candidate, cases: list[DecodedCase]) -> list[str]:
    """Of the best of these cases; none if nothing speaks against it."""
    line = best.line
    found = [line["unsteady"]] if line["unsteady"] else []
    if not found and 0 < best.speedup.repeats < STEADY_REPEATS:
        found.append(f"fewer than {STEADY_REPEATS} repeats beside plain decoding")
    samples = next(case.rows["sample_id"].nunique() for case in cases if case.line is line)
    if samples < FEW_SAMPLES:
        found.append(f"{samples} sample{'s' if samples != 1 else ''}: other texts may do otherwise")
    found += [_slowed(cases), _interrupted(cases), _lost(line, cases), _as_torch(line)]
    if not pd.isna(line["synthetic_acceptance"]):
        found.append(
            f"acceptance is synthetic: this holds for {line['alpha']:.0%} of drafts accepted, whatever "
            "a real draft would reach, and says nothing about quality"
        )
    if line["load_format"] == captions.DUMMY:
        found.append("weights are random: the pair's in shape alone")
    return [doubt for doubt in found if doubt]


def _slowed(cases: list[DecodedCase]) -> str:
    """Reasons for low clocks, and in how many sequences; a speed-up is a ratio within its run."""
    rows = pd.concat([case.rows["throttle_reasons"] for case in cases])
    slow = [tainting_ratio(row) for row in rows if row is not None]
    reasons = sorted({reason for row in slow for reason in row})
    number = sum(map(bool, slow))
    return (
        f"the GPU slowed down ({', '.join(reasons)}) in {number} of {len(rows)} sequences"
        if number
        else ""
    )


def _interrupted(cases: list[DecodedCase]) -> str:
    runs = {case.within.run.run_id: case.within.run.metadata for case in cases}
    cut = [run_id for run_id, about in runs.items() if not about.get("complete", True)]
    return f"interrupted: not all that was asked for ({', '.join(cut)})" if cut else ""


def _lost(line: Line, cases: list[DecodedCase]) -> str:
    """How many sequences of this task failed, and whose. A case of which nothing finished is not among
    the cases, so the runs are asked."""
    of = [name for name in GROUP_KEY if name != "pair"]
    (wanted,) = keys_of(pd.DataFrame([line]), of)
    lost: Counter[tuple[str, str]] = Counter()
    for rows in {case.within.run.run_id: case.within.run.rows for case in cases}.values():
        failed = rows[rows["status"] == "failed"]
        here = [key == wanted for key in keys_of(failed, of)]
        lost.update(zip(failed["method"][here], failed["gamma"][here], strict=True))
    whose = [f"{number} of {method} at γ = {gamma}" for (method, gamma), number in lost.items()]
    several = "s" if lost.total() != 1 else ""
    return f"{lost.total()} sequence{several} failed ({', '.join(whose)})" if whose else ""


def _as_torch(line: Line) -> str:
    if line["implementation"] != "torch" or line["method"] == "baseline":
        return ""
    return "verification ran as torch operations: of the CUDA kernels this says nothing"
