"""What is special about Whisper's family: which models go together, and how they are asked.

OpenAI trained the multilingual models up to large-v2 on one vocabulary and 80 mel bins, those whose names
end in .en on another vocabulary, and from large-v3 on a third, with one more language and 128 mel bins.
A draft must share all of that with its target.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specbench.errors import InputError, nearest

MULTILINGUAL, ENGLISH, V3 = "multilingual", "English", "large-v3"
_SAYS = {
    MULTILINGUAL: "51865 tokens, 80 mel bins",
    ENGLISH: "English's own 51864 tokens, 80 mel bins",
    V3: "51866 tokens, one more language than before, and 128 mel bins",
}
_EXAMPLES = {
    MULTILINGUAL: "whisper-large-v2/whisper-tiny",
    ENGLISH: "whisper-small.en/distil-small.en",
    V3: "whisper-large-v3/distil-large-v3",
}
_OPENAI = {
    MULTILINGUAL: ("tiny", "base", "small", "medium", "large-v2"),
    ENGLISH: ("tiny.en", "base.en", "small.en", "medium.en"),
    V3: ("large-v3", "large-v3-turbo"),
}
_DISTILLED = {
    MULTILINGUAL: ("large-v2",),
    ENGLISH: ("small.en", "medium.en"),
    V3: ("large-v3", "large-v3.5"),
}


@dataclass(frozen=True)
class Member:
    """A model of the family.

    Attributes:
        repository: on the hub.
        group: members of one group share vocabulary and mel bins.
    """

    repository: str
    group: str


def _family() -> dict[str, Member]:
    found = {
        "whisper-large": Member("openai/whisper-large-v2", MULTILINGUAL),
        "whisper-large-v1": Member("openai/whisper-large", MULTILINGUAL),
    }
    for group, names in _OPENAI.items():
        found |= {f"whisper-{name}": Member(f"openai/whisper-{name}", group) for name in names}
    for group, names in _DISTILLED.items():
        found |= {
            f"distil-{name}": Member(f"distil-whisper/distil-{name}", group) for name in names
        }
    return found


FAMILY: Mapping[str, Member] = _family()
"""By the names that pairs are called by; whisper-large is large-v2."""

LISTED = (
    "whisper-large/whisper-tiny",
    "whisper-large-v2/distil-large-v2",
    "whisper-medium/whisper-base",
    "whisper-small.en/distil-small.en",
    "whisper-large-v3/distil-large-v3",
)
"""Pairs to be shown; any two of one group are a pair."""


def repositories(pair: str) -> tuple[str, str] | None:
    """Target's and draft's repository of a pair such as "whisper-large/whisper-tiny".

    None if neither name is of the family.

    Raises:
        InputError: one of the names is unknown, or the two do not go together.
    """
    names = pair.split("/")
    if len(names) != 2 or not all(name.startswith(("whisper-", "distil-")) for name in names):
        return None
    for name in names:
        if name not in FAMILY:
            raise InputError(
                f"pair {pair!r}: {name} is no model of Whisper's family that is known here",
                f"{nearest(name, FAMILY)}Known are {', '.join(FAMILY)}. Or give two models: "
                "TARGET+DRAFT.",
            )
    target, draft = (FAMILY[name] for name in names)
    if target.group != draft.group:
        raise InputError(
            f"pair {pair!r} cannot be: {names[0]} has {_SAYS[target.group]}; {names[1]} has "
            f"{_SAYS[draft.group]}",
            "A draft must hear and spell as its target does. Give, for instance, "
            f"{_EXAMPLES[target.group]} or {_EXAMPLES[draft.group]}.",
        )
    return target.repository, draft.repository


def is_speech(model: str) -> bool:
    """Whether a local folder's config.json, or a repository of the family, is of a speech model.

    Of another repository nobody is asked: it counts as none.
    """
    if model in {member.repository for member in FAMILY.values()}:
        return True
    try:
        config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("model_type") == "whisper"


ENGLISH_VOCABULARY = 51864
"""Tokens of the models for English alone; those that know more languages have more."""


def prompt(name: str, model: Any, tokenizer: Any) -> tuple[int, ...]:
    """The decoder's first tokens: start, English and transcription where it knows more, no timestamps.

    As transformers' `generate(language="en", task="transcribe")` begins. Which tokens these are, the
    generation configuration says, or in older folders the tokenizer. A model that was not made of
    OpenAI's may know none but the start.

    Raises:
        InputError: it has no start.
    """
    settings, known = model.generation_config, tokenizer.get_vocab()
    start = getattr(settings, "decoder_start_token_id", None)
    if start is None:
        start = getattr(model.config, "decoder_start_token_id", None)
    if start is None:
        raise InputError(
            f"{name} does not say with which token its decoder starts",
            "Give decoder_start_token_id in its generation_config.json.",
        )
    languages = getattr(settings, "lang_to_id", None) or {}
    tasks = getattr(settings, "task_to_id", None) or {}
    tokens: list[int | None] = [int(start)]
    if languages or model.config.vocab_size > ENGLISH_VOCABULARY:
        tokens += [languages.get("<|en|>", known.get("<|en|>")),
                   tasks.get("transcribe", known.get("<|transcribe|>"))]  # fmt: skip
    silent = getattr(settings, "no_timestamps_token_id", None)
    tokens.append(known.get("<|notimestamps|>") if silent is None else int(silent))
    return tuple(token for token in tokens if token is not None)


def suppressed(generation_config: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids that the model must never say, and ids that it must not say first."""
    return tuple(
        tuple(int(token) for token in getattr(generation_config, name, None) or ())
        for name in ("suppress_tokens", "begin_suppress_tokens")
    )  # type: ignore[return-value]


