"""What is asked of an engine: how to decode, and by which means."""

from __future__ import annotations

from dataclasses import dataclass

from specbench.engine.attention import PAD
from specbench.sampling.names import SIGMOID_RANGE

EAGER, GRAPHS, COMPILED = "eager", "graphs", "compiled"


@dataclass(frozen=True)
class Decoding:
    """How to decode.

    Attributes:
        max_new_tokens: never passed, drafts included.
        temperature: 0 is greedy.
        top_k, top_p: None is off.
        sigmoid_range: (alpha, beta) in logits, for the method `sigmoid`.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    sigmoid_range: tuple[float, float] = SIGMOID_RANGE


@dataclass(frozen=True)
class Execution:
    """By which means to decode; none of it changes the law of what comes out but the last.

    Attributes:
        mode: "eager"; "graphs", the step as CUDA graphs; "compiled", with torch.compile besides.
        attention: "pad" or "split".
        synthetic_acceptance: the probability that a draft is kept, whatever the verifier decided;
            None leaves it to the verifier.
    """

    mode: str = EAGER
    attention: str = PAD
    synthetic_acceptance: float | None = None


PLAIN = Execution()
