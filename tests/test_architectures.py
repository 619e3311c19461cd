"""Built-in shapes: as large as they are published, and random weights that are a sound model."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from specbench.architectures import (
    ARCHITECTURES,
    configuration,
    count_parameters,
    dummy_dtype,
    dummy_model,
)
from specbench.engine.batch import Request
from specbench.engine.decoding import Decoding, Execution
from specbench.engine.model import CausalModel
from specbench.engine.native import NativeEngine
from specbench.errors import InputError
from specbench.sampling.policy import make_policy
from specbench.sampling.registry import get_method

# As the hub counts the stored tensors, tied embeddings once; of CodeGen 16B and BASS, as their papers
# say. "350M" is a name: CodeGen's paper gives 20 layers, width 1024 and 51200 tokens, which make 357 M.
# Of Gemma 3 12B without what sees, as KerasHub counts its text model, which has 64 rows of 3840 less.
PUBLISHED = {
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "meta-llama/Llama-2-13b-hf": 13_015_864_320,
    "princeton-nlp/Sheared-LLaMA-1.3B": 1_345_423_360,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.1-8B-Instruct": 8_030_261_248,
    "meta-llama/Llama-3.2-1B-Instruct": 1_235_814_400,
    "Qwen/Qwen1.5-7B": 7_721_324_544,
    "Qwen/Qwen1.5-0.5B": 463_987_712,
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    "Qwen/Qwen2.5-0.5B-Instruct": 494_032_768,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-8B-Base": 8_190_735_360,
    "Qwen/Qwen3-0.6B-Base": 596_049_920,
    "google/gemma-7b": 8_537_680_896,
    "google/gemma-2b": 2_506_172_416,
    "google/gemma-2-9b": 9_241_705_984,
    "google/gemma-2-2b": 2_614_341_888,
    "google/gemma-2-9b-it": 9_241_705_984,
    "google/gemma-2-2b-it": 2_614_341_888,
    "google/gemma-3-12b-it": 11_766_034_176,
    "google/gemma-3-1b-it": 999_885_952,
    "facebook/opt-13b": 12_853_473_280,
    "facebook/opt-125m": 125_239_296,
    "Salesforce/codegen-16B-mono": 16_100_000_000,
    "Salesforce/codegen-350M-mono": 357_000_000,
    "openai/whisper-tiny": 37_800_000,
    "openai/whisper-tiny.en": 37_800_000,
    "openai/whisper-base": 72_600_000,
    "openai/whisper-base.en": 72_600_000,
    "openai/whisper-small": 242_000_000,
    "openai/whisper-small.en": 242_000_000,
    "openai/whisper-medium": 764_000_000,
    "openai/whisper-medium.en": 764_000_000,
    "openai/whisper-large": 1_540_000_000,
    "openai/whisper-large-v2": 1_540_000_000,
    "openai/whisper-large-v3": 1_540_000_000,
    "openai/whisper-large-v3-turbo": 809_000_000,
    "distil-whisper/distil-small.en": 166_000_000,
    "distil-whisper/distil-medium.en": 394_000_000,
    "distil-whisper/distil-large-v2": 756_000_000,
    "distil-whisper/distil-large-v3": 756_000_000,
    "distil-whisper/distil-large-v3.5": 756_000_000,
    "bass-7.8b": 7_800_000_000,
    "bass-310m": 310_000_000,
}

# One of each family, and each way of turning positions into angles.
FAMILIES = [
    "meta-llama/Llama-2-7b-hf", "meta-llama/Llama-3.2-1B", "Qwen/Qwen2.5-0.5B", "Qwen/Qwen3-8B",
    "google/gemma-2b", "google/gemma-2-2b", "google/gemma-3-12b-it", "facebook/opt-125m",
    "Salesforce/codegen-350M-mono",
]  # fmt: skip


def tiny(model):
    """The configuration of a model, made so small that it decodes in a test."""
    config = copy.deepcopy(configuration(model))
    small = {
        "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "vocab_size": 99,
        "max_position_embeddings": 128, "intermediate_size": 96, "ffn_dim": 96,
        "word_embed_proj_dim": 64, "num_key_value_heads": 2, "head_dim": 16, "rotary_dim": 8,
        "layer_types": ["full_attention"] * 2, "sliding_window": 4,
    }  # fmt: skip
    if getattr(config, "sliding_window", None):
        small["layer_types"] = ["sliding_attention", "full_attention"]
    for name, value in small.items():
        if getattr(config, name, None) is not None:
            setattr(config, name, value)
    return config


@pytest.mark.parametrize("model", ARCHITECTURES)
def test_has_as_many_parameters_as_are_published(model):
    assert count_parameters(configuration(model)) == pytest.approx(PUBLISHED[model], rel=5e-3)


def test_the_smallest_is_counted_right_by_hand():
    """OPT 125M: 12 layers of four attention matrices and two of the MLP with biases and two norms;
    tokens, positions (two more than 2048) and a last norm; the output is the token embedding."""
    width, mlp = 768, 3072
    layer = 4 * (width * width + width) + 2 * width * mlp + mlp + width + 2 * 2 * width
    by_hand = 12 * layer + 50272 * width + 2050 * width + 2 * width
    assert count_parameters(configuration("facebook/opt-125m")) == by_hand


class TestConfigurations:
    def test_of_a_folder(self, tiny_pair):
        assert configuration(str(tiny_pair.target)).num_hidden_layers == 2

    @pytest.mark.parametrize("model", ["org/unknown", "./nowhere", ""])
    def test_unknown(self, model, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(InputError, match="is not known here") as caught:
            configuration(model)
        assert "specbench list pairs" in caught.value.hint

    @pytest.mark.parametrize("content", ["{", "[]", "{}", '{"model_type": "no-such"}'])
    def test_unreadable(self, tmp_path, content):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(InputError, match="cannot be read") as caught:
            configuration(str(tmp_path))
        assert "\n" not in caught.value.message

    def test_of_no_causal_language_model(self, tmp_path):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
        with pytest.raises(InputError, match="no model can be made"):
            count_parameters(configuration(str(tmp_path)))


class TestDummies:
    @pytest.mark.parametrize("model", FAMILIES)
    def test_equal_a_model_that_was_built_in_the_ordinary_way_but_for_the_noise(self, model):
        from transformers import AutoModelForCausalLM

        config = tiny(model)
        built = AutoModelForCausalLM.from_config(config)
        dummy = dummy_model(config, "cpu", "auto", 0)
        assert not dummy.training
        assert dummy.num_parameters() == built.num_parameters()
        buffers = dict(dummy.named_buffers())
        assert set(buffers) == {name for name, _ in built.named_buffers()}
        for name, buffer in built.named_buffers():
            assert torch.equal(buffers[name], buffer), name
            assert buffers[name].dtype == buffer.dtype
        weights = dict(dummy.named_parameters())
        for name, weight in built.named_parameters():
            if weight.dim() == 1:
                assert torch.equal(weights[name], weight), f"{name}: norm or bias"
            else:
                assert weights[name].std().item() == pytest.approx(weight.std().item(), rel=0.2)

    @pytest.mark.parametrize("model", FAMILIES)
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_forward_is_finite_and_tells_tokens_apart(self, model, dtype):
        dummy = dummy_model(tiny(model), "cpu", dtype, 0)
        assert dummy.dtype == getattr(torch, dtype)
        with torch.inference_mode():
            logits = dummy(input_ids=torch.randint(3, 99, (2, 9))).logits
        assert logits.isfinite().all()
        assert logits.float().std(-1).min() > 0

    def test_rotary_frequencies_stay_in_float32(self):
        """In bfloat16 far positions would turn by wrong angles."""
        dummy = dummy_model(tiny("bass-310m"), "cpu", "bfloat16", 0)
        assert dummy.model.rotary_emb.inv_freq.dtype == torch.float32

    def test_tied_embeddings_stay_tied(self):
        dummy = dummy_model(tiny("bass-310m"), "cpu", "auto", 0)
        assert dummy.lm_head.weight is dummy.model.embed_tokens.weight

    def test_the_seed_makes_the_weights_and_nothing_else_is_touched(self):
        config = tiny("bass-310m")
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        one, same, other = (dummy_model(config, "cpu", "auto", seed) for seed in (1, 1, 2))
        assert torch.equal(torch.rand(3), expected), "the caller's own randomness goes on"
        assert torch.equal(one.lm_head.weight, same.lm_head.weight)
        assert not torch.equal(one.lm_head.weight, other.lm_head.weight)

    @pytest.mark.parametrize(
        ("asked", "device", "expected"),
        [
            ("auto", "cpu", "float32"), ("auto", "cuda:0", "bfloat16"), ("float16", "cpu", "float16"),
            ("float32", "cuda", "float32"),
        ],
    )  # fmt: skip
    def test_dtype(self, asked, device, expected):
        assert dummy_dtype(asked, device) == expected


class TestInTheEngine:
    """Each family hands positions, ragged mask and cache through, or decodes nonsense in silence."""

    PROMPTS = ((5, 17, 40, 8, 23, 61, 9), (33, 4), (90, 11, 52, 7))
    NEW = 10

    @pytest.fixture(params=FAMILIES)
    def model(self, request):
        config = tiny(request.param)
        # Wider than an untrained model: its logits would be so flat that rounding decides.
        setattr(config, "init_std" if hasattr(config, "init_std") else "initializer_range", 0.25)
        return dummy_model(config, "cpu", "float32", 0)

    def greedy(self, model, prompt):
        """One forward over everything for each token: no cache, no mask, no batch."""
        tokens = list(prompt)
        for _ in range(self.NEW):
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([tokens]), use_cache=False).logits
            tokens.append(int(logits[0, -1].argmax()))
        return tokens[len(prompt) :]

    @pytest.mark.parametrize("attention", ["pad", "split"])
    def test_a_ragged_batch_says_what_each_sequence_says_alone(self, model, attention):
        alone = [self.greedy(model, prompt) for prompt in self.PROMPTS]
        engine = NativeEngine(CausalModel(model), CausalModel(model), ())

        def decode():
            return engine.generate(
                [Request(prompt) for prompt in self.PROMPTS],
                get_method("fused"),
                make_policy("3"),
                Decoding(self.NEW, temperature=0.0),
                execution=Execution(attention=attention),
            )

        if attention == "split" and not model._supports_attention_backend:  # CodeGen
            with pytest.raises(InputError, match="has its own attention"):
                decode()
            return
        found = decode()
        assert [one.tokens for one in found] == alone
        assert all(one.step_accepted == one.step_drafted for one in found), "its own draft"
