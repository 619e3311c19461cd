"""How an output reads, whatever its task: does it repeat itself, and how many words does it know?"""

from __future__ import annotations

from collections.abc import Sequence


def repetition(tokens: Sequence[int], order: int = 4) -> float | None:
    """The share of n-grams that stood in the output before (seq-rep-n, Welleck et al. 1908.04319).

    Returns:
        from 0 (none) up to, but never, 1; None if the output has no n-gram.
    """
    different = distinct(tokens, order)
    return None if different is None else 1 - different


def distinct(tokens: Sequence[int], order: int) -> float | None:
    """Different n-grams over all n-grams (distinct-n, Li et al. 1510.03055), of one output.

    It falls with the output's length, so it compares outputs of one task, not tasks.

    Returns:
        over 0 up to 1; None if the output has no n-gram.
    """
    grams = [tuple(tokens[i : i + order]) for i in range(len(tokens) - order + 1)]
    return len(set(grams)) / len(grams) if grams else None
