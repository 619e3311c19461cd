"""Where reports may go, and that nobody's file is lost."""

from __future__ import annotations

import os

import pytest

from specbench.errors import InputError
from specbench.report.output import check_target, write_whole

MAKER = "specbench report"


def test_a_new_name_an_empty_file_and_an_earlier_report_may_be_written(tmp_path):
    path = tmp_path / "report.html"
    check_target(path, MAKER)
    path.touch()
    check_target(path, MAKER)
    write_whole(path, b"<meta content='specbench report 1'>")
    check_target(path, MAKER)
    write_whole(path, b"second")
    assert path.read_bytes() == b"second"
    assert list(tmp_path.iterdir()) == [path]


def test_any_other_file_stays(tmp_path):
    path = tmp_path / "thesis.html"
    path.write_text("three years of work")
    with pytest.raises(InputError, match=r"thesis\.html exists and was not made by"):
        check_target(path, MAKER)


def test_a_missing_folder_and_a_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        check_target(tmp_path / "no" / "report.html", MAKER)
    with pytest.raises(InputError, match="is a folder"):
        check_target(tmp_path, MAKER)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="no plain file"):
        check_target(tmp_path / "pipe", MAKER)


def test_what_the_system_refuses_is_a_sentence(tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        write_whole(tmp_path / "gone" / "report.html", b"")
