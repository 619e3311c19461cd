"""Philox: the published vectors, and the laws of what is made of its words."""

import math

import pytest
import torch

from specbench.sampling import philox
from specbench.sampling.philox import Purpose

KNOWN_ANSWERS = [  # Random123's kat_vectors for philox4x32, 10 rounds
    ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_known_answers(counter, key, answer):
    found = philox.philox4x32(
        tuple(torch.tensor(word) for word in counter), tuple(torch.tensor(word) for word in key)
    )
    assert " ".join(f"{int(word):08x}" for word in found) == answer


def test_words_follow_the_documented_address():
    """key = seed, counter = (element >> 2, slot, position, purpose), element & 3 picks the word."""
    seed, position, slot = 0x0123_4567_89AB_CDEF, 2**33 + 77, 5
    row = philox.words(
        torch.tensor([seed]), torch.tensor([position]), Purpose.RESIDUAL, torch.tensor([slot]), 11
    )[0, 0]
    for element in range(11):
        counter = (element >> 2, slot, position % 2**32, int(Purpose.RESIDUAL))
        four = philox.philox4x32(
            tuple(torch.tensor(word) for word in counter),
            (torch.tensor(seed & 0xFFFFFFFF), torch.tensor(seed >> 32)),
        )
        assert int(row[element]) == int(four[element & 3])


def test_a_negative_seed_is_its_two_complement():
    """Seeds are 64 bits; int64 holds half of them as negative numbers."""
    row = philox.words(torch.tensor([-2]), torch.tensor([0]), Purpose.DRAFT, torch.tensor([0]), 4)
    four = philox.philox4x32(
        tuple(torch.tensor(0) for _ in range(4)),
        (torch.tensor(0xFFFFFFFE), torch.tensor(0xFFFFFFFF)),
    )
    assert row[0, 0].tolist() == [int(word) for word in four]


def test_purposes_slots_positions_and_seeds_never_share_a_number():
    rows = [
        philox.words(torch.tensor([s]), torch.tensor([n]), purpose, torch.tensor([i]), 64)
        for s in (0, 1)
        for n in (0, 1)
        for purpose in Purpose
        for i in (0, 1)
    ]
    numbers = torch.cat([row.flatten() for row in rows])
    # 1,536 draws of 2^32: two equal ones by chance have probability 3e-4.
    assert len(numbers.unique()) == len(numbers)


def test_the_batch_slot_does_not_matter():
    seeds, positions = torch.tensor([3, 9, 4]), torch.tensor([8, 2, 5])
    slots = torch.tensor([0, 2])
    together = philox.words(seeds, positions, Purpose.DRAFT, slots, 10)
    for i in range(3):
        alone = philox.words(seeds[i : i + 1], positions[i : i + 1], Purpose.DRAFT, slots, 10)
        assert torch.equal(alone[0], together[i])


def test_uniform_is_never_one():
    """SGLang: a uniform that rounds up to 1.0 accepts or emits what has probability zero."""
    extremes = philox.uniform(torch.tensor([0, 255, 256, 0xFFFFFFFF]))
    assert extremes.tolist() == [0.0, 0.0, 2.0**-24, 1 - 2.0**-24]


def test_exponential_is_finite_positive_and_precise_where_it_is_small():
    extremes = philox.exponential(torch.tensor([0, 1, 0xFFFFFFFF]))
    assert extremes.isfinite().all()
    assert (extremes > 0).all()
    # Gumbel noise is −log E; float32 −log(−log u) cannot give more than 16.6.
    assert -math.log(extremes[0]) > 22
    assert extremes[1].item() == pytest.approx(1.5 * 2.0**-32, rel=1e-6)


def test_moments_of_uniform_and_exponential():
    """N = 400,000 and seed 1: means within 5 standard errors."""
    word = philox.words(
        torch.tensor([1]), torch.tensor([0]), Purpose.ACCEPT, torch.tensor([0]), 400_000
    ).flatten()
    count = len(word)
    assert abs(philox.uniform(word).double().mean() - 0.5) < 5 * math.sqrt(1 / 12 / count)
    exponential = philox.exponential(word).double()
    assert abs(exponential.mean() - 1) < 5 / math.sqrt(count)
    assert abs(exponential.square().mean() - 2) < 5 * math.sqrt(20 / count)
