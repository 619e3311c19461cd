"""The sentences, voices, spectrograms and models of the speech pair: the split holds, shapes agree."""

from itertools import islice

import numpy as np
import pytest
import torch

from specbench.demo.speech import (
    data,
    features,
    fitting,
    measuring,
    models,
    scoring,
    sentences,
    voices,
    words,
)
from specbench.demo.speech.acoustics import Acoustics, Conditions
from specbench.demo.speech.sentences import Sentence
from specbench.demo.speech.voices import Voice

VOICE = Voice("en-us+f1", 170, 50, 50, 90)
TINY = models.Shape(width=32, heads=1, encoder_layers=1, decoder_layers=1, feed_forward=32)


def some(part, count=2000, seed=0):
    return list(islice(sentences.sentences(part, seed), count))


# --- sentences and voices --------------------------------------------------------------------


def test_a_seed_gives_the_same_sentence_always():
    assert some("training", 200) == some("training", 200)


def test_every_template_and_slot_is_filled_with_lower_case_words():
    found = some("training")
    for sentence in found:
        assert sentence.text == sentence.text.lower()
        assert set(sentence.text) <= set("abcdefghijklmnopqrstuvwxyz ")
        assert 4 <= len(sentence.text.split()) <= 20
    starts = {" ".join(sentence.text.split()[:1]) for sentence in found}
    assert {"please", "there", "nobody", "flight", "put"} <= starts


def test_held_out_sentences_hold_a_pair_that_training_never_utters():
    trained = {pair for sentence in some("training", 20_000) for pair in sentence.pairs}
    texts = " | ".join(sentence.text for sentence in some("training", 5000))
    for part in ("held_out", "validation"):
        for sentence in some(part, 300, seed=20_000_000):
            fresh = [pair for pair in sentence.pairs if sentences.part_of(pair) == part]
            assert fresh
            assert not trained & set(fresh)
            assert not any(f" {pair} " in texts for pair in fresh)


def test_the_seed_does_not_move_a_sentence_from_one_part_to_another():
    first = {sentence.text for sentence in some("held_out", 500)}
    assert not first & {sentence.text for sentence in some("training", 5000)}


def test_pairs_that_disagree_put_a_sentence_nowhere():
    by_part = {sentences.part_of(f"a{n}"): f"a{n}" for n in range(200)}
    mixed = (by_part["held_out"], by_part["validation"])
    assert Sentence("", mixed, 0.0).part is None
    assert Sentence("", (by_part["training"], by_part["held_out"]), 0.0).part == "held_out"


def test_the_language_leaves_most_of_a_word_open():
    found = some("training")
    bits = sum(sentence.bits for sentence in found)
    assert bits / sum(len(sentence.text.split()) for sentence in found) > 4


@pytest.mark.parametrize(
    ("number", "text"),
    [(1, "one"), (19, "nineteen"), (20, "twenty"), (85, "eighty five"), (100, "one hundred"),
     (207, "two hundred seven"), (999, "nine hundred ninety nine")],
)  # fmt: skip
def test_numbers_are_words(number, text):
    assert sentences.spoken(number) == text


@pytest.mark.parametrize(
    ("noun", "text"), [("box", "boxes"), ("key", "keys"), ("diary", "diaries"), ("dish", "dishes")]
)
def test_plurals(noun, text):
    assert sentences.plural(noun) == text


def test_no_list_has_a_word_twice():
    for name in ("FIRST", "LAST", "NOUN", "ADJECTIVE", "VERB", "PLACE", "CITY", "JOB", "ADVERB"):
        listed = getattr(words, name)
        assert len(set(listed)) == len(listed) > 40


def test_a_held_out_voice_is_never_drawn_for_training():
    drawn = [voices.draw(seed, False) for seed in range(2000)]
    assert not any(voice.held_out for voice in drawn)
    assert len({voice.name for voice in drawn}) > 200
    assert all(voices.draw(seed, True).held_out for seed in range(50))


# --- spectrograms and acoustics --------------------------------------------------------------


def test_log_mels_are_those_of_the_feature_extractor():
    rng = np.random.default_rng(0)
    waves = [rng.normal(0, 0.1, size).astype(np.float32) for size in (20_000, 61_234, 96_000)]
    expected = features.extractor()(waves, sampling_rate=16_000, return_tensors="np")
    padded = np.stack([np.pad(wave, (0, features.WINDOW - len(wave))) for wave in waves])
    found = features.LogMel("cpu")(torch.from_numpy(padded))
    assert found.shape == (3, 80, 600)
    np.testing.assert_allclose(found, expected["input_features"], atol=2e-4)


def test_masks_hide_a_part_of_every_row():
    ones = torch.ones(8, 80, 600)
    hidden = (features.masked(ones, torch.Generator().manual_seed(0)) == 0).float().mean((1, 2))
    assert ((hidden > 0) & (hidden < 0.5)).all()


def clips(count=4):
    rng = np.random.default_rng(1)
    utterances = [
        data.Utterance(
            Sentence(f"the cat number {'abcdefgh'[n]}", (), 0.0), VOICE,
            (3000 * rng.standard_normal(16_000 + 1000 * n)).astype(np.int16),
        )
        for n in range(count)
    ]  # fmt: skip
    tokenizer = models.train_tokenizer(one.sentence.text for one in utterances)
    return data.gather(utterances, tokenizer), tokenizer, utterances


def test_a_clip_stands_in_silence_where_it_was_put():
    found, _, utterances = clips()
    waves = found.waves(torch.tensor([2, 0]), torch.tensor([0, 500]))
    assert waves.shape == (2, features.WINDOW)
    np.testing.assert_allclose(waves[1, 500 : 500 + 16_000] * 32_768, utterances[0].pcm)
    assert waves[0, 18_000:].abs().sum() == waves[1, :500].abs().sum() == 0


