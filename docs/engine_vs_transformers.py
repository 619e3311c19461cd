"""Times Hugging Face's own decoding beside the native engine, on a pair with random weights.

    python docs/engine_vs_transformers.py [PAIR] [GAMMA] [PROMPT_TOKENS]

Prints milliseconds per verify step: of `generate(assistant_model=…)`, constant schedule, and of plain
`generate` per token; then of the native engine, eager, as CUDA graphs and compiled. A step of γ drafts
is the same work in all of them, whatever is accepted, so acceptance does not enter. The first call of
each is warm-up; then the median of three, with the lowest and the highest.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import torch

from specbench.engine.batch import Request
from specbench.engine.decoding import COMPILED, EAGER, GRAPHS, Decoding, Execution
from specbench.engine.model import CausalModel
from specbench.engine.native import NativeEngine
from specbench.pairs import get_pair, load_pair
from specbench.sampling.policy import make_policy
from specbench.sampling.registry import get_method
from specbench.telemetry.spans import SpanRecorder

NEW_TOKENS, CALLS = 32, 3


def main(
    name: str = "llama-2-7b/sheared-llama-1.3b", gamma: str = "5", length: str = "512"
) -> None:
    """Measures and prints."""
    pair = load_pair(get_pair(name), "cuda:0", "auto", "dummy")
    prompt = tuple(torch.randint(0, 30000, (int(length),)).tolist())
    tell(f"{torch.cuda.get_device_name()}, {name}, γ = {gamma}, prompt of {length}")
    for model in (pair.target, pair.draft):
        settings = model.generation_config
        settings.eos_token_id = settings.bos_token_id = None
        settings.pad_token_id = 0
        model.set_attn_implementation("sdpa")
    settings = pair.draft.generation_config
    settings.num_assistant_tokens, settings.num_assistant_tokens_schedule = int(gamma), "constant"
    settings.assistant_confidence_threshold = 0.0
    report(
        "transformers, plain", [hugging_face(pair.target, prompt, None) for _ in range(CALLS + 1)]
    )
    report(
        "transformers, assisted",
        [hugging_face(pair.target, prompt, pair.draft) for _ in range(CALLS + 1)],
    )
    engine = NativeEngine(CausalModel(pair.target), CausalModel(pair.draft), [])
    for mode in (EAGER, GRAPHS, COMPILED):
        for drafts in ("0", gamma):
            times = [native(engine, prompt, drafts, mode) for _ in range(CALLS + 1)]
            report(f"native, {mode}, γ = {drafts}", times)


def hugging_face(target: Any, prompt: tuple[int, ...], assistant: Any) -> float:
    """Milliseconds per forward of the target, the prompt's left out."""
    ends: list[float] = []

    def seen(*_: object) -> None:
        torch.cuda.synchronize()
        ends.append(time.perf_counter())

    hook = target.register_forward_hook(seen)
    tokens = torch.tensor([prompt], device=target.device)
    options = {} if assistant is None else {"assistant_model": assistant}
    target.generate(
        tokens, attention_mask=torch.ones_like(tokens), do_sample=True, max_new_tokens=NEW_TOKENS,
        **options,
    )  # fmt: skip
    hook.remove()
    return (ends[-1] - ends[0]) / (len(ends) - 1) * 1e3


def native(engine: NativeEngine, prompt: tuple[int, ...], gamma: str, mode: str) -> float:
    """Milliseconds per step, from the end of the first to the end of the last."""
    watch = SpanRecorder(engine.target.device)
    engine.generate(
        [Request(prompt)], get_method("fused"), make_policy(gamma), Decoding(NEW_TOKENS), watch,
        Execution(mode),
    )  # fmt: skip
    ends = watch.spans().step_end_s
    return (ends[-1] - ends[0]) / (len(ends) - 1) * 1e3


def report(what: str, times: list[float]) -> None:
    """One line; the first time was warm-up."""
    steady = sorted(times[1:])
    tell(f"{what:28} {statistics.median(steady):8.2f} ms  ({steady[0]:.2f} to {steady[-1]:.2f})")


def tell(line: str) -> None:
    """To whoever waits."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
