"""Sliding windows and capped scores: what transformers computes, token by token, far past the window."""

import copy
import functools

import pytest
import torch
import transformers
from transformers.masking_utils import sliding_window_causal_mask_function

from specbench.engine.batch import Request
from specbench.engine.cache import RaggedCache, causal_mask
from specbench.engine.decoding import Decoding, Execution
from specbench.engine.model import CausalModel
from specbench.engine.native import NativeEngine
from specbench.engine.sliding import FULL, SLIDING, slide
from specbench.engine.transformers import TransformersEngine
from specbench.sampling.policy import make_policy
from specbench.sampling.registry import get_method

WINDOW, NEW, VOCAB = 8, 24, 31
PROMPTS = [(3, 4, 5), tuple(range(1, 31)), (7,) * 12, (2,)]
MIXED = [SLIDING, FULL, SLIDING]
CONFIGS = {
    "mistral": (transformers.MistralConfig, {}),
    "phi3": (transformers.Phi3Config, {"pad_token_id": None}),
    "starcoder2": (transformers.Starcoder2Config, {}),
    "qwen2": (transformers.Qwen2Config, {"use_sliding_window": True, "max_window_layers": 1}),
    "qwen3": (transformers.Qwen3Config, {"use_sliding_window": True, "layer_types": MIXED}),
    "cohere2": (transformers.Cohere2Config, {"layer_types": MIXED, "logit_scale": 1.0}),
    "olmo3": (transformers.Olmo3Config, {"layer_types": MIXED}),
    "gemma2": (
        transformers.Gemma2Config,
        # Caps that matter: the scores of so small a model would else stay far below them.
        {"layer_types": MIXED, "attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 24,
         "final_logit_softcapping": 3.0},
    ),
    "gemma3": (transformers.Gemma3TextConfig, {"layer_types": MIXED, "query_pre_attn_scalar": 24}),
}  # fmt: skip


@functools.cache
def made(family, window=WINDOW, seed=1, layers=3, dtype=torch.float32):
    """A sharp random model: no tie is left to rounding."""
    config_class, more = CONFIGS[family]
    more = more | ({"layer_types": more["layer_types"][:layers]} if "layer_types" in more else {})
    config = config_class(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=layers, intermediate_size=48,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=256,
        initializer_range=0.4, sliding_window=window, bos_token_id=None, eos_token_id=None,
        tie_word_embeddings=False, **more,
    )  # fmt: skip
    torch.manual_seed(seed)
    return transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def theirs(model):
    """transformers' own greedy tokens."""
    model = copy.deepcopy(model)
    model.set_attn_implementation("eager")
    found = (
        model.generate(
            torch.tensor([prompt]), max_new_tokens=NEW, do_sample=False,
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64), eos_token_id=None,
        )[0, len(prompt) :].tolist()
        for prompt in PROMPTS
    )  # fmt: skip
    return list(found)


def ours(engine, gamma, execution=None, size=None):
    requests = [Request(prompt, seed) for seed, prompt in enumerate(PROMPTS)]
    found = engine.generate(
        requests, get_method("fused"), make_policy(gamma), Decoding(NEW, temperature=0.0),
        execution=execution or Execution(), size=size,
    )  # fmt: skip
    return [one.tokens for one in found]


def engine(family, kind=NativeEngine, draft_seed=2):
    models = made(family), made(family, seed=draft_seed, layers=2)
    return kind(*(CausalModel(copy.deepcopy(one)) for one in models), [])


