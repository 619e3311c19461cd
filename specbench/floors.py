"""The figures that a gate judges, and the floors under which a change is not worth a verdict.

A scenario's field `gate`, `specbench compare --threshold` and the report read the same syntax here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from specbench.errors import InputError, nearest

SLOWER, ACCEPTANCE, QUALITY = "slower", "acceptance", "quality"
GATES = (SLOWER, QUALITY, ACCEPTANCE)
"""What `--fail-on` can name."""

_NUMBER = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([a-zµ%]*)")


@dataclass(frozen=True)
class Floor:
    """A change counts only past both.

    Attributes:
        relative: part of the figure: 0.03 is 3 %.
        absolute: in the figure's own unit.
    """

    relative: float = 0.0
    absolute: float = 0.0

    def on(self, level: float, is_difference: bool) -> float:
        """The floor for figures of about that size: a difference, or else a part of the figure."""
        size = abs(level)
        if is_difference:
            return max(self.relative * size, self.absolute)
        return max(self.relative, self.absolute / size if size else 0.0)


@dataclass(frozen=True)
class Metric:
    """A figure that can be gated.

    Attributes:
        gate: one of `GATES`.
        worse: +1 if more is worse, -1 if less is.
        is_difference: whether runs are held against each other by new - old, not by new / old.
        unit: of an absolute floor; "" for a bare number, or for none, see `has_size`.
    """

    name: str
    gate: str
    worse: int
    floor: Floor
    is_difference: bool = False
    unit: str = ""

    @property
    def has_size(self) -> bool:
        """Whether its floor can be absolute."""
        return self.is_difference or bool(self.unit)


METRICS = {
    metric.name: metric
    for metric in (
        # Less than that on a step of a few microseconds is scheduling, not work.
        Metric("verify_us", SLOWER, +1, Floor(0.03, 0.2), unit="us"),
        Metric("verify_kernel_us", SLOWER, +1, Floor(0.03, 0.1), unit="us"),
        Metric("tokens_per_s", SLOWER, -1, Floor(0.03)),
        Metric("speedup", SLOWER, -1, Floor(0.03)),
        Metric("time_us", SLOWER, +1, Floor(0.03, 0.1), unit="us"),
        Metric("tau", ACCEPTANCE, -1, Floor(0.03)),
        Metric("alpha", ACCEPTANCE, -1, Floor(absolute=0.02), is_difference=True),
        Metric("quality", QUALITY, -1, Floor(absolute=0.02), is_difference=True),
    )
}
"""`time_us` is of files of `specbench micro`, all others of files of `specbench run`."""

LESS_IS_BETTER = {"wer", "cer"}
"""Metrics of tasks whose `quality` is an error rate."""


def parse_floor(name: str, value: Any) -> dict[str, float]:
    """`3%`, `0.5us`, `0.02`, or several of them: the fields of `Floor` that they set, the others are 0.

    Raises:
        InputError: no such metric, or the value is no floor of it. Of a rate, such as tokens per second,
            only a part is one, since ratios of it are judged.
    """
    if name not in METRICS:
        raise InputError(
            f"there is no gate on {name!r}",
            f"{nearest(name, METRICS)}Floors can be set for {', '.join(METRICS)}.",
        )
    values = value if isinstance(value, list | tuple) else str(value).split(",")
    return dict(_part(METRICS[name], str(part).strip()) for part in values)


def _part(metric: Metric, text: str) -> tuple[str, float]:
    match = _NUMBER.fullmatch(text)
    number = float(match[1]) if match else math.inf
    if match and math.isfinite(number):
        if match[2] == "%":
            return "relative", number / 100
        if metric.has_size and match[2].replace("µ", "u") == metric.unit:
            return "absolute", number
    size = (
        f", or a size, {'0.5' if metric.unit else '0.02'}{metric.unit}" if metric.has_size else ""
    )
    raise InputError(f"{text!r} is no floor of {metric.name}", f"Give a part, 3%{size}.")


def parse_thresholds(texts: Iterable[str]) -> dict[str, dict[str, float]]:
    """`verify_us=3%`, several with commas or one by one: metric → fields of its `Floor`.

    Raises:
        InputError: a part is not NAME=FLOOR.
    """
    found: dict[str, dict[str, float]] = {}
    for part in (piece.strip() for text in texts for piece in text.split(",")):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise InputError(
                f"threshold {part!r} names no metric and floor", "Write it as verify_us=3%."
            )
        found.setdefault(name, {}).update(parse_floor(name, value))
    return found


def floors(*layers: Mapping[str, Mapping[str, float]]) -> dict[str, Floor]:
    """Every metric's floor: the last layer's that names the metric, else the default. A layer replaces
    the whole floor, so that `verify_us=1%` is 1 % of the shortest step too."""
    found = {name: metric.floor for name, metric in METRICS.items()}
    for layer in layers:
        found |= {name: Floor(**fields) for name, fields in layer.items()}
    return found
