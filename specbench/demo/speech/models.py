"""The two models of the pair, their tokenizer, and the files that they are stored as."""

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperForCausalLM,
    WhisperForConditionalGeneration,
    WhisperProcessor,
)

from specbench.demo.speech.features import FRAMES, MELS, extractor

VOCABULARY = 768
PAD, START, EOS = "<pad>", "<start>", "<eos>"
SPECIAL_TOKENS = (PAD, START, EOS)
PAD_ID, START_ID, EOS_ID = range(3)
POSITIONS = 128
BLANK, LETTERS = 0, 28  # what CTC reads: nothing, a to z, a space
MAX_LENGTH = 64  # of a transcript with its first token; what is drafted beyond it needs room too


@dataclass(frozen=True)
class Shape:
    """The sizes of a model; both halves share width, heads and feed_forward."""

    width: int
    heads: int
    encoder_layers: int
    decoder_layers: int
    feed_forward: int


@dataclass(frozen=True)
class DraftShape:
    """The sizes of a draft's decoder; it listens with the target's encoder, so width is the target's."""

    decoder_layers: int
    feed_forward: int


TARGET = Shape(width=256, heads=4, encoder_layers=4, decoder_layers=3, feed_forward=768)
DRAFT = DraftShape(decoder_layers=1, feed_forward=128)


def train_tokenizer(texts: Iterable[str]) -> Any:
    """A byte-level BPE that writes <start> text <eos>; each word is one sequence with its space."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {EOS}", special_tokens=[(START, START_ID), (EOS, EOS_ID)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=START,
        eos_token=EOS,
        pad_token=PAD,
        padding_side="right",
        model_max_length=POSITIONS,
        clean_up_tokenization_spaces=False,
    )


def new_model(shape: Shape, seed: int, dropout: float = 0.0) -> Any:
    """A Whisper of this shape with fresh weights."""
    torch.manual_seed(seed)
    config = WhisperConfig(
        vocab_size=VOCABULARY,
        num_mel_bins=MELS,
        d_model=shape.width,
        encoder_layers=shape.encoder_layers,
        encoder_attention_heads=shape.heads,
        encoder_ffn_dim=shape.feed_forward,
        decoder_layers=shape.decoder_layers,
        decoder_attention_heads=shape.heads,
        decoder_ffn_dim=shape.feed_forward,
        max_source_positions=FRAMES // 2,
        max_target_positions=POSITIONS,
        dropout=dropout,
        pad_token_id=PAD_ID,
        bos_token_id=START_ID,
        eos_token_id=EOS_ID,
        decoder_start_token_id=START_ID,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    return WhisperForConditionalGeneration(config)


_COPIED = (
    "self_attn", "self_attn_layer_norm", "encoder_attn", "encoder_attn_layer_norm", "final_layer_norm",
)  # fmt: skip


def new_draft(target: Any, shape: DraftShape, seed: int) -> Any:
    """A smaller decoder behind the target's own encoder, as distil-whisper has it (2311.00430).

    It begins with the target's embeddings and the attention of the target's last layers, which know where
    to listen; its feed-forward parts are fresh.
    """
    torch.manual_seed(seed)
    config = WhisperConfig.from_dict(
        target.config.to_dict()
        | {"decoder_layers": shape.decoder_layers, "decoder_ffn_dim": shape.feed_forward}
        | {"dropout": 0.0}
    )
    draft = WhisperForConditionalGeneration(config).to(target.device)
    draft.model.encoder = target.model.encoder
    ours, theirs = draft.model.decoder, target.model.decoder
    for name in ("embed_tokens", "embed_positions", "layer_norm"):
        getattr(ours, name).load_state_dict(getattr(theirs, name).state_dict())
    for mine, its in zip(ours.layers, theirs.layers[-len(ours.layers) :], strict=True):
        for name in _COPIED:
            getattr(mine, name).load_state_dict(getattr(its, name).state_dict())
    return draft


class Learner(nn.Module):
    """A model in training, with a second way to read its encoder: CTC, thrown away afterwards.

    A decoder of this size, alone, can take very long to find out where to listen: it learns the
    language first, and then little is left to learn from. CTC makes the encoder's output legible
    early, whatever the decoder does. It reads letters: there are few, so each is heard often.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.reader = nn.Linear(model.config.d_model, LETTERS)

    def forward(
        self, features: torch.Tensor, tokens: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 80, 600) and (B, T) -> decoder logits (B, T, V), CTC log-probabilities (300, B, 28)."""
        output = self.model(input_features=features, decoder_input_ids=tokens, use_cache=False)
        read = self.reader(output.encoder_last_hidden_state).float().log_softmax(-1)
        return output.logits.float(), read.transpose(0, 1)


class Follower(nn.Module):
    """A draft in training: its decoder. The encoder, which is the target's, is left as it is."""

    def __init__(self, draft: Any) -> None:
        super().__init__()
        self.decoder = draft.model.decoder
        self._whole = (draft,)  # no module of this one: it would be trained with it

    @property
    def model(self) -> Any:
        """The draft with its encoder."""
        return self._whole[0]

    def forward(self, heard: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """The encoder's output (B, 300, width) and (B, T) -> logits (B, T, V)."""
        hidden = self.decoder(
            input_ids=tokens, encoder_hidden_states=heard, use_cache=False
        ).last_hidden_state
        logits: torch.Tensor = self.model.proj_out(hidden)  # its weights are the embedding's
        return logits.float()


def generation_config() -> Any:
    """Greedy, from <start> to <eos>; never <pad> or <start>, nor <eos> at once."""
    return GenerationConfig(
        decoder_start_token_id=START_ID,
        bos_token_id=START_ID,
        eos_token_id=EOS_ID,
        pad_token_id=PAD_ID,
        suppress_tokens=[PAD_ID, START_ID],
        begin_suppress_tokens=[EOS_ID],
        max_length=MAX_LENGTH,
        is_multilingual=False,
    )


def export(model: Any, tokenizer: Any, folder: Path, decoder_alone: bool = False) -> None:
    """Float16 weights, configuration, tokenizer and feature extractor, in transformers' layout."""
    kind = WhisperForCausalLM if decoder_alone else WhisperForConditionalGeneration
    copy, weights = kind(deepcopy(model.config)), model.state_dict()
    copy.load_state_dict({name: weights[name] for name in copy.state_dict()})
    copy.config.update({"dropout": 0.0, "is_encoder_decoder": True})
    copy.generation_config = generation_config()
    copy.half().save_pretrained(folder)
    WhisperProcessor(extractor(), tokenizer).save_pretrained(folder)
    extractor().save_pretrained(folder)  # the older file, for those who read that one


def stored_bytes(folder: Path) -> int:
    """Of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
