"""Single figures as files, for papers and slides."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from specbench.errors import InputError, NotComparableError, nearest
from specbench.report.figures import KINDS
from specbench.report.figures.chart import CREATOR, Chart, Material
from specbench.report.figures.style import THEMES
from specbench.report.output import check_target, write_whole


def figure_names(asked: Sequence[str]) -> list[str]:
    """The figures that were asked for, all of them if none was.

    Raises:
        InputError: there is no figure of a name.
    """
    for name in asked:
        if name not in KINDS:
            hint = f"{nearest(name, KINDS)}There are: {', '.join(KINDS)}."
            raise InputError(f"unknown figure {name!r}", hint)
    return list(dict.fromkeys(asked)) or list(KINDS)


def write_figures(
    material: Material, names: Sequence[str], suffix: str, output: Path, theme: str
) -> list[Path]:
    """Draws each figure for each group of cases, run or file that has its data.

    Args:
        suffix: "png" or "svg".
        output: a folder; or a file, if there is one drawing alone.
        theme: of `figures.style.THEMES`.

    Returns:
        the files written.

    Raises:
        InputError: there are several drawings for one file, or it may not be written.
        NotComparableError: the results hold none of the figures.
    """
    charts = [chart for name in names for chart in KINDS[name].charts(material)]
    if not charts:
        needs = "; ".join(f"{name}: {KINDS[name].needs}" for name in names)
        raise NotComparableError("the results hold none of these figures", f"{needs}.")
    targets = _targets(charts, suffix, output)
    for path in targets:
        check_target(path, CREATOR)
    for path, chart in zip(targets, charts, strict=True):
        drawn = chart.svg(THEMES[theme]).encode() if suffix == "svg" else chart.png(THEMES[theme])
        write_whole(path, drawn)
    return targets


def _targets(charts: list[Chart], suffix: str, output: Path) -> list[Path]:
    if output.is_dir():
        return [output / f"{name}.{suffix}" for name in _names(charts)]
    if len(charts) > 1:
        listed = ", ".join(chart.stem for chart in charts[:4]) + (", ..." if charts[4:] else "")
        raise InputError(
            f"{len(charts)} drawings cannot go into the one file {output}: {listed}",
            "Give a folder that exists, or fewer figures and files.",
        )
    if output.suffix != f".{suffix}":
        raise InputError(
            f"{output} does not end in .{suffix}",
            f"Name it so, or take --format {output.suffix[1:]}.",
        )
    return [output]


def _names(charts: list[Chart]) -> list[str]:
    """A name for each drawing, also where case does not count; the second of a name ends in -2."""
    found: dict[str, str] = {}
    for chart in charts:
        tries = (f"{chart.stem}-{i}" if i > 1 else chart.stem for i in itertools.count(1))
        name = next(name for name in tries if name.casefold() not in found)
        found[name.casefold()] = name
    return list(found.values())
