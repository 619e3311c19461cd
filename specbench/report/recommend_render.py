"""What `specbench recommend` prints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd
from rich.console import Console

from specbench.report.candidates import Candidate
from specbench.report.recommend import Recommendation
from specbench.report.recommend_text import sentence, sheet
from specbench.report.render import page
from specbench.report.sheet import print_sheet, to_markdown


def render(
    found: Sequence[Recommendation], output_format: str, console: Console | None = None
) -> None:
    """Prints recommendations.

    Args:
        output_format: "table" (for a terminal), "markdown" or "json".
    """
    console = console or page()
    if output_format == "json":
        console.file.write(to_json(found) + "\n")
        return
    for one in found:
        if output_format == "markdown":
            console.file.write(to_markdown(sheet(one)) + "\n\n")
        else:
            print_sheet(sheet(one), console)


def to_json(found: Sequence[Recommendation]) -> str:
    """Everything unrounded; what is not known is null."""
    return json.dumps([_as_dict(one) for one in found], indent=2, ensure_ascii=False)


def _as_dict(found: Recommendation) -> dict[str, Any]:
    equal = {id(one) for one in found.equal}
    return {
        "key": found.key,
        "verdict": found.verdict,
        "sentence": sentence(found),
        "best": _candidate_dict(found.best) if found.best else None,
        "among": found.among,
        "speedup_of_best_among": _known(vars(found.selected)),
        "equal": [_candidate_dict(one) for one in found.candidates if id(one) in equal],
        "candidates": [_candidate_dict(one) for one in found.candidates],
        "not_measured": _known(vars(found.unmeasured)) if found.unmeasured else None,
        "plain_tokens_per_s": _number(found.plain_tokens_per_s),
        "doubts": found.doubts,
    }


def _candidate_dict(one: Candidate) -> dict[str, Any]:
    names = ["run_id", "pair", "target", "draft", "label", "method", "gamma", "exact", "metric"]
    rates = ["tokens_per_s", "tau", "alpha", "verify_share", "quality"]
    return {
        **_known({name: one.line[name] for name in names}),
        **_known({name: one.line[name] for name in rates}),
        "speedup": _known(vars(one.speedup)),
        "predicted": _known(vars(one.prediction)),
        "quality_change": _known(vars(one.quality)),
        "excluded": one.excluded or None,
    }


def _known(values: dict[str, Any]) -> dict[str, Any]:
    return {name: _number(value) for name, value in values.items()}


def _number(value: Any) -> Any:
    return None if pd.isna(value) else value
