"""Measures the speech pair: word error rates, losses, overlap and acceptance of drafted tokens."""

from types import SimpleNamespace
from typing import Any

import jiwer
import torch

from specbench.demo import scoring
from specbench.demo.speech.data import IGNORED, decoder_inputs
from specbench.demo.speech.fitting import token_loss
from specbench.demo.speech.models import EOS_ID, MAX_LENGTH, PAD_ID, START_ID, generation_config


@torch.no_grad()
def transcribe(
    model: Any, tokenizer: Any, features: torch.Tensor, sample: bool = False, at_once: int = 256
) -> list[str]:
    """The transcripts of (U, 80, 600); greedy, or sampled at temperature 1."""
    found: list[str] = []
    for part in features.split(at_once):
        found += tokenizer.batch_decode(_written(model, part, sample), skip_special_tokens=True)
    return found


def _written(model: Any, features: torch.Tensor, sample: bool) -> torch.Tensor:
    """(U, T) token numbers behind <start>; greedy, or sampled at temperature 1."""
    config = generation_config()
    if sample:
        config.update(top_k=0, top_p=1.0)
    # Whisper's own generate looks at this argument alone: do_sample says nothing to it.
    temperature = 1.0 if sample else 0.0
    ids: torch.Tensor = model.generate(
        input_features=features, generation_config=config, temperature=temperature
    )
    return ids[:, 1:] if bool((ids[:, 0] == START_ID).all()) else ids  # versions differ in this


def normalised(text: str) -> str:
    """Lower-case words of letters, digits and apostrophes, one space apart."""
    kept = (c if c.isalnum() or c == "'" else " " for c in text.lower())
    return " ".join("".join(kept).split())


def word_error_rate(references: list[str], hypotheses: list[str]) -> float:
    """Substituted, deleted and inserted words per reference word, all utterances together."""
    return float(jiwer.wer([*map(normalised, references)], [*map(normalised, hypotheses)]))


@torch.no_grad()
def logits_of(model: Any, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(U, T, V) float32 next-token logits along the labels (U, T)."""
    tokens = decoder_inputs(labels, START_ID)
    pairs = zip(features.split(128), tokens.split(128), strict=True)
    parts = [model(input_features=f, decoder_input_ids=t, use_cache=False).logits for f, t in pairs]
    return torch.cat(parts).float()


def loss(model: Any, features: torch.Tensor, labels: torch.Tensor) -> float:
    """Nats per token of the transcripts with their <eos>."""
    return float(token_loss(logits_of(model, features, labels), labels))


def overlap(target: Any, draft: Any, features: torch.Tensor, labels: torch.Tensor) -> float:
    """Mean of sum(min(target_probs, draft_probs)) over the labels' positions."""
    laws = [logits_of(model, features, labels).softmax(-1) for model in (target, draft)]
    return float(torch.minimum(*laws).sum(-1)[labels != IGNORED].mean())


@torch.no_grad()
def sampled_labels(model: Any, features: torch.Tensor) -> torch.Tensor:
    """(U, T) labels: transcripts drawn from the model at temperature 1, with <eos>, then -100."""
    ids = _written(model, features, True)
    ended = (ids == EOS_ID).long().cumsum(1) - (ids == EOS_ID).long() > 0
    return ids.masked_fill(ended | (ids == PAD_ID), IGNORED)


class _Listening:
    """A model that has heard its audio, in the form that `scoring.acceptance` asks: text in, laws out."""

    def __init__(self, model: Any, features: torch.Tensor) -> None:
        self._decoder, self.lm_head = model.model.decoder, model.proj_out
        self._heard = model.model.encoder(features).last_hidden_state
        self.parameters = model.parameters

    def model(self, input_ids: torch.Tensor, use_cache: bool) -> SimpleNamespace:
        hidden = self._decoder(
            input_ids=input_ids, encoder_hidden_states=self._heard, use_cache=use_cache
        ).last_hidden_state
        return SimpleNamespace(last_hidden_state=hidden)


@torch.no_grad()
def acceptance(target: Any, draft: Any, features: torch.Tensor, gamma: int) -> scoring.Counts:
    """Counts of token-by-token speculative sampling at temperature 1, all utterances at once."""
    prompts = [[START_ID] for _ in features]
    both = _Listening(target, features), _Listening(draft, features)
    return scoring.acceptance(both[0], both[1], prompts, gamma, MAX_LENGTH, EOS_ID, PAD_ID)
