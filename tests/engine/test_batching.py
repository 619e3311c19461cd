"""Slots, refill, attention and synthetic acceptance: what batching adds to the loop."""

import pytest
import torch

from specbench.engine import steps
from specbench.engine.attention import PAD, SPLIT, attend_padded, attend_split
from specbench.engine.batch import Request
from specbench.engine.decoding import Decoding, Execution
from specbench.engine.model import CausalModel
from specbench.engine.native import NativeEngine
from specbench.engine.synthetic import SyntheticAcceptance
from specbench.engine.workspace import BUCKET, PREFILL_TOKENS, prefill_shape, prefill_width
from specbench.errors import InputError
from specbench.sampling.policy import make_policy
from specbench.sampling.registry import get_method
from specbench.sampling.verifier import Verification

PROMPTS = [(3, 4, 5, 6, 7, 8, 9), (2,), (9, 9, 1), tuple(range(2, 22)), (8, 1), (4,) * 11, (5, 6)]


class Diary:
    """An observer that notes what it hears."""

    def __init__(self):
        self.heard = []

    def start(self):
        self.heard.append("start")

    def admitted(self, sequence):
        self.heard.append(("admitted", sequence))

    def ready(self):
        pass

    def mark(self, phase):
        self.heard.append(phase)

    def finished(self, sequence):
        self.heard.append(("finished", sequence))


def decode(
    engine, gamma="4", method="fused", tokens=18, prompts=PROMPTS, size=None, watch=None,
    execution=None, **decoding,
):  # fmt: skip
    requests = [Request(prompt, seed) for seed, prompt in enumerate(prompts)]
    return engine.generate(
        requests, get_method(method), make_policy(gamma), Decoding(tokens, **decoding), watch,
        execution or Execution(), size,
    )  # fmt: skip


def texts(found):
    return [generation.tokens for generation in found]


class TestRefill:
    @pytest.mark.parametrize("size", [1, 2, 3, 7])
    @pytest.mark.parametrize("gamma", ["0", "3", "bass"])
    def test_every_sequence_is_as_if_alone(self, target, draft, gamma, size):
        engine = NativeEngine(target, draft, [])
        alone = [
            decode(engine, gamma, prompts=[prompt])[0].tokens if gamma != "bass" else None
            for prompt in PROMPTS[:1]
        ]
        found = decode(engine, gamma, size=size, temperature=0.0)
        whole = decode(engine, gamma, temperature=0.0)
        assert texts(found) == texts(whole)
        if gamma != "bass":
            assert decode(engine, gamma, size=size)[0].tokens == alone[0]

    def test_a_prompt_fed_with_room_to_spare_says_the_same(self, target, draft, monkeypatch):
        """As on a GPU, where few lengths are fed."""
        engine = NativeEngine(target, draft, [])
        plain = decode(engine, size=3)
        monkeypatch.setattr(
            steps, "prefill_shape", lambda width, device: prefill_shape(width, torch.device("cuda"))
        )
        assert texts(decode(engine, size=3)) == texts(plain)

    def test_seeds_follow_the_sequence_not_the_slot(self, target, draft):
        engine = NativeEngine(target, draft, [])
        assert texts(decode(engine, size=2)) == texts(decode(engine))

    def test_a_slot_is_taken_at_once_and_the_others_go_on(self, target, draft):
        """Two slots, seven sequences whose ends differ: at no step but the last is a slot empty."""
        watch = Diary()
        engine = NativeEngine(target, draft, [7, 11])
        found = decode(engine, size=2, watch=watch)
        assert [g.first_step for g in found] == sorted(g.first_step for g in found)
        seated, most = set(), 0
        for heard in watch.heard:
            if isinstance(heard, tuple):
                (seated.add if heard[0] == "admitted" else seated.discard)(heard[1])
                most = max(most, len(seated))
            if heard == "draft" and len(PROMPTS) > max(seated) + 1:
                assert len(seated) == 2
        assert most == 2
        steps = watch.heard.count("commit")
        assert max(g.first_step + len(g.step_gamma) for g in found) == steps

    @pytest.mark.parametrize("size", [1, 2])
    def test_what_a_sequence_left_harms_nobody(self, model, draft, size):
        """A sequence whose keys are NaN ends; who takes its slot, and the next batch, are as ever.

        With one slot all of the batch is new at once, which is no reason to leave anything there.
        """
        target = model(seed=1)
        engine = NativeEngine(target, draft, [])
        healthy = decode(engine, size=size)
        layer = target.model.model.layers[0].self_attn.k_proj
        forward = layer.forward

        def poisoned(states):
            out = forward(states)
            if poison[0] and out.shape[0] == size and out.shape[1] == 5:
                poison[0] = False
                out[0] = torch.nan
            return out

        poison = [True]
        layer.forward = poisoned
        found = decode(engine, size=size)
        assert not poison[0]
        assert "NaN" in found[0].error
        assert texts(found)[1:] == texts(healthy)[1:]
        assert texts(decode(engine, size=size)) == texts(healthy)


