"""Summarization: XSum, CNN/DailyMail, or Python functions by the first line of their docstring; ROUGE."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from specbench.demo.prompts import document_prompt, shorten
from specbench.tasks.base import DEMO, SUMMARIZATION, PromptStyle, Sample, Score
from specbench.tasks.text_sets import Text, find_text_set

METRICS = ("rouge1", "rouge2", "rougeL")


class Summarization:
    """Documents with summaries: the embedded functions, a set of the hub, or a file.

    The embedded ones are functions of Python's standard library; none was seen in training.

    Args:
        dataset: "demo" or None for the embedded ones, "xsum", "cnn-dailymail", or the path of a file
            (see `text_sets.TextFile`).

    Raises:
        InputError: it is none of these.
    """

    name = SUMMARIZATION
    summary = (
        "document -> summary, or Python function -> first line of its docstring; ROUGE-1/2/L (F1)"
    )

    def __init__(self, dataset: str | None = None) -> None:
        self._set = find_text_set(SUMMARIZATION, dataset)
        self._embedded = dataset is None or dataset == DEMO
        self.dataset = "stdlib-functions" if self._embedded else str(dataset)

    def check_available(self) -> None:
        """Makes sure that the documents can be had, before any model is loaded.

        Raises:
            InputError: a file cannot be read, or its columns are nobody's; there is no such data set.
            MachineError: the hub cannot be reached, or the data set is gated.
        """
        self._set.check_available()

    def fingerprint(self) -> str:
        """The set's name; of a file its own, and a digest that tells it from others of that name."""
        return self._set.fingerprint()

    def samples(self, prompt_style: PromptStyle = "instruction") -> list[Sample]:
        """All documents; of a hub set the whole split: `pick` takes less.

        Raises:
            InputError, MachineError: as `check_available`.
        """
        return self._asked(self._set.items(), prompt_style)

    def pick(
        self, count: int, seed: int, prompt_style: PromptStyle = "instruction"
    ) -> list[Sample]:
        """`count` documents without repetition; a larger count begins with the smaller one's.

        Raises:
            InputError, MachineError: as `check_available`, or there are fewer.
        """
        return self._asked(self._set.pick(count, seed), prompt_style)

    def score(self, hypothesis: str, sample: Sample) -> Score:
        """ROUGE F1 by rouge-score with stemming, as the summarization papers report it."""
        scores = self._scorer.score(sample.reference, hypothesis)
        values = {name: float(scores[name].fmeasure) for name in METRICS}
        return Score("rouge1", values["rouge1"], 1.0, values)

    def _asked(self, items: Sequence[Text], style: PromptStyle) -> list[Sample]:
        return [self._sample(item, style) for item in items]

    def _sample(self, item: Text, style: PromptStyle) -> Sample:
        """Plain models go on behind "Summary:", as in the code of 2406.11016; behind a function, behind
        a comment that says so. A chat template has a question in it."""
        document, length = item["document"].strip("\n"), self._set.layout.length
        if self._embedded:
            document = shorten(document) if style == "demo" else document
            plain = (
                f"{document}\n\n# In one short sentence, the function above does the following:\n#"
            )
            question = (
                f"Say {length} what this Python function does. Answer with that sentence alone."
                f"\n\n```python\n{document}\n```"
            )
        else:
            plain = f"{document} Summary:"
            question = (
                f"Summarize this article {length}. Answer with the summary alone.\n\n{document}"
            )
        prompt = document_prompt(document) if style == "demo" else plain
        return Sample(
            item["id"], prompt, item["summary"], question=question, document=document, kept=1.0
        )

    @cached_property
    def _scorer(self) -> Any:
        from rouge_score.rouge_scorer import RougeScorer

        return RougeScorer(list(METRICS), use_stemmer=True)
