"""The tokenizer of `demo-lm`, and how examples become batches of token numbers."""

import random
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from specbench.demo.prompts import BOS, EOS, PAD, SPECIAL_TOKENS

VOCABULARY = 4096
CONTEXT = 768
WIDTHS = (64, 96, 128, 160, 192, 256, 320, 384, 512, 640)  # the lengths that batches are padded to
IGNORED = -100
ENCODED_AT_ONCE = 50_000  # bounds the memory of the encodings


class Kind(IntEnum):
    """Where an example comes from. Prompts of the library's functions get noise in training."""

    CODE = 0
    SUMMARY = 1
    SOURCE = 2  # an undocumented function: only its source is learnt
    SAMPLED = 3  # an undocumented function with a summary sampled from a model


@dataclass(frozen=True)
class Example:
    """A prompt and what should follow; an empty completion means: learn the prompt itself."""

    prompt: str
    completion: str
    kind: Kind = Kind.CODE


def train_tokenizer(texts: Iterator[str]) -> Any:
    """A byte-level BPE that splits digits, puts <bos> in front and never adds <eos>."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        padding_side="left",
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


@dataclass
class Tokens:
    """Encoded examples end to end.

    flat: (N,) int32, all tokens; starts, lengths, prompts: (E,) int64, where each example
    begins, how long it is and how much of it is prompt; kinds: (E,) int64.
    """

    flat: torch.Tensor
    starts: torch.Tensor
    lengths: torch.Tensor
    prompts: torch.Tensor
    kinds: torch.Tensor

    def to(self, device: str) -> "Tokens":
        """A copy on the device."""
        return Tokens(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))

    def __len__(self) -> int:
        return len(self.starts)


def store(pairs: Iterable[tuple[list[int], list[int]]], kinds: list[Kind]) -> Tokens:
    """Tokens from (prompt tokens, completion tokens) pairs, each cut to the largest width."""
    flat, lengths, prompts = array("i"), array("q"), array("q")
    for prompt, rest in pairs:
        whole = (prompt + rest)[: WIDTHS[-1]]
        flat.extend(whole)
        lengths.append(len(whole))
        prompts.append(min(len(prompt), WIDTHS[-1]))
    sizes = torch.tensor(lengths)
    starts = sizes.cumsum(0) - sizes
    tokens = torch.frombuffer(flat, dtype=torch.int32)
    return Tokens(tokens, starts, sizes, torch.tensor(prompts), torch.tensor(kinds))


def _encoded(tokenizer: Any, examples: list[Example]) -> Iterator[tuple[list[int], list[int]]]:
    fast, end = tokenizer.backend_tokenizer, [tokenizer.eos_token_id]
    fast.no_padding()  # a padded call leaves its setting behind
    for first in range(0, len(examples), ENCODED_AT_ONCE):
        part = examples[first : first + ENCODED_AT_ONCE]
        prompts = fast.encode_batch_fast([e.prompt for e in part])
        rests = fast.encode_batch_fast([e.completion for e in part], add_special_tokens=False)
        for example, prompt, rest in zip(part, prompts, rests, strict=True):
            yield prompt.ids, rest.ids + end if example.completion else []


def encode(tokenizer: Any, examples: list[Example]) -> Tokens:
    """<bos> prompt completion <eos>; an example without a completion has no <eos> either."""
    return store(_encoded(tokenizer, examples), [e.kind for e in examples])


def plan(tokens: Tokens, order: list[int], budget: int, seed: int) -> list[tuple[int, list[int]]]:
    """Batches as (width, example numbers), about `budget` tokens each, in random order."""
    rng = random.Random(seed)
    order = list(order)
    rng.shuffle(order)
    lengths = tokens.lengths.tolist()
    width_of = [next(w for w in WIDTHS if w >= n) for n in lengths]
    shelves: dict[int, list[int]] = {width: [] for width in WIDTHS}
    batches = []
    for index in order:
        shelf = shelves[width_of[index]]
        shelf.append(index)
        if len(shelf) * width_of[index] >= budget:
            batches.append((width_of[index], list(shelf)))
            shelf.clear()
    batches += [(width, shelf) for width, shelf in shelves.items() if shelf]
    rng.shuffle(batches)
    return batches


@dataclass
class Batch:
    """ids: (B, T) int64 padded on the right; labels: (B, T), -100 where padded.

    in_prompt: (B, T) bool; kinds: (B,) int64.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    in_prompt: torch.Tensor
    kinds: torch.Tensor

    @property
    def completes(self) -> torch.Tensor:
        """(B, T-1) bool: the positions whose next token belongs to a completion."""
        return (self.labels[:, 1:] != IGNORED) & ~self.in_prompt[:, 1:]


def batch(tokens: Tokens, width: int, rows: list[int], pad: int) -> Batch:
    """The examples with these numbers, side by side."""
    device = tokens.flat.device
    index = torch.tensor(rows, device=device)
    position = torch.arange(width, device=device)
    inside = position < tokens.lengths[index, None]
    where = (tokens.starts[index, None] + position).clamp(max=len(tokens.flat) - 1)
    ids = torch.where(inside, tokens.flat[where].long(), pad)
    labels = torch.where(inside, ids, IGNORED)
    return Batch(ids, labels, position < tokens.prompts[index, None], tokens.kinds[index])


def corrupt(item: Batch, top: float) -> torch.Tensor:
    """(B, T) ids with up to a share of `top` of the functions' prompt tokens replaced at random.

    The special tokens stay, so that the template holds.
    """
    ids, noisy = item.ids, item.kinds != Kind.CODE
    share = torch.rand(len(ids), 1, device=ids.device) * top * noisy[:, None]
    hit = (torch.rand(ids.shape, device=ids.device) < share) & item.in_prompt
    hit &= ids >= len(SPECIAL_TOKENS)
    return torch.where(hit, torch.randint_like(ids, len(SPECIAL_TOKENS), VOCABULARY), ids)
