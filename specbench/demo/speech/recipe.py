"""The recipe of `demo-asr`: synthesis, target, draft, files, figures, card."""

import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers

from specbench.demo.fitting import Schedule
from specbench.demo.speech import data, fitting, models, scoring
from specbench.demo.speech.acoustics import Conditions
from specbench.demo.speech.card import write_card
from specbench.demo.speech.data import Clips, Utterance
from specbench.demo.speech.fitting import Source, Trainer
from specbench.demo.speech.measuring import GAMMA, evaluate, load
from specbench.demo.speech.models import DRAFT, TARGET, DraftShape, Follower, Learner, Shape

TARGET_SCHEDULE = Schedule(rate=1.5e-3, warmup=400, seconds=270, checks=10, noise=0.1)
DRAFT_SCHEDULE = Schedule(rate=2e-3, warmup=100, seconds=60, checks=30, noise=0.1)
METRICS = "metrics.json"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """Every number that a run depends on.

    utterances, validation, held_out: how many are drawn; rows_at_once: utterances of a batch;
    overlap_goal: the draft stops learning where its law overlaps so much with the target's on
    validation utterances; processes: of the synthesiser, null for one a core.
    """

    seed: int = 20261122
    utterances: int = 40_000
    validation: int = 192
    held_out: int = 60
    rows_at_once: int = 128
    dropout: float = 0.05
    overlap_goal: float = 0.92
    processes: int | None = None
    target_shape: Shape = TARGET
    draft_shape: DraftShape = DRAFT
    conditions: Conditions = field(default_factory=Conditions)
    target: Schedule = TARGET_SCHEDULE
    draft: Schedule = DRAFT_SCHEDULE


FULL = Recipe()
SMOKE = replace(
    FULL, utterances=40, validation=4, held_out=3, rows_at_once=4,
    target_shape=Shape(width=32, heads=1, encoder_layers=1, decoder_layers=1, feed_forward=64),
    draft_shape=DraftShape(decoder_layers=1, feed_forward=32),
    target=replace(FULL.target, warmup=3, seconds=4, checks=1),
    draft=replace(FULL.draft, warmup=3, seconds=4, checks=1),
)  # fmt: skip


@dataclass
class Spoken:
    """All utterances: to train on, to check with, to publish."""

    training: list[Utterance]
    validation: list[Utterance]
    held_out: list[Utterance]


class Stages:
    """Seconds of each stage, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Times what happens inside."""
        began = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - began
        log.info("%s: %.0f s", name, self.seconds[name])


def synthesise(recipe: Recipe) -> Spoken:
    """Speaks everything; no sentence of one part is in another."""
    return Spoken(
        data.utter("training", recipe.utterances, recipe.processes),
        data.utter("validation", recipe.validation, recipe.processes),
        data.held_out_utterances(recipe.held_out),
    )


# --- training ------------------------------------------------------------------------------


class Validation:
    """Fixed validation features, and the figures of a check."""

    def __init__(
        self, utterances: list[Utterance], tokenizer: Any, recipe: Recipe, device: str
    ) -> None:
        clips = data.gather(utterances, tokenizer).to(device)
        self.features = data.fixed_features(clips, recipe.seed + 2, device)
        self.labels, self.tokenizer = clips.labels, tokenizer
        self.texts = [one.sentence.text for one in utterances]

    def of_target(self, model: Any) -> dict[str, float]:
        """Loss, loss with another utterance's audio, and WER."""
        other = self.features.roll(1, 0)
        written = scoring.transcribe(model, self.tokenizer, self.features)
        return {
            "validation": scoring.loss(model, self.features, self.labels),
            "validation_shuffled": scoring.loss(model, other, self.labels),
            "wer": scoring.word_error_rate(self.texts, written),
        }

    def of_draft(self, target: Any, model: Any) -> dict[str, float]:
        """Loss, and overlap with the target's law."""
        return {
            "validation": scoring.loss(model, self.features, self.labels),
            "overlap": scoring.overlap(target, model, self.features, self.labels),
        }


