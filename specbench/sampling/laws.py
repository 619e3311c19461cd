"""The methods `exact`, `sigmoid`, `fused` and `block` as laws in torch, on any device.

Each function takes a checked `Step` and returns (num_accepted (B,), next_token (B,)), both int64;
next_token is −1 where the target's row is invalid (see `step`). They read the same Philox numbers
as the CUDA kernels of the same name, so the two can be compared token by token.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from specbench.sampling import step as shared
from specbench.sampling.step import Step

SEGMENT = 1024
"""Vocabulary entries of one segment of `exact`: a thread block's share in the paper."""


def verify_exact(step: Step) -> tuple[Tensor, Tensor]:
    """The paper's first method (2406.11016): softmax outside, then everything by vocabulary segment.

    τ(x) = min(1, p/q) at the drafts, a(x) = max(0, p − q) and its normaliser b = Σ_k b_k, where b_k
    is the part of segment k. An empty b leaves the target row to be sampled.
    """
    target_probs = shared.scaled(step.target_logits, step).softmax(-1)
    draft_probs = shared.scaled(step.draft_logits, step).softmax(-1)
    uniforms = step.numbers.uniforms
    accept = uniforms * shared.at_tokens(draft_probs, step) < shared.at_tokens(target_probs, step)
    accepted = shared.leading(accept & shared.real_drafts(step))

    target = shared.stop_row(target_probs, accepted)
    draft = shared.where_drafted(shared.stop_row(draft_probs, accepted), accepted, step)
    differences = (target - draft).clamp(min=0)
    segments = pad(differences, (0, -step.vocab_size % SEGMENT)).unflatten(1, (-1, SEGMENT))
    normaliser = segments.sum(2).sum(1, keepdim=True)
    return accepted, shared.emit(differences / normaliser, target, step)


def verify_sigmoid(step: Step) -> tuple[Tensor, Tensor]:
    """The paper's second method (2406.11016): σ((z − α)/(β − α)) in the place of softmax.

    An approximation: the weights are not normalised and nearly flat for a wide range, so the output
    law is not the target's. A logit below α weighs 0 and one above β, +inf too, weighs 1. Only the
    drafted entries and the row where a sequence stops are ever looked at, so what is wrong elsewhere
    in a row goes unnoticed; a stop row with a NaN, or with every logit below α, emits no token (−1).
    """
    target_at = _sigmoid(shared.at_tokens(step.target_logits, step), step)
    draft_at = _sigmoid(shared.at_tokens(step.draft_logits, step), step)
    accept = step.numbers.uniforms * draft_at < target_at
    accepted = shared.leading(accept & shared.real_drafts(step))

    target = _sigmoid(shared.stop_row(step.target_logits, accepted), step)
    draft = _sigmoid(shared.stop_row(step.draft_logits, accepted), step)
    draft = shared.where_drafted(draft, accepted, step)
    return accepted, shared.emit((target - draft).clamp(min=0), target, step)


def _sigmoid(logits: Tensor, step: Step) -> Tensor:
    alpha, beta = step.sigmoid_range
    scaled = shared.scaled(logits, step)
    weights = ((scaled - alpha) / (beta - alpha)).sigmoid()
    return weights.masked_fill(scaled < alpha, 0).masked_fill(scaled > beta, 1)


def verify_fused(step: Step) -> tuple[Tensor, Tensor]:
    """Ours: exact, straight from logits. No probability tensor is ever built.

    Each row needs only its log-normaliser, log Σ exp(z). The acceptance test compares
    u · q(x) < p(x) from those, and a residual is computed for the one row where a sequence stops.
    """
    target_logits = shared.scaled(step.target_logits, step)
    draft_logits = shared.scaled(step.draft_logits, step)
    target_lse, draft_lse = target_logits.logsumexp(-1), draft_logits.logsumexp(-1)
    target_at = (shared.at_tokens(target_logits, step) - target_lse[:, : step.gamma]).exp()
    draft_at = (shared.at_tokens(draft_logits, step) - draft_lse).exp()
    accept = step.numbers.uniforms * draft_at < target_at
    accepted = shared.leading(accept & shared.real_drafts(step))

    target = shared.stop_row(target_logits, accepted).softmax(1)
    draft = shared.stop_row(draft_logits, accepted).softmax(1)
    draft = shared.where_drafted(draft, accepted, step)
    return accepted, shared.emit((target - draft).clamp(min=0), target, step)


