"""A table with its title and captions, printed for a terminal or as markdown."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.console import Console
from rich.text import Span, Text

NO_VALUE = "–"


@dataclass(frozen=True)
class Cell:
    """What stands in a table, ready to print; the best of its kind is set off."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Column:
    """A header of two lines, name and unit; numbers stand on the right."""

    name: str
    unit: str = ""
    right: bool = True


@dataclass(frozen=True)
class Sheet:
    """A table.

    Attributes:
        blocks: rows that belong together; an empty line divides the blocks.
        captions: sentences below the table.
    """

    title: str
    columns: list[Column]
    blocks: list[list[list[Cell]]]
    captions: list[str] = field(default_factory=list)


def print_sheet(sheet: Sheet, console: Console) -> None:
    """For a terminal: the best values are bold, captions are dim and wrap.

    The table is laid out here, not by rich: a figure is never cut short with an ellipsis in a
    narrow window, and 300 rows take milliseconds.
    """
    console.print(Text(sheet.title, "bold"))
    console.print(_table(sheet, console.width), no_wrap=True, overflow="ignore", crop=False)
    for caption in sheet.captions:
        console.print(Text(caption, "dim"))
    console.print()


def _table(sheet: Sheet, width: int) -> Text:
    names = [Cell(column.name) for column in sheet.columns]
    units = [Cell(column.unit) for column in sheet.columns]
    rows = [names, units, *(row for block in sheet.blocks for row in block)]
    widths = [max(cell_len(row[i].text) for row in rows) for i in range(len(names))]
    gap = 2 if sum(widths) + 2 * (len(widths) - 1) <= width else 1
    rule = "─" * (sum(widths) + gap * (len(widths) - 1))
    rights = [column.right for column in sheet.columns]

    def line(cells: list[Cell], style: str = "") -> Text:
        return _line(cells, rights, widths, " " * gap, style)

    lines = [Text(), line(names, "bold"), line(units, "dim"), Text(rule, "dim")]
    for block in sheet.blocks:
        lines += [*(line(row) for row in block), Text()]
    return Text("\n").join(lines)


def _line(cells: list[Cell], rights: list[bool], widths: list[int], gap: str, style: str) -> Text:
    texts, spans, column = [], [], 0
    for cell, right, width in zip(cells, rights, widths, strict=True):
        padding = " " * (width - cell_len(cell.text))
        texts.append(padding + cell.text if right else cell.text + padding)
        if cell.best:
            # Without the padding, which the line's end loses: a span may not reach past its text.
            spans.append(Span(column, column + len(texts[-1].rstrip()), "bold green"))
        column += len(texts[-1]) + len(gap)
    return Text(gap.join(texts).rstrip(), style, spans=spans)


def to_markdown(sheet: Sheet) -> str:
    """GitHub's tables; the best values are bold."""
    return "\n".join(_markdown_lines(sheet))


def _markdown_lines(sheet: Sheet) -> Iterator[str]:
    yield f"### {sheet.title}\n"
    yield _markdown_row([f"{column.name} {column.unit}".strip() for column in sheet.columns])
    yield _markdown_row(["---:" if column.right else ":---" for column in sheet.columns])
    for block in sheet.blocks:
        for row in block:
            yield _markdown_row([f"**{cell.text}**" if cell.best else cell.text for cell in row])
    yield ""
    yield from (f"- {caption}" for caption in sheet.captions)


def _markdown_row(texts: list[str]) -> str:
    return f"| {' | '.join(text.replace('|', chr(92) + '|') for text in texts)} |"


def amount(value: float) -> str:
    """Three digits at least: 1,234, 12.3, 1.23."""
    if math.isnan(value):
        return NO_VALUE
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def fixed(value: float, digits: int, sign: bool = False) -> str:
    """With so many digits after the point, with + or - in front if asked."""
    if math.isnan(value):
        return NO_VALUE
    whole = round(value, digits) + 0.0  # no -0.000
    return f"{whole:{'+' if sign else ''},.{digits}f}"


def percent(value: float, sign: bool = False) -> str:
    """0.123 is 12.3; the % stands in the header."""
    return fixed(100 * value, 1, sign)


def times(value: float) -> str:
    """A ratio: 1.62×."""
    return NO_VALUE if math.isnan(value) else f"{value:.2f}×"
