"""Pairs: naming them, finding out whether they can be had, and loading them from folder and cache."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections import Counter

import pytest
import torch
from safetensors.torch import load_file, save_file

from specbench import pairs
from specbench.errors import InputError, MachineError
from specbench.pairs import PairSpec, check_available, get_pair, load_pair, pair_specs
from specbench.tasks.base import Sample

SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def copy_of_target(tiny_pair, tmp_path):
    """A folder to break; the pair `folder+folder`."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_pair.target, folder)
    return folder


@pytest.fixture
def hub_cache(monkeypatch, tmp_path):
    """An empty cache of huggingface_hub, and no memory of whether the hub answered."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    pairs._hub_answers.cache_clear()
    yield tmp_path / "hub"
    pairs._hub_answers.cache_clear()


@pytest.fixture
def dead_hub(monkeypatch, hub_cache):
    """No network, but nobody said HF_HUB_OFFLINE: a closed port on this machine stands for it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    return hub_cache


def put_into_cache(cache, name, folder):
    """The layout that huggingface_hub leaves behind after a download."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(SHA)
    shutil.copytree(folder, repository / "snapshots" / SHA)


class TestNames:
    def test_the_registry_begins_with_the_embedded_pair(self):
        names = list(pair_specs())
        assert names[0] == "demo-lm"
        assert len(names) > 1
        assert all(get_pair(name).name == name for name in names)

    def test_only_the_embedded_pair_is_asked_in_its_own_style(self):
        styles = {name: spec.prompt_style for name, spec in pair_specs().items()}
        assert styles.pop("demo-lm") == "demo"
        assert set(styles.values()) == {"instruction"}

    @pytest.mark.parametrize(
        ("name", "suggested"),
        [("demo-ml", "demo-lm"), ("qwen2.5-7b/qwen2.5-1b", "qwen2.5-7b/qwen2.5-0.5b")],
    )
    def test_unknown_name_suggests_the_nearest(self, name, suggested):
        with pytest.raises(InputError, match="unknown pair") as caught:
            get_pair(name)
        assert f"Did you mean {suggested!r}?" in caught.value.hint
        assert "TARGET+DRAFT" in caught.value.hint

    @pytest.mark.parametrize("name", ["+", "a+", "+b", ""])
    def test_half_a_pair(self, name):
        with pytest.raises(InputError):
            get_pair(name)

    def test_ad_hoc_pair(self):
        spec = get_pair("org/big+/models/small")
        assert (spec.target, spec.draft) == ("org/big", "/models/small")
        assert spec.prompt_style == "instruction"

    def test_the_home_folder_is_understood(self, monkeypatch, tmp_path):
        """The shell leaves the tilde behind a plus sign alone."""
        monkeypatch.setenv("HOME", str(tmp_path))
        spec = get_pair("~/big+~/small")
        assert (spec.target, spec.draft) == (str(tmp_path / "big"), str(tmp_path / "small"))


class TestFolders:
    def test_loads(self, tiny_pair):
        spec = get_pair(tiny_pair.name)
        check_available(spec)
        pair = load_pair(spec, "cpu", "auto")
        assert pair.spec is spec
        assert pair.eos_tokens == (2,)
        assert not pair.target.training
        assert not pair.draft.training
        assert pair.target.config.num_hidden_layers == 2
        assert pair.draft.config.num_hidden_layers == 1
        assert pair.decode([*pair.encode("  def é():"), 2]) == "def é():"

    def test_no_such_folder(self, tmp_path, tiny_pair):
        with pytest.raises(InputError, match="no folder"):
            check_available(get_pair(f"{tiny_pair.target}+{tmp_path / 'nowhere'}"))

    def test_folder_without_config(self, tmp_path, tiny_pair):
        with pytest.raises(InputError, match=r"no config\.json") as caught:
            check_available(get_pair(f"{tiny_pair.target}+{tmp_path}"))
        assert str(tmp_path) in caught.value.message
        assert "save_pretrained" in caught.value.hint

    def test_checking_loads_nothing(self, copy_of_target, monkeypatch):
        (copy_of_target / "model.safetensors").write_bytes(b"not weights")
        check_available(get_pair(f"{copy_of_target}+{copy_of_target}"))

    @pytest.mark.parametrize(
        ("file", "content"),
        [
            ("model.safetensors", None),
            ("model.safetensors", b""),
            ("model.safetensors", b"\x08\0\0\0\0\0\0\0{}      "),
            ("model.safetensors", "cut"),
            ("config.json", b"{"),
            ("config.json", b"[]"),
            ("config.json", b"{}"),
            ("config.json", b'{"model_type": "t5"}'),
            ("config.json", b'{"model_type": "llama", "hidden_size": "wide"}'),
            ("tokenizer.json", None),
            ("tokenizer.json", b"{"),
            ("tokenizer.json", b"{}"),
        ],
    )
    def test_broken_folder_is_refused_in_a_sentence(self, copy_of_target, file, content):
        path = copy_of_target / file
        if content is None:
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:-100] if content == "cut" else content)
        with pytest.raises(InputError, match="cannot be loaded") as caught:
            load_pair(get_pair(f"{copy_of_target}+{copy_of_target}"), "cpu", "auto")
        assert str(copy_of_target) in caught.value.message
        assert "\n" not in caught.value.message

    def test_missing_tensors_are_not_made_up(self, copy_of_target):
        """transformers fills them with noise: a draft of noise would be measured as if it were one."""
        weights = load_file(copy_of_target / "model.safetensors")
        del weights["model.layers.0.mlp.up_proj.weight"]
        save_file(weights, copy_of_target / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(InputError, match=r"model\.layers\.0\.mlp\.up_proj\.weight"):
            load_pair(get_pair(f"{copy_of_target}+{copy_of_target}"), "cpu", "auto")

    def test_tensors_of_another_shape(self, copy_of_target):
        weights = load_file(copy_of_target / "model.safetensors")
        weights["lm_head.weight"] = weights["lm_head.weight"][:9].clone()
        save_file(weights, copy_of_target / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(InputError, match="cannot be loaded"):
            load_pair(get_pair(f"{copy_of_target}+{copy_of_target}"), "cpu", "auto")

    def test_tied_weights_are_not_missing(self, save_tiny, tmp_path):
        folder = save_tiny(tmp_path / "tied", 1, 16, seed=3, tie_word_embeddings=True)
        assert "lm_head.weight" not in load_file(folder / "model.safetensors")
        pair = load_pair(get_pair(f"{folder}+{folder}"), "cpu", "auto")
        assert pair.target.lm_head.weight is pair.target.model.embed_tokens.weight

    def test_no_memory_on_the_device_is_the_machines_fault(self, tiny_pair, monkeypatch):
        def too_large(self, *args, **kwargs):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nAnd more.")

        monkeypatch.setattr(torch.nn.Module, "to", too_large)
        with pytest.raises(MachineError, match="memory") as caught:
            load_pair(get_pair(tiny_pair.name), "cpu", "auto")
        assert "\n" not in caught.value.message


class TestTokenizers:
    @pytest.fixture
    def foreign(self, save_tiny, tmp_path):
        """The draft with one word more."""
        return save_tiny(tmp_path / "foreign", 1, 16, seed=2, extra=["<mask>"])

    def test_different_ones_are_refused_in_a_sentence(self, tiny_pair, foreign):
        with pytest.raises(InputError, match="tokenizers differ") as caught:
            load_pair(get_pair(f"{tiny_pair.target}+{foreign}"), "cpu", "auto")
        assert "259" in caught.value.message
        assert "260" in caught.value.message

    def test_of_equal_size_they_may_differ_all_the_same(self, foreign, save_tiny, tmp_path):
        other = save_tiny(tmp_path / "other", 1, 16, seed=2, extra=["<sep>"])
        with pytest.raises(InputError, match="tokenizers differ"):
            load_pair(get_pair(f"{foreign}+{other}"), "cpu", "auto")

    def test_no_model_is_loaded_for_that(self, tiny_pair, foreign, monkeypatch):
        monkeypatch.setattr(pairs, "_load_model", lambda *args: pytest.fail("loaded a model"))
        with pytest.raises(InputError, match="tokenizers differ"):
            load_pair(get_pair(f"{foreign}+{tiny_pair.draft}"), "cpu", "auto")

    def test_a_padded_vocabulary_is_not_a_difference(self, tiny_pair, tmp_path):
        """Qwen's models share a tokenizer and pad their embeddings to different sizes."""
        import transformers

        folder = tmp_path / "padded"
        shutil.copytree(tiny_pair.draft, folder)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        model.resize_token_embeddings(272)
        model.save_pretrained(folder)
        pair = load_pair(get_pair(f"{tiny_pair.target}+{folder}"), "cpu", "auto")
        assert pair.draft.config.vocab_size == 272