def verify_block(step: Step) -> tuple[Tensor, Tensor]:
    """Block verification (Sun et al., 2403.10444): exact, and accepts at least as many in expectation.

    P_0 = 1; P_i = min(1, P_{i−1} p(x_i)/q(x_i)); Z_i = Σ max(0, P_i p(·|x_≤i) − q(·|x_≤i)) and
    h_i = Z_i / (Z_i + 1 − P_i) for i < γ (0/0 is 1), h_γ = P_γ. The accepted count is the largest i
    with η_i < h_i, else 0; then a token ∝ max(0, P_i p − q), or the bonus token from p at i = γ.
    """
    target_probs = shared.scaled(step.target_logits, step).softmax(-1)
    draft_probs = shared.scaled(step.draft_logits, step).softmax(-1)
    prefix = block_prefix(target_probs, draft_probs, step)
    accepted = _block_accepted(target_probs, draft_probs, prefix, step)

    target = shared.stop_row(target_probs, accepted)
    draft = shared.where_drafted(shared.stop_row(draft_probs, accepted), accepted, step)
    weight = prefix.gather(1, accepted[:, None])
    # Divided by P, so that "numerically empty" means the same however small the prefix has become.
    residual = (target - draft / weight.clamp(min=shared.EMPTY)).clamp(min=0)
    return accepted, shared.emit(residual, target, step)


def block_prefix(target_probs: Tensor, draft_probs: Tensor, step: Step) -> Tensor:
    """(B, γ+1) float32: P_0 … P_γ. What is padding or invalid counts as a ratio of 0."""
    ratio = shared.at_tokens(target_probs, step) / shared.at_tokens(draft_probs, step)
    ratio = ratio.masked_fill(ratio.isnan() | ~shared.real_drafts(step), 0)
    prefix = [torch.ones_like(step.temperature)]
    for i in range(step.gamma):
        # A draft of probability 0 gives ratio inf; 0 · inf must stay 0: nothing follows a dead prefix.
        grown = torch.where(prefix[-1] > 0, prefix[-1] * ratio[:, i], 0)
        prefix.append(grown.clamp(max=1))
    return torch.stack(prefix, 1)


def _block_accepted(
    target_probs: Tensor, draft_probs: Tensor, prefix: Tensor, step: Step
) -> Tensor:
    if step.gamma == 0:
        return torch.zeros_like(step.lengths)
    # Row i holds what follows x_≤i: Z_1 … Z_{γ−1}. Z_0 is not needed, since stopping at 0 is the rest.
    draft = draft_probs[:, 1:].nan_to_num(0)
    excess = (prefix[:, 1:-1, None] * target_probs[:, 1:-1] - draft).clamp(min=0).sum(-1)
    rest = 1 - prefix[:, 1:-1]
    partial = torch.where((excess == 0) & (rest == 0), 1, excess / (excess + rest))
    threshold = torch.cat([partial, prefix[:, -1:]], 1)
    count = torch.arange(1, step.gamma + 1, device=step.lengths.device)
    # An invalid target row ends the step where token-by-token verification would end it.
    valid = shared.leading(~target_probs[:, : step.gamma, 0].isnan())
    last = torch.minimum(step.lengths, valid)[:, None]
    threshold = torch.where(count == last, prefix[:, 1:], threshold)
    passed = (step.numbers.uniforms < threshold) & (count <= last)
    return (passed * count).amax(1)
