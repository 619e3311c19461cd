"""What a case needs of the device's memory, from shapes alone: an impossible batch is refused before
gigabytes are loaded for it.

Weights, caches and logits are exact. What a forward holds besides is an estimate that met the peak of
`torch.cuda.max_memory_allocated` within 3 % in 24 cases of text with drafts on an H100 (the files of
bass, attention and engine-vs-transformers in results/reference, 16.7 to 54.9 GB; γ = 0 has the memory of
the cases beside it). A speech pair that went through 22 γ and five methods took 0.8 GB more than the 3.5
that are reckoned (whisper-gamma-h100): all of its graphs stay. The allocator's own waste comes on top, so
a case that passes may still run out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from specbench.architectures import (
    configuration,
    count_encoder_parameters,
    count_parameters,
    dummy_dtype,
)
from specbench.engine.workspace import hearing_width, prefill_width, rounded
from specbench.errors import InputError, MachineError
from specbench.pairs import LoadFormat, PairSpec
from specbench.sampling.policy import make_policy
from specbench.scenario import Case

CAPPED_BYTES = 8
"""Of a capped score: itself, its softmax in float32, and that in the model's dtype."""


@dataclass(frozen=True)
class Shape:
    """What of a model takes memory.

    Attributes:
        parameters: tied embeddings counted once.
        layers, key_value_heads, head_size: of its attention.
        vocabulary: rows of its output embedding.
        itemsize: bytes of a number.
        width: numbers that a forward holds for each token: three rows of the feed-forward layer (gate, up
            and their product) and six of the residual stream.
        encoder: of a speech model, what two encoders must have in common to be one; None: it reads.
        encoder_parameters: those of the parameters that are its encoder's.
        frames: of the encoder's output, which the decoder's layers keep keys and values of.
        capped_heads: query heads whose scores lie in memory, because the model caps them.
    """

    parameters: int
    layers: int
    key_value_heads: int
    head_size: int
    vocabulary: int
    itemsize: int
    width: int
    encoder: tuple[int, ...] | None = None
    encoder_parameters: int = 0
    frames: int = 0
    capped_heads: int = 0

    @property
    def weight_bytes(self) -> int:
        """Of the parameters."""
        return self.parameters * self.itemsize

    def cache_bytes(self, batch_size: int, capacity: int) -> int:
        """Of keys and values; one slot more than the capacity takes what is written nowhere.

        A layer with a sliding window keeps all positions too, those behind it included.
        """
        numbers = 2 * self.layers * self.key_value_heads * self.head_size
        return numbers * self.itemsize * (capacity + 1 + self.frames) * batch_size

    def activation_bytes(self, tokens: int, capacity: int) -> int:
        """Of a forward of so many tokens, all sequences' together, which attend to so many slots."""
        scores = CAPPED_BYTES * self.capped_heads * capacity
        return (self.width * self.itemsize + scores) * tokens


@dataclass(frozen=True)
class Memory:
    """Bytes that a case needs."""

    weights: int
    cache: int
    logits: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.logits + self.activations

    def __str__(self) -> str:
        return (
            f"{_gb(self.total)}: weights {_gb(self.weights)}, "
            f"key-value caches {_gb(self.cache)}, logits {_gb(self.logits)}, "
            f"activations {_gb(self.activations)}"
        )


def capacity(case: Case) -> int:
    """Slots that a sequence's cache needs: prompt, new tokens and drafts, up to the next multiple of 64.

    A text's length is unknown without its tokenizer and counts as 0.
    """
    longest = max(case.prompt_tokens or (0,))
    wanted = longest + case.max_new_tokens + make_policy(case.gamma).limit
    return rounded(wanted)


def needed(case: Case, target: Shape, draft: Shape) -> Memory:
    """What a case needs: both models, their caches, and the logits of a step.

    The logits are γ + 1 rows of the target and γ of the draft for each sequence. γ is the largest that
    the case's policy may ask for; at γ = 0 the draft model has no cache. The largest forward is that of
    a piece of the prompts, or of a whole one where transformers feeds it.
    """
    gamma, slots = make_policy(case.gamma).limit, capacity(case)
    caches = target.cache_bytes(case.batch_size, slots)
    if gamma:
        caches += draft.cache_bytes(case.batch_size, slots)
    vocabulary = min(target.vocabulary, draft.vocabulary)
    logits = case.batch_size * (2 * gamma + 1) * vocabulary * target.itemsize
    longest = max(case.prompt_tokens or (0,))
    piece = longest if case.engine == "transformers" else prefill_width(case.batch_size)
    fed = case.batch_size * max(gamma + 1, min(longest, piece))
    fed = max(fed, min(case.batch_size, hearing_width(target.frames)) * target.frames)
    weights = target.weight_bytes + draft.weight_bytes
    if target.encoder and target.encoder == draft.encoder:
        weights -= draft.encoder_parameters * draft.itemsize  # one hears for both
    return Memory(weights, caches, logits, target.activation_bytes(fed, slots))


