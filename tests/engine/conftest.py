"""Tiny Llama models with random weights, sharp enough that sampling has something to say."""

import pytest
import torch

from specbench.engine.model import CausalModel


def make_model(vocab=23, layers=2, hidden=16, seed=0, sharpness=0.6):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=hidden, num_hidden_layers=layers, intermediate_size=2 * hidden,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=256,
        initializer_range=sharpness, tie_word_embeddings=False,
    )  # fmt: skip
    return CausalModel(LlamaForCausalLM(config).eval())


@pytest.fixture(scope="session")
def target():
    return make_model(seed=1)


@pytest.fixture(scope="session")
def draft():
    return make_model(seed=2, layers=1)


@pytest.fixture
def model():
    """The factory."""
    return make_model
