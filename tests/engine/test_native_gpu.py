"""The decoding loop on a GPU: the same laws, and greedy equality with plain decoding."""

import copy

import pytest
import torch

from specbench.engine.batch import Request
from specbench.engine.model import CausalModel
from specbench.engine.native import Decoding, NativeEngine
from specbench.sampling.policy import make_policy
from specbench.sampling.registry import get_method

METHODS = ["baseline", "exact", "sigmoid", "fused", "block"]
PROMPTS = [(3, 4, 5, 6, 7, 8, 9), (2,), (9, 9, 1), tuple(range(2, 22))]


def on_gpu(model):
    return CausalModel(copy.deepcopy(model.model).cuda())


@pytest.mark.gpu
@pytest.mark.parametrize("gamma", ["1", "5", "bass"])
@pytest.mark.parametrize("method", METHODS)
def test_greedy_equals_plain_decoding_at_the_same_batch_size(target, draft, method, gamma):
    engine = NativeEngine(on_gpu(target), on_gpu(draft), [])
    requests = [Request(prompt, i) for i, prompt in enumerate(PROMPTS)]
    decoding = Decoding(18, temperature=0.0)
    plain = engine.generate(requests, get_method(method), make_policy("0"), decoding)
    found = engine.generate(requests, get_method(method), make_policy(gamma), decoding)
    assert [g.tokens for g in found] == [g.tokens for g in plain]


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["baseline", "exact", "fused", "block"])
def test_a_draft_equal_to_the_target_is_accepted(target, method):
    """In float32 one-token and many-token forwards round apart: all but 1 in 100 at the least."""
    model = on_gpu(target)
    engine = NativeEngine(model, model, [])
    requests = [Request(prompt, i) for i, prompt in enumerate(PROMPTS)]
    found = engine.generate(requests, get_method(method), make_policy("4"), Decoding(40))
    drafted = sum(sum(g.step_drafted) for g in found)
    accepted = sum(sum(g.step_accepted) for g in found)
    assert drafted > 100
    assert accepted >= 0.99 * drafted


@pytest.mark.gpu
def test_half_precision_decodes(target, draft):
    models = [CausalModel(copy.deepcopy(m.model).half().cuda()) for m in (target, draft)]
    engine = NativeEngine(*models, [])
    (found,) = engine.generate(
        [Request((3, 4, 5))], get_method("fused"), make_policy("4"), Decoding(20)
    )
    assert len(found.tokens) == 20
    assert found.error is None
    assert torch.isfinite(torch.tensor(engine.log_probability((3, 4, 5), found.tokens)))
