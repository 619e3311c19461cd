"""Progress without a terminal: lines, but few."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from specbench.cli.progress import LONGEST_S, PAUSE_S, Lines


@pytest.fixture
def lines():
    file, now = io.StringIO(), [0.0]
    found = Lines(Console(file=file), lambda: now[0])

    def at(time_s):
        now[0] = time_s
        return found

    at.said = lambda: file.getvalue().splitlines()
    return at


def test_a_first_stage_is_said_at_once_and_later_ones_after_a_pause(lines):
    lines(0).stage("loading a")
    lines(1).stage("warming up")
    lines(PAUSE_S).stage("loading b")
    assert lines.said() == ["loading a", "loading b"]


@pytest.mark.parametrize("step_s", [0.01, 1.0, PAUSE_S, 2 * LONGEST_S])
def test_each_tenth_but_not_too_often_and_never_silent_for_long(lines, step_s):
    lines(0).stage("loading")
    for done in range(1, 101):
        lines(done * step_s).count(done * 100, 10_000, "sequences")
    said, took_s = lines.said(), 100 * step_s
    assert len(said) <= 1 + min(took_s / PAUSE_S, 10 + took_s / LONGEST_S, 100)
    assert len(said) >= 1 + min(took_s // LONGEST_S, 100)
    if step_s == PAUSE_S:
        assert said[1] == "600 of 10,000 sequences, 6 %"


def test_nothing_is_said_on_a_terminal():
    file = io.StringIO()
    Lines(Console(file=file, force_terminal=True)).stage("loading")
    assert file.getvalue() == ""
