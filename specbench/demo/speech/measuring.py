"""The figures of the stored pair on the stored held-out audio."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor

from specbench.demo.speech import data, scoring
from specbench.demo.speech.features import RATE
from specbench.demo.speech.models import stored_bytes

GAMMA = 4


def load(folder: Path, device: str) -> tuple[Any, Any]:
    """A stored model in float32, and its processor."""
    model = AutoModelForSpeechSeq2Seq.from_pretrained(folder, dtype=torch.float32)
    return model.eval().to(device), AutoProcessor.from_pretrained(folder)


def load_both(output: Path, device: str) -> tuple[Any, Any, Any]:
    """Target, draft with the target's encoder, and the processor of both."""
    target, processor = load(output / "target", device)
    draft, _ = load(output / "draft", device)
    draft.model.encoder = target.model.encoder
    return target, draft, processor


def _quality(
    model: Any, tokenizer: Any, features: torch.Tensor, labels: torch.Tensor, texts: list[str]
) -> dict[str, Any]:
    """One model's figures; in "shuffled" ones, each text is set against another's audio."""
    other = features.roll(1, 0)
    greedy = scoring.transcribe(model, tokenizer, features)
    sampled = scoring.transcribe(model, tokenizer, features, sample=True)
    misled = scoring.transcribe(model, tokenizer, other)
    return {
        "loss": scoring.loss(model, features, labels),
        "shuffled_loss": scoring.loss(model, other, labels),
        "wer": scoring.word_error_rate(texts, greedy),
        "sampled_wer": scoring.word_error_rate(texts, sampled),
        "shuffled_wer": scoring.word_error_rate(texts, misled),
        "transcripts": greedy,
    }


def _agreement(target: Any, draft: Any, features: torch.Tensor) -> dict[str, float]:
    """Overlap along transcripts that the target writes, and counts of speculative sampling."""
    drawn = scoring.sampled_labels(target, features)
    counts = scoring.acceptance(target, draft, features, GAMMA)
    overlap = scoring.overlap(target, draft, features, drawn)
    return {"overlap": overlap, **counts.rates, **asdict(counts)}


def evaluate(output: Path, device: str, seed: int) -> dict[str, Any]:
    """Everything that the card tells of the held-out files, read back from where they were written."""
    torch.manual_seed(seed)
    waves, texts = data.read_held_out(output / "audio")
    target, draft, processor = load_both(output, device)
    heard = processor.feature_extractor(waves, sampling_rate=RATE, return_tensors="pt")
    features, tokenizer = heard.input_features.to(device), processor.tokenizer
    labels = data.label_rows(tokenizer, texts).to(device)
    models = {"target": (target, target), "draft": (draft, draft.model.decoder)}
    return {
        "utterances": len(texts),
        "seconds": sum(len(wave) for wave in waves) / RATE,
        "words": sum(len(text.split()) for text in texts),
        "tokens": int((labels != data.IGNORED).sum()),
        "audio_bytes": stored_bytes(output / "audio"),
        "texts": texts,
        "pair": _agreement(target, draft, features),
        **{
            role: {
                "bytes": stored_bytes(output / role),
                "parameters": sum(p.numel() for p in own.parameters()),
            }
            | _quality(model, tokenizer, features, labels, texts)
            for role, (model, own) in models.items()
        },
    }
