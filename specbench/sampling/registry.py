"""The verification methods, built in and added by others.

Another package adds one through the entry-point group `specbench.methods`: the entry's name is the
method's, and it loads a `Method`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, entry_points
from typing import Literal

import torch
from torch import Tensor

from specbench.errors import MachineError, unknown_name
from specbench.sampling.baseline import verify_baseline
from specbench.sampling.laws import verify_block, verify_exact, verify_fused, verify_sigmoid
from specbench.sampling.step import Step

Law = Callable[[Step], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Method:
    """A way to verify drafts.

    Attributes:
        name: what the user types.
        exact: whether its output law is the target's.
        input: what its kernel reads: logits, or probabilities from a softmax outside.
        launches: of its own kernels in one call on a GPU, the softmaxes of `probs` not counted; None
            for plain torch operations.
        source: paper or project.
        summary: one line for `specbench list methods`.
        law: the method in torch for sampled decoding; greedy decoding is the same for all.
        rule: the acceptance rule of `reference` that the method follows; None if it has its own,
            and then `check` holds it to the target's law alone.
        kernel: stem of its CUDA kernel in kernels/; None if `law` is what runs on a GPU too.
        leaves_out: what it does not do, or others do for it: what its times must be read with.
        package: what pip calls the package that it needs; None if specbench alone will do.
        bind: prepares a step's arguments and returns the call that a user of that project makes at
            every step: what `specbench micro` times, without the translation that `law` adds. None:
            `law` itself is that call.
    """

    name: str
    exact: bool
    input: Literal["logits", "probs"]
    launches: int | None
    source: str
    summary: str
    law: Law
    rule: Literal["token", "block", "sigmoid"] | None = None
    kernel: str | None = None
    leaves_out: str = ""
    package: str | None = None
    bind: Callable[[Step], Callable[[], object]] | None = None

    def kernel_on(self, device: torch.device) -> str | None:
        """The stem of the kernel that runs there; None where `law` does."""
        return self.kernel if device.type == "cuda" else None

    def implementation_on(self, device: torch.device) -> Literal["torch", "cuda"]:
        """What runs there: the law as torch operations, or a kernel."""
        return "cuda" if self.kernel_on(device) else "torch"


_BUILT_IN = (
    Method(
        "baseline", True, "probs", None, "2211.17192, transformers",
        "the torch operations of Hugging Face's speculative sampling",
        verify_baseline, "token",
    ),
    Method(
        "exact", True, "probs", 1, "2406.11016",
        "the paper's exact method: softmax outside, the rest by vocabulary segment",
        verify_exact, "token", "verify_exact",
    ),
    Method(
        "sigmoid", False, "logits", 1, "2406.11016",
        "the paper's approximation: an element-wise sigmoid instead of softmax",
        verify_sigmoid, "sigmoid", "verify_sigmoid",
    ),
    Method(
        "fused", True, "logits", 1, "specbench",
        "exact, straight from logits, no probability tensor",
        verify_fused, "token", "verify_fused",
    ),
    Method(
        "block", True, "logits", 1, "2403.10444",
        "block verification: exact, accepts at least as many drafts",
        verify_block, "block", "verify_block",
    ),
)  # fmt: skip


@cache
def methods() -> dict[str, Method]:
    """All methods that work, by name, the built-in ones first. A built-in name cannot be taken."""
    built_in = {method.name: method for method in _BUILT_IN}
    return built_in | _joined()[0] | built_in


def broken_methods() -> dict[str, str]:
    """Methods of other packages that cannot be loaded, with the reason."""
    return _joined()[1]


def missing_methods() -> dict[str, str]:
    """Methods that are not installed, with what pip calls the package that they need."""
    return _joined()[2]


@cache
def _joined() -> tuple[dict[str, Method], dict[str, str], dict[str, str]]:
    """What the entry points add, what of it is broken, and what of it is not installed.

    One broken package must not stop the rest.
    """
    found: dict[str, Method] = {}
    broken: dict[str, str] = {}
    missing: dict[str, str] = {}
    for entry in entry_points(group="specbench.methods"):
        try:
            method: Method = entry.load()
            package = method.package
        except Exception as error:
            broken[entry.name] = f"{type(error).__name__}: {error}"
            continue
        if package is not None and not _is_installed(package):
            missing[entry.name] = package
        else:
            found[entry.name] = method
    return found, broken, missing


def _is_installed(package: str) -> bool:
    """Without importing it: that can take ten seconds."""
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True


def get_method(name: str) -> Method:
    """The method of that name.

    Raises:
        InputError: there is none; the nearest name is suggested.
        MachineError: it is not installed, or another package's method cannot be loaded.
    """
    if name in broken_methods():
        raise MachineError(
            f"method {name!r} cannot be loaded: {broken_methods()[name]}",
            "It belongs to another package: reinstall or mend that.",
        )
    if name in missing_methods():
        package = missing_methods()[name]
        raise MachineError(
            f"method {name!r} needs {package}, which is not installed", f"pip install {package}"
        )
    if name not in methods():
        raise unknown_name("method", name, methods())
    return methods()[name]
