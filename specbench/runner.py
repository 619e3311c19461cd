"""Runs a scenario's cases and turns what happened into rows.

Order: repeat by repeat, block by block. A block is everything that differs in method and γ alone; in
it all cases are interleaved sample by sample, A B C … then … C B A, so that drift of the machine hits
all of them alike, γ = 0 too. Each finished round over a block's cases is a part on disk.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from specbench.audio import check_length
from specbench.cuda.requirements import check_cooperative_launch, require
from specbench.engine.batch import Generation, Request
from specbench.engine.decoding import Decoding, Execution
from specbench.engine.model import CausalModel
from specbench.engine.native import NativeEngine
from specbench.engine.speech import FRAME_S, SpeechModel
from specbench.errors import InputError, MachineError
from specbench.memory import check_fits
from specbench.pairs import (
    Pair,
    PairSpec,
    audio_extractor,
    check_available,
    get_pair,
    load_pair,
    pair_kind,
)
from specbench.report.writer import RunWriter
from specbench.sampling.names import POLICIES, SIGMOID_RANGE
from specbench.sampling.policy import GammaPolicy, make_policy
from specbench.sampling.registry import get_method
from specbench.scenario import Case, Scenario
from specbench.tasks.asr import SpeechRecognition
from specbench.tasks.base import ASR, AUTO, Sample, choose, get_task
from specbench.telemetry.environment import cpu_model
from specbench.telemetry.flops import (
    draft_tokens,
    model_flops_utilisation,
    peak_flops,
    target_tokens,
)
from specbench.telemetry.nvml import NvmlSampler, cuda_uuid
from specbench.telemetry.spans import SpanRecorder, Spans

Row = dict[str, Any]
MOST_FEATURES = 512
"""Features of so many utterances are kept, of Whisper a megabyte each."""


class Talk(Protocol):
    """Where the runner says what it does; the command line shows it."""

    def stage(self, text: str) -> None:
        """Something that takes a moment begins."""

    def notice(self, text: str) -> None:
        """Something the user should know."""

    def total(self, sequences: int) -> None:
        """So many sequences are to be decoded."""

    def advance(self, sequences: int, text: str) -> None:
        """So many more are done; `text` says which case is next."""


@dataclass
class Outcome:
    """What became of a run."""

    ok: int = 0
    failed: int = 0
    skipped: int = 0
    interrupted: bool = False
    errors: list[str] = field(default_factory=list)
    """The distinct reasons of failures, in order."""


@dataclass(frozen=True)
class Plan:
    """A scenario whose every name is known and whose every model can be had."""

    scenario: Scenario
    cases: list[Case]
    device: torch.device
    specs: dict[str, PairSpec]
    utterances: list[Sample] = field(default_factory=list)
    """The samples of the task asr, which may have come over a network."""
    speech_set: str | None = None
    """Name of the set that they are of."""


def plan(scenario: Scenario) -> Plan:
    """Checks everything that can be checked before a model is loaded.

    Raises:
        InputError: an unknown pair, task or method; more samples than the task has; no case that
            can run; weights that are not public.
        MachineError: no such device, or one that cannot run the kernels, the execution or a case's
            batch; a pair that cannot be had.
    """
    for method in scenario.method:
        get_method(method)
    for task in scenario.task:
        if task != AUTO:
            get_task(task, dataset=scenario.dataset)
    specs = {name: get_pair(name) for name in scenario.pair}
    device = resolve_device(scenario.device)
    for execution in scenario.execution:
        resolve_execution(execution, device)
    check_kernels(device)
    for spec in specs.values():
        if spec.kind is None:  # its own files say, which may have to be fetched
            check_available(spec, scenario.load_format)
    cases = scenario.cases({name: pair_kind(spec) for name, spec in specs.items()})
    if scenario.dataset is not None and not any(case.task == ASR for case in cases):
        raise InputError(
            f"dataset {scenario.dataset} is for the task {ASR}, and no case has it",
            "Give a pair that hears, such as whisper-large/whisper-tiny, or no dataset.",
        )
    if all(case.skip for case in cases):
        raise InputError(
            f"none of the {len(cases)} cases can run: {cases[0].skip}",
            "Change task, samples, batch_size or gamma.",
        )
    for task in {case.task for case in cases if not case.skip} - {ASR}:
        choose(get_task(task), "demo", scenario.samples, scenario.seed)
    for spec in specs.values():
        check_available(spec, scenario.load_format)
        check_fits(spec, cases, device, scenario.load_format)
    utterances, speech_set = _utterances(scenario, cases, specs)
    if scenario.dataset is not None and Path(scenario.dataset).expanduser().is_dir():
        # A run may be resumed from another directory.
        folder = str(Path(scenario.dataset).expanduser().resolve())
        scenario = scenario.model_copy(update={"dataset": folder})
        cases = [case if case.dataset is None else replace(case, dataset=folder) for case in cases]
    return Plan(scenario, _without_twins(cases, device), device, specs, utterances, speech_set)


def _utterances(
    scenario: Scenario, cases: Sequence[Case], specs: Mapping[str, PairSpec]
) -> tuple[list[Sample], str | None]:
    """The samples of the task asr, none if no case has it, and the name of their set.

    Each pair hears them to their end.
    """
    pairs = {case.pair for case in cases if case.task == ASR and not case.skip}
    if not pairs:
        return [], None
    task = get_task(ASR, dataset=scenario.dataset)
    assert isinstance(task, SpeechRecognition)
    task.check_available()
    window = min(audio_extractor(specs[pair]).chunk_length for pair in pairs)
    found = task.pick(scenario.samples, scenario.seed, window)
    check_length([sample.audio for sample in found if sample.audio], window)
    return found, task.fingerprint()


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


def resolve_execution(execution: str, device: torch.device) -> str:
    """ "auto" is "graphs" on a GPU and "eager" on a CPU.

    Raises:
        MachineError: graphs, or compiled code, which is captured too, were asked for on a CPU.
    """
    if execution == "auto":
        return "graphs" if device.type == "cuda" else "eager"
    if execution != "eager" and device.type != "cuda":
        raise MachineError(
            f"execution {execution!r} needs a CUDA GPU, and the device is {device}",
            "Give --execution eager or auto, or a GPU by --device cuda.",
        )
    return execution


def _without_twins(cases: Sequence[Case], device: torch.device) -> list[Case]:
    """Skips what "auto" makes the same as another case: the two would be summed as one."""
    seen: dict[Case, str] = {}
    found = []
    for case in cases:
        execution = resolve_execution(case.execution, device)
        dtype = "float32" if case.dtype == "auto" and device.type == "cpu" else case.dtype
        twin = replace(case, execution=execution, dtype=dtype)
        if case.skip is None and twin in seen:
            case = replace(case, skip=f"the same as {seen[twin]}, once auto is resolved")
        seen.setdefault(twin, case.case_id)
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


def execute(todo: Plan, writer: RunWriter, talk: Talk) -> Outcome:
    """Runs every case that is not skipped and not finished already; each block is written when done.

    A case that fails becomes rows with the reason; the others go on. Ctrl-C writes what is finished
    and returns with `interrupted` set.
    """
    outcome = Outcome()
    finished = writer.finished()
    skipped = [case for case in todo.cases if case.skip]
    outcome.skipped = len(skipped)
    writer.write([_skipped_row(todo, writer.run_id, case) for case in skipped])
    cases = [case for case in todo.cases if not case.skip]
    scenario = todo.scenario
    talk.total(len(cases) * scenario.samples * scenario.repeats)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(scenario.cpu_threads or threads)
        # Events are recorded in the current device's stream: it must be the one that works.
        with torch.cuda.device(todo.device) if todo.device.type == "cuda" else nullcontext():
            for (pair_name, dtype), group in itertools.groupby(cases, lambda c: (c.pair, c.dtype)):
                talk.stage(f"loading {pair_name}")
                spec = todo.specs[pair_name]
                pair = load_pair(spec, str(todo.device), dtype, scenario.load_format)
                _PairRun(todo, pair, list(group), writer, talk, outcome, finished).run()
    except KeyboardInterrupt:
        outcome.interrupted = True
    finally:
        torch.set_num_threads(threads)
    return outcome


class _PairRun:
    """The cases of one loaded pair."""

    def __init__(
        self,
        todo: Plan,
        pair: Pair,
        cases: list[Case],
        writer: RunWriter,
        talk: Talk,
        outcome: Outcome,
        finished: set[tuple[str, int, str]],
    ) -> None:
        self.todo, self.pair, self.cases, self.writer = todo, pair, cases, writer
        self.talk, self.outcome, self.finished = talk, outcome, finished
        model = SpeechModel if pair.kind == "speech" else CausalModel
        self.engine = NativeEngine(
            model(pair.target), model(pair.draft), pair.eos_tokens, pair.suppressed
        )
        self.tasks = {
            case.task: get_task(case.task, case.prompt_tokens, case.dataset) for case in cases
        }
        self.samples = {name: self._choose(name) for name in self.tasks}
        self.longest = {
            name: max(len(pair.prompt(sample)) for sample in samples)
            for name, samples in self.samples.items()
        }
        """Tokens of the longest prompt of each task."""
        self.features: dict[str, torch.Tensor] = {}
        self.recorder = SpanRecorder(todo.device)
        self.told: set[str] = set()

    def _choose(self, name: str) -> list[Sample]:
        task, scenario = self.tasks[name], self.todo.scenario
        if isinstance(task, SpeechRecognition):
            task.use_spelling(
                getattr(self.pair.tokenizer, "english_spelling_normalizer", None) or {}
            )
            return self.todo.utterances
        return choose(task, self.pair.spec.prompt_style, scenario.samples, scenario.seed)

    def run(self) -> None:
        """Measures block by block; the NVML sampler runs meanwhile."""
        with NvmlSampler(cuda_uuid(self.todo.device)) as self.nvml:
            works, reason = self.nvml.available()
            if not works:
                self.talk.notice(reason)
            for repeat in range(self.todo.scenario.repeats):
                for _, block in itertools.groupby(self.cases, _block_key):
                    self._run_block(list(block), repeat)

    def _run_block(self, block: list[Case], repeat: int) -> None:
        policies = {case.case_id: make_policy(case.gamma) for case in block}
        self._reserve(block)
        if repeat == 0:
            self.talk.stage("warming up")
            self._warm_up(block)
        for index, batch in enumerate(self._batches(block[0])):
            rows: list[Row] = []
            try:
                for case in block if (index + repeat) % 2 == 0 else block[::-1]:
                    if not self._is_finished(case, repeat, batch):
                        rows += self._run_batch(case, policies[case.case_id], repeat, index, batch)
                    self.talk.advance(len(batch), f"{case.method} γ={case.gamma}")
            finally:
                self.writer.write(rows)

    def _run_batch(
        self, case: Case, policy: GammaPolicy, repeat: int, index: int, batch: Sequence[Sample]
    ) -> list[Row]:
        rows = [self._base_row(case, repeat, index, sample) for sample in batch]
        failure: Row | None = None
        try:
            self._reset_peak_memory()
            requests = [self._request(case, sample, repeat) for sample in batch]
            generations = self._decode(case, policy, requests)
            self._tell_refusals()
            spans = self.recorder.spans()
            machine = self._machine(spans, requests, generations)
            for i, row in enumerate(rows):
                row |= machine | self._result(case, requests[i], generations[i], batch[i], spans, i)
        except Exception as error:  # whatever a method of another package or a model may raise
            failure = _failure(error)
        if failure is not None:  # here, where the error no longer holds the memory of what failed
            self.engine.release()
            rows = [self._base_row(case, repeat, index, sample) | failure for sample in batch]
        self._count(case, rows)
        return rows

    def _tell_refusals(self) -> None:
        for refusal in self.engine.refusals:
            if refusal not in self.told:
                self.told.add(refusal)
                self.talk.notice(refusal)

    def _decode(
        self, case: Case, policy: GammaPolicy, requests: Sequence[Request]
    ) -> list[Generation]:
        decoding = Decoding(
            self._new_tokens(case), case.temperature, case.top_k, case.top_p,
            case.sigmoid_range or SIGMOID_RANGE,
        )  # fmt: skip
        return self.engine.generate(
            requests, get_method(case.method), policy, decoding, self.recorder,
            Execution(
                resolve_execution(case.execution, self.todo.device), case.attention,
                case.synthetic_acceptance,
            ),
            case.batch_size,
        )  # fmt: skip

    def _warm_up(self, block: Sequence[Case]) -> None:
        """First launches, captures and lazy imports, outside every figure.

        What a block captures it keeps until another size of batch takes the memory; what has to be
        captured again in a later repeat is cut out of the figures by the engine's own mark.
        """
        for case in block:
            batch = next(self._batches(case))
            for _ in range(self.todo.scenario.warmup):
                try:
                    requests = [self._request(case, sample, 0) for sample in batch]
                    self._decode(case, make_policy(case.gamma), requests)
                except Exception:
                    continue  # The measured run meets it again and records it.

    def _reserve(self, block: Sequence[Case]) -> None:
        """Memory for the longest prompt and the largest γ at once, lest it grow from case to case."""
        case = block[0]
        most_drafts = max(make_policy(one.gamma).limit for one in block)
        tokens = self.longest[case.task] + self._new_tokens(case) + most_drafts
        with suppress(torch.OutOfMemoryError):  # each case meets it again, and records it
            self.engine.reserve(case.batch_size, tokens, most_drafts)

    def _batches(self, case: Case) -> Iterator[list[Sample]]:
        """What is decoded by one call: a batch, or with refill everything."""
        samples = self.samples[case.task]
        size = len(samples) if case.refill else case.batch_size
        for first in range(0, len(samples), size):
            yield samples[first : first + size]

    def _is_finished(self, case: Case, repeat: int, batch: Sequence[Sample]) -> bool:
        """A γ policy carries its state from sample to sample: its repeat is done as a whole."""
        needed = self.samples[case.task] if case.gamma in POLICIES else batch
        return all((case.case_id, repeat, sample.sample_id) in self.finished for sample in needed)

    def _request(self, case: Case, sample: Sample, repeat: int) -> Request:
        """The seed depends on sample and repeat, not on method or γ: all methods meet the same luck."""
        prompt = self.pair.prompt(sample)
        limit = self.engine.max_positions
        if limit is not None and len(prompt) + self._new_tokens(case) > limit:
            raise InputError(
                f"{len(prompt)} prompt tokens and {case.max_new_tokens} new ones exceed the models' "
                f"{limit} positions",
                "Lower max_new_tokens.",
            )
        text = f"{self.todo.scenario.seed}/{sample.sample_id}/{repeat}"
        digest = hashlib.sha256(text.encode()).digest()
        return Request(prompt, int.from_bytes(digest[:8], "big") >> 1, self._features(sample))

    def _new_tokens(self, case: Case) -> int:
        """A decoder of speech writes no more than it has positions for, whatever it may."""
        limit = self.engine.max_positions
        if self.pair.kind == "text" or limit is None:
            return case.max_new_tokens
        return min(case.max_new_tokens, limit - self.longest[case.task])

    def _features(self, sample: Sample) -> torch.Tensor | None:
        """Made when first heard, and kept: every method and γ hears the same."""
        if self.pair.kind == "text":
            return None
        if sample.sample_id not in self.features:
            if len(self.features) >= MOST_FEATURES:
                self.features.clear()
            self.features[sample.sample_id] = self.pair.features(sample)
        return self.features[sample.sample_id]

    def _base_row(self, case: Case, repeat: int, index: int, sample: Sample) -> Row:
        return _case_row(self.todo, self.writer.run_id, case) | {
            "sample_id": sample.sample_id,
            "repeat": repeat,
            "batch_index": index,
            "reference": sample.reference,
            "audio_s": self._audio_seconds(sample),
            "dtype": str(self.engine.target.dtype).removeprefix("torch."),
        }

    def _audio_seconds(self, sample: Sample) -> float | None:
        """What a pair of dummies hears is as long as its window."""
        if sample.audio is not None:
            return sample.audio.seconds
        if isinstance(self.engine.target, SpeechModel):
            return self.engine.target.frames * FRAME_S
        return None

    def _result(
        self,
        case: Case,
        request: Request,
        generation: Generation,
        sample: Sample,
        spans: Spans,
        sequence: int,
    ) -> Row:
        if generation.error:
            return {"status": "failed", "error": generation.error}
        text = self.pair.decode(generation.tokens)
        score = self.tasks[case.task].score(text, sample)
        return (
            _counts(request, generation)
            | _times(generation, spans, sequence)
            | {
                "status": "ok",
                "hypothesis": text,
                "metric": score.metric,
                "metric_value": score.value,
                "metric_weight": score.weight,
                "metrics": score.metrics,
                "target_logprob": self._log_probability(case, request, generation),
            }
        )

    def _machine(
        self, spans: Spans, requests: Sequence[Request], generations: Sequence[Generation]
    ) -> Row:
        """What the machine did meanwhile; the batch's energy is shared equally by its sequences."""
        window = self.nvml.window(spans.start_s, spans.start_s + spans.wall_s + spans.capture_s)
        if spans.capture_s:
            window["energy_j"] = None  # the counter has the captures in it
        if window.get("energy_j") is not None:
            window["energy_j"] /= len(requests)
        if self.todo.device.type == "cuda":
            window["peak_memory_bytes"] = torch.cuda.max_memory_allocated(self.todo.device)
        return window | {"mfu": self._utilisation(spans, requests, generations)}

    def _utilisation(
        self, spans: Spans, requests: Sequence[Request], generations: Sequence[Generation]
    ) -> float | None:
        """MFU of the batch, see `telemetry.flops`."""
        dtype = str(self.engine.target.dtype).removeprefix("torch.")
        fed = [
            (len(request.prompt), generation.step_gamma)
            for request, generation in zip(requests, generations, strict=True)
        ]
        work = [
            (self.engine.target.parameters, sum(target_tokens(*one) for one in fed)),
            (self.engine.draft.parameters, sum(draft_tokens(*one) for one in fed)),
            *self._heard(generations),
        ]
        peak = peak_flops(device_name(self.todo.device), dtype)
        return model_flops_utilisation(work, spans.wall_s, peak)

    def _heard(self, generations: Sequence[Generation]) -> list[tuple[int, int]]:
        """Parameters and frames of the encoders: the draft's too, if it has its own and drafted."""
        target, draft = self.engine.target, self.engine.draft
        if not (isinstance(target, SpeechModel) and isinstance(draft, SpeechModel)):
            return []
        drafts = any(any(generation.step_gamma) for generation in generations)
        models = [target, draft] if drafts and draft.encoder is not target.encoder else [target]
        return [(one.encoder_parameters, one.frames * len(generations)) for one in models]

    def _count(self, case: Case, rows: list[Row]) -> None:
        for row in rows:
            if row["status"] == "ok":
                self.outcome.ok += 1
                continue
            self.outcome.failed += 1
            reason = f"{case.method} γ={case.gamma}: {row['error']}"
            if reason not in self.outcome.errors:
                self.outcome.errors.append(reason)

    def _reset_peak_memory(self) -> None:
        if self.todo.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.todo.device)

    def _log_probability(
        self, case: Case, request: Request, generation: Generation
    ) -> float | None:
        """None where the tokens are noise."""
        if case.load_format == "dummy" or case.synthetic_acceptance is not None:
            return None
        try:
            return self.engine.log_probability(request, generation.tokens)
        except torch.OutOfMemoryError:  # what was measured stands
            return None


