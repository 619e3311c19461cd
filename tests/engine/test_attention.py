"""The engine's attention is attention, in every layout that it takes for speed."""

import pytest
import torch

from specbench.engine import attention
from specbench.engine.cache import causal_mask

# Sequences, query heads, key heads, queries, window, width of a head.
SHAPES = [
    (1, 4, 4, 1, 64, 16),
    (1, 4, 2, 1, 64, 16),
    (3, 4, 4, 5, 128, 16),
    (3, 8, 2, 6, 128, 64),
    (2, 6, 1, 33, 192, 32),
]


def explicit(query, key, value, positions, scaling, softcap=None):
    """(B, T, H, D) in float64, one head after the other."""
    query, key, value = (one.double() for one in (query, key, value))
    groups = query.shape[1] // key.shape[1]
    out = torch.zeros_like(query)
    for head in range(query.shape[1]):
        keys, values = key[:, head // groups], value[:, head // groups]
        scores = query[:, head] @ keys.transpose(1, 2) * scaling
        if softcap is not None:
            scores = softcap * (scores / softcap).tanh()
        seen = torch.arange(key.shape[2], device=key.device) <= positions[:, :, None]
        out[:, head] = scores.masked_fill(~seen, -torch.inf).softmax(-1) @ values
    return out.transpose(1, 2)


def draw(shape, dtype, device):
    batch, heads, key_heads, length, window, width = shape
    generator = torch.Generator().manual_seed(0)

    def normal(*sizes):
        return torch.randn(*sizes, generator=generator).to(device, dtype)

    query = normal(batch, heads, length, width)
    key, value = (normal(batch, key_heads, window, width) for _ in range(2))
    first = torch.randint(0, window - length, (batch, 1), generator=generator)
    positions = (first + torch.arange(length)).to(device)
    mask = causal_mask(positions, window, dtype)
    return query, key, value, mask, positions


@pytest.mark.parametrize("scaling", [None, 0.5])
@pytest.mark.parametrize("one_query_a_head", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_attention(shape, one_query_a_head, scaling, monkeypatch):
    monkeypatch.setattr(attention, "_is_by_cudnn", lambda device: one_query_a_head)
    monkeypatch.setattr(attention, "HALF", (torch.float64,))
    query, key, value, mask, positions = draw(shape, torch.float64, "cpu")
    out, _ = attention.attend_padded(None, query, key, value, mask, scaling)
    expected = explicit(query, key, value, positions, scaling or shape[-1] ** -0.5)
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("scaling", [None, 0.5])
@pytest.mark.parametrize("shape", SHAPES)
def test_scores_are_capped(shape, scaling):
    query, key, value, mask, positions = draw(shape, torch.float64, "cpu")
    out, _ = attention.attend_padded(None, query, key, value, mask, scaling, 0.7)
    scale = scaling or shape[-1] ** -0.5
    torch.testing.assert_close(out, explicit(query, key, value, positions, scale, 0.7))
    assert not out.allclose(explicit(query, key, value, positions, scale))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", [*SHAPES, (8, 16, 8, 6, 704, 256)])
def test_scores_are_capped_on_a_gpu(shape, dtype):
    query, key, value, mask, positions = draw(shape, dtype, "cuda")
    out, _ = attention.attend_padded(None, query, key, value, mask, None, 2.0)
    expected = explicit(query, key, value, positions, shape[-1] ** -0.5, 2.0)
    bound = {torch.bfloat16: 2e-2, torch.float16: 3e-3, torch.float32: 1e-4}[dtype]
    assert float((out - expected).norm() / expected.norm()) < bound


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(
    "shape", [*SHAPES, (8, 32, 8, 64, 704, 128), (2, 32, 32, 65, 256, 128), (1, 4, 4, 6, 64, 160)]
)
def test_it_is_attention_on_a_gpu(shape, dtype):
    query, key, value, mask, positions = draw(shape, dtype, "cuda")
    out, _ = attention.attend_padded(None, query, key, value, mask)
    expected = explicit(query, key, value, positions, shape[-1] ** -0.5)
    bound = {torch.bfloat16: 2e-2, torch.float16: 3e-3, torch.float32: 1e-4}[dtype]
    assert float((out - expected).norm() / expected.norm()) < bound
