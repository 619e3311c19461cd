"""The engine that is transformers' own loop: what it says is the native engine's, or its law."""

import gc
import itertools

import pytest
import torch
import transformers
from transformers.cache_utils import DynamicCache
from transformers.generation import utils
from transformers.generation.candidate_generator import AssistedCandidateGenerator

from specbench.engine.batch import Request
from specbench.engine.decoding import COMPILED, EAGER, GRAPHS, Decoding, Execution
from specbench.engine.model import CausalModel
from specbench.engine.native import NativeEngine
from specbench.engine.observer import Silent
from specbench.engine.speech import SpeechModel
from specbench.engine.transformers import TransformersEngine
from specbench.errors import InputError, MachineError
from specbench.sampling.check import chi_square
from specbench.sampling.policy import make_policy
from specbench.sampling.registry import get_method
from specbench.telemetry.spans import SpanRecorder

METHODS = ["baseline", "exact", "sigmoid", "fused", "block"]
EXACT = ["baseline", "exact", "fused", "block"]
PROMPTS = [(3, 4, 5, 6, 7, 8, 9), (2,), tuple(range(2, 22))]
OPTIONS = [{"temperature": 0.6}, {"top_k": 2}, {"top_p": 0.7, "temperature": 1.3}]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def decode(engine, gamma="4", method="fused", tokens=18, prompts=PROMPTS, policy=None, watch=None,
           rate=None, **decoding):  # fmt: skip
    """One after the other, by either engine."""
    requests = [Request(prompt, seed) for seed, prompt in enumerate(prompts)]
    return engine.generate(
        requests, get_method(method), policy or make_policy(gamma), Decoding(tokens, **decoding), watch,
        Execution(synthetic_acceptance=rate), 1,
    )  # fmt: skip


def told(generations):
    """What two engines must agree on."""
    return [
        (one.tokens, one.finish_reason, one.step_drafted, one.step_accepted, one.first_step)
        for one in generations
    ]


def sharp(model, seed, **shape):
    """A draft that always says the same, however it is asked."""
    found = model(seed=seed, **shape)
    with torch.no_grad():
        found.model.get_output_embeddings().weight.mul_(1e3)
    return found


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param


# --- what it says ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gamma", "method"),
    [*itertools.product(["0", "1", "4", "16"], ["fused"]), *itertools.product(["3"], METHODS)],
)
def test_greedy_is_the_native_engines_step_by_step(target, draft, gamma, method):
    expected = decode(NativeEngine(target, draft, []), gamma, method, temperature=0.0)
    found = decode(TransformersEngine(target, draft, []), gamma, method, temperature=0.0)
    assert told(found) == told(expected)


def test_greedy_stays_greedy_when_the_heuristic_drafts(target, draft):
    expected = decode(NativeEngine(target, draft, []), "0", temperature=0.0)
    found = decode(TransformersEngine(target, draft, []), "heuristic", temperature=0.0)
    assert [one.tokens for one in found] == [one.tokens for one in expected]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "top_k": 9}], ids=str)
def test_equal_drafts_and_seeds_are_verified_as_in_the_native_engine(
    target, model, method, options, device
):
    """transformers draws drafts from a generator of its own, so here they leave nothing to chance."""
    certain = sharp(model, 2, layers=1)
    if device == "cuda":
        target = model(seed=1)
        for one in (target, certain):
            one.model.cuda()
        target, certain = CausalModel(target.model), CausalModel(certain.model)
    expected, found = (
        decode(engine(target, certain, []), "4", method, tokens=40, **options)
        for engine in (NativeEngine, TransformersEngine)
    )
    if device == "cpu":
        assert told(found) == told(expected)
    else:  # another attention rounds otherwise
        assert told(found)[:1] == told(expected)[:1]
    assert any(sum(one.step_accepted) for one in found)


