"""Training: next-token prediction for the target, then target and draft together."""

import logging
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from specbench.demo.prompts import SPECIAL_TOKENS
from specbench.demo.tokens import (
    CONTEXT,
    IGNORED,
    VOCABULARY,
    Batch,
    Kind,
    Tokens,
    batch,
    corrupt,
)

Loss = Callable[[Any, Batch], torch.Tensor]
Plan = list[tuple[int, list[int]]]
Check = Callable[[Any, float], dict[str, float]]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shape:
    """The sizes of a model."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int


TARGET = Shape(hidden=256, layers=8, heads=8, kv_heads=4, head_dim=32, intermediate=704)
DRAFT = Shape(hidden=128, layers=2, heads=4, kv_heads=2, head_dim=32, intermediate=320)


@dataclass(frozen=True)
class Schedule:
    """`seconds` bounds the wall time: the learning rate then reaches its end early."""

    rate: float
    warmup: int = 150
    seconds: float = 1e9
    checks: int = 8
    decay: float = 0.1
    noise: float = 0.15
    target_share: float = 1.0
    keep_best: bool = True


def new_model(shape: Shape, seed: int) -> Any:
    """A model of this shape with fresh weights."""
    torch.manual_seed(seed)
    special = {name: SPECIAL_TOKENS.index(f"<{name}>") for name in ("bos", "eos", "pad")}
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.intermediate,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        attention_dropout=0.0,
        initializer_range=0.02,
        **{f"{name}_token_id": number for name, number in special.items()},
    )
    return LlamaForCausalLM(config)


def autocast(device: str) -> AbstractContextManager[Any]:
    """bfloat16 on a GPU, float32 on a CPU."""
    return torch.autocast("cuda", torch.bfloat16) if device == "cuda" else nullcontext()


def compile_layers(model: Any) -> None:
    """Compiles one decoder layer for all: the whole graph would take a minute longer to build."""
    torch._dynamo.config.recompile_limit = 64
    for layer in model.model.layers:
        layer.compile(dynamic=True)


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """logits: (B, T, V), labels: (B, T) -> (B, T-1) losses in nats, 0 where ignored."""
    flat = functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(),
        labels[:, 1:].flatten(),
        ignore_index=IGNORED,
        reduction="none",
    )
    return flat.view(len(labels), -1)


def language_loss(prompt_weight: float) -> Loss:
    """Next-token loss; tokens of the prompt count less than those of the completion."""

    def loss(model: Any, item: Batch) -> torch.Tensor:
        losses = token_losses(model(input_ids=item.ids, use_cache=False).logits, item.labels)
        weights = torch.where(item.in_prompt[:, 1:], prompt_weight, 1.0)
        weights = weights * (item.labels[:, 1:] != IGNORED)
        return (losses * weights).sum() / weights.sum()

    return loss


def completion_logits(model: Any, item: Batch) -> torch.Tensor:
    """(K, V) logits of the K positions whose next token belongs to a completion."""
    hidden = model.model(input_ids=item.ids, use_cache=False).last_hidden_state
    logits: torch.Tensor = model.lm_head(hidden[:, :-1][item.completes])
    return logits.float()


class Pair(nn.Module):
    """Target and draft, trained together."""

    def __init__(self, target: Any, draft: Any) -> None:
        super().__init__()
        self.target, self.draft = target, draft


@dataclass
class Control:
    """Holds the pair's total variation on validation data near a goal, for each ability.

    The target leans towards the draft on summaries (`lean` weighs that); the draft stops learning
    code where it is near enough. Without the first, a draft this small agrees with the target on
    fewer than half of the tokens; without the second, on nearly all.
    """

    summary_goal: float
    code_goal: float
    starts_at: float = 0.2
    lean: float = 0.0
    code_weight: float = 1.0
    first_lean: float = 0.8
    largest_lean: float = 12.0

    def update(self, summary: float, code: float, done: float) -> None:
        """Moves both weights after a check; `summary` and `code` are total variations."""
        self.code_weight = 1.0 if code > self.code_goal else 0.05
        if done < self.starts_at:
            return
        grow = 1.3 if summary > self.summary_goal else 1 / 1.3
        self.lean = min(self.lean * grow, self.largest_lean) or self.first_lean


def _divergence(teacher_log: torch.Tensor, student_log: torch.Tensor) -> torch.Tensor:
    """KL(teacher || student) per row; (K, V) log-probabilities. The teacher gets no gradient."""
    fixed = teacher_log.detach()
    return (fixed.exp() * (fixed - student_log)).sum(-1)


def agreement_loss(base: Any, control: Control) -> Loss:
    """Draft: learns the target's law. Target: stays itself, but leans towards the draft.

    On data the target keeps learning next tokens; on sampled summaries it keeps to the law of
    `base`, its state at the start. So on summaries it ends at a mixture of that law and the
    draft's, weighed by `control.lean`.
    """

    def loss(pair: Any, item: Batch) -> torch.Tensor:
        target_log = completion_logits(pair.target, item).log_softmax(-1)
        draft_log = completion_logits(pair.draft, item).log_softmax(-1)
        with torch.no_grad():
            base_log = completion_logits(base, item).log_softmax(-1)
        completes = item.completes
        kinds = item.kinds[:, None].expand(completes.shape)[completes]
        labels = item.labels[:, 1:][completes]
        code = kinds == Kind.CODE
        follow = _divergence(target_log, draft_log)
        follow = follow + 0.5 * (target_log.detach().exp() - draft_log.exp()).abs().sum(-1)
        learn = torch.where(
            kinds == Kind.SAMPLED,
            _divergence(base_log, target_log),
            functional.nll_loss(target_log, labels, reduction="none"),
        )
        lean = _divergence(draft_log, target_log) * ~code
        weight = torch.where(code, control.code_weight, 1.0)
        return (weight * follow + learn + control.lean * lean).mean()

    return loss


def optimizer_for(model: Any, schedule: Schedule, device: str) -> torch.optim.Optimizer:
    """AdamW; only matrices decay. In a pair, the target goes at its own share of the rate."""
    members: dict[tuple[float, float], list[Any]] = {}
    for name, value in model.named_parameters():
        scale = schedule.target_share if name.startswith("target.") else 1.0
        decay = schedule.decay if value.dim() >= 2 else 0.0
        members.setdefault((decay, scale), []).append(value)
    groups = [
        {"params": values, "weight_decay": decay, "scale": scale}
        for (decay, scale), values in members.items()
    ]
    rates = {"lr": schedule.rate, "betas": (0.9, 0.95)}
    return torch.optim.AdamW(groups, **rates, fused=device == "cuda")  # type: ignore[arg-type]


def rate_at(schedule: Schedule, step: int, progress: float) -> float:
    """Linear warm-up, then a cosine down to a fiftieth."""
    warm = min(1.0, (step + 1) / schedule.warmup)
    return schedule.rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1, progress))))


def descend(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: torch.Tensor,
    smooth: torch.Tensor | None,
) -> torch.Tensor:
    """One update by this loss; returns the smoothed loss. `smooth` is the last one, None at first."""
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    loss = loss.detach()
    return loss if smooth is None else 0.98 * smooth + 0.02 * loss


@dataclass
class Fit:
    """What a training run reports; `checks` holds the share done and the check's figures."""

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    train_loss: float = 0.0
    best: int = 0
    checks: list[dict[str, float]] = field(default_factory=list)