def _block_key(case: Case) -> tuple[Any, ...]:
    return (
        case.task, case.engine, case.execution, case.attention, case.batch_size, case.temperature,
    )  # fmt: skip


def _case_row(todo: Plan, run_id: str, case: Case) -> Row:
    spec = todo.specs[case.pair]
    alpha, beta = case.sigmoid_range or (None, None)
    lengths = case.prompt_tokens
    return {
        "run_id": run_id,
        "case_id": case.case_id,
        "scenario": todo.scenario.name,
        "pair": case.pair,
        "target": _model_name(spec.target),
        "draft": _model_name(spec.draft),
        "task": case.task,
        "dataset": todo.speech_set if case.task == ASR else get_task(case.task).dataset,
        "method": case.method,
        "implementation": get_method(case.method).implementation_on(todo.device),
        "engine": case.engine,
        "attention": case.attention,
        "execution": resolve_execution(case.execution, todo.device),
        "load_format": case.load_format,
        "synthetic_acceptance": case.synthetic_acceptance,
        "prompt_lengths": ",".join(map(str, lengths)) if lengths else None,
        "refill": case.refill,
        "gamma": case.gamma,
        "batch_size": case.batch_size,
        "temperature": case.temperature,
        "top_k": case.top_k,
        "top_p": case.top_p,
        "sigmoid_alpha": alpha,
        "sigmoid_beta": beta,
        "max_new_tokens": case.max_new_tokens,
        "dtype": case.dtype,
        "device_name": device_name(todo.device),
        "seed": todo.scenario.seed,
    }