class TestWorkspace:
    def test_is_kept_while_it_fits(self, target, draft):
        engine = NativeEngine(target, draft, [])
        first = engine.reserve(2, 100, 8)
        assert engine.reserve(2, first.capacity, 4) is first
        assert engine.reserve(3, 100, 8) is not first
        assert engine.reserve(3, 200, 8).capacity == 256

    def test_takes_the_memory_that_the_formula_says(self, target, draft):
        engine = NativeEngine(target, draft, [])
        decode(engine)
        room = engine.reserve(len(PROMPTS), 1, 0)
        config = target.model.config
        width = config.hidden_size // config.num_attention_heads
        one = 2 * config.num_key_value_heads * width * (room.capacity + 1) * len(PROMPTS) * 4
        assert room.target_cache.allocated_bytes == config.num_hidden_layers * one
        assert room.draft_cache.allocated_bytes == one

    def test_batches_of_many_shapes_one_after_the_other(self, target, draft):
        """Nothing of an earlier batch, larger or smaller, warmer or of another γ, is left in it."""
        engine = NativeEngine(target, draft, [])
        fresh = texts(decode(NativeEngine(target, draft, [])))
        for size, gamma, temperature in (
            (7, "8", 2.0),
            (2, "1", 0.0),
            (7, "0", 1.0),
            (7, "2", 0.5),
        ):
            decode(engine, gamma, prompts=PROMPTS[:size], temperature=temperature, tokens=30)
        assert texts(decode(engine)) == fresh

    def test_out_of_memory_gives_the_memory_back(self, target, draft, monkeypatch):
        engine = NativeEngine(target, draft, [])
        decode(engine)

        def full(*args, **options):
            raise torch.OutOfMemoryError("no room")

        with monkeypatch.context() as patch:
            patch.setattr(target, "forward", full)
            with pytest.raises(torch.OutOfMemoryError):
                decode(engine)
        assert engine._workspace is None
        assert len(decode(engine)) == len(PROMPTS)


class TestPrefill:
    @pytest.mark.parametrize("size", [1, 3, 7])
    def test_in_pieces_is_prefill_at_once(self, target, draft, monkeypatch, size):
        from specbench.engine import workspace

        prompts = [tuple((i * k) % 19 + 1 for i in range(30 * k)) for k in range(1, 8)]
        whole = decode(NativeEngine(target, draft, []), prompts=prompts, tokens=20, size=size)
        monkeypatch.setattr(workspace, "PREFILL_TOKENS", 1)  # BUCKET tokens at once
        pieces = decode(NativeEngine(target, draft, []), prompts=prompts, tokens=20, size=size)
        assert texts(pieces) == texts(whole)


