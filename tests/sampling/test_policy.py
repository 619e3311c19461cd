"""γ policies against the rules of their sources, step by step."""

import pytest

from specbench.errors import InputError
from specbench.sampling.policy import make_policy


def follow(policy, *steps):
    found = [policy.gamma]
    for accepted in steps:
        policy.update(accepted, [policy.gamma] * len(accepted))
        found.append(policy.gamma)
    return found


def test_fixed_never_moves():
    assert follow(make_policy("4"), [4], [0], [2]) == [4, 4, 4, 4]


def test_heuristic_grows_by_two_and_shrinks_by_one():
    """transformers: all accepted → γ + 2, else max(1, γ − 1), from 5."""
    assert follow(make_policy("heuristic"), [5], [7], [3], [0]) == [5, 7, 9, 8, 7]


def test_heuristic_grows_if_all_that_was_offered_was_accepted():
    """transformers counts the candidates there were: an end token or the limit may have cut them."""
    policy = make_policy("heuristic")
    policy.update([2], [2])
    assert policy.gamma == 7


def test_heuristic_stays_within_one_and_128():
    policy = make_policy("heuristic")
    for _ in range(20):
        policy.update([0], [policy.gamma])
    assert policy.gamma == 1
    for _ in range(200):
        policy.update([policy.gamma], [policy.gamma])
    assert policy.gamma == 128 == policy.limit


def test_bass_by_hand():
    """Algorithm 1: l = 7, s = 0; max x = l: min(l + 2, 32); else max(1, max x, l − ⌈l/10⌉ − s)."""
    # 7 all: 9; 9 all: 11; max 4: 11 − 2 − 0 = 9 (s = 1); max 2: 9 − 1 − 1 = 7; max 6: 7 − 1 − 1 = 5 < 6.
    assert follow(make_policy("bass"), [7, 1], [9], [4, 0], [2, 2], [6]) == [7, 9, 11, 9, 7, 6]


def test_bass_resets_its_haste_after_a_full_acceptance():
    # max 3: 7 − 1 − 0 = 6 (s = 1); 6 all: 8 (s = 0); max 0: 8 − 1 − 0 = 7; max 0: 7 − 1 − 1 = 5.
    assert follow(make_policy("bass"), [3], [6], [0], [0]) == [7, 6, 8, 7, 5]


def test_bass_stays_within_one_and_32():
    policy = make_policy("bass")
    for _ in range(30):
        policy.update([policy.gamma], [policy.gamma])
    assert policy.gamma == 32 == policy.limit
    for _ in range(30):
        policy.update([0], [policy.gamma])
    assert policy.gamma == 1


@pytest.mark.parametrize("text", ["", "-1", "129", "fast", "1.5", "²"])
def test_anything_else_is_refused(text):
    with pytest.raises(InputError, match="gamma"):
        make_policy(text)
