"""What a task is, and where the known ones are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from specbench.errors import InputError, unknown_name

PromptStyle = Literal["demo", "instruction"]
"""How a pair wants to be asked: the embedded pair's own separators, or plain words."""


@dataclass(frozen=True)
class Sample:
    """One item of a data set: what the model reads, and what a good answer is."""

    sample_id: str
    prompt: str
    reference: str


@dataclass(frozen=True)
class Score:
    """The quality of one output.

    Attributes:
        metric: name of the headline metric; None if this version cannot score the task.
        value: its value for this output.
        weight: the corpus figure is the mean weighted by this.
        metrics: every metric by name, the headline too.
    """

    metric: str | None = None
    value: float | None = None
    weight: float | None = None
    metrics: Mapping[str, float] | None = None


class Task(Protocol):
    """A data set with a prompt and a metric."""

    name: str
    dataset: str
    summary: str

    def samples(self, prompt_style: PromptStyle) -> list[Sample]:
        """All items in a fixed order, their prompts as the pair wants to be asked."""

    def score(self, hypothesis: str, sample: Sample) -> Score:
        """How good an output is."""


_TASKS = {
    "summarization": "specbench.tasks.summarization:Summarization",
    "code": "specbench.tasks.code:Code",
}


def task_names() -> list[str]:
    """The names of all tasks."""
    return list(_TASKS)


def get_task(name: str) -> Task:
    """The task of that name.

    Raises:
        InputError: there is none; the nearest name is suggested.
    """
    if name not in _TASKS:
        raise unknown_name("task", name, _TASKS)
    module, _, attribute = _TASKS[name].partition(":")
    task: Task = getattr(import_module(module), attribute)()
    return task


def choose(task: Task, prompt_style: PromptStyle, count: int, seed: int) -> list[Sample]:
    """`count` samples without repetition; which ones depends on the seed alone.

    Raises:
        InputError: the task has fewer.
    """
    everything = task.samples(prompt_style)
    if count > len(everything):
        raise InputError(
            f"{count} samples asked, {task.dataset} has {len(everything)}",
            f"Give --samples {len(everything)} or fewer.",
        )
    order = np.random.default_rng(seed).permutation(len(everything))
    return [everything[i] for i in order[:count]]


def read_jsonl(path: Path) -> list[dict[str, str]]:
    """The objects of a JSON-lines file."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]
