"""What the NVML sampler costs: the same decoding with and without it, in turns.

    python docs/telemetry_cost.py [PAIR] [PAIRS_OF_ROUNDS] [METHOD] [GAMMA]

A round decodes a few prompts of the task summarization. Rounds with the sampler (A) and without (B)
alternate as A B B A, so that drift of the machine hits both alike; each A has a B beside it. Printed are

- the change: tokens/s of A over those of its B, the median over the pairs of rounds, with a 99 %
  interval of that median (order statistics of the pairs: no assumption about their law);
- the same of the step times, which the host's work hides behind on a GPU: the verify step's median;
- directly: what share of the time the sampling thread waits for the driver, without Python's lock; how
  long each query takes, and how often it is made.

Without an NVIDIA GPU there is no sampler: then both rounds are the same, and the interval shows this
machine's noise.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from scipy.stats import binom

from specbench.engine.batch import Request
from specbench.engine.decoding import Decoding, Execution
from specbench.engine.model import CausalModel
from specbench.engine.native import NativeEngine
from specbench.pairs import get_pair, load_pair
from specbench.planning import resolve_device, resolve_execution
from specbench.sampling.policy import make_policy
from specbench.sampling.registry import get_method
from specbench.tasks.base import choose, get_task
from specbench.telemetry.nvml import NvmlSampler, cuda_uuid
from specbench.telemetry.spans import SpanRecorder

PROMPTS, NEW_TOKENS, WARM_UP_ROUNDS, LEVEL = 4, 64, 2, 0.99


def main(name: str, pairs: int, method: str, gamma: str) -> None:
    """Measures and prints."""
    device = resolve_device("auto")
    pair = load_pair(get_pair(name), str(device), "auto")
    engine = NativeEngine(CausalModel(pair.target), CausalModel(pair.draft), pair.eos_tokens)
    recorder = SpanRecorder(device)
    samples = choose(get_task("summarization"), pair.spec.prompt_style, PROMPTS, seed=0)
    requests = [Request(pair.prompt(sample), seed) for seed, sample in enumerate(samples)]
    execution = Execution(resolve_execution("auto", device, "native"))

    def round_() -> tuple[float, float]:
        """(tokens/s, median verify step in µs)"""
        tokens, wall_s, steps_us = 0, 0.0, []
        for request in requests:
            (one,) = engine.generate(
                [request], get_method(method), make_policy(gamma), Decoding(NEW_TOKENS), recorder,
                execution,
            )  # fmt: skip
            spans = recorder.spans()
            tokens, wall_s = tokens + len(one.tokens), wall_s + spans.wall_s
            steps_us += spans.verify_us
        return tokens / wall_s, statistics.median(steps_us)

    def sampled() -> tuple[float, float]:
        with NvmlSampler(uuid):
            return round_()

    uuid = cuda_uuid(device)
    works, reason = NvmlSampler(uuid).available()
    tell(f"{name}, {method}, γ = {gamma}, {execution.mode} on {device_name(device)}")
    if not works:
        tell(f"{reason}: both rounds are the same")
    for _ in range(WARM_UP_ROUNDS):
        sampled(), round_()
    speeds, steps = [], []
    for turn in range(pairs):
        a, b = (sampled(), round_()) if turn % 2 == 0 else (round_(), sampled())[::-1]
        speeds.append(a[0] / b[0] - 1)
        steps.append(a[1] / b[1] - 1)
    for what, changes in (("tokens/s", speeds), ("verify step", steps)):
        low, high = median_interval(changes)
        tell(
            f"{what} with the sampler: {statistics.median(changes):+.2%}, "
            f"{LEVEL:.0%} interval {low:+.2%} to {high:+.2%}, {len(changes)} pairs of rounds"
        )
    if works:
        tell_directly(uuid)


def median_interval(values: list[float]) -> tuple[float, float]:
    """The order statistics between which the median lies in 99 of 100 cases, whatever the law."""
    ordered = sorted(values)
    below = int(binom.ppf((1 - LEVEL) / 2, len(ordered), 0.5))
    first = max(below - 1, 0)
    return ordered[first], ordered[len(ordered) - 1 - first]


def tell_directly(uuid: str | None, seconds: float = 5.0) -> None:
    """What the sampling thread does beside an idle loop, by query."""
    with NvmlSampler(uuid) as sampler:
        time.sleep(2)  # until the energy counter's period is known
        assert sampler._gpu is not None
        queries = Queries(sampler._gpu.ask)
        sampler._gpu.ask = queries  # type: ignore[method-assign]
        time.sleep(seconds)
    share = sum(map(sum, queries.took_s.values())) / seconds
    tell(f"the sampling thread asks for {share:.2%} of the time:")
    for name, took_s in sorted(queries.took_s.items()):
        usual_ms, count = statistics.median(took_s) * 1e3, len(took_s)
        tell(f"  {name}: {usual_ms:.3f} ms, {count / seconds:.1f} times a second")


class Queries:
    """Asks as `Gpu.ask` does, and keeps how long each query takes."""

    def __init__(self, ask: Any) -> None:
        self._ask = ask
        self.took_s: dict[str, list[float]] = {}

    def __call__(self, name: str, *arguments: Any) -> Any:
        """See `Gpu.ask`."""
        start = time.perf_counter()
        answer = self._ask(name, *arguments)
        self.took_s.setdefault(name, []).append(time.perf_counter() - start)
        return answer


def device_name(device: Any) -> str:
    """The GPU's name, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def tell(text: str) -> None:
    """On standard output, at once."""
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", metavar="PAIR", nargs="?", default="demo-lm")
    parser.add_argument("pairs", metavar="PAIRS_OF_ROUNDS", nargs="?", type=int, default=40)
    parser.add_argument("method", metavar="METHOD", nargs="?", default="fused")
    parser.add_argument("gamma", metavar="GAMMA", nargs="?", default="4")
    main(**vars(parser.parse_args()))
