"""Utterances: planned, spoken, put side by side for training, and written as the held-out set."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch.nn.utils.rnn import pad_sequence

from specbench.demo.speech import espeak, sentences, voices
from specbench.demo.speech.acoustics import Acoustics, Conditions
from specbench.demo.speech.espeak import Pcm
from specbench.demo.speech.features import RATE, WINDOW, LogMel
from specbench.demo.speech.models import BLANK, LETTERS, PAD_ID
from specbench.demo.speech.sentences import Part, Sentence
from specbench.demo.speech.voices import Voice

IGNORED = -100
ROOM = int(0.2 * RATE)  # samples of the window that the longest voice leaves free
HELD_OUT_SECONDS = (2.0, 4.1)
HELD_OUT_CONDITIONS = Conditions(
    snr_db=(8.0, 30.0), echo_share=0.3, longest_lead=0.15, peak_db=(-22.0, -8.0)
)
SEEDS = {"training": 0, "validation": 10_000_000, "held_out": 20_000_000}


@dataclass(frozen=True)
class Utterance:
    """A sentence, who says it, and how it sounds without any noise."""

    sentence: Sentence
    voice: Voice
    pcm: Pcm

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self.pcm) / RATE


def _voices(part: Part, first_seed: int) -> Iterator[Voice]:
    """Held-out sentences are said by held-out voices and by others, in turn."""
    number = 0
    while True:
        yield voices.draw(first_seed + number, part == "held_out" and number % 2 == 0)
        number += 1


def utter(part: Part, count: int, processes: int | None = None) -> list[Utterance]:
    """The part's first `count` utterances, but for those too long for the window."""
    seed = SEEDS[part]
    spoken = list(islice(sentences.sentences(part, seed), count))
    speakers = list(islice(_voices(part, seed), count))
    requests = [(s.text, v) for s, v in zip(spoken, speakers, strict=True)]
    pcms = espeak.speak(requests, processes)
    found = map(Utterance, spoken, speakers, pcms)
    return [one for one in found if len(one.pcm) <= WINDOW - ROOM]


@dataclass
class Clips:
    """Utterances end to end.

    flat: (N,) int16, all samples; starts, lengths: (U,) int64; labels: (U, T) int64, the transcript
    with <eos>, then -100; letters: (U, L) int64, the transcript spelt, then 0; letter_counts: (U,).
    """

    flat: torch.Tensor
    starts: torch.Tensor
    lengths: torch.Tensor
    labels: torch.Tensor
    letters: torch.Tensor
    letter_counts: torch.Tensor

    def to(self, device: str) -> "Clips":
        """A copy on the device."""
        return Clips(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))

    def __len__(self) -> int:
        return len(self.starts)

    def waves(self, rows: torch.Tensor, leads: torch.Tensor) -> torch.Tensor:
        """(B, 96000) float32 in [-1, 1]: the rows' samples from `leads` (B,) on, silence around."""
        at = torch.arange(WINDOW, device=self.flat.device) - leads[:, None]
        inside = (at >= 0) & (at < self.lengths[rows, None])
        where = (self.starts[rows, None] + at).clamp(0, len(self.flat) - 1)
        return torch.where(inside, self.flat[where].float() / 32_768, 0.0)


def label_rows(tokenizer: Any, texts: list[str]) -> torch.Tensor:
    """(U, T) int64: each text's tokens with <eos> and without <start>, then -100."""
    rows = [torch.tensor(ids[1:]) for ids in tokenizer(texts)["input_ids"]]
    return pad_sequence(rows, True, IGNORED)


def spelt(text: str) -> list[int]:
    """1 to 26 for the letters, 27 for a space; 0, the blank of CTC, is none of them."""
    return [LETTERS - 1 if letter == " " else ord(letter) - ord("a") + 1 for letter in text]


def gather(utterances: list[Utterance], tokenizer: Any) -> Clips:
    """Clips of these utterances, on the CPU."""
    texts = [one.sentence.text for one in utterances]
    lengths = torch.tensor([len(one.pcm) for one in utterances])
    return Clips(
        flat=torch.from_numpy(np.concatenate([one.pcm for one in utterances])),
        starts=lengths.cumsum(0) - lengths,
        lengths=lengths,
        labels=label_rows(tokenizer, texts),
        letters=pad_sequence([torch.tensor(spelt(text)) for text in texts], True, BLANK),
        letter_counts=torch.tensor([len(text) for text in texts]),
    )


def decoder_inputs(labels: torch.Tensor, start: int) -> torch.Tensor:
    """(B, T) labels -> (B, T): <start>, then all labels but the last; padding where ignored."""
    shifted = torch.cat([torch.full_like(labels[:, :1], start), labels[:, :-1]], 1)
    return shifted.masked_fill(shifted == IGNORED, PAD_ID)


# --- as heard ------------------------------------------------------------------------------


def heard(clips: Clips, rows: torch.Tensor, acoustics: Acoustics) -> torch.Tensor:
    """(B, 96000) float32: the rows' clips through the acoustics; digital silence behind the noise."""
    leads = acoustics.leads(clips.lengths[rows])
    return acoustics(clips.waves(rows, leads), leads + clips.lengths[rows])


def fixed_features(clips: Clips, seed: int, device: str, at_once: int = 128) -> torch.Tensor:
    """(U, 80, 600): every clip once under the held-out set's conditions, the same at each call."""
    acoustics, log_mel = Acoustics(HELD_OUT_CONDITIONS, seed, device), LogMel(device)
    numbers = torch.arange(len(clips), device=device)
    parts = [log_mel(heard(clips, rows, acoustics)) for rows in numbers.split(at_once)]
    return torch.cat(parts)


# --- held out ------------------------------------------------------------------------------


def held_out_utterances(count: int) -> list[Utterance]:
    """The published ones: of a few more, those that are neither short nor long."""
    low, high = HELD_OUT_SECONDS
    drawn = utter("held_out", 2 * count + 8)
    return [one for one in drawn if low <= one.seconds <= high][:count]


def write_held_out(folder: Path, utterances: list[Utterance], tokenizer: Any, seed: int) -> None:
    """NNN.flac (16 bits, 16 kHz) with some noise, and metadata.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    clips = gather(utterances, tokenizer)
    waves = heard(clips, torch.arange(len(clips)), Acoustics(HELD_OUT_CONDITIONS, seed, "cpu"))
    lines = []
    for number, (one, wave) in enumerate(zip(utterances, waves, strict=True)):
        name = f"{number:03}.flac"
        samples = np.trim_zeros((wave * 32_767).round().short().numpy(), "b")
        soundfile.write(folder / name, samples, RATE, subtype="PCM_16", compression_level=1.0)
        told = {
            "file_name": name,
            "text": one.sentence.text,
            "voice": one.voice.name,
            "voice_in_training": not one.voice.held_out,
            "seconds": round(len(samples) / RATE, 3),
        }
        lines.append(json.dumps(told) + "\n")
    (folder / "metadata.jsonl").write_text("".join(lines), "utf-8")


def read_held_out(folder: Path) -> tuple[list[np.ndarray], list[str]]:
    """The waves, (N,) float32, and their transcripts."""
    lines = (folder / "metadata.jsonl").read_text("utf-8").splitlines()
    told = [json.loads(line) for line in lines]
    waves = [soundfile.read(folder / row["file_name"], dtype="float32")[0] for row in told]
    return waves, [row["text"] for row in told]
