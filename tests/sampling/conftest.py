"""Verify steps made of random logits, and the float64 reference beside them."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from specbench.sampling import philox


@dataclass
class Problem:
    """Arguments of `verify` for a batch: drafts really drawn from the draft's rows."""

    target_logits: Tensor
    draft_logits: Tensor
    draft_tokens: Tensor
    seeds: Tensor
    positions: Tensor

    def arguments(self):
        return (self.target_logits, self.draft_logits, self.draft_tokens)

    def numbers(self):
        return {"seeds": self.seeds, "positions": self.positions}

    def uniforms(self) -> Tensor:
        slots = torch.arange(self.draft_tokens.shape[1])
        word = philox.words(self.seeds, self.positions, philox.Purpose.ACCEPT, slots, 1)
        return philox.uniform(word[:, :, 0])

    def exponentials(self) -> Tensor:
        vocab = self.target_logits.shape[2]
        word = philox.words(
            self.seeds, self.positions, philox.Purpose.RESIDUAL, torch.tensor([0]), vocab
        )
        return philox.exponential(word[:, 0])


def make_problem(batch, gamma, vocab, *, dtype=torch.float32, noise=0.6, seed=0) -> Problem:
    """Gaussian logits of deviation 2.5; draft = target + noise; drafts drawn from the draft."""
    random = torch.Generator().manual_seed(seed)
    target = torch.randn(batch, gamma + 1, vocab, generator=random) * 2.5
    draft = (target[:, :gamma] + noise * torch.randn(batch, gamma, vocab, generator=random)).to(
        dtype
    )
    race = torch.rand(batch, gamma, vocab, generator=random, dtype=torch.float64).log() / (
        draft.double().softmax(-1)
    )
    return Problem(
        target.to(dtype),
        draft,
        race.argmax(-1),
        torch.arange(batch) * 7919 + seed,
        torch.arange(batch) * 13,
    )


@pytest.fixture
def problem():
    """The factory, for tests."""
    return make_problem
