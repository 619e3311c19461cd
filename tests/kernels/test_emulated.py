"""The kernels' own text decides as the torch law does, on a CPU: see emulation.h for what that shows.

The judge, the problems and the mutations are those of the tests that need a GPU. Those remain the
proof; here a fault in the arithmetic, the indices or the mail is found without one.
"""

import importlib.util
import math
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from specbench.cuda import launch
from specbench.cuda.launch import MAX_GAMMA, Grid
from specbench.cuda.loader import KERNELS, source
from specbench.sampling import cuda_methods, philox, verifier
from specbench.sampling import step as shared
from specbench.sampling.cuda_methods import KernelSampler
from specbench.sampling.draft import gumbel, sample


def sibling(name):
    """A module of this folder, which is no package."""
    spec = importlib.util.spec_from_file_location(
        f"emulated_{name}", Path(__file__).with_name(f"{name}.py")
    )
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


emulation = sibling("emulation")
mutations = sibling("test_mutations")

pytestmark = pytest.mark.skipif(bool(emulation.missing()), reason=emulation.missing())

METHODS = ["exact", "sigmoid", "fused", "block"]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SHAPES = [(1, 0, 1), (3, 5, 1), (5, 1, 2), (6, 20, 31), (9, 5, 203), (4, 5, 1001), (3, 0, 1001)]
"""B, γ, V."""
NARROW = (-10.0, 10.0)
INF = math.inf
WHOLE = MAX_GAMMA + 1
GRIDS = [
    # groups, members, slices, wave, stops at once
    Grid(1, 1, 2, WHOLE, 1), Grid(5, 3, 3, 2, 2), Grid(2, 7, 16, 1, WHOLE), Grid(3, 2, 100, 3, 1),
]  # fmt: skip

MUTATIONS = [
    ("a stray id is accepted", "fused"),
    ("one uniform for all slots", "exact"),
    ("draft length ignored", "block"),
    ("edges forgotten", "block"),
    ("slices rounded down", "fused"),
    ("residual of the target's row after", "sigmoid"),
    ("the last Philox group forgotten", "exact"),
    ("the first member's winner wins", "fused"),
    ("nine rounds of Philox", "sigmoid"),
    ("residual without the prefix", "block"),
    ("a dead prefix revives", "block"),
    ("any draft is the argmax", "exact"),
    ("the launch not counted", "fused"),
    ("the other half not cleared", "block"),
    ("normalisers not yet gathered", "fused"),
    ("winners of other warps not yet known", "sigmoid"),
    ("the next sequence while the last one is written", "exact"),
]
"""Of test_mutations.py, by name and method. Nobody is made late for these: the order of the fibers is
unfair enough."""
BEGIN = "const Place place(a);"
FORBIDDEN = [
    ("fused", "if (lane == 0) post(mail, best);", "", "hangs"),
    ("block", "if (Method::NORMALISES) gather<Method>", "if (threadIdx.x > 0) gather<Method>", "hangs"),
    ("exact", BEGIN, f"{BEGIN} for (;;) __syncwarp();", "does not come to an end"),
    (
        "sigmoid", BEGIN,
        f"{BEGIN} if (threadIdx.x % 2) __syncwarp(); else __ballot_sync(~0u, true);",
        "different operations",
    ),
    ("fused", "reinterpret_cast<const uint4 *>(row + shape.head)",
     "reinterpret_cast<const uint4 *>(row + shape.head + 1)", "not aligned"),
]  # fmt: skip
"""What no GPU can be asked to run: (method, old, new, what the emulator says of it)."""


def mutation_of(name, method):
    [found] = [
        mutation
        for mutation in mutations.MUTATIONS + mutations.BARRIERS
        if mutation.name == name and method in mutation.methods.split()
    ]
    return found


def text_of(name, method):
    mutation = mutation_of(name, method)
    return mutations.mutated(method, (mutation.old, mutation.new))


def sources():
    """What the tests below will ask for, in their order."""
    for stem in KERNELS:
        for dtype in ["float32"] if stem == "numbers" else DTYPES:
            yield stem, str(dtype).removeprefix("torch."), source(stem)
    for name, method in MUTATIONS:
        yield f"verify_{method}", "float32", text_of(name, method)