@pytest.mark.parametrize("method", EXACT)
@pytest.mark.parametrize("options", [{}, *OPTIONS], ids=str)
def test_a_draft_equal_to_the_target_is_always_accepted(target, model, method, options):
    """A draft that were tempered twice, or fed with a hole in its cache, would not be."""
    engine = TransformersEngine(target, model(seed=1), [])
    for one in decode(engine, "4", method, tokens=40, **options):
        assert one.step_accepted == one.step_drafted
        assert sum(one.step_drafted) > 0


@pytest.mark.parametrize("tokens", [1, 2, 3, 7])
@pytest.mark.parametrize("gamma", ["0", "1", "8", "heuristic"])
def test_max_new_tokens_is_met_and_never_passed(target, draft, gamma, tokens):
    for one in decode(TransformersEngine(target, draft, []), gamma, tokens=tokens):
        assert len(one.tokens) == tokens
        assert one.finish_reason == "length"


@pytest.mark.parametrize("gamma", ["0", "4"])
def test_the_end_token_ends_a_sequence_and_what_follows_is_dropped(target, model, gamma):
    """With draft = target everything is accepted, so the end token stands among the drafts."""
    twin, reasons = model(seed=1), set()
    for eos in range(0, 23, 2):
        expected, found = (
            decode(engine(target, twin, [eos, 21]), gamma, tokens=12, temperature=0.0)
            for engine in (NativeEngine, TransformersEngine)
        )
        assert told(found) == told(expected)
        reasons |= {one.finish_reason for one in found}
    assert reasons == {"eos", "length"}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_counts_are_what_transformers_did(target, draft, monkeypatch, temperature):
    """It hears after each step how many drafts were kept."""
    kept, update = [], AssistedCandidateGenerator.update_candidate_strategy

    def spy(self, tokens, scores, num_matches):
        kept.append((scores.shape[1] - 1, int(num_matches)))
        return update(self, tokens, scores, num_matches)

    monkeypatch.setattr(AssistedCandidateGenerator, "update_candidate_strategy", spy)
    found = decode(
        TransformersEngine(target, draft, []), method="block", tokens=25, temperature=temperature
    )
    steps = [zip(one.step_drafted, one.step_accepted, strict=True) for one in found]
    assert list(itertools.chain(*steps)) == kept
    for one in found:
        assert one.step_gamma == one.step_drafted
        assert len(one.tokens) == len(one.step_drafted) + sum(one.step_accepted)


def test_the_heuristic_follows_its_rule_and_goes_on_with_the_next_sequence(target, model):
    near = model(seed=1)
    with torch.no_grad():
        near.model.get_output_embeddings().weight.add_(0.05)
        near.model.get_output_embeddings().weight[3:9].mul_(1.5)
    policy = make_policy("heuristic")
    found = decode(TransformersEngine(target, near, []), tokens=40, policy=policy)
    gamma, turns = 5, set()
    for one in found:
        left = 40
        for drafted, accepted in zip(one.step_drafted, one.step_accepted, strict=True):
            assert drafted == min(gamma, left - 1)
            gamma = gamma + 2 if accepted == drafted else max(1, gamma - 1)
            left -= accepted + 1
            turns.add(accepted == drafted)
    assert policy.gamma == gamma
    assert turns == {True, False}


def test_no_step_has_more_drafts_than_a_method_takes(model):
    """transformers' heuristic knows no limit."""
    target = model(5, seed=1, layers=1)
    policy = make_policy("heuristic")
    policy.gamma = 127
    twins = TransformersEngine(target, model(5, seed=1, layers=1), [])
    found = twins.generate(
        [Request((1,))] * 2, get_method("fused"), policy, Decoding(240, temperature=0.0)
    )
    assert max(found[0].step_drafted) == 127
    assert policy.gamma == max(found[1].step_drafted) == 128


