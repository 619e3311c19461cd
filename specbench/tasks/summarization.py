"""Summarization of Python functions: source in, first line of the docstring out; ROUGE."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from specbench.assets import demo_dir
from specbench.demo.prompts import summarization_prompt
from specbench.tasks.base import PromptStyle, Sample, Score, read_jsonl

METRICS = ("rouge1", "rouge2", "rougeL")


class Summarization:
    """The embedded functions of Python's standard library; none was seen in training."""

    name = "summarization"
    dataset = "stdlib-functions"
    summary = "Python function -> first line of its docstring; ROUGE-1/2/L (F1)"

    def samples(self, prompt_style: PromptStyle) -> list[Sample]:
        """All held-out functions."""
        prompt = summarization_prompt if prompt_style == "demo" else _instruction
        return [
            Sample(row["id"], prompt(row["source"]), row["reference"])
            for row in read_jsonl(demo_dir() / "summarization.jsonl")
        ]

    def score(self, hypothesis: str, sample: Sample) -> Score:
        """ROUGE F1 by rouge-score with stemming, as the summarization papers report it."""
        scores = self._scorer.score(sample.reference, hypothesis)
        values = {name: float(scores[name].fmeasure) for name in METRICS}
        return Score("rouge1", values["rouge1"], 1.0, values)

    @cached_property
    def _scorer(self) -> Any:
        from rouge_score.rouge_scorer import RougeScorer

        return RougeScorer(list(METRICS), use_stemmer=True)


def _instruction(source: str) -> str:
    return f"{source}\n\n# In one short sentence, the function above does the following:\n#"
