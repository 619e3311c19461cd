"""What is left to chance in a generation: how its tokens are drawn, and what becomes of its drafts.

On a GPU a kernel draws every token, and for a method that has one a kernel verifies; both make their
random numbers in passing. What runs as torch operations, everything on a CPU and the other methods'
verification on a GPU, has its numbers drawn when the step begins. They are the same everywhere:
addressed by seed, position, purpose and slot (see `philox`).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from specbench.engine.slots import Slots
from specbench.sampling import draft as drafting
from specbench.sampling.cuda_methods import KernelSampler
from specbench.sampling.philox import Purpose
from specbench.sampling.registry import Method
from specbench.sampling.step import Numbers
from specbench.sampling.verifier import Verification, Verifier, check_vocabulary, draw_numbers

COLDEST_KEPT = 0.1
"""The lowest temperature at which the draft's log-normalisers are kept for verification: there their
rounding moves a probability by some 1e-5 of itself."""
KEPT_BYTES = 64 << 20
"""Device memory that verifiers may hold from one generation to the next. Making one takes time, but
those of `exact` are larger than the logits."""


class Sampler(Protocol):
    """Draws the tokens of one step after the other, by Gumbel-max.

    Attributes:
        tokens: (B, slots) int64, overwritten by the next step.
    """

    tokens: Tensor

    @property
    def lse(self) -> Tensor | None:
        """(B, slots) float32, the log-normaliser of each row that was drawn from, NaN if it has
        none; None where drawing does not find it."""

    def begin(self, purpose: Purpose, slots: int) -> None:
        """A step begins, which will draw so many tokens of each sequence."""

    def draw(self, logits: Tensor, slot: int) -> Tensor:
        """The column `tokens[:, slot]`, drawn from (B, V); an arbitrary id where a row is invalid."""

    def valid(self, logits: Tensor, slot: int) -> Tensor:
        """(B,) bool: whether the rows from which `slot` was drawn have a finite log-normaliser."""


class TorchSampler:
    """The sampler of torch operations."""

    lse = None

    def __init__(self, batch: Slots, draws: int, vocab_size: int, temperature: float) -> None:
        self.tokens = batch.tokens.new_zeros(batch.size, draws)
        self._batch, self._vocab_size = batch, vocab_size
        self._temperature = torch.full((batch.size,), temperature, device=batch.tokens.device)
        self._greedy = temperature == 0
        self._noise: Tensor | None = None

    def begin(self, purpose: Purpose, slots: int) -> None:
        """Draws the noise of all slots."""
        if self._greedy or slots == 0:
            return
        batch, numbered = self._batch, torch.arange(slots, device=self.tokens.device)
        self._noise = drafting.gumbel(
            batch.seeds, batch.lengths, purpose, numbered, self._vocab_size
        )

    def draw(self, logits: Tensor, slot: int) -> Tensor:
        """As of `Sampler`."""
        noise = None if self._noise is None else self._noise[:, slot]
        self.tokens[:, slot] = drafting.sample(logits, self._temperature, noise)
        return self.tokens[:, slot]

    def valid(self, logits: Tensor, slot: int) -> Tensor:
        """As of `Sampler`."""
        return logits.amax(-1).isfinite()


class GpuSampler:
    """The sampler of one kernel: a launch for each slot, nothing beforehand."""

    def __init__(self, kernel: KernelSampler, batch: Slots, draws: int, temperature: float) -> None:
        self.tokens = batch.tokens.new_zeros(batch.size, draws)
        self.lse = torch.zeros(batch.size, draws, device=batch.tokens.device)
        self._kernel, self._batch, self._temperature = kernel, batch, temperature
        self._purpose = Purpose.DRAFT

    def begin(self, purpose: Purpose, slots: int) -> None:
        """Draws nothing yet."""
        self._purpose = purpose

    def draw(self, logits: Tensor, slot: int) -> Tensor:
        """As of `Sampler`."""
        tokens, batch = self.tokens[:, slot], self._batch
        self._kernel(
            logits, tokens, self.lse[:, slot], temperature=self._temperature, seeds=batch.seeds,
            positions=batch.lengths, purpose=self._purpose, slot=slot,
        )  # fmt: skip
        return tokens

    def valid(self, logits: Tensor, slot: int) -> Tensor:
        """As of `Sampler`."""
        return ~self.lse[:, slot].isnan()


class Tools:
    """Verifiers and sampling kernels by shape, made when first asked for."""

    def __init__(self, vocab_size: int, dtype: torch.dtype, device: torch.device) -> None:
        self.vocab_size, self._dtype, self._device = vocab_size, dtype, device
        self._verifiers: dict[tuple[Method, int, int], Verifier] = {}
        self._samplers: dict[int, KernelSampler] = {}

    def verifier(self, method: Method, batch_size: int, gamma: int) -> Verifier:
        """The method's, for that shape."""
        key = method, batch_size, gamma
        if key not in self._verifiers:
            if sum(one.workspace_bytes for one in self._verifiers.values()) > KEPT_BYTES:
                self._verifiers.clear()
            self._verifiers[key] = Verifier(
                method, batch_size, gamma, self.vocab_size, self._dtype, self._device
            )
        return self._verifiers[key]

    def sampler(self, batch: Slots, draws: int, temperature: float) -> Sampler:
        """One for steps that draw so many tokens of each sequence at most.

        Raises:
            InputError: on a GPU, the vocabulary is larger than a kernel takes.
        """
        if self._device.type != "cuda":
            return TorchSampler(batch, draws, self.vocab_size, temperature)
        check_vocabulary(self.vocab_size)
        if batch.size not in self._samplers:
            self._samplers[batch.size] = KernelSampler(
                batch.size, self.vocab_size, self._dtype, self._device
            )
        return GpuSampler(self._samplers[batch.size], batch, draws, temperature)


