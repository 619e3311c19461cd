"""Captured steps without a GPU: a stand-in for CUDA graphs that is as forgetful as they are.

A capture records the operations; a replay does them again on the recorded memory, and no Python runs.
What a graph made and nobody holds is scratch, which others write over: it is poisoned after each replay.
So are the results of all graphs that were captured later into the same pool, since they may lie where
this one has its scratch. Whatever a step keeps in Python, reads too late or leaves lying shows here.
"""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from specbench.engine import chance, workspace
from specbench.engine.attention import PAD, SPLIT
from specbench.engine.batch import Request
from specbench.engine.decoding import EAGER, GRAPHS, Decoding, Execution
from specbench.engine.native import NativeEngine
from specbench.engine.observer import Silent
from specbench.sampling import draft as drafting
from specbench.sampling import verifier
from specbench.sampling.baseline import verify_baseline
from specbench.sampling.policy import make_policy
from specbench.sampling.registry import get_method

PROMPTS = [(3, 4, 5, 6, 7, 8, 9), (2,), (9, 9, 1), tuple(range(2, 22)), (8, 1), (4,) * 11, (5, 6)]


class Recorder(TorchDispatchMode):
    """Notes every operation; refuses those whose result the host reads, as a capture does."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if "_local_scalar_dense" in str(operation):
            raise RuntimeError(f"operation waits: {operation}")
        out = operation(*args, **kwargs or {})
        self.operations.append((operation, args, kwargs or {}, out))
        return out


class Recording:
    """What stands for a CUDA graph."""

    def __init__(self, operations, held, pool):
        self.operations, self.pool, self.number = operations, pool, len(pool)
        pool.append(self)
        kept = {where(tensor) for tensor in tensors(held)}
        given, made = set(), {}
        for _, args, kwargs, out in operations:
            given |= {where(leaf) for leaf in leaves((args, kwargs)) if where(leaf) not in made}
            for leaf in leaves(out):
                if where(leaf) not in given and leaf.numel():
                    made.setdefault(where(leaf), leaf)
        self.scratch = [leaf for place, leaf in made.items() if place not in kept]
        self.results = [leaf for place, leaf in made.items() if place in kept]
        poison(self.scratch)

    def replay(self):
        for operation, args, kwargs, out in self.operations:
            again = operation(*args, **kwargs)
            for old, new in zip(leaves(out), leaves(again), strict=True):
                if where(old) != where(new):
                    old.copy_(new)
        poison(self.scratch)
        for later in self.pool[self.number + 1 :]:
            poison(later.results)


def poison(some):
    """NaN, a number that is no index, or True."""
    for leaf in some:
        whole = torch.empty(0, dtype=torch.uint8).set_(leaf.untyped_storage())
        whole.fill_(1 if leaf.dtype is torch.bool else 255 if leaf.is_floating_point() else 90)


def leaves(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def where(tensor):
    return tensor.untyped_storage().data_ptr()


def tensors(thing):
    """All that can be reached from what a graph holds."""
    if isinstance(thing, torch.Tensor):
        yield thing
    elif isinstance(thing, dict | list | tuple):
        for part in thing.values() if isinstance(thing, dict) else thing:
            yield from tensors(part)
    elif type(thing).__module__.startswith("specbench") and hasattr(thing, "__dict__"):
        yield from tensors(vars(thing))


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    """Graphs are recordings; the sampler draws its noise when it draws, and nobody looks at values:
    both as on a GPU."""

    def capture(calls, pool):
        calls[0]()
        with Recorder() as recorder:
            calls[0]()
        (held,) = [cell.cell_contents for cell in calls[0].__closure__
                   if isinstance(cell.cell_contents, list)]  # fmt: skip
        return Recording(recorder.operations, held[-1], pool)

    def begin(self, purpose, slots):
        self.purpose = purpose

    def draw(self, logits, slot):
        batch, noise = self._batch, None
        if not self._greedy:
            slots = torch.full((1,), slot)
            noise = drafting.gumbel(
                batch.seeds, batch.lengths, self.purpose, slots, self._vocab_size
            )[:, 0]
        self.tokens[:, slot].copy_(drafting.sample(logits, self._temperature, noise))
        return self.tokens[:, slot]

    monkeypatch.setattr(workspace, "capture", capture)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", list)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(chance.TorchSampler, "begin", begin)
    monkeypatch.setattr(chance.TorchSampler, "draw", draw)
    monkeypatch.setattr(verifier, "_check_values", lambda *args: None)


def decode(
    engine, gamma="3", method="baseline", mode=GRAPHS, tokens=30, size=3, watch=None,
    attention=PAD, synthetic=None, **decoding,
):  # fmt: skip
    requests = [Request(prompt, seed) for seed, prompt in enumerate(PROMPTS)]
    chosen = get_method(method) if isinstance(method, str) else method
    return engine.generate(
        requests, chosen, make_policy(gamma), Decoding(tokens, **decoding), watch,
        Execution(mode, attention, synthetic), size,
    )  # fmt: skip


def texts(found):
    return [generation.tokens for generation in found]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("gamma", ["0", "3", "bass"])
@pytest.mark.parametrize("method", ["baseline", "block"])
@pytest.mark.parametrize("attention", [PAD, SPLIT])
def test_decode_as_the_eager_step(target, draft, method, gamma, temperature, attention):
    options = {"temperature": temperature, "top_k": 9, "top_p": 0.95}
    eager = decode(NativeEngine(target, draft, [7]), gamma, method, EAGER, **options)
    engine = NativeEngine(target, draft, [7])
    for _ in range(2):  # captured, then from graphs alone
        found = decode(engine, gamma, method, attention=attention, **options)
        assert texts(found) == texts(eager)
    assert not engine._workspace.graphs.refused


def test_all_sorts_in_one_workspace(target, draft):
    """Methods, γ, temperatures and dice by turns: none finds what another left."""
    engine = NativeEngine(target, draft, [7])
    engine.reserve(3, 160, 32)
    plan = [
        (method, gamma, temperature, rate, mode)
        for method, gamma in [
            ("baseline", "3"),
            ("sigmoid", "2"),
            ("baseline", "0"),
            ("sigmoid", "3"),
        ]
        for temperature, rate in ((1.0, None), (0.5, 0.7), (0.0, None))
        for mode in (GRAPHS, EAGER)
    ]
    for method, gamma, temperature, rate, mode in plan * 2:
        options = {"tokens": 12, "temperature": temperature, "synthetic": rate}
        found = decode(engine, gamma, method, mode, **options)
        fresh = decode(NativeEngine(target, draft, [7]), gamma, method, EAGER, **options)
        assert texts(found) == texts(fresh), (method, gamma, temperature, rate, mode)


def test_two_methods_of_one_name_are_two(target, draft):
    engine = NativeEngine(target, draft, [])
    twin = replace(get_method("baseline"), law=get_method("sigmoid").law)
    decode(engine)
    found, alone = (
        texts(decode(one, method=twin)) for one in (engine, NativeEngine(target, draft, []))
    )
    assert found == alone


def test_the_eager_step_replays_nothing(target, draft, monkeypatch):
    engine = NativeEngine(target, draft, [])
    decode(engine)

    def replayed(self):
        raise AssertionError("a replay")

    monkeypatch.setattr(Recording, "replay", replayed)
    decode(engine, mode=EAGER)


class Captures(Silent):
    def __init__(self):
        self.count = 0

    def mark(self, phase):
        self.count += phase == "capture"


def test_captures_are_marked_and_happen_once(target, draft):
    engine, watches = NativeEngine(target, draft, []), [Captures(), Captures()]
    for watch in watches:
        decode(engine, "bass", watch=watch)
    assert watches[0].count > 0 == watches[1].count


def test_too_many_are_dropped_with_their_pools(target, draft, monkeypatch):
    """torch refuses a pool whose graphs are all gone."""
    pools = []

    def handle():
        pools.append([])
        return pools[-1]

    monkeypatch.setattr(torch.cuda, "graph_pool_handle", handle)
    monkeypatch.setattr(workspace, "MOST_GRAPHS", 8)
    engine = NativeEngine(target, draft, [])
    found = decode(engine, "bass")
    assert texts(found) == texts(decode(NativeEngine(target, draft, []), "bass", mode=EAGER))
    assert len(pools) > 2
    in_use = engine._workspace.graphs._pools.values()
    assert all(any(pool is last for last in pools[-2:]) for pool in in_use)


def waiting(step):
    if not bool((step.lengths >= 0).all()):
        raise AssertionError
    return verify_baseline(step)


def test_a_decision_that_waits_runs_as_it_is_and_so_does_its_commit(target, draft):
    law = replace(get_method("baseline"), name="waiting", law=waiting)
    engine = NativeEngine(target, draft, [])
    found = decode(engine, "bass", law)
    graphs = engine._workspace.graphs
    assert graphs.refused
    assert all("waits" in reason for reason in graphs.refused.values())
    assert {key[0] for key in graphs._graphs} == {"random", "draft", "target"}
    assert texts(found) == texts(decode(NativeEngine(target, draft, []), "bass", mode=EAGER))


def greedy_of_lengths(step):
    accepted, token = verify_baseline(step)
    return torch.full_like(accepted, step.gamma), token


def test_what_was_not_offered_is_not_taken(target, draft):
    """A method that accepts γ whatever is asked: limits hold all the same."""
    law = replace(get_method("baseline"), name="bold", law=greedy_of_lengths)
    for mode in (EAGER, GRAPHS):
        for one in decode(NativeEngine(target, draft, []), "4", law, mode, tokens=17):
            assert len(one.tokens) == 17
            assert one.step_accepted == one.step_drafted


@pytest.mark.parametrize("number", [1, 3, 6, 7])
def test_a_failure_in_the_middle_of_the_captures_leaves_nothing_behind(
    target, draft, monkeypatch, number
):
    capture, left = workspace.capture, [number]

    def failing(calls, pool):
        left[0] -= 1
        if left[0] == 0:
            raise ZeroDivisionError
        return capture(calls, pool)

    monkeypatch.setattr(workspace, "capture", failing)
    engine = NativeEngine(target, draft, [])
    with pytest.raises(ZeroDivisionError):
        decode(engine, "4", tokens=12)
    for gamma in ("2", "4"):
        fresh = decode(NativeEngine(target, draft, []), gamma, mode=EAGER, tokens=12)
        assert texts(decode(engine, gamma, tokens=12)) == texts(fresh)


def test_out_of_memory_in_a_capture_is_no_refusal(target, draft, monkeypatch):
    def full(calls, pool):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(workspace, "capture", full)
    engine = NativeEngine(target, draft, [])
    with pytest.raises(torch.OutOfMemoryError):
        decode(engine)
    assert engine._workspace is None


@pytest.mark.parametrize("gamma", ["0", "3", "bass"])
def test_a_speech_pair_hears_between_the_graphs(gamma):
    """Each sequence that takes a slot brings another sound with it, and the graphs stay."""
    import transformers

    from specbench.engine.speech import SpeechModel

    models = []
    for seed, layers in ((1, 2), (2, 1)):
        torch.manual_seed(seed)
        models.append(SpeechModel(transformers.WhisperForConditionalGeneration(
            transformers.WhisperConfig(
                vocab_size=30, d_model=16, encoder_layers=1, decoder_layers=layers,
                encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32,
                decoder_ffn_dim=32, max_source_positions=20, max_target_positions=80,
                num_mel_bins=8, init_std=0.5, pad_token_id=2, bos_token_id=1, eos_token_id=2,
                decoder_start_token_id=3,
            )
        ).eval()))  # fmt: skip
    sounds = torch.randn(7, 8, 40, generator=torch.Generator().manual_seed(0))
    requests = [Request((3,), seed, sound) for seed, sound in enumerate(sounds)]

    def texts_of(engine, mode):
        found = engine.generate(
            requests, get_method("baseline"), make_policy(gamma), Decoding(20), None,
            Execution(mode), 3,
        )  # fmt: skip
        return texts(found)

    eager = texts_of(NativeEngine(*models, [2], ((5, 6), (2,))), EAGER)
    engine = NativeEngine(*models, [2], ((5, 6), (2,)))
    for _ in range(2):
        assert texts_of(engine, GRAPHS) == eager
    assert len({tuple(one) for one in eager}) > 1
    assert not {token for one in eager for token in one} & {5, 6}
