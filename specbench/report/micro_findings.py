"""Files of `specbench micro` as findings. A file is one repeat.

The replays of one process stand in one memory layout and one state of the machine: two files of one build
differ by up to 1.5 % on an H100 where their replays spread by 0.2 %. So a build is measured in several
processes, and its files together are one side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from specbench.floors import METRICS, floors
from specbench.report.compare import BASELINE
from specbench.report.doubts import other_machine
from specbench.report.evidence import Estimate
from specbench.report.findings import Rules
from specbench.report.micro import Line, read_bench
from specbench.report.pairing import Floats
from specbench.report.reader import Run
from specbench.report.schema import MICRO_KEY
from specbench.report.stats import median_and_spread
from specbench.report.summary import STEADY_REPEATS, STEADY_SPREAD
from specbench.report.verdict import Finding, Halves

_Key = tuple[Any, ...]
_File = dict[_Key, Line]


def micro_findings(new: Sequence[Run], old: Sequence[Run], rules: Rules) -> list[Finding]:
    """Every case of the reference's files: its time over `baseline` with the same inputs.

    Args:
        new, old: the files of each build; several are repeats.
    """
    lines = [[read_bench(run).lines for run in runs] for runs in (new, old)]
    files = [[_finished(one) for one in side] for side in lines]
    keys = dict.fromkeys(key for one in files[1] for key in one)
    found = [finding for key in keys for finding in _of_case(key, files, (new, old), rules)]
    broken = _broken([[_failures(one) for one in side] for side in lines], files)
    return found + [_lost(line, why, (new, old), rules) for line, why in broken]


def _finished(lines: Sequence[Line]) -> _File:
    return {_key(line): line for line in lines if line["status"] == "ok" and line["time_us"]}


def _failures(lines: Sequence[Line]) -> _File:
    return {_key(line): line for line in lines if line["status"] == "failed"}


def _broken(
    failures: Sequence[Sequence[_File]], files: Sequence[Sequence[_File]]
) -> Iterator[tuple[Line, str]]:
    """The reference's cases that failed in new files: in all, or where the reference's did not fail."""
    for key, line in {key: line for one in files[1] for key, line in one.items()}.items():
        new = [one[key] for one in failures[0] if key in one]
        in_all = not any(key in one for one in files[0])
        if new and (in_all or not any(key in one for one in failures[1])):
            yield line, f"failed in {len(new)} of {len(files[0])} new files: {new[0]['error']}"


def _lost(line: Line, why: str, runs: Sequence[Sequence[Run]], rules: Rules) -> Finding:
    return Finding(
        key={name: line[name] for name in MICRO_KEY}, where=_where(line), label=line["method"],
        metric=METRICS["time_us"], over="", run_id=runs[0][0].run_id,
        reference_run=runs[1][0].run_id, gates=bool(rules.gates), estimate=None, doubts=(why,),
        failed=True,
    )  # fmt: skip


def _key(line: Line, **other: Any) -> _Key:
    return tuple(other.get(name, line[name]) for name in MICRO_KEY)


def _of_case(
    key: _Key, files: Sequence[Sequence[_File]], runs: Sequence[Sequence[Run]], rules: Rules
) -> Iterator[Finding]:
    line = next(one[key] for one in files[1] if key in one)
    base = _key(line, method=BASELINE)
    overs = [BASELINE] if line["method"] != BASELINE else []
    for over in [*overs, *([""] if rules.absolute else [])]:
        wanted = [key, base] if over else [key]
        pairs = [
            [[one[k] for k in wanted] for one in side if set(wanted) <= one.keys()]
            for side in files
        ]
        doubts = _doubts(pairs)
        if not over:
            doubts += _apart(runs)
        if over and not pairs[1]:
            continue  # the reference has no baseline
        found = _finding(line, over, pairs, runs, rules, doubts)
        yield replace(found, halves=partial(_halves, line, pairs, runs, rules)) if over else found


def _halves(
    line: Line,
    pairs: Sequence[Sequence[Sequence[Line]]],
    runs: Sequence[Sequence[Run]],
    rules: Rules,
) -> Halves:
    """The method's own times in the same files, and those of `baseline`; by the rules' floor alone."""
    rules = replace(rules, noise=None)
    own, base = ([[[pair[part]] for pair in side] for side in pairs] for part in (0, 1))
    return Halves(
        *(
            _finding(line, "", half, runs, rules, _doubts(half) + _apart(runs))
            for half in (own, base)
        )
    )


def _finding(
    line: Line,
    over: str,
    pairs: Sequence[Sequence[Sequence[Line]]],
    runs: Sequence[Sequence[Run]],
    rules: Rules,
    doubts: list[str],
) -> Finding:
    metric = METRICS["time_us"]
    estimate = _estimate([np.array([_log(pair) for pair in side]) for side in pairs])
    times = [[pair[0]["time_us"] for pair in side] for side in pairs]
    levels = [float(np.median(side)) if side else math.nan for side in times]
    size = math.sqrt(levels[0] * levels[1])
    floor = floors(rules.thresholds)[metric.name].on(0 if math.isnan(size) else size, False)
    noise = rules.noise.of(metric.name, over) if rules.noise else 0.0
    if estimate is None:
        doubts = ["not in the new files"]
    elif estimate.repeats < STEADY_REPEATS:
        files = f"{estimate.repeats} file{'' if estimate.repeats == 1 else 's'} on a side"
        doubts = [*doubts, f"{files}, not {STEADY_REPEATS}: replays of one process are no repeats"]
    wide = estimate is not None and estimate.spread > STEADY_SPREAD
    return Finding(
        key={name: line[name] for name in MICRO_KEY},
        where=_where(line),
        label=line["method"],
        metric=metric,
        over=over,
        run_id=runs[0][0].run_id,
        reference_run=runs[1][0].run_id,
        gates=metric.gate in rules.gates,
        estimate=estimate,
        new=levels[0],
        old=levels[1],
        floor=math.log1p(max(floor, noise)),
        calibrated=noise > floor,
        doubts=tuple(dict.fromkeys(doubts)),
        unsteady=f"spread over {STEADY_SPREAD:.0%} between files" if wide else "",
    )


def _log(pair: Sequence[Line]) -> float:
    logs = [math.log(line["time_us"]) for line in pair]
    return logs[0] - sum(logs[1:])


def _estimate(sides: Sequence[Floats]) -> Estimate | None:
    """Welch's comparison of the files' figures."""
    if not all(side.size for side in sides):
        return None
    sources = [
        (float(side.var(ddof=1)) / len(side) if len(side) > 1 else math.nan, len(side) - 1.0)
        for side in sides
    ]
    spread = max(median_and_spread(np.exp(side))[1] for side in sides)
    repeats = min(len(side) for side in sides)
    return Estimate(float(sides[0].mean() - sides[1].mean()), tuple(sources), repeats, 1, spread)


def _doubts(pairs: Sequence[Sequence[Sequence[Line]]]) -> list[str]:
    every = [pair for side in pairs for pair in side]
    found = [why for pair in every for line in pair for why in line["unsteady"]]
    for name in ("implementation", "device_name", "time_from"):
        for place in range(max((len(pair) for pair in every), default=0)):
            values = dict.fromkeys(str(pair[place][name]) for side in pairs[::-1] for pair in side)
            if len(values) > 1:
                found.append(f"{name.replace('_', ' ')} {' / '.join(values)}")
    return found


def _apart(runs: Sequence[Sequence[Run]]) -> list[str]:
    """In what any file's machine differs from the reference's first."""
    first, *others = [run.metadata for side in runs[::-1] for run in side]
    return [why for other in others for why in other_machine(other, first)]


def _where(line: Line) -> str:
    l2 = f"{line['l2']} L2" if line["l2"] else "CPU"
    parts = [f"B = {line['batch_size']}", f"V = {line['vocab_size']}", line["dtype"]]
    return " · ".join([*parts, f"noise {line['noise']:g}", l2])