def test_labels_end_in_eos_and_inputs_begin_with_start():
    found, tokenizer, utterances = clips()
    row = found.labels[1][found.labels[1] != data.IGNORED]
    assert row[-1] == models.EOS_ID
    assert tokenizer.decode(row, skip_special_tokens=True) == utterances[1].sentence.text
    inputs = data.decoder_inputs(found.labels, models.START_ID)
    assert (inputs[:, 0] == models.START_ID).all()
    assert (inputs[1, 1 : len(row)] == row[:-1]).all()
    assert data.spelt("a z") == [1, 27, 26]


def test_conditions_keep_to_their_range_and_come_again_with_the_seed():
    found, _, _ = clips()
    rows = torch.arange(4)
    quiet = Conditions(
        snr_db=(20.0, 20.0), echo_share=0.0, band_share=0.0, longest_lead=0.0, peak_db=(-6.0, -6.0)
    )
    waves = data.heard(found, rows, Acoustics(quiet, 3, "cpu"))
    again = data.heard(found, rows, Acoustics(quiet, 3, "cpu"))
    assert (waves == again).all()
    assert (waves.abs().amax(1) - 10 ** (-6 / 20)).abs().max() < 1e-4
    assert (waves[:, int(found.lengths.max()) :] == 0).all()
    clean = found.waves(rows, torch.zeros(4, dtype=torch.long))
    gain = (waves * clean).sum(1, keepdim=True) / clean.square().sum(1, keepdim=True)
    rest = waves - gain * clean
    ratio = 10 * torch.log10((gain * clean).square().sum(1) / rest.square().sum(1))
    assert (ratio - 20).abs().max() < 2.5


# --- models and training ---------------------------------------------------------------------


def test_sizes_of_the_pair():
    target = models.new_model(models.TARGET, 0)
    draft = models.new_draft(target, models.DRAFT, 0)
    counts = [sum(p.numel() for p in one.parameters()) for one in (target, draft.model.decoder)]
    assert 5.5e6 < counts[0] < 6.5e6
    assert 7 < counts[0] / counts[1] < 12
    assert 2 * sum(counts) < 15e6  # as float16, in bytes


def test_a_stored_model_transcribes_by_itself(tmp_path):
    from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor

    _, tokenizer, _ = clips()
    models.export(models.new_model(TINY, 0), tokenizer, tmp_path)
    model = AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(tmp_path)
    wave = np.zeros(30_000, np.float32)
    heard = processor(wave, sampling_rate=16_000, return_tensors="pt")
    assert heard.input_features.shape == (1, 80, 600)
    ids = model.generate(input_features=heard.input_features)
    assert ids.shape[1] <= models.MAX_LENGTH
    assert ids[0, 0] != models.EOS_ID
    assert not {models.PAD_ID, models.START_ID} & set(ids[0, 1:].tolist()) - {models.PAD_ID}
    assert isinstance(processor.decode(ids[0], skip_special_tokens=True), str)
    stored = {path.name for path in tmp_path.iterdir()}
    assert {"preprocessor_config.json", "generation_config.json", "tokenizer.json"} <= stored


def test_a_stored_draft_is_a_decoder_that_listens_with_the_targets_encoder(tmp_path):
    from transformers import AutoModelForCausalLM

    _, tokenizer, _ = clips()
    target = models.new_model(TINY, 0).eval()
    draft = models.new_draft(target, models.DraftShape(1, 16), 1).eval()
    models.export(target, tokenizer, tmp_path / "target")
    models.export(draft, tokenizer, tmp_path / "draft", decoder_alone=True)
    assert models.stored_bytes(tmp_path / "draft") < models.stored_bytes(tmp_path / "target")
    stored, again, _ = measuring.load_both(tmp_path, "cpu")
    assert again.model.encoder is stored.model.encoder
    heard, labels = torch.randn(2, 80, 600), torch.tensor([[5, 6, 2], [7, 2, -100]])
    was, now = (scoring.logits_of(one, heard, labels) for one in (draft, again))
    torch.testing.assert_close(now, was, atol=0.02, rtol=0.02)  # stored as float16
    # As transformers' own assisted generation loads it.
    alone = AutoModelForCausalLM.from_pretrained(tmp_path / "draft", dtype=torch.float32).eval()
    written = [
        stored.generate(input_features=heard[:1], temperature=0.0, **options)
        for options in ({}, {"assistant_model": alone})
    ]
    assert torch.equal(*written)


def test_a_batch_holds_each_clip_once_before_any_comes_again():
    found, _, _ = clips()
    source = fitting.Source(found, 3, 0, Conditions())
    drawn = torch.cat([source.rows() for _ in range(4)]).tolist()
    assert sorted(drawn) == sorted([*range(4)] * 3)
    assert sorted(drawn[:4]) == [0, 1, 2, 3]


def test_both_losses_reach_every_weight():
    found, _, _ = clips()
    batch = fitting.Source(found, 4, 0, Conditions()).batch(0.0, 0.1)
    target, learner = models.new_model(TINY, 0).eval(), fitting.Learner(models.new_model(TINY, 1))
    follower = models.Follower(models.new_draft(target, models.DraftShape(1, 16), 2))
    for trained, loss in (
        (learner, fitting.transcript_loss), (follower, fitting.following_loss(target)),
    ):  # fmt: skip
        loss(trained, batch).backward()
        missing = [
            name
            for name, weight in trained.named_parameters()
            if weight.requires_grad and weight.grad is None
        ]
        assert missing == []
    assert all(weight.grad is None for weight in target.parameters())
