"""Acceptance by dice, for models with random weights: what a verifier decides about them says nothing.

The models and the kernels do all their work; then this overrules them. What comes out is no text.
"""

from __future__ import annotations

import torch
from torch import Tensor

from specbench.sampling.verifier import Verification

THROWS = 1 << 16


class SyntheticAcceptance:
    """Accepts each draft with the same probability, independently, up to the first refusal.

    The throw belongs to the sequence's seed and the draft's position, so that methods and γ meet the
    same luck; no throw is looked at twice, since a step begins behind the last one that was.

    Args:
        rate: probability from 0 to 1.
    """

    def __init__(self, rate: float, device: torch.device) -> None:
        self._rate = rate
        self._throws = torch.rand(THROWS, generator=torch.Generator().manual_seed(0)).to(device)

    def overrule(
        self,
        result: Verification,
        draft_tokens: Tensor,
        offered: Tensor,
        seeds: Tensor,
        positions: Tensor,
    ) -> Verification:
        """The step's drafts up to the first that is refused, then the token that the verifier added.

        Args:
            result: what the verifier decided.
            draft_tokens: (B, γ) int64.
            offered, seeds, positions: (B,) int64.
        """
        slot = torch.arange(draft_tokens.shape[1] + 1, device=seeds.device)
        where = (seeds[:, None] * 40_503 + positions[:, None] + slot[:-1]) % THROWS
        kept = (self._throws[where] < self._rate) & (slot[:-1] < offered[:, None])
        accepted = kept.long().cumprod(1).sum(1)
        # −1 where there is none: rows of NaN are not made good by dice.
        added = result.tokens.gather(1, result.num_accepted[:, None])
        drafts = torch.cat([draft_tokens, added], 1)
        tokens = torch.where(slot == accepted[:, None], added, drafts)
        return Verification(tokens.masked_fill(slot > accepted[:, None], -1), accepted)
