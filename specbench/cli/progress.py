"""What stderr says of a command's progress where it is no terminal: in a CI job, a batch job, a file."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from rich.console import Console

PAUSE_S, LONGEST_S = 10.0, 60.0
PART = 0.1


class Lines:
    """Plain lines now and then; nothing on a terminal, which has a bar.

    Never two within `PAUSE_S`; of what can be counted one each `PART`, or after `LONGEST_S`.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._last_s, self._done = -math.inf, 0.0

    def stage(self, text: str) -> None:
        """Something begins."""
        if self._waited_s() >= PAUSE_S:
            self._print(text)

    def count(self, done: int, total: int, what: str) -> None:
        """So many are done: "240 of 1,440 sequences, 17 %"."""
        waited_s, share = self._waited_s(), done / total
        if waited_s >= LONGEST_S or (waited_s >= PAUSE_S and share - self._done >= PART):
            self._print(f"{done:,} of {total:,} {what}, {share:.0%}".replace("%", " %"))
            self._done = share

    def _waited_s(self) -> float:
        return self._clock() - self._last_s

    def _print(self, text: str) -> None:
        if not self._console.is_terminal:
            self._console.print(text, markup=False, soft_wrap=True)
        self._last_s = self._clock()
