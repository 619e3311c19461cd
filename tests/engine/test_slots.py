"""The device's side of a batch: seats, positions, prompts."""

import torch

from specbench.engine.slots import Seat, Slots

CPU, NOWHERE = torch.device("cpu"), 16


def slots_of(**seats):
    slots = Slots(3, NOWHERE, 4, [7], CPU)
    slots.seat({int(name[1:]): seat for name, seat in seats.items()})
    return slots


def test_seats_are_taken_together_and_leave_the_others_alone():
    slots = slots_of(s0=Seat((1, 2, 3), 9, 2**62))
    slots.seat({2: Seat((4,), 3, 5), 1: Seat((5, 6), 4, 6)})
    assert slots.lengths.tolist() == slots.begins.tolist() == [3, 2, 1]
    assert slots.limits.tolist() == [9, 4, 3]
    assert slots.seeds.tolist() == [2**62, 6, 5]
    assert slots.running.tolist() == [True, True, True]
    assert [slots.tokens[i, :n].tolist() for i, n in enumerate((3, 2, 1))] == [
        [1, 2, 3],
        [5, 6],
        [4],
    ]


def test_a_steps_tokens_stand_between_the_begin_and_the_limit():
    slots = slots_of(s0=Seat((1, 2, 3), 9, 0), s2=Seat((4,), 3, 0))
    assert slots.positions(-2, 6).tolist() == [
        [1, 2, 3, 4, 5, 6],
        [NOWHERE] * 6,  # empty
        [NOWHERE, 0, 1, 2, NOWHERE, NOWHERE],  # before its begin; past what it could keep
    ]
    assert slots.tokens_at(slots.positions(-2, 2))[0].tolist() == [2, 3]


def test_a_prompt_is_all_but_its_last_token():
    slots = slots_of(s0=Seat((1, 2, 3), 9, 0), s1=Seat((4,), 3, 0))
    tokens, positions = slots.prompts(0, 4)
    assert positions.tolist() == [[0, 1, NOWHERE, NOWHERE], [NOWHERE] * 4, [NOWHERE] * 4]
    assert tokens[0, :2].tolist() == [1, 2]
    assert slots.prompts(1, 2, slice(0, 1))[1].tolist() == [[1, NOWHERE]]