@pytest.fixture(scope="session")
def compiler(tmp_path_factory):
    """Shared by the workers of pytest-xdist, whose own folders lie side by side."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    compiler = emulation.Compiler(folder / "emulated")
    compiler.begin(sources())
    yield compiler
    compiler.close()


@pytest.fixture(scope="session")
def emulator(compiler):
    return emulation.Emulator(compiler)


@pytest.fixture(autouse=True)
def emulated(emulator, monkeypatch):
    """The emulator in the place of the GPU; and the law looks at no values, as on a GPU."""
    emulator.take_over(monkeypatch)
    monkeypatch.setattr(verifier, "_check_values", lambda *values: None)


@pytest.fixture
def problem(problem):
    return partial(problem, device="cpu")


@pytest.fixture
def agrees(bind, wrong):
    """Whether a kernel decides as its law, launch after launch on one workspace."""

    def check(method, *steps, grid=None, sigmoid_range=NARROW, lse=False, share=0.1):
        kernel = bind(method, steps[0], grid=grid)
        for i, step in enumerate(steps):
            kept = step.draft_lse() if lse else None
            found = kernel(step, sigmoid_range=sigmoid_range, draft_lse=kept)
            assert wrong(method, step, found, sigmoid_range, share) == "", f"launch {i}"
        return found

    return check


def shape_of(value):
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


# ---- Verification -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=shape_of)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_decides_as_the_law(problem, agrees, method, dtype, shape):
    """Ragged lengths and mixed temperatures, with poison wherever nothing may look."""
    agrees(method, problem(*shape, dtype, seed=sum(shape)))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_any_grid_gives_the_same_step(problem, agrees, method, grid):
    """Five launches of two inputs: both halves of the mail, again and again."""
    if method == "block":
        grid = replace(grid, wave=WHOLE)  # it must see all rows
    data, other = problem(5, 6, 203, seed=50), problem(5, 6, 203, seed=51)
    agrees(method, data, other, data, data, other, grid=grid)


@pytest.mark.parametrize("wave", [1, 3])
def test_waves_end_anywhere(problem, agrees, wave):
    data = problem(12, 7, 101, seed=53, mixed=False, noise=(0.05, 0.2, 1.0))
    agrees("fused", data, grid=Grid(4, 3, 2, wave))
    agrees("fused", data, grid=Grid(4, 3, 2, wave), lse=True)


@pytest.mark.parametrize("stops", [1, 5, 129])
def test_block_races_for_many_stops(problem, agrees, stops):
    """A long prefix below 1 leaves many rows open: more than warps, more than a warp's lanes."""
    data = problem(4, 64, 31, seed=54, mixed=False, noise=(0.15, 0.3))
    agrees("block", data, data, grid=Grid(2, 3, 2, 65, stops))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("method", ["fused", "block"])
def test_kept_log_normalisers_change_nothing(problem, agrees, method, dtype):
    agrees(method, problem(8, 5, 203, dtype, seed=2), lse=True)


@pytest.mark.parametrize("vocab", [7, 31, 203])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_rows_of_any_alignment_and_stride(problem, agrees, method, dtype, vocab):
    """Rows begin off 16 bytes and lie wider apart than V, with NaN between them."""
    data = problem(3, 2, vocab, dtype, seed=8)

    def inside(rows, before, after):
        wide = rows.new_full((3, 2 * rows.shape[1], before + vocab + after), math.nan)
        return wide[:, ::2, before : before + vocab].copy_(rows)

    steps = [
        data.but(
            target_logits=inside(data.target_logits, before, 3),
            draft_logits=inside(data.draft_logits, 7 - before, 2),
        )
        for before in range(4)
    ]
    agrees(method, *steps)


@pytest.mark.parametrize("poison", [math.nan, INF, -INF], ids=str)
@pytest.mark.parametrize("greedy", [False, True], ids=["sampled", "greedy"])
@pytest.mark.parametrize("method", METHODS)
def test_an_invalid_row_ends_its_sequence_alone(problem, agrees, method, greedy, poison):
    if (method, poison, greedy) == ("sigmoid", INF, False):
        pytest.skip("sampled sigmoid maps +inf to weight 1: a valid row for it")
    data = problem(5, 2, 31, mixed=False)
    if greedy:
        data = data.but(temperature=torch.zeros_like(data.temperature))
    data.target_logits[2], data.target_logits[3, 1] = poison, poison
    found = agrees(method, data)
    assert found.tokens[2].tolist() == [-1, -1, -1]
    assert (found.tokens[[0, 1, 4], 0] >= 0).all()