@pytest.mark.parametrize(("larger", "smaller"), [("target", "draft"), ("draft", "target")])
@pytest.mark.parametrize("gamma", ["0", "4"])
def test_vocabularies_of_two_sizes(model, larger, smaller, gamma):
    """Qwen pads its embeddings: what only one model has is never emitted and never fed."""
    sizes = {larger: 23, smaller: 19}
    target, draft = model(sizes["target"], seed=1), model(sizes["draft"], seed=2, layers=1)
    engine, prompts = TransformersEngine(target, draft, []), [(3, 4, 5), (18,)]
    for one in decode(engine, gamma, prompts=prompts, tokens=60):
        assert len(one.tokens) == 60
        assert max(one.tokens) < 19
    expected = decode(NativeEngine(target, draft, []), gamma, prompts=prompts, temperature=0.0)
    assert told(decode(engine, gamma, prompts=prompts, temperature=0.0)) == told(expected)
    assert draft.model.config.vocab_size == sizes["draft"]


@pytest.mark.parametrize(
    ("method", "gamma", "options", "count"),
    [(method, "2", {}, 700) for method in EXACT]
    + [("fused", "2", options, 350) for options in OPTIONS]
    + [("fused", "0", {"top_p": 0.7, "temperature": 1.3}, 500)],
    ids=str,
)
def test_sampled_sequences_follow_the_targets_law(model, law, method, gamma, options, count):
    """Chi-square over all sequences of 3 tokens, seeds 0…count, level 1 in 10,000.

    Three tokens with γ = 2 make steps of every kind: nothing accepted, a part, all.
    """
    from scipy.stats import chi2

    target, draft = (model(3, seed=seed, layers=1, sharpness=0.4) for seed in (4, 5))
    prompt = (1, 2)
    found = decode(
        TransformersEngine(target, draft, []), gamma, method, tokens=3, prompts=[prompt] * count,
        **options,
    )  # fmt: skip
    expected = law(target, prompt, 3, **options)
    statistic, dof = expected.misfit([one.tokens for one in found])
    assert chi2.sf(statistic, dof) > 1e-4
    if gamma != "0":
        accepted, drafted = (
            sum(sum(getattr(one, name)) for one in found) for name in ("step_accepted", "step_drafted")
        )  # fmt: skip
        assert 0 < accepted < drafted


def test_sigmoid_does_not_follow_the_targets_law(model, law):
    """The same test has the power to say no."""
    target, draft = (model(3, seed=seed, layers=1, sharpness=0.4) for seed in (4, 5))
    found = decode(
        TransformersEngine(target, draft, []), "2", "sigmoid", tokens=3, prompts=[(1, 2)] * 200
    )
    statistic, dof = law(target, (1, 2), 3).misfit([one.tokens for one in found])
    assert statistic > 3 * dof


def test_a_seed_gives_the_same_sequence_always_and_leaves_torchs_generator_alone(target, draft):
    engine = TransformersEngine(target, draft, [])
    for gamma in ("0", "3"):
        before = torch.random.get_rng_state()
        first = decode(engine, gamma, prompts=[PROMPTS[0]] * 3)
        assert torch.equal(torch.random.get_rng_state(), before)
        torch.rand(5)
        assert told(decode(engine, gamma, prompts=[PROMPTS[0]] * 3)) == told(first)
        assert len({tuple(one.tokens) for one in first}) == 3


@pytest.mark.parametrize("rate", [0.0, 0.6, 1.0])
def test_dice_fall_as_in_the_native_engine(target, draft, rate):
    """Whatever the verifier says, but only where the drafts are equal are the steps."""
    expected, found = (
        decode(engine(target, draft, []), "4", tokens=40, rate=rate)
        for engine in (NativeEngine, TransformersEngine)
    )
    assert [one.step_accepted for one in found] == [one.step_accepted for one in expected]
    assert [one.step_drafted for one in found] == [one.step_drafted for one in expected]


# --- how it is done --------------------------------------------------------------------------


