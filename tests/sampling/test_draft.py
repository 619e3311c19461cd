"""Drawing drafts: the law, the edges, and what is masked."""

import math

import pytest
import torch

from specbench.sampling.draft import gumbel, sample
from specbench.sampling.philox import Purpose
from specbench.sampling.processing import process

INF = math.inf


def draw(row, count, temperature=1.0, slot=0, purpose=Purpose.DRAFT):
    seeds, positions = torch.arange(count), torch.zeros(count, dtype=torch.int64)
    noise = gumbel(seeds, positions, purpose, torch.tensor([slot]), len(row))
    return sample(row.expand(count, -1), torch.full((count,), temperature), noise[:, 0])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_follow_the_softmax(temperature):
    """N = 60,000, seeds 0…N−1: every frequency within 5 standard errors."""
    count = 60_000
    row = torch.tensor([0.3, -1.0, 2.0, -INF, 0.0])
    share = torch.bincount(draw(row, count, temperature), minlength=5) / count
    law = (row / temperature).softmax(0)
    assert ((share - law).abs() <= 5 * (law * (1 - law) / count).sqrt()).all()
    assert share[3] == 0


def test_slots_and_purposes_draw_independently():
    """A draft that shared its numbers with another would be equal far more often (N = 20,000)."""
    row, count = torch.zeros(16), 20_000
    first, second = draw(row, count, slot=0), draw(row, count, slot=1)
    other = draw(row, count, purpose=Purpose.RESIDUAL)
    for pair in ((first, second), (first, other)):
        equal = (pair[0] == pair[1]).float().mean()
        assert abs(equal - 1 / 16) < 5 * math.sqrt(1 / 16 / count)


def test_greedy_is_the_argmax():
    row = torch.tensor([0.0, 3.0, 2.9])
    assert draw(row, 4, 0.0).tolist() == [1, 1, 1, 1]
    assert sample(row.expand(2, -1), torch.zeros(2), None).tolist() == [1, 1]


def test_top_k_keeps_ties_with_the_last():
    logits = torch.tensor([[[1.0, 3.0, 2.0, 2.0]]])
    kept = process(logits, 4, torch.ones(1), top_k=2, top_p=None)
    assert kept[0, 0].tolist() == [-INF, 3.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [(0.5, [True, False, False]), (0.61, [True, True, False]), (1.0, [True] * 3)],
)
def test_top_p_keeps_the_smallest_nucleus(top_p, expected):
    logits = torch.tensor([0.6, 0.3, 0.1]).log()[None, None]
    kept = process(logits, 3, torch.ones(1), top_k=None, top_p=top_p)
    assert kept[0, 0].isfinite().tolist() == expected


def test_top_p_is_taken_after_the_temperature():
    logits = torch.tensor([0.6, 0.3, 0.1]).log()[None, None]
    cold = process(logits, 3, torch.tensor([0.25]), top_k=None, top_p=0.9)
    assert cold[0, 0].isfinite().tolist() == [True, False, False]


def test_top_k_and_top_p_agree_with_transformers():
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = torch.randn(20, 1, 50, generator=torch.Generator().manual_seed(0)) * 3
    scores = TemperatureLogitsWarper(0.7)(None, logits[:, 0])
    scores = TopPLogitsWarper(0.8)(None, TopKLogitsWarper(12)(None, scores))
    ours = process(logits, 50, torch.full((20,), 0.7), top_k=12, top_p=0.8)
    assert torch.equal(ours[:, 0].isfinite(), scores.isfinite())


def test_a_smaller_draft_vocabulary_is_padded_with_minus_infinity():
    """Qwen: 152064 target entries, 151936 draft entries, one tokenizer."""
    padded = process(torch.zeros(1, 1, 3), 5, torch.ones(1), top_k=None, top_p=None)
    assert padded[0, 0].tolist() == [0.0, 0.0, 0.0, -INF, -INF]


def test_a_larger_draft_vocabulary_is_cut():
    cut = process(torch.arange(5.0)[None, None], 3, torch.ones(1), top_k=None, top_p=None)
    assert cut[0, 0].tolist() == [0.0, 1.0, 2.0]


def test_what_only_one_model_has_is_masked_for_both():
    """An id that the draft's embedding lacks would crash it; no tokenizer produces it."""
    kept = process(torch.zeros(1, 1, 6), 6, torch.ones(1), top_k=None, top_p=None, shared=4)
    assert kept[0, 0].tolist() == [0.0, 0.0, 0.0, 0.0, -INF, -INF]


def test_noise_is_the_same_in_one_call_or_many(monkeypatch):
    from specbench.sampling import draft

    arguments = (torch.arange(3), torch.arange(3), Purpose.DRAFT, torch.arange(5), 9)
    at_once = gumbel(*arguments)
    monkeypatch.setattr(draft, "LARGEST", 60)
    assert torch.equal(gumbel(*arguments), at_once)
