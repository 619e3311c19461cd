"""The oracle itself: its laws hold exactly, by enumeration."""

import math

import pytest
import torch

from specbench.sampling import reference


def models(seed=0, vocab=3):
    random = torch.Generator().manual_seed(seed)
    target = torch.randn(8, vocab, generator=random) * 1.5
    draft = target + torch.randn(8, vocab, generator=random)

    def rows(table):
        return lambda prefix: table[(3 * len(prefix) + sum(prefix)) % 8]

    return rows(target), rows(draft)


@pytest.mark.parametrize("gamma", [0, 1, 2, 3])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("method", ["token", "block"])
def test_exact_methods_give_the_targets_law(method, seed, gamma):
    target, draft = models(seed)
    law = reference.emitted_law(method, target, draft, gamma)
    completed = reference.complete(law, target, gamma + 1)
    assert math.fsum(law.values()) == pytest.approx(1)
    assert reference.total_variation(completed, reference.target_law(target, gamma + 1)) < 1e-12


@pytest.mark.parametrize("seed", range(5))
def test_block_never_accepts_fewer(seed):
    target, draft = models(seed)
    token, block = (
        reference.expected_accepted(reference.emitted_law(m, target, draft, 3))
        for m in ("token", "block")
    )
    assert block >= token - 1e-12


def test_block_verification_by_hand():
    """target (1/3, 2/3), draft (2/3, 1/3), γ = 2: 11/9 accepted against 10/9 (2403.10444)."""
    target = torch.tensor([1 / 3, 2 / 3], dtype=torch.float64).log()
    draft = target.flip(0)
    accepted = {
        m: reference.expected_accepted(
            reference.emitted_law(m, lambda _: target, lambda _: draft, 2)
        )
        for m in ("token", "block")
    }
    assert accepted == {"token": pytest.approx(10 / 9), "block": pytest.approx(11 / 9)}


def test_probability_of_reaching_i_is_the_prefix_probability():
    """P(accepted ≥ i | drafts up to i) = P_i, averaged over what is drafted after i."""
    target, draft = models(3)
    path, i, gamma = (1, 0), 2, 3
    reached = 0.0
    for last, q in enumerate(draft(path).double().softmax(0).tolist()):
        full = (*path, last)
        p_rows = [target(full[:k]).double().softmax(0) for k in range(gamma + 1)]
        q_rows = [draft(full[:k]).double().softmax(0) for k in range(gamma)]
        law = reference.stop_law("block", reference.thresholds("block", p_rows, q_rows, full))
        reached += q * sum(law[i:])
    prefix = reference.prefix_probabilities(p_rows, q_rows, full)
    assert reached == pytest.approx(prefix[i])


def test_sigmoid_is_far_from_the_target():
    target, draft = models(1)
    law = reference.emitted_law("sigmoid", target, draft, 2)
    distance = reference.total_variation(
        reference.complete(law, target, 3), reference.target_law(target, 3)
    )
    assert distance > 0.2


def test_total_variation_by_hand():
    assert reference.total_variation({(0,): 0.5, (1,): 0.5}, {(0,): 1.0}) == 0.5


def test_a_prefix_that_the_target_forbids_stays_dead():
    """Its draft had p = 0; the next one has q = 0, a ratio of infinity: 0 · ∞ is no way back to 1."""
    target = [torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.5]), torch.tensor([0.5, 0.5])]
    draft = [torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])]
    assert reference.prefix_probabilities(target, draft, (0, 0)) == [1.0, 0.0, 0.0]
