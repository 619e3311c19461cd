"""Which shapes and methods are measured: presets, options and their checks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from specbench.errors import InputError
from specbench.sampling.names import MAX_VOCAB, POLICIES
from specbench.sampling.registry import Method, get_method, methods
from specbench.scenario import parse_gammas

DTYPES = ("float32", "float16", "bfloat16")
CUSTOM = "custom"


@dataclass(frozen=True)
class Shape:
    """Sizes of one verify step; `dtype` is that of both logits, by name."""

    batch_size: int
    gamma: int
    vocab_size: int
    dtype: str

    def __str__(self) -> str:
        return f"B {self.batch_size} γ {self.gamma} V {self.vocab_size} {self.dtype}"

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype itself."""
        found: torch.dtype = getattr(torch, self.dtype)
        return found


@dataclass(frozen=True)
class Plan:
    """What is to be measured, every part of it checked.

    Attributes:
        name: the preset, or "custom" if an option replaced one of its axes.
        noise: standard deviation of draft − target, in logits: it sets the acceptance.
        replays: samples of each figure.
    """

    name: str
    shapes: list[Shape]
    methods: list[Method]
    noise: float
    replays: int
    seed: int
    device: torch.device


def _product(
    batch_sizes: Sequence[int], gammas: Sequence[int], vocabs: Sequence[int], dtypes: Sequence[str]
) -> list[Shape]:
    return [
        Shape(batch, gamma, vocab, dtype)
        for dtype, vocab, batch, gamma in itertools.product(dtypes, vocabs, batch_sizes, gammas)
    ]


_PAPER = [
    *(Shape(1, gamma, 32000, "float32") for gamma in (1, 5, 20)),
    Shape(1, 5, 51865, "float32"),
    *(Shape(1, gamma, vocab, "float32") for vocab in (151936, 256000) for gamma in (5, 20)),
    *(Shape(1, 5, vocab, "float16") for vocab in (32000, 51865, 151936)),
    Shape(1, 20, 256000, "float16"),
    Shape(8, 5, 32000, "float32"),
    Shape(8, 5, 151936, "float16"),
    *(
        shape
        for dtype in ("float16", "float32")
        for shape in (Shape(32, 5, 151936, dtype), Shape(64, 8, 128256, dtype))
    ),
]

PRESETS = {
    "paper": _PAPER,
    "vocab": _product(
        [1],
        [5],
        [1000, 32000, 50257, 51865, 128256, 151936, 256000, 262144],
        ["float16", "float32"],
    ),
    "batch": _product([2**i for i in range(8)], [5], [151936, 128256], ["float16"]),
    "gamma": _product([1], [*range(1, 21), 32, 64, 128], [32000, 151936], ["float16"]),
}
"""The shapes of each question: the papers' sizes, and one axis at a time."""


def make_plan(
    device: torch.device,
    *,
    preset: str = "paper",
    method: str | None = None,
    gamma: str | None = None,
    vocab_size: str | None = None,
    batch_size: str | None = None,
    dtype: str | None = None,
    noise: float = 0.6,
    replays: int = 30,
    seed: int = 0,
) -> Plan:
    """A preset, with the axes replaced that an option names; texts as the command line takes them.

    Raises:
        InputError: a value that cannot be used.
        MachineError: another package's method cannot be loaded.
    """
    if preset not in PRESETS:
        raise InputError(f"unknown preset {preset!r}", f"There are: {', '.join(PRESETS)}.")
    options: dict[str, Sequence[int] | Sequence[str]] = {}
    if gamma is not None:
        options["gamma"] = _gammas(gamma)
    if vocab_size is not None:
        options["vocab_size"] = _sizes("vocab-size", vocab_size, MAX_VOCAB)
    if batch_size is not None:
        options["batch_size"] = _sizes("batch-size", batch_size, 2**20)
    if dtype is not None:
        options["dtype"] = _dtypes(dtype)
    if not 0 <= noise < math.inf:
        raise InputError(f"noise is {noise:g}", "Give 0, where draft equals target, or more.")
    if replays < 1:
        raise InputError(f"replays is {replays}", "Give at least 1; 30 for figures to rely on.")
    if not 0 <= seed < 2**62:
        raise InputError(f"seed is {seed}", "Give 0 or more, and less than 2**62.")
    chosen = [get_method(name) for name in (_items(method) if method else methods())]
    shapes = PRESETS[preset]
    for axis, values in options.items():
        shapes = _replaced(shapes, axis, values)
    return Plan(CUSTOM if options else preset, shapes, chosen, noise, replays, seed, device)


def _replaced(shapes: list[Shape], axis: str, values: Sequence[int] | Sequence[str]) -> list[Shape]:
    """The shapes with each of the values on that axis, none of them twice."""
    changed = [replace(shape, **{axis: value}) for shape in shapes for value in values]  # type: ignore[arg-type]
    return list(dict.fromkeys(changed))


def _items(text: str) -> list[str]:
    return list(dict.fromkeys(part.strip() for part in text.split(",")))


def _gammas(text: str) -> list[int]:
    found = parse_gammas(text)
    for value in found:
        if value in POLICIES:
            raise InputError(
                f"gamma {value!r} is a policy, and one verify step has none",
                "Give numbers: 5, 1,2,4 or 1..20.",
            )
    return [int(value) for value in found]


def _sizes(name: str, text: str, largest: int) -> list[int]:
    found = []
    for item in _items(text):
        if not (item.isdecimal() and len(item) < 10 and 1 <= int(item) <= largest):
            raise InputError(
                f"{name} holds {item!r}",
                f"Give whole numbers from 1 to {largest}, separated by commas.",
            )
        found.append(int(item))
    return found


def _dtypes(text: str) -> list[str]:
    for item in _items(text):
        if item not in DTYPES:
            raise InputError(f"dtype {item!r} is unknown", f"Give {', '.join(DTYPES)}.")
    return _items(text)
