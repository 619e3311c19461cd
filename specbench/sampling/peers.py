"""Verification kernels of other projects as methods, to be measured beside ours.

FlashInfer, as of 0.7.2: `flashinfer.sampling`. vLLM, as of 0.33.0: the rejection sampler of its model
runner, `vllm.v1.worker.gpu.spec_decode`, which reads logits and draws the bonus token itself (the
older one, `vllm.v1.sample.rejection_sampler`, gets probabilities and the bonus token from outside).

Both have random generators of their own, so their tokens are not those of our methods; they are
seeded from the step's numbers, so that equal seeds and positions still give equal tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor

from specbench.errors import InputError
from specbench.sampling import step as shared
from specbench.sampling.registry import Method
from specbench.sampling.step import Step


def verify_flashinfer(step: Step) -> tuple[Tensor, Tensor]:
    """FlashInfer's softmax over all rows, then its chain speculative sampling.

    Returns:
        num_accepted (B,), next_token (B,); int64.

    Raises:
        InputError: the tensors are not on a GPU.
    """
    call = bind_flashinfer(step)
    if step.gamma == 0:
        probs = _softmax(step.target_logits, step)[:, 0]
        return step.lengths, shared.emit(probs, probs, step)
    target_probs, tokens, accepted = call()
    accepted = accepted.long()
    token = tokens.gather(1, accepted[:, None])[:, 0].long()
    return _within_lengths(step, target_probs, accepted, token)


def bind_flashinfer(step: Step) -> Callable[[], tuple[Tensor, Tensor, Tensor]]:
    """The call that its users make: (target's probabilities, tokens (B, γ+1), accepted (B,))."""
    _require_gpu("flashinfer", step)
    from flashinfer.sampling import chain_speculative_sampling

    seeds, drafts = _seeds(step), step.draft_tokens.clamp(0, step.vocab_size - 1)
    offset = torch.zeros_like(seeds)

    def call() -> tuple[Tensor, Tensor, Tensor]:
        draft_probs = _softmax(step.draft_logits, step)
        target_probs = _softmax(step.target_logits, step)
        tokens, _, accepted = chain_speculative_sampling(
            draft_probs, drafts, target_probs, seed=seeds, offset=offset
        )
        return target_probs, tokens, accepted

    return call


def verify_vllm(step: Step, block: bool = False) -> tuple[Tensor, Tensor]:
    """vLLM's rejection sampling straight from logits; padding is its placeholder token, −1.

    Args:
        block: block verification (2403.10444) in the place of token-by-token verification.

    Returns:
        num_accepted (B,), next_token (B,); int64.

    Raises:
        InputError: the tensors are not on a GPU.
    """
    tokens, emitted = bind_vllm(step, block)()
    accepted = emitted.long() - 1
    return accepted, tokens.gather(1, accepted[:, None])[:, 0]


def bind_vllm(step: Step, block: bool = False) -> Callable[[], tuple[Tensor, Tensor]]:
    """The call that its users make: tokens (B, γ+1), emitted (B,)."""
    _require_gpu("vllm", step)
    from vllm.v1.worker.gpu.spec_decode.rejection_sampler_utils import rejection_sample

    layout = _layout(*step.target_logits.shape[:2], step.target_logits.device)
    target_logits = step.target_logits
    if step.tempered:  # the draft's logits vLLM divides itself
        target_logits = target_logits / step.temperature[:, None, None]
    drafts = step.draft_tokens.clamp(max=step.vocab_size - 1)
    drafts = torch.where(layout.slots < step.lengths[:, None], drafts, -1)
    return partial(
        rejection_sample,
        target_logits.flatten(0, 1),
        step.draft_logits,
        torch.cat(
            [step.lengths[:, None], drafts], 1
        ).flatten(),  # a row's own draft is the next entry
        layout.starts,
        layout.positions,
        layout.sequences,
        layout.sequence_of_row,
        layout.slot_of_row,
        step.temperature,
        _seeds(step),
        step.gamma,
        use_block_verification=block,
    )


_VLLM_LEAVES_OUT = (
    "temperature of the target, divided outside unless it is 1; "
    "its own random numbers: no comparison token by token; an invalid row emits a token"
)
FLASHINFER = Method(
    "flashinfer", True, "probs", 1, "flashinfer 0.7.2", "FlashInfer's chain speculative sampling",
    verify_flashinfer, "token", package="flashinfer-python",
    leaves_out="needs softmax first (its own, counted); ragged lengths, which the host must look for; "
    "its own random numbers: no comparison token by token; an invalid row emits a token",
    bind=bind_flashinfer,
)  # fmt: skip
VLLM = Method(
    "vllm", True, "logits", 4, "vllm 0.33.0", "vLLM's rejection sampler in Triton",
    verify_vllm, "token", package="vllm", leaves_out=_VLLM_LEAVES_OUT, bind=bind_vllm,
)  # fmt: skip
VLLM_BLOCK = Method(
    "vllm-block", True, "logits", 6, "vllm 0.33.0", "vLLM's block verification in Triton",
    partial(verify_vllm, block=True), "block", package="vllm", leaves_out=_VLLM_LEAVES_OUT,
    bind=partial(bind_vllm, block=True),
)  # fmt: skip


def _require_gpu(name: str, step: Step) -> None:
    device = step.target_logits.device
    if device.type != "cuda":
        raise InputError(f"method {name!r} got tensors on {device}", "It runs on a CUDA GPU alone.")


def _seeds(step: Step) -> Tensor:
    """(B,) int64: the bits of two of the step's numbers, which a peer uses in no other way."""
    numbers = step.numbers.exponentials
    return torch.cat([numbers[:, :1], numbers[:, -1:]], 1).view(torch.int64)[:, 0]


def _softmax(logits: Tensor, step: Step) -> Tensor:
    """FlashInfer's: (B, R, V) float32 probabilities."""
    from flashinfer.sampling import softmax

    rows = step.temperature.repeat_interleave(logits.shape[1]) if step.tempered else None
    probs: Tensor = softmax(logits.flatten(0, 1).contiguous(), rows)
    return probs.view(logits.shape)


def _within_lengths(
    step: Step, target_probs: Tensor, accepted: Tensor, token: Tensor
) -> tuple[Tensor, Tensor]:
    """Ends each sequence at its own length, which FlashInfer takes to be γ.

    Nothing to do in the usual case, but only the host can leave it out, so it looks: except in a
    graph capture, which must do for all lengths to come.
    """
    if not torch.cuda.is_current_stream_capturing() and bool((step.lengths == step.gamma).all()):
        return accepted, token
    kept = torch.minimum(accepted, step.lengths)
    row = shared.stop_row(target_probs, kept)
    bonus = (accepted >= step.lengths) & (step.lengths < step.gamma)
    return kept, torch.where(bonus, shared.emit(row, row, step), token)


@dataclass(frozen=True)
class _Layout:
    """How vLLM addresses the B·(γ+1) rows of a batch in which every sequence has γ+1.

    slots: (γ,) int64. starts: (B+1,) int32, first row of each sequence. sequences: (B,) int32.
    sequence_of_row, slot_of_row: (B·(γ+1),) int32. positions: the latter as int64.
    """

    slots: Tensor
    starts: Tensor
    sequences: Tensor
    sequence_of_row: Tensor
    slot_of_row: Tensor
    positions: Tensor


@cache
def _layout(batch: int, rows: int, device: torch.device) -> _Layout:
    sequences = torch.arange(batch, dtype=torch.int32, device=device)
    slots = torch.arange(rows, dtype=torch.int32, device=device)
    return _Layout(
        slots=slots[:-1].long(),
        starts=torch.arange(batch + 1, dtype=torch.int32, device=device) * rows,
        sequences=sequences,
        sequence_of_row=sequences.repeat_interleave(rows),
        slot_of_row=slots.repeat(batch),
        positions=slots.repeat(batch).long(),
    )
