"""Memory that a case needs, against numbers worked out by hand; what is refused, and what is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from specbench import memory
from specbench.errors import MachineError
from specbench.memory import Memory, Shape, capacity, check_fits, device_bytes, needed, shape
from specbench.pairs import get_pair
from specbench.scenario import Scenario

GPU = torch.device("cuda", 0)
CPU = torch.device("cpu")
LLAMA = "llama-2-7b/sheared-llama-1.3b"


def case(**fields):
    base = {
        "pair": LLAMA, "task": "synthetic", "load_format": "dummy", "method": "fused", "gamma": "5",
        "prompt_tokens": 512, "max_new_tokens": 128, "samples": 32,
    }  # fmt: skip
    [one] = Scenario.model_validate(base | fields).cases()
    return one


class TestCapacity:
    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({"gamma": "0"}, 640),  # 512 + 128, a multiple of 64 as it is
            ({"gamma": "1"}, 704),  # one more takes the next 64
            ({"gamma": "5"}, 704),
            ({"gamma": "bass"}, 704),  # 512 + 128 + 32 = 672
            ({"gamma": "heuristic"}, 768),  # 512 + 128 + 128
            ({"prompt_tokens": "8,2048,8"}, 2240),  # the longest: 2048 + 128 + 5 = 2181
            ({"prompt_tokens": 1, "max_new_tokens": 1, "gamma": "0"}, 64),
        ],
    )
    def test_by_hand(self, fields, expected):
        assert capacity(case(**fields)) == expected

    def test_a_text_counts_by_what_is_known_of_it(self):
        text = case(task="code", load_format="auto", prompt_tokens=None, gamma="0")
        assert capacity(text) == 128


class TestNeeded:
    TARGET = Shape(1000, 3, 2, 8, vocabulary=50, itemsize=2, width=7)
    DRAFT = Shape(100, 1, 2, 4, vocabulary=50, itemsize=2, width=5)

    def test_capped_scores_lie_in_memory(self):
        """3 heads of 8 bytes for each of 4·512 tokens and 704 slots."""
        capped = replace(self.TARGET, capped_heads=3)
        one, other = (
            needed(case(batch_size=4), shape, self.DRAFT).activations
            for shape in (capped, self.TARGET)
        )
        assert one - other == 3 * 8 * 2048 * 704

    def test_of_two_vocabularies_the_smaller_is_decided_over(self):
        wide = replace(self.TARGET, vocabulary=64)
        assert needed(case(), wide, self.DRAFT).logits == 11 * 50 * 2

    def test_by_hand(self):
        """Target: 2·3·2·8·2 = 192 bytes a slot; draft: 2·1·2·4·2 = 32; 704 + 1 slots, 4 sequences."""
        found = needed(case(batch_size=4), self.TARGET, self.DRAFT)
        assert found == Memory(
            weights=1100 * 2, cache=(192 + 32) * 705 * 4, logits=4 * (2 * 5 + 1) * 50 * 2,
            activations=4 * 512 * 7 * 2,
        )  # fmt: skip
        assert found.total == 2200 + 631_680 + 4400 + 28_672

    def test_without_drafts_the_draft_has_no_cache(self):
        found = needed(case(gamma="0"), self.TARGET, self.DRAFT)
        assert (found.weights, found.cache, found.logits) == (2200, 192 * 641, 50 * 2)

    def test_long_prompts_are_fed_in_pieces(self):
        """32 sequences: 256 tokens of each at once, whatever their length."""
        few, many = (
            needed(case(batch_size=32, prompt_tokens=length), self.TARGET, self.DRAFT).activations
            for length in (256, 4096)
        )
        assert few == many == 8192 * 7 * 2

    @pytest.mark.parametrize(
        ("name", "fields", "peak_gb"),
        [
            ("bass-7.8b/bass-310m", {"batch_size": 8, "gamma": "bass", "max_new_tokens": 64}, 19.6),
            ("bass-7.8b/bass-310m", {"batch_size": 1, "gamma": "bass", "max_new_tokens": 64}, 16.7),
            (LLAMA, {"batch_size": 1, "gamma": "5", "max_new_tokens": 96}, 16.8),
        ],
    )
    def test_is_what_an_h100_needed(self, name, fields, peak_gb):
        """`peak_memory_bytes` of results/reference/{bass,engine-vs-transformers}-h100.parquet."""
        spec = get_pair(name)
        models = [shape(model, "bfloat16", "cuda", "dummy") for model in (spec.target, spec.draft)]
        found = needed(case(pair=name, **fields), *models)
        assert found.total / 1e9 == pytest.approx(peak_gb, rel=0.02)

    def test_says_its_parts(self):
        assert str(Memory(20_000_000_000, 1_500_000_000, 40_000_000, 60_000_000)) == (
            "21.6 GB: weights 20.0 GB, key-value caches 1.5 GB, logits 0.0 GB, activations 0.1 GB"
        )


class TestShapes:
    def test_of_a_built_in_model(self):
        """Llama-2 7B in bfloat16: 13.5 GB; 2·32·32·128·2 = 524288 bytes of keys and values a token."""
        found = shape("meta-llama/Llama-2-7b-hf", "auto", "cuda", "dummy")
        assert found == Shape(6_738_415_616, 32, 32, 128, 32000, 2, 3 * 11008 + 6 * 4096)
        assert found.weight_bytes == 13_476_831_232
        assert found.cache_bytes(1, 0) == 524_288

    @pytest.mark.parametrize(
        ("model", "heads", "size"),
        [
            ("meta-llama/Llama-3.1-8B", 8, 128),
            ("google/gemma-2b", 1, 256),
            ("google/gemma-2-2b", 4, 256),
            ("google/gemma-3-12b-it", 8, 256),
            ("Qwen/Qwen3-0.6B", 8, 128),
            ("Qwen/Qwen2.5-0.5B", 2, 64),
            ("facebook/opt-125m", 12, 64),
            ("Salesforce/codegen-350M-mono", 16, 64),
        ],
    )
    def test_key_value_heads(self, model, heads, size):
        found = shape(model, "auto", "cuda", "dummy")
        assert (found.key_value_heads, found.head_size) == (heads, size)

    @pytest.mark.parametrize(
        ("dtype", "device", "load_format", "itemsize"),
        [
            ("auto", "cpu", "dummy", 4), ("auto", "cuda", "dummy", 2), ("float16", "cpu", "dummy", 2),
            ("auto", "cuda", "auto", 4), ("bfloat16", "cuda", "auto", 2), ("auto", "cpu", "auto", 4),
        ],
    )  # fmt: skip
    def test_dtype_of_a_stored_float32_model(self, tiny_pair, dtype, device, load_format, itemsize):
        assert shape(str(tiny_pair.target), dtype, device, load_format).itemsize == itemsize

    def test_are_what_is_loaded(self, tiny_pair):
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(tiny_pair.target)
        found = shape(str(tiny_pair.target), "auto", "cpu", "auto")
        assert found.weight_bytes == sum(one.nbytes for one in model.parameters())


class TestCheck:
    @pytest.fixture
    def card(self, monkeypatch):
        """A device of so many bytes."""
        return lambda size: monkeypatch.setattr(memory, "device_bytes", lambda device: size)

    def test_refuses_with_the_numbers(self, card):
        """Weights 2·(6738415616 + 1345423360) bytes; for 16 sequences of 705 slots the target's cache
        is 5.9 GB and the draft's, of 196608 bytes a slot, 2.2 GB."""
        card(24_000_000_000)
        with pytest.raises(MachineError) as caught:
            check_fits(get_pair(LLAMA), [case(batch_size=16)], GPU, "dummy")
        assert "a batch of 16 and γ = 5 needs 25.3 GB" in caught.value.message
        assert "weights 16.2 GB, key-value caches 8.1 GB, logits 0.0 GB" in caught.value.message
        assert "cuda:0 has 24.0 GB" in caught.value.message
        assert "batch_size" in caught.value.hint

    def test_lets_pass_what_fits_to_the_byte(self, card):
        spec = get_pair(LLAMA)
        one = case(batch_size=16)
        shapes = [shape(model, "auto", "cuda", "dummy") for model in (spec.target, spec.draft)]
        total = needed(one, *shapes).total
        card(total)
        check_fits(spec, [one], GPU, "dummy")
        card(total - 1)
        with pytest.raises(MachineError):
            check_fits(spec, [one], GPU, "dummy")

    def test_one_case_of_many_is_enough(self, card):
        card(24_000_000_000)
        cases = [case(batch_size=size) for size in (1, 2, 16)]
        with pytest.raises(MachineError, match="a batch of 16"):
            check_fits(get_pair(LLAMA), cases, GPU, "dummy")

    def test_cases_that_will_not_run_do_not_count(self, card):
        card(24_000_000_000)
        impossible = case(batch_size=64)
        assert impossible.skip
        other = case(batch_size=16, pair="opt-13b/opt-125m")
        check_fits(get_pair(LLAMA), [impossible, other], GPU, "dummy")

    def test_local_folders_count_on_a_gpu(self, card, tiny_pair):
        card(100)
        local = case(pair=tiny_pair.name, task="code", load_format="auto", prompt_tokens=None)
        with pytest.raises(MachineError):
            check_fits(get_pair(tiny_pair.name), [local], GPU, "auto")
        check_fits(get_pair(tiny_pair.name), [local], CPU, "auto")

    def test_the_hub_is_not_asked(self, card, monkeypatch):
        card(100)
        monkeypatch.setattr(memory, "configuration", lambda model: pytest.fail("asked"))
        check_fits(get_pair(LLAMA), [case(load_format="auto")], GPU, "auto")

    def test_a_broken_folder_is_left_to_loading(self, card, tmp_path):
        card(100)
        (tmp_path / "config.json").write_text("{")
        name = f"{tmp_path}+{tmp_path}"
        check_fits(get_pair(name), [case(pair=name, load_format="auto")], GPU, "auto")

    def test_a_system_that_does_not_say(self, card):
        card(None)
        check_fits(get_pair(LLAMA), [case(batch_size=16)], CPU, "dummy")

    def test_free_memory_of_this_machine(self):
        found = device_bytes(CPU)
        assert found is None or 10**8 < found < 10**14
