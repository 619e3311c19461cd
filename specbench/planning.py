"""Checks everything that can be checked of a scenario before a model is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch

from specbench.audio import check_length
from specbench.cuda.requirements import check_cooperative_launch, require
from specbench.errors import InputError, MachineError, given_path
from specbench.memory import check_fits
from specbench.pairs import (
    PairSpec,
    audio_extractor,
    check_available,
    check_chat_template,
    get_pair,
    pair_kind,
)
from specbench.sampling.registry import get_method
from specbench.sandbox import isolation
from specbench.scenario import Case, Scenario
from specbench.tasks.asr import SpeechRecognition
from specbench.tasks.base import (
    ASR,
    AUTO,
    CODE,
    DEMO,
    LargeTask,
    Sample,
    choose,
    dataset_tasks,
    get_task,
    hub_datasets,
)
from specbench.tasks.code import Code
from specbench.telemetry.environment import cpu_model


@dataclass(frozen=True)
class Plan:
    """A scenario whose every name is known and whose every model can be had."""

    scenario: Scenario
    cases: list[Case]
    device: torch.device
    specs: dict[str, PairSpec]
    utterances: list[Sample] = field(default_factory=list)
    """The samples of the task asr, which may have come over a network."""
    texts: dict[str, LargeTask] = field(default_factory=dict)
    """The tasks of text by name; what was picked from afar is kept in them."""
    datasets: dict[str, str] = field(default_factory=dict)
    """Names of the sets that the tasks' samples are of."""
    notices: list[str] = field(default_factory=list)
    """What the user should know before the run."""
    lacks: list[MachineError] = field(default_factory=list)
    """Why this machine cannot run it; none but in a plan for any machine."""


@dataclass
class _Machine:
    """What this machine lacks: an error, or where the plan is for any machine a note."""

    any_other: bool
    lacks: list[MachineError] = field(default_factory=list)

    @contextmanager
    def asked(self) -> Iterator[None]:
        """Around a question to the machine."""
        try:
            yield
        except MachineError as error:
            if not self.any_other:
                raise
            if error.message not in [lack.message for lack in self.lacks]:
                self.lacks.append(error)


def plan(scenario: Scenario, any_machine: bool = False) -> Plan:
    """Checks everything that can be checked before a model is loaded.

    Args:
        any_machine: whether what this machine lacks is noted in `Plan.lacks` instead of raised. A pair
            whose kind only its files tell must be at hand all the same.

    Raises:
        InputError: an unknown pair, task, method or data set; more samples than the task has; no case
            that can run; weights that are not public; no chat template where one is asked for.
        MachineError: no such device, or one that cannot run the kernels, the execution or a case's
            batch; a pair or a data set that cannot be had; no sandbox, and code is all there is to do.
    """
    for method in scenario.method:
        get_method(method)
    for task in scenario.task:
        if task != AUTO:
            get_task(task, dataset=_given(scenario, task))
    specs = {name: get_pair(name) for name in scenario.pair}
    machine = _Machine(any_machine)
    device = _device(scenario, machine)
    if "transformers" in scenario.engine:
        # Here, since it is slow to import, and may not be one that is known.
        from specbench.engine.assisted import check_transformers

        with machine.asked():
            check_transformers()
    for spec in specs.values():
        if spec.kind is None:  # its own files say, which may have to be fetched
            check_available(spec, scenario.load_format)
    cases = scenario.cases({name: pair_kind(spec) for name, spec in specs.items()})
    if scenario.dataset is not None and all(case.dataset is None for case in cases):
        raise InputError(
            f"dataset {scenario.dataset} is for the task {dataset_tasks(scenario.dataset)[0]}, and no "
            "case has it",
            "Give a pair that can do it (whisper-large/whisper-tiny hears), or no dataset.",
        )
    if all(case.skip for case in cases):
        raise InputError(
            f"none of the {len(cases)} cases can run: {cases[0].skip}",
            _way_out(cases, specs),
        )
    notices: list[str] = []
    with machine.asked():
        cases, notices = _judged(scenario, cases)
    texts = _texts(scenario, cases, machine)
    for spec in specs.values():
        with machine.asked():
            check_available(spec, scenario.load_format)
            if not machine.lacks:  # else another's memory counts
                check_fits(spec, cases, device, scenario.load_format)
            if scenario.chat_template and scenario.load_format == "auto":
                check_chat_template(spec)
    utterances, datasets = _utterances(scenario, cases, specs, machine)
    datasets |= {name: task.fingerprint() for name, task in texts.items()}
    if scenario.dataset is not None and _is_path(scenario.dataset):
        # A run may be resumed from another directory.
        path = str(given_path(scenario.dataset).resolve())
        scenario = scenario.model_copy(update={"dataset": path})
        cases = [case if case.dataset is None else replace(case, dataset=path) for case in cases]
    cases = _without_twins(cases, device)
    return Plan(
        scenario, cases, device, specs, utterances, texts, datasets, notices, machine.lacks
    )  # fmt: skip


def _way_out(cases: Sequence[Case], specs: Mapping[str, PairSpec]) -> str:
    """What to change where every case is skipped."""
    heard = {case.task == ASR for case in cases}
    kinds = {pair_kind(spec) for spec in specs.values()}
    if heard == {True} and kinds == {"text"}:
        return "Give a pair that hears: --pair demo-asr, which is embedded; or another task."
    if heard == {False} and kinds == {"speech"}:
        return "Give --task asr, or a pair that reads: --pair demo-lm, which is embedded."
    return "Change task, samples, batch_size or gamma."


