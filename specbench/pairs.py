"""Pairs of a target and a draft model: which there are, whether they can be had, and loading them.

A pair is a name of the registry, or `TARGET+DRAFT` where each is a local folder in transformers'
layout or the name of a hub repository. With the load format "dummy" only the shapes are real: nothing is
read but configurations, and the hub is not asked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from specbench import whisper
from specbench.architectures import BASS_DRAFT, BASS_TARGET, configuration, dummy_model
from specbench.assets import demo_dir
from specbench.errors import InputError, MachineError, given_path, unknown_name
from specbench.tasks.base import PairKind, PromptStyle, Sample

LoadFormat = Literal["auto", "dummy"]
"""Weights as stored, or random ones of the same shape."""


@dataclass(frozen=True)
class PairSpec:
    """Two models by name.

    Attributes:
        prompt_style: how tasks must talk to them.
        kind: "speech" hears, "text" reads; None if only the models' own files say.
        published: whether anybody can have the weights; if not, only the shapes are known.
        chats: whether the target was trained to answer in its tokenizer's chat template; None: if there
            is one. Qwen's base models have one too.
    """

    name: str
    target: str
    draft: str
    summary: str
    prompt_style: PromptStyle = "instruction"
    kind: PairKind | None = "text"
    published: bool = True
    chats: bool | None = None


_HUB = (
    (
        "llama-2-7b/sheared-llama-1.3b",
        "meta-llama/Llama-2-7b-hf",
        "princeton-nlp/Sheared-LLaMA-1.3B",
    ),
    (
        "llama-2-13b/sheared-llama-1.3b",
        "meta-llama/Llama-2-13b-hf",
        "princeton-nlp/Sheared-LLaMA-1.3B",
    ),
    ("llama-3.1-8b/llama-3.2-1b", "meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.2-1B"),
    (
        "llama-3.1-8b-instruct/llama-3.2-1b-instruct",
        "meta-llama/Llama-3.1-8B-Instruct",
        "meta-llama/Llama-3.2-1B-Instruct",
    ),
    ("qwen1.5-7b/qwen1.5-0.5b", "Qwen/Qwen1.5-7B", "Qwen/Qwen1.5-0.5B"),
    ("qwen2.5-7b/qwen2.5-0.5b", "Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-0.5B"),
    (
        "qwen2.5-7b-instruct/qwen2.5-0.5b-instruct",
        "Qwen/Qwen2.5-7B-Instruct",
        "Qwen/Qwen2.5-0.5B-Instruct",
    ),
    ("qwen3-8b/qwen3-0.6b", "Qwen/Qwen3-8B", "Qwen/Qwen3-0.6B"),
    ("qwen3-8b-base/qwen3-0.6b-base", "Qwen/Qwen3-8B-Base", "Qwen/Qwen3-0.6B-Base"),
    ("gemma-7b/gemma-2b", "google/gemma-7b", "google/gemma-2b"),
    ("gemma-2-9b/gemma-2-2b", "google/gemma-2-9b", "google/gemma-2-2b"),
    ("gemma-2-9b-it/gemma-2-2b-it", "google/gemma-2-9b-it", "google/gemma-2-2b-it"),
    ("gemma-3-12b-it/gemma-3-1b-it", "google/gemma-3-12b-it", "google/gemma-3-1b-it"),
    ("opt-13b/opt-125m", "facebook/opt-13b", "facebook/opt-125m"),
    (
        "codegen-16b-mono/codegen-350m-mono",
        "Salesforce/codegen-16B-mono",
        "Salesforce/codegen-350M-mono",
    ),
)


_CHATS = {name for name, *_ in _HUB if name.endswith(("-instruct", "-it"))}
_CHATS.add("qwen3-8b/qwen3-0.6b")
"""Of these the targets that were trained to chat."""


def pair_specs() -> dict[str, PairSpec]:
    """The registry: the embedded pairs, those of the hub, and one of which only the sizes are public."""
    demo = PairSpec(
        "demo-lm",
        str(demo_dir() / "lm" / "target"),
        str(demo_dir() / "lm" / "draft"),
        "embedded: Llama architecture, 7.0 M and 0.87 M parameters; no network",
        "demo",
    )
    speech = PairSpec(
        "demo-asr",
        str(demo_dir() / "asr" / "target"),
        str(demo_dir() / "asr" / "draft"),
        "embedded: Whisper architecture, 6.0 M and 0.82 M parameters; no network",
        kind="speech",
    )
    hub = [
        PairSpec(name, target, draft, f"hub: {target} + {draft}", chats=name in _CHATS)
        for name, target, draft in _HUB
    ]
    bass = PairSpec(
        f"{BASS_TARGET}/{BASS_DRAFT}",
        BASS_TARGET,
        BASS_DRAFT,
        "sizes of BASS's private code models (2404.15778); --load-format dummy only",
        published=False,
    )
    family = [_whisper_pair(name) for name in whisper.LISTED]
    return {spec.name: spec for spec in [demo, speech, *hub, *family, bass] if spec}


def _whisper_pair(name: str) -> PairSpec | None:
    found = whisper.repositories(name)
    return found and PairSpec(name, *found, f"hub: {' + '.join(found)}", kind="speech")


def get_pair(name: str) -> PairSpec:
    """The pair of that name, or the ad-hoc pair `TARGET+DRAFT`.

    Raises:
        InputError: neither; the nearest name is suggested.
    """
    known = pair_specs()
    if name in known:
        return known[name]
    if (speech := _whisper_pair(name)) is not None:
        return speech
    target, plus, draft = name.partition("+")
    if not plus:
        error = unknown_name("pair", name, known)
        raise InputError(error.message, f"{error.hint} Or give two models: TARGET+DRAFT.")
    if not target or not draft:
        raise InputError(f"pair {name!r} names one model", "Give two: TARGET+DRAFT.")
    for model in (target, draft):
        if model in known and not given_path(model).is_dir():
            raise InputError(
                f"pair {name!r}: {model} is a pair, not a model",
                f"Give --pair {model}, or two models: folders or repositories of the hub.",
            )
    # The shell leaves the tilde behind a plus sign alone.
    return PairSpec(name, str(given_path(target)), str(given_path(draft)), "ad hoc", kind=None)


def pair_kind(spec: PairSpec) -> PairKind:
    """Whether a pair hears or reads.

    Raises:
        InputError: one model hears and the other reads.
    """
    if spec.kind is not None:
        return spec.kind
    speech = [whisper.is_speech(_folder(model)) for model in (spec.target, spec.draft)]
    if speech[0] != speech[1]:
        raise InputError(
            f"pair {spec.name!r}: {spec.target if speech[0] else spec.draft} is a speech model and the "
            "other is none",
            "Give two of a kind.",
        )
    return "speech" if speech[0] else "text"


def _folder(model: str) -> str:
    """Where a repository's configuration lies, once it has been fetched; a folder is that itself."""
    if Path(model).is_dir():
        return model
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, "config.json")
    return str(Path(found).parent) if isinstance(found, str) else model


