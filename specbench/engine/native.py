"""The native engine: speculative decoding of a batch in which every sequence has its own pace.

One step, for sequences that hold n tokens each (n differs from sequence to sequence):

    random   the step's random numbers, addressed by sequence and position (kernels draw them later)
    draft    the draft model proposes γ tokens, one after the other
    target   one forward of the target scores token n−1 and the γ drafts: γ+1 rows of logits
    verify   a method keeps some drafts and adds one token (Leviathan et al., 2211.17192)
    commit   the sequences grow on the device; the host reads how, and tells the γ policy

Both caches hold every token of a sequence but its last; that one is fed next. After a full
acceptance the draft's cache lacks one more, the last draft, which was never fed. So the first draft
forward of a step always feeds the last *two* tokens: usually the first of them is rewritten with the
same keys, which is free, and no branch can forget the catch-up.

The step reads and writes static memory (`workspace`) and nothing of the host's but γ and how much of
the cache must be read. So its pieces can be captured in CUDA graphs, by γ and that window: `graphs`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from specbench.engine.attention import PAD, SPLIT
from specbench.engine.batch import Batch, Generation, Request, check_requests
from specbench.engine.cache import RaggedCache
from specbench.engine.chance import Chance, Sampler, Tools
from specbench.engine.model import CausalModel
from specbench.engine.observer import Observer, Phase, Silent
from specbench.engine.synthetic import SyntheticAcceptance
from specbench.engine.workspace import BUCKET, GRAPH_BUCKET, Workspace, prefill_width, rounded
from specbench.sampling.names import SIGMOID_RANGE
from specbench.sampling.policy import GammaPolicy
from specbench.sampling.processing import process
from specbench.sampling.registry import Method
from specbench.sampling.verifier import Verification

EAGER, GRAPHS, COMPILED = "eager", "graphs", "compiled"


@dataclass(frozen=True)
class Decoding:
    """How to decode.

    Attributes:
        max_new_tokens: never passed, drafts included.
        temperature: 0 is greedy.
        top_k, top_p: None is off.
        sigmoid_range: (alpha, beta) in logits, for the method `sigmoid`.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    sigmoid_range: tuple[float, float] = SIGMOID_RANGE


@dataclass(frozen=True)
class Execution:
    """By which means to decode; none of it changes the law of what comes out but the last.

    Attributes:
        mode: "eager"; "graphs", the step as CUDA graphs; "compiled", with torch.compile besides.
        attention: "pad" or "split".
        synthetic_acceptance: the probability that a draft is kept, whatever the verifier decided;
            None leaves it to the verifier.
    """

    mode: str = EAGER
    attention: str = PAD
    synthetic_acceptance: float | None = None


PLAIN = Execution()


