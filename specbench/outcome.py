"""What a run tells meanwhile, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from specbench.errors import SpecbenchError
from specbench.rows import Row
from specbench.telemetry.lost import lost_reason

NOT_RUN = "not run"
"""How the error of a sequence begins that was left out because the GPU was lost."""


class Talk(Protocol):
    """Where the runner says what it does; the command line shows it."""

    def stage(self, text: str) -> None:
        """Something that takes a moment begins."""

    def notice(self, text: str) -> None:
        """Something the user should know."""

    def total(self, sequences: int) -> None:
        """So many sequences are to be decoded."""

    def advance(self, sequences: int, text: str) -> None:
        """So many more are done; `text` says which case is next."""


@dataclass
class Outcome:
    """What became of a run."""

    ok: int = 0
    failed: int = 0
    skipped: int = 0
    interrupted: bool = False
    errors: list[str] = field(default_factory=list)
    """The distinct reasons of failures, in order."""
    lost: str | None = None
    """How the GPU was lost, if it was; what came afterwards was not run."""

    def loses_gpu(self, error: Exception, where: str) -> bool:
        """Notes it, if the error means that."""
        reason = lost_reason(error)
        if reason is not None and self.lost is None:
            self.lost = f"the GPU was lost in {where}: {reason}"
        return reason is not None


def not_run(outcome: Outcome) -> Row:
    """What the row of a sequence has instead of figures once the GPU is lost."""
    return {"status": "failed", "error": f"{NOT_RUN}: {outcome.lost}"}


class Once:
    """Tells each notice a single time."""

    def __init__(self, talk: Talk) -> None:
        self._talk, self._told = talk, set[str]()

    def __call__(self, notice: str) -> None:
        """Passes it on, unless it was told before."""
        if notice not in self._told:
            self._told.add(notice)
            self._talk.notice(notice)


def as_notice(error: Exception) -> str:
    """An error as a notice has it."""
    return error.message if isinstance(error, SpecbenchError) else repr(error)
