"""The first paper's protocol (2406.11016): transformers' own loop, with a method as its sampler.

One sequence at a time, issued op by op: `generate(assistant_model=…)` drafts, scores, crops its caches
and stops, as it does for everybody; see `assisted` for what is ours. γ = 0 is plain `generate`.

What differs from the native engine, and must be known to read its figures:

- Verification gets float32, whatever the models' dtype, because transformers converts all logits.
- Drafts are drawn from torch's generator, which is seeded by the sequence's seed; so is every token at
  γ = 0. The verifier's numbers are the native engine's: where both draft the same, they say the same.
- The prompt has no prefill of its own: it is in the first step's draft and target. `prefill` is what
  comes before, such as encoders.
- Where a request says that its text is whole, a stopping criterion ends the generation; at γ = 0 it reads
  each token from the device, where transformers waits for that anyway.
- `draft` is the assistant's whole `generate`, `target` the forward and the logits processors; what else
  transformers does is `commit`. At γ = 0 nothing is verified: the token is drawn in `commit`.

Temperature, top-k, top-p and the tokens not to be said come as logits processors, not as options: those
transformers applies twice to drafts. Speech goes by the `generate` that all models share. Whisper's own,
for long audio and timestamps, drafts greedily at any temperature, and lets the first token be any once
there is an assistant.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin
from transformers.generation import (
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from specbench.engine import likelihood
from specbench.engine.assisted import (
    NoTokenError,
    StandIn,
    Verifiers,
    check_transformers,
    standing_in,
)
from specbench.engine.attention import PAD
from specbench.engine.batch import Generation, Request, check_requests
from specbench.engine.decoding import EAGER, PLAIN, Decoding, Execution
from specbench.engine.model import CausalModel
from specbench.engine.observer import Observer, Silent
from specbench.engine.speech import SpeechModel
from specbench.engine.synthetic import SyntheticAcceptance
from specbench.errors import InputError
from specbench.sampling.policy import Fixed, GammaPolicy, Heuristic
from specbench.sampling.registry import Method

DRAFTING = 0x5D1A_F7ED_0B5E_55ED
"""Makes the seed of torch's generator another one than the verifier's: on a GPU both are Philox."""


class TransformersEngine:
    """Decodes with a target and a draft that share a tokenizer.

    Args:
        target, draft: on one device. While it decodes, their generation configurations are its own.
        eos_tokens: ids that end a sequence.
        suppressed: ids that are never said, and ids that are not said first.

    Raises:
        MachineError: the installed transformers decides about drafts in a way that is not known.
    """

    name = "transformers"

    def __init__(
        self,
        target: CausalModel,
        draft: CausalModel,
        eos_tokens: Sequence[int],
        suppressed: tuple[Sequence[int], Sequence[int]] = ((), ()),
    ) -> None:
        check_transformers()
        self.target, self.draft = target, draft
        self.eos_tokens, self._suppressed = tuple(eos_tokens), suppressed
        contexts = [model.max_positions for model in (target, draft)]
        self.max_positions = min((limit for limit in contexts if limit), default=None)
        """Tokens a sequence may hold: what both models can take; None if neither says."""
        self.refusals: list[str] = []
        """Nothing is captured, so nothing refuses to be."""
        self._verifiers: Verifiers = {}

    def reserve(self, size: int, tokens: int, most_drafts: int) -> None:
        """Takes nothing: transformers' caches grow as they are filled, and end with their sequence."""

    def release(self) -> None:
        """Gives the verifiers' memory back, and what torch keeps."""
        self._verifiers.clear()
        if self.target.device.type == "cuda":
            torch.cuda.empty_cache()

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
        """Decodes the requests to the end, one after the other.

        With a policy whose γ is 0 this is plain `generate` by the target, whatever the method.

        Args:
            policy: `Fixed` becomes transformers' schedule "constant", `Heuristic` its own "heuristic",
                which `policy` keeps from one sequence to the next.
            size: sequences at once: 1, or None.

        Returns:
            One generation for each request, in order. A sequence whose rows are no distribution ends
            with `error` set, if it drafts.

        Raises:
            InputError: a batch, a policy, an attention or an execution that transformers does not have,
                or an architecture that it drafts for in another way.
            MachineError: on a GPU, the kernels cannot run; transformers decides without asking.
        """
        check_requests(requests)
        _check(execution, policy, size)
        watch, generations, steps = observer or Silent(), [], 0
        devices = [self.target.device] if self.target.device.type == "cuda" else []
        rate = execution.synthetic_acceptance
        dice = None if rate is None else SyntheticAcceptance(rate, self.target.device)
        self._attend_by_themselves()
        with torch.random.fork_rng(devices), self._configured(policy):
            watch.start()
            for sequence, request in enumerate(requests):
                torch.manual_seed((request.seed ^ DRAFTING) & (2**63 - 1))
                watch.admitted(sequence)
                watch.ready()
                task = _Task(request, method, decoding, dice, watch, self.eos_tokens)
                generation = task.generation
                generation.first_step = steps
                self._run(task, drafts=policy.limit > 0)
                watch.mark("commit")
                watch.finished(sequence)
                self._learn(policy)
                steps += len(generation.step_drafted)
                generations.append(generation)
        return generations

    def log_probability(self, request: Request, new_tokens: Sequence[int]) -> float | None:
        """Mean log-probability (nats) of the new tokens under the target at temperature 1, unmasked.

        None if there are none. The native engine's figure, by the same forward.
        """
        return likelihood.log_probability(self.target, request, new_tokens)

    def _run(self, task: _Task, *, drafts: bool) -> None:
        generation = task.generation
        call = partial(self._call, task.request, task.decoding)
        if task.request.ended is not None:
            ending = StoppingCriteriaList([_Ending(task, plain=not drafts)])
            call = partial(call, stopping_criteria=ending)
        hooks = task.hooks(self.target.model, plain=not drafts)
        try:
            tokens = self._assisted(call, task) if drafts else call()
        except NoTokenError as error:
            if not generation.done:
                generation.error = error.message
            return
        finally:
            for hook in hooks:
                hook.remove()
        if generation.done:  # its own tokens end with the text, transformers' with the step
            return
        generation.tokens = tokens
        ended = bool(generation.tokens) and generation.tokens[-1] in self.eos_tokens
        generation.finish_reason = "eos" if ended else "length"

    def _assisted(self, call: partial[list[int]], task: _Task) -> list[int]:
        stand_in = StandIn(
            task.method, task.decoding.sigmoid_range, task.watch, task, task.dice, self._verifiers,
            min(self.target.vocab_size, self.draft.vocab_size),
        )  # fmt: skip
        with standing_in(stand_in):
            tokens = call(assistant_model=self.draft.model)
            stand_in.end()
        if not task.generation.step_drafted:
            name = type(self.draft.model).__name__
            raise InputError(
                f"transformers does not draft with {name} as with a second model of its own",
                "Give --engine native, or a pair of two ordinary models.",
            )
        return tokens

    def _call(self, request: Request, decoding: Decoding, **more: Any) -> list[int]:
        """The new tokens."""
        model, device = self.target.model, self.target.device
        tokens = torch.tensor([request.prompt], device=device)
        inputs: dict[str, Any] = {"inputs": tokens, "attention_mask": torch.ones_like(tokens)}
        generate = model.generate
        if request.features is not None:
            inputs = {
                "inputs": request.features[None].to(device, self.target.dtype),
                "decoder_input_ids": tokens,
                # By this the assistant knows what its cache has; without, it is fed all again.
                "decoder_attention_mask": torch.ones_like(tokens),
            }
            generate = partial(GenerationMixin.generate, model)
        found: Tensor = generate(
            **inputs, **more, generation_config=self._options(request, decoding),
            logits_processor=self._processors(len(request.prompt), decoding),
        )  # fmt: skip
        new: list[int] = found[0, tokens.shape[1] :].tolist()
        return new

    def _options(self, request: Request, decoding: Decoding) -> Any:
        sampled = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
        return GenerationConfig(
            max_new_tokens=decoding.max_new_tokens,
            eos_token_id=list(self.eos_tokens) or None,
            # Never a token of the text: the assistant's mask would hide it.
            pad_token_id=self.eos_tokens[0] if self.eos_tokens else None,
            decoder_start_token_id=request.prompt[0],
            **(sampled if decoding.temperature > 0 else {"do_sample": False}),
        )

    def _processors(self, prompt_length: int, decoding: Decoding) -> Any:
        """What makes either model's logits the rows that are sampled from, in the native order."""
        always, first = self._suppressed
        sizes = sorted(model.vocab_size for model in (self.target, self.draft))
        never = [*always, *range(*sizes)]  # ids that only one of them has are nobody's tokens
        device, found = self.target.device, LogitsProcessorList()
        if never:
            found.append(SuppressTokensLogitsProcessor(never, device=device))
        if first:
            found.append(
                SuppressTokensAtBeginLogitsProcessor(list(first), prompt_length, device=device)
            )
        if decoding.temperature not in (0.0, 1.0):
            found.append(TemperatureLogitsWarper(float(decoding.temperature)))
        if decoding.temperature > 0 and decoding.top_k is not None:
            found.append(TopKLogitsWarper(decoding.top_k))
        if decoding.temperature > 0 and decoding.top_p is not None and decoding.top_p < 1:
            found.append(TopPLogitsWarper(decoding.top_p))
        return found

    @contextmanager
    def _configured(self, policy: GammaPolicy) -> Iterator[None]:
        """While a generation runs, no option of the models' own files has a say.

        transformers takes two vocabularies of different size for two tokenizers; that they are one was
        seen when the pair was loaded.
        """
        target, draft = self.target.model, self.draft.model
        schedule = "heuristic" if isinstance(policy, Heuristic) else "constant"
        drafting = GenerationConfig(
            num_assistant_tokens=policy.gamma,
            num_assistant_tokens_schedule=schedule,
            assistant_confidence_threshold=0.0,
        )
        spoken, vocabulary = draft.config.get_text_config(), target.config.get_text_config()
        were = target.generation_config, draft.generation_config, spoken.vocab_size
        target.generation_config, draft.generation_config = GenerationConfig(), drafting
        spoken.vocab_size = vocabulary.vocab_size
        try:
            with self._hearing():
                yield
        finally:
            target.generation_config, draft.generation_config, spoken.vocab_size = were

    @contextmanager
    def _hearing(self) -> Iterator[None]:
        """What drafts for a speech model, asked as such; if both have one encoder, it hears once."""
        target, draft = self.target, self.draft
        if not (isinstance(target, SpeechModel) and isinstance(draft, SpeechModel)):
            yield
            return
        echo, body = _Echo(), draft.model.model
        hook = target.encoder.register_forward_hook(echo.hear)
        shared = draft.encoder is target.encoder and draft.model is not target.model
        draft.model.generate = MethodType(GenerationMixin.generate, draft.model)
        body.encoder = echo if shared else draft.encoder
        try:
            yield
        finally:
            body.encoder = draft.encoder
            del draft.model.generate
            hook.remove()

    def _learn(self, policy: GammaPolicy) -> None:
        """transformers leaves the heuristic's last γ with the assistant, where the next one begins."""
        if isinstance(policy, Heuristic):
            settings = self.draft.model.generation_config
            settings.num_assistant_tokens = min(int(settings.num_assistant_tokens), policy.limit)
            policy.gamma = settings.num_assistant_tokens

    def _attend_by_themselves(self) -> None:
        """The native engine leaves its own attention behind, which this is not to be timed with."""
        for model in (self.target.model, self.draft.model):
            if str(model.config._attn_implementation).startswith("specbench_"):
                # What transformers itself would take: its "sdpa" cannot cap scores (Gemma 2).
                model.set_attn_implementation("sdpa" if model._supports_sdpa else "eager")


