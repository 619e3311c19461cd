"""Speech recognition: an utterance in, its words out; word error rate after Whisper's normaliser."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from specbench.tasks.base import PromptStyle, Sample, Score
from specbench.tasks.speech_sets import find_speech_set


class SpeechRecognition:
    """Utterances with transcripts: the embedded ones, a data set of the hub, or a folder.

    Args:
        dataset: "demo" or None for the embedded utterances, a name of `speech_sets.HUB_SETS`, or the
            path of a folder (see `speech_sets.SpeechFolder`).

    Raises:
        InputError: it is none of these.
    """

    name = "asr"
    summary = "speech -> text; word error rate (WER) after Whisper's normaliser"

    def __init__(self, dataset: str | None = None) -> None:
        self.dataset = dataset or "demo"
        self._utterances = find_speech_set(self.dataset)
        self._spelling: Mapping[str, str] = {}

    def check_available(self) -> None:
        """Makes sure that the utterances can be had, before any model is loaded.

        Raises:
            InputError: a folder lacks transcripts or audio, or a file's header is damaged; there is no
                such data set.
            MachineError: the hub cannot be reached, or the data set is gated.
        """
        self._utterances.check_available()

    def samples(self, prompt_style: PromptStyle = "instruction") -> list[Sample]:
        """All utterances in a fixed order; a model of speech has no prompt, whatever the style.

        Of a hub set that is the whole split, some hundred megabytes: `pick` takes less.

        Raises:
            InputError, MachineError: as `check_available`.
        """
        return self._utterances.samples()

    def fingerprint(self) -> str:
        """The set's name; of a folder its own, and a digest that tells it from others of that name."""
        return self._utterances.fingerprint()

    def pick(
        self,
        count: int,
        seed: int,
        prompt_style: PromptStyle = "instruction",
        longest: float | None = None,
    ) -> list[Sample]:
        """`count` utterances without repetition; a larger count begins with the smaller one's.

        Args:
            prompt_style: of no consequence.
            longest: seconds; what is longer is left out of a hub's set, and stays in a folder's, whose
                owner can split it.

        Raises:
            InputError: there are fewer.
            InputError, MachineError: as `check_available`.
        """
        return self._utterances.pick(count, seed, longest)

    def use_spelling(self, spelling: Mapping[str, str]) -> None:
        """Has `score` write British words the American way before it compares.

        Args:
            spelling: the American form of each British one. Whisper's own table comes with each of its
                tokenizers (`english_spelling_normalizer`, from normalizer.json), and transformers ships
                it nowhere else: without a call of this, "colour" for "color" is an error.
        """
        self._spelling = dict(spelling)
        self.__dict__.pop("_normaliser", None)

    def normalise(self, text: str) -> str:
        """Text as it is compared: Whisper's English rules for case, punctuation, numbers, titles,
        contractions and hesitations, and the spelling of `use_spelling`."""
        return " ".join(self._normaliser(text).split())

    def score(self, hypothesis: str, sample: Sample) -> Score:
        """Word error rate by jiwer.

        The weight is the reference's number of words, so the weighted mean is the corpus WER: all errors
        over all words. `metrics` aggregate by the same weight: "substitutions", "deletions" and
        "insertions" per word, which add up to "wer"; "character_errors" and "characters" per word: the
        corpus CER is the ratio of their means.

        An utterance that has no words to be wrong, such as a lone "um", has no value and weight 0.
        """
        import jiwer

        reference, heard = self.normalise(sample.reference), self.normalise(hypothesis)
        count = len(reference.split())
        if not count:
            return Score("wer", None, 0.0, None)
        words = jiwer.process_words(reference, heard)
        characters = jiwer.process_characters(reference, heard)
        metrics = {
            "wer": _errors(words) / count,
            "substitutions": words.substitutions / count,
            "deletions": words.deletions / count,
            "insertions": words.insertions / count,
            "character_errors": _errors(characters) / count,
            "characters": len(reference) / count,
        }
        return Score("wer", metrics["wer"], float(count), metrics)

    @cached_property
    def _normaliser(self) -> Any:
        from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

        return EnglishTextNormalizer(self._spelling)


def _errors(counts: Any) -> int:
    """Edits between a reference and what was heard, of jiwer's output for words or characters."""
    return int(counts.substitutions + counts.deletions + counts.insertions)
