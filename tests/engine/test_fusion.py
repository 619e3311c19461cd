"""The small functions between the forwards: compiled, they do what they do, and are compiled rarely."""

import functools

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from specbench.engine import steps
from specbench.engine.cache import RaggedCache
from specbench.engine.fusion import fused
from specbench.engine.slots import Slots
from specbench.engine.synthetic import SyntheticAcceptance
from specbench.sampling.verifier import Verification

CPU = torch.device("cpu")


@pytest.fixture
def compiles(monkeypatch):
    """Counts what torch.compile traces; no code is generated, so no compiler is needed."""
    counter = CompileCounter()
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=counter))
    fused.cache_clear()
    yield counter
    fused.cache_clear()
    torch._dynamo.reset()


def slots_of(size, most_drafts):
    slots = Slots(size, 64, most_drafts, [7], CPU)
    generator = torch.Generator().manual_seed(size)
    for slot in range(size):
        length = int(torch.randint(1, 20, (), generator=generator))
        prompt = torch.randint(0, 7, (length,), generator=generator).tolist()
        slots.seat(slot, prompt, length + 1 + slot * 3, 1000 + slot)
    slots.running[size // 2] = size == 1
    return slots


def a_step(slots, gamma, dice, call):
    generator = torch.Generator().manual_seed(gamma)
    drafts = torch.randint(0, 9, (slots.size, gamma), generator=generator)
    accepted = torch.randint(0, gamma + 1, (slots.size,), generator=generator)
    tokens = torch.cat([drafts, torch.zeros_like(drafts[:, :1])], 1) if gamma else drafts.new_zeros(
        slots.size, 1
    )  # fmt: skip
    tokens = tokens.masked_fill(torch.arange(gamma + 1) > accepted[:, None], -1)
    seen = [*call(steps._last_two)(slots)]
    seen += [call(steps._position)(slots, offset) for offset in range(gamma - 1)]
    seen += [*call(steps._last_and_drafts)(slots, drafts)]
    call(steps._commit)(slots, Verification(tokens, accepted), seen[-1], dice, drafts)
    return [*seen, slots.lengths, slots.running, slots.tokens, slots._report]


@pytest.mark.parametrize("rate", [None, 0.5])
@pytest.mark.parametrize("size", [1, 3])
def test_compiled_small_functions_do_the_same_and_are_compiled_for_a_few_gammas(
    compiles, size, rate
):
    dice = None if rate is None else SyntheticAcceptance(rate, CPU)
    plain, compiled = slots_of(size, 12), slots_of(size, 12)
    for gamma in (0, 1, 2, 5, 3, 9, 12, 4, 7, 8, 11):
        expected = a_step(plain, gamma, dice if gamma else None, lambda call: call)
        found = a_step(compiled, gamma, dice if gamma else None, fused)
        for ours, theirs in zip(found, expected, strict=True):
            assert torch.equal(ours, theirs)
    # Four functions, each for γ = 0, 1 and what changes: not once for each γ.
    assert compiles.frame_count <= 14


def test_a_compiled_mask_hides_the_same_slots(compiles):
    cache, positions = RaggedCache(2, 32), torch.tensor([[0, 31, 32], [5, 6, 7]])
    plain = cache.place(positions, 32, torch.bfloat16)
    assert torch.equal(cache.place(positions, 32, torch.bfloat16, compiled=True), plain)
    assert compiles.frame_count == 1
