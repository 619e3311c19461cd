"""Draws the README's picture: a result file's table as an SVG of the terminal.

Usage: python docs/picture.py RESULT.parquet docs/demo.svg
"""

from __future__ import annotations

import argparse
import io
import re
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI

from specbench.report.reader import read_run
from specbench.report.render import render_run

WIDTH = 100
CHARACTER = 12.2
"""Width of a character in the SVGs that rich draws."""


def main(result: str, picture: str) -> None:
    """Writes the picture of a result file."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print("$ specbench run", style="bold")
    render_run(read_run(result), console)
    drawn = console.export_svg(title="specbench", theme=MONOKAI)
    # The reader's own monospaced font: a picture in a README must fetch nothing.
    drawn = re.sub(r"\s*@font-face \{.*?\}", "", drawn, flags=re.DOTALL)
    drawn = drawn.replace("Fira Code, monospace", "monospace")
    drawn = re.sub(
        r'x="([\d.]+)" (y="[\d.]+") textLength="([\d.]+)"([^>]*)>((?:&#160;)+)', _shift, drawn
    )
    Path(picture).write_text(drawn, encoding="utf-8")


def _shift(text: re.Match[str]) -> str:
    """Moves a text by its leading spaces, which some viewers drop."""
    x, y, length, rest, spaces = text.groups()
    moved = len(spaces) // len("&#160;") * CHARACTER
    return f'x="{float(x) + moved:.1f}" {y} textLength="{float(length) - moved:.1f}"{rest}>'


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("result", metavar="RESULT.parquet", help="a file of `specbench run`")
    parser.add_argument("picture", metavar="PICTURE.svg", help="is replaced")
    main(**vars(parser.parse_args()))
