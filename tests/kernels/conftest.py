"""Verify steps for the kernels, and who judges them: the torch law, and float64 where the two differ.

A kernel and its law draw the same Philox numbers, so they give the same tokens, except where float32
may round a decision either way. Such an exception is never taken on trust: float64 must show that
the two outcomes were within `TOLERANCE` of each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from specbench.cuda.launch import Grid, VerifyLauncher
from specbench.sampling import reference
from specbench.sampling.names import SIGMOID_RANGE
from specbench.sampling.registry import get_method
from specbench.sampling.verifier import Verification, Verifier, draw_numbers, run

TOLERANCE = {"exact": 2e-5, "fused": 2e-5, "block": 5e-5, "sigmoid": 3e-6}
"""How far float32 may be from float64: relative for a probability, whose exponent and sum both round
(block multiplies up to 128 ratios of them); absolute for a sigmoid, a number of order 1."""
TEMPERATURES = (1.0, 0.7, 0.0, 1.5)
NOISE = (0.8, 0.3, 0.05)
"""Of the draft around the target, sequence by sequence: early rejection, late, hardly ever."""


@dataclass(frozen=True)
class Problem:
    """Arguments of a verify step, all of them tensors."""

    target_logits: Tensor
    draft_logits: Tensor
    draft_tokens: Tensor
    lengths: Tensor
    temperature: Tensor
    seeds: Tensor
    positions: Tensor

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """What `verify` takes by position."""
        return self.target_logits, self.draft_logits, self.draft_tokens

    @property
    def options(self) -> dict[str, Tensor]:
        """What `verify` takes by name."""
        names = ("lengths", "temperature", "seeds", "positions")
        return {name: getattr(self, name) for name in names}

    @property
    def shape(self) -> tuple[int, int, int]:
        """B, γ, V."""
        batch, rows, vocab = self.target_logits.shape
        return batch, rows - 1, vocab

    @property
    def divisor(self) -> Tensor:
        """(B, 1, 1): temperatures, 1 for greedy."""
        return torch.where(self.temperature == 0, 1, self.temperature)[:, None, None]

    def draft_lse(self) -> Tensor:
        """(B, γ) float32 log-normalisers of the draft rows."""
        return (self.draft_logits.float() / self.divisor).logsumexp(-1)

    def only(self, rows: Any) -> Problem:
        """The sequences of an index."""
        return Problem(*(getattr(self, field.name)[rows] for field in fields(self)))

    def but(self, **changes: Tensor) -> Problem:
        """The same with other tensors."""
        return replace(self, **changes)


def make_problem(
    batch: int,
    gamma: int,
    vocab: int,
    dtype: torch.dtype = torch.float32,
    *,
    seed: int = 0,
    mixed: bool = True,
    noise: Sequence[float] = NOISE,
    device: str = "cuda",
) -> Problem:
    """Gaussian logits of deviation 2.5, drafts drawn from the draft's rows.

    Args:
        mixed: ragged lengths and `TEMPERATURES` by turns; otherwise all drafts and temperature 1.
    """
    random = torch.Generator(device).manual_seed(seed)
    order = torch.arange(batch, device=device)

    def gaussian(rows: int) -> Tensor:
        return torch.randn(batch, rows, vocab, generator=random, device=device)

    spread = torch.tensor(noise, device=device)[order % len(noise)]
    target = 2.5 * gaussian(gamma + 1)
    draft = (target[:, :gamma] + spread[:, None, None] * gaussian(gamma)).to(dtype)
    target = target.to(dtype)
    lengths = torch.full_like(order, gamma)
    temperature = torch.ones(batch, device=device)
    if mixed:
        lengths = gamma - 5 * order % (gamma + 1)
        temperature = torch.tensor(TEMPERATURES, device=device)[order % len(TEMPERATURES)]
    found = Problem(
        target, draft, order.new_zeros(batch, gamma), lengths, temperature,
        seeds=torch.randint(-(2**62), 2**62, (batch,), generator=random, device=device),
        positions=order * 13 + 2**33 * (order % 2),
    )  # fmt: skip
    return _poisoned(found.but(draft_tokens=_drafts(found, random)))


def _drafts(problem: Problem, random: torch.Generator) -> Tensor:
    """From the draft's law; the target's argmax where it is greedy, so that some are accepted."""
    arrival = torch.empty_like(problem.draft_logits, dtype=torch.float32)
    arrival.exponential_(generator=random)
    law = (problem.draft_logits.float() / problem.divisor).softmax(-1)
    drawn, best = (law / arrival).argmax(-1), problem.target_logits[:, :-1].argmax(-1)
    batch, gamma, _ = problem.shape
    order = torch.arange(batch, device=drawn.device)[:, None]
    stops = torch.arange(gamma, device=drawn.device) == order % (gamma + 1)
    return torch.where((problem.temperature[:, None] == 0) & ~stops, best, drawn)


def _poisoned(problem: Problem) -> Problem:
    """Where nothing may look: NaN and −1 for every other sequence, and for the rest what was drafted,
    which a kernel that ignores lengths would take."""
    order = torch.arange(problem.shape[0], device=problem.lengths.device)[:, None]
    slots = torch.arange(problem.shape[1] + 1, device=problem.lengths.device)
    past = (slots > problem.lengths[:, None]) & (order % 2 == 1)
    padding = (slots[:-1] >= problem.lengths[:, None]) & (order % 2 == 1)
    return problem.but(
        target_logits=problem.target_logits.masked_fill(past[:, :, None], torch.nan),
        draft_logits=problem.draft_logits.masked_fill(padding[:, :, None], torch.nan),
        draft_tokens=problem.draft_tokens.masked_fill(padding, -1),
    )


class Bound:
    """A kernel bound to a shape, perhaps of another text or grid; every call gives new memory.

    Args:
        like: gives shape, dtype and device.
        text: compiled in the place of the kernel's source.
        grid: taken in the place of the planned one.
    """

    def __init__(
        self, method: str, like: Problem, *, text: str | None = None, grid: Grid | None = None
    ) -> None:
        self.method = method
        stem = get_method(method).kernel
        assert stem is not None
        logits = like.target_logits
        self.launcher = VerifyLauncher(
            stem, *like.shape, logits.dtype, logits.device, text=text, grid=grid
        )

    def __call__(
        self,
        problem: Problem,
        *,
        sigmoid_range: tuple[float, float] = SIGMOID_RANGE,
        draft_lse: Tensor | None = None,
    ) -> Verification:
        """Enqueues one step."""
        batch, gamma, _ = problem.shape
        tokens = problem.seeds.new_full((batch, gamma + 1), -99)
        accepted = problem.seeds.new_full((batch,), -99)
        probs: list[Tensor | None] = [None, None]
        if self.method == "exact":
            both = problem.target_logits, problem.draft_logits
            probs = [(rows.float() / problem.divisor).softmax(-1) for rows in both]
        self.launcher(
            *problem.tensors, tokens, accepted, target_probs=probs[0], draft_probs=probs[1],
            draft_lse=draft_lse, sigmoid_range=sigmoid_range, **problem.options,
        )  # fmt: skip
        return Verification(tokens, accepted)


def verify_by_kernel(method: str, problem: Problem, **options: Any) -> Verification:
    """One step by a Verifier of its own."""
    verifier = Verifier(
        method, *problem.shape, problem.target_logits.dtype, problem.target_logits.device
    )
    return verifier(*problem.tensors, **problem.options, **options)


def verify_by_law(
    method: str, problem: Problem, sigmoid_range: tuple[float, float] = SIGMOID_RANGE
) -> Verification:
    """The same step as torch operations, with the same random numbers."""
    law = replace(get_method(method), kernel=None)
    return run(law, *problem.tensors, **problem.options, sigmoid_range=sigmoid_range)


def what_is_wrong(
    method: str,
    problem: Problem,
    found: Verification,
    sigmoid_range: tuple[float, float] = SIGMOID_RANGE,
    share: float = 0.02,
) -> str:
    """Where a step differs from its law without float64's leave, or too often; "" if nowhere.

    Args:
        share: of sequences that may differ, besides one, with leave.
    """
    expected = verify_by_law(method, problem, sigmoid_range)
    differs = (found.tokens != expected.tokens).any(1)
    differs |= found.num_accepted != expected.num_accepted
    places = differs.nonzero().flatten().tolist()
    for b in places:
        fault = fault_of(method, problem, found, b, sigmoid_range)
        if fault:
            return (
                f"sequence {b}: {fault}; {found.tokens[b].tolist()} where the law gives "
                f"{expected.tokens[b].tolist()}"
            )
    if len(places) > 1 + share * len(differs):
        return f"{len(places)} of {len(differs)} sequences differ from the law, all within rounding"
    return ""


def fault_of(
    method: str,
    problem: Problem,
    found: Verification,
    b: int,
    sigmoid_range: tuple[float, float] = SIGMOID_RANGE,
) -> str:
    """What rounding cannot explain about sequence b, whose rows are valid; "" if all is explained."""
    one = problem.only([b])
    accepted, tokens = int(found.num_accepted[b]), found.tokens[b].tolist()
    length = int(one.lengths)
    if not 0 <= accepted <= length:
        return f"{accepted} accepted"
    path, token = one.draft_tokens[0, :length].tolist(), tokens[accepted]
    if tokens != [*path[:accepted], token] + [-1] * (problem.shape[1] - accepted):
        return "not the accepted drafts, one token and -1"
    if not 0 <= token < problem.shape[2]:
        return f"token {token}"
    if float(one.temperature) == 0:
        return _greedy_fault(one, [*path[:accepted], token])
    return _sampled_fault(method, one, path, accepted, token, sigmoid_range)


def _greedy_fault(one: Problem, tokens: Sequence[int]) -> str:
    rows = one.target_logits[0, : len(tokens)]
    reached = [float(row[token]) for row, token in zip(rows, tokens, strict=True)]
    return "" if reached == rows.amax(1).tolist() else "not the argmax"


def _sampled_fault(
    method: str,
    one: Problem,
    path: list[int],
    accepted: int,
    token: int,
    sigmoid_range: tuple[float, float],
) -> str:
    _, gamma, vocab = one.shape
    target, draft = (
        [reference.weights(row, method, sigmoid_range) for row in rows[0].double() / one.divisor[0]]
        for rows in (one.target_logits[:, : len(path) + 1], one.draft_logits[:, : len(path)])
    )
    numbers = draw_numbers(one.seeds, one.positions, gamma, vocab)
    uniforms = numbers.uniforms[0].tolist()
    stray = next((i for i, x in enumerate(path) if not 0 <= x < vocab), len(path))
    path = [x if i < stray else 0 for i, x in enumerate(path)]
    if not _count_is_explained(method, target, draft, path, uniforms, accepted, stray):
        return f"{accepted} accepted"
    taken = torch.zeros_like(target[accepted])
    if accepted < len(path):
        taken = draft[accepted] / max(_prefix(method, target, draft, path)[accepted], 1e-30)
    exponentials = numbers.exponentials[0].double()
    if not _token_is_explained(method, target[accepted], taken, exponentials, token):
        return f"token {token}"
    return ""


def _prefix(
    method: str, target: Sequence[Tensor], draft: Sequence[Tensor], path: Sequence[int]
) -> list[float]:
    if method != "block":
        return [1.0] * (len(path) + 1)
    return reference.prefix_probabilities(target, draft, tuple(path))


def _count_is_explained(
    method: str,
    target: Sequence[Tensor],
    draft: Sequence[Tensor],
    path: Sequence[int],
    uniforms: Sequence[float],
    accepted: int,
    stray: int,
) -> bool:
    """Whether each test may have come out as this count says it did; drafts from `stray` on are none."""
    limits = reference.thresholds(method, target, draft, tuple(path))
    slack = [TOLERANCE[method]] * len(limits)
    if method == "block":
        prefix = _prefix(method, target, draft, path)
        for i in range(1, len(path)):  # h = Z / (Z + 1 − P) magnifies where its divisor is small
            excess = float((prefix[i] * target[i] - draft[i]).clamp(min=0).sum())
            slack[i - 1] /= max(excess + 1 - prefix[i], TOLERANCE[method])
    tests = list(zip(uniforms, limits, slack, strict=False))
    may_pass = [i < stray and h > 0 and u < h + s for i, (u, h, s) in enumerate(tests)]
    may_fail = [i >= stray or u >= h - s for i, (u, h, s) in enumerate(tests)]
    if method == "block":
        return all(may_fail[accepted:]) and (accepted == 0 or may_pass[accepted - 1])
    return all(may_pass[:accepted]) and all(may_fail[accepted : accepted + 1])


def _token_is_explained(
    method: str, target: Tensor, taken: Tensor, exponentials: Tensor, token: int
) -> bool:
    """Whether the token may have won the race of max(0, target − taken) / E.

    Where target and draft are equal, rounding alone decides what is raced for, but never for a token
    that the target forbids.
    """
    residual, slack = target - taken, TOLERANCE[method] * (target + taken)
    surely = ((residual - slack).clamp(min=0) / exponentials).max()
    perhaps = (residual[token] + slack[token]) / exponentials[token]
    return bool((target[token] > 0) & (perhaps > 0) & (perhaps >= surely))


@pytest.fixture
def problem():
    """`make_problem`, for tests."""
    return make_problem


@pytest.fixture
def bind():
    """`Bound`, for tests."""
    return Bound


@pytest.fixture
def verify():
    """`verify_by_kernel`, for tests."""
    return verify_by_kernel


@pytest.fixture
def law():
    """`verify_by_law`, for tests."""
    return verify_by_law


@pytest.fixture
def wrong():
    """`what_is_wrong`, for tests."""
    return what_is_wrong
