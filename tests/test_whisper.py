"""Whisper's family: which models go together, and the whole way from a folder of audio to a WER."""

import json
import shutil

import numpy as np
import pytest
import soundfile
import torch
import transformers
from tokenizers import AddedToken
from tokenizers.pre_tokenizers import ByteLevel

from specbench import whisper
from specbench.architectures import ARCHITECTURES
from specbench.errors import InputError, MachineError
from specbench.memory import needed, shape
from specbench.pairs import get_pair, load_pair, pair_kind, pair_specs
from specbench.report.reader import load_results
from specbench.scenario import Scenario

TEXTS = [
    "THE RED LAMP IS NEAR THE DOOR", "TWO BOATS CAME HOME LATE", "NOBODY SAW THE SEVENTH LETTER",
    "A COLD WIND BLEW ALL DAY", "SHE COUNTED FORTY SHEEP", "THE BAKER SOLD HIS HORSE",
]  # fmt: skip


class TestFamily:
    def test_the_users_own_pair(self):
        spec = get_pair("whisper-large/whisper-tiny")
        assert (spec.target, spec.draft) == ("openai/whisper-large-v2", "openai/whisper-tiny")
        assert pair_kind(spec) == "speech"

    @pytest.mark.parametrize("target", whisper.FAMILY)
    @pytest.mark.parametrize("draft", whisper.FAMILY)
    def test_two_go_together_if_they_spell_and_hear_alike(self, target, draft):
        shapes = [
            shape(whisper.FAMILY[name].repository, "auto", "cpu", "dummy")
            for name in (target, draft)
        ]
        alike = shapes[0].vocabulary == shapes[1].vocabulary
        if alike:
            assert get_pair(f"{target}/{draft}").kind == "speech"
        else:
            with pytest.raises(InputError, match="cannot be"):
                get_pair(f"{target}/{draft}")

    def test_large_v3_is_explained(self):
        with pytest.raises(InputError, match=r"51866.*128 mel bins.*51865.*80 mel bins") as caught:
            get_pair("whisper-large-v3/whisper-tiny")
        assert "whisper-large-v2/whisper-tiny" in caught.value.hint

    def test_a_name_that_is_none(self):
        with pytest.raises(InputError, match="whisper-larg ") as caught:
            get_pair("whisper-larg/whisper-tiny")
        assert "whisper-large" in caught.value.hint

    def test_other_names_are_not_its_business(self):
        assert whisper.repositories("llama-2-7b/sheared-llama-1.3b") is None
        assert whisper.repositories("whisper-tiny") is None

    def test_the_registry_shows_some(self):
        assert {"whisper-large/whisper-tiny", "whisper-small.en/distil-small.en"} <= set(
            pair_specs()
        )

    def test_a_distilled_draft_needs_no_encoder_of_its_own(self):
        scenario = Scenario(
            pair="whisper-large-v2/distil-large-v2", load_format="dummy", method="fused", gamma="4"
        )
        [case] = scenario.cases({scenario.pair[0]: "speech"})
        assert (case.task, case.prompt_tokens) == ("synthetic", (4,))
        both = [
            shape(one, "float16", "cuda", "dummy")
            for one in ("openai/whisper-large-v2", "distil-whisper/distil-large-v2")
        ]
        alone, shared = both[0].weight_bytes + both[1].weight_bytes, needed(case, *both)
        assert alone - shared.weights == both[0].encoder_parameters * 2
        # Keys and values of 1500 frames in 32 + 2 layers, beside those of the decoder's tokens.
        assert shared.cache == 2 * 34 * 1280 * 2 * (128 + 1 + 1500)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pair of Whisper's architecture, multilingual as the real ones, with a tokenizer of bytes."""
    root = tmp_path_factory.mktemp("whisper")
    alphabet = sorted(ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<|endoftext|>", *alphabet])}
    files = root / "vocab.json", root / "merges.txt"
    files[0].write_text(json.dumps(vocabulary))
    files[1].write_text("#version: 0.2\n")
    (root / "normalizer.json").write_text('{"colour": "color"}')
    specials = ["<|startoftranscript|>", "<|en|>", "<|de|>", "<|transcribe|>", "<|notimestamps|>"]
    tokenizer = transformers.WhisperTokenizer(
        str(files[0]), str(files[1]), normalizer_file=str(root / "normalizer.json")
    )
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [AddedToken(one, special=True) for one in specials]}
    )
    ids = {one: tokenizer.convert_tokens_to_ids(one) for one in [*specials, "<|endoftext|>"]}
    extractor = transformers.WhisperFeatureExtractor(feature_size=8, chunk_length=4)
    for name, seed, layers in (("target", 1, 2), ("draft", 2, 1)):
        torch.manual_seed(seed)
        model = transformers.WhisperForConditionalGeneration(
            transformers.WhisperConfig(
                vocab_size=len(tokenizer), d_model=32, encoder_layers=layers,
                decoder_layers=layers, encoder_attention_heads=2, decoder_attention_heads=2,
                encoder_ffn_dim=64, decoder_ffn_dim=64, max_source_positions=200,
                max_target_positions=64, num_mel_bins=8, init_std=0.4,
                pad_token_id=ids["<|endoftext|>"], bos_token_id=ids["<|endoftext|>"],
                eos_token_id=ids["<|endoftext|>"],
                decoder_start_token_id=ids["<|startoftranscript|>"],
            )
        )  # fmt: skip
        settings = model.generation_config
        settings.is_multilingual = True
        settings.lang_to_id = {one: ids[one] for one in ("<|en|>", "<|de|>")}
        settings.task_to_id = {"transcribe": ids["<|transcribe|>"]}
        settings.no_timestamps_token_id = ids["<|notimestamps|>"]
        settings.suppress_tokens = [5, 6, ids["<|de|>"], ids["<|startoftranscript|>"]]
        settings.begin_suppress_tokens = [ids["<|endoftext|>"], 40]
        settings.max_length, settings._from_model_config = 64, False
        for one in (model, tokenizer, extractor):
            one.save_pretrained(root / name)
        shutil.copy(root / "normalizer.json", root / name)  # as the real ones have it
    return root


