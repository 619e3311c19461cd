"""A pair of models so small that a test can load and decode them, and quiet surroundings.

The environment is set before torch and huggingface_hub are imported: one thread for each xdist worker,
and no test ever asks the network.
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# A shared machine has slow moments, and a failure must come again on the next machine.
settings.register_profile("specbench", deadline=None, derandomize=True)
# `pytest --hypothesis-profile=full`: other inputs each time, and many more.
settings.register_profile("full", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile("specbench")

SPECIAL = ["<pad>", "<s>", "</s>"]


@dataclass(frozen=True)
class TinyPair:
    """Two folders in transformers' layout, and the name that `--pair` takes."""

    target: Path
    draft: Path

    @property
    def name(self) -> str:
        return f"{self.target}+{self.draft}"

    @property
    def twins(self) -> str:
        """The target as its own draft."""
        return f"{self.target}+{self.target}"


def byte_tokenizer(extra: Sequence[str] = ()) -> Any:
    """Every byte is a token, after three special ones; `extra` adds more."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    entries = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *extra]
    tokenizer = Tokenizer(
        models.BPE(vocab={entry: i for i, entry in enumerate(entries)}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    pad, bos, eos = SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, bos_token=bos, eos_token=eos
    )


def save_model(
    folder: Path, layers: int, hidden: int, seed: int, extra: Sequence[str] = (), **config: Any
) -> Path:
    """A Llama of random weights, wide enough apart that its logits are not flat."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = byte_tokenizer(extra)
    torch.manual_seed(seed)
    chosen = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=2 * hidden,
        num_hidden_layers=layers, num_attention_heads=2, max_position_embeddings=4096,
        initializer_range=0.25, pad_token_id=0, bos_token_id=1, eos_token_id=2, **config,
    )  # fmt: skip
    LlamaForCausalLM(chosen).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_pair(tmp_path_factory: pytest.TempPathFactory) -> TinyPair:
    root = tmp_path_factory.mktemp("tiny")
    return TinyPair(
        save_model(root / "target", layers=2, hidden=32, seed=1),
        save_model(root / "draft", layers=1, hidden=16, seed=2),
    )


@pytest.fixture(scope="session")
def save_tiny() -> Callable[..., Path]:
    """`save_model`, for tests that need a model of their own."""
    return save_model


@pytest.fixture
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Does not wait for the disk at each part."""
    from specbench.report import atomic

    monkeypatch.setattr(atomic, "_sync", lambda path: None)
