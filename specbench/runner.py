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
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import torch

from specbench import profiling
from specbench.engine.batch import Generation, Request
from specbench.engine.decoding import Decoding, Execution
from specbench.engine.likelihood import sigmoid_law_variation
from specbench.engine.model import CausalModel
from specbench.engine.native import NativeEngine
from specbench.engine.observer import Observer
from specbench.engine.speech import FRAME_S, SpeechModel
from specbench.engine.suppression import Suppression
from specbench.errors import InputError, SpecbenchError
from specbench.pairs import Pair, load_pair, with_chat_template
from specbench.planning import Plan, device_name, resolve_execution
from specbench.report.writer import RunWriter, SequenceKey
from specbench.rows import Row, case_row, counts, failure_row, quality, skipped_row, times
from specbench.sampling.names import POLICIES, SIGMOID_RANGE
from specbench.sampling.policy import GammaPolicy, make_policy
from specbench.sampling.registry import get_method
from specbench.scenario import Case
from specbench.tasks.asr import SpeechRecognition
from specbench.tasks.base import JudgedTask, Sample, Score, choose, get_task
from specbench.tasks.fluency import distinct, repetition
from specbench.telemetry.flops import (
    draft_tokens,
    model_flops_utilisation,
    peak_flops,
    target_tokens,
)
from specbench.telemetry.lost import lost_reason
from specbench.telemetry.nvml import NvmlSampler, cuda_uuid
from specbench.telemetry.spans import SpanRecorder, Spans, uncollected
from specbench.telemetry.trace import StepTrace
from specbench.texts import ending, find_answer, fit, shortened

if TYPE_CHECKING:
    from specbench.engine.transformers import TransformersEngine

Engine: TypeAlias = "NativeEngine | TransformersEngine"

MOST_FEATURES = 512
"""Features of so many utterances are kept, of Whisper a megabyte each."""


NOT_RUN = "not run"
"""How the error of a sequence begins that was left out because the GPU was lost."""


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
    lost: str | None = None
    """How the GPU was lost, if it was; what came afterwards was not run."""

    def loses_gpu(self, error: Exception, where: str) -> bool:
        """Notes it, if the error means that."""
        reason = lost_reason(error)
        if reason is not None and self.lost is None:
            self.lost = f"the GPU was lost in {where}: {reason}"
        return reason is not None


def execute(todo: Plan, writer: RunWriter, talk: Talk) -> Outcome:
    """Runs every case that is not skipped and not finished already; each block is written when done.

    A case that fails becomes rows with the reason; the others go on, unless it took the GPU along:
    then they fail too, and `lost` is set. Ctrl-C writes what is finished and returns with `interrupted`
    set.
    """
    outcome = Outcome()
    skipped = [case for case in todo.cases if case.skip]
    outcome.skipped = len(skipped)
    writer.write([skipped_row(todo, writer.run_id, case) for case in skipped])
    cases = [case for case in todo.cases if not case.skip]
    scenario = todo.scenario
    for notice in todo.notices:
        talk.notice(notice)
    talk.total(len(cases) * scenario.sequences * scenario.repeats)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(scenario.cpu_threads or threads)
        # Events are recorded in the current device's stream: it must be the one that works.
        with torch.cuda.device(todo.device) if todo.device.type == "cuda" else nullcontext():
            _run_pairs(todo, cases, writer, talk, outcome)
    except KeyboardInterrupt:
        outcome.interrupted = True
    except Exception as error:  # leaving the device's context can fail once more
        if outcome.lost is None or not lost_reason(error):
            raise
    finally:
        torch.set_num_threads(threads)
    return outcome


def _run_pairs(
    todo: Plan, cases: Sequence[Case], writer: RunWriter, talk: Talk, outcome: Outcome
) -> None:
    """Pair by pair; profiling comes when everything is timed: it slows launches down for good."""
    finished = writer.finished()
    groups = [list(group) for _, group in itertools.groupby(cases, lambda c: (c.pair, c.dtype))]

    def loaded(group: list[Case]) -> _PairRun:
        talk.stage(f"loading {group[0].pair}")
        pair = load_pair(
            todo.specs[group[0].pair], str(todo.device), group[0].dtype, todo.scenario.load_format
        )
        return _PairRun(todo, pair, group, writer, talk, outcome, finished)

    last: _PairRun | None = None
    for group in groups:
        last = None  # its memory is the next one's
        try:
            last = loaded(group) if outcome.lost is None else None
        except Exception as error:
            if not outcome.loses_gpu(error, f"loading {group[0].pair}"):
                raise
        if last is None:
            _leave_out(todo, group, writer, outcome)
        else:
            last.run()
    for group in reversed(groups if outcome.lost is None else []):  # the last one is there already
        wanted = [case for case in group if profiling.is_wanted(todo, case, writer)]
        try:
            if wanted and (last is None or last.cases is not group):
                last = None
                last = loaded(group)
            for case in wanted:
                talk.stage(f"profiling {case.method} γ={case.gamma}")
                assert last is not None
                last.profile(case)
        except Exception as error:  # what was measured stands
            last = None
            talk.notice(f"no profile of {group[0].pair}: {_reason(error)}")


def _leave_out(todo: Plan, group: list[Case], writer: RunWriter, outcome: Outcome) -> None:
    """Of a pair that the GPU was lost for, a failed row for each case."""
    failure = _not_run(outcome) | {"repeat": 0}
    writer.write([case_row(todo, writer.run_id, case) | failure for case in group])
    outcome.failed += len(group)


