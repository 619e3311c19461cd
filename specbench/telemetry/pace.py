"""How often a driver is asked, so that asking costs a run next to nothing."""

from __future__ import annotations

from collections import deque
from statistics import median

MOST_OF_A_THREAD = 0.002
"""So much of the sampling thread's time may go to one kind of question. On one host of an H100 the energy
counter took 2.4 ms to answer, everything else together 0.04: it is asked less often there."""

RECENT = 9


class Pace:
    """The pause after a question, by how long the latest answers took; a single slow one does not count.

    Args:
        least_s: of a pause, however quick the answers.
    """

    def __init__(self, least_s: float) -> None:
        self.least_s = least_s
        self._took_s: deque[float] = deque(maxlen=RECENT)

    def took(self, seconds: float) -> None:
        """Notes how long an answer took."""
        self._took_s.append(seconds)

    @property
    def pause_s(self) -> float:
        """What to wait now."""
        usual_s = median(self._took_s) if self._took_s else 0.0
        return max(self.least_s, usual_s / MOST_OF_A_THREAD)
