"""The kernels where others broke, each edge by name: numbers, rows, indices, memory, refusals."""

import math

import pytest
import torch

from specbench.errors import InputError
from specbench.sampling import philox
from specbench.sampling.cuda_methods import KernelVerifier
from specbench.sampling.verifier import Verification, Verifier
from specbench.sampling.verifier import verify as verify_once

pytestmark = pytest.mark.gpu

METHODS = ["exact", "sigmoid", "fused", "block"]
EXACT = ["exact", "fused", "block"]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
INF = math.inf
NARROW = (-10.0, 10.0)
U_IS_ZERO = 3_313_741
"""A seed whose first uniform at position 0 is exactly 0."""


def gpu(values):
    return torch.tensor(values, device="cuda")


def counting(problem, batch, target, draft, drafts):
    """The same rows for each of `batch` sequences, with seeds 0…B−1."""
    data = problem(batch, draft.shape[0], target.shape[1], mixed=False)
    return data.but(
        target_logits=target.cuda().repeat(batch, 1, 1),
        draft_logits=draft.cuda().repeat(batch, 1, 1),
        draft_tokens=gpu(drafts).repeat(batch, 1),
        seeds=torch.arange(batch, device="cuda"),
        positions=torch.zeros(batch, dtype=torch.int64, device="cuda"),
    )


