"""For scripts of others: transformers' assisted generation, with a method of ours as its sampler.

    with specbench.transformers.use("fused") as verified:
        model.generate(**inputs, assistant_model=draft, do_sample=True)
    print(verified.accepted / verified.drafted, verified.verify_s)

`import specbench` is all that it needs.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from specbench.engine.assisted import StandIn, check_transformers, standing_in
from specbench.engine.observer import Phase, Silent
from specbench.sampling.names import SIGMOID_RANGE
from specbench.sampling.registry import Method, get_method

__all__ = ["Verified", "use"]


def use(
    method: str | Method = "fused",
    *,
    sigmoid_range: tuple[float, float] = SIGMOID_RANGE,
    seed: int | None = None,
) -> AbstractContextManager[Verified]:
    """Gives `model.generate(assistant_model=…)` a method for its sampler, while the block lasts.

    Drafts of a second model with the target's tokens are verified, sampled or greedy, one sequence at a
    time. Prompt lookup, early exit, multi-token prediction and a draft with a tokenizer of its own stay
    transformers' affair, and so does all else of a generation: drafts are drawn from torch's generator,
    and tempered twice, which costs acceptance and changes no law. But Whisper's own `generate` is told
    the temperature when it drafts, else it would draft greedily and nothing could keep the law; and no
    more than 128 drafts are made in a step.

    The block counts for its own thread; others go on as before. Blocks may be nested, the inner one
    decides. However a block is left, transformers has its functions back.

    Args:
        method: a name of `specbench.methods()`, or a `Method`.
        sigmoid_range: (alpha, beta) in logits, for the method `sigmoid`.
        seed: of the verifier's random numbers: each generation of the block has others, and a block of
            the same seed has the same again. None draws one from torch's generator, so that
            `torch.manual_seed` is enough; two blocks of one seed are not independent.

    Returns:
        A context manager for one block; `as` gives what was `Verified` in it so far.

    Raises:
        InputError: an unknown method. In the block: rows that are no distribution, a sigmoid range
            that is none, `assistant_ensemble_weight`.
        MachineError: the installed transformers decides about drafts in a way that is not known. In the
            block: the method's kernel cannot run.
    """
    chosen = get_method(method) if isinstance(method, str) else method
    check_transformers()
    return _used(chosen, sigmoid_range, seed)


@contextmanager
def _used(
    method: Method, sigmoid_range: tuple[float, float], seed: int | None
) -> Iterator[Verified]:
    if seed is None:
        seed = int(torch.randint(2**62, ()))
    verified = Verified(seed)
    with standing_in(StandIn(method, sigmoid_range, verified._clock, verified._counter)):
        yield verified


class Verified:
    """What a block has verified so far.

    Attributes:
        generations: calls of `generate` that drafted.
        steps: verify steps, those without drafts included.
        drafted, accepted: tokens; an accepted end token counts.
    """

    def __init__(self, seed: int) -> None:
        self.generations = self.steps = self.drafted = self.accepted = 0
        self._clock = _Clock()
        self._counter = _Counter(self, seed)

    @property
    def verify_s(self) -> float:
        """Seconds that verification took, random numbers for torch operations left out: on a GPU in the
        stream, which is waited for now; on a CPU on the host."""
        return self._clock.seconds()

    def __repr__(self) -> str:
        counts = f"generations={self.generations}, steps={self.steps}, drafted={self.drafted}"
        return f"Verified({counts}, accepted={self.accepted}, verify_s={self.verify_s:.6f})"


class _Counter:
    """The stand-in's listener."""

    def __init__(self, verified: Verified, seed: int) -> None:
        self._verified, self._seed = verified, seed

    def begin(self, device: torch.device) -> int:
        """A seed for each generation: equal ones would meet equal numbers at equal lengths."""
        self._verified._clock.device = device
        digest = hashlib.sha256(f"{self._seed}/{self._verified.generations}".encode()).digest()
        self._verified.generations += 1
        return int.from_bytes(digest[:8], "big") >> 1

    def step(self, drafted: int, accepted: int, tokens: list[int]) -> None:
        """As of `Listener`."""
        self._verified.steps += 1
        self._verified.drafted += drafted
        self._verified.accepted += accepted


class _Clock(Silent):
    """Measures one phase: from the numbers' mark to verification's."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self._seconds = 0.0
        self._begin: float | torch.cuda.Event = 0.0
        self._pending: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def mark(self, phase: Phase) -> None:
        """As of `Observer`."""
        if phase == "random":
            self._begin = self._now()
        elif phase == "verify":
            self._add(self._now())

    def seconds(self) -> float:
        """So far."""
        if self._pending:
            self._pending[-1][1].synchronize()
        self._fold()
        return self._seconds

    def _fold(self) -> None:
        """Adds what is over, lest events pile up."""
        while self._pending and self._pending[0][1].query():
            begin, end = self._pending.pop(0)
            self._seconds += begin.elapsed_time(end) / 1e3

    def _now(self) -> float | torch.cuda.Event:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def _add(self, end: float | torch.cuda.Event) -> None:
        if isinstance(self._begin, float) and isinstance(end, float):
            self._seconds += end - self._begin
        elif isinstance(self._begin, torch.cuda.Event) and isinstance(end, torch.cuda.Event):
            self._fold()
            self._pending.append((self._begin, end))
