"""`specbench.verify` and `specbench.Verifier`: the checks, and the way to a method."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from specbench.errors import InputError
from specbench.sampling.names import COLDEST, MAX_GAMMA, SIGMOID_RANGE
from specbench.sampling.registry import Method, get_method
from specbench.sampling.step import Numbers, Step, draw, verify_greedy

NOTHING = Numbers(torch.empty(0), torch.empty(0))
"""Greedy decoding takes no chances."""
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Verification:
    """What a verify step decided.

    Attributes:
        tokens: (B, γ+1) int64: the accepted drafts, then the resampled or bonus token, then −1.
        num_accepted: (B,) int64: accepted drafts, without the resampled or bonus token.
    """

    tokens: Tensor
    num_accepted: Tensor


def verify(
    target_logits: Tensor,
    draft_logits: Tensor,
    draft_tokens: Tensor,
    *,
    method: str = "fused",
    lengths: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    seeds: int | Tensor = 0,
    positions: int | Tensor = 0,
    sigmoid_range: tuple[float, float] = SIGMOID_RANGE,
) -> Verification:
    """Verifies drafted tokens against the target: how many to keep, and which token comes next.

    Accept x_i while u_i · draft_i(x_i) < target_i(x_i); at the first rejection emit a token from
    max(0, target_i − draft_i), after full acceptance one from the target's last row (Leviathan et
    al., 2211.17192). `block` and `sigmoid` differ as their sources say: see `specbench.methods()`.

    Args:
        target_logits: (B, γ+1, V) float32, float16 or bfloat16; V contiguous.
        draft_logits: (B, γ, V), same dtype and device: the logits the drafts were sampled from,
            masked and tempered like the target's.
        draft_tokens: (B, γ) int64.
        method: a name of `specbench.methods()`.
        lengths: (B,) integer, how many of the γ drafts are real; 0 gives one token from the target.
            None means all.
        temperature: a float, or (B,) float32; 0 is greedy.
        seeds: an int for all sequences, or (B,) int64. Equal seed and position mean equal numbers.
        positions: an int, or (B,) int64: tokens the sequence holds when the step begins. A sequence
            must not verify twice at one position.
        sigmoid_range: (alpha, beta), used by `sigmoid` alone.

    Returns:
        The verification. A target row without a finite log-normaliser (NaN, +inf, nothing but −inf)
        ends its sequence's step without a token and leaves the other sequences alone.

    Raises:
        InputError: an argument's shape, dtype, device, stride or value cannot be used. Values are
            checked on CPU tensors only, since looking at a GPU's would stop it; there an id outside
            the vocabulary is rejected.

    Example:
        >>> import torch, specbench
        >>> target = torch.full((1, 2, 3), -torch.inf); target[0, 0, 1] = target[0, 1, 2] = 0.0
        >>> specbench.verify(target, target[:, :1], torch.tensor([[1]])).tokens.tolist()
        [[1, 2]]
    """
    return run(
        get_method(method), target_logits, draft_logits, draft_tokens, lengths=lengths,
        temperature=temperature, seeds=seeds, positions=positions, sigmoid_range=sigmoid_range,
    )  # fmt: skip


class Verifier:
    """A method bound to one shape, for loops.

    Args:
        method: a name of `specbench.methods()`.
        batch_size: B, at least 1.
        gamma: the most drafts of a step, 0 to 128.
        vocab_size: V.
        dtype: of both logits.
        device: of every tensor.

    Raises:
        InputError: a size or the dtype cannot be used; at a call, tensors of another shape, dtype or
            device than promised here.
    """

    def __init__(
        self,
        method: str,
        batch_size: int,
        gamma: int,
        vocab_size: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.method = get_method(method)
        _require(batch_size >= 1, f"batch_size is {batch_size}", "It must be at least 1.")
        _check_gamma(gamma)
        _require(vocab_size >= 1, f"vocab_size is {vocab_size}", "It must be at least 1.")
        _check_dtype("dtype", dtype)
        self.shape = (batch_size, gamma + 1, vocab_size)
        self.dtype, self.device = dtype, torch.device(device)

    def __call__(
        self,
        target_logits: Tensor,
        draft_logits: Tensor,
        draft_tokens: Tensor,
        *,
        lengths: Tensor | None = None,
        temperature: float | Tensor = 1.0,
        seeds: int | Tensor = 0,
        positions: int | Tensor = 0,
        sigmoid_range: tuple[float, float] = SIGMOID_RANGE,
    ) -> Verification:
        """One verify step; the arguments are those of `verify`."""
        # "cuda" without a number is whatever GPU the tensors are on.
        found = target_logits.device
        device = found if self.device.index is not None else found.type
        promised = (self.shape, self.dtype, str(self.device))
        given = (tuple(target_logits.shape), target_logits.dtype, str(device))
        _require(
            promised == given,
            f"target_logits is {_describe(*given)}, this Verifier was made for {_describe(*promised)}",
            "Make one Verifier for each shape.",
        )
        return run(
            self.method, target_logits, draft_logits, draft_tokens, lengths=lengths,
            temperature=temperature, seeds=seeds, positions=positions, sigmoid_range=sigmoid_range,
        )  # fmt: skip


def run(
    method: Method,
    target_logits: Tensor,
    draft_logits: Tensor,
    draft_tokens: Tensor,
    *,
    lengths: Tensor | None,
    temperature: float | Tensor,
    seeds: int | Tensor,
    positions: int | Tensor,
    sigmoid_range: tuple[float, float],
    numbers: Numbers | None = None,
) -> Verification:
    """`verify` for a `Method` that need not be registered.

    `numbers` may be drawn beforehand (`step.draw` with the same seeds and positions), so that what
    is timed is the method and not the generator.
    """
    _check_logits(target_logits, draft_logits, draft_tokens)
    _check_sigmoid_range(sigmoid_range)
    if not isinstance(temperature, Tensor):
        _check_temperature(temperature)
    batch, gamma = draft_tokens.shape
    device = target_logits.device
    greedy = _all_greedy(temperature)
    if lengths is None:
        lengths = torch.full((batch,), gamma, device=device)
    step = Step(
        target_logits,
        draft_logits,
        draft_tokens,
        _per_sequence("lengths", lengths, batch, torch.int64, device),
        _per_sequence("temperature", temperature, batch, torch.float32, device),
        numbers or (NOTHING if greedy is True else _draw(seeds, positions, target_logits, gamma)),
        sigmoid_range,
        greedy,
    )
    if device.type == "cpu":
        _check_values(step)
    return _verification(step, *_decide(method, step))


def _draw(
    seeds: int | Tensor, positions: int | Tensor, target_logits: Tensor, gamma: int
) -> Numbers:
    batch, _, vocab = target_logits.shape
    seed, position = (
        _per_sequence(name, value, batch, torch.int64, target_logits.device)
        for name, value in (("seeds", seeds), ("positions", positions))
    )
    return draw(seed, position, gamma, vocab)


def _decide(method: Method, step: Step) -> tuple[Tensor, Tensor]:
    if step.greedy is True:
        return verify_greedy(step)
    if step.greedy is False:
        return method.law(step)
    is_greedy = step.temperature == 0
    greedy, sampled = verify_greedy(step), method.law(step)
    return (
        torch.where(is_greedy, greedy[0], sampled[0]),
        torch.where(is_greedy, greedy[1], sampled[1]),
    )


def _verification(step: Step, accepted: Tensor, token: Tensor) -> Verification:
    column = torch.arange(step.gamma + 1, device=accepted.device)
    drafts = torch.nn.functional.pad(step.draft_tokens, (0, 1), value=-1)
    tokens = drafts.masked_fill(column >= accepted[:, None], -1)
    return Verification(tokens.scatter(1, accepted[:, None], token[:, None]), accepted)


def _all_greedy(temperature: float | Tensor) -> bool | None:
    if not isinstance(temperature, Tensor):
        return temperature == 0
    if temperature.device.type != "cpu":
        return None
    zero = temperature == 0
    return True if zero.all() else None if zero.any() else False


def _per_sequence(
    name: str, value: float | Tensor, batch: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    if not isinstance(value, Tensor):
        _require(
            dtype == torch.float32 or isinstance(value, int),
            f"{name} is {value!r}",
            f"Give an int, or a tensor of shape ({batch},).",
        )
        return torch.full((batch,), value, dtype=dtype, device=device)
    _require(
        value.shape == (batch,),
        f"{name} has shape {tuple(value.shape)}",
        f"Expected ({batch},): one for each sequence.",
    )
    kind_fits = value.dtype.is_floating_point == dtype.is_floating_point
    _require(kind_fits, f"{name} has dtype {value.dtype}", f"Expected {dtype}.")
    _require(value.device == device, f"{name} is on {value.device}", f"The logits are on {device}.")
    return value.to(dtype)


def _check_logits(target_logits: Tensor, draft_logits: Tensor, draft_tokens: Tensor) -> None:
    _require(
        target_logits.dim() == 3 and target_logits.shape[2] >= 1 and target_logits.shape[0] >= 1,
        f"target_logits has shape {tuple(target_logits.shape)}",
        "Expected (B, gamma+1, V), each at least 1.",
    )
    batch, rows, vocab = target_logits.shape
    _require(rows >= 1, "target_logits has no rows", "Expected gamma+1 of them.")
    _check_gamma(rows - 1)
    _require(
        draft_logits.shape == (batch, rows - 1, vocab),
        f"draft_logits has shape {tuple(draft_logits.shape)}",
        f"Expected {(batch, rows - 1, vocab)}: target_logits without its last row.",
    )
    _require(
        draft_tokens.shape == (batch, rows - 1) and draft_tokens.dtype == torch.int64,
        f"draft_tokens is {_describe(tuple(draft_tokens.shape), draft_tokens.dtype)}",
        f"Expected {_describe((batch, rows - 1), torch.int64)}.",
    )
    _check_dtype("target_logits", target_logits.dtype)
    _require(
        draft_logits.dtype == target_logits.dtype,
        f"draft_logits is {draft_logits.dtype}, target_logits is {target_logits.dtype}",
        "Both must have one dtype: sampling and verifying must see the same numbers.",
    )
    for name, tensor in (("draft_logits", draft_logits), ("draft_tokens", draft_tokens)):
        _require(
            tensor.device == target_logits.device,
            f"{name} is on {tensor.device}, target_logits on {target_logits.device}",
            "Move all tensors to one device.",
        )
    for name, tensor in (("target_logits", target_logits), ("draft_logits", draft_logits)):
        _require(
            tensor.stride(2) == 1 or vocab == 1 or tensor.numel() == 0,
            f"{name} has stride {tensor.stride(2)} over the vocabulary",
            "The vocabulary must be contiguous: call .contiguous() first.",
        )


def _check_values(step: Step) -> None:
    low, high = int(step.lengths.min()), int(step.lengths.max())
    _require(
        low >= 0 and high <= step.gamma,
        f"lengths range from {low} to {high}",
        f"Expected 0 to gamma, which is {step.gamma} here.",
    )
    for temperature in step.temperature.unique().tolist():
        _check_temperature(temperature)
    real = torch.arange(step.gamma) < step.lengths[:, None]
    wrong = real & ((step.draft_tokens < 0) | (step.draft_tokens >= step.vocab_size))
    _require(
        not bool(wrong.any()),
        f"draft_tokens holds the id {step.draft_tokens[wrong][:1].tolist()}",
        f"Expected ids from 0 to V-1, which is {step.vocab_size - 1} here.",
    )


def _check_sigmoid_range(sigmoid_range: tuple[float, float]) -> None:
    alpha, beta = sigmoid_range
    _require(
        math.isfinite(alpha) and math.isfinite(beta) and alpha < beta,
        f"sigmoid_range is ({alpha:g}, {beta:g})",
        "Expected two finite numbers, the smaller first.",
    )


def _check_temperature(temperature: float) -> None:
    _require(
        temperature == 0 or COLDEST <= temperature < math.inf,
        f"temperature is {temperature}",
        f"Expected 0, which is greedy, or a finite number of at least {COLDEST:g}.",
    )


def _check_gamma(gamma: int) -> None:
    _require(0 <= gamma <= MAX_GAMMA, f"gamma is {gamma}", f"Expected 0 to {MAX_GAMMA}.")


def _check_dtype(name: str, dtype: torch.dtype) -> None:
    _require(dtype in DTYPES, f"{name} has dtype {dtype}", "Expected float32, float16 or bfloat16.")


def _describe(shape: tuple[int, ...], dtype: torch.dtype, device: str = "") -> str:
    return f"{shape} {str(dtype).removeprefix('torch.')} {device}".strip()


def _require(condition: bool, message: str, hint: str) -> None:
    if not condition:
        raise InputError(message, hint)
