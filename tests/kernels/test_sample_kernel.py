"""The sampling kernel against the torch law on the same numbers, and the numbers kernel against torch."""

import math

import pytest
import torch

from specbench.sampling import cuda_methods, philox
from specbench.sampling import step as shared
from specbench.sampling.cuda_methods import KernelSampler
from specbench.sampling.draft import gumbel, sample

pytestmark = pytest.mark.gpu

INF = math.inf
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SHAPES = [(3, 1), (8, 31), (40, 32), (300, 67), (8, 1000), (3, 32000), (40, 50257), (8, 51865),
          (1, 128256), (40, 151936), (1, 262144)]  # fmt: skip
NEAR = 2e-5
"""Two scores, logit / T + noise, may swap within this and 1e-6 of the largest |logit / T|: exponentials
differ from torch's by 4e-6, and each score rounds."""
ROUNDING = 1e-6
"""Of a log-normaliser: relative to 1 + the largest |logit / T|. Inputs are exact in every dtype and all
sums are float32, so one tolerance serves."""


def numbers(batch, seed=0):
    random = torch.Generator().manual_seed(seed)
    seeds = torch.randint(-(2**62), 2**62, (batch,), generator=random)
    return seeds.cuda(), (torch.arange(batch) * 17 + 2**33).cuda()


def rows(batch, vocab, dtype, seed=0):
    random = torch.Generator("cuda").manual_seed(seed)
    return (2.5 * torch.randn(batch, vocab, generator=random, device="cuda")).to(dtype)


def temperatures(batch):
    return torch.tensor([1.0, 0.6, 0.0, 1.7], device="cuda")[torch.arange(batch) % 4]


def draw(logits, temperature, seeds, positions, slot=0, purpose=philox.Purpose.DRAFT, sampler=None):
    """(B,) tokens and log-normalisers by the kernel."""
    batch = len(logits)
    tokens = torch.full((batch,), -99, device="cuda")
    lse = torch.full((batch,), -99.0, device="cuda")
    sampler = sampler or KernelSampler(*logits.shape, logits.dtype, logits.device)
    sampler(
        logits, tokens, lse, temperature=temperature, seeds=seeds, positions=positions,
        purpose=purpose, slot=slot,
    )  # fmt: skip
    return tokens, lse


def assert_as_law(found, logits, temperature, seeds, positions, slot=0):
    """Each token the law's, or its score within rounding of the largest; each lse float64's."""
    tokens, lse = found
    scaled = logits.double() / torch.where(temperature == 0, 1, temperature).double()[:, None]
    slots = torch.tensor([slot], device="cuda")
    noise = gumbel(seeds, positions, philox.Purpose.DRAFT, slots, logits.shape[1])[:, 0]
    expected = sample(logits, temperature, noise)
    size = 1 + scaled.abs().amax(1)
    score = scaled + torch.where(temperature[:, None] == 0, 0, noise.double())
    reached = score.gather(1, tokens.clamp(0, logits.shape[1] - 1)[:, None])[:, 0]
    explained = score.amax(1) - reached <= torch.where(temperature == 0, 0, NEAR + ROUNDING * size)
    assert ((tokens >= 0) & (tokens < logits.shape[1])).all()
    assert explained.all()
    differing = (tokens != expected) & (temperature != 0)  # argmax may tie in half precision
    assert differing.sum() <= 1 + 0.01 * len(tokens)
    assert ((lse - scaled.logsumexp(1)).abs() <= ROUNDING * size).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_draws_what_the_law_draws(shape, dtype):
    logits, (seeds, positions) = rows(*shape, dtype), numbers(shape[0])
    temperature = temperatures(shape[0])
    found = draw(logits, temperature, seeds, positions)
    assert_as_law(found, logits, temperature, seeds, positions)


