"""Repetition and variety of an output, by hand and by law."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specbench.tasks.fluency import distinct, repetition

SEQUENCES = st.lists(st.integers(0, 4), max_size=40)


def test_by_hand():
    tokens = [1, 2, 1, 2, 1, 2]
    assert distinct(tokens, 1) == 2 / 6
    assert distinct(tokens, 2) == 2 / 5  # (1, 2) and (2, 1)
    assert repetition(tokens, 4) == pytest.approx(1 / 3)  # 1212, 2121, 1212
    assert distinct([7, 8, 9], 1) == 1.0
    assert repetition([7, 8, 9, 10], 4) == 0.0


def test_an_output_without_an_n_gram_has_no_figure():
    assert repetition([1, 2, 3]) is None
    assert distinct([], 1) is None
    assert distinct([1], 2) is None


@given(SEQUENCES, st.integers(1, 4))
def test_bounds(tokens, order):
    found = distinct(tokens, order)
    assert (found is None) == (len(tokens) < order)
    if found is not None:
        assert 0 < found <= 1
        assert repetition(tokens, order) == 1 - found


@given(st.lists(st.integers(0, 4), min_size=4, max_size=20))
def test_writing_it_twice_repeats_more(tokens):
    assert repetition(tokens * 2) > repetition(tokens) or len(set(tokens)) == 1
