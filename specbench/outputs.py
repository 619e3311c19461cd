"""What a pair wrote: its text, its score, and how it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch

from specbench.engine.batch import Generation, Request
from specbench.engine.decoding import Decoding
from specbench.engine.likelihood import sigmoid_law_variation
from specbench.engine.model import CausalModel
from specbench.engine.native import NativeEngine
from specbench.engine.suppression import Suppression
from specbench.outcome import as_notice
from specbench.pairs import Pair
from specbench.rows import Row, counts, quality, times
from specbench.sampling.policy import make_policy
from specbench.sampling.registry import get_method
from specbench.scenario import Case
from specbench.tasks.base import JudgedTask, Sample, Score, Task
from specbench.tasks.fluency import distinct, repetition
from specbench.telemetry.lost import lost_reason
from specbench.telemetry.spans import Spans
from specbench.texts import find_answer

if TYPE_CHECKING:
    from specbench.engine.transformers import TransformersEngine

Engine: TypeAlias = "NativeEngine | TransformersEngine"


@dataclass(frozen=True)
class Outputs:
    """A pair's outputs.

    Attributes:
        models: target and draft; `suppression`: the tokens that these never write, if there are any.
        tasks, samples: of the pair's cases, by the task's name.
        tell: takes a notice for the user.
    """

    pair: Pair
    models: tuple[CausalModel, CausalModel]
    suppression: Suppression | None
    tasks: Mapping[str, Task]
    samples: Mapping[str, Sequence[Sample]]
    tell: Callable[[str], None]

    def row(
        self,
        engine: Engine,
        case: Case,
        decoding: Decoding,
        request: Request,
        generation: Generation,
        sample: Sample,
        spans: Spans,
        sequence: int,
    ) -> Row:
        """A sequence's counts, times, text and score; or why it failed."""
        if generation.error:
            return {"status": "failed", "error": generation.error}
        measured = counts(request, generation) | times(generation, spans, sequence)
        measured["status"] = "ok"
        try:
            text, answer_tokens, score = self._answer(case, request, generation, sample)
            measured |= {"hypothesis": text, "answer_tokens": answer_tokens} | quality(score)
            measured |= self._reads(engine, case, decoding, request, generation, answer_tokens)
        except Exception as error:  # what was measured stands
            if lost_reason(error):
                raise
            self.tell(f"not scored: {as_notice(error)}")
        return measured

    def _reads(
        self,
        engine: Engine,
        case: Case,
        decoding: Decoding,
        request: Request,
        generation: Generation,
        answer_tokens: int | None,
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
        with suppress(torch.OutOfMemoryError):  # it takes more than decoding did
            found["target_logprob"] = engine.log_probability(request, answer)
            if get_method(case.method).rule == "sigmoid" and make_policy(case.gamma).limit:
                found["law_tv"] = sigmoid_law_variation(
                    *self.models, request, generation, decoding, self.suppression
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

    def judged(self, rows: list[Row]) -> list[Row]:
        """A round's rows, scored together where that means running what was written.

        Raises:
            MachineError: the sandbox no longer starts. That is no fault of a method: the run stops, and
                can be resumed.
        """
        task = self.tasks[rows[0]["task"]] if rows else None
        if isinstance(task, JudgedTask):
            samples = {sample.sample_id: sample for sample in self.samples[task.name]}
            fine = [row for row in rows if row["status"] == "ok" and "hypothesis" in row]
            answers = [(row["hypothesis"], samples[row["sample_id"]]) for row in fine]
            for row, score in zip(fine, task.score_all(answers), strict=True):
                row |= quality(score)
        return rows
