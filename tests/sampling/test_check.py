"""The check of exactness: it passes what is exact, and it catches what is nearly so.

Seeds are fixed, so nothing here is left to chance: 30,000 sequences in each of four settings.
"""

from dataclasses import replace

import pytest
import torch

from specbench.sampling import check, draft, laws
from specbench.sampling import step as shared
from specbench.sampling.registry import get_method

SAMPLES = 30_000


@pytest.mark.parametrize("name", ["baseline", "exact", "fused", "block"])
def test_exact_methods_pass(name):
    verdict = check.check_method(get_method(name), SAMPLES)
    assert verdict.looks_exact
    assert verdict.keeps_theory
    assert verdict.honest


def test_sigmoid_is_found_not_exact_and_is_honest_about_it():
    verdict = check.check_method(get_method("sigmoid"), SAMPLES)
    assert not verdict.looks_exact
    assert verdict.keeps_theory
    assert verdict.honest
    assert max(count.tv for count in verdict.counts) > 0.3


def _residual_is_the_target(step):
    accepted, _ = laws.verify_fused(step)
    target = shared.stop_row(draft.scale(step.target_logits, step.temperature), accepted).softmax(1)
    return accepted, shared.emit(target, target, step)


def _wrong_residual_row(step):
    accepted, _ = laws.verify_fused(step)
    target = shared.stop_row(draft.scale(step.target_logits, step.temperature), accepted).softmax(1)
    row = shared.stop_row(draft.scale(step.draft_logits, step.temperature), (accepted - 1).clamp(0))
    row = shared.where_drafted(row.softmax(1), accepted, step)
    return accepted, shared.emit((target - row).clamp(min=0), target, step)


def _forgets_the_temperature_of_the_draft(step):
    warm = replace(step, draft_logits=step.draft_logits * 0.8)
    return laws.verify_fused(warm)


def _shares_noise_between_drafting_and_residual(step):
    """The race is run with the noise that drew the draft: it cannot win again."""
    accepted, _ = laws.verify_fused(step)
    target = shared.stop_row(draft.scale(step.target_logits, step.temperature), accepted).softmax(1)
    row = shared.stop_row(draft.scale(step.draft_logits, step.temperature), accepted).softmax(1)
    drafted = shared.stop_row(step.draft_tokens[:, :, None], accepted)
    slow = step.numbers.exponentials.scatter(1, drafted, 50.0)
    residual = (target - shared.where_drafted(row, accepted, step)).clamp(min=0)
    numbers = replace(step.numbers, exponentials=slow)
    return accepted, shared.emit(residual, target, replace(step, numbers=numbers))


def _block_without_its_prefix(step):
    """Block's stopping rule with the residual of token verification."""
    accepted, _ = laws.verify_block(step)
    target = shared.stop_row(draft.scale(step.target_logits, step.temperature), accepted).softmax(1)
    row = shared.stop_row(draft.scale(step.draft_logits, step.temperature), accepted).softmax(1)
    row = shared.where_drafted(row, accepted, step)
    return accepted, shared.emit((target - row).clamp(min=0), target, step)


@pytest.mark.parametrize(
    "law",
    [
        _residual_is_the_target,
        _wrong_residual_row,
        _forgets_the_temperature_of_the_draft,
        _shares_noise_between_drafting_and_residual,
        _block_without_its_prefix,
    ],
)
def test_a_mutated_method_is_caught(law):
    verdict = check.check_method(replace(get_method("fused"), law=law), SAMPLES)
    assert not verdict.honest


def test_chi_square_by_hand():
    counts, expected = torch.tensor([12.0, 8.0, 0.0]), torch.tensor([10.0, 10.0, 0.0])
    assert check.chi_square(counts.double(), expected.double()) == (pytest.approx(0.8), 1)


def test_an_impossible_outcome_is_infinitely_unlikely():
    counts, expected = torch.tensor([9.0, 1.0]), torch.tensor([10.0, 0.0])
    assert check.chi_square(counts.double(), expected.double())[0] == float("inf")


def test_sparse_cells_are_pooled():
    counts, expected = torch.tensor([20.0, 3.0, 2.0]), torch.tensor([20.0, 2.5, 2.5])
    assert check.chi_square(counts.double(), expected.double()) == (0.0, 1)