# ---- Numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("draft_at", [0.0, -INF], ids=["q > 0", "q = 0"])
@pytest.mark.parametrize("method", METHODS)
def test_u_of_zero_accepts_nothing_of_probability_zero(problem, verify, method, draft_at):
    """SGLang, Hugging Face: `u·q <= p` accepts what the target forbids. 2,000 seeds, one with u = 0."""
    target = torch.tensor([[0.0, -INF, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    draft = torch.tensor([[0.0, draft_at, 0.0, 0.0]])
    data = counting(problem, 2000, target, draft, [1])
    data.seeds[7] = U_IS_ZERO
    first = philox.words(
        data.seeds[7:8], data.positions[7:8], philox.Purpose.ACCEPT, torch.tensor([0]), 1
    )
    assert float(philox.uniform(first)) == 0
    found = verify(method, data, sigmoid_range=NARROW)
    assert found.num_accepted.unique().tolist() == [0]
    assert set(found.tokens[:, 0].tolist()) <= {0, 2, 3}


@pytest.mark.parametrize("method", EXACT)
def test_u_of_zero_accepts_whatever_is_possible(problem, verify, method):
    target = torch.tensor([[0.0, -30.0], [0.0, 0.0]])
    data = counting(problem, 1, target, torch.tensor([[-30.0, 0.0]]), [1])
    data.seeds[0] = U_IS_ZERO
    assert verify(method, data).num_accepted.tolist() == [1]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_masked_tokens_are_never_emitted(problem, verify, wrong, method, dtype):
    """top-k masks in target, draft or both, and at the end, where a CDF walk has its tail
    (SGLang, FlashInfer): 4,000 steps."""
    data = problem(4000, 3, 37, dtype, seed=5, mixed=False, noise=(1.0,))
    target, draft = data.target_logits.clone(), data.draft_logits.clone()
    target[..., [0, 5, 34, 35, 36]] = -INF
    draft[..., [2, 5, 14, 36]] = -INF
    data = data.but(target_logits=target, draft_logits=draft)
    found = verify(method, data, sigmoid_range=NARROW)
    emitted = set(found.tokens.unique().tolist()) - {-1}
    assert emitted
    assert not emitted & {0, 5, 34, 35, 36}
    assert wrong(method, data, found, NARROW) == ""


@pytest.mark.parametrize("shape", [(64, 1, 50257), (64, 20, 257), (16, 128, 1000)], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_a_draft_equal_to_the_target_is_always_accepted(problem, verify, method, shape):
    data = problem(*shape, mixed=False, noise=(0.0,))
    data = data.but(temperature=torch.linspace(0.5, 2, shape[0], device="cuda"))
    found = verify(method, data)
    assert found.num_accepted.unique().tolist() == [shape[1]]
    assert torch.equal(found.tokens[:, :-1], data.draft_tokens)
    assert ((found.tokens[:, -1] >= 0) & (found.tokens[:, -1] < shape[2])).all()


@pytest.mark.parametrize("method", METHODS)
def test_an_empty_residual_gives_a_token_of_the_target(problem, verify, method):
    """0/0 where draft = target (Hugging Face, gpt-fast). A draft that is no id is rejected, nothing is
    left of the target, and its row is sampled alone: 20,000 steps, shares within 5 standard errors.
    """
    steps, row = 20_000, torch.tensor([0.0, 1.0, -INF, 2.0, -INF, 0.5, -1.0, -INF])
    data = counting(problem, steps, row.repeat(2, 1), row[None], [-1])
    found = verify(method, data, sigmoid_range=NARROW)
    assert found.num_accepted.unique().tolist() == [0]
    share = torch.bincount(found.tokens[:, 0].cpu(), minlength=8) / steps
    weight = row.exp() if method != "sigmoid" else ((row + 10) / 20).sigmoid()
    law = weight.masked_fill(row == -INF, 0) / weight.masked_fill(row == -INF, 0).sum()
    assert ((share - law).abs() <= 5 * (law * (1 - law) / steps).sqrt()).all()


@pytest.mark.parametrize("temperature", [2.0**-13, 1e-3, 100.0])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("method", EXACT)
def test_cold_and_hot(problem, verify, wrong, method, dtype, temperature):
    """Each row's largest logit is taken off before anything overflows; the law rounds logit / T."""
    data = problem(24, 4, 999, dtype, seed=6, mixed=False)
    data = data.but(temperature=torch.full_like(data.temperature, temperature))
    assert wrong(method, data, verify(method, data), share=0.2) == ""


@pytest.mark.parametrize("method", METHODS)
def test_huge_logits(problem, verify, wrong, method):
    """±1e4 in float32 and the largest float16: exp alone would be inf or 0."""
    wide = (-1e5, 1e5)
    for dtype, factor in ((torch.float32, 1e3), (torch.float16, 65504.0 / 20)):
        data = problem(32, 3, 499, torch.float32, seed=7, mixed=False, noise=(0.0, 1e-4, 0.2))
        target = (data.target_logits * factor).clamp(-65504, 65504).to(dtype)
        draft = (data.draft_logits * factor).clamp(-65504, 65504).to(dtype)
        drafts = draft.argmax(-1)  # what such rows draft
        data = data.but(target_logits=target, draft_logits=draft, draft_tokens=drafts)
        found = verify(method, data, sigmoid_range=wide)
        assert wrong(method, data, found, wide, share=0.2) == ""


@pytest.mark.parametrize("method", EXACT)
def test_subnormal_tails_count_as_zero(problem, verify, method):
    """exp(−95) is subnormal: a kernel flushes it. Such a draft is rejected, and only id 0 is left."""
    row = torch.full((67,), -95.0)
    row[0] = 0.0
    data = counting(problem, 500, row.repeat(3, 1), row.repeat(2, 1), [0, 40])
    found = verify(method, data)
    assert torch.equal(found.tokens, gpu([0, 0, -1]).expand(500, -1))


@pytest.mark.parametrize("method", METHODS)
def test_a_million_equal_logits(problem, verify, wrong, method):
    """Four rows of 262,144: every draft is accepted, and the race alone picks the bonus token."""
    data = problem(2, 1, 262_144, mixed=False)
    data = data.but(
        target_logits=torch.zeros_like(data.target_logits),
        draft_logits=torch.zeros_like(data.draft_logits),
    )
    found = verify(method, data)
    assert found.num_accepted.tolist() == [1, 1]
    assert wrong(method, data, found) == ""


# ---- Rows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("vocab", [23, 2048, 51865])
@pytest.mark.parametrize("greedy", [False, True], ids=["sampled", "greedy"])
@pytest.mark.parametrize("poison", [math.nan, -INF, INF], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_an_invalid_target_emits_nothing_and_leaves_the_others_alone(
    problem, verify, method, poison, greedy, vocab
):
    """vLLM: one sequence's NaN reached others."""
    if (method, poison, greedy) == ("sigmoid", INF, False):
        pytest.skip("sampled sigmoid maps +inf to weight 1: a valid row for it")
    data = problem(5, 2, vocab, mixed=False)
    if greedy:
        data = data.but(temperature=torch.zeros_like(data.temperature))
    clean = verify(method, data)
    target = data.target_logits.clone()
    target[2] = poison
    found = verify(method, data.but(target_logits=target))
    assert found.num_accepted[2] == 0
    assert found.tokens[2].tolist() == [-1, -1, -1]
    others = [0, 1, 3, 4]
    assert torch.equal(found.tokens[others], clean.tokens[others])
    assert torch.equal(found.num_accepted[others], clean.num_accepted[others])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_one_nan_anywhere_spoils_its_row(problem, verify, method, dtype):
    """Heads, bodies and tails of rows of every alignment: no entry escapes the look."""
    vocab = 333
    data = problem(vocab, 1, vocab, dtype, mixed=False)
    target = data.target_logits.clone()
    order = torch.arange(vocab, device="cuda")
    target[order, :, order] = math.nan
    found = verify(method, data.but(target_logits=target))
    stops = found.tokens.gather(1, found.num_accepted[:, None])
    assert (stops == -1).all()


@pytest.mark.parametrize("method", EXACT)
def test_an_invalid_row_in_the_middle_ends_the_step_there(problem, verify, method):
    """Drafts accepted before it stay, no token follows: in `block` too, which could step back."""
    data = problem(400, 4, 23, mixed=False, noise=(0.3,))
    target = data.target_logits.clone()
    target[:, 2, 5] = math.nan
    found = verify(method, data.but(target_logits=target))
    at_two = found.num_accepted == 2
    assert at_two.sum() > 100
    assert (found.num_accepted <= 2).all()
    assert (found.tokens[at_two, 2] == -1).all()
    assert (found.tokens[~at_two].gather(1, found.num_accepted[~at_two, None]) >= 0).all()


@pytest.mark.parametrize("poison", [math.nan, -INF, INF], ids=str)
@pytest.mark.parametrize("method", EXACT)
def test_an_invalid_draft_row_leaves_the_target_alone(problem, verify, method, poison):
    """Its draft is rejected and the token follows the target's own row (N = 20,000)."""
    steps, row = 20_000, torch.tensor([0.0, 1.0, -INF, 2.0])
    draft = torch.full((1, 4), poison)
    found = verify(method, counting(problem, steps, row.repeat(2, 1), draft, [0]))
    assert found.num_accepted.unique().tolist() == [0]
    share = torch.bincount(found.tokens[:, 0].cpu(), minlength=4) / steps
    law = row.softmax(0)
    assert ((share - law).abs() <= 5 * (law * (1 - law) / steps).sqrt()).all()


def test_sigmoid_looks_at_nothing_but_drafts_and_its_stop_row(problem, verify):
    """A range above every logit leaves no weight and no token; +inf weighs 1."""
    data = problem(3, 2, 23, mixed=False)
    found = verify("sigmoid", data, sigmoid_range=(50.0, 60.0))
    assert found.tokens.tolist() == [[-1, -1, -1]] * 3
    infinite = data.but(target_logits=torch.full_like(data.target_logits, INF))
    assert (verify("sigmoid", infinite).tokens[:, 0] >= 0).all()
    target = data.target_logits.clone()
    target[:, 1, 3] = math.nan
    data = data.but(target_logits=target, draft_tokens=gpu([[-1, 0]] * 3))
    assert (verify("sigmoid", data).tokens[:, 0] >= 0).all()


@pytest.mark.parametrize("vocab", [1, 7, 8, 31, 1001, 51865])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_rows_of_any_alignment_and_stride(problem, verify, wrong, method, dtype, vocab):
    """Rows that begin one element off 16 bytes, lie wider apart than V, and differ in both between
    target and draft. What lies between the rows is NaN."""
    data = problem(3, 2, vocab, dtype, seed=8)

    def inside(rows, before, after, gap):
        batch, count, _ = rows.shape
        wide = rows.new_full((batch, count * gap, before + vocab + after), math.nan)
        view = wide[:, ::gap, before : before + vocab]
        view.copy_(rows)
        return view

    for before in range(5):
        moved = data.but(
            target_logits=inside(data.target_logits, before, 3, 2),
            draft_logits=inside(data.draft_logits, 7 - before, 2, 1),
        )
        assert wrong(method, moved, verify(method, moved, sigmoid_range=NARROW), NARROW) == ""


@pytest.mark.parametrize("method", METHODS)
def test_one_row_for_all_sequences(problem, verify, wrong, method):
    """A stride of 0, as `expand` gives it."""
    data = problem(9, 3, 129, mixed=False)
    data = data.but(
        target_logits=data.target_logits[:1].expand(9, -1, -1),
        draft_logits=data.draft_logits[:1].expand(9, -1, -1),
        draft_tokens=data.draft_tokens[:1].expand(9, -1),
    )
    assert wrong(method, data, verify(method, data)) == ""


# ---- Indices ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stray", [-1, -7, 31, 32, 2**31, 2**32 + 3, 2**40, -(2**62)])
@pytest.mark.parametrize("greedy", [False, True], ids=["sampled", "greedy"])
@pytest.mark.parametrize("method", METHODS)
def test_an_id_outside_the_vocabulary_is_rejected(problem, verify, wrong, method, greedy, stray):
    """vLLM: −1 read as an index. Here nothing is read, and the draft is rejected."""
    data = problem(8, 3, 31, mixed=False, noise=(0.2,))
    if greedy:
        data = data.but(temperature=torch.zeros_like(data.temperature))
    drafts = data.target_logits[:, :-1].argmax(-1) if greedy else data.draft_tokens.clone()
    drafts[:, 1] = stray
    drafts[4:, 0] = stray
    data = data.but(draft_tokens=drafts)
    found = verify(method, data)
    assert (found.num_accepted[:4] <= 1).all()
    assert (found.num_accepted[4:] == 0).all()
    assert wrong(method, data, found) == ""
    assert found.tokens.max() < 31


@pytest.mark.parametrize("method", METHODS)
def test_lengths_in_device_memory_are_cut_to_what_there_is(problem, verify, method):
    """Nothing looks at them before the launch: whatever they hold, the kernel stays in bounds."""
    data = problem(8, 5, 301, mixed=False, noise=(0.1,))
    given = data.but(lengths=gpu([-1, -(2**40), -(2**63), 6, 2**31, 2**32, 2**40 + 1, 3]))
    cut = data.but(lengths=gpu([0, 0, 0, 5, 5, 5, 5, 3]))
    found, expected = verify(method, given), verify(method, cut)
    assert torch.equal(found.tokens, expected.tokens)
    assert torch.equal(found.num_accepted, expected.num_accepted)


@pytest.mark.parametrize("method", METHODS)
def test_no_drafts_at_all_gives_one_token(problem, verify, wrong, method):
    for data in (
        problem(5, 0, 4099, mixed=False),
        problem(5, 4, 4099).but(lengths=gpu([0, 0, 0, 0, 0])),
    ):
        found = verify(method, data)
        assert found.num_accepted.tolist() == [0] * 5
        assert (found.tokens[:, 0] >= 0).all()
        assert (found.tokens[:, 1:] == -1).all()
        assert wrong(method, data, found) == ""


@pytest.mark.parametrize("shape", [(9, 4, 53), (300, 3, 1000), (5, 5, 32000)], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_a_sequence_does_not_depend_on_its_batch(problem, verify, wrong, method, shape):
    """vLLM, FlashInfer: a zero-draft sequence advanced another's random numbers. Here a sequence
    decides alone as in any place of any batch, whatever lengths its neighbours have."""
    data = problem(*shape, seed=9)
    order = torch.randperm(shape[0], generator=torch.Generator().manual_seed(1)).cuda()
    together, shuffled = verify(method, data), verify(method, data.only(order))
    assert torch.equal(shuffled.tokens, together.tokens[order])
    for b in range(min(9, shape[0])):
        alone = verify(method, data.only([b]))  # another grid, so another order of sums
        if not torch.equal(alone.tokens[0], together.tokens[b]):
            assert wrong(method, data.only([b]), alone) == ""
            assert wrong(method, data, together) == ""


# ---- Memory -------------------------------------------------------------------------------------


@pytest.fixture
def much_memory():
    """Skips where 20 GB are not free; gives them back afterwards."""
    torch.cuda.empty_cache()
    if torch.cuda.mem_get_info()[0] < 20e9:
        pytest.skip("needs 20 GB of GPU memory")
    yield
    torch.cuda.empty_cache()


@pytest.mark.parametrize("method", ["sigmoid", "fused", "block"])
def test_rows_times_vocabulary_beyond_32_bits(problem, verify, wrong, much_memory, method):
    """vLLM, three times. 64 x 129 x 262,144 float16 logits in the target alone: 4.3 GB a tensor."""
    batch, gamma, vocab = 64, 128, 262_144
    assert batch * (gamma + 1) * vocab > 2**31
    few = problem(2, gamma, vocab, torch.float16, seed=10, mixed=False, noise=(0.05,))
    target = torch.zeros(batch, gamma + 1, vocab, dtype=torch.float16, device="cuda")
    draft = torch.zeros(batch, gamma, vocab, dtype=torch.float16, device="cuda")
    target[-2:], draft[-2:] = few.target_logits, few.draft_logits
    order = torch.tensor([0] * (batch - 2) + [0, 1])
    options = {name: tensor[order] for name, tensor in few.options.items()}
    data = few.but(
        target_logits=target, draft_logits=draft, draft_tokens=few.draft_tokens[order], **options
    )
    found = verify(method, data)
    last = Verification(found.tokens[-2:], found.num_accepted[-2:])
    assert wrong(method, few, last) == ""
    assert (found.tokens[:-2] < vocab).all()
    assert (found.num_accepted[:-2] == gamma).all()  # equal rows: every draft is accepted


@pytest.mark.parametrize("method", ["sigmoid", "fused", "block"])
def test_strides_beyond_32_bits(problem, verify, wrong, much_memory, method):
    """Two sequences 2³¹ elements and more apart, in target and draft, and rows of a third."""
    data = problem(2, 2, 1001, torch.float16, seed=11, mixed=False)
    block = torch.zeros(2**31 + 2**30, dtype=torch.float16, device="cuda")
    target = block.as_strided((2, 3, 1001), (2**31 + 8, 1001, 1)).copy_(data.target_logits)
    draft = block.as_strided((2, 2, 1001), (2**31 + 2**20, 1001, 1), 2**16)
    draft.copy_(data.draft_logits)
    moved = data.but(target_logits=target, draft_logits=draft)
    assert wrong(method, moved, verify(method, moved)) == ""
    rows = block.as_strided((1, 2, 1001), (0, 2**31 + 24, 1), 2**18).copy_(target[:1, :2].clone())
    one = data.only([0])
    one = one.but(
        target_logits=rows, draft_logits=one.draft_logits[:, :1],
        draft_tokens=one.draft_tokens[:, :1], lengths=one.lengths - 1,
    )  # fmt: skip
    assert wrong(method, one, verify(method, one)) == ""


def test_probabilities_beyond_32_bits(problem, bind, much_memory, wrong):
    """`exact` reads float32 probabilities: 4,097 x 2 x 262,144 of the target's, 8.6 GB, nearly all 0."""
    batch, gamma, vocab = 4097, 1, 262_144
    assert batch * (gamma + 1) * vocab > 2**31
    few = problem(1, gamma, vocab, seed=12, mixed=False)
    logits = [rows.expand(batch, -1, -1) for rows in few.tensors[:2]]  # read by the greedy alone
    kernel = bind("exact", few.but(target_logits=logits[0]))
    target = torch.zeros(batch, gamma + 1, vocab, device="cuda")
    draft = torch.zeros(batch, gamma, vocab, device="cuda")
    target[-1], draft[-1] = few.target_logits[0].softmax(-1), few.draft_logits[0].softmax(-1)
    tokens = torch.full((batch, gamma + 1), -99, device="cuda")
    accepted = torch.full((batch,), -99, device="cuda")
    kernel.launcher(
        *logits, few.draft_tokens.repeat(batch, 1), tokens, accepted, target_probs=target,
        draft_probs=draft, lengths=None, temperature=1.0, seeds=few.seeds.repeat(batch),
        positions=few.positions.repeat(batch), draft_lse=None, sigmoid_range=NARROW,
    )  # fmt: skip
    assert wrong("exact", few, Verification(tokens[-1:], accepted[-1:])) == ""
    assert (tokens[:-1] == -1).all()  # rows without any weight are invalid


# ---- Refusals -----------------------------------------------------------------------------------


def step_arguments():
    tensors = [
        torch.zeros(2, 4, 7, device="cuda"),
        torch.zeros(2, 3, 7, device="cuda"),
        torch.zeros(2, 3, dtype=torch.int64, device="cuda"),
    ]
    return tensors, {
        "lengths": gpu([3, 2]), "temperature": gpu([1.0, 0.5]), "seeds": gpu([1, 2]),
        "positions": gpu([0, 0]), "draft_lse": torch.zeros(2, 3, device="cuda"),
    }  # fmt: skip


BAD_TENSORS = {
    "target shape": (0, lambda t: t[:, :3], "target_logits is (2, 3, 7) float32 cuda:0", "(2, 4, 7)"),
    "target dtype": (0, lambda t: t.half(), "(2, 4, 7) float16", "float32"),
    "target device": (0, lambda t: t.cpu(), "(2, 4, 7) float32 cpu", "cuda:0"),
    "target stride": (
        0, lambda t: t.transpose(1, 2).contiguous().transpose(1, 2),
        "target_logits has stride 4 over the vocabulary", ".contiguous()",
    ),
    "draft shape": (1, lambda t: t[:, :, :6], "draft_logits has shape (2, 3, 6)", "(2, 3, 7)"),
    "draft dtype": (1, lambda t: t.bfloat16(), "draft_logits is torch.bfloat16", "one dtype"),
    "draft device": (1, lambda t: t.cpu(), "draft_logits is on cpu", "one device"),
    "draft stride": (
        1, lambda t: t.transpose(1, 2).contiguous().transpose(1, 2),
        "draft_logits has stride 3 over the vocabulary", ".contiguous()",
    ),
    "tokens shape": (2, lambda t: t[:, :2], "draft_tokens is (2, 2) int64", "(2, 3) int64"),
    "tokens dtype": (2, lambda t: t.int(), "draft_tokens is (2, 3) int32", "(2, 3) int64"),
    "tokens device": (2, lambda t: t.cpu(), "draft_tokens is on cpu", "one device"),
    "tokens stride": (
        2, lambda t: t.t().contiguous().t(), "draft_tokens has stride 2 over the drafts",
        ".contiguous()",
    ),
}  # fmt: skip
BAD_OPTIONS = {
    "lengths dtype": ("lengths", lambda t: t.double(), "lengths is (2,) float64", "(2,) int64"),
    "lengths shape": ("lengths", lambda t: t[:1], "lengths is (1,) int64", "(2,) int64"),
    "lengths device": ("lengths", lambda t: t.cpu(), "lengths is on cpu", "cuda:0"),
    "temperature dtype": ("temperature", lambda t: t.half(), "temperature is (2,) float16", "float32"),
    "temperature stride": (
        "temperature", lambda t: t.repeat_interleave(2)[::2], "temperature has stride 2", "contiguous",
    ),
    "temperature negative": ("temperature", lambda t: -0.5, "temperature is -0.5", "0, which is greedy"),
    "temperature nan": ("temperature", lambda t: math.nan, "temperature is nan", "finite"),
    "temperature infinite": ("temperature", lambda t: INF, "temperature is inf", "finite"),
    "seeds dtype": ("seeds", lambda t: t.int(), "seeds is (2,) int32", "(2,) int64"),
    "seeds no int": ("seeds", lambda t: 1.5, "seeds is 1.5", "int"),
    "seeds too long": ("seeds", lambda t: 2**63, f"seeds is {2**63}", "64 bits"),
    "positions shape": ("positions", lambda t: t[None], "positions is (1, 2) int64", "(2,) int64"),
    "draft_lse dtype": ("draft_lse", lambda t: t.double(), "draft_lse is (2, 3) float64", "float32"),
    "draft_lse shape": ("draft_lse", lambda t: t[0], "draft_lse is (3,) float32", "(2, 3) float32"),
    "sigmoid_range": ("sigmoid_range", lambda t: (1.0, 1.0), "sigmoid_range is (1, 1)", "smaller first"),
}  # fmt: skip


def refusal_of(verifier, tensors, options):
    """The error, after making sure that it came before the launch."""
    kernel = verifier._kernel
    kernel.tokens.fill_(-99)
    before = kernel._launch.epochs.clone()
    with pytest.raises(InputError) as refusal:
        verifier(*tensors, **options)
    torch.cuda.synchronize()
    assert (kernel.tokens == -99).all()
    assert torch.equal(kernel._launch.epochs, before)
    return refusal.value


@pytest.mark.parametrize(
    ("index", "change", "message", "expected"), BAD_TENSORS.values(), ids=BAD_TENSORS
)
def test_tensors_that_do_not_fit_are_refused_before_the_launch(index, change, message, expected):
    verifier = Verifier("fused", 2, 3, 7, device="cuda")
    tensors, options = step_arguments()
    tensors[index] = change(tensors[index])
    refusal = refusal_of(verifier, tensors, options)
    assert message in refusal.message
    assert expected in f"{refusal.message} {refusal.hint}"


@pytest.mark.parametrize(
    ("name", "change", "message", "expected"), BAD_OPTIONS.values(), ids=BAD_OPTIONS
)
@pytest.mark.parametrize("method", METHODS)
def test_options_that_do_not_fit_are_refused_before_the_launch(
    method, name, change, message, expected
):
    verifier = Verifier(method, 2, 3, 7, device="cuda")
    tensors, options = step_arguments()
    options[name] = change(options.get(name))
    refusal = refusal_of(verifier, tensors, options)
    assert message in refusal.message
    assert expected in f"{refusal.message} {refusal.hint}"


def test_a_vocabulary_that_no_kernel_takes_is_refused():
    with pytest.raises(InputError, match="vocab_size is 262145") as refusal:
        Verifier("fused", 1, 1, 262_145, device="cuda")
    assert "262144" in refusal.value.hint


def test_values_are_looked_at_under_the_debug_switch(monkeypatch):
    from specbench.sampling import verifier as module

    monkeypatch.setattr(module, "DEBUG", True)
    verifier = Verifier("fused", 2, 3, 7, device="cuda")
    for changes, message in (
        ({"lengths": gpu([4, 0])}, "lengths range from 0 to 4"),
        ({"lengths": gpu([3, -1])}, "lengths range from -1 to 3"),
        ({"temperature": gpu([1.0, -2.0])}, "temperature is -2.0"),
    ):
        tensors, options = step_arguments()
        assert message in refusal_of(verifier, tensors, options | changes).message
    tensors, options = step_arguments()
    tensors[2][0, 1] = 7
    assert "draft_tokens holds the id [7]" in refusal_of(verifier, tensors, options).message


def test_a_kernel_owns_its_memory():
    """`workspace_bytes` is what the engine reports beside the peak."""
    kernel = KernelVerifier("verify_exact", 2, 3, 7, torch.float32, torch.device("cuda", 0))
    assert kernel.workspace_bytes > 2 * (2 * 4 * 7 + 2 * 3 * 7) * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("vocab", [1, 7, 32, 1001, 51865])
def test_greedy_ties_go_to_the_smallest_id(dtype, vocab):
    """Rows of one value, of any alignment: the head of a row is read last and has the smallest ids.
    The two zeros are equal."""
    gamma = 5
    logits = torch.full((2, gamma + 1, vocab), 1.5, dtype=dtype, device="cuda")
    logits[1] = 0.0
    logits[1, :, 0::2] = -0.0
    drafts = torch.zeros(2, gamma, dtype=torch.int64, device="cuda")
    for method in ("exact", "sigmoid", "fused", "block"):
        found = verify_once(logits, logits[:, :gamma], drafts, method=method, temperature=0.0)
        assert found.num_accepted.tolist() == [gamma, gamma], method
        assert found.tokens.tolist() == [[0] * (gamma + 1)] * 2, method
