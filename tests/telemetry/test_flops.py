"""MFU against figures worked out by hand, and against the engine's own forwards."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specbench.telemetry.flops import (
    draft_tokens,
    model_flops_utilisation,
    peak_flops,
    target_tokens,
)


@pytest.mark.parametrize(
    ("name", "dtype", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", "float16", 312),
        ("NVIDIA A100-PCIE-40GB", "bfloat16", 312),
        ("NVIDIA A100 80GB PCIe", "float32", 19.5),
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989.5),
        ("NVIDIA H100 PCIe", "float16", 756.5),
        ("NVIDIA H100 NVL", "float16", 835.5),
        ("NVIDIA H200", "float32", 67),
        ("NVIDIA B200", "bfloat16", 2250),
        ("NVIDIA L4", "float16", 121),
        ("NVIDIA L40S", "float16", 362.05),
        ("NVIDIA GeForce RTX 4090", "float16", 165.2),
    ],
)
def test_peaks(name, dtype, tflops):
    assert peak_flops(name, dtype) == tflops * 1e12


@pytest.mark.parametrize(
    "name",
    [
        "AMD EPYC 9334 32-Core Processor",
        "cpu",
        "",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA H20",
        "NVIDIA L40",
        "NVIDIA H100 80GB HBM3 MIG 3g.40gb",
    ],
)
def test_what_is_no_whole_known_gpu_has_no_peak(name):
    assert peak_flops(name, "float16") is None


def test_a_dtype_nobody_measured_has_no_peak():
    assert peak_flops("NVIDIA H100 80GB HBM3", "float64") is None


def test_utilisation_by_hand():
    # 2 · (7e9 · 100 + 1e9 · 50) = 1.5e12 FLOP in 0.5 s of 312e12 FLOP/s
    share = model_flops_utilisation([(7_000_000_000, 100), (1_000_000_000, 50)], 0.5, 312e12)
    assert share == pytest.approx(1.5e12 / 156e12)


@pytest.mark.parametrize(("seconds", "peak"), [(1.0, None), (0.0, 1e12)])
def test_what_cannot_be_told_is_none(seconds, peak):
    assert model_flops_utilisation([(1, 1)], seconds, peak) is None


def test_tokens_by_hand():
    assert target_tokens(10, [4, 4, 1]) == 9 + 5 + 5 + 2
    assert draft_tokens(10, [4, 4, 1]) == 9 + 5 + 5 + 2
    assert target_tokens(10, [0, 0]) == 9 + 2
    assert draft_tokens(10, [0, 0]) == 0, "plain decoding has no draft"
    assert draft_tokens(10, [4, 0]) == 9 + 5, "a step without drafts does not run the draft model"


@given(st.integers(1, 500), st.lists(st.integers(1, 128), min_size=1, max_size=50))
def test_both_models_see_the_same_tokens_while_drafting(prompt, gammas):
    assert target_tokens(prompt, gammas) == draft_tokens(prompt, gammas)


@pytest.mark.parametrize("gamma", ["0", "3"])
def test_tokens_are_those_that_the_engine_feeds(monkeypatch, gamma):
    """Of two prompts of one length, none of which ends early: nothing is padded."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from specbench.engine.batch import Request
    from specbench.engine.decoding import Decoding
    from specbench.engine.model import CausalModel
    from specbench.engine.native import NativeEngine
    from specbench.sampling.policy import make_policy
    from specbench.sampling.registry import get_method

    config = LlamaConfig(
        vocab_size=11,
        hidden_size=8,
        num_hidden_layers=1,
        intermediate_size=8,
        num_attention_heads=1,
    )
    target, draft = (CausalModel(LlamaForCausalLM(config).eval()) for _ in range(2))
    fed = {id(target): 0, id(draft): 0}
    original = CausalModel.forward

    def forward(self, tokens, *args, **kwargs):
        fed[id(self)] += tokens.numel()
        return original(self, tokens, *args, **kwargs)

    monkeypatch.setattr(CausalModel, "forward", forward)
    request = Request((1, 2, 3), 5)
    engine = NativeEngine(target, draft, [])
    for _ in range(2):  # the first takes the caches' memory, by a token of nobody's
        fed.update(dict.fromkeys(fed, 0))
        generations = engine.generate(
            [request, request], get_method("fused"), make_policy(gamma), Decoding(9)
        )
    fields = [(3, generation.step_gamma) for generation in generations]
    assert fed[id(target)] == sum(target_tokens(*one) for one in fields)
    assert fed[id(draft)] == sum(draft_tokens(*one) for one in fields)
