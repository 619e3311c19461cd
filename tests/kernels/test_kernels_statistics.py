"""The kernels' output law, counted: against the target's own, and acceptance against theory.

Seeds are fixed, so that a failure comes again.
"""

import math

import pytest
import torch

from specbench.cuda.launch import Grid
from specbench.sampling.check import check_method, chi_square
from specbench.sampling.registry import get_method

pytestmark = pytest.mark.gpu

METHODS = ["baseline", "exact", "sigmoid", "fused", "block"]
SAMPLES = 200_000
"""For each of the four settings of `check`."""
VOCAB, GAMMA, BATCH, ROUNDS = 64, 2, 8000, 50
"""400,000 steps of a vocabulary that several thread blocks share."""


@pytest.fixture(scope="module")
def verdicts():
    return {name: check_method(get_method(name), SAMPLES, device="cuda") for name in METHODS}


@pytest.mark.parametrize("method", METHODS)
def test_a_method_keeps_its_claims(verdicts, method):
    """Chi-square on the joint law at level 1e-4, acceptance within 5 standard deviations."""
    verdict = verdicts[method]
    assert verdict.keeps_theory, verdict.counts
    assert verdict.honest
    assert verdict.looks_exact == get_method(method).exact, verdict.p_value


def test_block_accepts_no_fewer(verdicts):
    for block, fused in zip(verdicts["block"].counts, verdicts["fused"].counts, strict=True):
        noise = math.hypot(block.accepted_sd, fused.accepted_sd)
        assert block.accepted >= fused.accepted - 5 * noise, block.setting


def pair_of_models():
    """Rows that depend on the slot alone: target (γ+1, V) and draft (γ, V) logits."""
    random = torch.Generator().manual_seed(60)
    target = 1.5 * torch.randn(GAMMA + 1, VOCAB, generator=random)
    return target, target[:GAMMA] + 0.7 * torch.randn(GAMMA, VOCAB, generator=random)


def drawn_from(logits, count, random):
    """(count,) ids ∝ softmax(logits)."""
    arrival = torch.empty(count, VOCAB, device="cuda", dtype=torch.float64)
    arrival.exponential_(generator=random)
    return (logits.cuda().double().softmax(-1) / arrival).argmax(-1)


def chance_of_two(method, p, q):
    """P(both drafts are accepted), and the same for the first alone."""
    ratio = [p[i] / q[i] for i in range(GAMMA)]
    first = float(torch.minimum(p[0], q[0]).sum())
    if method != "block":
        return first, first * float(torch.minimum(p[1], q[1]).sum())
    prefix = ratio[0].clamp(max=1)[:, None] * ratio[1]
    return first, float((q[0][:, None] * q[1] * prefix.clamp(max=1)).sum())


@pytest.mark.parametrize("members", [1, 3, 13])
@pytest.mark.parametrize("method", ["exact", "fused", "block"])
def test_a_larger_vocabulary_over_several_blocks(problem, bind, method, members):
    """V = 64, γ = 2, N = 400,000 on a grid of our own: the joint law of the first two tokens (4,096
    cells, level 1e-4), and both acceptances within 5 standard deviations of theory."""
    from scipy.stats import chi2

    target, draft = pair_of_models()
    random = torch.Generator("cuda").manual_seed(61)
    data = problem(BATCH, GAMMA, VOCAB, mixed=False).but(
        target_logits=target.cuda().repeat(BATCH, 1, 1),
        draft_logits=draft.cuda().repeat(BATCH, 1, 1),
    )
    grid = Grid(120 // members, members, 2, 1 if method == "fused" else GAMMA + 1)
    kernel = bind(method, data, grid=grid)
    cells = torch.zeros(VOCAB**2, dtype=torch.float64)
    reached = torch.zeros(2, dtype=torch.int64)
    for first in range(0, BATCH * ROUNDS, BATCH):
        drafts = [drawn_from(row, BATCH, random) for row in draft]
        seeds = torch.arange(first, first + BATCH, device="cuda")
        found = kernel(data.but(draft_tokens=torch.stack(drafts, 1), seeds=seeds))
        missing = found.tokens[:, 1] < 0
        second = torch.where(missing, drawn_from(target[1], BATCH, random), found.tokens[:, 1])
        cells += torch.bincount((found.tokens[:, 0] * VOCAB + second).cpu(), minlength=VOCAB**2)
        reached += torch.stack([(found.num_accepted >= i).sum() for i in (1, 2)]).cpu()
    p, q = target.double().softmax(-1), draft.double().softmax(-1)
    steps = BATCH * ROUNDS
    statistic, dof = chi_square(cells, (p[0][:, None] * p[1]).flatten() * steps)
    assert chi2.sf(statistic, dof) >= 1e-4
    for count, chance in zip(reached.tolist(), chance_of_two(method, p, q), strict=True):
        deviation = math.sqrt(chance * (1 - chance) / steps)
        assert abs(count / steps - chance) < 5 * deviation
