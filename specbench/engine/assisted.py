"""A verification method in the place of the sampler of transformers' `generate(assistant_model=…)`.

transformers decides about a step's drafts in one private function, `_speculative_sampling`
(Leviathan et al., 2211.17192). While a `StandIn` is there, a function of ours has its place, and all else
of a step is transformers' own:

    draft    the assistant's `generate`; tokens are drawn from torch's generator
    target   one forward of the target, and the logits processors, in float32
    verify   a method of `specbench.methods()`, with random numbers addressed as in the native engine
    commit   transformers' bookkeeping

Greedy decoding never comes to that function: transformers compares the argmax by itself. So the loop,
and the loop alone, is told that it samples; the assistant stays greedy, and the method is run at
temperature 0. A step that has no room for a draft is verified too, with none.

The private names are two: that function, whose signature has changed with the versions, and
`_get_candidate_generator`, which says when a generation begins and what drafts in it. Whatever of them is
not as known is refused, and so is a loop that decides about drafts without asking.
"""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, Protocol, TypeAlias

import torch
import transformers
from torch import Tensor
from torch.nn.functional import pad
from transformers.generation import utils

from specbench.engine.batch import BROKEN_ROWS
from specbench.engine.chance import Tools
from specbench.engine.observer import Observer
from specbench.engine.synthetic import SyntheticAcceptance
from specbench.errors import InputError, MachineError
from specbench.sampling.names import MAX_GAMMA
from specbench.sampling.registry import Method
from specbench.sampling.verifier import Verification, draw_numbers

try:
    from transformers.generation.candidate_generator import AssistedCandidateGenerator
    from transformers.models.whisper.generation_whisper import WhisperGenerationMixin
except ImportError as missing:
    raise MachineError(
        f"transformers {transformers.__version__} has no assisted generation that is known: {missing}",
        "Install a version that is, 5.12 to 5.23 (pip install 'transformers==5.23.0'), or give --engine "
        "native, which does not need it.",
    ) from missing

SAMPLER, CANDIDATES = "_speculative_sampling", "_get_candidate_generator"
_ALWAYS = ("candidate_input_ids", "candidate_logits", "candidate_length", "new_logits")
_SOMETIMES = {"is_done_candidate", "assistant_ensemble_weight"}
"""Arguments of the sampler: from 5.12 to 5.17 it hears whether the candidates end the sequence, in 5.23
the loop sees to that; since 5.17 the law may be relaxed, which is no method of ours."""


Verifiers: TypeAlias = "dict[tuple[int, torch.dtype, torch.device], Tools]"


class NoTokenError(InputError):
    """A step whose rows are no distribution."""


class Listener(Protocol):
    """Who a `StandIn` works for."""

    def begin(self, device: torch.device) -> int:
        """A generation begins there; returns the seed of its sequence."""

    def step(self, drafted: int, accepted: int, tokens: list[int]) -> None:
        """A step was decided; `tokens` are what it adds, if no end token among them cuts it short."""


def check_transformers() -> None:
    """Makes sure that the installed transformers decides about drafts in a way that is known.

    Raises:
        MachineError: it lacks one of the two functions, or its sampler takes other arguments.
    """
    sampler = getattr(utils, SAMPLER, None)
    if sampler is None or not hasattr(utils.GenerationMixin, CANDIDATES):
        missing = SAMPLER if sampler is None else CANDIDATES
        raise _unknown_version(f"has no {missing} in transformers.generation.utils")
    names = list(inspect.signature(sampler).parameters)
    if tuple(names[: len(_ALWAYS)]) != _ALWAYS or not set(names[len(_ALWAYS) :]) <= _SOMETIMES:
        raise _unknown_version(
            f"has a {SAMPLER}({', '.join(names)}), whose arguments are not known"
        )
    if "generation_config" not in inspect.signature(_candidates_of(utils)).parameters:
        raise _unknown_version(f"has a {CANDIDATES} without generation_config")


def _unknown_version(what: str) -> MachineError:
    return MachineError(
        f"transformers {transformers.__version__} {what}: no method can take its sampler's place",
        "Install a version that is known, 5.12 to 5.23 (pip install 'transformers==5.23.0'), or give "
        "--engine native, which does not need it.",
    )


def _candidates_of(module: Any) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(module.GenerationMixin, CANDIDATES)
    return found


