"""A transformers model through torch.compile, one layer at a time.

A model's layers are alike but for their weights, so they share their compiled code: 32 of them take the
time of one, where the model as a whole takes half a minute for every shape. What would tell them apart is
their number, by which a cache finds a layer's keys; so here every attention carries its own keys. Where a
model asks for them by number all the same, as one that attends to an encoder does, all have one number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from specbench.engine.cache import RaggedCache, write
from specbench.errors import InputError

MOST_SHAPES = 1024
"""Shapes of a layer that may be compiled: one for each batch size and capacity, and another for its steps
of one token. torch gives up after eight by default."""


@dataclass(frozen=True)
class Place:
    """Where an attention of a compiled layer writes, and how far it reads.

    Attributes:
        keys, values: (B, H, capacity + 1, D), the layer's own.
        positions: (B, T) int64.
        window: slots that are read.
    """

    keys: Tensor
    values: Tensor
    positions: Tensor
    window: int

    def write(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Writes (B, H, T, D) and returns all up to the window."""
        write(self.keys, self.positions, keys)
        write(self.values, self.positions, values)
        return self.keys[:, :, : self.window], self.values[:, :, : self.window]


@dataclass(frozen=True)
class Kept:
    """What an attention of a compiled layer finds instead of what it is given: (B, H, S, D) each."""

    keys: Tensor
    values: Tensor

    def write(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """As of `Place`, but there is nothing to write."""
        return self.keys, self.values


class CompiledModel:
    """Calls a model with its layers, and the parts beside them, compiled.

    The tokens of a step may differ in number without being compiled anew: γ does.

    Args:
        model: of transformers.
        has_our_attention: or its own, which asks the cache for its keys by number.
    """

    def __init__(self, model: Any, has_our_attention: bool) -> None:
        config = torch._dynamo.config
        config.recompile_limit = max(MOST_SHAPES, config.recompile_limit)
        config.accumulated_recompile_limit = max(MOST_SHAPES, config.accumulated_recompile_limit)
        self._model = model
        self._parts = [(part, self._compiled(part.forward)) for part in _parts(model)]
        # Each with its layer's number.
        self._attentions = [
            (one, one.layer_idx) for one in model.modules()
            if has_our_attention and hasattr(one, "layer_idx")
        ]  # fmt: skip
        self._hears = not all(getattr(one, "is_causal", True) for one, _ in self._attentions)
        self._plain = [(part, part.forward) for part, _ in self._parts]
        self._tokens, self._is_probed = 0, not self._attentions

    def __call__(self, cache: RaggedCache, **inputs: Any) -> Any:
        """The model's output for these inputs, after a forward that took the cache's memory."""
        self._tokens = inputs["input_ids"].shape[1]
        if not self._is_probed:
            self._probe(cache, inputs)
        with self._in_place(cache):
            return self._model(**inputs)

    def _probe(self, cache: RaggedCache, inputs: Mapping[str, Any]) -> None:
        """Looks, uncompiled, whether each attention asks once for just what the cache was given.

        Between the two some architectures change it, or attend twice; they are not for this.
        """
        seen: list[int] = []
        handed_on: list[Tensor] = []

        def probe(attention: Any, number: int) -> None:
            place = attention.specbench_place

            def write(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
                if isinstance(place, Place) and keys is handed_on[0] and values is handed_on[1]:
                    seen.append(number)
                found: tuple[Tensor, Tensor] = place.write(keys, values)
                return found

            attention.specbench_place = SimpleNamespace(write=write)

        cache.handed_on = handed_on
        try:
            with self._in_place(cache, self._plain):
                for attention, number in self._attentions:
                    probe(attention, number)
                self._model(**inputs)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, TypeError):
            seen.clear()  # what it makes of its keys fits nowhere
        finally:
            cache.handed_on = None
        if sorted(seen) != list(range(cache.layers_held)):
            raise InputError(
                f"{type(self._model).__name__} changes its keys and values before it attends to them, so "
                "its layers cannot be compiled one by one",
                "Give --execution graphs.",
            )
        self._is_probed = True

    def _compiled(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        compiled = torch.compile(forward, dynamic=False)

        def call(*args: Any, **kwargs: Any) -> Any:
            for value in (*args, *kwargs.values()):
                for one in value if isinstance(value, tuple) else (value,):
                    self._vary(one)
            return compiled(*args, **kwargs)

        return call

    def _vary(self, value: object) -> None:
        """Tells torch which dimension of a tensor counts the step's tokens: of a mask the third."""
        if isinstance(value, Tensor) and self._tokens > 1:
            dim = 2 if value.ndim == 4 else 1
            if value.ndim > 1 and value.shape[dim] == self._tokens:
                torch._dynamo.maybe_mark_dynamic(value, dim)

    @contextmanager
    def _in_place(
        self, cache: RaggedCache, parts: Sequence[tuple[nn.Module, Any]] | None = None
    ) -> Iterator[None]:
        self._vary(cache.positions)
        cache.is_placed = bool(self._attentions)
        try:
            for attention, number in self._attentions:
                attention.specbench_place = _place(attention, cache, number)
                if self._hears:
                    attention.layer_idx = 0
            for part, forward in self._parts if parts is None else parts:
                part.forward = forward
            yield
        finally:
            for part, _ in self._parts:
                part.__dict__.pop("forward", None)
            for attention, number in self._attentions:
                attention.__dict__.pop("specbench_place", None)
                attention.layer_idx = number
            cache.is_placed = False


def _place(attention: nn.Module, cache: RaggedCache, number: int) -> Place | Kept:
    if getattr(attention, "is_causal", True):
        return Place(*cache.layer(number), cache.positions, cache.window)
    return Kept(*cache.heard(number))  # it attends to an encoder's output


def _parts(model: nn.Module) -> list[nn.Module]:
    """The layers, and what stands beside them: norms and rotary embeddings."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    parts: list[nn.Module] = []
    for parent in model.modules():
        lists = [child for child in parent.children() if isinstance(child, nn.ModuleList)]
        layers = [layer for child in lists for layer in child if type(layer).__name__ in names]
        if layers:
            beside = [
                child for child in parent.children()
                if not isinstance(child, nn.ModuleList | nn.Embedding)
            ]  # fmt: skip
            parts += layers + beside
    return parts
