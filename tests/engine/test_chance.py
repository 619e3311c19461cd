"""How a step draws and decides: the kernels' side with a stand-in for the kernel, and what is kept."""

import pytest
import torch

from specbench.engine import chance
from specbench.engine.batch import Request
from specbench.engine.chance import GpuSampler, Tools
from specbench.engine.decoding import Decoding
from specbench.engine.native import NativeEngine
from specbench.errors import InputError
from specbench.sampling import draft as drafting
from specbench.sampling.policy import make_policy
from specbench.sampling.registry import get_method

METHODS = ["baseline", "exact", "sigmoid", "fused", "block"]
PROMPTS = [(3, 4, 5, 6, 7, 8, 9), (2,), (9, 9, 1), tuple(range(2, 22))]


class StandIn:
    """`KernelSampler` in torch operations; remembers its launches."""

    def __init__(self):
        self.launches = []

    def __call__(self, logits, tokens, lse, *, temperature, seeds, positions, purpose, slot):
        warm = torch.full((len(logits),), temperature)
        noise = None
        if temperature:
            slots = torch.tensor([slot])
            noise = drafting.gumbel(seeds, positions, purpose, slots, logits.shape[1])[:, 0]
        tokens.copy_(drafting.sample(logits, warm, noise))
        normaliser = drafting.scale(logits, warm).logsumexp(-1)
        lse.copy_(normaliser.where(normaliser.isfinite(), torch.nan))
        self.launches.append((purpose.name, slot, tuple(positions.tolist())))


@pytest.fixture
def kernel(monkeypatch):
    """From now on every engine takes the GPU's way of drawing."""
    stand_in = StandIn()
    monkeypatch.setattr(
        Tools, "sampler", lambda self, batch, slots, t: GpuSampler(stand_in, batch, slots, t)
    )
    return stand_in


def decode(target, draft, method="fused", gamma="4", tokens=18, **decoding):
    requests = [Request(prompt, seed) for seed, prompt in enumerate(PROMPTS)]
    return NativeEngine(target, draft, []).generate(
        requests, get_method(method), make_policy(gamma), Decoding(tokens, **decoding)
    )


@pytest.mark.parametrize("options", [{}, {"temperature": 0.0}, {"temperature": 0.6, "top_k": 5}])
@pytest.mark.parametrize("gamma", ["0", "4", "bass"])
@pytest.mark.parametrize("method", METHODS)
def test_the_gpus_way_of_drawing_gives_the_same_tokens(
    target, draft, request, method, gamma, options
):
    here = decode(target, draft, method, gamma, **options)
    request.getfixturevalue("kernel")
    assert decode(target, draft, method, gamma, **options) == here


def test_one_launch_draws_each_draft_at_the_steps_first_position(target, draft, kernel):
    (first, *_) = decode(target, draft)
    held = tuple(len(prompt) for prompt in PROMPTS)
    assert kernel.launches[:4] == [("DRAFT", slot, held) for slot in range(4)]
    assert len(kernel.launches) >= sum(first.step_gamma)
    assert {purpose for purpose, _, _ in kernel.launches} == {"DRAFT"}


def test_plain_decoding_draws_the_verifiers_own_token(target, draft, kernel):
    decode(target, draft, gamma="0")
    assert {(purpose, slot) for purpose, slot, _ in kernel.launches} == {("RESIDUAL", 0)}
    assert len(kernel.launches) == 18


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
def test_plain_decoding_emits_nothing_from_a_row_without_a_normaliser(model, draft, broken):
    target = model(seed=1)
    forward = target.model.forward

    def poisoned(*args, input_ids, **kwargs):
        out = forward(*args, input_ids=input_ids, **kwargs)
        out.logits[1] = broken
        return out

    target.model.forward = poisoned
    found = decode(target, draft, gamma="0")
    assert "no token to emit" in found[1].error
    assert [len(generation.tokens) for generation in found] == [18, 0, 18, 18]


def test_a_vocabulary_that_no_kernel_takes_is_refused(target):
    """Plain decoding needs no verifier, which would refuse it."""
    room = NativeEngine(target, target, []).reserve(1, 8, 1)
    tools = Tools(262_145, torch.float16, torch.device("cuda"))
    with pytest.raises(InputError, match="262145"):
        tools.sampler(room.slots, 1, 1.0)


class TestKeptVerifiers:
    @pytest.fixture
    def tools(self):
        return Tools(23, torch.float32, torch.device("cpu"))

    def test_one_for_each_method_and_shape(self, tools):
        fused, block = get_method("fused"), get_method("block")
        shapes = [(fused, 1, 4), (fused, 1, 3), (fused, 2, 4), (block, 1, 4)]
        made = [tools.verifier(*shape) for shape in shapes]
        assert len(set(map(id, made))) == 4
        assert [tools.verifier(*shape) for shape in shapes] == made

    def test_large_ones_are_let_go(self, tools, monkeypatch):
        """Before the next is made: memory never holds more than that and one."""
        monkeypatch.setattr(chance.Verifier, "workspace_bytes", chance.KEPT_BYTES)
        first, second, third = (tools.verifier(get_method("exact"), 1, i) for i in range(3))
        assert tools.verifier(get_method("exact"), 1, 2) is third
        assert len({id(first), id(second), id(third)}) == 3
        assert tools.verifier(get_method("exact"), 1, 1) is not second
