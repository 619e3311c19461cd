"""γ policies: how many tokens to draft in the next step.

A policy persists across the sequences of a case, so its state carries from one sample to the next,
as transformers' own schedule does. Report the γ actually drafted: where acceptance is near total,
`heuristic` inflates γ, and per-step times under it are not comparable between methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from specbench.errors import InputError
from specbench.sampling.names import MAX_GAMMA, POLICIES


class GammaPolicy(Protocol):
    """`gamma` is the number of tokens to draft next; `update` learns from a step."""

    gamma: int
    limit: int
    """The largest γ this policy can ever ask for; caches are sized by it."""

    def update(self, accepted: Sequence[int], offered: Sequence[int]) -> None:
        """Takes, for each sequence that ran in the step, the drafts kept and those offered.

        Fewer than γ are offered before the token limit, and where a draft ends its sequence.
        """


class Fixed:
    """Always the same γ; 0 is plain autoregressive decoding."""

    def __init__(self, gamma: int) -> None:
        self.gamma = self.limit = gamma

    def update(self, accepted: Sequence[int], offered: Sequence[int]) -> None:
        """Learns nothing."""


class Heuristic:
    """transformers' schedule: all accepted → γ + 2, else max(1, γ − 1); starts at 5.

    In a batch, all must have accepted all. Capped at 128, which transformers does not do.
    """

    limit = MAX_GAMMA

    def __init__(self, gamma: int = 5) -> None:
        self.gamma = gamma

    def update(self, accepted: Sequence[int], offered: Sequence[int]) -> None:
        """Grows if all that was offered was accepted, as transformers counts it; shrinks otherwise."""
        if list(accepted) == list(offered):
            self.gamma = min(self.gamma + 2, self.limit)
        else:
            self.gamma = max(1, self.gamma - 1)


class Bass:
    """BASS (2404.15778), Algorithm 1: one draft length l for the whole batch.

    l = 7 and s = 0. After a step with accepted counts x: if max x = l, then l = min(l + 2, 32) and
    s = 0; else l = max(1, max x, l − ⌈l/10⌉ − s) and s = 1.
    """

    limit = 32

    def __init__(self) -> None:
        self.gamma = 7
        self._shrinking = 0

    def update(self, accepted: Sequence[int], offered: Sequence[int]) -> None:
        """Applies the rule above."""
        most = max(accepted, default=0)
        if most >= self.gamma:
            self.gamma, self._shrinking = min(self.gamma + 2, self.limit), 0
        else:
            shrunk = self.gamma - -(-self.gamma // 10) - self._shrinking
            self.gamma, self._shrinking = max(1, most, shrunk), 1


def make_policy(gamma: str) -> GammaPolicy:
    """The policy named by a scenario's γ: "heuristic", "bass", or a number from 0 to 128.

    Raises:
        InputError: any other text.
    """
    if gamma == "heuristic":
        return Heuristic()
    if gamma == "bass":
        return Bass()
    if gamma.isdecimal() and int(gamma) <= MAX_GAMMA:
        return Fixed(int(gamma))
    raise InputError(
        f"gamma {gamma!r} is not a number from 0 to {MAX_GAMMA} and no policy",
        f"The policies are {' and '.join(POLICIES)}.",
    )
