"""The pieces of a step, as calls or as CUDA graphs.

A piece reads and writes static memory (`workspace`) and nothing of the host's but γ and how much of the
cache must be read. So it can be captured once for each γ and window, and replayed in every later step.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from specbench.engine.attention import SPLIT
from specbench.engine.cache import BUCKET, RaggedCache
from specbench.engine.chance import Chance, Sampler, Tools
from specbench.engine.decoding import COMPILED, EAGER, Decoding, Execution
from specbench.engine.model import CausalModel
from specbench.engine.observer import Phase
from specbench.engine.sight import Sight
from specbench.engine.speech import SpeechModel
from specbench.engine.suppression import Suppression
from specbench.engine.synthetic import SyntheticAcceptance
from specbench.engine.workspace import (
    BEHIND,
    GRAPH_BUCKET,
    Workspace,
    hearing_width,
    prefill_shape,
    prefill_width,
    rounded,
)
from specbench.sampling.processing import process
from specbench.sampling.registry import Method
from specbench.sampling.verifier import Verification


@dataclass(frozen=True)
class Side:
    """One of the two models, its cache, and what it sees of a step's tokens, in static memory."""

    model: CausalModel
    cache: RaggedCache
    sight: Sight


@dataclass(frozen=True)
class Piece:
    """Part of a step.

    Attributes:
        key: all that its call depends on but the memory it works in; None for what the host does alone.
        shapes: what torch chooses kernels for in it; empty if that is one thing, the key.
    """

    key: Hashable | None
    call: Callable[[], object]
    shapes: frozenset[Hashable] = frozenset()


