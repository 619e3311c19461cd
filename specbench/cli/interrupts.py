"""Ctrl-C and SIGTERM: both end a command as `KeyboardInterrupt`, which keeps what is finished."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

NOTHING = "nothing was measured"


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """SIGTERM, by which `timeout`, CI systems and batch systems end a job, counts as Ctrl-C."""
    try:
        before = signal.signal(signal.SIGTERM, _interrupt)
    except ValueError:  # signals are the main thread's alone
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Once: `timeout` sends it twice, and the second must not cut off the writing of what is kept."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextmanager
def before_measuring() -> Iterator[None]:
    """Around all that comes before the first measurement: who interrupts that is told so."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(NOTHING) from None