def check_available(spec: PairSpec, load_format: LoadFormat = "auto") -> None:
    """Makes sure that both models can be had, before anything is loaded.

    Raises:
        InputError: a local folder holds no model, there is no such repository, or the weights are not
            public; for dummies: the shape is not known.
        MachineError: the hub cannot be reached, or the repository is gated.
    """
    if load_format == "dummy":
        shapes = [configuration(model) for model in (spec.target, spec.draft)]
        if all(shape.model_type == "whisper" for shape in shapes):
            whisper.check_hearing(spec.name, shapes)
        return
    if not spec.published:
        raise InputError(
            f"pair {spec.name!r}: its weights are not public, only its shape is known",
            "Give --load-format dummy --task synthetic: random weights of that shape.",
        )
    for model in (spec.target, spec.draft):
        if Path(model).is_dir():
            if not (Path(model) / "config.json").is_file():
                raise InputError(
                    f"pair {spec.name!r}: the folder {model} holds no config.json",
                    "Give a folder written by save_pretrained().",
                )
        elif model.startswith((".", "/", "~")):
            raise InputError(f"pair {spec.name!r}: there is no folder {model}", "Check the path.")
        else:
            _check_hub(spec, model)


def _check_hub(spec: PairSpec, model: str) -> None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
    )

    where = f"pair {spec.name!r}: {model}"
    try:
        hf_hub_download(model, "config.json", local_files_only=not _hub_answers())
    except GatedRepoError:
        raise MachineError(
            f"{where} is gated",
            f"Accept its licence at https://huggingface.co/{model}, then log in: hf auth login",
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise InputError(
            f"{where} is neither a local folder nor a repository on the hub",
            "Check the name; a private repository needs: hf auth login",
        ) from None
    except RemoteEntryNotFoundError:
        raise InputError(
            f"{where} is a repository with no config.json",
            "Choose one in transformers' layout.",
        ) from None
    except OSError:
        raise _not_here(f"{where} is not on this machine", model) from None


def _not_here(what: str, model: str) -> MachineError:
    return MachineError(
        f"{what} and the hub cannot be reached",
        f"Where there is a network run `hf download {model}` and point HF_HOME to that cache, "
        "give local folders as --pair TARGET+DRAFT, time random weights of its shape with "
        "--load-format dummy, or use --pair demo-lm, or demo-asr to hear, which are embedded.",
    )


@cache
def _hub_answers() -> bool:
    """One request. Left to itself, huggingface_hub retries for half a minute at every file."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:  # offline mode, no name service, no route, refused, too slow
        return False
    return True


@dataclass(frozen=True)
class Pair:
    """A loaded pair.

    Attributes:
        target, draft: transformers models in eval mode, on one device.
        tokenizer: the one both share; None if the weights are random.
        eos_tokens: ids that end a sequence; none if the weights are random.
        kind: "speech" hears, "text" reads.
        extractor: of a speech pair, from sound to features; None if the weights are random.
        suppressed: ids that are never said, and ids that are not said first.
        speech_prompt: the decoder's first tokens.
        chats: whether questions are asked in the tokenizer's chat template.
    """

    spec: PairSpec
    target: Any
    draft: Any
    tokenizer: Any
    eos_tokens: tuple[int, ...]
    kind: PairKind = "text"
    extractor: Any = None
    suppressed: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    speech_prompt: tuple[int, ...] = ()
    chats: bool = False

    def prompt(self, sample: Sample) -> tuple[int, ...]:
        """Token ids of a sample's prompt: its text's, or random ones if the sample has but a length.

        A pair that chats is asked the sample's question, if it has one, up to where the answer begins.
        Random ids are uniform over what both models know, but for end tokens, and depend on the
        sample's id alone: a longer prompt of the same id begins with the shorter one.
        """
        if sample.prompt_length is None:
            if self.kind == "speech":
                return self.speech_prompt
            if self.chats and sample.question:
                return self._in_chat(sample.question)
            return self.encode(sample.prompt)
        seed = hashlib.sha256(sample.sample_id.encode()).digest()[:8]
        ends = sorted(end for end in set(self.eos_tokens) if end < self.shared_vocabulary)
        ids = np.random.default_rng(int.from_bytes(seed, "big")).integers(
            self.shared_vocabulary - len(ends), size=sample.prompt_length
        )
        for end in ends:  # smallest first: each opens a gap
            ids += ids >= end
        return tuple(ids.tolist())

    def features(self, sample: Sample) -> Any:
        """What a speech pair hears: log-mel features, float32 (mel bins, frames). None if it reads.

        Noise, which depends on the sample's id alone, if the sample is but a length.

        Raises:
            InputError: the sound cannot be read.
        """
        import torch

        if self.kind == "text":
            return None
        if sample.audio is None:
            config = self.target.config
            seed = hashlib.sha256(sample.sample_id.encode()).digest()[:7]
            noise = torch.Generator().manual_seed(int.from_bytes(seed, "big"))
            return torch.randn(
                config.num_mel_bins, 2 * config.max_source_positions, generator=noise
            )
        found = self.extractor(
            sample.audio.load(), sampling_rate=self.extractor.sampling_rate, return_tensors="pt"
        )
        return found["input_features"][0]

    @property
    def shared_vocabulary(self) -> int:
        """Ids that are tokens to both models; what pads an embedding is none."""
        rows = [len(model.get_output_embeddings().weight) for model in (self.target, self.draft)]
        return min(rows if self.tokenizer is None else [*rows, len(self.tokenizer)])

    def encode(self, prompt: str) -> tuple[int, ...]:
        """Token ids of a prompt, with the tokenizer's own special tokens."""
        return tuple(self.tokenizer(prompt)["input_ids"])

    def _in_chat(self, question: str) -> tuple[int, ...]:
        """The template writes the special tokens, the first one too: the tokenizer must not add it again.

        Models that can think aloud are told not to, where their template knows of that.
        """
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,
        )
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def continuation(self, prompt: Sequence[int], tokens: Sequence[int]) -> str:
        """Text of generated tokens as it goes on behind the prompt, white space and all.

        Decoded by themselves they might lose the first blank of an indentation: some tokenizers
        (Llama-2's) take it for the space in front of a text.
        """
        before, whole = (
            self.tokenizer.decode(
                list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            for ids in (prompt, (*prompt, *tokens))
        )
        if whole.startswith(before):
            return str(whole[len(before) :])
        return str(
            self.tokenizer.decode(
                list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of generated tokens, without special tokens and surrounding white space.

        Empty if there is no tokenizer.
        """
        if self.tokenizer is None:
            return ""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()


def with_chat_template(pair: Pair, asked: bool | None) -> Pair:
    """The pair, asked through its chat template or not.

    Args:
        asked: None: if the target was trained for one, as far as is known.
    """
    if pair.kind == "speech" or pair.tokenizer is None or pair.spec.prompt_style == "demo":
        return pair
    wanted = pair.spec.chats is not False if asked is None else asked
    return replace(pair, chats=wanted and bool(getattr(pair.tokenizer, "chat_template", None)))


def check_chat_template(spec: PairSpec) -> None:
    """Makes sure that a pair of text has a chat template, before a model is loaded.

    Raises:
        InputError: it has none, or its tokenizer cannot be loaded.
    """
    from transformers import AutoTokenizer

    if pair_kind(spec) == "speech":
        return
    if spec.prompt_style == "demo":
        raise InputError(
            f"pair {spec.name!r} has prompts of its own, and no chat template",
            "Leave out --chat-template.",
        )
    if not getattr(_from_pretrained(AutoTokenizer, spec.target), "chat_template", None):
        raise InputError(
            f"pair {spec.name!r}: the tokenizer of {spec.target} has no chat template",
            "Leave out --chat-template, or take a model that was trained to chat.",
        )


def load_pair(spec: PairSpec, device: str, dtype: str, load_format: LoadFormat = "auto") -> Pair:
    """Loads both models and their tokenizer through transformers' Auto classes.

    Args:
        device: a torch device.
        dtype: "float32", "float16", "bfloat16", or "auto": float32 on a CPU, else as stored; dummies
            are bfloat16 there.
        load_format: "dummy" makes random weights of the models' shapes on the device; then there is no
            tokenizer, and no token ends a sequence.

    Raises:
        InputError: the tokenizers differ, or a folder is not a causal language model; for dummies: the
            shape is not known.
        MachineError: the device has too little memory.
    """
    models, kind = (spec.target, spec.draft), pair_kind(spec)
    if load_format == "dummy":
        target, draft = (_dummy_model(one, device, dtype, i) for i, one in enumerate(models))
        if kind == "speech":
            whisper.share_encoder(target, draft, trust_shapes=True)
        return Pair(spec, target, draft, None, (), kind)
    tokenizer = _shared_tokenizer(spec)
    if kind == "speech":
        return _load_speech(spec, device, dtype, tokenizer)
    target, draft = (_load_model(model, device, dtype) for model in models)
    return Pair(spec, target, draft, tokenizer, _eos_tokens(target, tokenizer))


def _load_speech(spec: PairSpec, device: str, dtype: str, tokenizer: Any) -> Pair:
    extractor = audio_extractor(spec)
    target, is_whole = _load_speech_model(spec.target, device, dtype)
    if not is_whole:
        raise InputError(
            f"{spec.target} is a decoder without an encoder", "A target needs one of its own."
        )
    prompt = whisper.prompt(spec.target, target, tokenizer)
    # In one dtype, whatever they are stored in: one encoder may hear for both.
    chosen = str(target.dtype).removeprefix("torch.")
    draft, is_whole = _load_speech_model(spec.draft, device, chosen)
    shares = whisper.share_encoder(target, draft, trust_shapes=not is_whole)
    if not is_whole and not shares:
        raise InputError(
            f"{spec.draft} is a decoder without an encoder, and the target's is of another shape",
            "Take the target that it was distilled from.",
        )
    ends, silent = _eos_tokens(target, tokenizer), whisper.suppressed(target.generation_config)
    return Pair(spec, target, draft, tokenizer, ends, "speech", extractor, silent, prompt)


def audio_extractor(spec: PairSpec) -> Any:
    """From sound to the features that both models of a speech pair hear.

    Raises:
        InputError: it cannot be read, or they do not hear alike.
        MachineError: a model cannot be had; see `check_available`.
    """
    from transformers import AutoConfig, AutoFeatureExtractor

    check_available(spec)
    models = (spec.target, spec.draft)
    both = [_from_pretrained(AutoFeatureExtractor, model) for model in models]
    configs = [_from_pretrained(AutoConfig, model) for model in models]
    whisper.check_extractors(spec.name, both, configs)
    return both[0]


def _dummy_model(model: str, device: str, dtype: str, seed: int) -> Any:
    with _within_memory(model, device):
        return dummy_model(configuration(model), device, dtype, seed)


def _shared_tokenizer(spec: PairSpec) -> Any:
    from transformers import AutoTokenizer

    tokenizer, other = (
        _from_pretrained(AutoTokenizer, model) for model in (spec.target, spec.draft)
    )
    if tokenizer.get_vocab() != other.get_vocab():
        raise InputError(
            f"pair {spec.name!r}: the tokenizers differ ({len(tokenizer)} and {len(other)} entries)",
            "Speculative sampling needs a draft that speaks the target's tokens; choose one of its "
            "family.",
        )
    return tokenizer


def _load_model(model: str, device: str, dtype: str) -> Any:
    from transformers import AutoModelForCausalLM

    loaded, missing = _weights(AutoModelForCausalLM, model, device, dtype)
    _refuse_missing(model, missing)
    loaded = _text_part(model, loaded)
    with _within_memory(model, device):
        return loaded.to(device).eval()


def _text_part(name: str, model: Any) -> Any:
    """What reads and writes of a model that sees too (Gemma 3 from 4B on), as a model of its own.

    transformers loads the whole; what sees is left behind before anything is on the device.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config = model.config.get_text_config()
    if config is model.config:
        return model
    with torch.device("meta"):
        part = AutoModelForCausalLM.from_config(config, dtype=model.dtype)
    setattr(part, part.base_model_prefix, model.get_decoder())
    part.set_output_embeddings(model.get_output_embeddings())
    part.config, part.generation_config = config, model.generation_config
    if any(one.is_meta for one in (*part.parameters(), *part.buffers())):
        raise InputError(
            f"{name} has a text part that cannot be taken out of {type(model).__name__}",
            "Choose a causal language model, which reads and writes text alone.",
        )
    return part


def _load_speech_model(model: str, device: str, dtype: str) -> tuple[Any, bool]:
    """A model, and whether its folder has an encoder: a distilled one may be a decoder alone."""
    from transformers import AutoModelForSpeechSeq2Seq

    loaded, missing = _weights(AutoModelForSpeechSeq2Seq, model, device, dtype)
    encoder = {name for name in missing if ".encoder." in f".{name}"}
    _refuse_missing(model, missing - encoder)
    with _within_memory(model, device):
        return loaded.to(device).eval(), not encoder


def _weights(auto_class: Any, model: str, device: str, dtype: str) -> tuple[Any, set[str]]:
    """A model, and the names of the weights that transformers has filled with noise."""
    chosen = ("float32" if device == "cpu" else "auto") if dtype == "auto" else dtype
    loaded, report = _from_pretrained(auto_class, model, dtype=chosen, output_loading_info=True)
    return loaded, set(report["missing_keys"])


def _refuse_missing(model: str, missing: set[str]) -> None:
    if missing:
        some = ", ".join(sorted(missing)[:3])
        raise InputError(
            f"{model} cannot be loaded: its weights lack {some}", "Fetch the weights again."
        )


@contextmanager
def _within_memory(model: str, device: str) -> Iterator[None]:
    """Turns torch's complaint that a model does not fit into a sentence."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MachineError(
            f"{model} does not fit into the memory of {device}: {_first_line(error)}",
            "Take a smaller pair or dtype, or another device.",
        ) from error


def _from_pretrained(auto_class: Any, model: str, **options: Any) -> Any:
    offline = not Path(model).is_dir() and not _hub_answers()
    try:
        return auto_class.from_pretrained(model, local_files_only=offline, **options)
    except Exception as error:  # each file format and architecture complains in its own way
        if offline and isinstance(error, OSError):
            what = f"{model} cannot be loaded: its files on this machine are not whole"
            raise _not_here(what, model) from error
        raise InputError(
            f"{model} cannot be loaded: {_first_line(error)}",
            "Expected a complete causal language model, or a Whisper model, in transformers' layout: "
            "config.json, weights, tokenizer, preprocessor_config.json.",
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), repr(error))


def _eos_tokens(target: Any, tokenizer: Any) -> tuple[int, ...]:
    found = getattr(target.generation_config, "eos_token_id", None)
    if found is None:
        found = tokenizer.eos_token_id
    if found is None:
        return ()
    return tuple(found) if isinstance(found, list | tuple) else (int(found),)
