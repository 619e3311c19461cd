"""What a task is, and where the known ones are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from specbench.audio import Clip
from specbench.errors import InputError, unknown_name

PromptStyle = Literal["demo", "instruction"]
"""How a pair wants to be asked: the embedded pair's own separators, or plain words."""


PairKind = Literal["text", "speech"]
"""What a pair takes in: it reads, or it hears."""


@dataclass(frozen=True)
class Sample:
    """One item of a data set: what the model reads or hears, and what a good answer is.

    `prompt_length` is the prompt's tokens where it is nothing but a length, and is filled at random.
    """

    sample_id: str
    prompt: str
    reference: str
    prompt_length: int | None = None
    audio: Clip | None = None


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
    """What a prompt asks for, and a metric. A task is also one of the two below."""

    name: str
    dataset: str
    summary: str

    def score(self, hypothesis: str, sample: Sample) -> Score:
        """How good an output is."""


@runtime_checkable
class StoredTask(Task, Protocol):
    """A task with a data set."""

    def samples(self, prompt_style: PromptStyle) -> list[Sample]:
        """All items in a fixed order, their prompts as the pair wants to be asked."""


@runtime_checkable
class MadeTask(Task, Protocol):
    """A task whose samples are made, as many as are asked for."""

    def make(self, count: int, seed: int) -> list[Sample]:
        """`count` samples, which depend on the seed alone."""


@runtime_checkable
class LargeTask(StoredTask, Protocol):
    """A task whose data set may be too large to be read as a whole."""

    def pick(self, count: int, seed: int, longest: float | None = None) -> list[Sample]:
        """As `choose`; of a set that is nobody's to mend, what is over `longest` seconds is left out."""

    def check_available(self) -> None:
        """Raises InputError or MachineError if the data set cannot be had."""


SYNTHETIC, ASR = "synthetic", "asr"
AUTO = "auto"
"""Whatever suits the pair: `default_task`."""
PROMPT_TOKENS: Mapping[PairKind, int] = {"text": 512, "speech": 4}
"""Length of a synthetic prompt where none is asked for; a speech model gets little but sound."""

_TASKS = {
    "summarization": "specbench.tasks.summarization:Summarization",
    "code": "specbench.tasks.code:Code",
    ASR: "specbench.tasks.asr:SpeechRecognition",
    SYNTHETIC: "specbench.tasks.synthetic:Synthetic",
}


def task_names() -> list[str]:
    """The names of all tasks."""
    return list(_TASKS)


def kinds_of(task: str) -> tuple[PairKind, ...]:
    """The kinds of pairs that a task can be given to."""
    if task == SYNTHETIC:
        return "text", "speech"
    return ("speech",) if task == ASR else ("text",)


def default_task(kind: PairKind, dummy: bool = False) -> str:
    """What a pair does if nothing else is asked of it; random weights know no text."""
    if dummy:
        return SYNTHETIC
    return ASR if kind == "speech" else "summarization"


def get_task(
    name: str, prompt_tokens: Sequence[int] | None = None, dataset: str | None = None
) -> StoredTask | MadeTask:
    """The task of that name.

    Args:
        name: one of `task_names()`.
        prompt_tokens: lengths of the prompts of `synthetic`, None for its own; other tasks ignore it.
        dataset: of `asr`, a known set or a folder, None for the embedded one; other tasks ignore it.

    Raises:
        InputError: there is no such task or data set; the nearest name is suggested.
    """
    if name not in _TASKS:
        raise unknown_name("task", name, _TASKS)
    module, _, attribute = _TASKS[name].partition(":")
    options: tuple[Any, ...] = ()
    if name == SYNTHETIC and prompt_tokens:
        options = (tuple(prompt_tokens),)
    elif name == ASR:
        options = (dataset,)
    task: StoredTask | MadeTask = getattr(import_module(module), attribute)(*options)
    return task


def choose(
    task: StoredTask | MadeTask, prompt_style: PromptStyle, count: int, seed: int
) -> list[Sample]:
    """`count` samples without repetition; which ones depends on the seed alone.

    Raises:
        InputError: the task has fewer.
    """
    if isinstance(task, MadeTask):
        return task.make(count, seed)
    if isinstance(task, LargeTask):
        return task.pick(count, seed)
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
