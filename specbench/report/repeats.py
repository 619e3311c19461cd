"""What a case shows when its repeats stand apart: the spread that a figure draws as a band."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from specbench.report import stats
from specbench.report.schema import CASE_KEY
from specbench.report.summary import keys_of, summarise

Key = tuple[Hashable, ...]
Line = dict[Any, Any]


@dataclass(frozen=True)
class Repeats:
    """The summaries of each repeat by itself.

    Attributes:
        lines: case (values of `schema.CASE_KEY`, null as None) → its summary in each whole repeat.
    """

    lines: dict[Key, list[Line]]

    def of(self, line: Line, name: str) -> list[float]:
        """A column's value in each repeat of the case that a summary's line is of; no NaN."""
        found = self.lines.get(case_key(line), [])
        return [one[name] for one in found if not np.isnan(one[name])]

    def band(self, line: Line, name: str) -> tuple[float, float]:
        """The least and the greatest value between repeats; NaN with fewer than two."""
        values = self.of(line, name)
        return (min(values), max(values)) if len(values) > 1 else (stats.NAN, stats.NAN)


def case_key(line: Line) -> Key:
    """What makes a summary's line the case that it is."""
    return tuple(None if pd.isna(line[name]) else line[name] for name in CASE_KEY)


def by_repeat(rows: pd.DataFrame) -> Repeats:
    """The rows of one run, summed up repeat by repeat.

    A repeat that was cut off has other samples than the rest, and what differs between it and them
    would be the samples': it is left out.

    Args:
        rows: of `read_run`.
    """
    lines: dict[Key, list[Line]] = {}
    for _, part in rows[rows["status"] == "ok"].groupby("repeat"):
        summary = summarise(part)
        for key, line in zip(keys_of(summary, CASE_KEY), summary.to_dict("records"), strict=True):
            lines.setdefault(key, []).append(line)
    for key, found in lines.items():
        most = max(line["sequences"] for line in found)
        lines[key] = [line for line in found if line["sequences"] == most]
    return Repeats(lines)
