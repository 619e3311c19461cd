"""The methods and the draft's sampling on a CUDA GPU, by the kernels of kernels/."""

from __future__ import annotations

import torch
from torch import Tensor

from specbench.cuda.launch import SampleLauncher, VerifyLauncher, draw_numbers
from specbench.sampling.philox import Purpose
from specbench.sampling.step import Numbers


class KernelVerifier:
    """One of the verify kernels for one shape: allocates nothing when called, and never syncs.

    `verify_exact` has its softmaxes done by torch first, which may allocate for a moment.

    Args:
        stem: the kernel's file in kernels/.
        text: compiled in the place of that file (a test's mutation).

    Raises:
        MachineError: the kernel cannot run here.
    """

    def __init__(
        self,
        stem: str,
        batch_size: int,
        gamma: int,
        vocab_size: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        text: str | None = None,
    ) -> None:
        self._launch = VerifyLauncher(stem, batch_size, gamma, vocab_size, dtype, device, text=text)
        self.tokens = torch.empty(batch_size, gamma + 1, dtype=torch.int64, device=device)
        self.accepted = torch.empty(batch_size, dtype=torch.int64, device=device)
        self._probabilities: list[Probabilities] = []
        if stem == "verify_exact":
            self._probabilities = [
                Probabilities((batch_size, rows, vocab_size), device) for rows in (gamma + 1, gamma)
            ]

    @property
    def wave(self) -> int | None:
        """Slots whose rows the kernel reads at once; None if it reads all."""
        slots = self.tokens.shape[1]
        return self._launch.grid.wave if self._launch.grid.wave < slots else None

    @property
    def workspace_bytes(self) -> int:
        """Device memory it owns, without the code."""
        own = sum(probabilities.nbytes for probabilities in self._probabilities)
        return self._launch.workspace_bytes + self.tokens.nbytes + self.accepted.nbytes + own

    def __call__(
        self,
        target_logits: Tensor,
        draft_logits: Tensor,
        draft_tokens: Tensor,
        *,
        lengths: Tensor | None,
        temperature: float | Tensor,
        seeds: int | Tensor,
        positions: int | Tensor,
        sigmoid_range: tuple[float, float],
        draft_lse: Tensor | None,
    ) -> None:
        """Writes `tokens` and `accepted`; the arguments are those of `specbench.verify`, checked."""
        probs: list[Tensor | None] = [None, None]
        if self._probabilities:
            fill_target, fill_draft = self._probabilities
            probs = [fill_target(target_logits, temperature), fill_draft(draft_logits, temperature)]
        self._launch(
            target_logits, draft_logits, draft_tokens, self.tokens, self.accepted,
            target_probs=probs[0], draft_probs=probs[1], lengths=lengths, temperature=temperature,
            seeds=seeds, positions=positions, draft_lse=draft_lse, sigmoid_range=sigmoid_range,
        )  # fmt: skip


class Probabilities:
    """softmax(logits / temperature) for `exact`, as torch operations into memory of its own."""

    def __init__(self, shape: tuple[int, int, int], device: torch.device) -> None:
        self._scaled = torch.empty(shape, device=device)
        self._probs = torch.empty(shape, device=device)

    @property
    def nbytes(self) -> int:
        """Of both buffers."""
        return self._scaled.nbytes + self._probs.nbytes

    def __call__(self, logits: Tensor, temperature: float | Tensor) -> Tensor:
        """(B, rows, V) float32, overwritten by the next call."""
        if isinstance(temperature, Tensor):
            safe = torch.where(temperature == 0, 1.0, temperature)
            torch.div(logits, safe.view(-1, 1, 1), out=self._scaled)
        elif temperature in (0, 1):
            if logits.dtype == torch.float32:
                return torch.softmax(logits, -1, out=self._probs)
            self._scaled.copy_(logits)
        else:
            self._scaled.copy_(logits).div_(temperature)
        return torch.softmax(self._scaled, -1, out=self._probs)


class KernelSampler:
    """Draws one token from each row, and keeps the rows' log-normalisers, in one launch.

    Raises:
        MachineError: the kernel cannot run here.
    """

    def __init__(
        self, batch_size: int, vocab_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._launch = SampleLauncher(batch_size, vocab_size, dtype, device)

    @property
    def workspace_bytes(self) -> int:
        """Device memory it owns, without the code."""
        return self._launch.workspace_bytes

    def __call__(
        self,
        logits: Tensor,
        tokens: Tensor,
        lse: Tensor,
        *,
        temperature: float | Tensor,
        seeds: int | Tensor,
        positions: int | Tensor,
        purpose: Purpose,
        slot: int,
    ) -> None:
        """Writes tokens (B,) int64 and lse (B,) float32 for logits (B, V), V contiguous.

        A row without a finite log-normaliser gives token 0 and NaN.
        """
        self._launch(
            logits, tokens, lse, temperature=temperature, seeds=seeds, positions=positions,
            purpose=int(purpose), slot=slot,
        )  # fmt: skip


def draw(seeds: Tensor, positions: Tensor, gamma: int, vocab_size: int) -> Numbers:
    """`step.draw` on a GPU by one kernel: the same bits, exponentials within 4e-6 of torch's."""
    batch, device = len(seeds), seeds.device
    uniforms = torch.empty(batch, gamma, device=device)
    exponentials = torch.empty(batch, vocab_size, device=device)
    draw_numbers(seeds, positions, uniforms, exponentials)
    return Numbers(uniforms, exponentials)
