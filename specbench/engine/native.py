"""The native engine: speculative decoding of a batch in which every sequence has its own pace.

One step, for sequences that hold n tokens each (n differs from sequence to sequence):

    random   the step's random numbers, addressed by sequence and position (kernels draw them later)
    draft    the draft model proposes γ tokens, one after the other
    target   one forward of the target scores token n−1 and the γ drafts: γ+1 rows of logits
    verify   a method keeps some drafts and adds one token (Leviathan et al., 2211.17192)
    commit   the host reads the tokens, ends sequences, and tells the γ policy

Both caches hold every token of a sequence but its last; that one is fed next. After a full
acceptance the draft's cache lacks one more, the last draft, which was never fed. So the first draft
forward of a step always feeds the last *two* tokens: usually the first of them is rewritten with the
same keys, which is free, and no branch can forget the catch-up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from specbench.engine.batch import Batch, Generation, Request
from specbench.engine.cache import RaggedCache
from specbench.engine.chance import Chance, Tools
from specbench.engine.model import CausalModel
from specbench.engine.observer import Observer, Silent
from specbench.sampling.names import SIGMOID_RANGE
from specbench.sampling.policy import GammaPolicy
from specbench.sampling.processing import process
from specbench.sampling.registry import Method


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

    @torch.inference_mode()
    def generate(
        self,
        requests: Sequence[Request],
        method: Method,
        policy: GammaPolicy,
        decoding: Decoding,
        observer: Observer | None = None,
    ) -> list[Generation]:
        """Decodes a batch to the end.

        With a policy whose γ is 0 this is plain autoregressive decoding from the target, whatever
        the method.

        Returns:
            One generation for each request, in order. A sequence whose target logits are no numbers
            ends with `error` set; the others go on.

        Raises:
            MachineError: the models are on a GPU whose kernels cannot run here.
        """
        watch = observer or Silent()
        watch.start()
        batch = Batch(
            requests, decoding.max_new_tokens, policy.limit, self.eos_tokens, self.target.device
        )
        temperature = torch.full((batch.size,), decoding.temperature, device=self.target.device)
        chance = Chance(
            self._tools, method, batch, policy.limit, decoding.temperature, decoding.sigmoid_range
        )
        target_cache, draft_cache = RaggedCache(batch.capacity), RaggedCache(batch.capacity)
        self._prefill(self.target, batch, target_cache)
        if policy.limit > 0:
            self._prefill(self.draft, batch, draft_cache)
        watch.mark("prefill")
        while batch.active:
            gamma = min(policy.gamma, batch.most_drafts())
            chance.begin(gamma)
            watch.mark("random")
            draft_tokens, draft_logits = self._draft(
                batch, draft_cache, gamma, chance, temperature, decoding
            )
            offered = batch.worth_verifying(draft_tokens)
            watch.mark("draft")
            target_logits = self._score(batch, target_cache, draft_tokens, temperature, decoding)
            watch.mark("target")
            result = chance.decide(target_logits, draft_logits, offered)
            watch.mark("verify")
            step = batch.commit(result, offered, gamma)
            watch.mark("commit")
            for sequence in step.ended:
                watch.finished(sequence)
            policy.update(step.accepted, step.offered)
        return batch.generations()

    @torch.inference_mode()
    def log_probability(self, prompt: Sequence[int], new_tokens: Sequence[int]) -> float | None:
        """Mean log-probability (nats) of the new tokens under the target at temperature 1, unmasked.

        None if there are none.
        """
        if not new_tokens:
            return None
        tokens = torch.tensor([[*prompt, *new_tokens]], device=self.target.device)
        cache = RaggedCache(tokens.shape[1])
        positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
        logits = self.target.forward(
            tokens, positions, cache, tokens.shape[1], keep=len(new_tokens) + 1
        )
        rows = logits[0, :-1].double().log_softmax(-1)
        return float(rows.gather(1, tokens[0, -len(new_tokens) :, None]).mean())

    def _prefill(self, model: CausalModel, batch: Batch, cache: RaggedCache) -> None:
        """Feeds every prompt but its last token."""
        width = max(batch.held) - 1
        if width > 0:
            tokens, positions = batch.feed(0, width, until=batch.lengths - 1)
            model.forward(tokens, positions, cache, width, keep=1)

    def _draft(
        self,
        batch: Batch,
        cache: RaggedCache,
        gamma: int,
        chance: Chance,
        temperature: Tensor,
        decoding: Decoding,
    ) -> tuple[Tensor, Tensor]:
        """γ tokens one by one: (B, γ) int64, and the (B, γ, V) rows they were drawn from."""
        rows: list[Tensor] = []
        token: Tensor | None = None
        for slot in range(gamma):
            if token is None:
                tokens, positions = batch.feed(batch.lengths - 2, 2)
            else:
                tokens, positions = token[:, None], batch.positions(slot - 1)[:, None]
            longest = max(batch.held) + slot
            raw = self.draft.forward(tokens, positions, cache, longest, keep=1)
            rows.append(self._process(raw, temperature, decoding)[:, 0])
            token = chance.draft(rows[-1], slot)
        if not rows:
            shape = batch.size, 0, self.target.vocab_size
            none = torch.empty(shape, dtype=self.target.dtype, device=self.target.device)
            return chance.drafts(0), none
        return chance.drafts(gamma), torch.stack(rows, 1)

    def _score(
        self,
        batch: Batch,
        cache: RaggedCache,
        draft_tokens: Tensor,
        temperature: Tensor,
        decoding: Decoding,
    ) -> Tensor:
        """(B, γ+1, V): the target's rows after the last token and after each draft."""
        gamma = draft_tokens.shape[1]
        last, first = batch.feed(batch.lengths - 1, 1)
        tokens = torch.cat([last, draft_tokens], 1)
        positions = torch.cat([first, *(batch.positions(i)[:, None] for i in range(gamma))], 1)
        raw = self.target.forward(tokens, positions, cache, max(batch.held) + gamma)
        return self._process(raw, temperature, decoding)

    def _process(self, logits: Tensor, temperature: Tensor, decoding: Decoding) -> Tensor:
        """The one place where either model's logits become what is sampled from and verified."""
        return process(
            logits.to(self.target.dtype), self.target.vocab_size, temperature,
            decoding.top_k, decoding.top_p,
            shared=min(self.target.vocab_size, self.draft.vocab_size),
        )  # fmt: skip