@pytest.mark.parametrize("poison", [math.nan, INF, -INF], ids=str)
@pytest.mark.parametrize("method", ["exact", "fused", "block"])
def test_an_invalid_draft_row_leaves_the_target_alone(problem, agrees, method, poison):
    data = problem(6, 2, 31, mixed=False)
    data.draft_logits[::2, 0] = poison
    assert agrees(method, data).num_accepted[::2].tolist() == [0, 0, 0]


@pytest.mark.parametrize("method", METHODS)
def test_one_nan_anywhere_spoils_its_row(problem, bind, method):
    """Heads, bodies and tails of rows of every alignment: no entry escapes the look."""
    data, order = problem(45, 1, 45, torch.float16, mixed=False), torch.arange(45)
    data.target_logits[order, :, order] = math.nan
    found = bind(method, data)(data)
    assert (found.tokens.gather(1, found.num_accepted[:, None]) == -1).all()


@pytest.mark.parametrize("greedy", [False, True], ids=["sampled", "greedy"])
@pytest.mark.parametrize("method", METHODS)
def test_an_id_outside_the_vocabulary_is_rejected(problem, agrees, method, greedy):
    data = problem(8, 3, 31, mixed=False, noise=(0.2,))
    if greedy:
        data = data.but(temperature=torch.zeros_like(data.temperature))
    data.draft_tokens[:, 1] = torch.tensor([-1, -7, 31, 32, 2**31, 2**32 + 3, 2**40, -(2**62)])
    assert (agrees(method, data).num_accepted <= 1).all()


@pytest.mark.parametrize("method", METHODS)
def test_an_empty_residual_gives_a_token_of_the_target(problem, agrees, method):
    """Target and draft are equal, and the draft is no id."""
    data = problem(6, 2, 31, mixed=False, noise=(0.0,))
    data.draft_tokens[:, 0] = -1
    assert (agrees(method, data, grid=Grid(3, 2)).tokens[:, 0] >= 0).all()


