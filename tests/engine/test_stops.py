"""Where a text ends by a rule: what comes out, what is counted, and that nobody else hears of it."""

import itertools

import pytest
import torch

from specbench.engine.batch import Request
from specbench.engine.decoding import Decoding
from specbench.engine.native import NativeEngine
from specbench.engine.slots import Seat, Slots
from specbench.engine.transformers import TransformersEngine
from specbench.report.stats import token_end_s, tokens_within
from specbench.sampling.policy import make_policy
from specbench.sampling.registry import get_method

METHODS = ["baseline", "exact", "sigmoid", "fused", "block"]
PROMPTS = [(3, 4, 5, 6, 7, 8, 9), (2,), (9, 9, 1), tuple(range(2, 22))]
ENGINES = [NativeEngine, TransformersEngine]
LENGTH = 30


def stop_at(*texts):
    """A rule for texts of tokens, of which one may begin in an earlier step."""
    reach = max(map(len, texts)) - 1

    def ended(before, step):
        assert step
        tail = [*before[len(before) - min(reach, len(before)) :], *step]
        old = len(tail) - len(step)
        ends = [
            end - old for text in texts for end in range(max(old + 1, len(text)), len(tail) + 1)
            if tuple(tail[end - len(text) : end]) == tuple(text)
        ]  # fmt: skip
        return min(ends, default=None)

    return ended


def first_end(tokens, *texts):
    """With how many tokens a text ends, looked for in all of it; None if it does not."""
    return stop_at(*texts)([], tokens) if tokens else None


def decode(engine, ended=None, gamma="4", method="fused", prompts=PROMPTS, size=None, tokens=LENGTH,
           watch=None, **decoding):  # fmt: skip
    rules = ended if isinstance(ended, list) else [ended] * len(prompts)
    requests = [
        Request(prompt, seed, None, rule)
        for (seed, prompt), rule in zip(enumerate(prompts), rules, strict=True)
    ]
    if isinstance(engine, TransformersEngine):
        size = 1
    return engine.generate(
        requests,
        get_method(method),
        make_policy(gamma),
        Decoding(tokens, **decoding),
        watch,
        size=size,
    )


def common_pair(generations):
    """Two tokens that follow each other in most of the texts, not at their beginning."""
    seen = [set(itertools.pairwise(one.tokens[1:])) for one in generations]
    return max(set().union(*seen), key=lambda pair: (sum(pair in one for one in seen), pair))


def check_counts(generation):
    """The books of a generation agree with each other, and the readers with them."""
    steps = len(generation.step_drafted)
    assert len(generation.step_accepted) == len(generation.step_gamma) == steps
    kept, new = sum(generation.step_accepted), len(generation.tokens)
    assert new in (kept + steps, kept + steps - 1)
    for gamma, drafted, accepted in zip(
        generation.step_gamma, generation.step_drafted, generation.step_accepted, strict=True
    ):
        assert 0 <= accepted <= drafted <= gamma
    ends = list(range(1, steps + 1))
    assert token_end_s(new, ends, generation.step_accepted, new) == steps
    assert tokens_within(steps, ends, generation.step_accepted, new) == new