class Steps:
    """The steps of one generation, in pieces."""

    def __init__(
        self,
        target: CausalModel,
        draft: CausalModel,
        tools: Tools,
        room: Workspace,
        method: Method,
        most_drafts: int,
        decoding: Decoding,
        execution: Execution,
        suppression: Suppression | None = None,
    ) -> None:
        self._target, self._draft, self._vocab_size = target, draft, tools.vocab_size
        self._room, self._slots, self._execution = room, room.slots, execution
        self._decoding, self._plain = decoding, most_drafts == 0
        self._suppression = suppression
        self._captures = execution.mode != EAGER
        # What both models' rows depend on, and what the decision depends on besides.
        self._rows_key = (
            execution.mode, execution.attention, decoding.temperature, decoding.top_k, decoding.top_p,
        )  # fmt: skip
        self._law_key = (
            method, decoding.sigmoid_range, decoding.temperature, self._plain,
            execution.synthetic_acceptance,
        )  # fmt: skip
        warmth = decoding.temperature
        self._temperature: Tensor = self._keep(
            ("temperature", warmth),
            lambda: torch.full((room.size,), warmth, device=room.offered.device),
        )
        self._sampler: Sampler = self._keep(
            ("sampler", warmth, self._plain),
            lambda: tools.sampler(room.slots, max(room.most_drafts, 1), warmth),
        )
        self._chance: Chance = self._keep(
            ("chance", *self._law_key),
            lambda: Chance(
                tools, method, room.slots, self._sampler, warmth, decoding.sigmoid_range,
                plain=self._plain,
            ),
        )  # fmt: skip
        self._target_side = self._side("target", target, room.target_cache)
        self._draft_side = self._side("draft", draft, room.draft_cache)
        rate = execution.synthetic_acceptance
        self._dice = None if rate is None else SyntheticAcceptance(rate, room.offered.device)
        self._results: dict[int, Verification] = self._keep(("results", *self._law_key), dict)

    def of(self, gamma: int, held: Sequence[int]) -> dict[Phase, list[Piece]]:
        """A step of γ drafts, for slots that hold so many tokens (0: empty)."""
        windows = self._windows([tokens + gamma for tokens in held])
        law = (gamma, *self._law_key)
        # A decision that cannot be captured looks for its numbers where the last call left them, and
        # leaves its result somewhere else each time.
        captured = self._captures and self._law_of(gamma) not in self._room.graphs.refused
        draws = captured and self._chance.draws_beforehand  # a graph of nothing cannot be
        return {
            "random": [Piece(("random", *law) if draws else None, partial(self._begin, gamma))],
            "draft": [
                self._reading(("draft", slot), windows, partial(self._draft_one, slot, windows))
                for slot in range(gamma)
            ],
            "target": [
                self._reading(("target", gamma), windows, partial(self._score, gamma, windows))
            ],
            "verify": [Piece(self._law_of(gamma), partial(self._decide, gamma))],
            "commit": [Piece(("commit", *law) if captured else None, partial(self._commit, gamma))],
        }

    def prepare(self, gamma: int, phases: Mapping[Phase, list[Piece]]) -> bool:
        """Captures what is not captured yet of a step of γ drafts, or rehearses it where nothing is
        captured; returns whether there was anything.

        A piece runs before it is captured. That does no harm: it writes what the step itself will
        write again, except for the commit.
        """
        graphs = self._room.graphs
        pieces = [(phase, piece) for phase, some in phases.items() for piece in some]
        if not self._captures:
            return self.rehearse([piece for phase, piece in pieces if phase != "commit"])
        if all(piece.key is None or piece.key in graphs for _, piece in pieces):
            return False
        graphs.trim()
        state = self._slots.state()
        for phase, piece in pieces:
            if phase == "commit" and self._law_of(gamma) in graphs.refused:
                break  # it is no graph either
            if piece.key is None or piece.key in graphs:
                graphs.run(piece.key, piece.call)  # the next piece works on this one's results
            else:
                graphs.add(
                    piece.key, piece.call, outlived=phase in ("random", "verify"),
                    may_refuse=phase == "verify",
                )  # fmt: skip
        self._slots.restore(state)
        torch.cuda.synchronize()
        return True

    def run(self, pieces: Iterable[Piece]) -> None:
        """Replays, or does, these pieces."""
        for piece in pieces:
            self._room.graphs.run(piece.key if self._captures else None, piece.call)

    def allocate(self) -> None:
        """Takes the caches' memory."""
        for side in self._sides():
            if not side.cache.allocated:
                side.model.allocate(side.cache, self._execution.attention)

    def hearing(self, features: Mapping[int, Tensor]) -> list[Piece]:
        """What these slots, in ascending order, are to hear: as many at once as memory is meant for."""
        return [
            Piece(
                ("hear", rows.stop - rows.start, self._execution.attention, self._plain),
                partial(
                    self._hear, rows, [features[slot] for slot in range(rows.start, rows.stop)]
                ),
            )
            for rows in self._heard_together(list(features))
        ]

    def prefilling(self, rows: slice | None, width: int) -> list[Piece]:
        """Feeds both models the first tokens of these slots' prompts, up to so many at least."""
        count = self._room.size if rows is None else rows.stop - rows.start
        chunk = prefill_width(count)
        pieces = []
        for start in range(0, width, chunk):
            fed = prefill_shape(min(chunk, width - start), self._room.offered.device)
            key = ("prefill", count, start, fed, self._execution.attention, self._plain)
            pieces.append(Piece(key, partial(self._prefill, rows, count, start, fed)))
        return pieces

    def clearing(self, rows: slice) -> Piece:
        """Forgets, in the caches that the steps use, who had these slots before."""
        return Piece(None, partial(self._clear, rows))

    def rehearse(self, pieces: Sequence[Piece]) -> bool:
        """Runs pieces once for nothing if a GPU meets a shape among them; returns whether it did.

        There torch chooses its kernels when it first meets a shape, which takes longer than they do.
        What they write they will write again.
        """
        room = self._room
        keys = set().union(*(piece.shapes or {piece.key} for piece in pieces)) - {None}
        if room.offered.device.type != "cuda" or keys <= room.rehearsed:
            return False
        for piece in pieces:
            piece.call()
        room.rehearsed |= keys
        torch.cuda.synchronize()
        return True

    def _heard_together(self, slots: Sequence[int]) -> Iterator[slice]:
        """Slots that stand side by side, as many as an encoder takes at once."""
        if not slots:
            return
        assert isinstance(self._target, SpeechModel)
        most, start = hearing_width(self._target.frames), 0
        for end in range(1, len(slots) + 1):
            together = end < len(slots) and end - start < most
            if not (together and slots[end] == slots[end - 1] + 1):
                yield slice(slots[start], slots[end - 1] + 1)
                start = end

    def _hear(self, rows: slice, features: Sequence[Tensor]) -> None:
        """Both models hear (mel bins, frames of audio) each, and keep what they need of it."""
        attention, last = self._execution.attention, None
        together = torch.stack(list(features))
        for side in self._sides():
            model = side.model
            assert isinstance(model, SpeechModel)
            if model.encoder is not last:
                heard, last = model.encode(together, attention), model.encoder
            model.listen(heard, side.cache, rows, attention)

    def _clear(self, rows: slice) -> None:
        for side in self._sides():
            side.cache.clear(rows)

    def _prefill(self, rows: slice | None, count: int, start: int, width: int) -> None:
        tokens, positions = self._slots.prompts(start, width, rows or slice(None))
        for side in self._sides():
            side.model.forward(
                tokens, positions, side.cache, [rounded(start + width)] * count, keep=1, rows=rows,
                attention=self._execution.attention,
            )  # fmt: skip

    def _sides(self) -> list[Side]:
        """Those that the steps need."""
        return [self._target_side] if self._plain else [self._target_side, self._draft_side]

    def _side(self, name: str, model: CausalModel, cache: RaggedCache) -> Side:
        room = self._room
        sight = self._keep(
            ("sight", name), lambda: model.look(room.positions, room.capacity, room.capacity)
        )
        return Side(model, cache, sight)

    def _reading(
        self, name: tuple[Hashable, ...], windows: tuple[int, ...], call: Callable[[], object]
    ) -> Piece:
        """A piece that reads the caches, so many slots of each sequence."""
        # With SPLIT each sequence's attention is a call of its own, whatever its neighbours' windows are.
        alone = set(windows) if self._execution.attention == SPLIT else {windows}
        shapes = frozenset((*name, part, self._rows_key) for part in alone)
        return Piece((*name, windows, self._rows_key), call, shapes)

    def _law_of(self, gamma: int) -> Hashable:
        return "verify", gamma, *self._law_key

    def _begin(self, gamma: int) -> object:
        self._chance.begin(gamma)
        return self._chance.in_use()

    def _look(self, windows: Sequence[int]) -> None:
        """Where the step's tokens will stand and what they may see, once for all its forwards: each
        would take a dozen launches for it, as long as a layer or two of a small draft."""
        room = self._room
        room.positions.copy_(self._slots.positions(-BEHIND, room.positions.shape[1]))
        for side in self._sides():
            side.sight.take(side.model.look(room.positions, max(windows), room.capacity))

    def _draft_one(self, slot: int, windows: Sequence[int]) -> None:
        """One more token of each sequence, and the row it is drawn from."""
        if slot == 0:
            self._look(windows)
            columns = slice(0, BEHIND)
            tokens = self._slots.tokens_at(self._room.positions[:, columns])
        else:
            columns = slice(BEHIND + slot - 1, BEHIND + slot)
            tokens = self._chance.drafts(slot)[:, -1:]
        row = self._room.draft_logits[:, slot]
        raw = self._forward(self._draft_side, tokens, columns, windows, keep=1)
        row.copy_(raw[:, 0])
        self._chance.draft(row, slot)

    def _score(self, gamma: int, windows: Sequence[int]) -> None:
        """The target's rows after the last token and after each draft."""
        if gamma == 0:
            self._look(windows)
        slots, drafts = self._slots, self._chance.drafts(gamma)
        self._room.offered.copy_(slots.worth_verifying(drafts))
        columns = slice(BEHIND - 1, BEHIND + gamma)
        last = slots.tokens_at(self._room.positions[:, BEHIND - 1 : BEHIND])
        tokens = torch.cat([last, drafts], 1)
        raw = self._forward(self._target_side, tokens, columns, windows)
        self._room.target_logits[:, : gamma + 1].copy_(raw)

    def _decide(self, gamma: int) -> object:
        room = self._room
        result = self._chance.decide(
            room.target_logits[:, : gamma + 1], room.draft_logits[:, :gamma], room.offered
        )
        self._results[gamma] = result
        return result, self._chance.in_use()

    def _commit(self, gamma: int) -> object:
        """Dice, which are no method's, are thrown here, lest they count as verification."""
        result, offered, slots = self._results[gamma], self._room.offered, self._slots
        if self._dice is not None and gamma:
            drafts = self._chance.drafts(gamma)
            result = self._dice.overrule(result, drafts, offered, slots.seeds, slots.lengths)
        slots.commit(result, offered)
        return self._dice

    def _forward(
        self,
        side: Side,
        tokens: Tensor,
        columns: slice,
        windows: Sequence[int],
        keep: int = 0,
    ) -> Tensor:
        """The one place where either model's logits become what is sampled from and verified."""
        decoding = self._decoding
        positions = self._room.positions[:, columns]
        raw = side.model.forward(
            tokens, positions, side.cache, windows, keep=keep, attention=self._execution.attention,
            compiled=self._execution.mode == COMPILED, sight=side.sight.part(columns, max(windows)),
        )  # fmt: skip
        return process(
            raw.to(self._target.dtype), self._vocab_size, self._temperature, decoding.top_k,
            decoding.top_p, suppressed=self._suppressed(positions[:, -keep:]),
        )  # fmt: skip

    def _suppressed(self, positions: Tensor) -> Tensor | None:
        """(B, T, V) bool: what must not follow the tokens at these positions."""
        if self._suppression is None:
            return None
        is_first = positions + 1 == self._slots.begins[:, None]
        return self._suppression.of(is_first)

    def _windows(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """The slots of the cache that each sequence's attention reads."""
        capacity = self._room.capacity
        if self._execution.mode == COMPILED:  # every window would be compiled anew
            return (capacity,) * len(tokens)
        bucket = GRAPH_BUCKET if self._captures else BUCKET
        own = tuple(min(rounded(max(held, 1), bucket), capacity) for held in tokens)
        return own if self._execution.attention == SPLIT else (max(own),) * len(own)

    def _keep(self, name: Hashable, make: Callable[[], Any]) -> Any:
        """What belongs to the workspace, made when first asked for: captured graphs hold its memory."""
        kept = self._room.kept
        if name not in kept:
            kept[name] = make()
        return kept[name]
