"""What is known of a sequence afterwards: how likely it is, and how far its law was from the target's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from specbench.engine.batch import Generation, Request
from specbench.engine.decoding import Decoding
from specbench.engine.model import CausalModel
from specbench.engine.speech import SpeechModel
from specbench.engine.suppression import Suppression
from specbench.engine.workspace import rounded
from specbench.sampling.deviation import sigmoid_variation
from specbench.sampling.processing import process


@torch.no_grad()
def log_probability(
    target: CausalModel, request: Request, new_tokens: Sequence[int]
) -> float | None:
    """Mean log-probability (nats) of the new tokens under the target at temperature 1, unmasked.

    None if there are none.
    """
    if not new_tokens:
        return None
    logits = _rows(target, request, new_tokens).double().log_softmax(-1)
    chosen = torch.tensor(new_tokens, device=target.device)[:, None]
    return float(logits.gather(1, chosen).mean())


@torch.no_grad()
def sigmoid_law_variation(
    target: CausalModel,
    draft: CausalModel,
    request: Request,
    generation: Generation,
    decoding: Decoding,
    suppression: Suppression | None = None,
) -> float | None:
    """Total variation from the target of the laws by which `sigmoid` emitted the tokens, their mean.

    Each token's law is exact, given the text before it and its place in its step: see
    `sampling.deviation`. What comes of that for the text as a whole is more.

    Args:
        generation: of the method `sigmoid` with drafts.

    Returns:
        from 0 to 1; None if there are no tokens, or rows that are no distribution.
    """
    if not generation.tokens:
        return None
    shared = min(target.vocab_size, draft.vocab_size)
    warmth = torch.full((1,), decoding.temperature, device=target.device)
    is_first = torch.arange(len(generation.tokens), device=target.device)[None] == 0
    suppressed = None if suppression is None else suppression.of(is_first)
    rows = [
        process(
            _rows(model, request, generation.tokens)[None].to(target.dtype), target.vocab_size, warmth,
            decoding.top_k, decoding.top_p, shared=shared, suppressed=suppressed,
        )[0]
        for model in (target, draft)
    ]  # fmt: skip
    found = sigmoid_variation(
        rows[0], rows[1], _bonus(generation).to(target.device), decoding.temperature,
        decoding.sigmoid_range,
    ).mean()  # fmt: skip
    return float(found) if found.isfinite() else None


def _bonus(generation: Generation) -> Tensor:
    """(T,) bool: the tokens that no draft stood in for, each step's last if all its drafts were kept."""
    found: list[bool] = []
    for offered, accepted in zip(generation.step_drafted, generation.step_accepted, strict=True):
        found += [False] * accepted + [accepted == offered]
    return torch.tensor(found[: len(generation.tokens)])


def _rows(model: CausalModel, request: Request, new_tokens: Sequence[int]) -> Tensor:
    """(T, V) logits, unprocessed, from which each of T new tokens might have been drawn."""
    tokens = torch.tensor([[*request.prompt, *new_tokens]], device=model.device)
    length = tokens.shape[1]
    positions = torch.arange(length, device=tokens.device)[None]
    cache = model.new_cache(1, rounded(length))
    if request.features is not None:
        assert isinstance(model, SpeechModel)
        model.allocate(cache)
        model.listen(model.encode(request.features[None]), cache)
    return model.forward(tokens, positions, cache, [length], keep=len(new_tokens) + 1)[0, :-1]