@pytest.mark.parametrize("temperature", [0.0, 2.0**-13, 0.3, 1.0, 100.0])
def test_one_number_for_all_rows(temperature):
    logits = rows(6, 1003, torch.float32)
    found = draw(logits, temperature, -5, 2**40 + 1, slot=127)
    same = torch.full((6,), -5, device="cuda"), torch.full((6,), 2**40 + 1, device="cuda")
    tempered = torch.full((6,), temperature, device="cuda")
    assert_as_law(found, logits, tempered, *same, slot=127)


def test_slots_and_purposes_have_numbers_of_their_own():
    """Uniform over 4,096 ids: two independent draws agree once in 4,096 (N = 2,000)."""
    logits, (seeds, positions) = torch.zeros(2000, 4096, device="cuda"), numbers(2000)
    sampler = KernelSampler(2000, 4096, torch.float32, logits.device)
    draws = [
        draw(logits, 1.0, seeds, positions, slot, purpose, sampler)[0]
        for slot in (0, 1)
        for purpose in (philox.Purpose.DRAFT, philox.Purpose.RESIDUAL)
    ]
    for i, one in enumerate(draws):
        for other in draws[:i]:
            assert (one == other).sum() < 10


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("vocab", [1, 7, 31, 1001, 51865])
def test_rows_of_any_alignment_and_outputs_of_any_stride(vocab, dtype):
    """Logits one to four elements off, wider apart than V; outputs a column of a (B, γ) tensor."""
    (seeds, positions), temperature = numbers(5), temperatures(5)
    plain = rows(5, vocab, dtype)
    sampler = KernelSampler(5, vocab, dtype, plain.device)
    for before in range(5):
        wide = plain.new_full((5, before + vocab + 3), math.nan)
        logits = wide[:, before : before + vocab].copy_(plain)
        tokens = torch.full((5, 4), -99, device="cuda")
        lse = torch.full((5, 6), -99.0, device="cuda")
        sampler(
            logits, tokens[:, 2], lse[:, 5], temperature=temperature, seeds=seeds,
            positions=positions, purpose=philox.Purpose.DRAFT, slot=3,
        )  # fmt: skip
        found = tokens[:, 2].clone(), lse[:, 5].clone()
        assert_as_law(found, plain, temperature, seeds, positions, slot=3)
        tokens[:, 2], lse[:, 5] = -99, -99
        assert (tokens == -99).all()
        assert (lse == -99).all()


