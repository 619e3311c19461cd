"""Makes the example page, its picture and the findings' figure from the committed runs.

Usage: python docs/example_report.py [CHROMIUM]

Writes docs/example-report.html, docs/report.png (which takes a Chromium) and docs/sigmoid-range.svg.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from specbench.cli.app import main as specbench

DOCS = Path(__file__).resolve().parent
REFERENCE = DOCS.parent / "results" / "reference"
PAGE = ["asr-demo-h100", "micro-paper-h100"]
SWEEP = "sigmoid-range-h100"
SCREEN = "1280,1560"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main(browser: str | None) -> int:
    """Returns the first exit code that is not 0."""
    runs = [str(REFERENCE / f"{name}.parquet") for name in PAGE]
    page, figure = DOCS / "example-report.html", DOCS / "sigmoid-range.svg"
    code = specbench(["report", *runs, "-o", str(page)])
    sweep = [str(REFERENCE / f"{SWEEP}.parquet"), "--format", "svg", "--figure", "sigmoid-range"]
    return code or specbench(["report", *sweep, "-o", str(figure)]) or _shoot(browser, page)


def _shoot(browser: str | None, page: Path) -> int:
    """The page's first screen."""
    if browser is None:
        sys.stderr.write(f"no browser ({', '.join(BROWSERS)}): docs/report.png stays as it was\n")
        return 2
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    flags += [f"--window-size={SCREEN}", f"--screenshot={DOCS / 'report.png'}"]
    return subprocess.run([browser, *flags, page.as_uri()], check=False).returncode


if __name__ == "__main__":
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("browser", metavar="CHROMIUM", nargs="?", default=found)
    sys.exit(main(**vars(parser.parse_args())))
