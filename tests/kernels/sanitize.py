"""One small call of every kernel for every dtype, to be run under compute-sanitizer (`make sanitize`).

Rows that are not aligned, greedy and ragged sequences, block verification with many stops, kept
log-normalisers, one thread block and many. Prints "ok"; what is decided is the tests' affair.
"""

from __future__ import annotations

import torch
from torch import Tensor

from specbench.cuda.launch import Grid, VerifyLauncher
from specbench.sampling import cuda_methods
from specbench.sampling.philox import Purpose

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
STEMS = ("verify_exact", "verify_sigmoid", "verify_fused", "verify_block")
SHAPES = ((1, 0, 1), (3, 2, 37), (4, 40, 133), (2, 3, 2051))
"""B, γ, V; 40 drafts for more stops than warps."""
GRIDS = (Grid(1, 1), Grid(2, 3, 5), Grid(1, 9, 16), Grid(4, 2, 3, stops_at_once=2))
LAUNCHES = 3
"""Of each launcher: both halves of its mail, and the first one again."""


def main() -> None:
    """Everything once."""
    for dtype in DTYPES:
        for batch, gamma, vocab in SHAPES:
            for stem in STEMS:
                for grid in GRIDS:
                    verify(stem, batch, gamma, vocab, dtype, grid)
                if stem == "verify_fused" and gamma > 0:
                    verify(stem, batch, gamma, vocab, dtype, Grid(2, 3, 4, wave=1))
            sample(batch, vocab, dtype)
            cuda_methods.draw(counts(batch), counts(batch), gamma, vocab)
    torch.cuda.synchronize()
    print("ok")  # noqa: T201


def verify(stem: str, batch: int, gamma: int, vocab: int, dtype: torch.dtype, grid: Grid) -> None:
    """Sampled, greedy and ragged sequences in one batch, with and without kept log-normalisers."""
    launcher = VerifyLauncher(stem, batch, gamma, vocab, dtype, torch.device("cuda"), grid=grid)
    target, draft = rows(batch, gamma + 1, vocab, dtype), rows(batch, gamma, vocab, dtype)
    draft[:, : gamma // 2] = target[:, : gamma // 2] + 0.125  # the same law: all is accepted there
    drafts = target[:, :-1].argmax(-1)
    drafts[:, gamma - gamma // 4 :] = vocab  # no id
    temperature = torch.tensor([1.0, 0.0, 0.5, 1.0], device="cuda")[:batch]
    tokens, accepted = drafts.new_zeros(batch, gamma + 1), drafts.new_zeros(batch)
    probs = [part.float().softmax(-1).contiguous() for part in (target, draft)]
    for lse in (None, draft.float().logsumexp(-1)):
        for lengths in (None, gamma - counts(batch).clamp(max=gamma)):
            for _ in range(LAUNCHES):
                launcher(
                    target, draft, drafts, tokens, accepted, target_probs=probs[0],
                    draft_probs=probs[1], lengths=lengths, temperature=temperature,
                    seeds=counts(batch), positions=5, draft_lse=lse, sigmoid_range=(-10.0, 10.0),
                )  # fmt: skip


def sample(batch: int, vocab: int, dtype: torch.dtype) -> None:
    """Rows of any alignment into strided outputs."""
    sampler = cuda_methods.KernelSampler(batch, vocab, dtype, torch.device("cuda"))
    tokens = torch.zeros(batch, 2, dtype=torch.int64, device="cuda")
    lse = torch.zeros(batch, 2, device="cuda")
    for temperature in (0.0, 1.0):
        for slot in range(LAUNCHES):
            sampler(
                rows(batch, 1, vocab, dtype)[:, 0], tokens[:, 1], lse[:, 1], temperature=temperature,
                seeds=counts(batch), positions=counts(batch), purpose=Purpose.DRAFT, slot=slot,
            )  # fmt: skip


def rows(batch: int, count: int, vocab: int, dtype: torch.dtype) -> Tensor:
    """Logits that begin one element off an aligned address and lie wider apart than V."""
    wide = torch.zeros(batch, count, vocab + 4, dtype=dtype, device="cuda")
    view = wide[:, :, 1 : vocab + 1]
    return view.copy_(torch.randn(batch, count, vocab, device="cuda") * 2)


def counts(batch: int) -> Tensor:
    """0…B−1."""
    return torch.arange(batch, device="cuda")


if __name__ == "__main__":
    main()
