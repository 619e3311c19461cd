"""The native engine: speculative decoding of a batch in which every sequence has its own pace.

One step, for sequences that hold n tokens each (n differs from sequence to sequence):

    random   the step's random numbers, addressed by sequence and position (kernels draw them later)
    draft    the draft model proposes γ tokens, one after the other
    target   one forward of the target scores token n−1 and the γ drafts: γ+1 rows of logits
    verify   a method keeps some drafts and adds one token (Leviathan et al., 2211.17192)
    commit   the sequences grow on the device; the host reads how, asks whose text is whole, and tells the
             γ policy

Both caches hold every token of a sequence but its last; that one is fed next. After a full
acceptance the draft's cache lacks one more, the last draft, which was never fed. So the first draft
forward of a step always feeds the last *two* tokens: usually the first of them is rewritten with the
same keys, which is free, and no branch can forget the catch-up.

The pieces of a step and their capture in CUDA graphs are in `steps`, their memory in `workspace`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from specbench.engine import likelihood
from specbench.engine.batch import Batch, Generation, Request, check_requests
from specbench.engine.chance import Tools
from specbench.engine.decoding import PLAIN, Decoding, Execution
from specbench.engine.model import CausalModel
from specbench.engine.observer import Observer, Silent
from specbench.engine.steps import Steps
from specbench.engine.suppression import Suppression
from specbench.engine.workspace import Workspace
from specbench.sampling.policy import GammaPolicy
from specbench.sampling.registry import Method


class NativeEngine:
    """Decodes with a target and a draft that share a tokenizer.

    Args:
        target, draft: on one device.
        eos_tokens: ids that end a sequence.
        suppressed: ids that are never said, and ids that are not said first.
    """

    name = "native"

    def __init__(
        self,
        target: CausalModel,
        draft: CausalModel,
        eos_tokens: Sequence[int],
        suppressed: tuple[Sequence[int], Sequence[int]] = ((), ()),
    ) -> None:
        self.target, self.draft = target, draft
        self.eos_tokens = tuple(eos_tokens)
        contexts = [model.max_positions for model in (target, draft)]
        self.max_positions = min((limit for limit in contexts if limit), default=None)
        """Tokens a sequence may hold: what both models can take; None if neither says."""
        # Ids that only one of them has are nobody's tokens: they pad an embedding.
        vocab_size = min(target.vocab_size, draft.vocab_size)
        self._tools = Tools(vocab_size, target.dtype, target.device)
        self._suppression = (
            Suppression(*suppressed, vocab_size, target.device) if any(suppressed) else None
        )
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
            self._workspace = Workspace(
                self.target, self.draft, size, tokens, most_drafts, self.eos_tokens
            )
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
            steps = Steps(
                self.target, self.draft, self._tools, room, method, policy.limit, decoding, execution,
                self._suppression,
            )  # fmt: skip
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
        steps: Steps,
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
            stopped = batch.stop(report)
            watch.mark("commit")
            step = batch.take(report, gamma, stopped)
            for sequence in step.ended:
                watch.finished(sequence)
            policy.update(step.accepted, step.offered)
            if step.ended:
                self._admit(batch, room, steps, watch)
        return batch.generations()

    def _admit(self, batch: Batch, room: Workspace, steps: Steps, watch: Observer) -> None:
        """Seats who waits in the free slots, and feeds every prompt but its last token."""
        seated = batch.fill()
        if not seated:
            return
        for sequence in seated.values():
            watch.admitted(sequence)
        heard = {slot: one for slot in seated if (one := batch.features(slot)) is not None}
        pieces = steps.hearing(heard)
        if batch.steps == 0:  # nothing was left here: the workspace has just been cleared
            pieces += steps.prefilling(None, max(batch.held) - 1)
        else:  # one by one, and the others wait meanwhile
            for slot in seated:
                rows = slice(slot, slot + 1)
                pieces += [steps.clearing(rows), *steps.prefilling(rows, batch.held[slot] - 1)]
        if steps.rehearse(pieces):
            watch.mark("capture")
        watch.ready()
        for piece in pieces:
            piece.call()
        watch.mark("prefill")

    def log_probability(self, request: Request, new_tokens: Sequence[int]) -> float | None:
        """Mean log-probability (nats) of the new tokens under the target at temperature 1, unmasked.

        None if there are none.
        """
        return likelihood.log_probability(self.target, request, new_tokens)
