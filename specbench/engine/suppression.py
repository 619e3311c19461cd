"""Tokens that a model must not say: Whisper's, for one, has signs of its training data among them.

They are masked in both models' logits before anything is drawn, so that what is verified are drafts for
the target's own, masked, law.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Suppression:
    """What transformers' configurations call `suppress_tokens` and `begin_suppress_tokens`.

    Args:
        always: ids that are never said.
        first: ids that are not said first, such as the end.
        vocab_size: V; ids past it are nobody's.
    """

    def __init__(
        self, always: Sequence[int], first: Sequence[int], vocab_size: int, device: torch.device
    ) -> None:
        self._always, self._first = (
            torch.zeros(vocab_size, dtype=torch.bool, device=device) for _ in range(2)
        )
        for mask, ids in ((self._always, always), (self._first, first)):
            known = [one for one in ids if 0 <= one < vocab_size]
            mask[torch.tensor(known, dtype=torch.int64, device=device)] = True

    def of(self, is_first: Tensor) -> Tensor:
        """(B, T, V) bool, where (B, T) says which tokens are a sequence's first."""
        return self._always | (self._first & is_first[..., None])