class Trainer:
    """Trains a model in place, batch by batch, and keeps its best state."""

    def __init__(
        self, model: Any, tokens: Tokens, loss_of: Loss, schedule: Schedule, pad: int
    ) -> None:
        self.model, self.tokens, self.loss_of = model, tokens, loss_of
        self.schedule, self.pad = schedule, pad
        self.device = tokens.flat.device.type
        self.optimizer = optimizer_for(model, schedule, self.device)
        self.smooth: torch.Tensor | None = None
        self.best_score = math.inf
        self.best_state: dict[str, torch.Tensor] | None = None

    def step(self, width: int, rows: list[int], rate: float) -> None:
        """One batch, one update."""
        item = batch(self.tokens, width, rows, self.pad)
        item.ids = corrupt(item, self.schedule.noise)
        for group in self.optimizer.param_groups:
            group["lr"] = group["scale"] * rate
        with autocast(self.device):
            loss = self.loss_of(self.model, item)
        self.smooth = descend(self.model, self.optimizer, loss, self.smooth)

    @property
    def loss(self) -> float:
        """The smoothed training loss."""
        return math.nan if self.smooth is None else float(self.smooth)

    def keep_if_best(self, scores: dict[str, float]) -> bool:
        """Remembers the state if the validation figures' sum is the lowest so far."""
        score = sum(v for k, v in scores.items() if k.startswith("validation"))
        if not self.schedule.keep_best or scores["done"] < 0.3 or score >= self.best_score:
            return False
        self.best_score = score
        self.best_state = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        return True


