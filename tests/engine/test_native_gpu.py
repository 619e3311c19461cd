"""The decoding loop on a GPU: kernels draw and verify, and decide as the torch operations do.

Two ways to the same decision may part where two tokens are within rounding of each other. Where
that can happen a test counts sequences and allows one to differ.
"""

import copy
import dataclasses
import functools

import pytest
import torch

from specbench.engine.batch import Request
from specbench.engine.decoding import Decoding
from specbench.engine.model import CausalModel
from specbench.engine.native import NativeEngine
from specbench.engine.observer import Silent
from specbench.pairs import get_pair, load_pair
from specbench.sampling.policy import make_policy
from specbench.sampling.registry import get_method
from specbench.tasks.base import choose, get_task

pytestmark = pytest.mark.gpu

METHODS = ["baseline", "exact", "sigmoid", "fused", "block"]
EXACT = ["baseline", "exact", "fused", "block"]
KERNELS = ["exact", "sigmoid", "fused", "block"]
PROMPTS = [(3, 4, 5, 6, 7, 8, 9), (2,), (9, 9, 1), tuple(range(2, 22))]


def on_gpu(model):
    return CausalModel(copy.deepcopy(model.model).cuda())


def decode(engine, method="fused", gamma="4", tokens=18, prompts=PROMPTS, watch=None, **decoding):
    """Generations of a batch; `method` is a name or a `Method`."""
    requests = [Request(prompt, seed) for seed, prompt in enumerate(prompts)]
    chosen = get_method(method) if isinstance(method, str) else method
    return engine.generate(
        requests, chosen, make_policy(gamma), Decoding(tokens, **decoding), watch
    )


def differing(found, others):
    """How many sequences are not the same in both."""
    return sum(
        (one.tokens, one.step_accepted) != (other.tokens, other.step_accepted)
        for one, other in zip(found, others, strict=True)
    )


def as_torch(method):
    """The method's law as torch operations, on a GPU too."""
    return dataclasses.replace(get_method(method), kernel=None)


@pytest.fixture
def engine(target, draft):
    return NativeEngine(on_gpu(target), on_gpu(draft), [])


@functools.cache
def demo_pair(device, dtype):
    pair = load_pair(get_pair("demo-lm"), device, dtype)
    samples = choose(get_task("summarization"), "demo", 8, 0)
    prompts = tuple(pair.encode(sample.prompt) for sample in samples)
    models = CausalModel(pair.target), CausalModel(pair.draft)
    return NativeEngine(*models, pair.eos_tokens), prompts


def decode_demo(method, device="cuda", dtype="float32", gamma="5", tokens=64, **decoding):
    """Eight ragged prompts of the embedded pair."""
    engine, prompts = demo_pair(device, dtype)
    found = decode(engine, method, gamma, tokens, prompts, **decoding)
    assert all(generation.error is None for generation in found)
    return found


@pytest.mark.parametrize("gamma", ["1", "5", "bass"])
@pytest.mark.parametrize("method", METHODS)
def test_greedy_equals_plain_decoding_at_the_same_batch_size(engine, method, gamma):
    plain = decode(engine, method, "0", temperature=0.0)
    found = decode(engine, method, gamma, temperature=0.0)
    assert [g.tokens for g in found] == [g.tokens for g in plain]


@pytest.mark.parametrize("method", METHODS)
def test_greedy_equals_plain_decoding_of_the_demo_pair(method):
    """One-token and many-token forwards round apart: at most 1 sequence of 8 may differ."""
    plain = decode_demo(method, gamma="0", temperature=0.0)
    found = decode_demo(method, temperature=0.0)
    assert sum(a.tokens != b.tokens for a, b in zip(found, plain, strict=True)) <= 1