class TestWhatComesOut:
    @pytest.mark.parametrize("kind", ENGINES)
    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    @pytest.mark.parametrize(
        ("gamma", "method"),
        [*itertools.product(["0", "1", "4", "16"], ["fused"]), *itertools.product(["3"], METHODS)],
    )
    def test_the_same_up_to_the_stop_and_nothing_behind_it(
        self, target, draft, kind, gamma, method, temperature
    ):
        engine, how = kind(target, draft, []), {"gamma": gamma, "method": method}
        free = decode(engine, **how, temperature=temperature)
        text = common_pair(free)
        found = decode(engine, stop_at(text), **how, temperature=temperature)
        assert {one.finish_reason for one in found} >= {"stop"}
        for one, other in zip(found, free, strict=True):
            end = first_end(other.tokens, text)
            assert one.tokens == other.tokens[:end]
            assert one.finish_reason == ("length" if end is None else "stop")
            steps = len(one.step_drafted)
            assert one.step_accepted[: steps - 1] == other.step_accepted[: steps - 1]
            assert one.step_drafted[: steps - 1] == other.step_drafted[: steps - 1]
            check_counts(one)

    @pytest.mark.parametrize("kind", ENGINES)
    @pytest.mark.parametrize("gamma", ["1", "4", "16", "heuristic"])
    def test_greedily_every_gamma_ends_with_plain_decodings_token(self, target, draft, kind, gamma):
        engine = kind(target, draft, [])
        text = common_pair(decode(engine, gamma="0", temperature=0.0))
        plain, drafted = (
            decode(engine, stop_at(text), gamma=one, temperature=0.0) for one in ("0", gamma)
        )
        assert [one.tokens for one in drafted] == [one.tokens for one in plain]
        assert [one.finish_reason for one in drafted] == [one.finish_reason for one in plain]

    @pytest.mark.parametrize("gamma", ["0", "1", "4", "16"])
    def test_both_engines_agree_step_by_step(self, target, draft, gamma):
        free = decode(NativeEngine(target, draft, []), gamma=gamma, temperature=0.0)
        text = common_pair(free)
        native, theirs = (
            decode(kind(target, draft, [7]), stop_at(text), gamma=gamma, temperature=0.0)
            for kind in ENGINES
        )
        for one, other in zip(native, theirs, strict=True):
            assert (one.tokens, one.finish_reason) == (other.tokens, other.finish_reason)
            assert one.step_drafted == other.step_drafted
            assert one.step_accepted == other.step_accepted

    @pytest.mark.parametrize("kind", ENGINES)
    def test_a_stop_among_the_drafts(self, target, model, kind):
        """With draft = target all drafts are kept: each place in a step is met, the verifier's too."""
        engine, drafted, verified = kind(target, model(seed=1), []), 0, 0
        free = decode(engine, prompts=PROMPTS[:1], gamma="5", temperature=0.0, tokens=24)[0]
        for end in range(1, 24):
            text = tuple(free.tokens[:end])
            rule = stop_at(text)
            if first_end(free.tokens, text) != end:
                continue
            [one] = decode(engine, rule, prompts=PROMPTS[:1], gamma="5", temperature=0.0, tokens=24)
            assert one.tokens == free.tokens[:end]
            assert one.finish_reason == "stop"
            assert one.step_accepted == one.step_drafted
            check_counts(one)
            among = end % 6 != 0
            assert sum(one.step_accepted) == end - len(one.step_drafted) + among
            drafted, verified = drafted + among, verified + (not among)
        assert drafted > 10
        assert verified == 3

    @pytest.mark.parametrize("gamma", ["0", "4"])
    @pytest.mark.parametrize("kind", ENGINES)
    def test_a_text_over_many_steps(self, target, draft, kind, gamma):
        engine = kind(target, draft, [])
        free = decode(engine, gamma=gamma, temperature=0.0)
        texts = [tuple(one.tokens[3:21]) for one in free]
        found = decode(engine, [stop_at(text) for text in texts], gamma=gamma, temperature=0.0)
        for one, other, text in zip(found, free, texts, strict=True):
            assert one.tokens == other.tokens[: first_end(other.tokens, text)]
            assert one.finish_reason == "stop"
            assert len(one.step_drafted) > 1

    @pytest.mark.parametrize("kind", ENGINES)
    def test_the_prompt_does_not_count(self, target, draft, kind):
        engine, prompts = kind(target, draft, []), [(5, 6, 7), (5, 6)]
        free = decode(engine, prompts=prompts, temperature=0.0)
        stops = [(5, 6, 7), (5, 6, free[1].tokens[0])]
        assert first_end(free[0].tokens, stops[0]) is None
        assert first_end(free[1].tokens, stops[1]) is None
        found = decode(engine, stop_at(*stops), prompts=prompts, temperature=0.0)
        assert [one.tokens for one in found] == [one.tokens for one in free]
        assert {one.finish_reason for one in found} == {"length"}


class TestWhichEndIsFirst:
    @pytest.mark.parametrize("kind", ENGINES)
    @pytest.mark.parametrize("gamma", ["0", "8"])
    def test_the_end_token_before_it_wins_and_not_the_one_behind_it(
        self, target, model, kind, gamma
    ):
        """Both fall into one step where everything is accepted."""
        twin = model(seed=1)
        free = decode(kind(target, twin, []), gamma=gamma, temperature=0.0, tokens=9)
        reasons = set()
        for one in free:
            for stop, eos in itertools.permutations(list(dict.fromkeys(one.tokens))[:3], 2):
                ends = one.tokens.index(stop) + 1, one.tokens.index(eos) + 1
                [found] = decode(
                    kind(target, twin, [eos]), stop_at((stop,)), gamma=gamma, temperature=0.0,
                    tokens=9, prompts=[PROMPTS[free.index(one)]],
                )  # fmt: skip
                assert found.tokens == one.tokens[: min(ends)]
                assert found.finish_reason == ("stop" if ends[0] < ends[1] else "eos")
                check_counts(found)
                reasons.add(found.finish_reason)
            if reasons == {"stop", "eos"}:
                break
        assert reasons == {"stop", "eos"}

    @pytest.mark.parametrize("kind", ENGINES)
    @pytest.mark.parametrize("gamma", ["0", "4"])
    def test_a_rule_that_takes_the_end_token_for_its_own_leaves_it_to_that(
        self, target, draft, kind, gamma
    ):
        free = decode(kind(target, draft, []), gamma=gamma, temperature=0.0)
        eos = free[0].tokens[5]
        found = decode(kind(target, draft, [eos]), stop_at((eos,)), gamma=gamma, temperature=0.0)
        assert found[0].finish_reason == "eos"
        assert {one.finish_reason for one in found} <= {"eos", "length"}

    @pytest.mark.parametrize("kind", ENGINES)
    @pytest.mark.parametrize("gamma", ["0", "4"])
    def test_with_the_last_token_that_is_allowed(self, target, draft, kind, gamma):
        engine = kind(target, draft, [])
        free = decode(engine, gamma=gamma, temperature=0.0, tokens=12)
        rules = [stop_at(tuple(one.tokens)) for one in free]
        for one in decode(engine, rules, gamma=gamma, temperature=0.0, tokens=12):
            assert one.finish_reason == "stop"
            assert len(one.tokens) == 12

    @pytest.mark.parametrize("kind", ENGINES)
    @pytest.mark.parametrize("gamma", ["0", "4"])
    def test_a_text_that_never_ends_has_its_limit(self, target, draft, kind, gamma):
        for one in decode(kind(target, draft, []), stop_at((99,)), gamma=gamma):
            assert (len(one.tokens), one.finish_reason) == (LENGTH, "length")

    @pytest.mark.parametrize("kind", ENGINES)
    def test_before_a_row_that_is_no_distribution(self, model, kind):
        """What plain decoding never comes to is no error."""
        target, twin = model(seed=1), model(seed=1)
        [free] = decode(kind(target, twin, []), prompts=PROMPTS[:1], temperature=0.0)
        forward = target.model.forward

        def poisoned(*args, **kwargs):
            out = forward(*args, **kwargs)
            if kwargs["input_ids"].shape[1] >= 5:  # a step of drafts
                out.logits[:, -1] = torch.nan
            return out

        target.model.forward = poisoned
        engine = kind(target, twin, [])
        [broken] = decode(engine, prompts=PROMPTS[:1], temperature=0.0)
        assert "NaN" in broken.error
        [found] = decode(
            engine, stop_at(tuple(free.tokens[:2])), prompts=PROMPTS[:1], temperature=0.0
        )
        assert found.error is None
        assert (found.tokens, found.finish_reason) == (free.tokens[:2], "stop")


