"""The law of an approximation's tokens, against the sum over all that a step can emit."""

import pytest
import torch

from specbench.sampling import reference
from specbench.sampling.deviation import sigmoid_variation

RANGES = [(-1e4, 1e4), (-3.0, 3.0), (-0.5, 2.0), (1.0, 2.0), (-30.0, 30.0)]


def rows(count, vocab, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, count, vocab, generator=generator) * 2


@pytest.mark.parametrize("sigmoid_range", RANGES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_it_is_the_variation_of_what_a_step_emits(sigmoid_range, temperature):
    """Both tokens of a step of one draft: the first, and the bonus after each draft that was kept."""
    vocab = 6
    (target, bonus), (draft, _) = rows(2, vocab, 3).double()
    laws = {(): target / temperature} | {(x,): bonus / temperature for x in range(vocab)}
    emitted = reference.emitted_law(
        "sigmoid", lambda prefix: laws[prefix], lambda prefix: draft / temperature, 1, sigmoid_range
    )
    first = [sum(p for tokens, p in emitted.items() if tokens[0] == x) for x in range(vocab)]
    second = [sum(p for tokens, p in emitted.items() if tokens[1:] == (x,)) for x in range(vocab)]
    expected = [
        (torch.tensor(one) - row.softmax(-1)).abs().sum() / 2
        for one, row in (
            (first, target / temperature),
            ([p / sum(second) for p in second], bonus / temperature),
        )
    ]
    found = sigmoid_variation(
        torch.stack([target, bonus]), torch.stack([draft, draft]), torch.tensor([False, True]),
        temperature, sigmoid_range,
    )  # fmt: skip
    torch.testing.assert_close(found, torch.stack(expected), atol=2e-6, rtol=0)
    assert found.min() > 0.01


def test_the_authors_range_keeps_the_drafts_and_throws_the_bonus_away():
    """Every draft is kept, so its law is the draft's; the bonus is nearly uniform."""
    target, draft = rows(40, 500, 0)
    kept, bonus = (
        sigmoid_variation(target, draft, torch.full((40,), which), 1.0, (-1e4, 1e4))
        for which in (False, True)
    )
    laws = target.double().softmax(-1), draft.double().softmax(-1)
    torch.testing.assert_close(kept, (laws[0] - laws[1]).abs().sum(-1) / 2, atol=2e-3, rtol=0)
    torch.testing.assert_close(bonus, (laws[0] - 1 / 500).abs().sum(-1) / 2, atol=2e-3, rtol=0)


def test_equal_rows_are_kept_and_greedy_has_one_law():
    target, draft = rows(9, 20, 1)
    no_bonus = torch.zeros(9, dtype=torch.bool)
    same = sigmoid_variation(target, target, no_bonus, 1.0, (-1e4, 1e4))
    assert same.abs().max() < 1e-12
    assert sigmoid_variation(target, draft, ~no_bonus, 0.0, (-1e4, 1e4)).tolist() == [0.0] * 9


def test_masked_tokens_and_empty_residuals_are_no_nan():
    target, draft = rows(3, 20, 2)
    target[:, 5:] = draft[:, 5:] = -torch.inf
    found = sigmoid_variation(target, draft, torch.tensor([False, True, False]), 1.0, (-9.0, 9.0))
    assert found.isfinite().all()
    assert ((found >= 0) & (found <= 1)).all()
    # Saturated: every weight is 1, and the residual is empty.
    full = sigmoid_variation(target + 50, draft + 50, torch.zeros(3).bool(), 1.0, (-1.0, 1.0))
    assert full.isfinite().all()
