"""The memory that steps work in, and the graphs that were captured of them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch

from specbench.cuda.graphs import capture
from specbench.engine.cache import BUCKET
from specbench.engine.model import CausalModel
from specbench.engine.slots import Slots

GRAPH_BUCKET = 128
"""The same for graphs, of which every window, and with SPLIT every combination of them, is another."""
PREFILL_TOKENS = 8192
"""Prompts are fed in pieces of so many tokens of all sequences together: enough to keep any GPU busy, and
what a forward holds besides does not grow with the batch."""
BEHIND = 2
"""Tokens before its drafts that a step may feed: both caches lack the last, and after a full acceptance
the draft's lacks the one before it."""
MOST_GRAPHS = 512
"""Graphs that are kept; beyond them all are dropped. Each holds some megabytes of the device."""


def rounded(tokens: int, bucket: int = BUCKET) -> int:
    """Up to a whole number of buckets."""
    return -(-tokens // bucket) * bucket


def prefill_width(size: int) -> int:
    """Tokens of each of so many sequences that are fed at once: whole buckets."""
    return max(BUCKET, PREFILL_TOKENS // size // BUCKET * BUCKET)


def prefill_shape(width: int, device: torch.device) -> int:
    """Tokens of each sequence that are fed for so many of a prompt.

    On a GPU torch makes a plan of its attention for every length, which takes some ten times as long as
    the attention: so there are few lengths, powers of two and then whole buckets.
    """
    if device.type != "cuda":
        return width
    return rounded(width) if width > BUCKET else 1 << (width - 1).bit_length()


def hearing_width(frames: int) -> int:
    """Utterances of so many frames of an encoder's output that are heard at once."""
    return max(1, PREFILL_TOKENS // max(frames, 1))


class Workspace:
    """Static memory for batches of one size: slots, both caches and both models' rows of logits.

    Args:
        size: sequences at once.
        tokens: the most that a sequence may hold, drafts included; the capacity is that, rounded up.
        most_drafts: of a step.

    Attributes:
        draft_logits: (B, most_drafts, V), the rows that the drafts were drawn from; V is the smaller of
            the models' vocabularies.
        target_logits: (B, most_drafts + 1, V).
        offered: (B,) int64, the step's drafts that are worth verifying.
        positions: (B, BEHIND + most_drafts) int64, where a step's tokens stand.
        kept: whatever else belongs to this memory, by name.
        rehearsed: keys of pieces whose shapes a GPU has met.
        graphs: of the pieces of a step.
    """

    def __init__(
        self,
        target: CausalModel,
        draft: CausalModel,
        size: int,
        tokens: int,
        most_drafts: int,
        eos_tokens: Sequence[int],
    ) -> None:
        self.size, self.capacity, self.most_drafts = size, rounded(tokens), most_drafts
        device = target.device
        self.slots = Slots(size, self.capacity, most_drafts, eos_tokens, device)
        self.target_cache, self.draft_cache = (
            model.new_cache(size, self.capacity) for model in (target, draft)
        )
        vocab_size = min(target.vocab_size, draft.vocab_size)
        self.draft_logits, self.target_logits = (
            torch.zeros(size, rows, vocab_size, dtype=target.dtype, device=device)
            for rows in (most_drafts, most_drafts + 1)
        )
        self.offered = torch.zeros(size, dtype=torch.int64, device=device)
        self.positions = self.offered.new_full((size, BEHIND + most_drafts), self.capacity)
        self.kept: dict[Hashable, Any] = {}
        self.rehearsed: set[Hashable] = set()
        self.graphs = Graphs()

    def fits(self, size: int, tokens: int, most_drafts: int) -> bool:
        """Whether such a batch can work in it."""
        return size == self.size and tokens <= self.capacity and most_drafts <= self.most_drafts

    def clear(self, rows: slice = slice(None)) -> None:
        """Forgets the sequences of these slots. Hidden keys count for nothing, unless they are NaN."""
        self.target_cache.clear(rows)
        self.draft_cache.clear(rows)


class Graphs:
    """CUDA graphs by key, which run one after the other and share memory.

    There are two pools of it. What a graph leaves for a later one to read must not lie where a third,
    captured earlier, has its scratch: so the graphs whose results are read by others are kept apart
    from those that only write to a workspace. Among themselves they run in the order of their capture.

    Attributes:
        refused: key → why a piece cannot be captured; it runs as it is.
    """

    def __init__(self) -> None:
        self.refused: dict[Hashable, str] = {}
        self._graphs: dict[Hashable, tuple[torch.cuda.CUDAGraph, object]] = {}
        self._pools: dict[bool, Any] = {}

    def __contains__(self, key: Hashable) -> bool:
        return key in self._graphs or key in self.refused

    def __len__(self) -> int:
        return len(self._graphs)

    def add(
        self,
        key: Hashable,
        call: Callable[[], object],
        *,
        outlived: bool = False,
        may_refuse: bool = False,
    ) -> None:
        """Captures a call. It runs twice before and once after, which must come to the same.

        Args:
            call: returns what the graph needs to live as long as itself.
            outlived: its results are memory of its own, which another graph will read.
            may_refuse: a call that waits for the GPU is noted in `refused`.

        Raises:
            RuntimeError: the call waits for the GPU and may not.
        """
        if outlived not in self._pools:
            self._pools[outlived] = torch.cuda.graph_pool_handle()
        held: list[object] = []
        call()
        try:
            graph = capture([lambda: held.append(call())], self._pools[outlived])
        except torch.OutOfMemoryError:  # a RuntimeError too
            raise
        except RuntimeError as error:
            if not may_refuse:
                raise
            self.refused[key] = str(error)
        else:
            # A capture does nothing yet; what comes next may read what this was to write.
            graph.replay()
            self._graphs[key] = graph, held[-1]

    def trim(self) -> None:
        """Drops all graphs if there are too many."""
        if len(self._graphs) > MOST_GRAPHS:
            self._graphs.clear()
            # torch takes a pool all of whose graphs are gone for a broken one.
            self._pools.clear()

    def run(self, key: Hashable | None, call: Callable[[], object]) -> None:
        """Replays the key's graph, or makes the call if there is none."""
        if key is not None and key in self._graphs:
            self._graphs[key][0].replay()
        else:
            call()
