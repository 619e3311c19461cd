"""A chart inside a page: one drawing for both grounds, coloured by the page's style."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

from specbench.report.figures.chart import Chart
from specbench.report.figures.style import DARK, LIGHT, Theme

_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_SIZE = re.compile(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>')
_STYLE = re.compile(r"<defs>\s*<style[^>]*>.*?</style>\s*</defs>", re.DOTALL)
_NUMBERED = re.compile(r'<g id="[^"]*"')
"""Every drawing of matplotlib has the same ids on its groups, which nothing refers to."""


def inline_svg(chart: Chart) -> Markup:
    """The chart as an `svg` element whose colours are the page's variables, see `variables`."""
    drawn = chart.svg(LIGHT)
    drawn = _STYLE.sub("", drawn[drawn.index("<svg ") :])
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    drawn = _NUMBERED.sub("<g", drawn)
    names = {colour: name for name, colour in _named(LIGHT)}
    drawn = _COLOUR.sub(lambda found: _variable(names, found.group()), drawn)
    label = escape(f"{chart.name}: {chart.subject}")
    opening = rf'<svg viewBox="\1" role="img" aria-label="{_literal(label)}">'
    drawn = _SIZE.sub(opening, drawn, count=1)
    return Markup(re.sub(r"\n\s*", "\n", drawn))


def _literal(text: str) -> str:
    """For the right side of a substitution, where a backslash means something."""
    return str(text).replace("\\", r"\\")


def _variable(names: dict[str, str], colour: str) -> str:
    return f"var(--{names[colour]})" if colour in names else colour


def variables(theme: Theme) -> str:
    """The theme's colours as declarations of a style sheet."""
    return " ".join(f"--{name}: {colour};" for name, colour in _named(theme))


def _named(theme: Theme) -> list[tuple[str, str]]:
    """`figure-ground` is the card's, so that a drawing has no edge."""
    named = [
        ("figure-ground", theme.ground),
        ("figure-ink", theme.ink),
        ("figure-grid", theme.faint),
    ]
    return named + [(f"series-{i}", colour) for i, colour in enumerate(theme.series)]


STYLES = {"FIGURE_LIGHT": variables(LIGHT), "FIGURE_DARK": variables(DARK)}
"""What stands for them in page.css."""