def train_target(
    clips: Clips, validation: Validation, recipe: Recipe, device: str
) -> tuple[Any, dict[str, Any]]:
    """Transcripts from audio, from scratch."""
    model = models.new_model(recipe.target_shape, recipe.seed, recipe.dropout)
    learner = Learner(model).to(device)
    source = Source(clips, recipe.rows_at_once, recipe.seed, recipe.conditions)
    trainer = Trainer(learner, source, fitting.transcript_loss, recipe.target)
    return learner.model, asdict(fitting.fit(trainer, validation.of_target))


def train_draft(
    target: Any, clips: Clips, validation: Validation, recipe: Recipe, device: str
) -> tuple[Any, dict[str, Any]]:
    """The target's laws from what the target's encoder hears."""
    learner = Follower(models.new_draft(target, recipe.draft_shape, recipe.seed))
    source = Source(clips, recipe.rows_at_once, recipe.seed + 1, recipe.conditions)
    trainer = Trainer(learner, source, fitting.following_loss(target), recipe.draft)
    report = fitting.fit(trainer, lambda m: validation.of_draft(target, m), recipe.overlap_goal)
    return learner.model, asdict(report)


# --- the whole ------------------------------------------------------------------------------


def environment(device: str) -> dict[str, Any]:
    """What the run ran on."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} CPU",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "espeakng_loader": version("espeakng-loader"),
        "soxr": version("soxr"),
    }


def _told(spoken: Spoken) -> dict[str, Any]:
    """Counts of the data, and how much of it the grammar leaves open."""
    words = sum(len(one.sentence.text.split()) for one in spoken.training)
    return {
        "utterances": len(spoken.training),
        "hours": sum(one.seconds for one in spoken.training) / 3600,
        "voices": len({one.voice.name for one in spoken.training}),
        "bits_per_word": sum(one.sentence.bits for one in spoken.training) / words,
        "words_per_sentence": words / len(spoken.training),
    }


def _reused(folder: Path, output: Path, device: str) -> tuple[Any, dict[str, Any]]:
    """A target that an earlier run stored, copied, and what that run reported of its training."""
    if folder.resolve() != (output / "target").resolve():
        shutil.copytree(folder, output / "target", dirs_exist_ok=True)
    earlier = json.loads((folder.parent / METRICS).read_text("utf-8"))
    return load(folder, device)[0], earlier["fits"]["target"]


def _write(output: Path, metrics: dict[str, Any]) -> None:
    (output / METRICS).write_text(json.dumps(metrics, indent=1) + "\n", "utf-8")


def run(
    output: Path, device: str, smoke: bool = False, reuse_target: Path | None = None
) -> dict[str, Any]:
    """The whole recipe, from the seeds to the card; returns what metrics.json holds."""
    recipe, stage, began = SMOKE if smoke else FULL, Stages(), time.monotonic()
    torch.set_float32_matmul_precision("high")
    output.mkdir(parents=True, exist_ok=True)
    with stage("synthesis"):
        spoken = synthesise(recipe)
    with stage("preparation"):
        tokenizer = models.train_tokenizer(one.sentence.text for one in spoken.training)
        clips = data.gather(spoken.training, tokenizer).to(device)
        validation = Validation(spoken.validation, tokenizer, recipe, device)
        data.write_held_out(output / "audio", spoken.held_out, tokenizer, recipe.seed + 3)
    with stage("target"):
        if reuse_target:
            target, of_target = _reused(reuse_target, output, device)
        else:
            target, of_target = train_target(clips, validation, recipe, device)
            models.export(target, tokenizer, output / "target")
        _write(output, {"fits": {"target": of_target}})  # all that --reuse-target needs
    with stage("draft"):
        draft, of_draft = train_draft(target, clips, validation, recipe, device)
        models.export(draft, tokenizer, output / "draft", decoder_alone=True)
    with stage("measuring"):
        held_out = evaluate(output, device, recipe.seed)
    metrics = {
        "recipe": asdict(recipe),
        "environment": environment(device),
        "data": _told(spoken),
        "fits": {"target": of_target, "draft": of_draft},
        "held_out": held_out,
        "stages": stage.seconds,
        "total_seconds": time.monotonic() - began,
        "reused": " (the target was trained in an earlier run)" if reuse_target else "",
    }
    _write(output, metrics)
    write_card(output / "MODEL_CARD.md", metrics, models.VOCABULARY, GAMMA)
    log.info("%s\ntotal %.0f s", json.dumps(held_out, indent=1), metrics["total_seconds"])
    return metrics
