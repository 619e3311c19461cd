"""`specbench.verify` and `specbench.Verifier`: the checks, and the way to a method."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from specbench.errors import InputError
from specbench.sampling import cuda_methods
from specbench.sampling.cuda_methods import KernelVerifier
from specbench.sampling.names import COLDEST, MAX_GAMMA, MAX_VOCAB, SIGMOID_RANGE
from specbench.sampling.registry import Method, get_method
from specbench.sampling.step import Numbers, Step, draw, verify_greedy

NOTHING = Numbers(torch.empty(0), torch.empty(0))
"""Greedy decoding takes no chances."""
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
DEBUG = os.environ.get("SPECBENCH_DEBUG", "0") not in ("", "0")
"""Whether values of GPU tensors are checked too, which stops the host at every step."""


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
    """A method bound to one shape, for loops and CUDA graphs.

    On a GPU a method of ours is one cooperative launch on torch's current stream (`exact` has its two
    softmaxes before it): no allocation, no host sync, capturable in a CUDA graph. lengths, temperature,
    seeds and positions given as device tensors are read by the kernel when it runs, so a replayed graph
    follows what they then hold.

    Args:
        method: a name of `specbench.methods()`, or a `Method`.
        batch_size: B, at least 1.
        gamma: the most drafts of a step, 0 to 128.
        vocab_size: V, 1 to 262,144 for a kernel.
        dtype: of both logits.
        device: of every tensor.

    Attributes:
        implementation: "cuda" if a kernel runs, "torch" if the law runs as torch operations.

    Raises:
        InputError: a size or the dtype cannot be used; at a call, tensors of another shape, dtype,
            device or stride than promised here. Values are checked on CPU tensors, and on a GPU only
            if the environment has SPECBENCH_DEBUG=1, since looking at them stops the host. Unchecked,
            an id outside the vocabulary is rejected and lengths are cut to 0 … γ.
        MachineError: the method's kernel cannot run here.
    """

    def __init__(
        self,
        method: str | Method,
        batch_size: int,
        gamma: int,
        vocab_size: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.method = get_method(method) if isinstance(method, str) else method
        _require(batch_size >= 1, f"batch_size is {batch_size}", "It must be at least 1.")
        _check_gamma(gamma)
        _require(vocab_size >= 1, f"vocab_size is {vocab_size}", "It must be at least 1.")
        _check_dtype("dtype", dtype)
        self.shape = (batch_size, gamma + 1, vocab_size)
        self.dtype, self.device = dtype, _with_index(torch.device(device))
        self._kernel: KernelVerifier | None = None
        if kernel := self.method.kernel_on(self.device):
            check_vocabulary(vocab_size)
            self._kernel = KernelVerifier(kernel, batch_size, gamma, vocab_size, dtype, self.device)
            self._result = Verification(self._kernel.tokens, self._kernel.accepted)

    @property
    def implementation(self) -> Literal["torch", "cuda"]:
        """What runs: the law as torch operations, or a kernel."""
        return self.method.implementation_on(self.device)

    @property
    def wave(self) -> int | None:
        """Slots whose rows are read at once: what follows the wave in which a sequence stops is never
        read. None if all rows always are."""
        return self._kernel.wave if self._kernel else None

    @property
    def workspace_bytes(self) -> int:
        """Device memory that it holds, outputs included; torch operations hold none between calls."""
        return self._kernel.workspace_bytes if self._kernel else 0

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
        draft_lse: Tensor | None = None,
        numbers: Numbers | None = None,
    ) -> Verification:
        """One verify step; the arguments are those of `verify`, and two more.

        Args:
            draft_lse: (B, γ) float32, log Σ exp(draft_logits / temperature), kept from sampling the
                drafts: a kernel then reads of the draft only the row where a sequence stops. One
                float32 holds it to 1e-7 of its size: where logits / temperature are in the hundreds,
                the draft's probabilities are off by 1e-5, and by 1e-2 at the coldest temperature.
            numbers: drawn beforehand with the same seeds and positions, for a method that is torch
                operations; a kernel draws its own, the same.

        Returns:
            A verification. A kernel's is the verifier's own memory, which the next call overwrites.
        """
        if self._kernel is None:
            self._check_promise(target_logits)
            return run(
                self.method, target_logits, draft_logits, draft_tokens, lengths=lengths,
                temperature=temperature, seeds=seeds, positions=positions,
                sigmoid_range=sigmoid_range, draft_lse=draft_lse, numbers=numbers,
            )  # fmt: skip
        if not self._as_promised(target_logits, draft_logits, draft_tokens):
            self._check_promise(target_logits)
            _check_logits(target_logits, draft_logits, draft_tokens)
            _require(
                draft_tokens.stride(1) == 1 or draft_tokens.shape[1] <= 1,
                f"draft_tokens has stride {draft_tokens.stride(1)} over the drafts",
                "Call .contiguous() first.",
            )
        batch, gamma = self.shape[0], self.shape[1] - 1
        device = self.device
        _check_parameter("lengths", lengths, (batch,), torch.int64, device)
        _check_parameter("temperature", temperature, (batch,), torch.float32, device)
        _check_parameter("seeds", seeds, (batch,), torch.int64, device)
        _check_parameter("positions", positions, (batch,), torch.int64, device)
        _check_parameter("draft_lse", draft_lse, (batch, gamma), torch.float32, device)
        _check_sigmoid_range(sigmoid_range)
        if DEBUG:
            _check_values(draft_tokens, self.shape[2], lengths, temperature)
        self._kernel(
            target_logits, draft_logits, draft_tokens, lengths=lengths, temperature=temperature,
            seeds=seeds, positions=positions, sigmoid_range=sigmoid_range, draft_lse=draft_lse,
        )  # fmt: skip
        return self._result

    def _as_promised(self, target_logits: Tensor, draft_logits: Tensor, tokens: Tensor) -> bool:
        """The quick look of every call; what it does not like is looked at again, for the words."""
        batch, rows, vocab = self.shape
        return (
            target_logits.shape == self.shape
            and draft_logits.shape == (batch, rows - 1, vocab)
            and tokens.shape == (batch, rows - 1)
            and target_logits.dtype == draft_logits.dtype == self.dtype
            and tokens.dtype == torch.int64
            and target_logits.device == draft_logits.device == tokens.device == self.device
            and target_logits.stride(2) == draft_logits.stride(2) == tokens.stride(1) == 1
        )

    def _check_promise(self, target_logits: Tensor) -> None:
        promised = (self.shape, self.dtype, str(self.device))
        given = (tuple(target_logits.shape), target_logits.dtype, str(target_logits.device))
        _require(
            promised == given,
            f"target_logits is {_describe(*given)}, this Verifier was made for {_describe(*promised)}",
            "Make one Verifier for each shape.",
        )


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
    draft_lse: Tensor | None = None,
    numbers: Numbers | None = None,
) -> Verification:
    """`verify` for a `Method` that need not be registered.

    `numbers` may be drawn beforehand (`draw_numbers` with the same seeds and positions), so that what
    is timed is the method and not the generator.
    """
    _check_logits(target_logits, draft_logits, draft_tokens)
    _check_sigmoid_range(sigmoid_range)
    batch, gamma = draft_tokens.shape
    device = target_logits.device
    lengths = (
        None if lengths is None else _per_sequence("lengths", lengths, batch, torch.int64, device)
    )
    if isinstance(temperature, Tensor):
        temperature = _per_sequence("temperature", temperature, batch, torch.float32, device)
    else:
        _check_temperature(temperature)
    seeds = _per_sequence("seeds", seeds, batch, torch.int64, device)
    positions = _per_sequence("positions", positions, batch, torch.int64, device)
    _check_parameter("draft_lse", draft_lse, (batch, gamma), torch.float32, device)
    if device.type == "cpu" or DEBUG:
        _check_values(draft_tokens, target_logits.shape[2], lengths, temperature)
    if method.kernel_on(device):
        verifier = Verifier(method, *_sizes(target_logits), target_logits.dtype, device)
        return verifier(
            target_logits, draft_logits, draft_tokens, lengths=lengths, temperature=temperature,
            seeds=seeds, positions=positions, sigmoid_range=sigmoid_range, draft_lse=draft_lse,
        )  # fmt: skip
    greedy = _all_greedy(temperature)
    if numbers is None and greedy is not True:
        numbers = draw_numbers(seeds, positions, gamma, target_logits.shape[2])
    step = Step(
        target_logits,
        draft_logits,
        draft_tokens,
        torch.full((batch,), gamma, device=device) if lengths is None else lengths,
        _per_sequence("temperature", temperature, batch, torch.float32, device),
        numbers or NOTHING,
        sigmoid_range,
        greedy,
        tempered=temperature != 1.0 if isinstance(temperature, int | float) else True,
    )
    return _verification(step, *_decide(method, step))


def draw_numbers(seeds: Tensor, positions: Tensor, gamma: int, vocab_size: int) -> Numbers:
    """What a verify step of torch operations draws: by one kernel on a GPU, else as torch operations.

    Args:
        seeds, positions: (B,) int64 on one device.

    Raises:
        MachineError: on a GPU, if its kernel cannot run here.
    """
    by_kernel = seeds.device.type == "cuda"
    return (cuda_methods.draw if by_kernel else draw)(seeds, positions, gamma, vocab_size)


def _sizes(target_logits: Tensor) -> tuple[int, int, int]:
    batch, rows, vocab = target_logits.shape
    return batch, rows - 1, vocab


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
            dtype == torch.float32 or (isinstance(value, int) and -(2**63) <= value < 2**63),
            f"{name} is {value!r}",
            f"Give an int of 64 bits, or a tensor of shape ({batch},).",
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


def _check_parameter(
    name: str,
    value: float | Tensor | None,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """A parameter that a kernel reads where it lies: nothing may be converted.

    Runs at every step, so words are made only for an error.
    """
    if value is None:
        return
    if not isinstance(value, Tensor):
        if name == "temperature":
            _check_temperature(value)
        elif not isinstance(value, int) or not -(2**63) <= value < 2**63:
            raise InputError(f"{name} is {value!r}", "Expected an int of 64 bits, or a tensor.")
    elif value.shape != shape or value.dtype != dtype:
        raise InputError(
            f"{name} is {_describe(tuple(value.shape), value.dtype)}",
            f"Expected {_describe(shape, dtype)}.",
        )
    elif value.device != device:
        raise InputError(f"{name} is on {value.device}", f"The logits are on {device}.")
    elif value.stride(-1) != 1 and value.shape[-1] > 1:
        raise InputError(f"{name} has stride {value.stride(-1)}", "Call .contiguous() first.")


def _check_values(
    draft_tokens: Tensor, vocab_size: int, lengths: Tensor | None, temperature: float | Tensor
) -> None:
    batch, gamma = draft_tokens.shape
    if lengths is None:
        lengths = torch.full((batch,), gamma, device=draft_tokens.device)
    low, high = int(lengths.min()), int(lengths.max())
    _require(
        low >= 0 and high <= gamma,
        f"lengths range from {low} to {high}",
        f"Expected 0 to gamma, which is {gamma} here.",
    )
    if isinstance(temperature, Tensor):
        for value in temperature.unique().tolist():
            _check_temperature(value)
    real = torch.arange(gamma, device=draft_tokens.device) < lengths[:, None]
    wrong = real & ((draft_tokens < 0) | (draft_tokens >= vocab_size))
    _require(
        not bool(wrong.any()),
        f"draft_tokens holds the id {draft_tokens[wrong][:1].tolist()}",
        f"Expected ids from 0 to V-1, which is {vocab_size - 1} here.",
    )


def check_vocabulary(vocab_size: int) -> None:
    """Refuses a vocabulary that no kernel takes.

    Raises:
        InputError: it is larger than 262,144.
    """
    _require(
        vocab_size <= MAX_VOCAB,
        f"vocab_size is {vocab_size}",
        f"The kernels take up to {MAX_VOCAB}.",
    )


def _check_sigmoid_range(sigmoid_range: tuple[float, float]) -> None:
    alpha, beta = sigmoid_range
    apart = math.isfinite(alpha) and math.isfinite(beta) and alpha < beta
    # The kernels compute in float32, where two numbers too near each other are one.
    if not apart or beta - alpha < 1e-6 * max(1.0, abs(alpha), abs(beta)):
        raise InputError(
            f"sigmoid_range is ({alpha:g}, {beta:g})",
            "Expected two finite numbers, the smaller first, that differ in float32.",
        )


def _check_temperature(temperature: float) -> None:
    if temperature != 0 and not COLDEST <= temperature < math.inf:
        raise InputError(
            f"temperature is {temperature}",
            f"Expected 0, which is greedy, or a finite number of at least {COLDEST:g}.",
        )


def _check_gamma(gamma: int) -> None:
    _require(0 <= gamma <= MAX_GAMMA, f"gamma is {gamma}", f"Expected 0 to {MAX_GAMMA}.")


def _check_dtype(name: str, dtype: torch.dtype) -> None:
    _require(dtype in DTYPES, f"{name} has dtype {dtype}", "Expected float32, float16 or bfloat16.")


def _with_index(device: torch.device) -> torch.device:
    """ "cuda" is the current GPU, as torch takes it."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _describe(shape: tuple[int, ...], dtype: torch.dtype, device: str = "") -> str:
    return f"{shape} {str(dtype).removeprefix('torch.')} {device}".strip()


def _require(condition: bool, message: str, hint: str) -> None:
    if not condition:
        raise InputError(message, hint)