class TestAttention:
    @pytest.mark.parametrize("gamma", ["0", "4", "bass"])
    def test_split_decodes_as_pad(self, target, draft, gamma):
        engine = NativeEngine(target, draft, [])
        pad, split = (
            decode(engine, gamma, temperature=0.0, tokens=90, execution=Execution(attention=name))
            for name in (PAD, SPLIT)
        )
        assert texts(pad) == texts(split)

    def test_split_reads_no_more_than_each_sequence_has(self, target, draft, monkeypatch):
        from specbench.engine import attention

        widths = set()
        attend = attention._attend

        def spy(query, key, *others):
            widths.add((len(query), key.shape[2]))
            return attend(query, key, *others)

        monkeypatch.setattr(attention, "_attend", spy)
        prompts = [(1,) * 100, (2,) * 3]
        decode(
            NativeEngine(target, draft, []), tokens=10, prompts=prompts,
            execution=Execution(attention=SPLIT),
        )  # fmt: skip
        assert widths == {(1, 64), (1, 128)}

    @pytest.mark.parametrize("attention", [PAD, SPLIT])
    def test_known_lengths_side_by_side_are_no_new_shape(
        self, target, draft, monkeypatch, attention
    ):
        """What was rehearsed once is not again, or a GPU would do nearly every step of a batch twice."""
        seen = []
        monkeypatch.setattr(
            steps.Steps, "rehearse", lambda self, pieces: seen.append((self, pieces))
        )
        prompts, execution = [(1,) * 60, (2,) * 3], Execution(attention=attention)
        decode(NativeEngine(target, draft, []), prompts=prompts, tokens=90, execution=execution)

        def shapes(*held):
            pieces = seen[0][0].of(4, held)
            return set().union(*(one.shapes for some in pieces.values() for one in some))

        assert shapes(100, 4) <= shapes(4, 4) | shapes(100, 100)
        assert shapes(100, 100) - shapes(4, 4)

    @pytest.mark.parametrize("attend", [attend_padded, attend_split])
    def test_what_it_cannot_compute_is_refused(self, attend):
        """Swallowed, a model's sinks would make nonsense of it in silence."""
        with pytest.raises(NotImplementedError, match="sinks"):
            attend(None, None, None, None, None, None, s_aux=30.0)

    @pytest.mark.parametrize(
        ("fields", "what"),
        [
            ({"layer_types": ["full_attention", "chunked_attention"]}, "chunked_attention"),
            ({"alibi": True}, "ALiBi"),
            ({"model_type": "bloom"}, "ALiBi"),
            ({"use_bidirectional_attention": True}, "see what follows it"),
        ],
    )
    def test_a_model_of_another_kind_of_attention_is_refused_at_once(self, target, fields, what):
        from types import SimpleNamespace

        config = SimpleNamespace(**{"model_type": "llama", "architectures": None} | fields)
        whole = SimpleNamespace(get_text_config=lambda: config)
        with pytest.raises(InputError, match=what):
            CausalModel(SimpleNamespace(config=whole))

    @pytest.mark.parametrize("attention", [PAD, SPLIT])
    def test_the_model_still_works_for_others(self, target, draft, attention):
        """transformers builds its own masks, and must find the implementation at ease with them."""
        tokens = torch.tensor([[3, 4, 5, 6, 7]])
        target.model.set_attn_implementation("sdpa")
        with torch.no_grad():
            before = target.model(tokens).logits
            decode(NativeEngine(target, draft, []), execution=Execution(attention=attention))
            assert torch.allclose(target.model(tokens).logits, before, atol=1e-5)