@pytest.fixture(scope="module")
def librispeech(tmp_path_factory):
    """LibriSpeech's layout: two speakers, three utterances each, of noise."""
    root = tmp_path_factory.mktemp("LibriSpeech")
    noise = np.random.default_rng(0)
    for speaker in (0, 1):
        chapter = root / str(61 + speaker) / "70"
        chapter.mkdir(parents=True)
        lines = []
        for i in range(3):
            name = f"{61 + speaker}-70-{i:04}"
            sound = noise.normal(0, 0.1, 16_000 + 8000 * i) * np.hanning(16_000 + 8000 * i)
            soundfile.write(chapter / f"{name}.flac", sound, 16_000)
            lines.append(f"{name} {TEXTS[3 * speaker + i]}\n")
        (chapter / f"{61 + speaker}-70.trans.txt").write_text("".join(lines))
    return root


def run(runner_folder, folder, librispeech, **fields):
    from specbench.cli.run import _new_writer
    from specbench.planning import plan
    from specbench.runner import execute

    class Quiet:
        def __getattr__(self, name):
            return lambda *args: None

    scenario = Scenario.model_validate(
        {"pair": f"{folder}/target+{folder}/draft", "dataset": str(librispeech), "samples": 6,
         "repeats": 1, "warmup": 0, "max_new_tokens": 12, "device": "cpu", **fields}
    )  # fmt: skip
    todo = plan(scenario)
    writer = _new_writer(todo, "", runner_folder)
    outcome = execute(todo, writer, Quiet())
    assert outcome.errors == []
    return load_results(str(writer.finish(complete=True)))


@pytest.fixture(scope="module")
def rows(tmp_path_factory, folder, librispeech):
    return run(
        tmp_path_factory.mktemp("out"), folder, librispeech, method="baseline,fused", gamma="0,3",
        temperature=0,
    )  # fmt: skip