class Chance:
    """Of one generation. For each step: `begin`, then `draft` slot by slot, then `decide`.

    Args:
        sampler: for at least one token of each sequence, and for as many as a step drafts.
        plain: no step has drafts: the method never comes into play.
        temperature: 0 is greedy.
        sigmoid_range: (alpha, beta) in logits, for the method `sigmoid`.
    """

    def __init__(
        self,
        tools: Tools,
        method: Method,
        batch: Slots,
        sampler: Sampler,
        temperature: float,
        sigmoid_range: tuple[float, float],
        *,
        plain: bool,
    ) -> None:
        self._batch, self._temperature, self._sigmoid_range = batch, temperature, sigmoid_range
        self._tools, self._method, self._plain = tools, method, plain
        self._sampler = sampler
        torch_ops = method.implementation_on(batch.tokens.device) == "torch"
        self.draws_beforehand = torch_ops and temperature > 0 and not plain
        """Whether `begin` draws numbers on the device."""
        self._verifier: Verifier | None = None
        self._numbers: Numbers | None = None

    def begin(self, gamma: int) -> None:
        """A step of γ drafts begins: draws in advance what torch operations will need."""
        if self._plain:
            self._sampler.begin(Purpose.RESIDUAL, 1)
            return
        self._sampler.begin(Purpose.DRAFT, gamma)
        self._verifier = self._tools.verifier(self._method, self._batch.size, gamma)
        self._numbers = self._draw_numbers(gamma) if self.draws_beforehand else None

    def draft(self, logits: Tensor, slot: int) -> Tensor:
        """(B,) int64: the step's draft number `slot`, from the draft's logits (B, V)."""
        return self._sampler.draw(logits, slot)

    def drafts(self, gamma: int) -> Tensor:
        """(B, γ) int64: what was drafted in this step; the next one overwrites it."""
        return self._sampler.tokens[:, :gamma]

    def decide(self, target_logits: Tensor, draft_logits: Tensor, offered: Tensor) -> Verification:
        """What becomes of the step's drafts.

        Args:
            target_logits: (B, γ+1, V).
            draft_logits: (B, γ, V), the rows that were drafted from.
            offered: (B,) int64, the drafts of each sequence that count.
        """
        if self._verifier is None:
            return self._from_target_alone(target_logits[:, 0])
        gamma = draft_logits.shape[1]
        # Colder, one float32 is too coarse for a log-normaliser: the rows are read again.
        lse = self._sampler.lse if self._temperature >= COLDEST_KEPT else None
        return self._verifier(
            target_logits, draft_logits, self.drafts(gamma), lengths=offered,
            temperature=self._temperature, seeds=self._batch.seeds, positions=self._batch.lengths,
            sigmoid_range=self._sigmoid_range, draft_lse=None if lse is None else lse[:, :gamma],
            numbers=self._numbers,
        )  # fmt: skip

    def in_use(self) -> object:
        """What the step's `decide` reads and writes besides its arguments: a captured one needs it."""
        return self._verifier, self._numbers

    def _from_target_alone(self, logits: Tensor) -> Verification:
        """One token from (B, V), the one that a verify step without drafts would emit."""
        token = self._sampler.draw(logits, 0)
        token = torch.where(self._sampler.valid(logits, 0), token, -1)
        return Verification(token[:, None], torch.zeros_like(token))

    def _draw_numbers(self, gamma: int) -> Numbers:
        batch = self._batch
        return draw_numbers(batch.seeds, batch.lengths, gamma, self._tools.vocab_size)
