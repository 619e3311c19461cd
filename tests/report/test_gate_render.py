from __future__ import annotations

import io
import json
from pathlib import Path
from xml.etree import ElementTree as Xml

import numpy as np
import pytest
from rich.console import Console

from specbench.floors import GATES
from specbench.report.findings import Rules
from specbench.report.gate import gate_runs
from specbench.report.gate_render import render_gate
from specbench.report.reader import read_run


@pytest.fixture
def gate(simulation, write_run):
    """fused 10 % slower, block not run any more, a new γ."""

    def make(strict=False, slowdown=0.10, gates=GATES, broken=None):
        machine = simulation.Machine(place=0.0, case_repeat=0.001, step=0.005, hiccup=0.0)
        design = simulation.Design(3, 4, machine=machine)
        old, new = (
            simulation.simulated_rows(design, np.random.default_rng(day), slow, 0, 0)
            for day, slow in ((1, 0.0), (2, slowdown))
        )
        old = [row for row in old if row["gamma"] in {"0", "4"}]
        new = [row for row in new if row["method"] != "block" and row["gamma"] in {"0", "4", "8"}]
        fails = {"status": "failed", "error": "no memory"}
        new = [row | (fails if row["method"] == broken else {}) for row in new]
        runs = [read_run(write_run(rows, methods={})) for rows in (old, new)]
        return gate_runs(runs[0], [runs[1]], Rules(frozenset(gates)), strict)

    return make


def rendered(gate, output_format):
    stream = io.StringIO()
    render_gate(gate, output_format, Console(file=stream, width=100))
    return stream.getvalue()


class TestTable:
    def test_begins_with_the_decision_and_then_the_worst(self, gate):
        text = rendered(gate(), "table")
        lines = [line for line in text.splitlines() if line]
        assert lines[0].startswith("gate failed: fused at γ = 4: verify_us / baseline +")
        first = next(
            line for line in lines if line.startswith(("slower", "inconclusive", "faster"))
        )
        assert first.split()[:3] == ["slower", "4", "fused"]

    def test_drops_nothing_that_does_not_match(self, gate):
        text = " ".join(rendered(gate(), "table").split())
        assert "inconclusive, not in the new run: block at γ = 0, block at γ = 4" in text
        assert (
            "nothing to hold it against: baseline at γ = 8, exact at γ = 8, fused at γ = 8" in text
        )

    @pytest.mark.parametrize("output_format", ["table", "markdown"])
    def test_failed_sequences_come_first(self, gate, output_format):
        text = rendered(gate(broken="exact"), output_format)
        assert text.lstrip("*").startswith("gate failed: exact at γ = 0: all 12 sequences failed: ")
        lines = [line.strip("| ") for line in text.splitlines()]
        row = next(line for line in lines if line.startswith(("failed", "slower", "same")))
        assert row.startswith("failed")
        assert "all 12 sequences failed: no memory" in row

    def test_counts_what_is_the_same_and_says_what_does_not_gate(self, gate):
        text = " ".join(rendered(gate(gates=["quality"]), "table").split())
        assert "same: " in text
        assert "not gating, as --fail-on has it: acceptance, slower" in text

    def test_markdown_has_every_line(self, gate):
        found = gate()
        text = rendered(found, "markdown")
        assert text.startswith("**gate failed: ")
        rows = [line for line in text.splitlines() if line.startswith("|")]
        assert len(rows) == 2 + len(found.verdicts)


class TestJson:
    def test_the_schema(self, gate):
        found = json.loads(rendered(gate(), "json"), parse_constant=pytest.fail)
        assert found["schema"] == "specbench.gate/1"
        assert (found["decision"], found["exit_code"], found["level"]) == ("failed", 1, 0.99)
        verdict = found["verdicts"][0]
        assert (verdict["verdict"], verdict["fails"], verdict["gates"]) == ("slower", True, True)
        what = verdict["metric"], verdict["over"], verdict["method"]
        assert what == ("verify_us", "baseline", "fused")
        assert 0.03 < verdict["low"] < verdict["change"] < verdict["high"]
        assert verdict["change"] == pytest.approx(0.10, abs=0.02)
        assert (verdict["floor"], verdict["floor_from"]) == (pytest.approx(0.03), "rules")
        assert (verdict["repeats"], verdict["samples"]) == (3, 4)
        assert verdict["key"]["gamma"] == "4"

    def test_documented_fields_are_those_there_are(self, gate):
        text = (Path(__file__).parents[2] / "docs" / "statistics.md").read_text(encoding="utf-8")
        found = json.loads(rendered(gate(), "json"))
        for name in [*found, *found["verdicts"][0]]:
            assert f"`{name}`" in text, name

    def test_failed_sequences(self, gate):
        found = json.loads(rendered(gate(broken="exact"), "json"))["verdicts"][0]
        assert (found["verdict"], found["fails"], found["gates"]) == ("failed", True, True)
        assert found["why"] == ["all 12 sequences failed: no memory"]
        assert found["change"] is found["new"] is None

    def test_what_is_not_known_is_null(self, gate):
        found = json.loads(rendered(gate(), "json"))
        missing = [v for v in found["verdicts"] if v["method"] == "block"]
        assert {v["verdict"] for v in missing} == {"inconclusive"}
        assert all(v["change"] is v["low"] is v["p"] is None for v in missing)


class TestJunit:
    @pytest.mark.parametrize("strict", [False, True])
    def test_is_xml_with_a_case_for_each_figure_that_gates(self, gate, strict):
        found = gate(strict)
        root = Xml.fromstring(rendered(found, "junit"))
        suite = root.find("testsuite")
        cases = suite.findall("testcase")
        assert root.tag == "testsuites"
        assert len(cases) == int(suite.get("tests")) == len(found.gating)
        assert len({(case.get("classname"), case.get("name")) for case in cases}) == len(cases)
        failed = [case for case in cases if case.find("failure") is not None]
        skipped = [case for case in cases if case.find("skipped") is not None]
        assert (len(failed), len(skipped)) == (
            int(suite.get("failures")),
            int(suite.get("skipped")),
        )
        unclear = sum(verdict.verdict == "inconclusive" for verdict in found.gating)
        assert len(skipped) == (0 if strict else unclear)
        assert unclear > 0
        assert failed[0].find("failure").get("message").startswith("slower: verify_us / baseline")

    def test_failed_sequences_fail_by_a_name_of_their_own(self, gate):
        root = Xml.fromstring(rendered(gate(broken="exact", gates=["quality"]), "junit"))
        failures = [case for case in root.iter("testcase") if case.find("failure") is not None]
        assert {case.get("name").partition(" (")[0] for case in failures} == {
            "exact γ=0 failed sequences", "exact γ=4 failed sequences"
        }  # fmt: skip
        about = failures[0].find("failure").attrib
        assert about == {"type": "failed", "message": "failed: all 12 sequences failed: no memory"}

    def test_an_error_with_control_characters_is_still_xml(self, gate):
        found = gate()
        found.notes.append("\x1b[31m<bad> & \x00 worse")
        told = Xml.fromstring(rendered(found, "junit")).findall(".//system-out")[-1].text
        assert "[31m<bad> &  worse" in told
