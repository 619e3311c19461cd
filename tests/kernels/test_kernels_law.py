"""Each kernel decides as its torch law does on the same Philox numbers, token by token.

Ragged lengths, mixed temperatures with greedy among them, seeds of 64 bits, positions past 2³², and
poison wherever nothing may look. What differs is judged in float64: see conftest.py.
"""

import pytest
import torch

from specbench.sampling.verifier import Verifier

pytestmark = pytest.mark.gpu

METHODS = ["exact", "sigmoid", "fused", "block"]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SHAPES = [
    # B, γ, V: awkward primes and the real vocabularies; at most 1 GB of logits
    (1, 0, 1), (3, 5, 1), (40, 20, 1), (8, 5, 31), (40, 1, 32), (3, 128, 32), (8, 20, 1000),
    (40, 5, 1000), (1, 128, 1000), (8, 5, 32000), (40, 1, 32000), (3, 20, 50257), (40, 20, 50257),
    (1, 5, 51865), (8, 5, 51865), (1, 128, 51865), (40, 5, 128256), (1, 20, 128256),
    (3, 0, 151936), (1, 1, 151936), (8, 20, 151936), (3, 128, 151936), (1, 5, 262144),
    (8, 5, 262144), (1, 128, 262144), (40, 0, 262144),
]  # fmt: skip
SOME = [(3, 5, 31), (8, 20, 1000), (8, 5, 51865), (3, 128, 32000), (1, 5, 151936)]


def shape_of(value):
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=shape_of)
@pytest.mark.parametrize("method", METHODS)
def test_decides_as_the_law(problem, verify, wrong, method, shape, dtype):
    """The authors' range for sigmoid: its residuals cancel to 1e-5, so one in ten may be rounding."""
    data = problem(*shape, dtype, seed=sum(shape))
    share = 0.1 if method == "sigmoid" else 0.02
    assert wrong(method, data, verify(method, data), share=share) == ""


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SOME, ids=shape_of)
def test_sigmoid_of_a_narrow_range(problem, verify, wrong, shape, dtype):
    """Clips on both sides, and its residuals are of the size of its weights."""
    data = problem(*shape, dtype, seed=1)
    found = verify("sigmoid", data, sigmoid_range=(-10.0, 10.0))
    assert wrong("sigmoid", data, found, (-10.0, 10.0)) == ""
    found = verify("sigmoid", data, sigmoid_range=(-2.0, 3.0))
    assert wrong("sigmoid", data, found, (-2.0, 3.0)) == ""


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SOME, ids=shape_of)
@pytest.mark.parametrize("method", ["fused", "block"])
def test_kept_log_normalisers_change_nothing(problem, verify, wrong, method, shape, dtype):
    """`draft_lse`, with NaN for the padding; and one that is a view of something wider."""
    data = problem(*shape, dtype, seed=2)
    lse = data.draft_lse()
    assert wrong(method, data, verify(method, data, draft_lse=lse)) == ""
    wide = lse.new_full((lse.shape[0], lse.shape[1] + 3), torch.nan)
    wide[:, : lse.shape[1]] = lse
    view = wide[:, : lse.shape[1]]
    assert wrong(method, data, verify(method, data, draft_lse=view)) == ""


@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("shape", SOME, ids=shape_of)
@pytest.mark.parametrize("method", METHODS)
def test_one_number_for_all_sequences(problem, wrong, method, shape, temperature):
    """Parameters by value; a kernel reads those that are tensors from memory, these from its call."""
    data = problem(*shape, seed=3, mixed=False)
    data = data.but(
        temperature=torch.full_like(data.temperature, temperature),
        seeds=torch.full_like(data.seeds, -77),
        positions=torch.full_like(data.positions, 2**40 + 5),
    )
    verifier = Verifier(method, *shape, torch.float32, data.seeds.device)
    found = verifier(*data.tensors, temperature=temperature, seeds=-77, positions=2**40 + 5)
    assert wrong(method, data, found, share=0.1) == ""


@pytest.mark.parametrize("method", METHODS)
def test_every_acceptance_is_met(problem, verify, wrong, method):
    """256 sequences of γ = 7: each count from 0 to γ occurs, so no path goes untried."""
    data = problem(256, 7, 211, seed=4, mixed=False, noise=(0.1, 0.4, 0.8, 1.5))
    found = verify(method, data, sigmoid_range=(-10.0, 10.0))
    assert set(found.num_accepted.tolist()) == set(range(8))
    assert wrong(method, data, found, (-10.0, 10.0)) == ""
