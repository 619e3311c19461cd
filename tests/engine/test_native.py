"""The decoding loop: greedy equals plain, sampled follows the target's law, and the edges."""

import collections
import functools

import pytest
import torch

from specbench.engine.batch import Generation, Request
from specbench.engine.decoding import Decoding
from specbench.engine.likelihood import sigmoid_law_variation
from specbench.engine.model import CausalModel
from specbench.engine.native import NativeEngine
from specbench.errors import InputError
from specbench.sampling.check import chi_square
from specbench.sampling.deviation import sigmoid_variation
from specbench.sampling.policy import make_policy
from specbench.sampling.processing import process
from specbench.sampling.registry import get_method

METHODS = ["baseline", "exact", "sigmoid", "fused", "block"]
EXACT = ["baseline", "exact", "fused", "block"]
PROMPTS = [(3, 4, 5, 6, 7, 8, 9), (2,), (9, 9, 1), tuple(range(2, 22))]


def decode(engine, gamma="4", method="fused", tokens=18, prompts=PROMPTS, size=None, **decoding):
    requests = [Request(prompt, seed) for seed, prompt in enumerate(prompts)]
    return engine.generate(
        requests, get_method(method), make_policy(gamma), Decoding(tokens, **decoding), size=size
    )


@functools.cache
def plain_greedy(model, prompt, count):
    """Argmax decoding without a cache: the whole sequence again for each token."""
    tokens = list(prompt)
    for _ in range(count):
        logits = forward(model, [tokens])[0, -1]
        tokens.append(int(logits.argmax()))
    return tokens[len(prompt) :]


@torch.no_grad()
def forward(model, tokens):
    return model.model(torch.tensor(tokens)).logits


@pytest.mark.parametrize("gamma", ["0", "1", "2", "5", "16", "heuristic", "bass"])
@pytest.mark.parametrize("method", METHODS)
def test_greedy_equals_plain_decoding(target, draft, method, gamma):
    engine = NativeEngine(target, draft, [])
    found = decode(engine, gamma, method, temperature=0.0)
    for prompt, generation in zip(PROMPTS, found, strict=True):
        assert generation.tokens == plain_greedy(target, prompt, 18)


@pytest.mark.parametrize("gamma", ["1", "3", "8", "bass"])
@pytest.mark.parametrize("method", EXACT)
def test_a_draft_equal_to_the_target_is_always_accepted(target, method, gamma):
    """Off by one in the catch-up after a full acceptance lowers this, and nothing else fails."""
    for generation in decode(NativeEngine(target, target, []), gamma, method, tokens=40):
        assert generation.step_accepted == generation.step_drafted
        assert sum(generation.step_drafted) > 0


@pytest.mark.parametrize("method", METHODS)
def test_a_sequence_is_the_same_in_any_batch(target, draft, method):
    """Same seed, same tokens: ragged neighbours change nothing."""
    engine = NativeEngine(target, draft, [])
    together = decode(engine, method=method)
    for seed, prompt in enumerate(PROMPTS):
        (alone,) = engine.generate(
            [Request(prompt, seed)], get_method(method), make_policy("4"), Decoding(18)
        )
        assert alone.tokens == together[seed].tokens
        assert alone.step_accepted == together[seed].step_accepted


@pytest.mark.parametrize("tokens", [1, 2, 3, 7])
@pytest.mark.parametrize("gamma", ["0", "1", "8"])
def test_max_new_tokens_is_met_and_never_passed(target, draft, gamma, tokens):
    for generation in decode(NativeEngine(target, draft, []), gamma, tokens=tokens):
        assert len(generation.tokens) == tokens
        assert generation.finish_reason == "length"


def test_the_end_token_ends_a_sequence_and_what_follows_is_dropped(target):
    """With draft = target everything is accepted, so the end token stands among the drafts."""
    endless = decode(NativeEngine(target, target, []), tokens=30)
    for eos in range(0, 23, 4):
        stopped = decode(NativeEngine(target, target, [eos]), tokens=30)
        for free, generation in zip(endless, stopped, strict=True):
            if eos not in free.tokens:
                assert generation.tokens == free.tokens
                continue
            kept = free.tokens[: free.tokens.index(eos) + 1]
            assert generation.tokens == kept
            assert generation.finish_reason == "eos"
            steps = len(generation.step_accepted)
            bonus = len(kept) - sum(generation.step_accepted)
            assert bonus in (steps, steps - 1)  # the last step has none if its draft ended it
            assert generation.step_accepted == generation.step_drafted


def test_counts_add_up(target, draft):
    for method in METHODS:
        for generation in decode(NativeEngine(target, draft, []), method=method, tokens=25):
            steps = len(generation.step_drafted)
            assert len(generation.step_accepted) == len(generation.step_gamma) == steps
            assert len(generation.tokens) == steps + sum(generation.step_accepted)
            pairs = zip(generation.step_accepted, generation.step_drafted, strict=True)
            assert all(0 <= kept <= offered <= 4 for kept, offered in pairs)


