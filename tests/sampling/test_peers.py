"""Other projects' kernels as methods: what they are given, what is made of their answer."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError
from types import ModuleType, SimpleNamespace

import pytest
import torch

from specbench.cli.app import main
from specbench.errors import InputError, MachineError
from specbench.sampling import peers, registry
from specbench.sampling.check import check_method
from specbench.sampling.peers import FLASHINFER, VLLM, VLLM_BLOCK
from specbench.sampling.step import Numbers, Step

PEERS = [FLASHINFER, VLLM, VLLM_BLOCK]
BATCH, GAMMA, VOCAB = 3, 2, 5


def a_step(lengths=(GAMMA,) * BATCH, gamma=GAMMA, **other):
    random = torch.Generator().manual_seed(1)
    drafts = torch.tensor([[4, -1], [0, 3], [2, 9]])[:, :gamma]
    exponentials = torch.rand(BATCH, VOCAB, generator=random) + 0.1
    given = {
        "temperature": torch.tensor([1.0, 0.5, 2.0]),
        "target_logits": torch.randn(BATCH, gamma + 1, VOCAB, generator=random),
    } | other
    return Step(
        draft_logits=torch.randn(BATCH, gamma, VOCAB, generator=random),
        draft_tokens=drafts,
        lengths=torch.tensor(lengths).clamp(max=gamma),
        numbers=Numbers(torch.rand(BATCH, gamma), exponentials),
        sigmoid_range=(-1e4, 1e4),
        greedy=False,
        **given,
    )


@pytest.fixture
def flashinfer(monkeypatch):
    """In the place of the package: accepts 0, 1, 2 and emits 3 everywhere; notes what it is given."""
    seen = SimpleNamespace()

    def softmax(logits, temperature):
        assert logits.is_contiguous()
        divided = logits.float() if temperature is None else logits.float() / temperature[:, None]
        return divided.softmax(-1)

    def chain_speculative_sampling(draft_probs, draft_ids, target_probs, *, seed, offset):
        seen.__dict__.update(draft_probs=draft_probs, draft_ids=draft_ids, seed=seed)
        seen.__dict__.update(target_probs=target_probs, offset=offset)
        tokens = torch.full((BATCH, GAMMA + 1), 3, dtype=torch.int32)
        return tokens, torch.zeros(BATCH).int(), torch.arange(BATCH).int()

    module = ModuleType("flashinfer.sampling")
    module.softmax, module.chain_speculative_sampling = softmax, chain_speculative_sampling
    monkeypatch.setitem(sys.modules, "flashinfer", ModuleType("flashinfer"))
    monkeypatch.setitem(sys.modules, "flashinfer.sampling", module)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(peers, "_require_gpu", lambda name, step: None)
    return seen


@pytest.fixture
def vllm(monkeypatch):
    """In the place of the package: emits 1, 2, 3 tokens; notes what it is given."""
    seen = SimpleNamespace()
    names = [
        *("target_logits", "draft_logits", "drafts", "starts", "positions", "sequences"),
        *("sequence_of_row", "slot_of_row", "temperature", "seeds", "gamma"),
    ]

    def rejection_sample(*given, use_block_verification):
        seen.__dict__.update(zip(names, given, strict=True), block=use_block_verification)
        rows = seen.gamma + 1
        tokens = torch.arange(BATCH * rows).view(BATCH, rows)
        return tokens, torch.arange(1, BATCH + 1).clamp(max=rows).int()

    name = "vllm.v1.worker.gpu.spec_decode.rejection_sampler_utils"
    parts = name.split(".")
    for i in range(1, len(parts)):
        monkeypatch.setitem(sys.modules, ".".join(parts[:i]), ModuleType(parts[i - 1]))
    module = ModuleType(name)
    module.rejection_sample = rejection_sample
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(peers, "_require_gpu", lambda name, step: None)
    return seen


def test_flashinfer_is_given_probabilities_and_ids_it_can_index(flashinfer):
    step = a_step()
    accepted, token = FLASHINFER.law(step)
    expected = (step.target_logits / step.temperature[:, None, None]).softmax(-1)
    assert torch.allclose(flashinfer.target_probs, expected)
    assert flashinfer.draft_probs.shape == (BATCH, GAMMA, VOCAB)
    assert flashinfer.draft_ids.tolist() == [[4, 0], [0, 3], [2, 4]]
    assert flashinfer.seed.dtype == flashinfer.offset.dtype == torch.int64
    assert len(flashinfer.seed.unique()) == BATCH
    assert accepted.tolist() == [0, 1, 2]
    assert token.tolist() == [3, 3, 3]
    assert accepted.dtype == token.dtype == torch.int64


def test_flashinfer_ends_at_a_sequences_own_length(flashinfer):
    step = a_step(lengths=(0, 2, 1))
    accepted, token = FLASHINFER.law(step)
    assert accepted.tolist() == [0, 1, 1]
    probs = (step.target_logits / step.temperature[:, None, None]).softmax(-1)
    race = probs / step.numbers.exponentials[:, None]
    assert token.tolist() == [int(race[0, 0].argmax()), 3, int(race[2, 1].argmax())]


def test_flashinfer_divides_nothing_by_one(flashinfer):
    step = a_step(temperature=torch.full((BATCH,), torch.nan), tempered=False)
    FLASHINFER.law(step)
    assert torch.allclose(flashinfer.target_probs, step.target_logits.softmax(-1))


def test_flashinfer_is_not_asked_without_drafts(flashinfer):
    accepted, token = FLASHINFER.law(a_step(gamma=0))
    assert accepted.tolist() == [0, 0, 0]
    assert set(token.tolist()) <= set(range(VOCAB))
    assert not flashinfer.__dict__


@pytest.mark.parametrize(("method", "block"), [(VLLM, False), (VLLM_BLOCK, True)])
def test_vllm_is_given_rows_that_it_can_address(vllm, method, block):
    step = a_step(lengths=(2, 2, 1))
    accepted, token = method.law(step)
    assert vllm.block is block
    assert torch.allclose(
        vllm.target_logits.view(BATCH, GAMMA + 1, VOCAB),
        step.target_logits / step.temperature[:, None, None],
    )
    assert vllm.draft_logits is step.draft_logits
    # Each sequence's entry 0 is not read; −1 ends a sequence.
    assert vllm.drafts.view(BATCH, GAMMA + 1)[:, 1:].tolist() == [[4, -1], [0, 3], [2, -1]]
    assert vllm.starts.tolist() == [0, 3, 6, 9]
    assert vllm.sequence_of_row.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert vllm.slot_of_row.tolist() == vllm.positions.tolist() == [0, 1, 2] * 3
    assert vllm.seeds.dtype == torch.int64
    assert accepted.tolist() == [0, 1, 2]
    assert token.tolist() == [0, 4, 8]


def test_vllm_divides_nothing_by_one(vllm):
    step = a_step(target_logits=torch.zeros(BATCH, GAMMA + 1, VOCAB).half(), tempered=False)
    VLLM.law(step)
    assert vllm.target_logits.data_ptr() == step.target_logits.data_ptr()


def test_vllm_without_drafts(vllm):
    accepted, token = VLLM.law(a_step(gamma=0))
    assert accepted.tolist() == [0, 0, 0]
    assert token.tolist() == [0, 1, 2]


def test_seeds_follow_the_steps_numbers():
    step = a_step()
    assert peers._seeds(step).tolist() == peers._seeds(a_step()).tolist()
    one = Numbers(step.numbers.uniforms, torch.rand(BATCH, 1))
    assert peers._seeds(SimpleNamespace(numbers=one)).shape == (BATCH,)


@pytest.mark.parametrize("method", PEERS, ids=lambda method: method.name)
def test_they_run_on_a_gpu_alone(method):
    with pytest.raises(InputError, match="got tensors on cpu"):
        method.law(a_step())


@pytest.mark.parametrize("method", PEERS, ids=lambda method: method.name)
def test_each_says_what_it_leaves_out(method):
    assert "random numbers" in method.leaves_out
    assert method.kernel is None


@pytest.fixture
def entries(monkeypatch):
    """Our own entry points, with packages that are installed if the test says so."""
    installed: set[str] = set()

    def distribution(package):
        if package not in installed:
            raise PackageNotFoundError(package)

    found = [SimpleNamespace(name=m.name, load=lambda m=m: m) for m in PEERS]
    found.append(SimpleNamespace(name="no-method", load=lambda: "no method"))
    monkeypatch.setattr(registry, "entry_points", lambda group: found)
    monkeypatch.setattr(registry, "distribution", distribution)
    registry.methods.cache_clear(), registry._joined.cache_clear()
    yield installed
    registry.methods.cache_clear(), registry._joined.cache_clear()


def test_what_is_not_installed_is_absent_and_not_broken(entries, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    assert list(registry.methods()) == ["baseline", "exact", "sigmoid", "fused", "block"]
    assert list(registry.broken_methods()) == ["no-method"]
    with pytest.raises(MachineError, match="needs flashinfer-python, which is not") as error:
        registry.get_method("flashinfer")
    assert error.value.hint == "pip install flashinfer-python"
    assert main(["list", "methods"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Not installed: flashinfer (pip install flashinfer-python), vllm" in text


def test_what_is_installed_joins(entries, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    entries.add("vllm")
    assert list(registry.methods())[5:] == ["vllm", "vllm-block"]
    assert list(registry.missing_methods()) == ["flashinfer"]
    main(["list", "methods"])
    assert "leaves out: temperature of the target" in capsys.readouterr().out


def test_the_entry_points_are_declared():
    import tomllib

    from specbench.assets import checkout_dir

    project = tomllib.loads((checkout_dir() / "pyproject.toml").read_text(encoding="utf-8"))
    declared = project["project"]["entry-points"]["specbench.methods"]
    assert {name: value.partition(":")[2] for name, value in declared.items()} == {
        "flashinfer": "FLASHINFER", "vllm": "VLLM", "vllm-block": "VLLM_BLOCK",
    }  # fmt: skip
    for name, value in declared.items():
        assert getattr(peers, value.partition(":")[2]).name == name


@pytest.fixture(params=PEERS, ids=lambda method: method.name)
def installed(request):
    if not registry._is_installed(request.param.package):
        pytest.skip(f"{request.param.package} is not installed")
    return request.param


@pytest.mark.gpu
def test_a_peer_keeps_the_targets_law(installed):
    """100,000 sequences in each setting, one of them ragged; level 1 in 10,000, fixed seeds."""
    verdict = check_method(installed, 100_000, device="cuda")
    assert verdict.looks_exact, verdict
    assert verdict.keeps_theory, verdict


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("vocab", [1000, 51865])
def test_a_peer_takes_real_shapes_and_mixed_temperatures(installed, dtype, vocab):
    from specbench.sampling.verifier import run

    random = torch.Generator("cuda").manual_seed(0)
    target = torch.randn(4, 6, vocab, generator=random, device="cuda").to(dtype)
    drafts = target[:, :5].float().argmax(-1)
    found = run(
        installed, target, target[:, :5], drafts, lengths=torch.tensor([5, 0, 3, 5], device="cuda"),
        temperature=torch.tensor([1.0, 0.5, 0.0, 0.0], device="cuda"), seeds=1, positions=0,
        sigmoid_range=(-1e4, 1e4),
    )  # fmt: skip
    assert found.num_accepted.tolist() == [5, 0, 3, 5], "a draft equal to the target"
    emitted = found.tokens.gather(1, found.num_accepted[:, None])[:, 0]
    assert bool(((emitted >= 0) & (emitted < vocab)).all())
    assert emitted[2:].tolist() == target[[2, 3], [3, 5]].float().argmax(-1).tolist()


@pytest.mark.gpu
def test_a_peer_can_be_captured(installed):
    from specbench.sampling.verifier import draw_numbers

    seeds = torch.arange(2, device="cuda")
    target = torch.randn(2, 4, 1000, device="cuda")
    step = Step(
        target, target[:, :3], target[:, :3].argmax(-1), torch.full_like(seeds, 3),
        torch.ones(2, device="cuda"), draw_numbers(seeds, seeds, 3, 1000), (-1e4, 1e4), False,
    )  # fmt: skip
    for _ in range(3):
        expected = installed.law(step)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        accepted, token = installed.law(step)
    graph.replay()
    assert accepted.tolist() == expected[0].tolist() == [3, 3]
    assert token.tolist() == expected[1].tolist()
