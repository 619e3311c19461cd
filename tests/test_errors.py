"""Errors: what scripts may rely on, and how a mistyped name is answered."""

from __future__ import annotations

import traceback

import pytest

from specbench.errors import (
    ExitCode,
    InputError,
    MachineError,
    NotComparableError,
    SpecbenchError,
    nearest,
    unknown_name,
)


def test_exit_codes_are_a_promise():
    promised = {
        "OK": 0, "REGRESSION": 1, "USAGE": 2, "NOT_COMPARABLE": 3, "INCONCLUSIVE": 4,
        "FAILED_CASES": 5, "INTERRUPTED": 130,
    }  # fmt: skip
    assert {code.name: int(code) for code in ExitCode} == promised


@pytest.mark.parametrize(
    ("error", "code"),
    [(SpecbenchError, 2), (InputError, 2), (MachineError, 2), (NotComparableError, 3)],
)
def test_every_error_is_one_of_ours_with_a_code(error, code):
    raised = error("what", "do this")
    assert isinstance(raised, SpecbenchError)
    assert (raised.message, raised.hint, str(raised)) == ("what", "do this", "what")
    assert raised.exit_code == code
    assert traceback.format_exception(raised)[-1] == "hint: do this\n"
    assert "hint" not in "".join(traceback.format_exception(error("what")))


def test_a_wrong_value_is_a_value_error_for_callers_of_the_library():
    with pytest.raises(ValueError, match="what"):
        raise InputError("what")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("fussed", "fused"), ("FUSED", None), ("blok", "block"), ("zzz", None), ("", None)],
)
def test_nearest(name, expected):
    suggestion = nearest(name, ["fused", "block", "exact"])
    assert suggestion == (f"Did you mean {expected!r}? " if expected else "")


def test_unknown_name_lists_what_there_is():
    error = unknown_name("method", "x\ny", ["b", "a"])
    assert error.message == r"unknown method 'x\ny'"
    assert error.hint == "`specbench list methods` shows what there is: a, b."