class TestDecoding:
    @pytest.mark.parametrize("family", CONFIGS)
    def test_is_theirs_token_by_token(self, family):
        """Ragged, plain and with drafts of which many are rejected, so that stale keys lie about."""
        expected = theirs(made(family))
        assert expected != theirs(made(family, window=1000)), "the window must matter"
        for gamma in ("0", "4"):
            for attention in ("pad", "split"):
                found = ours(engine(family), gamma, Execution(attention=attention))
                assert found == expected, (gamma, attention)

    @pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3"])
    def test_slots_are_filled_again(self, family):
        assert ours(engine(family), "bass", size=2) == theirs(made(family))

    @pytest.mark.parametrize("family", ["mistral", "qwen2", "gemma2", "gemma3"])
    @pytest.mark.parametrize("gamma", ["0", "4"])
    def test_hugging_faces_loop_says_the_same_after_the_native_one(self, family, gamma):
        native = engine(family)
        expected = ours(native, gamma)
        found = ours(TransformersEngine(native.target, native.draft, []), gamma)
        assert found == expected == theirs(made(family))

    @pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3"])
    def test_a_draft_equal_to_the_target_is_always_accepted(self, family):
        """A step of several tokens and a step of one hide the same slots."""
        model = CausalModel(copy.deepcopy(made(family)))
        requests = [Request(prompt, seed) for seed, prompt in enumerate(PROMPTS)]
        found = NativeEngine(model, model, []).generate(
            requests, get_method("fused"), make_policy("5"), Decoding(NEW)
        )
        assert all(one.step_accepted == one.step_drafted for one in found)


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("attention", ["pad", "split"])
def test_logits_are_theirs_where_stale_keys_lie_past_the_window(family, attention):
    """20 tokens, then others again from position 11 on: what was there before counts no more."""
    origin = made(family, dtype=torch.float64)
    model, cache = CausalModel(copy.deepcopy(origin)), RaggedCache(1, 64)
    generator = torch.Generator().manual_seed(0)
    old, new = (torch.randint(VOCAB, (1, n), generator=generator) for n in (20, 5))
    places = torch.arange(64)[None]
    model.forward(old, places[:, :20], cache, [64], attention=attention)
    found = model.forward(new, places[:, 11:16], cache, [64], attention=attention)
    whole = copy.deepcopy(origin)
    whole.set_attn_implementation("eager")
    with torch.no_grad():
        expected = whole(torch.cat([old[:, :11], new], 1)).logits[:, 11:]
    # Their softmax is in float32, whatever the model's dtype.
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attention", ["specbench_pad", "specbench_split"])
@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3"])
@pytest.mark.parametrize("length", [5, 20])
def test_the_model_still_works_for_others(family, attention, length):
    """transformers makes the masks then: of bool, or none where all before a token is seen."""
    model = copy.deepcopy(made(family))
    CausalModel(model)._attend_by(attention.removeprefix("specbench_"))
    assert model.config._attn_implementation == attention
    whole = copy.deepcopy(made(family))
    whole.set_attn_implementation("eager")
    tokens = torch.arange(1, 1 + length)[None]
    with torch.no_grad():
        found, expected = model(tokens).logits, whole(tokens).logits
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        one = model.generate(tokens, max_new_tokens=9, do_sample=False)
        assert torch.equal(one, whole.generate(tokens, max_new_tokens=9, do_sample=False))


class TestMask:
    def test_is_transformers_own(self):
        positions = torch.arange(40)[None]
        slid = slide(causal_mask(positions, 40, torch.float32), positions, WINDOW, 40)
        theirs = sliding_window_causal_mask_function(WINDOW)
        grid = torch.arange(40)
        for place in range(40):
            seen = theirs(0, 0, torch.tensor(place), grid)
            assert torch.equal(slid[0, 0, place] == 0, seen)
            assert int(seen.sum()) == min(place + 1, WINDOW)

    def test_what_stands_nowhere_sees_all(self):
        """A softmax over nothing would be NaN, and a NaN among the logits ends a sequence."""
        positions = torch.tensor([[99, 100]])
        slid = slide(causal_mask(positions, 100, torch.float32), positions, WINDOW, 100)
        assert (slid == 0).sum(-1).flatten().tolist() == [WINDOW, 100]

    def test_is_the_same_while_nothing_can_be_behind_the_window(self):
        positions = torch.tensor([[63]])
        mask = causal_mask(positions, 64, torch.float32)
        assert slide(mask, positions, 64, 100) is mask
        assert slide(mask, positions, 63, 100) is not mask


class TestContext:
    @pytest.mark.parametrize("family", CONFIGS)
    def test_is_not_limited_by_a_window(self, family):
        assert CausalModel(made(family)).max_positions == 256

    def test_is_limited_by_one_that_no_mask_can_tell(self):
        """OLMoE's file of transformers knows no such mask, so a window must never be left."""
        config = transformers.OlmoeConfig(
            vocab_size=11, hidden_size=16, num_hidden_layers=1, intermediate_size=16,
            num_attention_heads=2, num_experts=2, max_position_embeddings=64, sliding_window=16,
        )  # fmt: skip
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        assert CausalModel(model).max_positions == 16

    @pytest.mark.parametrize("gamma", ["0", "4", "bass"])
    def test_up_to_a_window_of_its_own_a_model_is_itself(self, gamma):
        """GPT-Neo counts it back from the last slot that is read, of which there may be more."""
        config = transformers.GPTNeoConfig(
            vocab_size=VOCAB, hidden_size=32, num_layers=2, num_heads=2, window_size=16,
            max_position_embeddings=256, attention_types=[[["global", "local"], 1]],
            initializer_range=0.4, bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        torch.manual_seed(0)
        target, draft = (transformers.GPTNeoForCausalLM(config).eval() for _ in range(2))
        models = CausalModel(target), CausalModel(draft)
        assert models[0].max_positions == 16
        prompts = [(3, 4, 5), (7,) * 8, (2,)]
        found = NativeEngine(*models, []).generate(
            [Request(prompt) for prompt in prompts], get_method("fused"), make_policy(gamma),
            Decoding(8, temperature=0.0),
        )  # fmt: skip
        for prompt, one in zip(prompts, found, strict=True):
            tokens = list(prompt)
            for _ in range(8):
                with torch.no_grad():
                    tokens.append(int(target(torch.tensor([tokens])).logits[0, -1].argmax()))
            assert one.tokens == tokens[len(prompt) :]