def check_hearing(pair: str, configs: Sequence[Any]) -> None:
    """Makes sure that two configurations are of models that hear alike.

    Raises:
        InputError: their mel bins or windows differ.
    """
    heard = [(config.num_mel_bins, config.max_source_positions) for config in configs]
    if heard[0] != heard[1]:
        (bins, frames), (others, more) = heard
        raise InputError(
            f"pair {pair!r}: target and draft do not hear alike ({bins} and {others} mel bins, windows "
            f"of {2 * frames} and {2 * more} frames)",
            "Take a draft of the target's family.",
        )


def check_extractors(pair: str, extractors: Sequence[Any], configs: Sequence[Any]) -> None:
    """Makes sure that a pair's two models hear alike, and what their extractors give them.

    Raises:
        InputError: their mel bins, sampling rates or windows differ.
    """
    check_hearing(pair, configs)
    for extractor, config in zip(extractors, configs, strict=True):
        given = extractor.feature_size, extractor.nb_max_frames
        wanted = config.num_mel_bins, 2 * config.max_source_positions
        if given != wanted:
            raise InputError(
                f"pair {pair!r}: preprocessor_config.json gives {given[0]} mel bins and windows of "
                f"{given[1]} frames, and the model hears {wanted[0]} and {wanted[1]}",
                "Take the preprocessor_config.json that belongs to the model.",
            )
    heard = [(one.feature_size, one.sampling_rate, one.n_fft, one.hop_length, one.n_samples)
             for one in extractors]  # fmt: skip
    if heard[0] != heard[1]:
        (bins, _, _, _, samples), (others, rate, _, _, more) = heard
        raise InputError(
            f"pair {pair!r}: target and draft do not hear alike ({bins} and {others} mel bins, windows "
            f"of {samples / rate:g} and {more / rate:g} s)",
            "Take a draft of the target's family.",
        )


def share_encoder(target: Any, draft: Any, trust_shapes: bool = False) -> bool:
    """Gives the draft the target's encoder where the two are the same, as in a distilled decoder.

    Args:
        trust_shapes: an equal shape and dtype is enough, for weights that are random or not there; else
            the weights must be equal.

    Returns:
        whether they are the same.
    """
    ours, theirs = (model.get_encoder() for model in (target, draft))
    weights = [dict(one.named_parameters()) for one in (ours, theirs)]
    shapes = [{name: (one.shape, one.dtype) for name, one in some.items()} for some in weights]
    # A number of two dtypes may be equal, but a decoder cannot work on the other one's.
    same = shapes[0] == shapes[1] and (
        trust_shapes
        or all(bool((one == weights[1][name]).all()) for name, one in weights[0].items())
    )
    if same:
        draft.model.encoder = ours
    return same
