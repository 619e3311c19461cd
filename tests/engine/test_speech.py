"""Encoder-decoder models in the engine: what they hear, what they must not say, and the law of it all."""

import functools
import gc
import weakref

import pytest
import torch
import transformers

from specbench.engine.attention import PAD, SPLIT
from specbench.engine.batch import Request
from specbench.engine.decoding import COMPILED, EAGER, GRAPHS, Decoding, Execution
from specbench.engine.native import NativeEngine
from specbench.engine.speech import SpeechCache, SpeechModel
from specbench.engine.steps import Steps
from specbench.engine.workspace import PREFILL_TOKENS
from specbench.sampling.check import chi_square
from specbench.sampling.policy import make_policy
from specbench.sampling.registry import get_method

MELS, FRAMES, EOS, START = 8, 20, 2, 3
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def whisper(vocab=50, seed=0, layers=2, width=32, std=0.3):
    torch.manual_seed(seed)
    config = transformers.WhisperConfig(
        vocab_size=vocab, d_model=width, encoder_layers=layers, decoder_layers=layers,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=2 * width,
        decoder_ffn_dim=2 * width, max_source_positions=FRAMES, max_target_positions=96,
        num_mel_bins=MELS, pad_token_id=EOS, bos_token_id=1, eos_token_id=EOS,
        decoder_start_token_id=START, init_std=std, suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    return transformers.WhisperForConditionalGeneration(config).eval()


def audio(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, MELS, 2 * FRAMES, generator=generator)


def requests(features, prompt=(START,)):
    return [Request(prompt, seed, heard) for seed, heard in enumerate(features)]


def decode(engine, features, gamma="3", method="fused", tokens=24, temperature=1.0, size=None,
           mode=EAGER, attention=PAD, prompt=(START,)):  # fmt: skip
    found = engine.generate(
        requests(features, prompt), get_method(method), make_policy(gamma),
        Decoding(tokens, temperature), None, Execution(mode, attention), size,
    )  # fmt: skip
    assert all(one.error is None for one in found)
    return [one.tokens for one in found]


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param


@pytest.fixture
def pair(device):
    target, draft = whisper(seed=1).to(device), whisper(seed=2, layers=1, width=16).to(device)
    return SpeechModel(target), SpeechModel(draft)


def test_the_logits_are_the_models_own(device):
    model = whisper().to(device)
    speech, features = SpeechModel(model), audio(3).to(device)
    tokens = torch.randint(4, 50, (3, 9), generator=torch.Generator().manual_seed(0)).to(device)
    with torch.no_grad():
        whole = model(input_features=features, decoder_input_ids=tokens).logits
        other = model(input_features=audio(1, 9).to(device), decoder_input_ids=tokens[1:2]).logits
    cache = speech.new_cache(3, 32)
    speech.allocate(cache)
    speech.listen(speech.encode(features), cache)
    places = torch.arange(9, device=device).repeat(3, 1)
    parts = [
        speech.forward(tokens[:, cut], places[:, cut], cache, [32] * 3)
        for cut in (slice(0, 5), slice(5, 9))
    ]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-4, atol=1e-4)
    # One sequence hears something else; its neighbours do not notice.
    row = slice(1, 2)
    speech.listen(speech.encode(audio(1, 9)), cache, row)
    speech.forward(tokens[row, :5], places[row, :5], cache, [32], rows=row)
    again = speech.forward(tokens[:, 5:], places[:, 5:], cache, [32] * 3)
    expected = torch.cat([whole[:1, 5:], other[:, 5:], whole[2:, 5:]])
    torch.testing.assert_close(again, expected, rtol=1e-4, atol=1e-4)
    layers, heads, width = 2, 2, 16
    assert cache.allocated_bytes == 2 * layers * 3 * heads * width * 4 * (33 + FRAMES)


