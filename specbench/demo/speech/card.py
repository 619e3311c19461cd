"""Writes demo-asr's model card from what the recipe measured: every figure comes from there."""

from pathlib import Path
from typing import Any

from specbench.demo.card import fits_table, quality_table

_CARD = """# demo-asr

A pair of small speech recognisers for trying speculative sampling without a download: a *target* of
{target_millions:.2f} M parameters and a *draft* of {draft_millions:.2f} M, {ratio:.1f} times
smaller. They are a demonstration and a test object.

## What they do

They write down sentences of a small English grammar (`specbench/demo/speech/sentences.py`) as one
synthesiser, eSpeak NG, speaks them: lower-case words, no punctuation, numbers as words. They were
never given a human voice or any other sentence, and fail on both. No other language, no
timestamps, nothing longer than 6 s.

## Architecture

Whisper (`WhisperForConditionalGeneration`) with a window of 6 s instead of 30: 80 mel bins, 300
encoder positions, 128 decoder positions. Float16 safetensors. One byte-level BPE tokenizer of
{vocabulary} entries for both. The decoder's prompt is `<start>` alone. The draft is a decoder alone
(`WhisperForCausalLM`) and listens with the target's encoder, as distil-whisper's drafts do.

| | encoder layers | decoder layers | width | heads | feed-forward | parameters | bytes |
| --- | --- | --- | --- | --- | --- | --- | --- |
{shapes}

## Data

{utterances:,} utterances ({hours:.1f} h, {voices} voices of eSpeak NG: accents with timbres, at random
speed, pitch and volume), {words_per_sentence:.1f} words a sentence. The grammar's free choices come
to {bits_per_word:.1f} bits a word, so the language alone does not give the words away. In training each
comes with new noise (white to brown, some babble, {snr_low:g} to {snr_high:g} dB), some with an echo
or a narrow band, with parts of the spectrogram blanked out.

Held out: {held_utterances} utterances, {held_seconds:.0f} s, {audio_bytes:,} bytes of FLAC with moderate
noise. A pair of first and last name, or of adjective and noun, is for training or not by its hash;
every held-out sentence holds such a pair that no training sentence has, and every second one is spoken
by a voice (accent with timbre) that no training utterance has. The words themselves all occur in
training. So the set shows no more than new combinations of known words, by known or closely related
voices.

## Training

By `python -m specbench.demo.train asr`. The target learns transcripts from scratch; a CTC head on its
encoder, which reads letters and is thrown away afterwards, helps it to find where to listen. Over the
first fifth of the time the noise rises from nearly none to its full level. The draft begins with the
target's embeddings and the attention of its last layer, and learns the target's law (KL divergence,
some cross entropy) over the target's encoder, which stays as it is; it stops once its overlap with the
target on validation utterances reaches {overlap_goal:g}.

Seed {seed}. Device: {device}, {cores} CPU cores. Python {python}, torch {torch}, transformers
{transformers}, espeakng-loader {espeakng_loader}, soxr {soxr}. A run is bounded by seconds, so another
machine gives other weights.

| stage | steps | utterances seen | seconds | training loss at the end |
| --- | --- | --- | --- | --- |
{fits}

Seconds of the stages: {stages}; in all {total_seconds:.0f}{reused}.

## Measured on the held-out data

Weights as stored, computed in float32, audio read from the files. WER: lower case, no punctuation, all
utterances together ({held_words} words). Losses are in nats per token ({held_tokens} tokens). *Other
audio*: each transcript is set against the next utterance's audio; a model that went by language would
lose little there.

| | target | draft |
| --- | --- | --- |
{quality}

Agreement at temperature 1, without top-k or top-p. Overlap: the mean of Σ min(target, draft)
probability along transcripts sampled from the target. Acceptance: accepted / drafted tokens of
speculative sampling at γ = {gamma}, counted; what the draft would draft behind its own `<eos>` counts
as neither.

| overlap | acceptance | tokens per verify step | drafted |
| --- | --- | --- | --- |
| {overlap:.3f} | {acceptance:.3f} | {tokens_per_step:.2f} | {drafted:,} |

With {held_words} words a single wrong one moves WER by {one_word:.2f} points.

## Licences

Weights, tokenizer, transcripts and audio: Apache-2.0. The speech was made with eSpeak NG (GPL-3.0 or
later), through the wheel espeakng-loader, used as a tool: nothing of it is in this package, and
specbench does not need it except to make this pair again.
"""

_QUALITY = (
    ("greedy WER", "wer", ".1%"),
    ("WER sampled at temperature 1", "sampled_wer", ".1%"),
    ("greedy WER, other audio", "shuffled_wer", ".0%"),
    ("loss", "loss", ".3f"),
    ("loss, other audio", "shuffled_loss", ".2f"),
)


def _shapes(metrics: dict[str, Any]) -> str:
    rows = []
    for role in ("target", "draft"):
        shape, found = metrics["recipe"][f"{role}_shape"], metrics["held_out"][role]
        s = metrics["recipe"]["target_shape"] | {"encoder_layers": "the target's"} | shape
        rows.append(
            f"| {role} | {s['encoder_layers']} | {s['decoder_layers']} | {s['width']} | {s['heads']} "
            f"| {s['feed_forward']} | {found['parameters']:,} | {found['bytes']:,} |"
        )
    return "\n".join(rows)


def write_card(path: Path, metrics: dict[str, Any], vocabulary: int, gamma: int) -> None:
    """Fills the card with the figures of metrics.json."""
    recipe, held, pair = metrics["recipe"], metrics["held_out"], metrics["held_out"]["pair"]
    sizes = {role: held[role]["parameters"] for role in ("target", "draft")}
    text = _CARD.format(
        **metrics["data"],
        **metrics["environment"],
        target_millions=sizes["target"] / 1e6,
        draft_millions=sizes["draft"] / 1e6,
        ratio=sizes["target"] / sizes["draft"],
        vocabulary=vocabulary,
        gamma=gamma,
        snr_low=recipe["conditions"]["snr_db"][0],
        snr_high=recipe["conditions"]["snr_db"][1],
        seed=recipe["seed"],
        overlap_goal=recipe["overlap_goal"],
        shapes=_shapes(metrics),
        fits=fits_table(metrics),
        quality=quality_table(metrics, _QUALITY),
        stages=", ".join(f"{name} {took:.0f}" for name, took in metrics["stages"].items()),
        total_seconds=metrics["total_seconds"],
        reused=metrics["reused"],
        audio_bytes=held["audio_bytes"],
        one_word=100 / held["words"],
        **{f"held_{key}": held[key] for key in ("utterances", "seconds", "words", "tokens")},
        **{key: pair[key] for key in ("overlap", "acceptance", "tokens_per_step", "drafted")},
    )
    path.write_text(text, "utf-8")