@pytest.mark.parametrize("vocab", [1, 7, 32, 1001])
@pytest.mark.parametrize("method", METHODS)
def test_greedy_ties_go_to_the_smallest_id(problem, bind, method, vocab):
    """Rows of one value, of any alignment; the two zeros are equal."""
    data = problem(2, 5, vocab, torch.bfloat16, mixed=False)
    data.target_logits[0] = 1.5
    data.target_logits[1] = 0.0
    data.target_logits[1, :, 0::2] = -0.0
    data = data.but(temperature=torch.zeros(2), draft_tokens=torch.zeros_like(data.draft_tokens))
    found = bind(method, data)(data)
    assert found.num_accepted.tolist() == [5, 5]
    assert (found.tokens == 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_one_number_for_all_sequences(problem, bind, wrong, method):
    """Parameters by value, where a kernel reads tensors from memory."""
    data = problem(4, 3, 31, mixed=False)
    same = data.but(
        temperature=torch.full((4,), 0.6),
        seeds=torch.full((4,), -77),
        positions=torch.full((4,), 2**40 + 5),
    )
    plain = dict.fromkeys(("target_probs", "draft_probs", "draft_lse", "lengths"))
    if method == "exact":
        both = {"target_probs": data.target_logits, "draft_probs": data.draft_logits}
        plain |= {name: (rows / 0.6).softmax(-1) for name, rows in both.items()}
    tokens, accepted = torch.full((4, 4), -99), torch.full((4,), -99)
    bind(method, data).launcher(
        *data.tensors, tokens, accepted, temperature=0.6, seeds=-77, positions=2**40 + 5,
        sigmoid_range=NARROW, **plain,
    )  # fmt: skip
    assert wrong(method, same, verifier.Verification(tokens, accepted), NARROW) == ""


def test_older_gpus_have_a_branch_of_their_own(problem, bind, wrong):
    """Before sm_80 a warp's largest word is found by shuffles."""
    data = problem(6, 5, 203)
    text = "#undef __CUDA_ARCH__\n#define __CUDA_ARCH__ 750\n" + source("verify_fused")
    assert wrong("fused", data, bind("fused", data, text=text)(data)) == ""


# ---- Sampling and numbers -----------------------------------------------------------------------


def numbers(batch):
    random = torch.Generator().manual_seed(batch)
    seeds = torch.randint(-(2**62), 2**62, (batch,), generator=random)
    return seeds, torch.arange(batch) * 17 + 2**33


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(3, 1), (9, 31), (5, 1001), (2, 6151)], ids=str)
def test_sample_draws_what_the_law_draws(shape, dtype):
    """Three launches of one sampler, into columns of something wider, from rows that are not aligned.
    A token may differ where rounding decides: its score is then within 2e-5 of the best."""
    batch, vocab = shape
    random = torch.Generator().manual_seed(vocab)
    seeds, positions = numbers(batch)
    temperature = torch.tensor([1.0, 0.6, 0.0, 1.7])[torch.arange(batch) % 4]
    divisor = torch.where(temperature == 0, 1, temperature)[:, None].double()
    sampler = KernelSampler(*shape, dtype, torch.device("cpu"))
    for slot in range(3):
        wide = torch.full((batch, vocab + 4), math.nan, dtype=dtype)
        logits = wide[:, slot : vocab + slot]
        logits.copy_(2.5 * torch.randn(shape, generator=random))
        tokens, lse = torch.full((batch, 2), -99), torch.full((batch, 2), -99.0)
        sampler(
            logits, tokens[:, 1], lse[:, 1], temperature=temperature, seeds=seeds,
            positions=positions, purpose=philox.Purpose.DRAFT, slot=slot,
        )  # fmt: skip
        noise = gumbel(seeds, positions, philox.Purpose.DRAFT, torch.tensor([slot]), vocab)[:, 0]
        differs = tokens[:, 1] != sample(logits, temperature, noise)
        score = logits / divisor + torch.where(temperature == 0, 0, 1)[:, None] * noise
        reached = score.gather(1, tokens[:, 1:])[:, 0]
        assert (score.amax(1) - reached <= torch.where(temperature == 0, 0, 2e-5)).all()
        assert (differs & (temperature != 0)).sum() <= 1
        assert torch.allclose(lse[:, 1].double(), (logits / divisor).logsumexp(1), 1e-6, 1e-6)
        assert (tokens[:, 0] == -99).all()
        assert (lse[:, 0] == -99).all()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_sample_of_an_invalid_row_is_token_0_and_nan(temperature):
    logits = torch.randn(5, 203, generator=torch.Generator().manual_seed(1))
    logits[1], logits[2, 202], logits[3, 0] = -INF, math.nan, INF
    tokens, lse = torch.full((5,), -99), torch.full((5,), -99.0)
    KernelSampler(5, 203, torch.float32, torch.device("cpu"))(
        logits, tokens, lse, temperature=temperature, seeds=1, positions=2,
        purpose=philox.Purpose.DRAFT, slot=0,
    )  # fmt: skip
    assert tokens[1:4].tolist() == [0, 0, 0]
    assert lse.isnan().tolist() == [False, True, True, True, False]


@pytest.mark.parametrize(("batch", "gamma", "vocab"), [(1, 0, 1), (3, 5, 31), (2, 128, 6151)])
def test_numbers_are_those_of_torch(batch, gamma, vocab):
    """Uniforms bit for bit; the kernel's exponentials have a series where torch has log1p."""
    seeds, positions = numbers(batch)
    found = cuda_methods.draw(seeds, positions, gamma, vocab)
    expected = shared.draw(seeds, positions, gamma, vocab)
    assert torch.equal(found.uniforms, expected.uniforms)
    assert torch.allclose(found.exponentials, expected.exponentials, rtol=4e-6, atol=0)
    assert (found.exponentials > 0).all()


# ---- Would this notice? -------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "method"), MUTATIONS)
def test_a_mutated_kernel_is_caught(problem, bind, wrong, name, method):
    """The kernel as it is passes; mutated, the judge sees it, or it hangs, as on a GPU it might."""
    panel = mutation_of(name, method).panel(problem)
    assert mutations.first_fault(bind, wrong, method, panel, source(f"verify_{method}")) == ""
    try:
        fault = mutations.first_fault(bind, wrong, method, panel, text_of(name, method))
    except emulation.EmulationError as error:
        fault = str(error)
    assert fault != ""


@pytest.mark.parametrize(("method", "old", "new", "message"), FORBIDDEN)
def test_what_would_hang_or_stop_a_gpu_is_told(problem, bind, method, old, new, message):
    data = problem(3, 2, 31, mixed=False)
    kernel = bind(method, data, text=mutations.mutated(method, (old, new)), grid=Grid(1, 3))
    with pytest.raises(emulation.EmulationError, match=message):
        kernel(data)


def test_nothing_stays_in_the_place_of_the_gpu(monkeypatch):
    monkeypatch.undo()
    assert launch.torch is torch
