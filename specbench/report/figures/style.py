"""How every figure looks: two grounds, colours that the colour-blind can tell apart, signs beside them.

The colours follow Okabe and Ito (https://jfly.uni-koeln.de/color), darkened on the light ground and
lightened on the dark one until each stands out from it by 3:1 (WCAG 2.2, 1.4.11). Nothing is told by
colour alone: every series has a marker and a dash of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from matplotlib import rcParamsDefault
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

WIDTH_IN, HEIGHT_IN = 4.1, 2.9
"""Of a figure: narrow, so that its 9 pt stay legible on a telephone and in a paper's column."""
LONGEST = 30
"""Characters of a name; a longer one would leave no room for the axes."""


@dataclass(frozen=True)
class Theme:
    """Colours as #rrggbb.

    Attributes:
        ground: the paper.
        ink: text and axes.
        faint: the grid.
        series: one for each series, in the order of `METHODS`.
    """

    name: str
    ground: str
    ink: str
    faint: str
    series: tuple[str, ...]


LIGHT = Theme(
    "light", "#ffffff", "#1f2328", "#d9dde2",
    ("#5f6670", "#c98500", "#a82a10", "#0a63b5", "#008a63", "#b04a94", "#2b8fc4", "#7a7a00"),
)  # fmt: skip
DARK = Theme(
    "dark", "#15181c", "#e6e8eb", "#363c44",
    ("#aab1ba", "#eea535", "#ff7a52", "#63aef2", "#33c79d", "#e795cd", "#a5d8f7", "#efe36a"),
)  # fmt: skip
THEMES = {theme.name: theme for theme in (LIGHT, DARK)}

METHODS = ("baseline", "exact", "sigmoid", "fused", "block", "flashinfer", "vllm", "vllm-block")
"""A method has the same colour in every figure; others take what these leave free."""
_MARKERS = ("s", "D", "X", "o", "^", "v", "P", "<", ">", "p", "h", "*")
_DASHES: tuple[Any, ...] = (
    (),
    (5, 1.5),
    (1.5, 1.5),
    (),
    (6, 1.5, 1.5, 1.5),
    (4, 2),
    (2, 1),
    (7, 2),
)


@dataclass(frozen=True)
class Series:
    """How one series is drawn."""

    colour: str
    marker: str
    dash: tuple[float, ...]

    def line(self) -> dict[str, Any]:
        """For `Axes.plot`."""
        style = (0, self.dash) if self.dash else "-"
        return {"color": self.colour, "marker": self.marker, "linestyle": style}


def series(labels: Iterable[str], theme: Theme) -> dict[str, Series]:
    """A style for each label: a known method's own, for the others the next free one."""
    names = list(dict.fromkeys(labels))
    taken = {name: METHODS.index(name) for name in names if name in METHODS}
    free = [place for place in range(len(_MARKERS)) if place not in taken.values()]
    rest = [name for name in names if name not in taken]
    places = taken | {name: free[i % len(free)] for i, name in enumerate(rest)}
    return {name: _at(places[name], theme) for name in names}


def _at(place: int, theme: Theme) -> Series:
    dash = _DASHES[place % len(_DASHES)]
    return Series(theme.series[place % len(theme.series)], _MARKERS[place], dash)


def settings(theme: Theme) -> Any:
    """matplotlib's settings by name, whatever the user's own file says."""
    ours = {
        "svg.fonttype": "none",  # text stays text
        "text.parse_math": False,  # a name with two $ is no formula
        "font.family": ["DejaVu Sans"],
        "font.size": 9.0,
        "axes.labelsize": 9.0,
        "xtick.labelsize": 8.5,
        "ytick.labelsize": 8.5,
        "legend.fontsize": 8.5,
        "lines.linewidth": 1.6,
        "lines.markersize": 4.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "legend.handlelength": 2.4,
        "legend.columnspacing": 1.2,
        "legend.borderaxespad": 0.2,
        "hatch.linewidth": 0.5,
        "savefig.dpi": 300,
    }
    inks = ["text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"]
    grounds = ["figure.facecolor", "axes.facecolor", "savefig.facecolor"]
    colours = dict.fromkeys(inks, theme.ink) | dict.fromkeys(grounds, theme.ground)
    defaults = {name: value for name, value in rcParamsDefault.items() if "backend" not in name}
    return defaults | ours | colours | {"grid.color": theme.faint}


def short(label: str) -> str:
    """As much of a name as a drawing has room for."""
    return label if len(label) <= LONGEST else f"{label[: LONGEST - 1]}…"


def legend(figure: Figure, axes: Axes) -> None:
    """Above the axes, in as many columns as fit."""
    handles, labels = axes.get_legend_handles_labels()
    labels = [short(label) for label in labels]
    if labels:
        longest = max(map(len, labels))
        most = 4 if longest <= 8 else 3 if longest <= 12 else 2 if longest <= 22 else 1
        rows = math.ceil(len(labels) / most)
        columns = math.ceil(len(labels) / rows)  # 3 and 3, not 4 and 2
        figure.legend(handles, labels, loc="outside upper left", ncols=columns)


def logarithmic(axis: Axis) -> None:
    """1, 2, 5, 10 ... in plain figures; call it when the data are drawn."""
    low, high = axis.get_view_interval()
    steps = (1.0,) if high / low > 2000 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=steps, numticks=12))
    _plain(axis)


def powers_of_two(axis: Axis) -> None:
    """Ticks at 1, 2, 4, 8 ... of an axis whose scale is logarithmic."""
    axis.set_major_locator(LogLocator(base=2.0))
    _plain(axis)


def _plain(axis: Axis) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