class TestSyntheticAcceptance:
    def result(self, batch, gamma):
        return Verification(torch.full((batch, gamma + 1), 5), torch.full((batch,), gamma))

    def test_follows_the_rate(self):
        batch, gamma = 4000, 4
        dice = SyntheticAcceptance(0.8, torch.device("cpu"))
        drafts = torch.ones(batch, gamma, dtype=torch.int64)
        offered = torch.full((batch,), gamma)
        seeds, positions = torch.arange(batch) * 7919, torch.zeros(batch, dtype=torch.int64)
        found = dice.overrule(self.result(batch, gamma), drafts, offered, seeds, positions)
        expected = sum(0.8**i for i in range(1, gamma + 1))
        assert float(found.num_accepted.float().mean()) == pytest.approx(expected, abs=0.05)
        assert found.tokens.shape == (batch, gamma + 1)
        kept = found.num_accepted
        assert bool((found.tokens.gather(1, kept[:, None]) == 5).all())
        assert bool(((found.tokens >= 0).sum(1) == kept + 1).all())

    @pytest.mark.parametrize(("rate", "taken"), [(0.0, 0), (1.0, None)])
    def test_never_and_always(self, target, draft, rate, taken):
        found = decode(
            NativeEngine(target, draft, []), execution=Execution(synthetic_acceptance=rate)
        )
        for generation in found:
            expected = (
                generation.step_drafted if taken is None else [0] * len(generation.step_gamma)
            )
            assert generation.step_accepted == expected

    def test_is_thrown_outside_of_the_verify_phase(self, target, draft, monkeypatch):
        """An overruled step costs what the method costs, and what the dice cost is the commit's."""
        watch, overrule = Diary(), SyntheticAcceptance.overrule

        def spy(self, *args):
            watch.heard.append("dice")
            return overrule(self, *args)

        monkeypatch.setattr(SyntheticAcceptance, "overrule", spy)
        execution = Execution(synthetic_acceptance=0.5)
        decode(NativeEngine(target, draft, []), watch=watch, execution=execution)
        before = {watch.heard[i - 1] for i, what in enumerate(watch.heard) if what == "dice"}
        assert before == {"verify"}

    def test_makes_no_text_of_broken_rows(self, model, draft):
        """Timings of a model that says nothing but NaN would count as any others."""
        target = model(seed=1)
        target.model.lm_head.weight.data.fill_(torch.nan)
        execution = Execution(synthetic_acceptance=0.7)
        for one in decode(NativeEngine(target, draft, []), execution=execution):
            assert "NaN" in one.error

    def test_luck_is_the_same_for_every_method_and_batch(self, target, draft):
        engine, dice = NativeEngine(target, draft, []), Execution(synthetic_acceptance=0.6)
        one, other = (decode(engine, method=name, execution=dice) for name in ("fused", "block"))
        assert [g.step_accepted for g in one] == [g.step_accepted for g in other]
        few = decode(engine, size=2, execution=dice)
        assert [g.step_accepted for g in few] == [g.step_accepted for g in one]


@pytest.mark.parametrize("task", ["summarization", "code"])
def test_the_demo_pair_decodes_greedily_as_plain(task):
    """In float32 on a CPU, through eight slots: token by token, also where γ follows the batch."""
    from specbench.pairs import get_pair, load_pair
    from specbench.tasks.base import choose, get_task

    pair = load_pair(get_pair("demo-lm"), "cpu", "float32")
    engine = NativeEngine(CausalModel(pair.target), CausalModel(pair.draft), pair.eos_tokens)
    prompts = [pair.prompt(sample) for sample in choose(get_task(task), "demo", 24, 0)]
    plain, fixed, bass = (
        texts(decode(engine, gamma, tokens=48, prompts=prompts, size=8, temperature=0.0))
        for gamma in ("0", "5", "bass")
    )
    assert fixed == plain
    assert bass == plain


def test_a_gpu_is_fed_few_lengths_and_wastes_less_than_half():
    gpu = torch.device("cuda")
    fed = [prefill_shape(width, gpu) for width in range(1, 1025)]
    assert len(set(fed)) == 7 + 1024 // BUCKET - 1
    for width, shape in enumerate(fed, 1):
        assert width <= shape < min(2 * width, width + BUCKET)
    assert prefill_shape(77, torch.device("cpu")) == 77


@pytest.mark.parametrize("size", [1, 3, 7, 24, 500])
def test_pieces_of_a_prompt_do_not_overlap_for_being_rounded(size):
    """A piece that is no whole number of buckets would be fed with the begin of the next one."""
    width = prefill_width(size)
    assert prefill_shape(width, torch.device("cuda")) == width
    assert width * size <= max(PREFILL_TOKENS, BUCKET * size)
