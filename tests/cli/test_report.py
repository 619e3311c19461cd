"""`specbench report` from the command line: what it writes, what it refuses, its exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest

from specbench.cli.app import main
from specbench.cli.report import FIGURES
from specbench.report.figures import KINDS

REFERENCE = Path(__file__).parents[2] / "results" / "reference"
ASR, MICRO = REFERENCE / "asr-demo-h100.parquet", REFERENCE / "micro-gamma-h100.parquet"


@pytest.fixture
def report(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        code = main(["report", *map(str, argv)])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_a_page_of_a_run_and_a_micro_file(report, tmp_path):
    code, out, err = report(ASR, MICRO, "-o", "page.html")
    assert (code, out) == (0, "")
    assert err.startswith("wrote page.html (")
    text = (tmp_path / "page.html").read_text()
    assert text.startswith("<!doctype html>")
    assert 'content="specbench report' in text[:4096]


def test_the_name_if_none_is_given_and_again(report, tmp_path):
    assert report(MICRO)[0] == 0
    first = (tmp_path / "report.html").read_bytes()
    assert report(MICRO)[0] == 0
    assert (tmp_path / "report.html").read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_another_file_is_not_replaced(report, tmp_path):
    (tmp_path / "index.html").write_text("mine")
    code, _, err = report(MICRO, "-o", "index.html")
    assert code == 2
    assert "error: index.html exists" in err
    assert (tmp_path / "index.html").read_text() == "mine"


def test_a_result_file_is_never_taken_for_the_output(report, tmp_path):
    path = tmp_path / "run.parquet"
    path.write_bytes(MICRO.read_bytes())
    code, _, _ = report(MICRO, "-o", path)
    assert code == 2
    assert path.read_bytes() == MICRO.read_bytes()


def test_a_missing_folder_is_said_before_anything_is_read(report):
    code, _, err = report("nothing.parquet", "-o", "no/page.html")
    assert code == 2
    assert "error: there is no folder no" in err
    assert "hint: Make it first: mkdir -p no" in err


@pytest.mark.parametrize(
    ("suffix", "start"), [("svg", b"<?xml"), ("png", b"\x89PNG")], ids=["svg", "png"]
)
def test_single_figures(report, tmp_path, suffix, start):
    code, _, err = report(ASR, "--format", suffix, "--figure", "phases", "-o", f"one.{suffix}")
    assert (code, err.split(" (")[0]) == (0, f"wrote one.{suffix}")
    assert (tmp_path / f"one.{suffix}").read_bytes().startswith(start)


def test_all_figures_into_a_folder_in_the_dark(report, tmp_path):
    (tmp_path / "figures").mkdir()
    code, _, _ = report(ASR, MICRO, "--format", "svg", "--theme", "dark", "-o", "figures")
    assert code == 0
    written = list((tmp_path / "figures").iterdir())
    assert len(written) == 9
    assert all("#15181c" in path.read_text() for path in written)
    assert report(ASR, MICRO, "--format", "svg", "-o", "figures")[0] == 0  # replaces its own


def test_two_runs_with_the_same_cases_do_not_write_over_each_other(report, tmp_path):
    demo = REFERENCE / "demo-cpu.parquet"
    code, _, _ = report(
        demo, REFERENCE / "demo-h100.parquet", "--format", "svg", "--figure", "gamma-tau", "-o", "."
    )
    assert code == 0
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize(("name", "start"), [("one.svg", b"<?xml"), ("one.png", b"\x89PNG")])
def test_the_name_of_the_file_says_the_format(report, tmp_path, name, start):
    assert report(ASR, "--figure", "phases", "-o", name)[0] == 0
    assert (tmp_path / name).read_bytes().startswith(start)


@pytest.mark.parametrize("name", ["page", "page.pdf", "page.v2"])
def test_a_name_that_says_no_format_is_refused(report, tmp_path, name):
    code, _, err = report(ASR, "-o", name)
    assert code == 2
    assert f"error: {name} does not end in .html, .svg or .png" in err
    assert not (tmp_path / name).exists()
    assert report(ASR, "--format", "html", "-o", "page.svg")[0] == 2


def test_several_drawings_do_not_fit_one_file(report):
    code, _, err = report(ASR, "--format", "svg", "--figure", "phases,gpu", "-o", "one.svg")
    assert code == 2
    assert "2 drawings cannot go into the one file one.svg" in err


def test_an_unknown_figure_and_a_figure_without_data(report):
    code, _, err = report(ASR, "--format", "svg", "--figure", "phase")
    assert code == 2
    assert "Did you mean 'phases'? There are: gamma-speed" in err
    code, _, err = report(ASR, "--format", "svg", "--figure", "roofline")
    assert code == 3
    assert "roofline: it takes a file of `specbench micro`" in err


def test_a_wrong_ending_and_figure_without_a_format(report):
    code, _, err = report(ASR, "--format", "svg", "--figure", "phases", "-o", "one.png")
    assert code == 2
    assert "one.png does not end in .svg" in err
    assert report(ASR, "--figure", "phases")[0] == 2


def test_the_help_names_every_figure():
    assert FIGURES.split(", ") == list(KINDS)