@pytest.mark.parametrize(("larger", "smaller"), [("target", "draft"), ("draft", "target")])
@pytest.mark.parametrize("gamma", ["0", "4"])
def test_vocabularies_of_two_sizes(model, larger, smaller, gamma):
    """Qwen pads its embeddings: what only one model has is never emitted and never fed."""
    sizes = {larger: 23, smaller: 19}
    target = model(sizes["target"], seed=1)
    draft = model(sizes["draft"], seed=2, layers=1)
    engine = NativeEngine(target, draft, [])
    prompts = [(3, 4, 5), (18,), (9, 9, 1)]
    for generation in decode(engine, gamma, prompts=prompts, tokens=60):
        assert len(generation.tokens) == 60
        assert max(generation.tokens) < 19
    room = engine.reserve(1, 1, 0)
    assert room.target_logits.shape[-1] == room.draft_logits.shape[-1] == 19


@pytest.mark.parametrize("gamma", ["4", "heuristic", "bass"])
def test_models_with_learned_positions_stay_inside_them(gamma):
    """What stands nowhere, or past a neighbour's limit, must not be looked up as a position."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=23, n_positions=40, n_embd=16, n_layer=1, n_head=2, initializer_range=0.5
    )
    gpt = CausalModel(GPT2LMHeadModel(config).eval())
    assert gpt.max_positions == 40
    prompts = [(3,), tuple(range(2, 22))]
    found = decode(NativeEngine(gpt, gpt, []), gamma, prompts=prompts, tokens=20, temperature=0.0)
    for prompt, generation in zip(prompts, found, strict=True):
        assert generation.tokens == plain_greedy(gpt, prompt, 20)


def test_no_random_number_is_used_twice(target, draft, monkeypatch):
    """Over a whole generation: every (seed, position, purpose, slot) is drawn at most once."""
    from collections import Counter

    from specbench.sampling import philox

    drawn = Counter()
    words = philox.words

    def spy(seeds, positions, purpose, slots, elements):
        for seed, position in zip(seeds.tolist(), positions.tolist(), strict=True):
            drawn.update((seed, position, int(purpose), slot) for slot in slots.tolist())
        return words(seeds, positions, purpose, slots, elements)

    monkeypatch.setattr(philox, "words", spy)
    for method in METHODS:
        drawn.clear()
        found = decode(
            NativeEngine(target, draft, []), method=method, prompts=PROMPTS[:1], tokens=30
        )
        assert len(found[0].tokens) == 30
        assert set(drawn.values()) == {1}
        assert {key[2] for key in drawn} == {int(purpose) for purpose in philox.Purpose}


def test_gamma_zero_is_plain_decoding_whatever_the_method(target, draft):
    engine = NativeEngine(target, draft, [])
    first, *others = (decode(engine, "0", method) for method in METHODS)
    for found in others:
        assert [g.tokens for g in found] == [g.tokens for g in first]
    assert all(g.step_drafted == [0] * 18 for g in first)


@pytest.mark.parametrize("method", EXACT)
def test_plain_decoding_emits_what_a_step_without_drafts_emits(target, draft, method):
    """At one new token no draft fits, and the verifier's own token is all there is."""
    engine = NativeEngine(target, draft, [])
    plain, verified = (
        decode(engine, gamma, method, tokens=1, prompts=PROMPTS * 16) for gamma in ("0", "4")
    )
    assert all(g.step_drafted == [0] for g in verified)
    assert [g.tokens for g in plain] == [g.tokens for g in verified]


def test_broken_logits_end_their_sequence_with_a_reason(model, draft):
    """A NaN for one sequence: it fails, its neighbours finish as they would alone."""
    target = model(seed=1)
    engine = NativeEngine(target, draft, [])
    healthy = decode(engine)
    forward = target.model.forward

    def poisoned(*args, input_ids, **kwargs):
        out = forward(*args, input_ids=input_ids, **kwargs)
        if input_ids.shape[1] == 5:  # a scoring step, not the prefill
            out.logits[1] = torch.nan
        return out

    target.model.forward = poisoned
    found = decode(engine)
    assert "NaN" in found[1].error
    assert found[1].finish_reason is None
    assert found[1].tokens == []
    for i in (0, 2, 3):
        assert found[i].tokens == healthy[i].tokens


def test_an_empty_prompt_is_refused(target, draft):
    with pytest.raises(InputError, match="a prompt is empty"):
        decode(NativeEngine(target, draft, []), prompts=[()])


