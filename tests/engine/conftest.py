"""Tiny Llama models with random weights, sharp enough that sampling has something to say."""

import math

import pytest
import torch

from specbench.engine.model import CausalModel
from specbench.sampling.check import chi_square
from specbench.sampling.processing import process


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


class Law:
    """What a target's sequences of a few tokens must follow, and how far a sample is from it."""

    def __init__(self, model, prompt, length, **options):
        self.vocab, self.length = model.vocab_size, length
        self.probabilities = self._joint(model, prompt, **options)

    def misfit(self, sequences):
        """Chi-square and its degrees of freedom, over all sequences of that length."""
        cells = torch.zeros(self.vocab**self.length, dtype=torch.float64)
        for tokens in sequences:
            cells[sum(token * self.vocab**i for i, token in enumerate(reversed(tokens)))] += 1
        return chi_square(cells, len(sequences) * self.probabilities)

    def _joint(self, model, prompt, temperature=1.0, top_k=None, top_p=None):
        """(vocab^length,) float64: probability of each under the masked, tempered target."""
        sequences = torch.cartesian_prod(*[torch.arange(self.vocab)] * self.length)
        tokens = torch.cat([torch.tensor(prompt).expand(len(sequences), -1), sequences], 1)
        with torch.no_grad():
            logits = model.model(tokens.to(model.device)).logits.cpu()[:, len(prompt) - 1 : -1]
        warm = torch.full((len(sequences),), temperature)
        rows = process(logits, self.vocab, warm, top_k, top_p).double() / temperature
        found = rows.softmax(-1).gather(2, sequences[:, :, None]).prod(1)[:, 0]
        assert math.isclose(float(found.sum()), 1, abs_tol=1e-6)
        return found


@pytest.fixture
def law():
    """The class."""
    return Law


@pytest.fixture
def small_pair(model):
    """A target and a draft of three tokens, neither sharp nor flat."""
    return model(3, seed=4, sharpness=0.4), model(3, seed=5, layers=1, sharpness=0.4)
