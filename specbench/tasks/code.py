"""Python functions from their docstring: HumanEval, or problems of its format; run in a sandbox."""

from __future__ import annotations

import os
from collections.abc import Sequence

from specbench.demo.prompts import code_prompt
from specbench.sandbox import Problem, Verdict, isolation, judge_all
from specbench.tasks.base import CODE, DEMO, Answer, PromptStyle, Sample, Score
from specbench.tasks.completions import FENCE, STOPS, completion
from specbench.tasks.text_sets import Text, find_text_set

MOST_WORKERS = 4
"""Completions that are judged at once: each takes two processes and their memory."""


class Code:
    """Problems with tests: the embedded ones, HumanEval, or a file of its format.

    Args:
        dataset: "demo" or None for the embedded ones, "humaneval", or the path of a file (see
            `text_sets.TextFile`).

    Raises:
        InputError: it is none of these.
    """

    name = CODE
    stops = (*STOPS, FENCE)
    summary = "docstring -> Python function, HumanEval's format; pass@k, run in a sandbox"

    def __init__(self, dataset: str | None = None) -> None:
        self._set = find_text_set(CODE, dataset)
        self.dataset = "demo-problems" if dataset is None or dataset == DEMO else dataset
        self._allow_unsandboxed = False
        self._verdicts: dict[tuple[Problem, str], Verdict] = {}

    def check_available(self) -> None:
        """Makes sure that the problems can be had, before any model is loaded.

        Raises:
            InputError: a file cannot be read, or its columns are not HumanEval's.
            MachineError: the hub cannot be reached.
        """
        self._set.check_available()

    def check_sandbox(self, allow_unsandboxed: bool) -> str:
        """Which isolation runs what a model writes, tried out; see `sandbox.isolation`.

        Args:
            allow_unsandboxed: whether to run it without walls where there are none, now and later.

        Raises:
            MachineError: there are none, and that was not allowed.
        """
        self._allow_unsandboxed = allow_unsandboxed
        return isolation(allow_unsandboxed)

    def fingerprint(self) -> str:
        """The set's name; of a file its own, and a digest that tells it from others of that name."""
        return self._set.fingerprint()

    def samples(self, prompt_style: PromptStyle = "instruction") -> list[Sample]:
        """All problems; errors as `check_available`."""
        return [_sample(item, prompt_style) for item in self._set.items()]

    def pick(
        self, count: int, seed: int, prompt_style: PromptStyle = "instruction"
    ) -> list[Sample]:
        """`count` problems without repetition; a larger count begins with the smaller one's.

        Raises:
            InputError, MachineError: as `check_available`, or there are fewer.
        """
        return [_sample(item, prompt_style) for item in self._set.pick(count, seed)]

    def answer(self, output: str, sample: Sample) -> Answer:
        """What is judged of an output, see `completions.completion`."""
        return completion(output, _problem(sample))

    def score(self, hypothesis: str, sample: Sample) -> Score:
        """As `score_all`."""
        return self.score_all([(hypothesis, sample)])[0]

    def score_all(self, answers: Sequence[tuple[str, Sample]]) -> list[Score]:
        """pass@1 of each answer: 1 if the problem's test passes, else 0; the mean is the corpus figure.

        The same code is run once: greedy decoding writes it again and again.

        Raises:
            MachineError: the sandbox cannot be started.
        """
        jobs = [(_problem(sample), hypothesis) for hypothesis, sample in answers]
        new = [job for job in dict.fromkeys(jobs) if job not in self._verdicts]
        if new:
            found = judge_all(new, workers=_workers(), allow_unsandboxed=self._allow_unsandboxed)
            self._verdicts |= dict(zip(new, found, strict=True))
        return [_score(self._verdicts[job]) for job in jobs]


def _sample(item: Text, style: PromptStyle) -> Sample:
    """Plain models go on behind the prompt as it stands."""
    prompt = item["prompt"]
    question = (
        "Complete this Python function. Answer with the whole function in one block of code."
        f"\n\n```python\n{prompt.strip()}\n```"
    )
    return Sample(
        item["id"],
        code_prompt(prompt) if style == "demo" else prompt,
        item.get("canonical_solution", ""),
        question=question,
        problem=Problem(prompt, item["test"], item["entry_point"]),
    )


def _problem(sample: Sample) -> Problem:
    assert sample.problem is not None
    return sample.problem


def _score(verdict: Verdict) -> Score:
    value = float(verdict.passed)
    return Score("pass@1", value, 1.0, {"pass@1": value}, verdict.reason)


def _workers() -> int:
    return min(MOST_WORKERS, len(os.sched_getaffinity(0)))
