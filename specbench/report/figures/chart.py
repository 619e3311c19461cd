"""A figure that can be drawn, and the results that it is drawn from."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from specbench.report.captions import group_title
from specbench.report.compare import Within
from specbench.report.figures.style import HEIGHT_IN, WIDTH_IN, Theme, settings
from specbench.report.micro import Bench
from specbench.report.repeats import Repeats, by_repeat

CREATOR = "specbench report"
"""Stands in every file that is written, so that only such a file is replaced."""
PART, STEM_BYTES = 60, 200
"""Characters of a file's or a pair's name (a path may be long), and bytes of all: systems take 255."""


@dataclass(frozen=True)
class Source:
    """One run, read and summed up.

    Attributes:
        several: whether other runs are shown beside it, so that its name must be said.
    """

    within: Within
    several: bool = False

    def subject(self, key: dict[str, Any]) -> str:
        """What a group of its cases is called; see `captions.group_title`."""
        title = group_title(key)
        return f"{self.within.run.path.name}: {title}" if self.several else title

    @cached_property
    def repeats(self) -> Repeats:
        """The repeats by themselves."""
        return by_repeat(self.within.run.rows)


@dataclass(frozen=True)
class Material:
    """All that figures are drawn from."""

    sources: list[Source]
    benches: list[Bench]


@dataclass(frozen=True)
class Chart:
    """One drawing.

    Attributes:
        kind: the name by which `--figure` asks for it.
        subject: what it shows: a group's title, a file's name.
        title: what is drawn, in words.
        caption: how to read it.
        detail: tells apart charts of one kind and subject: a shape.
        paint: draws it into an empty figure.
    """

    kind: str
    subject: str
    title: str
    caption: str
    paint: Callable[[Figure, Theme], None]
    detail: str = ""
    height_in: float = HEIGHT_IN

    def svg(self, theme: Theme) -> str:
        """As SVG whose text is text; the same data give the same bytes."""
        about = {"Title": f"{self.name}: {self.subject}", "Creator": CREATOR, "Date": None}
        drawn = self._drawn(theme, FigureCanvasSVG, "svg", about).decode("utf-8")
        # Others' fonts are wider or narrower: matplotlib's own is asked for first, no other is fetched.
        return drawn.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")

    def png(self, theme: Theme) -> bytes:
        """As PNG at 300 dots per inch."""
        about = {"Title": f"{self.name}: {self.subject}", "Software": CREATOR}
        return self._drawn(theme, FigureCanvasAgg, "png", about)

    @property
    def stem(self) -> str:
        """A file name without its suffix: what is drawn, and of what; of a long part its end.

        Two charts may have the same; `papers` numbers them.
        """
        parts = re.split(r": | · ", self.subject)
        words = [*(part.removesuffix(".parquet")[-PART:] for part in parts), self.detail]
        names = [re.sub(r"[^\w.±=-]+", "-", word).strip("-.") for word in words]
        whole = "-".join(name for name in (self.kind, *names) if name)
        return whole.encode()[:STEM_BYTES].decode(errors="ignore").strip("-.")

    @property
    def name(self) -> str:
        """What is drawn, and of what shape."""
        return f"{self.title}, {self.detail}" if self.detail else self.title

    def _drawn(self, theme: Theme, canvas: Any, suffix: str, about: dict[str, Any]) -> bytes:
        # An SVG's ids come from the salt: two figures of one page must not share any.
        salt = {"svg.hashsalt": f"{self.kind} {self.subject} {self.detail}"}
        with rc_context(settings(theme) | salt):
            figure = Figure(figsize=(WIDTH_IN, self.height_in), layout="constrained")
            canvas(figure)
            self.paint(figure, theme)
            file = io.BytesIO()
            figure.savefig(file, format=suffix, metadata=about)
        return file.getvalue()
