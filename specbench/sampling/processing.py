"""Logits processing that the draft and the target share: top-k, top-p and vocabularies of two sizes.

All of it only masks with −inf, so the temperature stays inside sampling and verification. Draft
tokens must be drawn from, and verified against, the very rows these functions return: any difference
between the two breaks the output law and nothing crashes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from specbench.sampling.draft import scale


def process(
    logits: Tensor,
    vocab_size: int,
    temperature: Tensor,
    top_k: int | None,
    top_p: float | None,
    *,
    shared: int | None = None,
    suppressed: Tensor | None = None,
) -> Tensor:
    """Masks logits the way transformers does: suppressed tokens, top-k, then top-p of what is left.

    Args:
        logits: (B, T, V') of either model.
        vocab_size: V, of what comes out. Missing entries (padded embeddings differ in size) become −inf,
            surplus ones are dropped.
        shared: entries from this one on, which only one of the models has and no tokenizer
            produces, become −inf; None masks none.
        suppressed: bool, broadcast to (B, T, V): tokens that must not be said there.
        temperature: (B,) float32; top-p is taken after it.
        top_k: keep this many, and what ties with the last of them; None keeps all.
        top_p: keep the smallest set whose probability reaches this; None keeps all.

    Returns:
        (B, T, V), same dtype.
    """
    if (missing := vocab_size - logits.shape[-1]) > 0:
        logits = pad(logits, (0, missing), value=-torch.inf)
    logits = logits[..., :vocab_size]
    if shared is not None and shared < vocab_size:
        surplus = torch.arange(vocab_size, device=logits.device) >= shared
        logits = logits.masked_fill(surplus, -torch.inf)
    if suppressed is not None:
        logits = logits.masked_fill(suppressed, -torch.inf)
    if top_k is not None and top_k < vocab_size:
        least = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p is not None and top_p < 1:
        logits = logits.masked_fill(_outside_nucleus(logits, temperature, top_p), -torch.inf)
    return logits


def _outside_nucleus(logits: Tensor, temperature: Tensor, top_p: float) -> Tensor:
    values, order = scale(logits, temperature).sort(dim=-1, descending=True)
    probs = values.softmax(-1)
    # A token stays if what stands before it has not reached top_p yet, so the first always stays.
    outside = probs.cumsum(-1) - probs >= top_p
    return outside.scatter(-1, order, outside)