def fit(trainer: Trainer, batches: Plan, check: Check) -> Fit:
    """Runs through the batches and leaves the model at its best check, if those are kept.

    `check(model, share done)` gives figures; those named "validation..." are summed.
    """
    report, began, done = Fit(), time.monotonic(), 0.0
    schedule = trainer.schedule
    for width, rows in batches:
        trainer.step(width, rows, rate_at(schedule, report.steps, done))
        report.steps += 1
        report.tokens += width * len(rows)
        report.seconds = time.monotonic() - began
        done = max(report.steps / len(batches), report.seconds / schedule.seconds)
        if done * schedule.checks >= len(report.checks) + 1:
            scores = {"done": done, "train": trainer.loss, **check(trainer.model, done)}
            report.checks.append(scores)
            log.info("step %d, %.0f s: %s", report.steps, report.seconds, _rounded(scores))
            if trainer.keep_if_best(scores):
                report.best = report.steps
        if done >= 1:
            break
    if trainer.best_state:
        trainer.model.load_state_dict(trainer.best_state)
    report.train_loss = trainer.loss
    return report


def _rounded(scores: dict[str, float]) -> dict[str, float]:
    return {key: round(value, 4) for key, value in scores.items()}


@torch.no_grad()
def completion_loss(model: Any, tokens: Tokens, pad: int, rows_at_once: int = 64) -> float:
    """Mean loss in nats per token of the completions (with their <eos>), all examples together."""
    total, count = 0.0, 0
    order = torch.argsort(tokens.lengths).tolist()
    for first in range(0, len(order), rows_at_once):
        rows = order[first : first + rows_at_once]
        item = batch(tokens, int(tokens.lengths[rows].max()), rows, pad)
        labels = item.labels.masked_fill(item.in_prompt, IGNORED)[:, 1:]
        logits = completion_logits(model, item)
        wanted = labels[labels != IGNORED]
        total += float(functional.cross_entropy(logits, wanted, reduction="sum"))
        count += len(wanted)
    return total / max(count, 1)


@torch.no_grad()
def variation(target: Any, draft: Any, tokens: Tokens, pad: int, rows_at_once: int = 64) -> float:
    """Mean total variation between the two laws over the completions' tokens."""
    total, count = 0.0, 0
    order = torch.argsort(tokens.lengths).tolist()
    for first in range(0, len(order), rows_at_once):
        rows = order[first : first + rows_at_once]
        item = batch(tokens, int(tokens.lengths[rows].max()), rows, pad)
        laws = [completion_logits(model, item).softmax(-1) for model in (target, draft)]
        total += float(0.5 * (laws[0] - laws[1]).abs().sum())
        count += len(laws[0])
    return total / max(count, 1)


def uncompiled(model: Any) -> Any:
    """A copy of the model that runs eagerly: generation would recompile at every length."""
    copy = LlamaForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    return copy.eval().to(model.device)
