"""Is a method exact? Its emitted tokens against the target's own law, counted and tested.

Four small models (`Setting`), each with logits that depend on the tokens before: the drafts are drawn
from the draft model, the method verifies, and the target writes on until every sequence is γ+1 tokens
long. An exact method's sequences follow the target's law; a chi-square test says how well. The count
of accepted drafts is compared with the mean that the float64 reference computes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from specbench.sampling import reference
from specbench.sampling.draft import gumbel, sample, scale
from specbench.sampling.names import SIGMOID_RANGE
from specbench.sampling.philox import Purpose
from specbench.sampling.registry import Method
from specbench.sampling.verifier import run

VOCAB = 5
GAMMA = 3
CHUNK = 1 << 16
MIN_EXPECTED = 5.0
"""Cells that expect fewer counts are pooled: the chi-square law is an approximation."""


@dataclass(frozen=True)
class Setting:
    """Small target and draft models, and how they are sampled.

    target, draft: (γ+1, V, V) and (γ, V, V) logits by slot and token before.
    """

    name: str
    target: Tensor
    draft: Tensor
    temperature: float
    lengths: bool
    """Whether the sequences are ragged: 0 to γ drafts."""


@dataclass(frozen=True)
class Counts:
    """Chi-square and mean acceptance of one setting.

    Attributes:
        tv: total variation between what was counted and the target's law.
        tv_noise: what sampling noise alone would give an exact method.
        accepted: mean accepted drafts of a step.
        expected_accepted, accepted_sd: what the float64 reference expects, and the standard
            deviation of such a mean; None if the method has a rule of its own.
    """

    setting: str
    chi2: float
    dof: int
    tv: float
    tv_noise: float
    accepted: float
    expected_accepted: float | None
    accepted_sd: float | None

    @property
    def accepted_z(self) -> float:
        """Standard deviations between the counted acceptance and theory; 0 if there is none."""
        if self.expected_accepted is None or self.accepted_sd is None:
            return 0.0
        difference = self.accepted - self.expected_accepted
        if self.accepted_sd < 1e-9:
            return 0.0 if abs(difference) < 1e-6 else math.inf
        return difference / self.accepted_sd


@dataclass(frozen=True)
class Verdict:
    """What the settings say together about a method, as a kernel ("cuda") or torch operations."""

    method: Method
    implementation: Literal["torch", "cuda"]
    counts: list[Counts]
    p_value: float

    @property
    def looks_exact(self) -> bool:
        """The law is the target's, as far as this many samples can tell (level 1 in 10,000)."""
        return self.p_value >= 1e-4

    @property
    def keeps_theory(self) -> bool:
        """Acceptance agrees with the reference in every setting (5 standard deviations)."""
        return all(abs(count.accepted_z) < 5 for count in self.counts)

    @property
    def honest(self) -> bool:
        """The method does what it claims."""
        return self.keeps_theory and (self.looks_exact or not self.method.exact)


def settings() -> list[Setting]:
    """An ordinary pair, a sharp one, one masked as by top-k, and one of ragged lengths."""
    random = torch.Generator().manual_seed(20_240_611)

    def models(noise: float) -> tuple[Tensor, Tensor]:
        target = torch.randn(GAMMA + 1, VOCAB, VOCAB, generator=random) * 1.5
        return target, target[:GAMMA] + torch.randn(GAMMA, VOCAB, VOCAB, generator=random) * noise

    masked_target, masked_draft = models(1.0)
    masked_target[..., 1], masked_draft[..., 3] = -torch.inf, -torch.inf
    return [
        Setting("ordinary", *models(1.0), temperature=1.0, lengths=False),
        Setting("sharp", *models(0.5), temperature=0.5, lengths=False),
        Setting("masked", masked_target, masked_draft, temperature=1.0, lengths=False),
        Setting("ragged", *models(1.0), temperature=1.0, lengths=True),
    ]


def check_method(method: Method, samples: int, seed: int = 0, device: str = "cpu") -> Verdict:
    """Counts `samples` sequences in each setting.

    Args:
        samples: per setting.
        seed: the first sequence's; the others follow.
        device: where the method runs.
    """
    from scipy.stats import chi2

    counts = [_count(method, setting, samples, seed, device) for setting in settings()]
    total, dof = sum(c.chi2 for c in counts), sum(c.dof for c in counts)
    implementation = method.implementation_on(torch.device(device))
    return Verdict(method, implementation, counts, float(chi2.sf(total, dof)))


