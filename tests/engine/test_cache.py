"""The ragged cache: what a query may see, and where keys go."""

import torch

from specbench.engine.cache import RaggedCache, causal_mask


def states(batch, tokens, value):
    return torch.full((batch, 1, tokens, 2), float(value))


def test_a_query_sees_slots_up_to_its_own():
    mask = causal_mask(torch.tensor([[0, 1], [5, 6]]), 64, torch.bfloat16)
    assert mask.shape == (2, 1, 2, 64)
    assert mask.dtype is torch.bfloat16
    assert (mask == 0).sum(-1)[:, 0].tolist() == [[1, 2], [6, 7]]
    assert bool(mask[mask != 0].isneginf().all())


def test_each_sequence_writes_at_its_own_positions():
    cache = RaggedCache(2, capacity=10)
    cache.place(torch.tensor([[0, 1], [0, 1]]), 8)
    cache.update(states(2, 2, 1), states(2, 2, 1), 0)
    cache.place(torch.tensor([[2], [1]]), 8)
    keys, values = cache.update(states(2, 1, 7), states(2, 1, 8), 0)
    assert keys[:, 0, :4, 0].tolist() == [[1, 1, 7, 0], [1, 7, 0, 0]]
    assert values[:, 0, :4, 0].tolist() == [[1, 1, 8, 0], [1, 8, 0, 0]]


def test_nowhere_is_outside_of_every_window():
    cache = RaggedCache(2, capacity=3)
    cache.place(torch.tensor([[0, 3], [3, 3]]), 64)
    keys, _ = cache.update(states(2, 2, 5), states(2, 2, 5), 0)
    assert keys.shape[2] == 3
    assert keys[:, 0, :, 0].tolist() == [[5, 0, 0], [0, 0, 0]]


def test_some_sequences_alone():
    """A newcomer's prompt goes into its own row, and its neighbours' keys stay."""
    cache = RaggedCache(3, capacity=4)
    cache.place(torch.tensor([[0], [0], [0]]), 4)
    cache.update(states(3, 1, 1), states(3, 1, 1), 0)
    cache.place(torch.tensor([[0, 1]]), 4, slice(1, 2))
    keys, _ = cache.update(states(1, 2, 9), states(1, 2, 9), 0)
    assert keys[:, 0, :, 0].tolist() == [[9, 9, 0, 0]]
    cache.place(torch.tensor([[1], [2], [1]]), 4)
    keys, _ = cache.update(states(3, 1, 2), states(3, 1, 2), 0)
    assert keys[:, 0, :3, 0].tolist() == [[1, 2, 0], [9, 9, 2], [1, 2, 0]]


def test_what_is_cleared_cannot_poison_who_comes_next():
    cache = RaggedCache(2, capacity=2)
    cache.place(torch.tensor([[0], [0]]), 2)
    cache.update(states(2, 1, torch.nan), states(2, 1, torch.nan), 0)
    cache.clear(slice(0, 1))
    cache.place(torch.tensor([[1], [1]]), 2)
    keys, _ = cache.update(states(2, 1, 3), states(2, 1, 3), 0)
    assert keys[0, 0, :, 0].tolist() == [0, 3]
    assert bool(keys[1, 0, 0].isnan().all())


def test_memory_is_what_the_formula_says():
    cache = RaggedCache(2, capacity=7)
    assert not cache.allocated
    cache.place(torch.tensor([[0], [0]]), 2)
    for layer in range(3):
        cache.update(states(2, 1, 3), states(2, 1, 3), layer)
    assert cache.allocated
    assert cache.allocated_bytes == 2 * 3 * 2 * 1 * 8 * 2 * 4
