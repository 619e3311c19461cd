"""Runs a scenario's cases and turns what happened into rows.

Order: repeat by repeat, block by block. A block is everything that differs in method and γ alone; in
it all cases are interleaved sample by sample, A B C … then … C B A, so that drift of the machine hits
all of them alike, γ = 0 too. Each finished round over a block's cases is a part on disk.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from specbench.engine.batch import Generation, Request
from specbench.engine.decoding import Decoding, Execution
from specbench.engine.model import CausalModel
from specbench.engine.native import NativeEngine
from specbench.engine.speech import FRAME_S, SpeechModel
from specbench.errors import InputError
from specbench.pairs import Pair, load_pair
from specbench.planning import Plan, device_name, resolve_execution
from specbench.report.writer import RunWriter
from specbench.rows import Row, case_row, counts, failure_row, skipped_row, times
from specbench.sampling.names import POLICIES, SIGMOID_RANGE
from specbench.sampling.policy import GammaPolicy, make_policy
from specbench.sampling.registry import get_method
from specbench.scenario import Case
from specbench.tasks.asr import SpeechRecognition
from specbench.tasks.base import Sample, choose, get_task
from specbench.telemetry.flops import (
    draft_tokens,
    model_flops_utilisation,
    peak_flops,
    target_tokens,
)
from specbench.telemetry.nvml import NvmlSampler, cuda_uuid
from specbench.telemetry.spans import SpanRecorder, Spans

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


def execute(todo: Plan, writer: RunWriter, talk: Talk) -> Outcome:
    """Runs every case that is not skipped and not finished already; each block is written when done.

    A case that fails becomes rows with the reason; the others go on. Ctrl-C writes what is finished
    and returns with `interrupted` set.
    """
    outcome = Outcome()
    finished = writer.finished()
    skipped = [case for case in todo.cases if case.skip]
    outcome.skipped = len(skipped)
    writer.write([skipped_row(todo, writer.run_id, case) for case in skipped])
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
            failure = failure_row(error)
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
        return case_row(self.todo, self.writer.run_id, case) | {
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
            counts(request, generation)
            | times(generation, spans, sequence)
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