def test_what_the_models_files_wish_has_no_say(target, draft):
    settings = [model.model.generation_config for model in (target, draft)]
    expected = decode(TransformersEngine(target, draft, []))
    wishes = {
        "repetition_penalty": 3.0, "top_k": 2, "temperature": 0.3, "do_sample": True, "eos_token_id": 3,
        "num_assistant_tokens": 9, "num_assistant_tokens_schedule": "heuristic",
    }  # fmt: skip
    mine = [transformers.GenerationConfig(**wishes) for _ in range(2)]
    try:
        target.model.generation_config, draft.model.generation_config = mine
        assert told(decode(TransformersEngine(target, draft, []))) == told(expected)
        assert target.model.generation_config is mine[0]
        assert draft.model.generation_config is mine[1]
        assert mine[1].num_assistant_tokens == 9
    finally:
        target.model.generation_config, draft.model.generation_config = settings


def test_both_engines_take_turns_with_the_same_models(target, draft):
    """Each with its own attention."""
    seen = []
    hook = target.model.register_forward_hook(
        lambda model, *_: seen.append(model.config._attn_implementation)
    )
    native, theirs = NativeEngine(target, draft, []), TransformersEngine(target, draft, [])
    first = [told(decode(engine, temperature=0.0)) for engine in (native, theirs)]
    again = [told(decode(engine, temperature=0.0)) for engine in (native, theirs)]
    hook.remove()
    assert first == again
    assert list(dict.fromkeys(seen)) == ["specbench_pad", "sdpa"]
    request, new = Request(PROMPTS[0]), (6, 1, 2, 8)
    assert theirs.log_probability(request, new) == native.log_probability(request, new)
    assert theirs.log_probability(request, ()) is None


@pytest.mark.parametrize("gamma", ["0", "4"])
def test_every_step_has_its_times(target, draft, gamma):
    watch = SpanRecorder(torch.device("cpu"))
    found = decode(TransformersEngine(target, draft, []), gamma, watch=watch)
    spans, steps = watch.spans(), sum(len(one.step_drafted) for one in found)
    for times in (
        spans.draft_us,
        spans.target_us,
        spans.verify_us,
        spans.commit_us,
        spans.step_end_s,
    ):
        assert len(times) == steps
    assert min(spans.target_us) > 0
    assert min(spans.commit_us) > 0
    for times in (spans.draft_us, spans.verify_us):
        assert (min(times) > 0) if gamma != "0" else (max(times) == 0)
    busy_us = sum(
        spans.draft_us + spans.target_us + spans.random_us + spans.verify_us + spans.commit_us
    )
    assert spans.prefill_s > 0
    assert 0.5 * spans.wall_s < busy_us / 1e6 + spans.prefill_s <= spans.wall_s
    assert spans.step_end_s == sorted(spans.step_end_s)
    ends = [spans.finished_s[i] for i in range(3)]
    assert ends == sorted(ends)
    assert [one.first_step for one in found] == [
        sum(len(one.step_drafted) for one in found[:i]) for i in range(3)
    ]


def test_broken_logits_end_their_sequence_with_a_reason(model, draft):
    class Watch(Silent):
        def admitted(self, sequence):
            self.sequence = sequence

    target, watch = model(seed=1), Watch()
    engine, forward = TransformersEngine(target, draft, []), target.model.forward
    healthy = decode(engine)

    def poisoned(*args, input_ids, **kwargs):
        out = forward(*args, input_ids=input_ids, **kwargs)
        if watch.sequence == 1:
            out.logits[:] = torch.nan
        return out

    target.model.forward = poisoned
    found = decode(engine, watch=watch)
    assert "NaN" in found[1].error
    assert found[1].finish_reason is None
    assert found[1].tokens == []
    assert [found[i].tokens for i in (0, 2)] == [healthy[i].tokens for i in (0, 2)]
    assert found[2].first_step == len(found[0].step_drafted) + len(found[1].step_drafted)


def test_after_an_error_all_is_as_it_was(target, draft):
    import dataclasses

    def law(step):
        raise RuntimeError("no law")

    places = utils._speculative_sampling, utils.GenerationMixin._get_candidate_generator
    settings = target.model.generation_config, draft.model.generation_config
    broken = dataclasses.replace(get_method("baseline"), law=law)
    engine = TransformersEngine(target, draft, [])
    expected = decode(engine)
    with pytest.raises(RuntimeError, match="no law"):
        engine.generate([Request((3,))], broken, make_policy("3"), Decoding(5))
    assert (utils._speculative_sampling, utils.GenerationMixin._get_candidate_generator) == places
    assert (target.model.generation_config, draft.model.generation_config) == settings
    assert not target.model._forward_pre_hooks
    assert told(decode(engine)) == told(expected)


