"""Training: next-token prediction for the target, distillation from the target for the draft."""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from specbench.demo.prompts import SPECIAL_TOKENS
from specbench.demo.tokens import CONTEXT, IGNORED, VOCABULARY, Batch, Tokens, batch, corrupt

Loss = Callable[[Any, Batch], torch.Tensor]
Plan = list[tuple[int, list[int]]]


@dataclass(frozen=True)
class Shape:
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int


TARGET = Shape(hidden=256, layers=8, heads=8, kv_heads=4, head_dim=32, intermediate=704)
DRAFT = Shape(hidden=112, layers=2, heads=4, kv_heads=2, head_dim=32, intermediate=320)


@dataclass(frozen=True)
class Schedule:
    """`seconds` bounds the wall time: the learning rate then reaches its end early."""

    rate: float
    warmup: int = 150
    seconds: float = 1e9
    checks: int = 8
    decay: float = 0.1
    noise: float = 0.15


def new_model(shape: Shape, seed: int) -> Any:
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
    wanted = (item.labels[:, 1:] != IGNORED) & ~item.in_prompt[:, 1:]
    logits: torch.Tensor = model.lm_head(hidden[:, :-1][wanted])
    return logits.float()


def distillation_loss(target: Any, variation_weight: float) -> Loss:
    """KL(target || draft) plus the total variation, which is one minus the acceptance rate."""

    def loss(draft: Any, item: Batch) -> torch.Tensor:
        with torch.no_grad():
            target_log = completion_logits(target, item).log_softmax(-1)
        draft_log = completion_logits(draft, item).log_softmax(-1)
        target_probs = target_log.exp()
        divergence = (target_probs * (target_log - draft_log)).sum(-1).mean()
        variation = 0.5 * (target_probs - draft_log.exp()).abs().sum(-1).mean()
        return divergence + variation_weight * variation

    return loss


def optimizer_for(model: Any, schedule: Schedule, device: str) -> torch.optim.Optimizer:
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": schedule.decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=schedule.rate, betas=(0.9, 0.95), fused=device == "cuda")


def rate_at(schedule: Schedule, step: int, progress: float) -> float:
    """Linear warm-up, then a cosine down to a fiftieth."""
    warm = min(1.0, (step + 1) / schedule.warmup)
    return schedule.rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1, progress))))


@dataclass
class Fit:
    """What a training run reports; `checks` holds (share done, validation losses)."""

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    train_loss: float = 0.0
    best: int = 0
    checks: list[dict[str, float]] | None = None


def _step(model: Any, item: Batch, loss_of: Loss, optimizer: Any, device: str) -> torch.Tensor:
    with autocast(device):
        loss = loss_of(model, item)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach()


def fit(
    model: Any,
    tokens: Tokens,
    batches: Plan,
    loss_of: Loss,
    schedule: Schedule,
    check: Callable[[Any], dict[str, float]],
    pad: int,
) -> Fit:
    """Trains in place and leaves the model at its best check (by the sum of validation losses)."""
    device = tokens.flat.device.type
    optimizer = optimizer_for(model, schedule, device)
    report, began = Fit(checks=[]), time.monotonic()
    best_score, best_state = math.inf, None
    smooth, done, step = None, 0.0, 0
    next_check = 1 / schedule.checks
    while done < 1:
        width, rows = batches[step]
        item = batch(tokens, width, rows, pad)
        item.ids = corrupt(item.ids, item.in_prompt, tokens.noisy[rows], schedule.noise)
        for group in optimizer.param_groups:
            group["lr"] = rate_at(schedule, step, done)
        loss = _step(model, item, loss_of, optimizer, device)
        smooth = loss if smooth is None else 0.98 * smooth + 0.02 * loss
        step += 1
        report.tokens += width * len(rows)
        done = max(step / len(batches), (time.monotonic() - began) / schedule.seconds)
        if done >= next_check:
            next_check += 1 / schedule.checks
            scores = {"done": done, "train": float(smooth), **check(model)}
            report.checks.append(scores)  # type: ignore[union-attr]
            score = sum(v for k, v in scores.items() if k.startswith("validation"))
            print(f"step {step} {time.monotonic() - began:.0f}s", _rounded(scores), flush=True)
            if score < best_score and done > 0.3:
                best_score, report.best = score, step
                best_state = {k: v.detach().clone() for k, v in model.state_dict().items()}
    if best_state:
        model.load_state_dict(best_state)
    report.steps, report.seconds = step, time.monotonic() - began
    report.train_loss = float(smooth) if smooth is not None else math.nan
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
