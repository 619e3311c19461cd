"""What is measured: the presets' shapes, and what an option changes or may not be."""

import pytest
import torch

from specbench.errors import InputError
from specbench.micro.plan import PRESETS, Shape, make_plan

CPU = torch.device("cpu")


def shapes(**options):
    return [
        (s.batch_size, s.gamma, s.vocab_size, s.dtype) for s in make_plan(CPU, **options).shapes
    ]


def test_paper_is_the_table_of_the_peers():
    f32, f16 = "float32", "float16"
    assert shapes() == [
        (1, 1, 32000, f32), (1, 5, 32000, f32), (1, 20, 32000, f32), (1, 5, 51865, f32),
        (1, 5, 151936, f32), (1, 20, 151936, f32), (1, 5, 256000, f32), (1, 20, 256000, f32),
        (1, 5, 32000, f16), (1, 5, 51865, f16), (1, 5, 151936, f16), (1, 20, 256000, f16),
        (8, 5, 32000, f32), (8, 5, 151936, f16), (32, 5, 151936, f16), (64, 8, 128256, f16),
        (32, 5, 151936, f32), (64, 8, 128256, f32),
    ]  # fmt: skip


def test_the_other_presets_vary_one_axis():
    vocab, batch, gamma = (PRESETS[name] for name in ("vocab", "batch", "gamma"))
    assert len(vocab) == 16
    assert {(s.batch_size, s.gamma) for s in vocab} == {(1, 5)}
    assert [s.batch_size for s in batch] == [1, 2, 4, 8, 16, 32, 64, 128] * 2
    assert {(s.vocab_size, s.dtype) for s in batch} == {(151936, "float16"), (128256, "float16")}
    assert [s.gamma for s in gamma] == [*range(1, 21), 32, 64, 128] * 2


def test_an_option_replaces_its_axis_and_the_name():
    plan = make_plan(CPU, gamma="2..4:2")
    assert plan.name == "custom"
    assert {s.gamma for s in plan.shapes} == {2, 4}
    assert len(plan.shapes) == len(set(plan.shapes)) == 2 * 14  # 14 rows differ in more than γ
    assert make_plan(CPU, preset="vocab").name == "vocab"


def test_all_axes_replaced():
    options = {"gamma": "3", "vocab_size": "31,1000", "batch_size": "2", "dtype": "bfloat16"}
    assert shapes(**options) == [(2, 3, 31, "bfloat16"), (2, 3, 1000, "bfloat16")]


def test_methods_by_name_or_all():
    assert [m.name for m in make_plan(CPU, method="fused, baseline,fused").methods] == [
        "fused",
        "baseline",
    ]
    names = [m.name for m in make_plan(CPU).methods]
    assert names[:5] == ["baseline", "exact", "sigmoid", "fused", "block"]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("preset", "papers", "unknown preset 'papers'"),
        ("method", "fuzed", "unknown method 'fuzed'"),
        ("gamma", "129", "gamma 129 is too large"),
        ("gamma", "heuristic", "gamma 'heuristic' is a policy"),
        ("vocab_size", "0", "vocab-size holds '0'"),
        ("vocab_size", "262145", "vocab-size holds '262145'"),
        ("vocab_size", "32k", "vocab-size holds '32k'"),
        ("batch_size", "1,-1", "batch-size holds '-1'"),
        ("batch_size", "", "batch-size holds ''"),
        ("dtype", "float64", "dtype 'float64' is unknown"),
        ("noise", float("nan"), "noise is nan"),
        ("noise", -0.1, "noise is -0.1"),
        ("replays", 0, "replays is 0"),
        ("seed", -1, "seed is -1"),
    ],
)
def test_wrong_values_are_refused_in_a_sentence(option, value, message):
    with pytest.raises(InputError, match=message) as caught:
        make_plan(CPU, **{option: value})
    assert caught.value.hint


def test_a_shape_has_its_dtype_by_name():
    assert Shape(1, 5, 32000, "float16").torch_dtype is torch.float16