@pytest.mark.parametrize(
    ("size", "gamma", "execution", "words"),
    [
        (2, "4", Execution(), "one sequence at a time"),
        (1, "bass", Execution(), "schedules"),
        (1, "4", Execution(GRAPHS), "op by op"),
        (1, "4", Execution(COMPILED), "op by op"),
        (1, "4", Execution(EAGER, "split"), "split"),
    ],
)
def test_what_transformers_cannot_is_refused(target, draft, size, gamma, execution, words):
    with pytest.raises(InputError, match=words) as caught:
        TransformersEngine(target, draft, []).generate(
            [Request((3,))] * 2, get_method("fused"), make_policy(gamma), Decoding(4), None, execution,
            size,
        )  # fmt: skip
    assert "native" in caught.value.hint


def test_an_unknown_version_is_refused_before_anything_is_decoded(target, draft, monkeypatch):
    monkeypatch.setattr(utils, "_speculative_sampling", lambda ids, logits, gamma: None)
    with pytest.raises(
        MachineError, match=r"_speculative_sampling\(ids, logits, gamma\)"
    ) as caught:
        TransformersEngine(target, draft, [])
    assert transformers.__version__ in caught.value.message
    assert "--engine native" in caught.value.hint


# --- speech ----------------------------------------------------------------------------------

MELS, FRAMES, EOS, START = 8, 20, 2, 3