class NativeEngine:
    """Decodes with a target and a draft that share a tokenizer.

    Args:
        target, draft: on one device.
        eos_tokens: ids that end a sequence.
    """

    name = "native"

    def __init__(self, target: CausalModel, draft: CausalModel, eos_tokens: Sequence[int]) -> None:
        self.target, self.draft = target, draft
        self.eos_tokens = tuple(eos_tokens)
        contexts = [model.max_positions for model in (target, draft)]
        self.max_positions = min((limit for limit in contexts if limit), default=None)
        """Tokens a sequence may hold: what both models can take; None if neither says."""
        self._tools = Tools(target.vocab_size, target.dtype, target.device)
        self._workspace: Workspace | None = None

    def reserve(self, size: int, tokens: int, most_drafts: int) -> Workspace:
        """Memory for batches of that size, kept from one batch to the next.

        Args:
            size: sequences at once.
            tokens: the most that a sequence will hold: prompt, new tokens and the drafts of a step.
            most_drafts: of a step.
        """
        if self._workspace is None or not self._workspace.fits(size, tokens, most_drafts):
            self.release()
            self._workspace = Workspace(self.target, size, tokens, most_drafts, self.eos_tokens)
        return self._workspace

    @property
    def refusals(self) -> list[str]:
        """Why decisions were not captured: for each, its method and the reason."""
        refused = {} if self._workspace is None else self._workspace.graphs.refused
        return [f"{key[2].name} runs between the graphs: {why}" for key, why in refused.items()]  # type: ignore[index]

    def release(self) -> None:
        """Gives the memory back, and the graphs with it."""
        self._workspace = None
        if self.target.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.no_grad()
    def generate(
        self,
        requests: Sequence[Request],
        method: Method,
        policy: GammaPolicy,
        decoding: Decoding,
        observer: Observer | None = None,
        execution: Execution = PLAIN,
        size: int | None = None,
    ) -> list[Generation]:
        """Decodes all requests to the end.

        With a policy whose γ is 0 this is plain autoregressive decoding from the target, whatever
        the method.

        Args:
            size: sequences at once; a request takes the place of one that has ended. None decodes all
                at once.

        Returns:
            One generation for each request, in order. A sequence whose target logits are no numbers
            ends with `error` set; the others go on.

        Raises:
            MachineError: the models are on a GPU whose kernels cannot run here.
            torch.OutOfMemoryError: so large a batch does not fit. After any error the workspace is
                dropped, and `release` gives its memory back.
        """
        check_requests(requests)
        watch = observer or Silent()
        longest = max(len(request.prompt) for request in requests)
        # A step may draft past the token limit of a sequence whose neighbour still has room.
        tokens = longest + decoding.max_new_tokens + policy.limit
        try:
            room = self.reserve(size or len(requests), tokens, policy.limit)
            room.slots.clear()
            room.clear()
            steps = _Steps(self, room, method, policy.limit, decoding, execution)
            steps.allocate()
            watch.start()
            return self._decode(requests, room, steps, policy, decoding, watch)
        except Exception:
            # Half of a step's graphs, or memory that others need more: it is all made anew.
            self._workspace = None
            raise

    def _decode(
        self,
        requests: Sequence[Request],
        room: Workspace,
        steps: _Steps,
        policy: GammaPolicy,
        decoding: Decoding,
        watch: Observer,
    ) -> list[Generation]:
        batch = Batch(requests, decoding.max_new_tokens, room.slots)
        self._admit(batch, room, steps, watch)
        while batch.active:
            gamma = min(policy.gamma, batch.most_drafts())
            phases = steps.of(gamma, batch.held)
            if steps.prepare(gamma, phases):
                watch.mark("capture")
            for phase, pieces in phases.items():
                watch.ready()
                steps.run(pieces)
                if phase != "commit":
                    watch.mark(phase)
            report = room.slots.report(gamma)
            watch.mark("commit")
            step = batch.take(report, gamma)
            for sequence in step.ended:
                watch.finished(sequence)
            policy.update(step.accepted, step.offered)
            if step.ended:
                self._admit(batch, room, steps, watch)
        return batch.generations()

    def _admit(self, batch: Batch, room: Workspace, steps: _Steps, watch: Observer) -> None:
        """Seats who waits in the free slots, and feeds every prompt but its last token."""
        seated = batch.fill()
        if not seated:
            return
        for sequence in seated.values():
            watch.admitted(sequence)
        watch.ready()
        if len(seated) == room.size:
            steps.prefill(None, max(batch.held) - 1)
        else:  # the others wait meanwhile
            for slot in seated:
                rows = slice(slot, slot + 1)
                room.clear(rows)
                steps.prefill(rows, batch.held[slot] - 1)
        watch.mark("prefill")

    @torch.no_grad()
    def log_probability(self, prompt: Sequence[int], new_tokens: Sequence[int]) -> float | None:
        """Mean log-probability (nats) of the new tokens under the target at temperature 1, unmasked.

        None if there are none.
        """
        if not new_tokens:
            return None
        tokens = torch.tensor([[*prompt, *new_tokens]], device=self.target.device)
        length = tokens.shape[1]
        positions = torch.arange(length, device=tokens.device)[None]
        logits = self.target.forward(
            tokens, positions, RaggedCache(1, rounded(length)), [length], keep=len(new_tokens) + 1
        )
        rows = logits[0, :-1].double().log_softmax(-1)
        return float(rows.gather(1, tokens[0, -len(new_tokens) :, None]).mean())


@dataclass(frozen=True)
class _Piece:
    """Part of a step. `key` says all that its call depends on but the memory it works in; None for what
    the host does alone."""

    key: Hashable | None
    call: Callable[[], object]


