"""The step as CUDA graphs: it decodes as the eager one does, and its capture is in no figure."""

import copy

import pytest
import torch

from specbench.engine.attention import PAD, SPLIT
from specbench.engine.batch import Request
from specbench.engine.decoding import COMPILED, EAGER, GRAPHS, Decoding, Execution
from specbench.engine.model import CausalModel
from specbench.engine.native import NativeEngine
from specbench.pairs import get_pair, load_pair
from specbench.sampling.policy import make_policy
from specbench.sampling.registry import get_method
from specbench.tasks.base import choose, get_task
from specbench.telemetry.spans import SpanRecorder

pytestmark = pytest.mark.gpu
METHODS = ["baseline", "exact", "sigmoid", "fused", "block"]


@pytest.fixture(scope="module")
def demo():
    """The embedded pair in float32, where two ways of computing a row part least, and eight prompts."""
    pair = load_pair(get_pair("demo-lm"), "cuda", "float32")
    samples = choose(get_task("summarization"), "demo", 8, 0)
    prompts = [pair.encode(sample.prompt) for sample in samples]
    return NativeEngine(CausalModel(pair.target), CausalModel(pair.draft), pair.eos_tokens), prompts


def decode(demo, method="fused", gamma="4", tokens=80, size=None, watch=None, count=8, **execution):
    engine, prompts = demo
    requests = [Request(tuple(prompt), seed) for seed, prompt in enumerate(prompts[:count])]
    decoding = Decoding(tokens, temperature=execution.pop("temperature", 0.6))
    found = engine.generate(
        requests,
        get_method(method),
        make_policy(gamma),
        decoding,
        watch,
        Execution(**execution),
        size,
    )
    assert all(generation.error is None for generation in found)
    return found


def differing(found, others):
    return sum(a.tokens != b.tokens for a, b in zip(found, others, strict=True))


@pytest.mark.parametrize("gamma", ["0", "4", "bass"])
@pytest.mark.parametrize("method", METHODS)
def test_graphs_decode_as_the_eager_step(demo, method, gamma):
    eager = decode(demo, method, gamma, mode=EAGER)
    graphs = decode(demo, method, gamma, mode=GRAPHS)
    assert differing(eager, graphs) <= 1
    assert demo[0]._workspace.graphs.refused == {}
    # Again, from graphs alone.
    before = len(demo[0]._workspace.graphs)
    assert differing(decode(demo, method, gamma, mode=GRAPHS), graphs) == 0
    assert len(demo[0]._workspace.graphs) == before > 0


@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_graphs_follow_the_temperature(demo, temperature):
    eager, graphs = (decode(demo, mode=mode, temperature=temperature) for mode in (EAGER, GRAPHS))
    assert differing(eager, graphs) <= 1


@pytest.mark.parametrize("attention", [PAD, SPLIT])
def test_graphs_with_refill(demo, attention):
    eager, graphs = (
        decode(demo, mode=mode, size=3, attention=attention) for mode in (EAGER, GRAPHS)
    )
    assert differing(eager, graphs) <= 1
    assert max(g.first_step for g in graphs) > 0


@pytest.mark.parametrize("gamma", ["0", "4"])
@pytest.mark.parametrize("size", [None, 3])
def test_graphs_stop_where_a_text_is_whole(demo, gamma, size):
    """The slot that a rule empties runs no more in the next replay, and the next sequence takes it."""
    engine, prompts = demo
    asked = []

    def ended(before, step):
        asked.append(len(before))
        return max(12 - len(before), 1) if len(before) + len(step) >= 12 else None

    rules = [ended if i % 2 else None for i in range(8)]
    found = [
        engine.generate(
            [
                Request(tuple(prompt), seed, None, rule)
                for (seed, prompt), rule in zip(enumerate(prompts), rules, strict=True)
            ],
            get_method("fused"), make_policy(gamma), Decoding(80, 0.6), None, Execution(mode), size,
        )
        for mode in (EAGER, GRAPHS)
    ]  # fmt: skip
    assert differing(*found) <= 1
    free = decode(demo, gamma=gamma, mode=GRAPHS, size=size)
    cut = [one.tokens[:12] if rule else one.tokens for one, rule in zip(free, rules, strict=True)]
    assert sum(one.tokens != other for one, other in zip(found[1], cut, strict=True)) <= 1
    stopped = [one for one in found[1] if one.finish_reason == "stop"]
    assert stopped
    assert all(len(one.tokens) == 12 for one in stopped)
    assert max(asked) < 12
    assert not engine._workspace.slots.running.any()


def test_an_emptied_slot_is_not_waited_for(demo):
    decode(demo, mode=GRAPHS)
    slots = demo[0]._workspace.slots
    slots.running.fill_(True)
    torch.cuda.synchronize()
    was = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        slots.leave(2)
    finally:
        torch.cuda.set_sync_debug_mode(was)
    assert slots.running.tolist() == [slot != 2 for slot in range(8)]
    slots.clear()


def test_greedy_equals_plain_decoding_at_the_same_batch_size(demo):
    plain = decode(demo, gamma="0", temperature=0.0, mode=GRAPHS)
    for gamma in ("1", "5", "bass"):
        assert differing(decode(demo, gamma=gamma, temperature=0.0, mode=GRAPHS), plain) <= 1


