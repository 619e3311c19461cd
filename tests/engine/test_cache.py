"""The ragged cache: what a query may see, and where keys go."""

import torch

from specbench.engine.cache import BUCKET, RaggedCache


def states(batch, tokens, value):
    return torch.full((batch, 1, tokens, 2), float(value))


def test_a_query_sees_slots_up_to_its_own():
    mask = RaggedCache(capacity=100).place(torch.tensor([[0, 1], [5, 6]]), longest=7)
    assert mask.shape == (2, 1, 2, BUCKET)
    assert mask.sum(-1)[:, 0].tolist() == [[1, 2], [6, 7]]


def test_each_sequence_writes_at_its_own_positions():
    cache = RaggedCache(capacity=10)
    cache.place(torch.tensor([[0, 1], [0, 1]]), longest=2)
    cache.update(states(2, 2, 1), states(2, 2, 1), 0)
    cache.place(torch.tensor([[2], [1]]), longest=3)
    keys, values = cache.update(states(2, 1, 7), states(2, 1, 8), 0)
    assert keys[:, 0, :4, 0].tolist() == [[1, 1, 7, 0], [1, 7, 0, 0]]
    assert values[:, 0, :4, 0].tolist() == [[1, 1, 8, 0], [1, 8, 0, 0]]


def test_nowhere_is_outside_of_every_window():
    cache = RaggedCache(capacity=3)
    cache.place(torch.tensor([[0, 3], [3, 3]]), longest=3)
    keys, _ = cache.update(states(2, 2, 5), states(2, 2, 5), 0)
    assert keys.shape[2] == 3
    assert keys[:, 0, :, 0].tolist() == [[5, 0, 0], [0, 0, 0]]


def test_the_window_grows_in_buckets_and_stops_at_the_capacity():
    cache = RaggedCache(capacity=BUCKET + 5)
    for longest, window in ((1, BUCKET), (BUCKET, BUCKET), (BUCKET + 1, BUCKET + 5)):
        assert cache.place(torch.zeros(1, 1, dtype=torch.int64), longest).shape[-1] == window