def _count(method: Method, setting: Setting, samples: int, seed: int, device: str) -> Counts:
    cells = torch.zeros(VOCAB ** (GAMMA + 1), dtype=torch.float64)
    accepted = 0
    for first in range(seed, seed + samples, CHUNK):
        seeds = torch.arange(first, min(first + CHUNK, seed + samples), device=device)
        sequences, kept = _decode(method, setting, seeds)
        cells += torch.bincount(_cell(sequences).cpu(), minlength=len(cells))
        accepted += int(kept.sum())
    law = reference.target_law(_model(setting.target, setting.temperature), GAMMA + 1)
    expected = (
        torch.tensor([law.get(_tokens(i), 0.0) for i in range(len(cells))]).double() * samples
    )
    p = expected / samples
    statistic, dof = chi_square(cells, expected)
    theory, deviation = _theory(method, setting, samples)
    return Counts(
        setting.name, statistic, dof,
        tv=float((cells / samples - p).abs().sum() / 2),
        tv_noise=float((2 * p * (1 - p) / (math.pi * samples)).sqrt().sum() / 2),
        accepted=accepted / samples,
        expected_accepted=theory,
        accepted_sd=deviation,
    )  # fmt: skip


def chi_square(counts: Tensor, expected: Tensor) -> tuple[float, int]:
    """Pearson's statistic and its degrees of freedom; sparse cells are pooled into one.

    A count in a cell of probability 0 makes the statistic infinite.

    Args:
        counts, expected: (cells,) float64 of equal sum.
    """
    if bool((counts[expected == 0] > 0).any()):
        return math.inf, len(counts) - 1
    sparse = expected < MIN_EXPECTED
    counts = torch.cat([counts[~sparse], counts[sparse].sum()[None]])
    expected = torch.cat([expected[~sparse], expected[sparse].sum()[None]])
    counts, expected = counts[expected > 0], expected[expected > 0]
    return float(((counts - expected) ** 2 / expected).sum()), len(counts) - 1


def _decode(method: Method, setting: Setting, seeds: Tensor) -> tuple[Tensor, Tensor]:
    """(N, γ+1) sequences and (N,) accepted counts."""
    target, draft = setting.target.to(seeds.device), setting.draft.to(seeds.device)
    temperature = torch.full((len(seeds),), setting.temperature, device=seeds.device)
    position = torch.zeros_like(seeds)
    slots = torch.arange(GAMMA, device=seeds.device)
    noise = gumbel(seeds, position, Purpose.DRAFT, slots, VOCAB)
    before = torch.zeros_like(seeds)
    drafts, target_rows, draft_rows = [], [target[0, before]], []
    for slot in range(GAMMA):
        draft_rows.append(draft[slot, before])
        before = sample(draft_rows[-1], temperature, noise[:, slot])
        drafts.append(before)
        target_rows.append(target[slot + 1, before])
    result = run(
        method, torch.stack(target_rows, 1), torch.stack(draft_rows, 1), torch.stack(drafts, 1),
        lengths=_lengths(setting, seeds), temperature=setting.temperature, seeds=seeds,
        positions=position, sigmoid_range=SIGMOID_RANGE,
    )  # fmt: skip
    return _write_on(result.tokens, target, temperature, seeds), result.num_accepted


def _lengths(setting: Setting, seeds: Tensor) -> Tensor:
    return seeds % (GAMMA + 1) if setting.lengths else torch.full_like(seeds, GAMMA)


def _write_on(tokens: Tensor, target: Tensor, temperature: Tensor, seeds: Tensor) -> Tensor:
    """Lets the target fill what the step left open (−1); each slot has random numbers of its own."""
    tokens = tokens.clone()
    for slot in range(1, GAMMA + 1):
        logits = target[slot, tokens[:, slot - 1]]
        place, first = torch.full_like(seeds, slot), torch.zeros_like(seeds[:1])
        noise = gumbel(seeds, place, Purpose.RESIDUAL, first, VOCAB)
        more = sample(logits, temperature, noise[:, 0])
        tokens[:, slot] = torch.where(tokens[:, slot] < 0, more, tokens[:, slot])
    return tokens


def _theory(method: Method, setting: Setting, samples: int) -> tuple[float | None, float | None]:
    """Mean accepted count, and the standard deviation of a mean of `samples` of them.

    The variance is the law's, not the sample's: a rare rejection that never came must not look like
    a certainty. Where the lengths are ragged, every length has its equal share.
    """
    if method.rule is None:
        return None, None
    target = _model(setting.target, setting.temperature)
    draft = _model(setting.draft, setting.temperature)
    shares = torch.bincount(_lengths(setting, torch.arange(samples)), minlength=GAMMA + 1) / samples
    mean = variance = 0.0
    for gamma, share in enumerate(shares.tolist()):
        if share > 0:
            law = reference.emitted_law(method.rule, target, draft, gamma)
            first, second = (reference.expected_accepted(law, power) for power in (1, 2))
            mean += share * first
            variance += share * max(0.0, second - first**2)
    return mean, math.sqrt(variance / samples)


def _model(table: Tensor, temperature: float) -> Callable[[reference.Prefix], Tensor]:
    scaled = scale(table, torch.full((len(table),), temperature)).double()
    return lambda prefix: scaled[len(prefix), prefix[-1] if prefix else 0]


def _cell(sequences: Tensor) -> Tensor:
    powers = VOCAB ** torch.arange(GAMMA, -1, -1, device=sequences.device)
    return (sequences * powers).sum(1)


def _tokens(cell: int) -> reference.Prefix:
    return tuple(cell // VOCAB**i % VOCAB for i in range(GAMMA, -1, -1))