def test_synthetic_acceptance_is_captured_too(demo):
    eager, graphs = (decode(demo, mode=mode, synthetic_acceptance=0.7) for mode in (EAGER, GRAPHS))
    assert [g.step_accepted for g in eager] == [g.step_accepted for g in graphs]


@pytest.mark.parametrize("gamma", ["2", "bass"])
@pytest.mark.parametrize("method", ["baseline", "exact", "fused", "block"])
def test_captured_steps_follow_the_targets_law(small_pair, law, method, gamma):
    """Chi-square over sequences of three tokens, 6,000 of them, 500 at a time."""
    from scipy.stats import chi2

    models = [CausalModel(copy.deepcopy(one.model).cuda()) for one in small_pair]
    engine, prompt, found = NativeEngine(*models, []), (1, 2), []
    for start in range(0, 6000, 500):  # not by refill, which feeds prompts one by one
        found += engine.generate(
            [Request(prompt, seed) for seed in range(start, start + 500)], get_method(method),
            make_policy(gamma), Decoding(3), None, Execution(GRAPHS),
        )  # fmt: skip
    statistic, dof = law(models[0], prompt, 3).misfit([g.tokens for g in found])
    assert chi2.sf(statistic, dof) > 1e-4


@pytest.mark.parametrize("task", ["summarization", "code"])
def test_greedy_over_all_of_the_demos_prompts(task):
    """Speculative output is plain decoding's at the same batch size, but for ties.

    A forward of six tokens adds up in another order than one of one token, so two logits within
    rounding of each other may change places: then, and only then, the texts may part. That is looked
    up: where two differ first, the target rates both tokens alike.
    """
    pair = load_pair(get_pair("demo-lm"), "cuda", "float32")
    engine = NativeEngine(CausalModel(pair.target), CausalModel(pair.draft), pair.eos_tokens)
    samples = choose(get_task(task), "demo", {"summarization": 120, "code": 164}[task], 0)
    prompts = [pair.prompt(sample) for sample in samples]
    plain, drafted = (
        engine.generate(
            [Request(prompt) for prompt in prompts], get_method("fused"), make_policy(gamma),
            Decoding(64, temperature=0.0), None, Execution(GRAPHS), 32,
        )
        for gamma in ("0", "5")
    )  # fmt: skip
    ties = 0
    for prompt, one, other in zip(prompts, plain, drafted, strict=True):
        if one.tokens == other.tokens:
            continue
        same = next(
            i for i, (a, b) in enumerate(zip(one.tokens, other.tokens, strict=False)) if a != b
        )
        tokens = torch.tensor([[*prompt, *one.tokens[:same]]], device="cuda")
        with torch.no_grad():
            row = pair.target(tokens).logits[0, -1].double()
        assert abs(float(row[one.tokens[same]] - row[other.tokens[same]])) < 1e-3
        ties += 1
    assert ties <= len(prompts) // 50


def waiting(step):
    if not bool((step.lengths >= 0).all()):  # waits for the GPU at every step
        raise AssertionError
    return get_method("baseline").law(step)


def test_a_method_that_waits_runs_between_the_graphs(demo):
    from dataclasses import replace

    engine, prompts = demo
    law = replace(get_method("baseline"), name="waiting", law=waiting)
    requests = [Request(tuple(prompt), seed) for seed, prompt in enumerate(prompts)]
    found = engine.generate(
        requests, law, make_policy("bass"), Decoding(60, 0.6), None, Execution(GRAPHS)
    )
    reasons = engine._workspace.graphs.refused
    assert reasons
    assert all("synchroniz" in reason for reason in reasons.values())
    assert differing(found, decode(demo, "baseline", "bass", tokens=60, mode=EAGER)) <= 1


def test_the_capture_is_in_no_figure(demo):
    """A first batch that captures, then one that does not: the first says what it took, apart."""
    demo[0].release()
    watch = SpanRecorder(torch.device("cuda", 0))
    torch.cuda.synchronize()
    decode(demo, mode=GRAPHS, watch=watch)
    first = watch.spans()
    decode(demo, mode=GRAPHS, watch=watch)
    second = watch.spans()
    assert first.capture_s > 0.05
    assert second.capture_s == 0
    assert first.wall_s < 3 * second.wall_s + 0.05


def test_memory_does_not_grow_from_batch_to_batch(demo):
    decode(demo, mode=GRAPHS)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        decode(demo, mode=GRAPHS)
    assert torch.cuda.memory_allocated() <= before + (1 << 20)


def test_compiled_decodes_greedily_as_eager(demo):
    eager, compiled = (
        decode(demo, mode=mode, temperature=0.0, tokens=24, count=2) for mode in (EAGER, COMPILED)
    )
    assert differing(eager, compiled) <= 1


@pytest.mark.parametrize("mode", [EAGER, GRAPHS])
def test_the_first_meeting_of_a_shape_is_in_no_figure(demo, mode):
    """Prefill included: torch chooses its kernels then."""
    demo[0].release()
    times = []
    for _ in range(2):
        recorder = SpanRecorder(demo[0].target.device)
        decode(demo, count=2, tokens=12, watch=recorder, mode=mode)
        times.append(recorder.spans())
    assert times[0].capture_s > 0
    assert times[1].capture_s == 0
    assert times[0].prefill_s < 3 * times[1].prefill_s
    assert times[0].target_us[0] < 3 * times[1].target_us[0]