def _not_run(outcome: Outcome) -> Row:
    return {"status": "failed", "error": f"{NOT_RUN}: {outcome.lost}"}


def _reason(error: Exception) -> str:
    return error.message if isinstance(error, SpecbenchError) else repr(error)


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
        self.suppression = (
            Suppression(*pair.suppressed, self.models[0].vocab_size, todo.device)
            if any(pair.suppressed) else None
        )  # fmt: skip
        self.told: set[str] = set()

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
            self._tell_once(f"no profile: {_reason(error)}")

    def _run_block(self, block: list[Case], repeat: int) -> None:
        policies = {case.case_id: make_policy(case.gamma) for case in block}
        if self.outcome.lost is None:
            self._get_ready(block, repeat)
        for index, batch in enumerate(self._batches(block[0])):
            rows: list[Row] = []
            try:
                for case in block if (index + repeat) % 2 == 0 else block[::-1]:
                    if not self._is_finished(case, repeat, batch):
                        rows += self._run_batch(case, policies[case.case_id], repeat, index, batch)
                    self.talk.advance(len(batch), f"{case.method} γ={case.gamma}")
            finally:
                self.writer.write(self._judged(rows))

    def _get_ready(self, block: list[Case], repeat: int) -> None:
        try:
            self.engine = self._engine(block[0].engine)
            self._reserve(block)
            if repeat == self.todo.scenario.first_repeat:
                self.talk.stage("warming up")
                self._warm_up(block)
        except Exception as error:
            if not self._loses_gpu(error, "making room"):
                raise

    def _judged(self, rows: list[Row]) -> list[Row]:
        """A round's rows, scored together where that means running what was written.

        Raises:
            MachineError: the sandbox no longer starts. That is no fault of a method: the run stops, and
                can be resumed.
        """
        task = self.tasks[rows[0]["task"]] if rows else None
        if isinstance(task, JudgedTask):
            samples = {sample.sample_id: sample for sample in self.samples[task.name]}
            fine = [row for row in rows if row["status"] == "ok"]
            answers = [(row["hypothesis"], samples[row["sample_id"]]) for row in fine]
            for row, score in zip(fine, task.score_all(answers), strict=True):
                row |= quality(score)
        return rows

    def _run_batch(
        self, case: Case, policy: GammaPolicy, repeat: int, index: int, batch: Sequence[Sample]
    ) -> list[Row]:
        rows = [self._base_row(case, repeat, index, sample) for sample in batch]
        if self.outcome.lost is not None:
            rows = [row | _not_run(self.outcome) for row in rows]
            self._count(case, rows)
            return rows
        failure: Row | None = None
        try:
            self._reset_peak_memory()
            requests = [self._request(case, sample, repeat) for sample in batch]
            with uncollected():
                generations = self._decode(case, policy, requests)
            self._tell_refusals()
            spans = self.recorder.spans()
            machine = self._machine(spans, requests, generations)
            for i, row in enumerate(rows):
                row |= machine | self._result(case, requests[i], generations[i], batch[i], spans, i)
        except Exception as error:  # whatever a method of another package or a model may raise
            failure = failure_row(error)
            self._loses_gpu(error, _name(case))
        if failure is not None:  # here, where the error no longer holds the memory of what failed
            self._release(case)
            rows = [self._base_row(case, repeat, index, sample) | failure for sample in batch]
        self._count(case, rows)
        return rows

    def _release(self, case: Case) -> None:
        """Where the GPU is lost there is nothing to give back, and asking fails once more."""
        try:
            if self.outcome.lost is None:
                self.engine.release()
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

    def _tell_once(self, notice: str) -> None:
        if notice not in self.told:
            self.told.add(notice)
            self.talk.notice(notice)

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
        text, answer_tokens, score = self._answer(case, request, generation, sample)
        return (
            counts(request, generation)
            | times(generation, spans, sequence)
            | quality(score)
            | {
                "status": "ok",
                "hypothesis": text,
                "answer_tokens": answer_tokens,
            }
            | self._reads(case, request, generation, answer_tokens)
        )

    def _reads(
        self, case: Case, request: Request, generation: Generation, answer_tokens: int | None
    ) -> Row:
        """How the output reads, whatever the task. Nothing where the tokens are noise."""
        if case.load_format == "dummy" or case.synthetic_acceptance is not None:
            return {}
        answer = generation.tokens[:answer_tokens]
        tokens = [token for token in answer if token not in self.pair.eos_tokens]
        found: Row = {
            "repetition_4": repetition(tokens, 4),
            "distinct_1": distinct(tokens, 1),
            "distinct_2": distinct(tokens, 2),
        }
        with suppress(torch.OutOfMemoryError):  # what was measured stands
            found["target_logprob"] = self.engine.log_probability(request, answer)
            if get_method(case.method).rule == "sigmoid" and make_policy(case.gamma).limit:
                found["law_tv"] = sigmoid_law_variation(
                    *self.models, request, generation, self._decoding(case), self.suppression
                )
        return found

    def _answer(
        self, case: Case, request: Request, generation: Generation, sample: Sample
    ) -> tuple[str, int | None, Score]:
        """What is scored of an output, its tokens if it was cut, and the score, if it can be had here."""
        task = self.tasks[case.task]
        if isinstance(task, JudgedTask):
            has_ended = generation.finish_reason == "eos"
            text, tokens = find_answer(
                self.pair, task, sample, request.prompt, generation.tokens, has_ended
            )
            return text, tokens, Score()
        text = self.pair.decode(generation.tokens)
        return text, None, task.score(text, sample)

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