class TestFolderOfAudio:
    def test_every_utterance_is_heard(self, rows):
        assert set(rows["task"]) == {"asr"}
        assert set(rows["reference"]) == set(TEXTS)
        assert sorted(set(rows["audio_s"])) == [1.0, 1.5, 2.0]
        assert (rows["status"] == "ok").all()
        assert set(rows["metric"]) == {"wer"}
        assert set(rows["prompt_tokens"]) == {4}  # start, language, task, no timestamps
        assert rows["hypothesis"].nunique() > 1

    def test_greedy_is_what_transformers_generates(self, rows, folder, librispeech):
        pair = load_pair(get_pair(f"{folder}/target+{folder}/draft"), "cpu", "auto")
        for _, row in rows.iterrows():
            path = next(librispeech.rglob(f"{row['sample_id']}.flac"))
            features = pair.extractor(
                soundfile.read(path, dtype="float32")[0], sampling_rate=16_000, return_tensors="pt"
            ).input_features
            out = pair.target.generate(
                features, language="en", task="transcribe", do_sample=False, max_new_tokens=12,
                num_beams=1,
            )  # fmt: skip
            assert row["hypothesis"] == pair.decode(out[0].tolist())

    def test_the_spelling_table_is_the_tokenizers(self, folder):
        pair = load_pair(get_pair(f"{folder}/target+{folder}/draft"), "cpu", "auto")
        assert pair.tokenizer.english_spelling_normalizer == {"colour": "color"}

    def test_longer_than_the_window_is_refused(self, tmp_path, folder):
        soundfile.write(tmp_path / "a.wav", np.zeros(5 * 16_000), 16_000)
        (tmp_path / "metadata.csv").write_text("file_name,text\na.wav,silence\n")
        with pytest.raises(InputError, match=r"a\.wav is 5\.00 s long.*hears 4 s"):
            run(tmp_path, folder, tmp_path, samples=1)

    def test_a_text_task_is_refused(self, tmp_path, folder, librispeech):
        with pytest.raises(InputError, match="hears speech"):
            run(tmp_path, folder, librispeech, task="code", dataset=None)

    def test_two_that_do_not_hear_alike(self, tmp_path, folder, librispeech):
        other = tmp_path / "pair"
        shutil.copytree(folder, other)
        path = other / "draft" / "preprocessor_config.json"
        found = json.loads(path.read_text())
        path.write_text(json.dumps({**found, "feature_size": 16}))
        with pytest.raises(InputError, match=r"gives 16 mel bins.*the model hears 8"):
            run(tmp_path, other, librispeech)
        config = other / "draft" / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "num_mel_bins": 16}))
        with pytest.raises(InputError, match="do not hear alike"):
            run(tmp_path, other, librispeech)

    def test_prompts_are_looked_at_once(self, tmp_path, folder, librispeech, monkeypatch):
        """Of a data set of thousands, all prompts for every request would take minutes."""
        from specbench.pairs import Pair

        calls, prompt = [], Pair.prompt
        monkeypatch.setattr(
            Pair, "prompt", lambda self, sample: calls.append(1) or prompt(self, sample)
        )
        run(tmp_path, folder, librispeech, method="fused", gamma="0,2")
        assert len(calls) <= 6 + 6 * 2

    def test_a_dataset_that_no_case_has(self, tmp_path, librispeech):
        with pytest.raises(InputError, match="no case has it"):
            run(tmp_path, None, librispeech, pair="demo-lm", task="auto")

    def test_sets_of_one_name_are_told_apart(self, tmp_path, folder, librispeech):
        found = set()
        for i, word in enumerate(("LAMP", "LAMPS")):
            other = tmp_path / str(i) / "test"
            shutil.copytree(librispeech, other)
            for path in other.rglob("*.trans.txt"):
                path.write_text(path.read_text().replace("LAMP", word))
            rows = run(tmp_path / "out", folder, other, method="fused", gamma="0")
            found |= set(rows["dataset"])
        assert len(found) == 2
        assert all(name.startswith("test@") for name in found)

    def test_a_decoder_writes_no_more_than_it_has_positions_for(
        self, tmp_path, folder, librispeech
    ):
        rows = run(
            tmp_path, folder, librispeech, method="fused", gamma="0", max_new_tokens=500, samples=2
        )
        assert (rows["prompt_tokens"] + rows["new_tokens"] <= 64).all()

    def test_what_was_cut_off_is_said(self, rows):
        from specbench.report.captions import cut_off
        from specbench.report.summary import summarise

        cut = int((rows["finish_reason"] == "length").sum())
        assert cut > 0
        assert cut_off(summarise(rows)) == (
            f"{cut} of {len(rows)} outputs were cut off at max_new_tokens"
        )

    def test_a_speech_model_and_a_text_model(self, folder):
        from specbench.assets import demo_dir

        with pytest.raises(InputError, match="speech model and the other is none"):
            pair_kind(get_pair(f"{folder}/target+{demo_dir() / 'lm' / 'draft'}"))


