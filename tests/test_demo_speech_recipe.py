"""The recipe of the speech pair, end to end, small: synthesis, training, files, generating."""

import importlib.util
import json

import numpy as np
import pytest
import torch

from specbench.demo.speech import data, espeak, measuring, models, recipe, sentences, voices
from specbench.demo.train import parser

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("espeakng_loader") is None,
    reason="espeakng-loader is not installed: pip install specbench[demo]",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("asr")
    arguments = parser().parse_args(["asr", "--smoke", "--device", "cpu", "--output", str(folder)])
    arguments.run(arguments)
    return folder


def test_the_same_requests_give_the_same_samples():
    requests = [
        (sentences.draw(n).text, voices.draw(n, from_held_out=n % 2 == 0)) for n in range(8)
    ]
    first, second = (espeak.speak(requests, processes=n) for n in (1, 2))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
        assert 16_000 < len(one) < 6 * 16_000
        assert np.abs(one).max() > 1000


def test_every_voice_of_the_lists_speaks():
    names = sorted({f"{a}+{t}" for a in voices.ACCENTS for t in voices.TIMBRES})
    requests = [("good morning", voices.Voice(name, 170, 50, 50, 90)) for name in names]
    assert all(len(pcm) > 4000 for pcm in espeak.speak(requests))


def test_an_unknown_voice_is_an_error():
    with pytest.raises(RuntimeError, match="no voice 'nobody'"):
        espeak.speak([("hello", voices.Voice("nobody", 170, 50, 50, 90))])


def test_the_folder_holds_models_audio_figures_and_card(made):
    metrics = json.loads((made / "metrics.json").read_text("utf-8"))
    card = (made / "MODEL_CARD.md").read_text("utf-8")
    assert set(metrics["stages"]) == {"synthesis", "preparation", "target", "draft", "measuring"}
    for role in ("target", "draft"):
        assert (made / role / "model.safetensors").exists()
        assert f"{metrics['held_out'][role]['parameters']:,}" in card
        assert metrics["fits"][role]["steps"] > 0
    assert 0 <= metrics["held_out"]["pair"]["acceptance"] <= 1
    assert (made / "target" / "tokenizer.json").read_bytes() == (
        made / "draft" / "tokenizer.json"
    ).read_bytes()


def test_the_held_out_audio_is_what_its_table_says(made):
    lines = (made / "audio" / "metadata.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    waves, texts = data.read_held_out(made / "audio")
    assert len(rows) == recipe.SMOKE.held_out
    assert [row["text"] for row in rows] == texts
    assert {row["voice_in_training"] for row in rows} == {True, False}
    for row, wave in zip(rows, waves, strict=True):
        assert len(wave) / 16_000 == pytest.approx(row["seconds"], abs=1e-3)
        assert voices.held_out(row["voice"]) != row["voice_in_training"]
        assert 0.05 < np.abs(wave).max() <= 1


def test_a_stored_model_transcribes_the_stored_audio(made):
    model, processor = measuring.load(made / "target", "cpu")
    waves, _ = data.read_held_out(made / "audio")
    heard = processor.feature_extractor(waves, sampling_rate=16_000, return_tensors="pt")
    ids = model.generate(input_features=heard.input_features)
    assert ids.shape[0] == len(waves)
    assert ids.shape[1] <= models.MAX_LENGTH