def check_fits(
    spec: PairSpec, cases: Iterable[Case], device: torch.device, load_format: LoadFormat
) -> None:
    """Makes sure that no case of a pair needs more memory than the device has.

    Pairs of the hub, and stored ones on a CPU, are not checked; nor is a folder whose config.json cannot
    be read, which loading will say better.

    Raises:
        MachineError: one does, with the numbers.
    """
    local = all(Path(model).is_dir() for model in (spec.target, spec.draft))
    if load_format == "auto" and (device.type == "cpu" or not local):
        return
    available = device_bytes(device)
    for case in cases:
        if case.skip or case.pair != spec.name or available is None:
            continue
        try:
            target, draft = (
                shape(model, case.dtype, device.type, load_format)
                for model in (spec.target, spec.draft)
            )
        except InputError:
            return
        memory = needed(case, target, draft)
        if memory.total > available:
            raise MachineError(
                f"{spec.name} with a batch of {case.batch_size} and γ = {case.gamma} needs "
                f"{memory}; {device} has {_gb(available)}",
                "Lower batch_size, prompt_tokens, max_new_tokens or gamma, or take a smaller pair or "
                "dtype.",
            )


def device_bytes(device: torch.device) -> int | None:
    """All memory of a GPU; of a CPU what is free for use, None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found = next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
    return int(found) * 1024


@cache
def shape(model: str, dtype: str, device: str, load_format: LoadFormat) -> Shape:
    """The shape of a model as it will be loaded.

    Args:
        model: a repository with a built-in shape, or a local folder.
        dtype: as asked for, "auto" included.
        device: "cpu" or "cuda".
        load_format: random weights have a dtype of their own where none is asked for.

    Raises:
        InputError: it has no configuration of a causal language model.
    """
    config = configuration(model)
    hears = config.model_type == "whisper"
    names = ["num_attention_heads", "num_hidden_layers", "hidden_size", "vocab_size"]
    if hears:
        names[:2] = ["decoder_attention_heads", "decoder_layers"]
    heads, layers, hidden, vocabulary = (getattr(config, name, None) for name in names)
    if not (heads and layers and hidden and vocabulary):
        raise InputError(
            f"{model} is no transformer of one kind of layer: its config.json says {config.model_type}",
            "Choose a causal language model with attention in every layer.",
        )
    return Shape(
        parameters=count_parameters(config),
        layers=layers,
        key_value_heads=heads if hears else _key_value_heads(config),
        head_size=getattr(config, "head_dim", None) or hidden // heads,
        vocabulary=vocabulary,
        itemsize=_dtype(config, dtype, device, load_format).itemsize,
        width=3 * _feed_forward(config) + 6 * hidden,
        capped_heads=heads if getattr(config, "attn_logit_softcapping", None) else 0,
        **(_encoder(config) if hears else {}),
    )


def _encoder(config: Any) -> dict[str, Any]:
    names = ["encoder_layers", "encoder_attention_heads", "encoder_ffn_dim", "d_model",
             "num_mel_bins", "max_source_positions"]  # fmt: skip
    return {
        "encoder": tuple(int(getattr(config, name)) for name in names),
        "encoder_parameters": count_encoder_parameters(config),
        "frames": int(config.max_source_positions),
    }


def _key_value_heads(config: Any) -> int:
    if getattr(config, "multi_query", False) and not getattr(
        config, "new_decoder_architecture", False
    ):
        return 1  # Falcon's and BigCode's way to say it
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def _feed_forward(config: Any) -> int:
    """Width of the feed-forward layer, under the name that the architecture has for it."""
    names = ("intermediate_size", "ffn_dim", "n_inner", "decoder_ffn_dim")
    known = (getattr(config, name, None) for name in names)
    return int(next((width for width in known if width), 4 * config.hidden_size))


def _dtype(config: Any, asked: str, device: str, load_format: LoadFormat) -> torch.dtype:
    if load_format == "auto" and asked == "auto" and device != "cpu":
        stored: torch.dtype = config.dtype or torch.float32
        return stored
    chosen: torch.dtype = getattr(torch, dummy_dtype(asked, device))
    return chosen


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