class TestTheOthers:
    @pytest.mark.parametrize("size", [None, 1, 2, 4])
    @pytest.mark.parametrize("gamma", ["0", "4"])
    def test_neighbours_and_newcomers_are_as_ever(self, target, draft, gamma, size):
        """Every other sequence has a rule; slots come free in the midst of the others' texts."""
        engine = NativeEngine(target, draft, [])
        free = decode(engine, gamma=gamma, size=size)
        rules = [stop_at(tuple(one.tokens[2:5])) if i % 2 else None for i, one in enumerate(free)]
        found = decode(engine, rules, gamma=gamma, size=size)
        for i, (one, other) in enumerate(zip(found, free, strict=True)):
            assert one.tokens == (other.tokens[:5] if i % 2 else other.tokens)
            assert one.finish_reason == ("stop" if i % 2 else "length")

    def test_the_slot_is_taken_with_the_next_step(self, target, draft):
        engine = NativeEngine(target, draft, [])
        free = decode(engine, gamma="0", size=1, prompts=PROMPTS[:3])
        rules = [stop_at(tuple(one.tokens[:3])) for one in free]
        found = decode(engine, rules, gamma="0", size=1, prompts=PROMPTS[:3])
        assert [one.first_step for one in found] == [0, 3, 6]

    def test_an_empty_slot_does_nothing(self, target, draft):
        """It is offered no drafts, and keeps none, though its rows go on beside its neighbour's."""
        engine = NativeEngine(target, draft, [])
        free = decode(engine, prompts=PROMPTS[:2])
        rules = [stop_at((free[0].tokens[0],)), None]
        decode(engine, rules, prompts=PROMPTS[:2])
        slots = engine.reserve(2, 1, 0).slots
        lengths = slots.lengths - slots.begins
        assert lengths[1] == LENGTH
        assert lengths[0] <= 5
        assert not slots.running.any()

    def test_leaving_is_of_one_slot(self):
        slots = Slots(3, 8, 2, [], torch.device("cpu"))
        slots.seat({slot: Seat((1, 2), 8, 0) for slot in range(3)})
        slots.leave(1)
        assert slots.running.tolist() == [True, False, True]

    @pytest.mark.parametrize("kind", ENGINES)
    def test_it_is_asked_once_a_step_within_the_commit(self, target, draft, kind):
        heard = []

        class Ear:
            def start(self): ...
            def admitted(self, sequence): ...
            def ready(self): ...
            def mark(self, phase):
                heard.append(phase)

            def finished(self, sequence):
                heard.append("finished")

        def ended(before, step):
            heard.append((len(before), len(step)))
            return len(step) if len(before) > 20 else None

        [one] = decode(kind(target, draft, []), ended, prompts=PROMPTS[:1], watch=Ear())
        asked = [entry for entry in heard if isinstance(entry, tuple)]
        assert len(asked) == len(one.step_drafted)
        assert [before for before, _ in asked] == [0, *itertools.accumulate(n for _, n in asked)][
            :-1
        ]
        steps = [entry for entry in heard if entry in ("verify", "commit") or entry in asked]
        begin = steps.index("verify")
        for i, entry in enumerate(asked):
            assert steps[begin + 3 * i : begin + 3 * i + 3] == ["verify", entry, "commit"]
        assert heard[-1] == "finished"
