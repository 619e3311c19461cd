"""Compiled layers: they compute what the model does, and are compiled as rarely as promised.

torch.compile traces as always but generates no code, so that the tests need no compiler.
"""

import functools

import pytest
import torch
import transformers

from specbench.engine.cache import RaggedCache
from specbench.engine.model import CausalModel
from specbench.errors import InputError

CAPACITY = 64


@pytest.fixture(autouse=True)
def traced(monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    yield
    torch._dynamo.reset()


def graphs():
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def breaks():
    return dict(torch._dynamo.utils.counters["graph_break"])


def family(name, layers=3):
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": layers}
    heads = {"num_attention_heads": 2}
    mixed = {
        "num_key_value_heads": 1, "head_dim": 8, "intermediate_size": 32, "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"][:layers]
        + ["full_attention"] * (layers - 3),
    }  # fmt: skip
    torch.manual_seed(0)
    config = {
        "llama": lambda: transformers.LlamaConfig(**sizes, **heads, intermediate_size=32),
        "qwen2": lambda: transformers.Qwen2Config(
            **sizes, **heads, num_key_value_heads=1, intermediate_size=32
        ),
        "opt": lambda: transformers.OPTConfig(
            **sizes, **heads, ffn_dim=32, word_embed_proj_dim=16, max_position_embeddings=80
        ),
        "gpt_neox": lambda: transformers.GPTNeoXConfig(**sizes, **heads, intermediate_size=32),
        "codegen": lambda: transformers.CodeGenConfig(
            vocab_size=50, n_positions=80, n_embd=16, n_layer=layers, n_head=4, rotary_dim=4
        ),
        "mistral": lambda: transformers.MistralConfig(
            **sizes, **heads, num_key_value_heads=1, intermediate_size=32, sliding_window=8
        ),
        "gemma2": lambda: transformers.Gemma2Config(
            **sizes, **heads, **mixed, attn_logit_softcapping=2.0, query_pre_attn_scalar=8
        ),
        "gemma3": lambda: transformers.Gemma3TextConfig(**sizes, **heads, **mixed),
    }[name]()
    return CausalModel(transformers.AutoModelForCausalLM.from_config(config).eval())


FAMILIES = ["llama", "qwen2", "opt", "gpt_neox", "codegen", "mistral", "gemma2", "gemma3"]


def steps(model, compiled):
    """Logits of a prompt fed at once, then of steps of several widths at each sequence's own place."""
    cache = RaggedCache(2, CAPACITY)
    generator = torch.Generator().manual_seed(1)
    found, at = [], torch.tensor([[3], [17]])
    prompt = torch.randint(0, 50, (2, 20), generator=generator)
    model.forward(prompt, torch.arange(20).repeat(2, 1), cache, [CAPACITY] * 2)
    for width in (1, 4, 2, 6, 1):
        tokens = torch.randint(0, 50, (2, width), generator=generator)
        positions = at + torch.arange(width)
        positions[1, -1:] = positions[1, -1:] if width < 6 else CAPACITY  # nowhere
        out = model.forward(tokens, positions, cache, [CAPACITY] * 2, compiled=compiled)
        found.append(out[:, : width - 1] if width == 6 else out)
        at = at + width
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_the_same_logits(name):
    model = family(name)
    for one, other in zip(steps(model, False), steps(model, True), strict=True):
        torch.testing.assert_close(one, other)
    # And as it was before, when code that is not compiled runs after it.
    for one, other in zip(steps(model, False), steps(model, True), strict=True):
        torch.testing.assert_close(one, other)
    assert breaks() == {}


@pytest.mark.parametrize(
    "name", ["llama", "qwen2", "opt", "gpt_neox", "mistral", "gemma2", "gemma3"]
)
def test_layers_share_their_code(name):
    counts = []
    for layers in (2, 5):
        torch._dynamo.reset()
        before = graphs()
        steps(family(name, layers), True)
        counts.append(graphs() - before)
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("name", FAMILIES)
def test_a_step_of_another_width_is_not_compiled_anew(name):
    model, cache = family(name), RaggedCache(2, CAPACITY)

    def step(width):
        before = graphs()
        positions = torch.arange(width).repeat(2, 1)
        tokens = torch.zeros_like(positions)
        if not cache.allocated:
            model.forward(tokens, positions, cache, [CAPACITY] * 2)
        model.forward(tokens, positions, cache, [CAPACITY] * 2, compiled=True)
        return graphs() - before

    assert step(1) > 0
    assert step(3) > 0
    assert [step(width) for width in (5, 1, 7, 9)] == [0] * 4


def test_a_failed_step_leaves_the_model_as_it_was():
    model = family("llama")
    expected = steps(model, False)
    cache = RaggedCache(2, CAPACITY)
    positions = torch.zeros(2, 1, dtype=torch.int64)
    model.forward(positions, positions, cache, [CAPACITY] * 2)
    with pytest.raises(IndexError):
        model.forward(positions + 1000, positions, cache, [CAPACITY] * 2, compiled=True)
    for one, other in zip(steps(model, False), expected, strict=True):
        torch.testing.assert_close(one, other)


def test_a_model_that_changes_its_values_before_it_attends_is_refused():
    """DiffLlama attends twice, to halves: compiled, it would compute something else in silence."""
    torch.manual_seed(0)
    config = transformers.DiffLlamaConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=32,
    )  # fmt: skip
    model = CausalModel(transformers.AutoModelForCausalLM.from_config(config).eval())
    expected = steps(model, False)
    with pytest.raises(InputError, match="cannot be compiled one by one"):
        steps(model, True)
    for one, other in zip(steps(model, False), expected, strict=True):
        torch.testing.assert_close(one, other)