class TestOtherFolders:
    """What older or stranger folders lack."""

    @pytest.fixture
    def copy(self, tmp_path, folder):
        shutil.copytree(folder, tmp_path / "pair")
        return tmp_path / "pair"

    def load(self, copy, dtype="auto"):
        return load_pair(get_pair(f"{copy}/target+{copy}/draft"), "cpu", dtype)

    def test_a_prompt_without_a_generation_config(self, folder):
        """As the older folders of several languages say it: by their size and their tokenizer."""
        from types import SimpleNamespace

        pair = self.load(folder)
        bare = SimpleNamespace(
            generation_config=transformers.GenerationConfig(),
            config=SimpleNamespace(decoder_start_token_id=257, vocab_size=51_865),
        )
        assert whisper.prompt("x", bare, pair.tokenizer) == pair.speech_prompt

    def test_a_model_of_english_alone_gets_no_language(self, folder):
        from types import SimpleNamespace

        tokenizer = self.load(folder).tokenizer
        settings = transformers.GenerationConfig(
            decoder_start_token_id=257, no_timestamps_token_id=261
        )
        model = SimpleNamespace(
            generation_config=settings, config=SimpleNamespace(vocab_size=51_864)
        )
        assert whisper.prompt("x", model, tokenizer) == (257, 261)

    def test_no_start_is_a_sentence(self, folder):
        from types import SimpleNamespace

        model = SimpleNamespace(
            generation_config=transformers.GenerationConfig(), config=SimpleNamespace()
        )
        with pytest.raises(InputError, match="decoder starts"):
            whisper.prompt("x", model, self.load(folder).tokenizer)

    def test_an_encoder_is_shared_if_it_is_the_same_in_one_dtype(self, copy):
        target = transformers.WhisperForConditionalGeneration.from_pretrained(copy / "target")
        # What is stored in half precision equals its own numbers in single precision.
        half = target.half()
        half.save_pretrained(copy / "draft")
        half.float().save_pretrained(copy / "target")
        pair = load_pair(get_pair(f"{copy}/target+{copy}/draft"), "cpu", "auto")
        assert pair.draft.get_encoder() is pair.target.get_encoder()
        assert {one.dtype for one in pair.draft.parameters()} == {torch.float32}
        other = transformers.WhisperForConditionalGeneration.from_pretrained(copy / "draft").half()
        assert not whisper.share_encoder(pair.target, other)

    def test_a_decoder_alone_listens_with_the_targets_encoder(self, copy, librispeech, tmp_path):
        target = transformers.WhisperForConditionalGeneration.from_pretrained(copy / "target")
        config = target.config
        config.decoder_layers = 1
        draft = transformers.WhisperForCausalLM(config)
        draft.model.decoder.layers[0].load_state_dict(target.model.decoder.layers[0].state_dict())
        draft.save_pretrained(copy / "draft")
        pair = self.load(copy)
        assert pair.draft.get_encoder() is pair.target.get_encoder()
        rows = run(tmp_path, copy, librispeech, method="fused", gamma="3", samples=2)
        assert (rows["status"] == "ok").all()
        with pytest.raises(InputError, match="decoder without an encoder"):
            load_pair(get_pair(f"{copy}/draft+{copy}/target"), "cpu", "auto")

    def test_dummies_that_do_not_hear_alike(self):
        from specbench.pairs import check_available

        spec = get_pair("openai/whisper-large-v3+openai/whisper-tiny")
        with pytest.raises(InputError, match="do not hear alike"):
            check_available(spec, "dummy")


class TestDummies:
    def test_a_shape_runs_offline(self, tmp_path, monkeypatch):
        monkeypatch.setitem(
            ARCHITECTURES, "openai/whisper-large-v2",
            ("WhisperConfig", {"d_model": 64, "encoder_layers": 1, "decoder_layers": 1,
             "encoder_attention_heads": 1, "decoder_attention_heads": 1, "encoder_ffn_dim": 64,
             "decoder_ffn_dim": 64, "vocab_size": 51865}),
        )  # fmt: skip
        rows = run(
            tmp_path, None, None, pair="whisper-large/whisper-tiny", load_format="dummy",
            dataset=None, gamma="0,2", method="fused", synthetic_acceptance=1.0, samples=2,
        )  # fmt: skip
        assert set(rows["task"]) == {"synthetic"}
        assert set(rows["prompt_tokens"]) == {4}
        assert set(rows["audio_s"]) == {30.0}
        drafted = rows[rows["gamma"] == "2"]
        assert (drafted["accepted"] == drafted["drafted"]).all()


def test_offline_it_says_what_is_missing(monkeypatch, tmp_path):
    from specbench import pairs
    from specbench.planning import plan

    monkeypatch.setattr(pairs, "_hub_answers", lambda: False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MachineError, match="openai/whisper-large-v2 is not on this") as caught:
        plan(Scenario(pair="whisper-large/whisper-tiny", gamma="1..20", device="cpu"))
    found = plan(Scenario(pair="whisper-large/whisper-tiny", task="asr"), any_machine=True).lacks
    assert caught.value.message in [lack.message for lack in found]
    assert not [lack for lack in found if "feature extractor" in lack.message]
    assert "hf download openai/whisper-large-v2" in caught.value.hint
    assert "--load-format dummy" in caught.value.hint