def test_rows_apart_by_more_than_32_bits():
    if torch.cuda.mem_get_info()[0] < 8e9:
        pytest.skip("needs 8 GB of GPU memory")
    block = torch.empty(2**31 + 2**20, dtype=torch.float16, device="cuda")
    logits = block.as_strided((2, 1001), (2**31 + 8, 1)).copy_(rows(2, 1001, torch.float16))
    (seeds, positions), temperature = numbers(2), torch.ones(2, device="cuda")
    assert_as_law(
        draw(logits, temperature, seeds, positions), logits, temperature, seeds, positions
    )


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_masked_tokens_are_never_drawn(temperature):
    """4,000 rows; the last id is the tail of a CDF walk (SGLang)."""
    logits = rows(4000, 37, torch.float32)
    logits[:, [0, 5, 34, 35, 36]] = -INF
    seeds, positions = numbers(4000)
    found = draw(logits, temperature, seeds, positions)
    assert not set(found[0].tolist()) & {0, 5, 34, 35, 36}
    assert torch.allclose(found[1].double(), logits.double().logsumexp(1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("vocab", [5, 999, 51865])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_invalid_row_gives_token_0_and_nan(vocab, temperature):
    """An id that can be fed to a model, and a normaliser that verification sees through."""
    logits, (seeds, positions) = rows(6, vocab, torch.float32), numbers(6)
    clean = draw(logits, temperature, seeds, positions)
    logits[1] = -INF
    logits[2, vocab - 1] = math.nan
    logits[3, 0] = INF
    logits[4] = math.nan
    tokens, lse = draw(logits, temperature, seeds, positions)
    assert tokens[1:5].tolist() == [0] * 4
    assert lse[1:5].isnan().all()
    for row in (0, 5):
        assert tokens[row] == clean[0][row]
        assert lse[row] == clean[1][row]


def test_a_sampler_is_right_again_and_again():
    """Halves of the mail alternate: stale mail would show in the third call of other inputs."""
    seeds, positions = numbers(9)
    steps = [rows(9, 5000, torch.float32, seed) for seed in range(3)]
    sampler = KernelSampler(9, 5000, torch.float32, steps[0].device)
    temperature = torch.ones(9, device="cuda")
    for i in range(12):
        found = draw(steps[i % 3], temperature, seeds, positions, i, sampler=sampler)
        assert_as_law(found, steps[i % 3], temperature, seeds, positions, i)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_follow_the_softmax(temperature):
    """Chi-square over 9 ids and 200,000 draws, seeds 0…N−1, level 1e-4."""
    from scipy.stats import chi2

    count, rounds = 4000, 50
    row = torch.tensor([0.3, -1.0, 2.0, -INF, 0.0, 1.0, -2.5, 0.7, 1.9])
    logits = row.cuda().expand(count, -1)
    sampler = KernelSampler(count, 9, torch.float32, logits.device)
    counts = torch.zeros(9, dtype=torch.float64)
    for first in range(0, count * rounds, count):
        seeds = torch.arange(first, first + count, device="cuda")
        tokens, _ = draw(logits, temperature, seeds, 0, sampler=sampler)
        counts += torch.bincount(tokens.cpu(), minlength=9)
    expected = (row.double() / temperature).softmax(0) * count * rounds
    assert counts[3] == 0
    here = expected > 0
    statistic = float(((counts - expected)[here] ** 2 / expected[here]).sum())
    assert chi2.sf(statistic, int(here.sum()) - 1) >= 1e-4


@pytest.mark.parametrize(
    ("batch", "gamma", "vocab"), [(1, 0, 1), (3, 5, 31), (2, 128, 51865), (40, 5, 128256)]
)
def test_numbers_are_those_of_torch(batch, gamma, vocab):
    """Uniforms bit for bit; exponentials within 4e-6, and bit-equal words show in their closeness."""
    seeds, positions = numbers(batch, seed=3)
    found = cuda_methods.draw(seeds, positions, gamma, vocab)
    expected = shared.draw(seeds, positions, gamma, vocab)
    assert torch.equal(found.uniforms, expected.uniforms)
    off = (found.exponentials.double() - expected.exponentials.double()).abs()
    assert (off <= 4e-6 * expected.exponentials.double()).all()
    assert (found.exponentials > 0).all()


def test_the_smallest_exponentials_keep_their_digits():
    """The winners of a race: 2²⁰ numbers, the smallest near 1e-6, against float64."""
    seeds, positions = numbers(4, seed=5)
    found = cuda_methods.draw(seeds, positions, 0, 2**18).exponentials
    words = philox.words(
        seeds, positions, philox.Purpose.RESIDUAL, torch.zeros(1, dtype=torch.int64), 2**18
    )[:, 0]
    exact = -torch.log1p(-(words.double() + 0.5) * 2.0**-32)
    small = exact < 1e-3
    assert small.sum() > 500
    assert ((found.double() - exact).abs() <= 4e-6 * exact)[small].all()


def test_greedy_tells_neighbours_apart():
    """Two float32 numbers next to each other, and the larger one is the argmax: nothing may be scaled."""
    logits = torch.zeros(1, 64, device="cuda")
    logits[0, 3], logits[0, 40] = 1.5000002, 1.5000004
    tokens = torch.empty(1, dtype=torch.int64, device="cuda")
    lse = torch.empty(1, device="cuda")
    sampler = KernelSampler(1, 64, torch.float32, logits.device)
    sampler(
        logits,
        tokens,
        lse,
        temperature=0.0,
        seeds=0,
        positions=0,
        purpose=philox.Purpose.DRAFT,
        slot=0,
    )
    assert tokens.tolist() == [40]