def _device(scenario: Scenario, machine: _Machine) -> torch.device:
    """The device, which can do what is asked of it; a GPU elsewhere if this machine's cannot."""
    if scenario.device == "cpu":  # then no other machine can either
        return _able_device(scenario)
    with machine.asked():
        return _able_device(scenario)
    return torch.device("cuda")


def _able_device(scenario: Scenario) -> torch.device:
    device = resolve_device(scenario.device)
    for execution in scenario.execution:
        resolve_execution(execution, device)
    check_kernels(device)
    return device


def _given(scenario: Scenario, task: str) -> str | None:
    """The scenario's data set, if it is for that task."""
    dataset = scenario.dataset
    return dataset if dataset is not None and task in dataset_tasks(dataset) else None


def _is_path(dataset: str) -> bool:
    return dataset not in (DEMO, *hub_datasets()) and given_path(dataset).exists()


def _judged(scenario: Scenario, cases: list[Case]) -> tuple[list[Case], list[str]]:
    """The cases, those of code skipped where what a model writes cannot be run; and what to say of it.

    Raises:
        MachineError: no case would be left.
    """
    if not any(case.task == CODE and not case.skip for case in cases):
        return cases, []
    try:
        isolation(scenario.allow_unsandboxed_code)
    except MachineError as error:
        if all(case.skip or case.task == CODE for case in cases):
            raise
        found = [
            replace(case, skip=error.message) if case.task == CODE and not case.skip else case
            for case in cases
        ]
        return found, [f"the task {CODE} is skipped: {error.message}. {error.hint}"]
    return cases, []


def _texts(scenario: Scenario, cases: Sequence[Case], machine: _Machine) -> dict[str, LargeTask]:
    """The tasks of text that a case has, after a look whether they have the samples."""
    found = {}
    for name in dict.fromkeys(case.task for case in cases if not case.skip):
        task = get_task(name, dataset=_given(scenario, name))
        if name == ASR or not isinstance(task, LargeTask):
            continue
        with machine.asked():
            if isinstance(task, Code):
                task.check_sandbox(scenario.allow_unsandboxed_code)
            task.check_available()
            choose(task, "demo", scenario.samples, scenario.seed)
            found[name] = task
    return found


def _utterances(
    scenario: Scenario, cases: Sequence[Case], specs: Mapping[str, PairSpec], machine: _Machine
) -> tuple[list[Sample], dict[str, str]]:
    """The samples of the task asr, none if no case has it, and the name of their set.

    Each pair hears them to their end.
    """
    pairs = {case.pair for case in cases if case.task == ASR and not case.skip}
    if not pairs:
        return [], {}
    task = get_task(ASR, dataset=_given(scenario, ASR))
    assert isinstance(task, SpeechRecognition)
    with machine.asked():
        task.check_available()
        window = min(audio_extractor(specs[pair]).chunk_length for pair in pairs)
        found = task.pick(scenario.samples, scenario.seed, longest=window)
        check_length([sample.audio for sample in found if sample.audio], window)
        return found, {ASR: task.fingerprint()}
    return [], {}


def resolve_device(name: str) -> torch.device:
    """ "auto" is the first GPU, or the CPU where there is none.

    Raises:
        InputError: no name of a device.
        MachineError: a GPU was asked for that is not there.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and not gpus):
        return torch.device("cpu")
    match = re.fullmatch(r"auto|cuda(?::([0-9]+))?", name)
    if match is None:
        raise InputError(f"device {name!r} is unknown", "Give auto, cpu, cuda or cuda:N.")
    index = int(match[1] or 0)
    if index >= gpus:
        raise MachineError(
            f"device {name!r} is not there: torch sees {gpus} GPUs",
            "`specbench doctor` says why; `--device cpu` runs without one.",
        )
    return torch.device("cuda", index)


def resolve_execution(execution: str, device: torch.device, engine: str = "native") -> str:
    """ "auto" is "graphs" for the native engine on a GPU, else "eager".

    Raises:
        MachineError: graphs, or compiled code, which is captured too, were asked for on a CPU.
    """
    if execution == "auto":
        return "graphs" if device.type == "cuda" and engine == "native" else "eager"
    if execution != "eager" and device.type != "cuda":
        raise MachineError(
            f"execution {execution!r} needs a CUDA GPU, and the device is {device}",
            "Give --execution eager or auto, or a GPU by --device cuda.",
        )
    return execution


def _without_twins(cases: Sequence[Case], device: torch.device) -> list[Case]:
    """Skips what "auto" makes the same as another case: the two would be summed as one."""
    seen: dict[Case, str] = {}  # what its own execution and dtype are called
    found = []
    for case in cases:
        execution = resolve_execution(case.execution, device, case.engine)
        dtype = "float32" if case.dtype == "auto" and device.type == "cpu" else case.dtype
        twin = replace(case, execution=execution, dtype=dtype)
        if case.skip is None and twin in seen:
            case = replace(case, skip=f"the same as {seen[twin]}, once auto is resolved")
        seen.setdefault(twin, f"execution {case.execution} in dtype {case.dtype}")
        found.append(case)
    return found


def check_kernels(device: torch.device) -> None:
    """Makes sure that a GPU can run the kernels, which every method needs there: they draw the tokens.

    Raises:
        MachineError: it cannot; nothing falls back to torch operations in silence.
    """
    if device.type != "cuda":
        return
    try:
        require()
        check_cooperative_launch(device.index)
    except MachineError as error:
        raise MachineError(
            f"{device} cannot run the CUDA kernels: {error.message}",
            f"`--device cpu` runs without them; to mend it: {error.hint}",
        ) from error


def device_name(device: torch.device) -> str:
    """The GPU's name, or the CPU's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return cpu_model() or "cpu"
