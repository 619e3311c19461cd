"""The embedded speech pair as it is stored: small enough, honestly held out, really trained."""

import json
from itertools import islice

import pytest
import torch

from specbench.demo import train
from specbench.demo.speech import data, measuring, models, recipe, scoring, sentences, voices
from specbench.engine.batch import Request
from specbench.engine.decoding import EAGER, GRAPHS, Decoding, Execution
from specbench.engine.native import NativeEngine
from specbench.engine.speech import SpeechModel
from specbench.pairs import get_pair, load_pair
from specbench.sampling.policy import make_policy
from specbench.sampling.registry import get_method
from specbench.tasks.asr import SpeechRecognition

FOLDER = train.HERE / "asr"
ROLES = ("target", "draft")

pytestmark = pytest.mark.skipif(
    not (FOLDER / "MODEL_CARD.md").exists(),
    reason="the pair has not been made: python -m specbench.demo.train asr",
)


@pytest.fixture(scope="module")
def metrics():
    return json.loads((FOLDER / recipe.METRICS).read_text("utf-8"))


@pytest.fixture(scope="module")
def table():
    lines = (FOLDER / "audio" / "metadata.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_the_folder_stays_small():
    assert sum(models.stored_bytes(FOLDER / role) for role in ROLES) <= 16e6
    assert models.stored_bytes(FOLDER / "audio") <= 4e6


def test_the_held_out_sentences_are_those_of_the_grammar_and_of_no_training_pair(table):
    assert len(table) == recipe.FULL.held_out
    drawn = islice(sentences.sentences("held_out", data.SEEDS["held_out"]), 200)
    by_text = {sentence.text: sentence for sentence in drawn}
    for row in table:
        parts = {sentences.part_of(pair) for pair in by_text[row["text"]].pairs}
        assert "held_out" in parts
        assert voices.held_out(row["voice"]) != row["voice_in_training"]
    assert 20 <= sum(row["voice_in_training"] for row in table) <= 40


def test_one_tokenizer_for_both():
    files = [(FOLDER / role / "tokenizer.json").read_bytes() for role in ROLES]
    assert files[0] == files[1]


def test_the_target_hears_and_the_draft_hears_worse():
    torch.manual_seed(0)
    waves, texts = (part[:16] for part in data.read_held_out(FOLDER / "audio"))
    losses, rates = {}, {}
    *both, processor = measuring.load_both(FOLDER, "cpu")
    for role, model in zip(ROLES, both, strict=True):
        heard = processor.feature_extractor(waves, sampling_rate=16_000, return_tensors="pt")
        labels = data.label_rows(processor.tokenizer, texts)
        losses[role] = scoring.loss(model, heard.input_features, labels)
        written = scoring.transcribe(model, processor.tokenizer, heard.input_features)
        rates[role] = scoring.word_error_rate(texts, written)
    assert rates["target"] <= 0.12
    assert losses["draft"] > 1.3 * losses["target"]


def test_the_card_tells_what_was_measured(metrics):
    card = (FOLDER / "MODEL_CARD.md").read_text("utf-8")
    held = metrics["held_out"]
    assert held["target"]["wer"] <= 0.10 < held["target"]["shuffled_wer"]
    assert held["draft"]["wer"] > 1.2 * held["target"]["wer"]
    assert 0.6 <= held["pair"]["acceptance"] <= 0.95
    assert f"{held['pair']['acceptance']:.3f}" in card
    assert f"{held['target']['wer']:.1%}" in card


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_greedy_speculation_writes_what_the_target_writes_for_every_utterance(device):
    """As plain decoding, and as transformers' own `generate`. float32, where there are no ties."""
    pair = load_pair(get_pair("demo-asr"), device, "float32")
    samples = SpeechRecognition().samples()
    features = torch.stack([pair.features(sample) for sample in samples])
    asked = [Request(pair.speech_prompt, 0, one) for one in features]
    both = SpeechModel(pair.target), SpeechModel(pair.draft)
    assert both[0].encoder is both[1].encoder  # heard once
    engine = NativeEngine(*both, pair.eos_tokens, pair.suppressed)
    mode = EAGER if device == "cpu" else GRAPHS
    room = models.MAX_LENGTH - len(pair.speech_prompt)

    def written(gamma):
        found = engine.generate(
            asked, get_method("fused"), make_policy(gamma), Decoding(room, 0.0), None,
            Execution(mode), 12,
        )  # fmt: skip
        return [pair.decode(one.tokens) for one in found]

    ids = pair.target.generate(input_features=features.to(device), do_sample=False, num_beams=1)
    expected = [pair.decode(one) for one in ids.tolist()]
    assert len(expected) == len(set(expected)) == 60
    assert written("0") == expected
    assert written("4") == expected
