"""What `specbench compare --baseline` prints: a table of verdicts, markdown, JSON or JUnit's XML."""

from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree as Xml

from rich.console import Console
from rich.text import Text

from specbench.report.evidence import LEVEL
from specbench.report.gate import Gate
from specbench.report.reader import Run
from specbench.report.render import page
from specbench.report.sheet import print_sheet, to_markdown
from specbench.report.verdict import INCONCLUSIVE, Verdict
from specbench.report.verdict_render import verdict_sheet, verdicts_json

JSON_SCHEMA = "specbench.gate/1"
"""docs/statistics.md describes it; a field that is removed or changes its meaning raises the number."""


def render_gate(gate: Gate, output_format: str = "table", console: Console | None = None) -> None:
    """Prints what the gate found.

    Args:
        output_format: "table" (for a terminal), "markdown", "json" or "junit".
    """
    console = console or page()
    if output_format == "table":
        console.print(Text(gate.sentence, "bold"), soft_wrap=True)
        console.print()
        print_sheet(verdict_sheet(gate.verdicts, _captions(gate), whole=False), console)
        return
    sheet = verdict_sheet(gate.verdicts, _captions(gate), whole=True)
    texts = {
        "markdown": lambda: f"**{gate.sentence}**\n\n{to_markdown(sheet)}",
        "json": lambda: to_json(gate),
        "junit": lambda: to_junit(gate),
    }
    console.file.write(texts[output_format]() + "\n")


def _captions(gate: Gate) -> list[str]:
    found = [f"reference {_named(run)}" for run in gate.references]
    found += [f"run {_named(run)}" for run in gate.runs]
    found += gate.notes
    others = sorted({v.finding.metric.gate for v in gate.verdicts} - gate.gates)
    if others:
        found.append(f"not gating, as --fail-on has it: {', '.join(others)}")
    for run in gate.runs:
        listed = [
            f"{c['label']} at γ = {c['gamma']}{' (failed)' if c['error'] else ''}"
            for c in gate.alone
            if c["run_id"] == run.run_id
        ]
        if listed:
            found.append(f"only in {run.run_id}, nothing to hold it against: {', '.join(listed)}")
    return found


def _named(run: Run) -> str:
    return f"{run.run_id}: {run.path.name}, {run.metadata.get('created_utc', 'undated')}"


def to_json(gate: Gate) -> str:
    """The gate with all its figures unrounded; what is not known is null."""
    content = {
        "schema": JSON_SCHEMA,
        "decision": gate.decision,
        "exit_code": int(gate.exit_code),
        "sentence": gate.sentence,
        "fail_on": sorted(gate.gates),
        "strict": gate.strict,
        "level": LEVEL,
        "references": [_run_json(run) for run in gate.references],
        "runs": [_run_json(run) for run in gate.runs],
        "verdicts": verdicts_json(gate.verdicts),
        "only_in_runs": gate.alone,
        "notes": gate.notes,
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)


def _run_json(run: Run) -> dict[str, Any]:
    names = [
        "created_utc",
        "scenario_name",
        "preset",
        "device_name",
        "driver",
        "git_sha",
        "kernel_hash",
    ]
    about = {name: run.metadata.get(name) for name in names}
    return {"run_id": run.run_id, "path": str(run.path), **about}


def to_junit(gate: Gate) -> str:
    """One test case for each figure that gates, and for each case that failed: slower, worse and failed
    fail, inconclusive is skipped, or under --strict fails."""
    gating = gate.gating
    unclear = [v for v in gating if v.verdict == INCONCLUSIVE]
    failed = [v for v in gating if v.fails] + (unclear if gate.strict else [])
    skipped = [] if gate.strict else unclear
    counts = {"tests": len(gating), "failures": len(failed), "errors": 0, "skipped": len(skipped)}
    numbers = {name: str(value) for name, value in counts.items()}
    root = Xml.Element("testsuites", {"name": "specbench compare", **numbers})
    suite = Xml.SubElement(root, "testsuite", {"name": gate.references[0].path.name, **numbers})
    for verdict in gating:
        _test_case(suite, verdict, verdict in failed)
    Xml.SubElement(suite, "system-out").text = _clean("\n".join([gate.sentence, *_captions(gate)]))
    Xml.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + Xml.tostring(root, encoding="unicode")


def _test_case(suite: Xml.Element, verdict: Verdict, fails: bool) -> None:
    found = verdict.finding
    figure = "all figures" if found.estimate is None and not found.over else found.figure
    figure = "failed sequences" if found.failed else figure
    name = f"{found.label} γ={found.key['gamma']} {figure} ({found.run_id})"
    case = Xml.SubElement(
        suite, "testcase", {"classname": _clean(found.where), "name": _clean(name)}
    )
    if fails:
        about = {"type": verdict.verdict, "message": _clean(verdict.reason)}
        Xml.SubElement(case, "failure", about).text = _clean(verdict.reason)
    elif verdict.verdict == INCONCLUSIVE:
        Xml.SubElement(case, "skipped", {"message": _clean(verdict.reason)})
    else:
        Xml.SubElement(case, "system-out").text = _clean(verdict.reason)


def _clean(text: str) -> str:
    """Without the control characters that XML cannot hold: an error of a driver may have them."""
    return "".join(c for c in text if c in "\t\n" or (c >= " " and c not in "\ufffe\uffff"))
