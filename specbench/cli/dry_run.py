"""What `specbench run --dry-run` shows: a line for all cases that differ in γ and method alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import MISSING, fields
from itertools import groupby
from typing import TYPE_CHECKING, Any

from specbench.report.sheet import NO_VALUE, Cell, Column, Sheet
from specbench.scenario import Case

if TYPE_CHECKING:
    from specbench.planning import Plan

_LISTED = ("gamma", "method")
_OWN = {"sigmoid_range", "prompt_tokens", "dataset"}
"""Axes that one method or task has alone: None of the others is no other value."""
_AXES = [field for field in fields(Case) if field.name not in (*_LISTED, "skip")]


def plan_sheet(todo: Plan) -> Sheet:
    """Those cases line by line; below what all have, how many there are, and what is skipped."""
    cases = [case for case in todo.cases if not case.skip]
    shown = [axis.name for axis in _AXES if len(_values(cases, axis.name)) > 1]
    columns = [Column(_title(name), right=False) for name in (*shown, *_LISTED)]
    rows = [
        [Cell(text) for text in (*key, _ranges(gammas), ", ".join(methods))]
        + [Cell(str(len(gammas) * len(methods)))]
        for key, gammas, methods in _merged(cases, shown)
    ]
    below = [_common(cases, shown), _totals(todo, len(cases)), *_skipped(todo.cases)]
    columns.append(Column("cases"))
    return Sheet(todo.scenario.name, columns, [rows], [caption for caption in below if caption])


def _values(cases: Sequence[Case], name: str) -> list[Any]:
    """What the cases have, each once."""
    found = dict.fromkeys(getattr(case, name) for case in cases)
    return [value for value in found if value is not None or name not in _OWN]


def _merged(
    cases: Sequence[Case], shown: Sequence[str]
) -> list[tuple[tuple[str, ...], tuple[str, ...], list[str]]]:
    """(texts of the axes shown, γ, the methods that have just these γ) of each line."""
    gammas: dict[tuple[Any, ...], dict[str, None]] = {}
    for case in cases:
        key = tuple(_text(getattr(case, name)) for name in shown)
        gammas.setdefault((key, case.method), {})[case.gamma] = None
    methods: dict[tuple[Any, ...], list[str]] = {}
    for (key, method), found in gammas.items():
        methods.setdefault((key, tuple(found)), []).append(method)
    return [(key, found, names) for (key, found), names in methods.items()]


def _ranges(gammas: Sequence[str]) -> str:
    """0, 2..5, bass, as --gamma takes it."""
    numbers = sorted(int(gamma) for gamma in gammas if gamma.isdecimal())
    found = []
    for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        part = [str(number) for _, number in run]
        found += [f"{part[0]}..{part[-1]}"] if len(part) > 2 else part
    return ", ".join([*found, *(gamma for gamma in gammas if not gamma.isdecimal())])


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(_text(one) for one in value)
    return NO_VALUE if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _title(name: str) -> str:
    return {"gamma": "γ", "batch_size": "batch"}.get(name, name.replace("_", " "))


def _common(cases: Sequence[Case], shown: Sequence[str]) -> str:
    """What all cases have, but for defaults of fields that are rarely used."""
    found = []
    for axis in _AXES:
        values = _values(cases, axis.name)
        plain = values in ([], [None]) or (axis.default is not MISSING and values == [axis.default])
        if axis.name not in shown and not plain:
            found.append(f"{_title(axis.name)} {_text(values[0])}")
    return "all: " + " · ".join(found)


def _totals(todo: Plan, cases: int) -> str:
    each, repeats = todo.scenario.sequences, todo.scenario.repeats
    return (
        f"in all: {cases:,} cases × {each:,} sequences × {repeats} repeat{'s' * (repeats > 1)}: "
        f"{cases * each * repeats:,} sequences"
    )


def _skipped(cases: Sequence[Case]) -> list[str]:
    reasons = Counter(case.skip for case in cases if case.skip)
    return [f"skipped: {count:,} cases: {reason}" for reason, count in reasons.items()]