class _Steps:
    """The steps of one generation, in pieces."""

    def __init__(
        self,
        engine: NativeEngine,
        room: Workspace,
        method: Method,
        most_drafts: int,
        decoding: Decoding,
        execution: Execution,
    ) -> None:
        self._target, self._draft = engine.target, engine.draft
        self._room, self._slots, self._execution = room, room.slots, execution
        self._decoding, self._plain = decoding, most_drafts == 0
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
            lambda: engine._tools.sampler(room.slots, max(room.most_drafts, 1), warmth),
        )
        self._chance: Chance = self._keep(
            ("chance", *self._law_key),
            lambda: Chance(
                engine._tools, method, room.slots, self._sampler, warmth, decoding.sigmoid_range,
                plain=self._plain,
            ),
        )  # fmt: skip
        rate = execution.synthetic_acceptance
        self._dice = None if rate is None else SyntheticAcceptance(rate, room.offered.device)
        self._results: dict[int, Verification] = self._keep(("results", *self._law_key), dict)

    def of(self, gamma: int, held: Sequence[int]) -> dict[Phase, list[_Piece]]:
        """A step of γ drafts, for slots that hold so many tokens (0: empty)."""
        windows = self._windows([tokens + gamma for tokens in held])
        rows, law = (windows, self._rows_key), (gamma, *self._law_key)
        # A decision that cannot be captured looks for its numbers where the last call left them, and
        # leaves its result somewhere else each time.
        captured = self._captures and self._law_of(gamma) not in self._room.graphs.refused
        draws = captured and self._chance.draws_beforehand  # a graph of nothing cannot be
        return {
            "random": [_Piece(("random", *law) if draws else None, partial(self._begin, gamma))],
            "draft": [
                _Piece(("draft", slot, *rows), partial(self._draft_one, slot, windows))
                for slot in range(gamma)
            ],
            "target": [_Piece(("target", gamma, *rows), partial(self._score, gamma, windows))],
            "verify": [_Piece(self._law_of(gamma), partial(self._decide, gamma))],
            "commit": [
                _Piece(("commit", *law) if captured else None, partial(self._commit, gamma))
            ],
        }

    def prepare(self, gamma: int, phases: Mapping[Phase, list[_Piece]]) -> bool:
        """Captures what is not captured yet of a step of γ drafts; returns whether there was anything.

        A piece runs before it is captured. That does no harm: it writes what the step itself will
        write again, except for the commit.
        """
        graphs = self._room.graphs
        pieces = [(phase, piece) for phase, some in phases.items() for piece in some]
        if not self._captures or all(
            piece.key is None or piece.key in graphs for _, piece in pieces
        ):
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

    def run(self, pieces: Iterable[_Piece]) -> None:
        """Replays, or does, these pieces."""
        for piece in pieces:
            self._room.graphs.run(piece.key if self._captures else None, piece.call)

    def allocate(self) -> None:
        """Takes the caches' memory, by a forward of one token that goes nowhere in each."""
        room = self._room
        nowhere = torch.full((room.size, 1), room.capacity, device=room.offered.device)
        caches = [(self._target, room.target_cache)]
        caches += [] if self._plain else [(self._draft, room.draft_cache)]
        for model, cache in caches:
            if not cache.allocated:
                model.forward(
                    torch.zeros_like(nowhere), nowhere, cache, [BUCKET] * room.size,
                    attention=self._execution.attention,
                )  # fmt: skip

    def prefill(self, rows: slice | None, width: int) -> None:
        """Feeds both models the first tokens of these slots' prompts, up to so many."""
        slots, room = self._slots, self._room
        count = room.size if rows is None else rows.stop - rows.start
        chunk = prefill_width(count)
        models = [(self._target, room.target_cache)]
        models += [] if self._plain else [(self._draft, room.draft_cache)]
        for start in range(0, width, chunk):
            end = min(start + chunk, width)
            tokens, positions = slots.feed(start, end - start, until=slots.lengths - 1, rows=rows)
            for model, cache in models:
                model.forward(
                    tokens, positions, cache, [rounded(end)] * count, keep=1, rows=rows,
                    attention=self._execution.attention,
                )  # fmt: skip

    def _law_of(self, gamma: int) -> Hashable:
        return "verify", gamma, *self._law_key

    def _begin(self, gamma: int) -> object:
        self._chance.begin(gamma)
        return self._chance.in_use()

    def _draft_one(self, slot: int, windows: Sequence[int]) -> None:
        """One more token of each sequence, and the row it is drawn from."""
        if slot == 0:
            tokens, positions = self._slots.feed(self._slots.lengths - 2, 2)
        else:
            tokens = self._chance.drafts(slot)[:, -1:]
            positions = self._slots.positions(slot - 1)[:, None]
        row = self._room.draft_logits[:, slot]
        raw = self._forward(self._draft, tokens, positions, self._room.draft_cache, windows, keep=1)
        row.copy_(raw[:, 0])
        self._chance.draft(row, slot)

    def _score(self, gamma: int, windows: Sequence[int]) -> None:
        """The target's rows after the last token and after each draft."""
        slots, drafts = self._slots, self._chance.drafts(gamma)
        self._room.offered.copy_(slots.worth_verifying(drafts))
        last, first = slots.feed(slots.lengths - 1, 1)
        tokens = torch.cat([last, drafts], 1)
        positions = torch.cat([first, *(slots.positions(i)[:, None] for i in range(gamma))], 1)
        raw = self._forward(self._target, tokens, positions, self._room.target_cache, windows)
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
        model: CausalModel,
        tokens: Tensor,
        positions: Tensor,
        cache: RaggedCache,
        windows: Sequence[int],
        keep: int = 0,
    ) -> Tensor:
        """The one place where either model's logits become what is sampled from and verified."""
        decoding, target = self._decoding, self._target
        raw = model.forward(
            tokens, positions, cache, windows, keep=keep, attention=self._execution.attention,
            compiled=self._execution.mode == COMPILED,
        )  # fmt: skip
        return process(
            raw.to(target.dtype), target.vocab_size, self._temperature, decoding.top_k, decoding.top_p,
            shared=min(target.vocab_size, self._draft.vocab_size),
        )  # fmt: skip

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