class StandIn:
    """A method in the sampler's place, one generation after the other.

    Args:
        method: of any kind; at temperature 0 all are one.
        sigmoid_range: (alpha, beta) in logits, for the method `sigmoid`.
        watch: hears of the phases, from each generation's first `prefill` to its last `verify`; the last
            `commit` ends with `generate`, which only its caller sees.
        listener: gives the seeds, and hears of the steps.
        dice: overrule the method; None leaves it to that.
        verifiers: made before, by the shape of the rows; more are added. Making one takes time.
        vocab_size: ids from this one on are masked in the target's rows, and left out; None: none are.
    """

    def __init__(
        self,
        method: Method,
        sigmoid_range: tuple[float, float],
        watch: Observer,
        listener: Listener,
        dice: SyntheticAcceptance | None = None,
        verifiers: Verifiers | None = None,
        vocab_size: int | None = None,
    ) -> None:
        self.has_drafts = False
        """Whether the last drafts have not been decided about."""
        self._method, self._sigmoid_range = method, sigmoid_range
        self._watch, self._listener, self._dice = watch, listener, dice
        self._verifiers: Verifiers = {} if verifiers is None else verifiers
        self._vocab_size, self._seeds = vocab_size, torch.empty(0)
        self._greedy = self._has_begun = False

    def begin(self, target: Any, drafter: Any, config: Any) -> None:
        """A generation begins. What drafts, and how, is left alone but for what keeps the law:

        - drafts are no more than a method takes;
        - Whisper's own `generate`, if the assistant is one, is told the temperature. It hears of none
          from transformers and would draft greedily, and no verifier can make that good.

        Args:
            drafter: transformers' candidate generator.
            config: the generation's, a copy of the user's that the loop is about to read.

        Raises:
            InputError: the law is to be relaxed.
        """
        self.has_drafts = self._has_begun = False
        if type(drafter) is not AssistedCandidateGenerator:
            return  # no second model with the same tokens: that is transformers' affair
        weight = getattr(config, "assistant_ensemble_weight", None)
        if weight is not None:
            raise InputError(
                f"assistant_ensemble_weight is {weight}, which relaxes transformers' own sampler",
                "Leave it out: a method has its own law.",
            )
        self._greedy = not config.do_sample
        config.do_sample = True
        seed = self._listener.begin(target.device)
        self._seeds = torch.tensor([seed], device=target.device)
        # Held weakly: a drafter that held itself would wait for the garbage collector with its cache.
        draft, weakly = type(drafter).get_candidates, weakref.ref(drafter)
        told = partial(_told_the_temperature, drafter.assistant_model, config.temperature)
        quiet = nullcontext if self._greedy else told

        @wraps(draft)
        def get_candidates(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
            self._step_begins()
            own = weakly()
            assert own is not None  # its own method is being called
            own.num_assistant_tokens = min(int(own.num_assistant_tokens), MAX_GAMMA)
            with quiet():
                tokens, logits = draft(own, *args, **kwargs)
            self.has_drafts = True
            self._watch.mark("draft")
            # None where the length leaves no room for a draft; the loop would decide by itself.
            return tokens, tokens.new_empty(1, 0, 0).float() if logits is None else logits

        drafter.get_candidates = get_candidates

    def end(self) -> None:
        """A generation has ended.

        Raises:
            MachineError: its last drafts were decided about by somebody else.
        """
        if self.has_drafts:
            self.has_drafts = False
            raise _unknown_version("decides about drafts without asking its sampler")

    def _step_begins(self) -> None:
        self.end()
        self._watch.mark("commit" if self._has_begun else "prefill")
        self._has_begun = True

    def decide(
        self,
        candidate_input_ids: Tensor,
        candidate_logits: Tensor,
        candidate_length: int,
        new_logits: Tensor,
        is_done_candidate: Tensor | bool = False,
        assistant_ensemble_weight: None = None,
    ) -> tuple[Tensor, int]:
        """What transformers' sampler is asked, and answers.

        Args:
            candidate_input_ids: (1, n + γ) int64, the sequence and its drafts.
            candidate_logits: (1, γ, V') float32, processed: the rows that the drafts were drawn from.
            candidate_length: γ.
            new_logits: (1, γ + 1, V) float32, processed alike.
            is_done_candidate: whether the drafts, all accepted, end the sequence (up to 5.17).
            assistant_ensemble_weight: None.

        Returns:
            (1, k + 1) int64, the k accepted drafts and the token that follows; and k. Where the drafts
            end the sequence, the last of them is that token.

        Raises:
            NoTokenError: the row where the sequence stops is no distribution.
        """
        self._watch.mark("target")
        self.has_drafts = False
        gamma, held = candidate_length, candidate_input_ids.shape[1] - candidate_length
        drafts = candidate_input_ids[:, held:]
        positions = torch.full_like(self._seeds, held)
        rows = new_logits[:, :, : self._vocab_size]
        result = self._verify(rows, _fitted(candidate_logits, rows), drafts, positions)
        result = self._overrule(result, drafts, positions)
        # One wait for the device: the loop needs the count on the host.
        accepted, *tokens = torch.cat([result.num_accepted[:, None], result.tokens], 1)[0].tolist()
        accepted = min(accepted, gamma)  # another project's method may take what was not offered
        if tokens[accepted] < 0:
            self._listener.step(gamma, accepted, tokens[:accepted])
            raise NoTokenError(
                BROKEN_ROWS, "Look at the models' logits: load them in another dtype."
            )
        ends = bool(gamma and accepted == gamma and is_done_candidate)
        kept = accepted if ends else accepted + 1
        self._listener.step(gamma, accepted, tokens[:kept])
        return result.tokens[:, :kept], kept - 1

    def _verify(
        self, target_logits: Tensor, draft_logits: Tensor, drafts: Tensor, positions: Tensor
    ) -> Verification:
        """The one call that `verify` stands for in every figure; numbers are drawn before it."""
        gamma, vocab_size = drafts.shape[1], target_logits.shape[2]
        shape = vocab_size, target_logits.dtype, target_logits.device
        if shape not in self._verifiers:
            self._verifiers[shape] = Tools(*shape)
        verifier = self._verifiers[shape].verifier(self._method, 1, gamma)
        numbers = None
        if verifier.implementation == "torch" and not self._greedy:
            numbers = draw_numbers(self._seeds, positions, gamma, vocab_size)
        self._watch.mark("random")
        result = verifier(
            target_logits, draft_logits, drafts, seeds=self._seeds, positions=positions,
            temperature=0.0 if self._greedy else 1.0,  # the rows are tempered already
            sigmoid_range=self._sigmoid_range, numbers=numbers,
        )  # fmt: skip
        self._watch.mark("verify")
        return result

    def _overrule(self, result: Verification, drafts: Tensor, positions: Tensor) -> Verification:
        if self._dice is None or not drafts.shape[1]:
            return result
        offered = torch.full_like(positions, drafts.shape[1])
        return self._dice.overrule(result, drafts, offered, self._seeds, positions)


def _fitted(draft_logits: Tensor, target_logits: Tensor) -> Tensor:
    """(1, γ, V): the drafts' rows as wide as the target's. A padded vocabulary differs in its tail,
    which the draft never says."""
    if draft_logits.shape[1] == 0:
        return target_logits[:, :0]
    missing = target_logits.shape[2] - draft_logits.shape[2]
    return pad(draft_logits, (0, missing), value=-torch.inf) if missing else draft_logits


@contextmanager
def _told_the_temperature(assistant: Any, temperature: float | None) -> Iterator[None]:
    if not isinstance(assistant, WhisperGenerationMixin) or "generate" in vars(assistant):
        yield
        return
    assistant.generate = partial(assistant.generate, temperature=temperature)
    try:
        yield
    finally:
        del assistant.generate


_there: ContextVar[StandIn | None] = ContextVar("specbench_stand_in", default=None)
"""Who decides in this thread, or task."""


@dataclass
class _Place:
    """Where transformers' two functions are, and how many stand-ins need ours there."""

    lock: threading.Lock
    users: int = 0
    theirs: tuple[Callable[..., Any], Callable[..., Any]] | None = None
    ours: tuple[Callable[..., Any], Callable[..., Any]] | None = None

    def take(self) -> None:
        with self.lock:
            if self.users == 0:
                check_transformers()
                self.theirs = getattr(utils, SAMPLER), _candidates_of(utils)
                self.ours = _sampler(self.theirs[0]), _candidates(self.theirs[1])
                setattr(utils, SAMPLER, self.ours[0])
                setattr(utils.GenerationMixin, CANDIDATES, self.ours[1])
            self.users += 1

    def give_back(self) -> None:
        """What somebody else has put there meanwhile stays; ours, if it is under that, does nothing."""
        with self.lock:
            self.users -= 1
            if self.users or self.theirs is None or self.ours is None:
                return
            if getattr(utils, SAMPLER) is self.ours[0]:
                setattr(utils, SAMPLER, self.theirs[0])
            if _candidates_of(utils) is self.ours[1]:
                setattr(utils.GenerationMixin, CANDIDATES, self.theirs[1])


_place = _Place(threading.Lock())


@contextmanager
def standing_in(one: StandIn) -> Iterator[None]:
    """transformers asks `one` about drafts, in this thread, until the block is left, in whatever way.

    Other threads go on with transformers' sampler. Blocks may be nested: the inner one decides.

    Raises:
        MachineError: as of `check_transformers`.
    """
    _place.take()
    try:
        before = _there.set(one)
        try:
            yield
        finally:
            _there.reset(before)
    finally:
        _place.give_back()


def _sampler(theirs: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(theirs)

    @wraps(theirs)
    def speculative_sampling(*args: Any, **kwargs: Any) -> Any:
        one = _there.get()
        if one is None or not one.has_drafts:
            return theirs(*args, **kwargs)
        given: Mapping[str, Any] = signature.bind(*args, **kwargs).arguments
        return one.decide(**given)

    return speculative_sampling


def _candidates(theirs: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(theirs)

    @wraps(theirs)
    def get_candidate_generator(model: Any, *args: Any, **kwargs: Any) -> Any:
        drafter = theirs(model, *args, **kwargs)
        if one := _there.get():
            given = signature.bind(model, *args, **kwargs).arguments
            one.begin(model, drafter, given["generation_config"])
        return drafter

    return get_candidate_generator
