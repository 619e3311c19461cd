"""The errors a user may meet, and the exit codes that scripts and CI jobs may rely on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path


class ExitCode(IntEnum):
    """Stable exit codes of the `specbench` command."""

    OK = 0
    REGRESSION = 1
    """A regression, or a method that claims to be exact and is not."""
    USAGE = 2
    """Wrong use, or an environment that cannot do what was asked."""
    NOT_COMPARABLE = 3
    INCONCLUSIVE = 4
    """Under `--strict` only."""
    FAILED_CASES = 5
    """Some cases failed; the rest was written."""
    INTERRUPTED = 130
    """By Ctrl-C, or by SIGTERM."""


class SpecbenchError(Exception):
    """Something the user can mend: what was wrong (with the value), and what to do about it.

    Args:
        message: one sentence that names the argument or file, its value and what was expected.
        hint: the next thing to type or to look at; None if the message already says it.
    """

    exit_code: ExitCode = ExitCode.USAGE

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if hint:  # a traceback shows it in a line of its own; `str` is the message alone
            self.add_note(f"hint: {hint}")


class InputError(SpecbenchError, ValueError):
    """An argument, option, scenario or file has a value that cannot be used."""


class MachineError(SpecbenchError):
    """This machine cannot do what was asked: no network, no GPU, a missing package."""


class NotComparableError(SpecbenchError):
    """The results have no case in common."""

    exit_code = ExitCode.NOT_COMPARABLE


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a `name` that is no `kind`, suggesting the nearest known one."""
    names = sorted(known)
    hint = (
        f"{nearest(name, names)}`specbench list {kind}s` shows what there is: {', '.join(names)}."
    )
    return InputError(f"unknown {kind} {name!r}", hint)


def nearest(name: str, known: Iterable[str]) -> str:
    """ "Did you mean 'x'? " for the known name most like `name`; empty if none is."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f"Did you mean {found[0]!r}? " if found else ""


def given_path(text: str | Path) -> Path:
    """A path that a user gave, `~` expanded; whether there is something is for the caller to ask.

    Raises:
        InputError: this system can have no such path, or does not let this user look.
    """
    try:
        path = Path(text).expanduser()
        path.exists()
    except (OSError, ValueError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        shown = str(text) if len(str(text)) <= 80 else f"{str(text)[:77]}..."
        raise InputError(f"{shown!r} cannot be read: {reason}", "Check the path.") from None
    return path