def whisper(vocab=50, seed=0, layers=2, width=32, std=0.3, encoder_layers=None):
    torch.manual_seed(seed)
    config = transformers.WhisperConfig(
        vocab_size=vocab, d_model=width, encoder_layers=encoder_layers or layers, decoder_layers=layers,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=2 * width,
        decoder_ffn_dim=2 * width, max_source_positions=FRAMES, max_target_positions=96,
        num_mel_bins=MELS, pad_token_id=EOS, bos_token_id=1, eos_token_id=EOS,
        decoder_start_token_id=START, init_std=std, suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    return transformers.WhisperForConditionalGeneration(config).eval()


def audio(count):
    return torch.randn(count, MELS, 2 * FRAMES, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=["own encoder", "shared encoder"])
def speech_pair(request):
    """A small draft with an encoder of its own, or a decoder that hears with the target's."""
    target = whisper(seed=1)
    if request.param == "own encoder":
        return SpeechModel(target), SpeechModel(whisper(seed=2, layers=1, width=16))
    draft = whisper(seed=2, layers=1, encoder_layers=2)
    draft.model.encoder = target.model.encoder
    return SpeechModel(target), SpeechModel(draft)


def listen(engine, features, gamma="3", tokens=24, prompt=(START, 7), **decoding):
    requests = [Request(prompt, seed, heard) for seed, heard in enumerate(features)]
    return engine.generate(
        requests, get_method("fused"), make_policy(gamma), Decoding(tokens, **decoding), None,
        Execution(), 1,
    )  # fmt: skip


@pytest.mark.parametrize("gamma", ["0", "1", "4"])
@pytest.mark.parametrize("suppressed", [((), ()), ((5, 6, 40), (EOS, 37))])
def test_greedy_speech_is_the_native_engines(speech_pair, gamma, suppressed):
    expected, found = (
        listen(engine(*speech_pair, [EOS], suppressed), audio(3), gamma, temperature=0.0)
        for engine in (NativeEngine, TransformersEngine)
    )
    assert told(found) == told(expected)
    assert len({tuple(one.tokens) for one in found}) > 1  # it does listen


def test_a_speech_draft_equal_to_the_target_is_always_accepted(speech_pair):
    """Also where the tokens not to be said first are said in no later step's first draft either."""
    target, draft = speech_pair
    twin = whisper(seed=1)
    if draft.encoder is target.encoder:
        twin.model.encoder = target.encoder
    engine = TransformersEngine(target, SpeechModel(twin), [], ((5,), (10, 37)))
    for one in listen(engine, audio(3), "4"):
        assert one.step_accepted == one.step_drafted
        assert one.tokens[0] not in (5, 10, 37)


def test_an_encoder_of_both_hears_once_and_is_the_drafts_own_again(speech_pair):
    target, draft = speech_pair
    heard = []
    hooks = [
        one.register_forward_hook(lambda *_: heard.append(1)) for one in {target.encoder, draft.encoder}
    ]  # fmt: skip
    listen(TransformersEngine(target, draft, []), audio(2), tokens=4)
    for hook in hooks:
        hook.remove()
    assert len(heard) == 2 * len(hooks)
    assert draft.model.model.encoder is draft.encoder
    assert "generate" not in vars(draft.model)
    assert not target.encoder._forward_hooks


@pytest.mark.parametrize("shares", [False, True])
def test_the_sampled_law_of_speech_is_the_masked_targets(shares):
    """Chi-square over sequences of two tokens; Whisper's own generate would draft greedily."""
    from scipy.stats import chi2

    vocab, count, suppressed = 9, 450, ((5,), (EOS, 7))
    target, draft = (SpeechModel(whisper(vocab, seed, 1, 16, std=0.6)) for seed in (11, 12))
    if shares:
        draft.model.model.encoder = draft.encoder = target.encoder
    heard = audio(1)[0]
    found = listen(
        TransformersEngine(target, draft, [], suppressed), [heard] * count, "2", 2, (START,)
    )
    with torch.no_grad():
        firsts = torch.arange(vocab)[:, None]
        tokens = torch.cat([torch.full_like(firsts, START), firsts], 1)
        rows = target.model(
            input_features=heard[None].expand(vocab, -1, -1), decoder_input_ids=tokens
        ).logits.double()
    rows[:, :, list(suppressed[0])] = -torch.inf
    rows[:, 0, list(suppressed[1])] = -torch.inf
    law = rows[:, 0].softmax(-1)[0][:, None] * rows[:, 1].softmax(-1)
    cells = torch.zeros(vocab, vocab, dtype=torch.float64)
    for one in found:
        cells[one.tokens[0], one.tokens[1]] += 1
    assert float(cells[law == 0].sum()) == 0
    statistic, dof = chi_square(cells.flatten(), count * law.flatten())
    assert chi2.sf(statistic, dof) > 1e-4
    accepted = sum(sum(one.step_accepted) for one in found)
    assert 0 < accepted < sum(sum(one.step_drafted) for one in found)


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
def test_on_a_gpu_greedy_speech_and_its_times(method):
    target, draft = whisper(seed=1).cuda(), whisper(seed=2, layers=1, width=16).cuda()
    pair = SpeechModel(target), SpeechModel(draft)
    watch = SpanRecorder(torch.device("cuda"))
    requests = [Request((START, 7), seed, heard) for seed, heard in enumerate(audio(3))]
    how = get_method(method), make_policy("4"), Decoding(24, 0.0)
    expected = NativeEngine(*pair, [EOS]).generate(requests, *how)
    found = TransformersEngine(*pair, [EOS]).generate(requests, *how, watch)
    spans = watch.spans()
    assert min(spans.verify_us) > 0
    assert spans.gpu_s > 0
    same = [a.tokens == b.tokens for a, b in zip(found, expected, strict=True)]
    assert sum(same) >= 2  # but for a tie within rounding


def test_no_cache_of_an_ended_sequence_waits_for_the_garbage_collector(target, draft):
    """None comes while a run is timed, and each would keep a draft cache."""

    def caches():
        return sum(type(one) is DynamicCache for one in gc.get_objects())

    engine = TransformersEngine(target, draft, [])
    gc.collect()
    gc.disable()
    try:
        decode(engine)
        before = caches()
        decode(engine)
        assert caches() == before
    finally:
        gc.enable()