def test_log_probability_is_the_mean_under_the_target(target, draft):
    prompt, new = (3, 4, 5), (6, 1, 2, 8)
    rows = forward(target, [[*prompt, *new]])[0].double().log_softmax(-1)
    by_hand = sum(float(rows[len(prompt) - 1 + i, token]) for i, token in enumerate(new)) / 4
    engine = NativeEngine(target, draft, [])
    assert engine.log_probability(Request(prompt), new) == pytest.approx(by_hand, abs=1e-5)
    assert engine.log_probability(Request(prompt), ()) is None


@pytest.mark.parametrize("processing", [{}, {"top_k": 4}, {"temperature": 0.5}])
def test_the_variation_of_sigmoids_law_is_that_of_each_tokens_place(target, draft, processing):
    """Two steps of two drafts: all kept, then none; the third token is a bonus."""
    prompt, tokens = (3, 4, 5), [6, 1, 2, 8]
    decoding = Decoding(4, **{"temperature": 1.0, "sigmoid_range": (-4.0, 4.0)} | processing)
    rows = [
        process(
            forward(model, [[*prompt, *tokens]])[:, len(prompt) - 1 : -1], target.vocab_size,
            torch.tensor([decoding.temperature]), decoding.top_k, None,
        )[0]
        for model in (target, draft)
    ]  # fmt: skip
    bonus = torch.tensor([False, False, True, False])
    expected = sigmoid_variation(*rows, bonus, decoding.temperature, decoding.sigmoid_range).mean()
    steps = Generation(tokens, "length", [2, 2], [2, 0], [2, 2])
    found = sigmoid_law_variation(target, draft, Request(prompt), steps, decoding)
    assert found == pytest.approx(float(expected), abs=1e-5)
    assert 0 < found < 1
    # A step that ended among its drafts has fewer tokens than drafts and one.
    short = Generation([6, 1], "eos", [4], [2], [4])
    assert sigmoid_law_variation(target, draft, Request(prompt), short, decoding) is not None
    none = Generation([], "length")
    assert sigmoid_law_variation(target, draft, Request(prompt), none, decoding) is None


OPTIONS = [
    {"temperature": 0.6},
    {"top_k": 2},
    {"top_p": 0.7, "temperature": 1.3},
]


@pytest.mark.parametrize(
    ("method", "gamma", "options"),
    [(method, "2", {}) for method in EXACT]
    + [(method, "2", options) for method in ("fused", "block") for options in OPTIONS]
    + [("fused", "0", options) for options in OPTIONS]
    + [("fused", "bass", {}), ("fused", "2", {"size": 700})],
    ids=str,
)
def test_sampled_sequences_follow_the_targets_law(small_pair, law, method, gamma, options):
    """Chi-square over all sequences of 5 tokens, 3,000 of them, seeds 0…2,999, level 1 in 10,000.

    Five tokens with γ = 2 make steps of every kind, those that follow a full acceptance too.
    """
    from scipy.stats import chi2

    options, prompt = dict(options), (1, 2)
    size = options.pop("size", None)
    engine = NativeEngine(*small_pair, [])
    found = decode(engine, gamma, method, tokens=5, prompts=[prompt] * 3000, size=size, **options)
    statistic, dof = law(small_pair[0], prompt, 5, **options).misfit([g.tokens for g in found])
    assert chi2.sf(statistic, dof) > 1e-4
    if gamma != "0":
        assert (
            0 < sum(sum(g.step_accepted) for g in found) < sum(sum(g.step_drafted) for g in found)
        )


def test_sigmoid_does_not_follow_the_targets_law(small_pair, law):
    """The same test has the power to say no."""
    prompt = (1, 2)
    found = decode(NativeEngine(*small_pair, []), "2", "sigmoid", tokens=5, prompts=[prompt] * 3000)
    statistic, dof = law(small_pair[0], prompt, 5).misfit([g.tokens for g in found])
    assert statistic > 5 * dof


def test_neighbours_that_end_and_newcomers_change_no_law(small_pair, law):
    """Token 0 ends a sequence: slots come free at every step, and their next sequences are lawful too.

    Of what follows an end token there is nothing; so the law is that of the first three tokens, in
    which all that begin alike up to an end are one cell.
    """
    from scipy.stats import chi2

    prompt, length = (1, 2), 3
    found = decode(
        NativeEngine(*small_pair, [0]), "2", tokens=length, prompts=[prompt] * 3000, size=100
    )
    joint = law(small_pair[0], prompt, length).probabilities.view(3, 3, 3)
    expected = {(0,): joint[0].sum()}
    expected |= {(a, 0): joint[a, 0].sum() for a in (1, 2)}
    expected |= {(a, b, c): joint[a, b, c] for a in (1, 2) for b in (1, 2) for c in range(3)}
    seen = collections.Counter(tuple(g.tokens) for g in found)
    assert set(seen) <= set(expected)
    counts = torch.tensor([float(seen[key]) for key in expected], dtype=torch.float64)
    statistic, dof = chi_square(counts, 3000 * torch.stack(list(expected.values())))
    assert chi2.sf(statistic, dof) > 1e-4