@pytest.mark.parametrize("suppressed", [((), ()), ((5, 6, 7, 30), (EOS, 9))])
@pytest.mark.parametrize("gamma", ["0", "1", "4", "bass"])
def test_greedy_is_what_transformers_generates(pair, gamma, suppressed):
    """Of each model alone; sequences of several lengths, in one batch and refilled."""
    target, draft = pair
    features = audio(6)
    settings = target.model.generation_config
    settings.suppress_tokens = list(suppressed[0]) or None
    settings.begin_suppress_tokens = list(suppressed[1]) or None
    expected = []
    for one in features:
        out = target.model.generate(
            input_features=one[None].to(target.device), do_sample=False, max_new_tokens=24,
            num_beams=1,
        )[0].tolist()  # fmt: skip
        out = out[1:] if out[0] == START else out
        expected.append(out[: out.index(EOS) + 1] if EOS in out else out)
    engine = NativeEngine(target, draft, [EOS], suppressed)
    for size in (6, 2):
        assert decode(engine, features, gamma, temperature=0.0, size=size) == expected
    assert len({tuple(one) for one in expected}) > 1  # it does listen


@pytest.mark.parametrize("method", ["baseline", "exact", "fused", "block"])
def test_the_sampled_law_is_the_masked_targets(method, device):
    """Chi-square over sequences of two tokens, of a small vocabulary some of which is suppressed."""
    vocab, count = 9, 4000
    target, draft = (
        SpeechModel(whisper(vocab, seed, 1, 16, std=0.6).to(device)) for seed in (11, 12)
    )
    suppressed = ((5,), (EOS, 7))
    engine = NativeEngine(target, draft, [], suppressed)
    heard = audio(1)[0]
    found = []
    for start in range(0, count, 500):
        some = [Request((START,), seed, heard) for seed in range(start, start + 500)]
        found += engine.generate(some, get_method(method), make_policy("2"), Decoding(2))
    with torch.no_grad():
        firsts = torch.arange(vocab, device=device)[:, None]
        tokens = torch.cat([torch.full_like(firsts, START), firsts], 1)
        rows = target.model(
            input_features=heard[None].to(device).expand(vocab, -1, -1), decoder_input_ids=tokens
        ).logits.double().cpu()  # fmt: skip
    rows[:, :, list(suppressed[0])] = -torch.inf
    rows[:, 0, list(suppressed[1])] = -torch.inf
    law = rows[:, 0].softmax(-1)[0][:, None] * rows[:, 1].softmax(-1)
    cells = torch.zeros(vocab, vocab, dtype=torch.float64)
    for one in found:
        cells[one.tokens[0], one.tokens[1]] += 1
    assert float(cells[law == 0].sum()) == 0
    from scipy.stats import chi2

    statistic, dof = chi_square(cells.flatten(), count * law.flatten())
    assert chi2.sf(statistic, dof) > 1e-4


def test_a_draft_that_is_the_target_is_always_accepted(pair):
    target, _ = pair
    engine = NativeEngine(target, SpeechModel(target.model), [], ((5,), (7,)))
    found = engine.generate(
        requests(audio(3)), get_method("fused"), make_policy("4"), Decoding(30), None
    )
    for one in found:
        assert one.step_accepted == one.step_drafted


def test_a_sequence_does_not_hear_its_neighbours(pair):
    engine = NativeEngine(*pair, [EOS])
    features = audio(5)
    together = decode(engine, features, temperature=0.0, prompt=(START, 4, 4))
    alone = [
        decode(NativeEngine(*pair, [EOS]), [one], temperature=0.0, prompt=(START, 4, 4))[0]
        for one in features
    ]
    assert together == alone


def test_an_encoder_of_both_runs_once(pair, monkeypatch):
    calls, encode = [], SpeechModel.encode

    def counted(self, features, *args):
        calls.append(len(features))
        return encode(self, features, *args)

    monkeypatch.setattr(SpeechModel, "encode", counted)
    target = pair[0]
    other = whisper(seed=3).to(target.device)
    decode(NativeEngine(target, SpeechModel(other), []), audio(3), tokens=4)
    rehearsed = 2 if target.device.type == "cuda" else 1  # once for nothing
    assert sum(calls) == 6 * rehearsed
    calls.clear()
    other.model.encoder = target.model.model.encoder
    decode(NativeEngine(target, SpeechModel(other), []), audio(3), tokens=4)
    assert sum(calls) == 3 * rehearsed


