"""What a task is, and where the known ones are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np

from specbench.audio import Clip
from specbench.errors import InputError, given_path, nearest, unknown_name
from specbench.sandbox import Problem

PromptStyle = Literal["demo", "instruction"]
"""How a pair wants to be asked: the embedded pair's own separators, or plain words."""


PairKind = Literal["text", "speech"]
"""What a pair takes in: it reads, or it hears."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Sample:
    """One item of a data set: what the model reads or hears, and what a good answer is.

    Attributes:
        prompt: the text that a model goes on from.
        prompt_length: the prompt's tokens where it is nothing but a length, and is filled at random.
        question: the same prompt for a model that has a chat template; empty if there is none.
        document: the part of both that may be shortened at its end where a model has too few positions;
            empty if nothing may be left out.
        kept: the share of the document's characters that is left of it; None if there is no document.
        completion: which of several completions of the item is asked for.
        problem: what a completion is run with, if it is code.
    """

    sample_id: str
    prompt: str
    reference: str
    prompt_length: int | None = None
    audio: Clip | None = None
    question: str = ""
    document: str = ""
    kept: float | None = None
    completion: int = 0
    problem: Problem | None = None


@dataclass(frozen=True)
class Score:
    """The quality of one output.

    Attributes:
        metric: name of the headline metric; None if this version cannot score the task.
        value: its value for this output.
        weight: the corpus figure is the mean weighted by this.
        metrics: every metric by name, the headline too.
        verdict: of code that was run, "passed" or why not.
    """

    metric: str | None = None
    value: float | None = None
    weight: float | None = None
    metrics: Mapping[str, float] | None = None
    verdict: str | None = None


@dataclass(frozen=True)
class Answer:
    """The part of an output that is scored.

    Attributes:
        ended: whether the output shows where it ends.
        final: whether it has ended for good: nothing that may follow is or changes it.
    """

    text: str
    ended: bool
    final: bool = False


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
    """A task of several data sets, which may be too large to be read as a whole, or far away."""

    def pick(
        self, count: int, seed: int, prompt_style: PromptStyle = "instruction"
    ) -> list[Sample]:
        """As `choose`."""

    def check_available(self) -> None:
        """Raises InputError or MachineError if the data set cannot be had."""

    def fingerprint(self) -> str:
        """A name that tells the data set from others."""


@runtime_checkable
class JudgedTask(Task, Protocol):
    """A task whose outputs have to be run to be scored: many at once, and outside of all timing.

    Attributes:
        stops: literal texts; an answer becomes final with the last character of one of them.
    """

    stops: Sequence[str]

    def answer(self, output: str, sample: Sample) -> Answer:
        """The part of an output that is scored; `output` has its white space."""

    def score_all(self, answers: Sequence[tuple[str, Sample]]) -> list[Score]:
        """How good each answer is, in their order."""


SYNTHETIC, ASR, SUMMARIZATION, CODE = "synthetic", "asr", "summarization", "code"
DEMO = "demo"
"""The embedded data set of a task."""
AUTO = "auto"
"""Whatever suits the pair: `default_task`."""
PROMPT_TOKENS: Mapping[PairKind, int] = {"text": 512, "speech": 4}
"""Length of a synthetic prompt where none is asked for; a speech model gets little but sound."""

_TASKS = {
    SUMMARIZATION: "specbench.tasks.summarization:Summarization",
    CODE: "specbench.tasks.code:Code",
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


def default_task(kind: PairKind, dummy: bool = False, dataset: str | None = None) -> str:
    """What a pair does if nothing else is asked of it: what the data set is for, if the pair can.

    Random weights know no text.
    """
    if dummy:
        return SYNTHETIC
    if kind == "speech":
        return ASR
    return CODE if dataset is not None and dataset_tasks(dataset) == (CODE,) else SUMMARIZATION


def dataset_tasks(dataset: str) -> tuple[str, ...]:
    """The tasks that a data set is for: a known name's own, a folder's and a file's by what they hold.

    What is not known, or cannot be read, is left to all of them to refuse.
    """
    everything = (ASR, SUMMARIZATION, CODE)
    if dataset == DEMO:
        return everything
    if dataset in (known := hub_datasets()):
        return (known[dataset],)
    path = given_path(dataset)
    if path.is_dir():
        return (ASR,)
    if not path.is_file():
        return everything
    found: tuple[str, ...] = import_module("specbench.tasks.text_sets").tasks_of(path)
    return found or (SUMMARIZATION, CODE)


def hub_datasets() -> dict[str, str]:
    """The data sets that are known by a name, and the task of each."""
    speech: Sequence[str] = import_module("specbench.tasks.speech_sets").HUB_SETS
    texts: dict[str, str] = import_module("specbench.tasks.text_sets").KNOWN
    return dict.fromkeys(speech, ASR) | texts


def get_task(
    name: str, prompt_tokens: Sequence[int] | None = None, dataset: str | None = None
) -> StoredTask | MadeTask:
    """The task of that name.

    Args:
        name: one of `task_names()`.
        prompt_tokens: lengths of the prompts of `synthetic`, None for its own; other tasks ignore it.
        dataset: a known set, a file of texts or a folder of speech; None for the task's embedded one.
            `synthetic` ignores it.

    Raises:
        InputError: there is no such task or data set; the nearest name is suggested.
    """
    if name not in _TASKS:
        raise unknown_name("task", name, _TASKS)
    module, _, attribute = _TASKS[name].partition(":")
    options: tuple[Any, ...] = ()
    if name == SYNTHETIC and prompt_tokens:
        options = (tuple(prompt_tokens),)
    elif name != SYNTHETIC:
        options = (dataset,)
    task: StoredTask | MadeTask = getattr(import_module(module), attribute)(*options)
    return task


def check_dataset(dataset: str) -> None:
    """Makes sure, before a task is chosen, that there is a data set of that name, a file or a folder.

    Raises:
        InputError: there is none; the nearest name is suggested.
    """
    known = hub_datasets()
    if dataset == DEMO or dataset in known or given_path(dataset).exists():
        return
    what = "texts (.jsonl, .jsonl.gz, .parquet) or a folder of audio"
    if len(Path(dataset).parts) != 1 or Path(dataset).suffix:
        raise InputError(
            f"dataset {dataset!r}: there is no such file or folder", f"Give a file of {what}."
        )
    of = "; ".join(
        f"for {task} {', '.join(name for name in known if known[name] == task)}"
        for task in dict.fromkeys(known.values())
    )
    raise InputError(
        f"unknown dataset {dataset!r}",
        f"{nearest(dataset, [DEMO, *known])}There are {of}; {DEMO}, the embedded one of each task; or "
        f"give a file of {what}.",
    )


def unknown_dataset(dataset: str, task: str, instead: str) -> InputError:
    """The error for a data set that is no name, with the nearest of all and those of the task.

    Args:
        instead: what else can be given: "a folder".
    """
    known = hub_datasets()
    own = [DEMO, *(name for name, owner in known.items() if owner == task)]
    return InputError(
        f"unknown dataset {dataset!r}",
        f"{nearest(dataset, [DEMO, *known])}For {task} there are {', '.join(own)}, or give {instead}.",
    )


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
        return task.pick(count, seed, prompt_style)
    return drawn(task.samples(prompt_style), count, seed, task.dataset)


def drawn(everything: Sequence[Item], count: int, seed: int, where: str) -> list[Item]:
    """`count` items without repetition; a larger count begins with the smaller one's.

    Raises:
        InputError: there are fewer.
    """
    if count > len(everything):
        raise too_few(where, count, len(everything))
    order = np.random.default_rng(seed).permutation(len(everything))
    return [everything[i] for i in order[:count]]


def too_few(where: str, count: int, available: int) -> InputError:
    """The error for more samples than there are."""
    return InputError(
        f"{count} samples asked, {where} has {available}",
        f"Give --samples {available} or fewer.",
    )
