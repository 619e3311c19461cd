"""Prompts of random tokens, of the lengths that are asked for: a load, not a question."""

from __future__ import annotations

from collections.abc import Sequence

from specbench.tasks.base import SYNTHETIC, Sample, Score


class Synthetic:
    """As many prompts as are asked for. There is no good answer to noise, hence no metric.

    Args:
        prompt_tokens: lengths of the prompts, given to the samples in turn.
    """

    name = SYNTHETIC
    dataset = "random-tokens"
    summary = "random token ids of the lengths of --prompt-tokens; no text, no metric"

    def __init__(self, prompt_tokens: Sequence[int] = (512,)) -> None:
        self._lengths = tuple(prompt_tokens)

    def make(self, count: int, seed: int) -> list[Sample]:
        """Samples in the order of the lengths; the pair draws the ids by the sample's id."""
        return [
            Sample(f"random-{seed}-{i}", "", "", self._lengths[i % len(self._lengths)])
            for i in range(count)
        ]

    def score(self, hypothesis: str, sample: Sample) -> Score:
        """No figure."""
        return Score()
