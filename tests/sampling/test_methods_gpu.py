"""The laws on a GPU's tensors decide as they do on the CPU."""

import pytest
import torch

import specbench

METHODS = ["baseline", "exact", "sigmoid", "fused", "block"]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_the_gpu_decides_as_the_cpu(problem, method, dtype):
    """The same numbers; a decision within float32's rounding may differ: at most 2 of 64."""
    data = problem(64, 5, 4099, dtype=dtype)
    on_cpu = specbench.verify(*data.arguments(), method=method, **data.numbers())
    on_gpu = specbench.verify(
        *(tensor.cuda() for tensor in data.arguments()), method=method,
        seeds=data.seeds.cuda(), positions=data.positions.cuda(),
    )  # fmt: skip
    assert on_gpu.tokens.is_cuda
    assert (on_gpu.tokens.cpu() != on_cpu.tokens).any(1).sum() <= 2


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
def test_an_id_outside_the_vocabulary_is_rejected_without_a_look(problem, method):
    """On a GPU values are not checked, since that would stop it; nothing is read out of bounds."""
    data = problem(4, 3, 31)
    data.draft_tokens[0, 1], data.draft_tokens[1, 0] = 31, -7
    found = specbench.verify(
        *(tensor.cuda() for tensor in data.arguments()), method=method,
        seeds=data.seeds.cuda(), positions=data.positions.cuda(),
    )  # fmt: skip
    assert found.num_accepted[0] <= 1
    assert found.num_accepted[1] == 0
    assert int(found.tokens.max()) < 31


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
def test_a_mixed_batch_decides_greedily_where_the_temperature_is_zero(problem, method):
    data = problem(6, 3, 29)
    temperature = torch.tensor([0.0, 1.0, 0.5, 0.0, 2.0, 1.0])
    on_cpu = specbench.verify(
        *data.arguments(), method=method, temperature=temperature, **data.numbers()
    )
    on_gpu = specbench.verify(
        *(tensor.cuda() for tensor in data.arguments()), method=method,
        temperature=temperature.cuda(), seeds=data.seeds.cuda(), positions=data.positions.cuda(),
    )  # fmt: skip
    assert torch.equal(on_gpu.tokens.cpu(), on_cpu.tokens)
