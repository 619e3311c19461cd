"""Writes the README's table of `specbench micro` from a result file, between its two markers.

Usage: python docs/micro_table.py RESULT.parquet README.md [--check]

With --check nothing is written: the exit code is 1 if the README shows other figures than the file.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from specbench.report.micro_render import markdown_table
from specbench.report.reader import read_run

BEGIN, END = "<!-- micro:begin -->", "<!-- micro:end -->"


def main(result: str, readme: str, check: bool = False) -> int:
    """Rewrites the section, or compares it."""
    path = Path(readme)
    before = path.read_text(encoding="utf-8")
    after = with_table(before, markdown_table(read_run(result), every_state=False))
    if check:
        return int(after != before)
    path.write_text(after, encoding="utf-8")
    return 0


def with_table(text: str, table: str) -> str:
    """The text with the table between the markers, in the place of what is there.

    Raises:
        ValueError: the markers are not there, once each and in order.
    """
    begin, end = text.find(BEGIN), text.find(END)
    if begin < 0 or end < begin or text.count(BEGIN) + text.count(END) != 2:
        raise ValueError(f"the text needs one {BEGIN} and after it one {END}")
    return f"{text[: begin + len(BEGIN)]}\n{table}\n{text[end:]}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("result", metavar="RESULT.parquet", help="a file of `specbench micro`")
    parser.add_argument("readme", metavar="README.md", help="the text with the markers")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; 1 if the text shows other figures"
    )
    sys.exit(main(**vars(parser.parse_args())))
