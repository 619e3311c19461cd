"""The cases of one loaded pair: blocks in turns, warm-up, batches, and what becomes of each."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch

from specbench import profiling
from specbench.engine.batch import Generation, Request
from specbench.engine.decoding import Decoding, Execution
from specbench.engine.model import CausalModel
from specbench.engine.native import NativeEngine
from specbench.engine.observer import Observer
from specbench.engine.speech import FRAME_S, SpeechModel
from specbench.engine.suppression import Suppression
from specbench.errors import InputError
from specbench.outcome import NOT_RUN, Once, Outcome, Talk, as_notice, not_run
from specbench.outputs import Engine, Outputs
from specbench.pairs import Pair, with_chat_template
from specbench.planning import Plan, resolve_execution
from specbench.report.writer import RunWriter, SequenceKey
from specbench.rows import Row, case_row, failure_row, utilisation
from specbench.sampling.names import POLICIES, SIGMOID_RANGE
from specbench.sampling.policy import GammaPolicy, make_policy
from specbench.sampling.registry import get_method
from specbench.scenario import Case
from specbench.tasks.asr import SpeechRecognition
from specbench.tasks.base import JudgedTask, Sample, choose, get_task
from specbench.telemetry.nvml import NvmlSampler, cuda_uuid
from specbench.telemetry.spans import SpanRecorder, Spans, uncollected
from specbench.telemetry.trace import StepTrace
from specbench.texts import ending, fit, shortened

MOST_FEATURES = 512
"""Features of so many utterances are kept, of Whisper a megabyte each."""


class PairRun:
    """The cases of one loaded pair.

    Args:
        finished: sequences that an earlier process has decoded.
    """

    def __init__(
        self,
        todo: Plan,
        pair: Pair,
        cases: list[Case],
        writer: RunWriter,
        talk: Talk,
        outcome: Outcome,
        finished: set[SequenceKey],
    ) -> None:
        self.todo, self.cases, self.writer = todo, cases, writer
        self.pair = pair = with_chat_template(pair, todo.scenario.chat_template)
        self.talk, self.outcome, self.finished = talk, outcome, finished
        model = SpeechModel if pair.kind == "speech" else CausalModel
        self.models = model(pair.target), model(pair.draft)
        self.engines: dict[str, Engine] = {}
        self.engine = self._engine(cases[0].engine)
        self.tasks = {
            case.task: todo.texts.get(case.task)
            or get_task(case.task, case.prompt_tokens, case.dataset)
            for case in cases
        }
        self.samples = {name: self._prepare(name) for name in self.tasks}
        self.longest = {
            name: max(len(pair.prompt(sample)) for sample in samples)
            for name, samples in self.samples.items()
        }
        """Tokens of the longest prompt of each task."""
        self.features: dict[str, torch.Tensor] = {}
        self.recorder = SpanRecorder(todo.device)
        suppression = (
            Suppression(*pair.suppressed, self.models[0].vocab_size, todo.device)
            if any(pair.suppressed) else None
        )  # fmt: skip
        self.warm: set[tuple[Any, ...]] = set()
        """Blocks whose cases have all run once."""
        self._tell_once = Once(talk)
        self.outputs = Outputs(
            pair, self.models, suppression, self.tasks, self.samples, self._tell_once
        )

    def _prepare(self, name: str) -> list[Sample]:
        """The samples, their documents short enough, each as often as it is to be completed."""
        limit, scenario = self.engine.max_positions, self.todo.scenario
        room = None if limit is None else limit - scenario.max_new_tokens
        fitting = [fit(self.pair, sample, room) for sample in self._choose(name)]
        if told := shortened(fitting, room):
            self.talk.notice(f"{self.pair.spec.name}, {name}: {told}")
        times = range(scenario.completions_per_sample)
        return [replace(sample, completion=i) for sample in fitting for i in times]

    def _engine(self, name: str) -> Engine:
        """The engine of that name; the others give their memory back."""
        for other in self.engines.keys() - {name}:
            self.engines[other].release()
        if name not in self.engines:
            engine: type[Engine] = NativeEngine
            if name == "transformers":
                from specbench.engine.transformers import TransformersEngine

                engine = TransformersEngine
            self.engines[name] = engine(*self.models, self.pair.eos_tokens, self.pair.suppressed)
        return self.engines[name]

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
            gaps = self.nvml.gaps()
            for why in sorted({*gaps.values()}):
                columns = sorted(column for column in gaps if gaps[column] == why)
                self.talk.notice(f"no {', '.join(columns)}: {why}")
            for repeat in self.todo.scenario.repeat_numbers:
                for _, block in itertools.groupby(self.cases, _block_key):
                    self._run_block(list(block), repeat)
            if self.nvml.lost:
                self.talk.notice(f"GPU telemetry ended early: {self.nvml.lost}")

    def profile(self, case: Case) -> None:
        """Decodes a few steps of the case once more, and looks at their kernels."""
        try:
            self.engine = self._engine(case.engine)
            short, batch = profiling.shortened(case), next(self._batches(case))[: case.batch_size]
            trace = StepTrace(self.todo.device)
            requests = [self._request(short, sample, 0) for sample in batch]
            # Once before: what another batch size made the engine drop is captured again.
            self._decode(short, make_policy(case.gamma), requests)
            with trace:
                self._decode(short, make_policy(case.gamma), requests, trace)
            profiling.keep(self.todo, case, trace, self.writer)
        except Exception as error:  # what was measured stands
            self._tell_once(f"no profile: {as_notice(error)}")

    def _run_block(self, block: list[Case], repeat: int) -> None:
        policies = {case.case_id: make_policy(case.gamma) for case in block}
        if self.outcome.lost is None and not self._is_block_finished(block, repeat):
            self._get_ready(block)
        for index, batch in enumerate(self._batches(block[0])):
            rows: list[Row] = []
            try:
                for case in block if (index + repeat) % 2 == 0 else block[::-1]:
                    if not self._is_finished(case, repeat, batch):
                        policy = policies[case.case_id]
                        rows += self._run_batch(case, policy, repeat, index, batch, block)
                    self.talk.advance(len(batch), f"{case.method} γ={case.gamma}")
            finally:
                self.writer.write(self.outputs.judged(rows))

    def _get_ready(self, block: list[Case]) -> None:
        try:
            self.engine = self._engine(block[0].engine)
            self._reserve(block)
            if (key := _block_key(block[0])) not in self.warm:  # not by a run that was cut off
                self.talk.stage("warming up")
                self._warm_up(block)
                self.warm.add(key)
        except Exception as error:
            if not self._loses_gpu(error, "making room"):
                raise

    def _run_batch(
        self,
        case: Case,
        policy: GammaPolicy,
        repeat: int,
        index: int,
        batch: Sequence[Sample],
        block: Sequence[Case],
    ) -> list[Row]:
        rows = [self._base_row(case, repeat, index, sample) for sample in batch]
        if self.outcome.lost is not None:
            rows = [row | not_run(self.outcome) for row in rows]
            self._count(case, rows)
            return rows
        failure: Row | None = None
        try:
            self._reset_peak_memory()
            requests = [self._request(case, sample, repeat) for sample in batch]
            self.nvml.begin()
            with uncollected():
                generations = self._decode(case, policy, requests)
            self._tell_refusals()
            spans = self.recorder.spans()
            machine, decoding = self._machine(spans, requests, generations), self._decoding(case)
            for i, row in enumerate(rows):
                row |= machine | self.outputs.row(
                    self.engine, case, decoding, requests[i], generations[i], batch[i], spans, i
                )
        except Exception as error:  # whatever a method of another package or a model may raise
            failure, is_refused = failure_row(error), isinstance(error, InputError)
            self._loses_gpu(error, _name(case))
        if failure is not None:  # here, where the error no longer holds the memory of what failed
            if not is_refused:  # what is refused has touched nothing
                self._make_room_again(case, block)
            rows = [self._base_row(case, repeat, index, sample) | failure for sample in batch]
        self._count(case, rows)
        return rows

    def _make_room_again(self, case: Case, block: Sequence[Case]) -> None:
        """After a failure, for all cases that come at once. Where the GPU is lost there is nothing to
        give back, and asking fails once more."""
        try:
            if self.outcome.lost is None:
                self.engine.release()
                self._reserve(block)
        except Exception as error:
            if not self._loses_gpu(error, _name(case)):
                raise

    def _loses_gpu(self, error: Exception, where: str) -> bool:
        """Whether it does; then the user is told."""
        before = self.outcome.lost
        found = self.outcome.loses_gpu(error, where)
        if self.outcome.lost is not None and before is None:
            self.talk.notice(f"{self.outcome.lost}; this process can run nothing more on it")
        return found

    def _tell_refusals(self) -> None:
        for refusal in self.engine.refusals:
            self._tell_once(refusal)

    def _decode(
        self,
        case: Case,
        policy: GammaPolicy,
        requests: Sequence[Request],
        observer: Observer | None = None,
    ) -> list[Generation]:
        return self.engine.generate(
            requests, get_method(case.method), policy, self._decoding(case), observer or self.recorder,
            Execution(
                resolve_execution(case.execution, self.todo.device, case.engine),
                case.attention, case.synthetic_acceptance,
            ),
            case.batch_size,
        )  # fmt: skip

    def _decoding(self, case: Case) -> Decoding:
        return Decoding(
            self._new_tokens(case), case.temperature, case.top_k, case.top_p,
            case.sigmoid_range or SIGMOID_RANGE,
        )  # fmt: skip

    def _warm_up(self, block: Sequence[Case]) -> None:
        """First launches, captures and lazy imports, outside every figure.

        What a block captures it keeps until another size of batch takes the memory; what has to be
        captured again in a later repeat is cut out of the figures by the engine's own mark.
        transformers' loop makes no such mark, and on a GPU each length that it meets is a shape for which
        torch chooses its kernels then: it decodes all that will be measured.
        """
        everything = block[0].engine == "transformers" and self.todo.device.type == "cuda"
        for case in block:
            batches = itertools.islice(self._batches(case), None if everything else 1)
            for batch in [*batches] * self.todo.scenario.warmup:
                try:
                    requests = [self._request(case, sample, 0) for sample in batch]
                    self._decode(case, make_policy(case.gamma), requests)
                except Exception as error:
                    if self._loses_gpu(error, f"warming up {_name(case)}"):
                        return
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

    def _is_block_finished(self, block: Sequence[Case], repeat: int) -> bool:
        return all(
            self._is_finished(case, repeat, batch)
            for case in block for batch in self._batches(case)
        )  # fmt: skip

    def _is_finished(self, case: Case, repeat: int, batch: Sequence[Sample]) -> bool:
        """A γ policy carries its state from sample to sample: its repeat is done as a whole."""
        needed = self.samples[case.task] if case.gamma in POLICIES else batch
        return all(
            (case.case_id, repeat, sample.sample_id, sample.completion) in self.finished
            for sample in needed
        )

    def _request(self, case: Case, sample: Sample, repeat: int) -> Request:
        """The seed depends on sample, completion and repeat, not on method or γ: all methods meet the
        same luck."""
        prompt = self.pair.prompt(sample)
        limit = self.engine.max_positions
        if limit is not None and len(prompt) + self._new_tokens(case) > limit:
            raise InputError(
                f"{len(prompt)} prompt tokens and {case.max_new_tokens} new ones exceed the models' "
                f"{limit} positions",
                "Lower max_new_tokens.",
            )
        text = f"{self.todo.scenario.seed}/{sample.sample_id}/{repeat}"
        if sample.completion:
            text += f"/{sample.completion}"
        digest = hashlib.sha256(text.encode()).digest()
        seed = int.from_bytes(digest[:8], "big") >> 1
        task, ended = self.tasks[case.task], None
        if isinstance(task, JudgedTask):
            ended = ending(self.pair, task, sample, prompt)
        return Request(prompt, seed, self._features(sample), ended)

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
            "completion": sample.completion,
            "chat_template": self.pair.chats,
            "document_kept": sample.kept,
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

    def _machine(
        self, spans: Spans, requests: Sequence[Request], generations: Sequence[Generation]
    ) -> Row:
        """What the machine did meanwhile; the batch's energy is shared equally by its sequences."""
        window = self.nvml.window(spans.start_s, spans.start_s + spans.wall_s + spans.capture_s)
        if spans.capture_s:  # the counter has the captures in it
            window |= {"energy_j": None, "energy_coarse_j": None}
        if window.get("foreign_processes"):
            self._tell_once(
                "other processes compute on the GPU, so that times are not to be trusted: "
                "the column foreign_processes names them"
            )
        for name in ("energy_j", "energy_coarse_j"):
            if window.get(name) is not None:
                window[name] /= len(requests)
        if self.todo.device.type == "cuda":
            window["peak_memory_bytes"] = torch.cuda.max_memory_allocated(self.todo.device)
        return window | {"mfu": utilisation(self.todo, self.models, spans, requests, generations)}

    def _count(self, case: Case, rows: list[Row]) -> None:
        for row in rows:
            if row["status"] == "ok":
                self.outcome.ok += 1
                continue
            self.outcome.failed += 1
            reason = f"{_name(case)}: {row['error']}"
            is_told = row["error"].startswith(NOT_RUN) or reason in self.outcome.errors
            if not is_told:  # `lost` says why cases were not run
                self.outcome.errors.append(reason)

    def _reset_peak_memory(self) -> None:
        if self.todo.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.todo.device)


def _name(case: Case) -> str:
    return f"{case.method} γ={case.gamma}"


def _block_key(case: Case) -> tuple[Any, ...]:
    return (
        case.task, case.engine, case.execution, case.attention, case.batch_size, case.temperature,
    )  # fmt: skip
