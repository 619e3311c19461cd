"""What a run's rows say: the case, the counts, the times, the work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from specbench.engine.batch import Generation, Request
from specbench.engine.model import CausalModel
from specbench.engine.speech import SpeechModel
from specbench.planning import Plan, device_name, resolve_execution
from specbench.sampling.registry import get_method
from specbench.scenario import Case
from specbench.tasks.base import Score, get_task
from specbench.telemetry.flops import (
    draft_tokens,
    model_flops_utilisation,
    peak_flops,
    target_tokens,
)
from specbench.telemetry.spans import Spans

Row = dict[str, Any]


def case_row(todo: Plan, run_id: str, case: Case) -> Row:
    """The columns that a whole case has in common."""
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
        "dataset": todo.datasets.get(case.task) or get_task(case.task, None, case.dataset).dataset,
        "method": case.method,
        "implementation": get_method(case.method).implementation_on(todo.device),
        "engine": case.engine,
        "attention": case.attention,
        "execution": resolve_execution(case.execution, todo.device, case.engine),
        "load_format": case.load_format,
        "synthetic_acceptance": case.synthetic_acceptance,
        "prompt_lengths": ",".join(map(str, lengths)) if lengths else None,
        "refill": case.refill,
        "completions_per_sample": case.completions_per_sample,
        "chat_template": False,
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


def skipped_row(todo: Plan, run_id: str, case: Case) -> Row:
    """The one row of a case that cannot run, with its reason."""
    return case_row(todo, run_id, case) | {"status": "skipped", "error": case.skip, "repeat": 0}


def failure_row(error: Exception) -> Row:
    """What a failed sequence's row has instead of figures."""
    return {"status": "failed", "error": f"{type(error).__name__}: {error}"}


def counts(request: Request, generation: Generation) -> Row:
    """Tokens and steps of a sequence."""
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


def quality(score: Score) -> Row:
    """How good an output is."""
    return {
        "metric": score.metric,
        "metric_value": score.value,
        "metric_weight": score.weight,
        "metrics": score.metrics,
        "verdict": score.verdict,
    }


def times(generation: Generation, spans: Spans, sequence: int) -> Row:
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


def utilisation(
    todo: Plan,
    models: tuple[CausalModel, CausalModel],
    spans: Spans,
    requests: Sequence[Request],
    generations: Sequence[Generation],
) -> float | None:
    """MFU of a batch of target and draft, see `telemetry.flops`."""
    target, draft = models
    dtype = str(target.dtype).removeprefix("torch.")
    fed = [
        (len(request.prompt), generation.step_gamma)
        for request, generation in zip(requests, generations, strict=True)
    ]
    work = [
        (target.parameters, sum(target_tokens(*one) for one in fed)),
        (draft.parameters, sum(draft_tokens(*one) for one in fed)),
        *_heard(target, draft, generations),
    ]
    peak = peak_flops(device_name(todo.device), dtype)
    return model_flops_utilisation(work, spans.wall_s, peak)


def _heard(
    target: CausalModel, draft: CausalModel, generations: Sequence[Generation]
) -> list[tuple[int, int]]:
    """Parameters and frames of the encoders: the draft's too, if it has its own and drafted."""
    if not (isinstance(target, SpeechModel) and isinstance(draft, SpeechModel)):
        return []
    drafts = any(any(generation.step_gamma) for generation in generations)
    models = [target, draft] if drafts and draft.encoder is not target.encoder else [target]
    return [(one.encoder_parameters, one.frames * len(generations)) for one in models]
