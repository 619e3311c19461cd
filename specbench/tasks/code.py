"""Python functions from their docstring, in HumanEval's format."""

from __future__ import annotations

from specbench.assets import demo_dir
from specbench.demo.prompts import code_prompt
from specbench.tasks.base import PromptStyle, Sample, Score, read_jsonl


class Code:
    """The embedded problems. Their outputs are kept but not scored: that needs a sandbox."""

    name = "code"
    dataset = "demo-problems"
    summary = "docstring -> Python function, HumanEval's format; not scored in this version"

    def samples(self, prompt_style: PromptStyle) -> list[Sample]:
        """All held-out problems; plain models complete the prompt as it stands."""
        prompt = code_prompt if prompt_style == "demo" else str
        return [
            Sample(row["task_id"], prompt(row["prompt"]), row["canonical_solution"])
            for row in read_jsonl(demo_dir() / "code.jsonl")
        ]

    def score(self, hypothesis: str, sample: Sample) -> Score:
        """No figure: pass@1 means running what a model wrote."""
        return Score()