def _model_name(model: str) -> str:
    """The last two parts of a folder; a hub name is that already."""
    return "/".join(Path(model).parts[-2:])


def _skipped_row(todo: Plan, run_id: str, case: Case) -> Row:
    return _case_row(todo, run_id, case) | {"status": "skipped", "error": case.skip, "repeat": 0}


def _failure(error: Exception) -> Row:
    return {"status": "failed", "error": f"{type(error).__name__}: {error}"}


def _counts(request: Request, generation: Generation) -> Row:
    return {
        "prompt_tokens": len(request.prompt),
        "new_tokens": len(generation.tokens),
        "finish_reason": generation.finish_reason,
        "verify_steps": len(generation.step_drafted),
        "drafted": sum(generation.step_drafted),
        "accepted": sum(generation.step_accepted),
        "first_step": generation.first_step,
        "step_gamma": generation.step_gamma,
        "step_drafted": generation.step_drafted,
        "step_accepted": generation.step_accepted,
    }


def _times(generation: Generation, spans: Spans, sequence: int) -> Row:
    """The sequence's own times, those of the batch's steps in which it ran, and the batch's."""
    start_s = spans.admitted_s[sequence]
    first = generation.first_step
    own = slice(first, first + len(generation.step_drafted))
    step_end_s = spans.step_end_s[own]
    return {
        "start_s": start_s,
        "wall_s": spans.finished_s[sequence] - start_s,
        "ttft_s": step_end_s[0] - start_s,
        "step_random_us": spans.random_us[own],
        "step_draft_us": spans.draft_us[own],
        "step_target_us": spans.target_us[own],
        "step_verify_us": spans.verify_us[own],
        "step_commit_us": spans.commit_us[own],
        "step_end_s": step_end_s,
        "draft_s": sum(spans.draft_us[own]) / 1e6,
        "target_s": sum(spans.target_us[own]) / 1e6,
        "verify_s": sum(spans.verify_us[own]) / 1e6,
        "batch_wall_s": spans.wall_s,
        "prefill_s": spans.prefill_s,
        "capture_s": spans.capture_s,
        "gpu_s": spans.gpu_s,
        "host_gap_s": None if spans.gpu_s is None else spans.wall_s - spans.gpu_s,
    }
