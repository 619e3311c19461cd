"""The judge of the kernels' tests: it lets rounding pass and nothing else. Needs no GPU."""

import pytest
import torch

from specbench.sampling.verifier import Verification

METHODS = ["exact", "sigmoid", "fused", "block"]
NARROW = (-10.0, 10.0)


def changed(found, b, slot, token):
    tokens = found.tokens.clone()
    tokens[b, slot] = token
    return Verification(tokens, found.num_accepted)


@pytest.fixture
def steps(problem, law):
    """A problem and what its law says, on the CPU."""

    def make(method, mixed=True):
        data = problem(16, 5, 41, mixed=mixed, device="cpu")
        return data, law(method, data, NARROW)

    return make


@pytest.mark.parametrize("method", METHODS)
def test_the_law_itself_is_right(steps, wrong, method):
    data, found = steps(method)
    assert wrong(method, data, found, NARROW) == ""


@pytest.mark.parametrize("method", METHODS)
def test_another_token_is_wrong(steps, wrong, method):
    data, found = steps(method, mixed=False)
    last = int(found.num_accepted[3])
    for token in range(41):
        expected = token != int(found.tokens[3, last])
        assert bool(wrong(method, data, changed(found, 3, last, token), NARROW)) == expected


@pytest.mark.parametrize("method", METHODS)
def test_another_count_is_wrong(steps, wrong, method):
    """The count alone, and a step that is in order but stops one draft before or after."""
    data, found = steps(method, mixed=False)
    for b in range(16):
        count = int(found.num_accepted[b])
        for other in {max(count - 1, 0), min(count + 1, 5)} - {count}:
            counts = found.num_accepted.clone()
            counts[b] = other
            assert wrong(method, data, Verification(found.tokens, counts), NARROW)
            tokens = torch.cat([data.draft_tokens[b, :other], found.tokens[b, count : count + 1]])
            tidy = found.tokens.clone()
            tidy[b] = torch.nn.functional.pad(tokens, (0, 5 - other), value=-1)
            assert wrong(method, data, Verification(tidy, counts), NARROW)


@pytest.mark.parametrize("slot", [0, 5])
def test_what_is_left_unwritten_is_wrong(steps, wrong, slot):
    data, found = steps("fused")
    assert wrong("fused", data, changed(found, 1, slot, -99), NARROW)


def test_another_argmax_is_right_only_where_it_ties(steps, wrong):
    data, found = steps("fused")
    greedy = 2
    last = int(found.num_accepted[greedy])
    other = (int(found.tokens[greedy, last]) + 1) % 41
    assert wrong("fused", data, changed(found, greedy, last, other))
    data.target_logits[greedy, last, other] = data.target_logits[greedy, last].max()
    assert not wrong("fused", data, changed(found, greedy, last, other))


def test_equal_weights_do_not_excuse_the_loser(problem, law, wrong):
    """The exponentials decide, and they are no rounding."""
    data = problem(16, 0, 2, mixed=False, device="cpu")
    data.target_logits[:] = torch.tensor([0.0, 1e-6])
    found = law("fused", data)
    assert wrong("fused", data, found) == ""
    flipped = Verification(1 - found.tokens, found.num_accepted)
    assert wrong("fused", data, flipped)
