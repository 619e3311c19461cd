"""specbench: what does this verification kernel, this draft model, this γ really buy?

The public Python API. Importing the package imports nothing heavy: each name is loaded at its first
use, so that `specbench --help` and `specbench compare` never pay for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "verify": "specbench.sampling.verifier",
    "Verification": "specbench.sampling.verifier",
    "Verifier": "specbench.sampling.verifier",
    "methods": "specbench.sampling.registry",
    "load_results": "specbench.report.reader",
}

_MODULES = {"transformers"}
"""Of which `use` is the public part: `specbench.transformers.use("fused")`."""

__all__ = [
    "Verification", "Verifier", "__version__", "load_results", "methods", "transformers", "verify",
]  # fmt: skip

if TYPE_CHECKING:
    from specbench import transformers
    from specbench.report.reader import load_results
    from specbench.sampling.registry import methods
    from specbench.sampling.verifier import Verification, Verifier, verify


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'specbench' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
