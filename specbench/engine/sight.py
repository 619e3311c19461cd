"""Where tokens stand and what they may see, as a model wants to hear it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Sight:
    """Of (B, T) tokens.

    Attributes:
        places: (B, T) int64, positions as the model counts them. Nowhere is a slot of the cache, not a
            position: it is 0 here, since learned positions end before it.
        mask: (B, 1, T, window): 0 where a token may attend, −inf elsewhere; or one by kind of layer.
    """

    places: Tensor
    mask: Any

    def part(self, columns: slice, window: int) -> Sight:
        """A view: some of the tokens, looking at the first slots of the cache."""
        return Sight(
            self.places[:, columns], _each(self.mask, lambda one: one[:, :, columns, :window])
        )

    def take(self, other: Sight) -> None:
        """Copies what is seen of a window, no larger, into this one's memory."""
        self.places.copy_(other.places)
        if not isinstance(self.mask, Mapping):
            self.mask[..., : other.mask.shape[-1]].copy_(other.mask)
            return
        for kind, mask in other.mask.items():
            self.mask[kind][..., : mask.shape[-1]].copy_(mask)


def _each(mask: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(mask, Mapping):
        return {kind: change(one) for kind, one in mask.items()}
    return change(mask)