def _check(execution: Execution, policy: GammaPolicy, size: int | None) -> None:
    if size not in (None, 1):
        raise InputError(
            f"batch_size is {size}: transformers' assisted generation takes one sequence at a time",
            "Give --batch-size 1, or --engine native.",
        )
    if not isinstance(policy, Fixed | Heuristic):
        raise InputError(
            f"γ policy {type(policy).__name__} is not one of transformers' schedules",
            "Give a number or heuristic, or --engine native.",
        )
    if (execution.mode, execution.attention) != (EAGER, PAD):
        raise InputError(
            f"transformers issues its steps op by op, not by {execution.mode} with {execution.attention}",
            "Give --execution eager --attention pad, or --engine native.",
        )


class _Task:
    """One sequence: what is asked, what becomes of it, and who hears of it. Its own `Listener`."""

    def __init__(
        self,
        request: Request,
        method: Method,
        decoding: Decoding,
        dice: SyntheticAcceptance | None,
        watch: Observer,
        eos_tokens: Sequence[int],
    ) -> None:
        self.request, self.method, self.decoding = request, method, decoding
        self.dice, self.watch, self._eos_tokens = dice, watch, eos_tokens
        self.generation = Generation()

    def begin(self, device: torch.device) -> int:
        """As of `Listener`."""
        return self.request.seed

    def step(self, drafted: int, accepted: int, tokens: list[int]) -> None:
        """As of `Listener`."""
        ends = (i for i, token in enumerate(tokens, 1) if token in self._eos_tokens)
        end = next(ends, None)
        whole = self.request.whole(self.generation.tokens, tokens[:end], eos=end is not None)
        self.generation.grow(drafted, drafted, accepted, tokens, whole)

    def hear(self, token: int) -> None:
        """The token of a step without drafts."""
        eos = token in self._eos_tokens
        if self.request.whole(self.generation.tokens, [token], eos=eos):
            self.generation.finish_reason = "stop"
        self.generation.tokens.append(token)

    def hooks(self, target: Any, *, plain: bool) -> list[Any]:
        """On the target: where its forward begins and, in plain decoding, which forwards are steps."""

        def before(*_: Any) -> None:
            if plain:
                self.watch.mark("commit" if self.generation.step_drafted else "prefill")
                self.step(0, 0, [])
            self.watch.ready()

        def after(*_: Any) -> None:
            self.watch.mark("target")

        found = [target.register_forward_pre_hook(before)]
        return [*found, target.register_forward_hook(after)] if plain else found


class _Ending(StoppingCriteria):  # type: ignore[misc]
    """Ends a generation whose text is whole.

    Where there are drafts, `StandIn` has told the task already. Up to transformers 5.17 the drafts are
    asked about too before they are verified: as long as nothing was decided they end nothing.
    """

    def __init__(self, task: _Task, *, plain: bool) -> None:
        self._task, self._plain = task, plain

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """(1,) bool for (1, n) tokens."""
        if self._plain:
            self._task.hear(int(input_ids[0, -1]))
        ended = self._task.generation.done
        return torch.full((1,), ended, dtype=torch.bool, device=input_ids.device)


class _Echo(torch.nn.Module):
    """In the place of an encoder that has heard already: says again what it said."""

    def __init__(self) -> None:
        super().__init__()
        self._heard: Any = None

    def hear(self, encoder: Any, inputs: Any, output: Any) -> None:
        """A forward hook's call."""
        self._heard = output

    def forward(self, **kwargs: Any) -> Any:
        """What was heard last."""
        return self._heard