@pytest.mark.parametrize("options", [{}, {"temperature": 0.6}, {"top_k": 20}], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", KERNELS)
def test_a_kernel_decodes_as_its_law(method, dtype, options):
    """The same logits, drafts and random numbers: at most 1 sequence of 8 may differ."""
    by_kernel = decode_demo(method, dtype=dtype, **options)
    by_law = decode_demo(as_torch(method), dtype=dtype, **options)
    assert differing(by_kernel, by_law) <= 1


@pytest.mark.parametrize("method", ["exact", "fused"])
def test_methods_of_one_rule_decode_alike(method):
    """Token by token, as baseline: at most 1 sequence of 8 may differ."""
    assert differing(decode_demo(method), decode_demo("baseline")) <= 1


@pytest.mark.parametrize(
    ("method", "gamma"), [("fused", "0"), ("fused", "5"), ("block", "5"), ("baseline", "5")]
)
def test_the_gpu_decodes_as_the_cpu(method, gamma):
    """Drafting too: the same numbers from a kernel. At most 1 sequence of 8 may differ."""
    on_cpu = decode_demo(method, device="cpu", gamma=gamma)
    assert differing(decode_demo(method, gamma=gamma), on_cpu) <= 1


@pytest.mark.parametrize("method", EXACT)
def test_a_draft_equal_to_the_target_is_accepted(target, method):
    """One-token and many-token forwards round apart: a uniform within 1e-5 of 1 may reject one."""
    model = on_gpu(target)
    found = decode(NativeEngine(model, model, []), method, tokens=40)
    drafted = sum(sum(g.step_drafted) for g in found)
    accepted = sum(sum(g.step_accepted) for g in found)
    assert drafted > 100
    assert accepted >= drafted - 1


def test_gamma_zero_is_plain_decoding_whatever_the_method(engine):
    first, *others = (decode(engine, method, "0") for method in METHODS)
    for found in others:
        assert [g.tokens for g in found] == [g.tokens for g in first]
    assert all(g.step_drafted == [0] * 18 for g in first)


@pytest.mark.parametrize("temperature", [0.0, 1.0, 0.6])
@pytest.mark.parametrize("method", EXACT)
def test_plain_decoding_emits_what_a_step_without_drafts_emits(engine, method, temperature):
    """At one new token no draft fits. The races differ in formula: at most 1 of 64 may differ."""
    plain, verified = (
        decode(engine, method, gamma, 1, PROMPTS * 16, temperature=temperature)
        for gamma in ("0", "4")
    )
    assert all(g.step_drafted == [0] for g in verified)
    assert differing(plain, verified) <= 1


@pytest.mark.parametrize("method", METHODS)
def test_a_sequence_is_the_same_in_any_batch(engine, method):
    """Ragged neighbours change its logits by rounding alone: at most 1 of 4 may differ."""
    together = decode(engine, method)
    alone = [
        engine.generate(
            [Request(prompt, seed)], get_method(method), make_policy("4"), Decoding(18)
        )[0]
        for seed, prompt in enumerate(PROMPTS)
    ]
    assert differing(alone, together) <= 1


@pytest.mark.parametrize("gamma", ["heuristic", "bass", "128"])
def test_policies_of_many_shapes(engine, gamma):
    """A verifier for each γ that comes along."""
    for generation in decode(engine, gamma=gamma, tokens=60, prompts=PROMPTS[:1]):
        assert len(generation.tokens) == 60
        assert len(generation.tokens) == len(generation.step_gamma) + sum(generation.step_accepted)


@pytest.mark.parametrize(("gamma", "width"), [("0", 1), ("4", 5)])
@pytest.mark.parametrize("method", EXACT)
def test_broken_logits_end_their_sequence_with_a_reason(engine, method, gamma, width):
    """A NaN for one sequence: it fails, its neighbours finish as they would in its company."""
    healthy = decode(engine, method, gamma)
    forward = engine.target.model.forward

    def poisoned(*args, input_ids, **kwargs):
        out = forward(*args, input_ids=input_ids, **kwargs)
        if input_ids.shape[1] == width:  # a scoring step, not the prefill
            out.logits[1] = torch.nan
        return out

    engine.target.model.forward = poisoned
    found = decode(engine, method, gamma)
    assert "NaN" in found[1].error
    assert found[1].tokens == []
    for i in (0, 2, 3):
        assert found[i].tokens == healthy[i].tokens


class NoSync(Silent):
    """Makes every wait of the host inside the verify phase an error."""

    def mark(self, phase):
        torch.cuda.set_sync_debug_mode("error" if phase == "target" else "default")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("gamma", ["0", "4"])
@pytest.mark.parametrize("method", METHODS)
def test_the_host_never_waits_inside_the_verify_phase(engine, method, gamma, temperature):
    try:
        found = decode(engine, method, gamma, watch=NoSync(), temperature=temperature)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(len(generation.tokens) == 18 for generation in found)


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_decodes(target, draft, method):
    models = [CausalModel(copy.deepcopy(m.model).half().cuda()) for m in (target, draft)]
    engine = NativeEngine(*models, [])
    (found,) = decode(engine, method, tokens=20, prompts=[(3, 4, 5)])
    assert len(found.tokens) == 20
    assert found.error is None
    assert torch.isfinite(torch.tensor(engine.log_probability(Request((3, 4, 5)), found.tokens)))