@pytest.fixture(scope="module")
def seeing_folders(tmp_path_factory, tiny_pair):
    """A target that sees, and a draft of text alone, with the same tokenizer."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_pair.target)
    root = tmp_path_factory.mktemp("gemma3")
    text = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8,
        "num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"], "initializer_range": 0.25,
        "query_pre_attn_scalar": 8, "max_position_embeddings": 512,
    }  # fmt: skip
    eye = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "image_size": 28,
        "num_attention_heads": 2, "patch_size": 14,
    }  # fmt: skip
    torch.manual_seed(0)
    whole = transformers.Gemma3ForConditionalGeneration(
        transformers.Gemma3Config(
            text_config=text | {"vocab_size": len(tokenizer) + 64},
            vision_config=eye, mm_tokens_per_image=4,
        )
    )  # fmt: skip
    whole.generation_config.eos_token_id = [2, 7]
    small = transformers.Gemma3TextConfig(**text, vocab_size=len(tokenizer))
    models = {"target": whole, "draft": transformers.Gemma3ForCausalLM(small)}
    for name, model in models.items():
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return root / "target", root / "draft"


@pytest.fixture(scope="module")
def seeing_pair(seeing_folders):
    return load_pair(get_pair("+".join(map(str, seeing_folders))), "cpu", "float32")


class TestTextParts:
    """Gemma 3 from 4B on sees as well as it reads, and has 64 rows more than its tokenizer has tokens."""

    def test_what_sees_is_left_behind(self, seeing_folders, seeing_pair):
        import transformers

        whole = transformers.AutoModelForCausalLM.from_pretrained(seeing_folders[0]).eval()
        assert type(seeing_pair.target) is type(seeing_pair.draft) is transformers.Gemma3ForCausalLM
        eye = sum(
            weight.numel()
            for name, weight in whole.named_parameters()
            if "language_model" not in name
        )
        assert seeing_pair.target.num_parameters() == whole.num_parameters() - eye
        assert eye > 0
        assert seeing_pair.target.lm_head.weight is seeing_pair.target.model.embed_tokens.weight
        assert seeing_pair.eos_tokens == (2, 7)
        tokens = torch.arange(3, 33)[None]
        with torch.no_grad():
            torch.testing.assert_close(seeing_pair.target(tokens).logits, whole(tokens).logits)

    def test_is_what_memory_is_reckoned_for(self, seeing_folders, seeing_pair):
        from specbench.memory import shape

        for folder, model in zip(
            seeing_folders, (seeing_pair.target, seeing_pair.draft), strict=True
        ):
            found = shape(str(folder), "auto", "cpu", "auto")
            assert found.weight_bytes == sum(one.nbytes for one in model.parameters())
            assert (found.layers, found.key_value_heads, found.head_size) == (2, 2, 8)

    @pytest.mark.parametrize("name", ["native", "transformers"])
    def test_decodes(self, seeing_pair, name):
        """Greedily, past the window, as transformers does with the rows that are tokens."""
        from specbench.engine.batch import Request
        from specbench.engine.decoding import Decoding
        from specbench.engine.model import CausalModel
        from specbench.engine.native import NativeEngine
        from specbench.engine.transformers import TransformersEngine
        from specbench.sampling.policy import make_policy
        from specbench.sampling.registry import get_method

        engine = {"native": NativeEngine, "transformers": TransformersEngine}[name]
        models = CausalModel(seeing_pair.target), CausalModel(seeing_pair.draft)
        [found] = engine(*models, []).generate(
            [Request((3, 4, 5, 6, 7))], get_method("fused"), make_policy("3"),
            Decoding(20, temperature=0.0),
        )  # fmt: skip
        tokens = [3, 4, 5, 6, 7]
        for _ in range(20):
            with torch.no_grad():
                row = seeing_pair.target(torch.tensor([tokens]), use_cache=False).logits[0, -1]
            tokens.append(int(row[: len(seeing_pair.tokenizer)].argmax()))
        assert found.tokens == tokens[5:]

    def test_dummies_are_of_the_text_part_too(self, seeing_folders, seeing_pair):
        found = load_pair(get_pair("+".join(map(str, seeing_folders))), "cpu", "float32", "dummy")
        assert type(found.target) is type(seeing_pair.target)
        assert found.target.num_parameters() == seeing_pair.target.num_parameters()


class TestEndTokens:
    @pytest.mark.parametrize(
        ("said", "expected"), [(None, (2,)), (7, (7,)), ([2, 7], (2, 7)), (0, (0,))]
    )
    def test_come_from_the_target_or_its_tokenizer(self, copy_of_target, said, expected):
        path = copy_of_target / "generation_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": said}))
        config = copy_of_target / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"eos_token_id": said}))
        pair = load_pair(get_pair(f"{copy_of_target}+{copy_of_target}"), "cpu", "auto")
        assert pair.eos_tokens == expected


class TestDtype:
    @pytest.fixture
    def stored_half(self, tiny_pair, tmp_path):
        import transformers

        folder = tmp_path / "half"
        shutil.copytree(tiny_pair.target, folder)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        model.to(torch.float16).save_pretrained(folder)
        return f"{folder}+{folder}"

    @pytest.mark.parametrize(
        ("device", "asked", "expected"),
        [
            ("cpu", "auto", torch.float32),
            ("cpu", "float32", torch.float32),
            ("cpu", "float16", torch.float16),
            ("cpu", "bfloat16", torch.bfloat16),
            ("meta", "auto", torch.float16),  # any device that is no CPU
        ],
    )
    def test_auto_is_float32_on_a_cpu_and_else_as_stored(
        self, stored_half, device, asked, expected
    ):
        pair = load_pair(get_pair(stored_half), device, asked)
        assert pair.target.dtype == pair.draft.dtype == expected
        assert pair.target.device.type == device


class TestHub:
    SPEC = PairSpec("big/small", "org/target", "org/draft", "")

    def test_without_network_and_cache(self, hub_cache):
        start = time.perf_counter()
        with pytest.raises(MachineError) as caught:
            check_available(self.SPEC)
        assert time.perf_counter() - start < 2
        assert "org/target" in caught.value.message
        for way_out in ("hf download org/target", "HF_HOME", "TARGET+DRAFT", "demo-lm"):
            assert way_out in caught.value.hint

    def test_a_hub_that_does_not_answer_is_given_up_at_once(self, dead_hub, capfd):
        """Left to itself huggingface_hub retries for half a minute and talks about it."""
        start = time.perf_counter()
        with pytest.raises(MachineError):
            check_available(self.SPEC)
        assert time.perf_counter() - start < 2
        assert "Retry" not in "".join(capfd.readouterr())

    @pytest.mark.parametrize("name", ["no such/name", "a/b/c", "-x/y", "x--y/z"])
    def test_a_name_that_no_repository_can_have(self, hub_cache, name):
        with pytest.raises(InputError, match="neither a local folder nor a repository"):
            check_available(PairSpec("x", name, name, ""))

    def test_a_draft_that_is_missing_is_named(self, hub_cache, tiny_pair):
        put_into_cache(hub_cache, "org/target", tiny_pair.target)
        with pytest.raises(MachineError, match="org/draft"):
            check_available(self.SPEC)

    @pytest.mark.parametrize("network", ["offline", "dead"])
    def test_loads_from_the_cache(self, request, hub_cache, tiny_pair, network):
        if network == "dead":
            request.getfixturevalue("dead_hub")
        put_into_cache(hub_cache, "org/target", tiny_pair.target)
        put_into_cache(hub_cache, "org/draft", tiny_pair.draft)
        start = time.perf_counter()
        check_available(self.SPEC)
        pair = load_pair(self.SPEC, "cpu", "auto")
        assert time.perf_counter() - start < 3
        local = load_pair(get_pair(tiny_pair.name), "cpu", "auto")
        assert torch.equal(pair.target.lm_head.weight, local.target.lm_head.weight)
        assert torch.equal(pair.draft.lm_head.weight, local.draft.lm_head.weight)
        assert pair.encode("x = 1") == local.encode("x = 1")

    def test_a_download_that_broke_off(self, hub_cache, tiny_pair):
        for name, folder in (("org/target", tiny_pair.target), ("org/draft", tiny_pair.draft)):
            put_into_cache(hub_cache, name, folder)
        next(hub_cache.glob("*target/snapshots/*/model.safetensors")).unlink()
        with pytest.raises(MachineError, match=r"org/target cannot be loaded.*the hub") as caught:
            load_pair(self.SPEC, "cpu", "auto")
        assert "\n" not in caught.value.message
        assert "hf download org/target" in caught.value.hint

    @pytest.mark.parametrize(
        ("status", "code", "expected", "words"),
        [
            (401, "GatedRepo", MachineError, "is gated"),
            (404, "RepoNotFound", InputError, "neither a local folder nor a repository"),
            (404, "EntryNotFound", InputError, r"no config\.json"),
        ],
    )
    def test_what_the_hub_answers(self, dead_hub, monkeypatch, status, code, expected, words):
        """A hub on this machine, which answers every request alike."""
        import http.server
        import threading

        from huggingface_hub import constants

        class Answer(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self):
                self.send_response(status)
                self.send_header("X-Error-Code", code)
                self.send_header("X-Error-Message", code)
                self.send_header("X-Repo-Commit", SHA)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args):
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{server.server_address[1]}"
            monkeypatch.setattr(constants, "ENDPOINT", address)
            template = address + "/{repo_id}/resolve/{revision}/{filename}"
            monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
            try:
                with pytest.raises(expected, match=words) as caught:
                    check_available(self.SPEC)
            finally:
                server.shutdown()
        assert caught.value.hint


class TestDummies:
    @pytest.fixture
    def pair(self, tiny_pair):
        return load_pair(get_pair(tiny_pair.name), "cpu", "auto", "dummy")

    def test_have_the_shapes_and_not_the_weights(self, pair, tiny_pair):
        stored = load_pair(get_pair(tiny_pair.name), "cpu", "auto")
        for dummy, real in ((pair.target, stored.target), (pair.draft, stored.draft)):
            shapes = {name: one.shape for name, one in real.named_parameters()}
            assert {name: one.shape for name, one in dummy.named_parameters()} == shapes
            assert not torch.equal(dummy.lm_head.weight, real.lm_head.weight)
            assert not dummy.training

    def test_target_and_draft_are_not_alike(self, tiny_pair):
        """A draft that is its target would be accepted always."""
        pair = load_pair(get_pair(tiny_pair.twins), "cpu", "auto", "dummy")
        assert not torch.equal(pair.target.lm_head.weight, pair.draft.lm_head.weight)

    def test_have_no_text_and_no_end(self, pair):
        assert pair.tokenizer is None
        assert pair.eos_tokens == ()
        assert pair.decode([5, 6]) == ""

    def test_no_weights_are_read(self, tmp_path, tiny_pair):
        shutil.copy(tiny_pair.target / "config.json", tmp_path)
        name = f"{tmp_path}+{tmp_path}"
        check_available(get_pair(name), "dummy")
        assert load_pair(get_pair(name), "cpu", "float16", "dummy").target.dtype == torch.float16

    @pytest.mark.parametrize("name", [name for name in pair_specs() if name != "demo-lm"])
    def test_every_registered_shape_is_built_in(self, dead_hub, name):
        start = time.perf_counter()
        check_available(get_pair(name), "dummy")
        assert time.perf_counter() - start < 2, "the hub was asked"

    def test_an_unknown_shape(self, dead_hub):
        with pytest.raises(InputError, match="the shape of org/big is not known"):
            check_available(get_pair("org/big+org/small"), "dummy")

    def test_weights_that_are_not_public(self, dead_hub):
        with pytest.raises(InputError, match="not public") as caught:
            check_available(get_pair("bass-7.8b/bass-310m"))
        assert "--load-format dummy" in caught.value.hint

    def test_no_memory_is_the_machines_fault(self, tiny_pair, monkeypatch):
        def too_large(*args):
            raise torch.OutOfMemoryError("CUDA out of memory.")

        monkeypatch.setattr(pairs, "dummy_model", too_large)
        with pytest.raises(MachineError, match="memory"):
            load_pair(get_pair(tiny_pair.name), "cpu", "auto", "dummy")


class TestPrompts:
    @pytest.fixture
    def pair(self, tiny_pair):
        return load_pair(get_pair(tiny_pair.name), "cpu", "auto")

    def length(self, tokens, sample_id="s"):
        return Sample(sample_id, "", "", tokens)

    def test_a_text_goes_through_the_tokenizer(self, pair):
        assert pair.prompt(Sample("s", "x = 1", "")) == pair.encode("x = 1")

    @pytest.mark.parametrize("tokens", [1, 2, 700])
    def test_a_length_is_filled(self, pair, tokens):
        prompt = pair.prompt(self.length(tokens))
        assert len(prompt) == tokens
        assert all(type(token) is int for token in prompt)

    def test_depends_on_the_samples_id_alone(self, pair, tiny_pair):
        again = load_pair(get_pair(tiny_pair.name), "cpu", "auto")
        assert pair.prompt(self.length(50)) == again.prompt(self.length(50))
        assert pair.prompt(self.length(50)) != pair.prompt(self.length(50, "t"))
        assert pair.prompt(self.length(50)) == pair.prompt(self.length(99))[:50]

    def test_is_uniform_over_all_but_the_end_tokens(self, pair):
        """259 ids, three of them ends: 256 ids × 1000 draws; 6 σ is ± 190."""
        pair = dataclasses.replace(pair, eos_tokens=(2, 0, 258))
        counts = Counter(pair.prompt(self.length(256_000)))
        assert set(counts) == set(range(259)) - {0, 2, 258}
        assert 810 < min(counts.values()) <= max(counts.values()) < 1190

    def test_an_end_token_that_is_no_shared_id_opens_no_gap(self, pair):
        plain, other = (
            dataclasses.replace(pair, eos_tokens=ends) for ends in ((2,), (2, 2, 259, 10_000))
        )
        assert plain.prompt(self.length(999)) == other.prompt(self.length(999))

    def test_padding_of_an_embedding_is_no_token(self, save_tiny, tmp_path, tiny_pair):
        import transformers

        folder = tmp_path / "padded"
        shutil.copytree(tiny_pair.target, folder)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        model.resize_token_embeddings(272)
        model.save_pretrained(folder)
        name = f"{folder}+{folder}"
        assert load_pair(get_pair(name), "cpu", "auto").shared_vocabulary == 259
        assert load_pair(get_pair(name), "cpu", "auto", "dummy").shared_vocabulary == 272
        mixed = load_pair(get_pair(f"{folder}+{tiny_pair.draft}"), "cpu", "auto", "dummy")
        assert mixed.shared_vocabulary == 259


def test_a_pair_is_no_model_of_a_pair():
    with pytest.raises(InputError, match="demo-lm is a pair, not a model") as caught:
        get_pair("demo-lm+demo-asr")
    assert "--pair demo-lm" in caught.value.hint
