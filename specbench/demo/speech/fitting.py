"""Training of the speech pair: the target on transcripts, the draft on the target's laws."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from specbench.demo.fitting import Fit, Schedule, autocast, descend, optimizer_for, rate_at
from specbench.demo.speech.acoustics import Acoustics, Conditions
from specbench.demo.speech.data import IGNORED, Clips, decoder_inputs, heard
from specbench.demo.speech.features import LogMel, masked
from specbench.demo.speech.models import (
    BLANK,
    SPECIAL_TOKENS,
    START_ID,
    VOCABULARY,
    Follower,
    Learner,
)

Check = Callable[[Any], dict[str, float]]
Loss = Callable[[Any, "Batch"], torch.Tensor]
log = logging.getLogger(__name__)

EASY_SHARE = 0.2  # of the training: over it, the noise rises to its full level
CTC_SHARE = 0.5  # of the loss, at the start; it ends at a tenth of that


@dataclass
class Batch:
    """features: (B, 80, 600); labels: (B, T) with -100 behind <eos>; tokens: (B, T), decoder input.

    letters: (B, L), letter_counts: (B,), see `Clips`; done: the share of the training behind.
    """

    features: torch.Tensor
    labels: torch.Tensor
    tokens: torch.Tensor
    letters: torch.Tensor
    letter_counts: torch.Tensor
    done: float


class Source:
    """Random batches of clips, each time under new conditions, easy ones at first."""

    def __init__(self, clips: Clips, rows_at_once: int, seed: int, conditions: Conditions) -> None:
        self.clips, self.rows_at_once = clips, rows_at_once
        device = clips.flat.device.type
        self.acoustics = Acoustics(conditions, seed, device)
        self.log_mel = LogMel(device)
        self.order = clips.starts[:0]

    def rows(self) -> torch.Tensor:
        """(B,) numbers of the next clips; each clip comes once before any comes again."""
        while len(self.order) < self.rows_at_once:
            size, draws = len(self.clips), self.acoustics.generator
            shuffled = torch.randperm(size, device=self.order.device, generator=draws)
            self.order = torch.cat([self.order, shuffled])
        rows, self.order = self.order[: self.rows_at_once], self.order[self.rows_at_once :]
        return rows

    @torch.no_grad()
    def batch(self, done: float, noise: float) -> Batch:
        """The next batch; up to a share of `noise` of the decoder's input tokens are replaced."""
        rows, clips = self.rows(), self.clips
        self.acoustics.ease = ease = max(0.0, 1 - done / EASY_SHARE)
        features = self.log_mel(heard(clips, rows, self.acoustics))
        labels = clips.labels[rows]
        return Batch(
            features=masked(features, self.acoustics.generator, 1 - ease),
            labels=labels,
            tokens=self._corrupted(decoder_inputs(labels, START_ID), noise),
            letters=clips.letters[rows],
            letter_counts=clips.letter_counts[rows],
            done=done,
        )

    def _corrupted(self, tokens: torch.Tensor, top: float) -> torch.Tensor:
        """A decoder that cannot trust what was written before must listen."""
        draws = self.acoustics.generator
        share = top * torch.rand(len(tokens), 1, device=tokens.device, generator=draws)
        hit = torch.rand(tokens.shape, device=tokens.device, generator=draws) < share
        hit = hit & (tokens >= len(SPECIAL_TOKENS))
        other = torch.randint(
            len(SPECIAL_TOKENS), VOCABULARY, tokens.shape, device=tokens.device, generator=draws
        )
        return torch.where(hit, other, tokens)


# --- losses --------------------------------------------------------------------------------


def reading_loss(read: torch.Tensor, batch: Batch) -> torch.Tensor:
    """CTC in nats per letter; read: (300, B, 28) log-probabilities."""
    frames = torch.full_like(batch.letter_counts, len(read))
    return functional.ctc_loss(
        read, batch.letters, frames, batch.letter_counts, blank=BLANK, zero_infinity=True
    )


def _ctc_share(done: float) -> float:
    return CTC_SHARE * (1 - 0.9 * min(1.0, done))


def token_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy in nats per token; (B, T, V) and (B, T)."""
    return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)


def transcript_loss(learner: Learner, batch: Batch) -> torch.Tensor:
    """The target's: cross entropy of the decoder, and CTC of the encoder."""
    logits, read = learner(batch.features, batch.tokens)
    share = _ctc_share(batch.done)
    return (1 - share) * token_loss(logits, batch.labels) + share * reading_loss(read, batch)


def following_loss(target: Any, own_share: float = 0.2) -> Loss:
    """The draft's: mostly KL(target || draft), and a little cross entropy."""

    def loss(learner: Follower, batch: Batch) -> torch.Tensor:
        with torch.no_grad():
            taught = target(
                input_features=batch.features, decoder_input_ids=batch.tokens, use_cache=False
            )
        teacher = taught.logits.float()
        logits = learner(taught.encoder_last_hidden_state, batch.tokens)
        wanted = batch.labels != IGNORED
        fixed, own = teacher[wanted].log_softmax(-1), logits[wanted].log_softmax(-1)
        follow = (fixed.exp() * (fixed - own)).sum(-1).mean()
        learn = functional.nll_loss(own, batch.labels[wanted])
        told: torch.Tensor = (1 - own_share) * follow + own_share * learn
        return told

    return loss


# --- the loop ------------------------------------------------------------------------------


class Trainer:
    """Trains a learner in place until its time is up."""

    def __init__(
        self, learner: Learner | Follower, source: Source, loss_of: Loss, schedule: Schedule
    ) -> None:
        self.learner, self.source, self.loss_of, self.schedule = learner, source, loss_of, schedule
        self.device = source.clips.flat.device.type
        self.optimizer = optimizer_for(learner, schedule, self.device)
        self.smooth: torch.Tensor | None = None

    def step(self, number: int, done: float) -> None:
        """One batch, one update."""
        batch = self.source.batch(done, self.schedule.noise)
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(self.schedule, number, done)
        with autocast(self.device):
            loss = self.loss_of(self.learner, batch)
        self.smooth = descend(self.learner, self.optimizer, loss, self.smooth)

    @property
    def loss(self) -> float:
        """The smoothed training loss."""
        return math.nan if self.smooth is None else float(self.smooth)


def fit(trainer: Trainer, check: Check, goal: float = 1.0) -> Fit:
    """Trains for the schedule's seconds, or until the check's "overlap" reaches the goal.

    `Fit.tokens` counts utterances, each as often as it was seen.
    """
    report, began, done = Fit(), time.monotonic(), 0.0
    trainer.learner.train()
    while done < 1:
        trainer.step(report.steps, done)
        report.steps += 1
        report.tokens += trainer.source.rows_at_once
        report.seconds = time.monotonic() - began
        done = report.seconds / trainer.schedule.seconds
        if done * trainer.schedule.checks >= len(report.checks) + 1:
            trainer.learner.eval()
            scores = {"done": done, "train": trainer.loss, **check(trainer.learner.model)}
            trainer.learner.train()
            report.checks.append(scores)
            told = {key: round(value, 4) for key, value in scores.items()}
            log.info("step %d, %.0f s: %s", report.steps, report.seconds, told)
            if scores.get("overlap", 0.0) >= goal:
                break
    trainer.learner.eval()
    report.train_loss = trainer.loss
    return report