@pytest.mark.parametrize(
    ("frames", "slots", "expected"),
    [
        (PREFILL_TOKENS // 2, [0, 1, 2, 5, 6], [(0, 2), (2, 3), (5, 7)]),
        (PREFILL_TOKENS // 3, [0, 1, 2, 3, 4, 5], [(0, 3), (3, 6)]),
        (PREFILL_TOKENS + 1, [3, 4], [(3, 4), (4, 5)]),
        (10, [2, 7, 8, 9], [(2, 3), (7, 10)]),
        (10, [], []),
    ],
)
def test_neighbours_are_heard_together_as_far_as_memory_goes(pair, frames, slots, expected):
    engine = NativeEngine(*pair, [])
    room = engine.reserve(10, 8, 1)
    method, plain = get_method("fused"), Execution()
    steps = Steps(*pair, engine._tools, room, method, 1, Decoding(2), plain)
    pair[0].frames = frames
    assert [(one.start, one.stop) for one in steps._heard_together(slots)] == expected


def test_the_log_probability_is_of_what_was_heard(pair):
    engine = NativeEngine(*pair, [])
    target, heard = pair[0], audio(1)[0]
    prompt, new = (START, 6), (8, 9, 4)
    with torch.no_grad():
        rows = target.model(
            input_features=heard[None].to(target.device),
            decoder_input_ids=torch.tensor([[*prompt, *new]], device=target.device),
        ).logits[0].double().log_softmax(-1)  # fmt: skip
    by_hand = sum(float(rows[i + 1, token]) for i, token in enumerate(new)) / 3
    assert engine.log_probability(Request(prompt, 0, heard), new) == pytest.approx(
        by_hand, abs=1e-4
    )


def test_split_hears_as_pad(pair):
    features = audio(4)
    padded, split = (
        decode(NativeEngine(*pair, [EOS]), features, temperature=0.0, attention=name)
        for name in (PAD, SPLIT)
    )
    assert padded == split


def test_compiled_layers_share_their_code_and_hear_the_same(monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    stats, counts = torch._dynamo.utils.counters["stats"], []
    for layers in (2, 5):
        torch._dynamo.reset()
        before = stats["unique_graphs"]
        speech, places = SpeechModel(whisper(layers=layers)), torch.arange(9).repeat(3, 1)
        cache = speech.new_cache(3, 32)
        speech.allocate(cache)
        speech.listen(speech.encode(audio(3)), cache)
        tokens = torch.randint(4, 50, (3, 9), generator=torch.Generator().manual_seed(0))
        for cut in (slice(0, 1), slice(1, 4), slice(4, 9)):
            inputs = tokens[:, cut], places[:, cut], cache, [32] * 3
            expected = speech.forward(*inputs)
            torch.testing.assert_close(speech.forward(*inputs, compiled=True), expected)
        counts.append(stats["unique_graphs"] - before)
    assert counts[0] == counts[1] > 0
    numbers = [layer.self_attn.layer_idx for layer in speech.model.model.decoder.layers]
    assert numbers == [0, 1, 2, 3, 4]


@pytest.mark.gpu
@pytest.mark.parametrize("mode", [GRAPHS, COMPILED])
@pytest.mark.parametrize("gamma", ["0", "4"])
def test_graphs_decode_as_the_eager_step(mode, gamma):
    target, draft = whisper(seed=1).cuda(), whisper(seed=2, layers=1, width=16).cuda()
    engine = NativeEngine(SpeechModel(target), SpeechModel(draft), [EOS], ((5,), (7,)))
    features = audio(7)
    eager = decode(engine, features, gamma, temperature=0.0, size=3)
    for _ in range(2):
        captured = decode(engine, features, gamma, temperature=0.0, size=3, mode=mode)
        assert sum(a != b for a, b in zip(eager, captured, strict=True)) <= 1


def test_a_dropped_workspace_gives_its_memory_back_at_once(pair):
    """Not when the garbage collector comes: none does while a run is timed."""
    engine = NativeEngine(*pair, [])
    gc.collect()
    gc.disable()
    try:
        decode(engine, audio(2))
        room = engine._workspace
        kept = [weakref.ref(cache) for cache in (room.target_cache, room.draft_cache)]
        engine.release()
        del room
        assert [one() for one in kept] == [None, None]
        before = sum(type(one) is SpeechCache for one in gc.get_objects())
        engine.log_probability(requests(audio(1))[0], [4, 5])
        assert sum(type(one) is SpeechCache for one in gc.get_objects()) == before
    finally:
        gc.enable()
