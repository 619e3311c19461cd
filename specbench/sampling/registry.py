"""The verification methods, built in and added by others.

Another package adds one through the entry-point group `specbench.methods`: the entry's name is the
method's, and it loads a `Method`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Literal

from torch import Tensor

from specbench.errors import unknown_name
from specbench.sampling.baseline import verify_baseline
from specbench.sampling.laws import verify_block, verify_exact, verify_fused, verify_sigmoid
from specbench.sampling.step import Step

Law = Callable[[Step], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Method:
    """A way to verify drafts.

    Attributes:
        name: what the user types.
        exact: whether its output law is the target's.
        input: what its kernel reads: logits, or probabilities from a softmax outside.
        launches: kernel launches of one call as designed; None for plain torch operations.
        source: paper or project.
        summary: one line for `specbench list methods`.
        law: the method in torch for sampled decoding; greedy decoding is the same for all.
    """

    name: str
    exact: bool
    input: Literal["logits", "probs"]
    launches: int | None
    source: str
    summary: str
    law: Law


_BUILT_IN = (
    Method(
        "baseline", True, "probs", None, "2211.17192, transformers",
        "the torch operations of Hugging Face's speculative sampling", verify_baseline,
    ),
    Method(
        "exact", True, "probs", None, "2406.11016",
        "the paper's exact method: softmax outside, the rest by vocabulary segment", verify_exact,
    ),
    Method(
        "sigmoid", False, "logits", None, "2406.11016",
        "the paper's approximation: an element-wise sigmoid instead of softmax", verify_sigmoid,
    ),
    Method(
        "fused", True, "logits", None, "specbench",
        "exact, straight from logits, no probability tensor", verify_fused,
    ),
    Method(
        "block", True, "logits", None, "2403.10444",
        "block verification: exact, accepts at least as many drafts", verify_block,
    ),
)  # fmt: skip


@cache
def methods() -> dict[str, Method]:
    """All methods by name, the built-in ones first."""
    found = {method.name: method for method in _BUILT_IN}
    for entry in entry_points(group="specbench.methods"):
        found.setdefault(entry.name, entry.load())
    return found


def get_method(name: str) -> Method:
    """The method of that name.

    Raises:
        InputError: there is none; the nearest name is suggested.
    """
    if name not in methods():
        raise unknown_name("method", name, methods())
    return methods()[name]
