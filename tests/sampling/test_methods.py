"""Every method as a law: token by token against float64, then the edges by name."""

import math
from dataclasses import replace

import pytest
import torch

import specbench
from specbench.sampling import reference
from specbench.sampling import step as shared
from specbench.sampling.registry import get_method
from specbench.sampling.verifier import run

METHODS = ["baseline", "exact", "sigmoid", "fused", "block"]
EXACT = ["baseline", "exact", "fused", "block"]
INF = math.inf
SHAPES = [
    # B, γ, V: awkward primes and the real vocabularies
    (3, 4, 1), (4, 5, 31), (4, 5, 32), (3, 7, 1000), (2, 5, 32000), (2, 3, 50257),
    (2, 5, 51865), (1, 3, 128256), (1, 2, 151936), (1, 128, 67), (2, 20, 499), (8, 1, 257),
]  # fmt: skip
DTYPES = [(torch.float32, 2e-5), (torch.float16, 2e-5), (torch.bfloat16, 2e-5)]
"""Inputs are exact in every dtype and all arithmetic is float32, so one tolerance serves."""
CASES = [
    (shape, dtype, tolerance)
    for shape in SHAPES
    for dtype, tolerance in DTYPES
    if dtype == torch.float32 or shape[2] <= 1000  # a half changes the inputs alone
]


def verify_with(uniforms, method, target, draft, drafts):
    """Verification with uniforms of our choice, and the exponentials of seeds 0…B−1."""
    batch, gamma = drafts.shape
    zeros = torch.zeros(batch, dtype=torch.int64)
    drawn = shared.draw(torch.arange(batch), zeros, gamma, target.shape[2])
    return run(
        get_method(method), target, draft, drafts, lengths=None, temperature=1.0, seeds=0,
        positions=0, sigmoid_range=(-1e4, 1e4), numbers=replace(drawn, uniforms=uniforms),
    )  # fmt: skip


@pytest.mark.parametrize(("shape", "dtype", "tolerance"), CASES, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_agrees_token_by_token_with_the_float64_reference(problem, method, shape, dtype, tolerance):
    """Same Philox numbers, same decision, unless two numbers lie within float32's rounding."""
    data = problem(*shape, dtype=dtype)
    found = specbench.verify(*data.arguments(), method=method, **data.numbers())
    uniforms, exponentials = data.uniforms(), data.exponentials()
    compared = 0
    for b in range(shape[0]):
        path = tuple(data.draft_tokens[b].tolist())
        accepted, token, gap = reference.verify_one(
            method, data.target_logits[b], data.draft_logits[b], path, uniforms[b].tolist(),
            exponentials[b],
        )  # fmt: skip
        if gap < tolerance:
            continue
        compared += 1
        expected = [*path[:accepted], token] + [-1] * (shape[1] - accepted)
        assert int(found.num_accepted[b]) == accepted
        assert found.tokens[b].tolist() == expected
    assert compared >= max(1, shape[0] - 1)


@pytest.mark.parametrize("temperature", [0.3, 0.7, 1.9])
@pytest.mark.parametrize("method", METHODS)
def test_temperature_divides_both_logits(problem, method, temperature):
    data = problem(6, 4, 97)
    scaled = [tensor / temperature for tensor in data.arguments()[:2]]
    tempered = specbench.verify(
        *data.arguments(), method=method, temperature=temperature, **data.numbers()
    )
    plain = specbench.verify(*scaled, data.draft_tokens, method=method, **data.numbers())
    assert torch.equal(tempered.tokens, plain.tokens)


def test_exact_methods_agree_on_the_same_numbers(problem):
    """baseline, exact and fused are one law computed three ways."""
    data = problem(64, 5, 499)
    first, *others = (
        specbench.verify(*data.arguments(), method=m, **data.numbers())
        for m in ("baseline", "exact", "fused")
    )
    for other in others:
        assert (other.tokens == first.tokens).all(1).float().mean() > 0.98


@pytest.mark.parametrize("gamma", [1, 2, 8, 64, 128])
@pytest.mark.parametrize("method", EXACT)
def test_a_draft_equal_to_the_target_is_always_accepted(problem, method, gamma):
    data = problem(16, gamma, 257, noise=0.0)
    found = specbench.verify(*data.arguments(), method=method, **data.numbers())
    assert found.num_accepted.tolist() == [gamma] * 16
    assert torch.equal(found.tokens[:, :gamma], data.draft_tokens)
    assert (found.tokens[:, gamma] >= 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_the_shape_of_the_answer(problem, method):
    """Accepted drafts, one token more, then −1; every id inside the vocabulary."""
    data = problem(50, 6, 41, noise=1.5)
    found = specbench.verify(*data.arguments(), method=method, **data.numbers())
    assert found.tokens.dtype == found.num_accepted.dtype == torch.int64
    for tokens, count, drafts in zip(
        found.tokens.tolist(), found.num_accepted.tolist(), data.draft_tokens.tolist(), strict=True
    ):
        assert tokens[:count] == drafts[:count]
        assert 0 <= tokens[count] < 41
        assert tokens[count + 1 :] == [-1] * (6 - count)


@pytest.mark.parametrize("method", METHODS)
def test_a_sequence_does_not_depend_on_its_batch_slot(problem, method):
    data = problem(9, 4, 53, noise=1.0)
    together = specbench.verify(*data.arguments(), method=method, **data.numbers())
    order = torch.randperm(9, generator=torch.Generator().manual_seed(3))
    shuffled = specbench.verify(
        *(tensor[order] for tensor in data.arguments()), method=method,
        seeds=data.seeds[order], positions=data.positions[order],
    )  # fmt: skip
    assert torch.equal(shuffled.tokens, together.tokens[order])
    alone = specbench.verify(
        *(tensor[4:5] for tensor in data.arguments()), method=method,
        seeds=int(data.seeds[4]), positions=int(data.positions[4]),
    )  # fmt: skip
    assert torch.equal(alone.tokens[0], together.tokens[4])


@pytest.mark.parametrize("method", METHODS)
def test_ragged_lengths_equal_a_shorter_step(problem, method):
    """A sequence with n real drafts decides as if γ were n, whatever stands in its padding."""
    data = problem(6, 5, 71, noise=0.8)
    lengths = torch.tensor([0, 1, 2, 3, 4, 5])
    target, draft = data.target_logits.clone(), data.draft_logits.clone()
    tokens = data.draft_tokens.clone()
    for b, length in enumerate(lengths.tolist()):
        tokens[b, length:] = -1  # vLLM, FlashInfer: the padding read as an index
        draft[b, length:] = torch.nan
        target[b, length + 1 :] = torch.nan
    found = specbench.verify(
        target, draft, tokens, method=method, lengths=lengths, **data.numbers()
    )
    assert (found.num_accepted <= lengths).all()
    for b, length in enumerate(lengths.tolist()):
        short = specbench.verify(
            data.target_logits[b : b + 1, : length + 1], data.draft_logits[b : b + 1, :length],
            data.draft_tokens[b : b + 1, :length], method=method,
            seeds=int(data.seeds[b]), positions=int(data.positions[b]),
        )  # fmt: skip
        assert short.tokens[0].tolist() == found.tokens[b, : length + 1].tolist()


@pytest.mark.parametrize("method", METHODS)
def test_no_drafts_at_all_gives_one_token(problem, method):
    data = problem(5, 0, 19)
    found = specbench.verify(*data.arguments(), method=method, **data.numbers())
    assert found.num_accepted.tolist() == [0] * 5
    assert found.tokens.shape == (5, 1)
    assert ((found.tokens >= 0) & (found.tokens < 19)).all()


@pytest.mark.parametrize("method", METHODS)
def test_u_of_zero_accepts_nothing_of_probability_zero(method):
    """SGLang, Hugging Face: `u ≤ p/q` accepts a token the target forbids when u is 0."""
    target = torch.tensor([[[0.0, -INF, 0.0], [0.0, 0.0, 0.0]]])
    draft = torch.tensor([[[-INF, 0.0, -INF]]])
    found = verify_with(torch.zeros(1, 1), method, target, draft, torch.tensor([[1]]))
    assert found.num_accepted.tolist() == [0]
    assert found.tokens[0, 0] in (0, 2)


@pytest.mark.parametrize("method", METHODS)
def test_masked_tokens_are_never_emitted(method):
    """top-k masks in target, draft or both: 4,000 steps, no forbidden token (SGLang, FlashInfer)."""
    random = torch.Generator().manual_seed(5)
    batch, gamma, vocab = 4000, 3, 16
    target = torch.randn(1, gamma + 1, vocab, generator=random).repeat(batch, 1, 1)
    draft = torch.randn(1, gamma, vocab, generator=random).repeat(batch, 1, 1)
    target[..., [0, 5, 15]] = -INF  # the last id: the tail of a CDF walk
    draft[..., [2, 5, 14]] = -INF
    drafts = torch.distributions.Categorical(logits=draft).sample()
    found = specbench.verify(target, draft, drafts, method=method, seeds=torch.arange(batch))
    emitted = found.tokens[found.tokens >= 0]
    assert not set(emitted.unique().tolist()) & {0, 5, 15}


@pytest.mark.parametrize(
    ("method", "poison", "greedy"),
    [
        (method, poison, greedy)
        for method in METHODS
        for poison in ("nan", "all -inf", "+inf")
        for greedy in (False, True)
        # Sampled sigmoid maps +inf to weight 1: a valid row for it.
        if (method, poison, greedy) != ("sigmoid", "+inf", False)
    ],
)
def test_an_invalid_target_row_emits_nothing_and_leaves_the_others_alone(
    problem, method, poison, greedy
):
    data = problem(3, 2, 23)
    temperature = 0.0 if greedy else 1.0
    clean = specbench.verify(
        *data.arguments(), method=method, temperature=temperature, **data.numbers()
    )
    target = data.target_logits.clone()
    target[1] = {"nan": torch.nan, "all -inf": -INF, "+inf": INF}[poison]
    found = specbench.verify(
        target, *data.arguments()[1:], method=method, temperature=temperature, **data.numbers()
    )
    assert found.num_accepted[1] == 0
    assert found.tokens[1].tolist() == [-1, -1, -1]
    assert torch.equal(found.tokens[[0, 2]], clean.tokens[[0, 2]])


@pytest.mark.parametrize("method", EXACT)
def test_an_invalid_row_in_the_middle_ends_the_step_there(problem, method):
    """Drafts accepted before it stay, no token follows: in `block` too, which could step back."""
    data = problem(400, 4, 23, noise=0.3)
    target = data.target_logits.clone()
    target[:, 2, 5] = torch.nan
    found = specbench.verify(target, *data.arguments()[1:], method=method, **data.numbers())
    at_two = found.num_accepted == 2
    assert at_two.sum() > 100
    assert (found.num_accepted <= 2).all()
    assert (found.tokens[at_two, 2] == -1).all()
    assert (found.tokens[~at_two].gather(1, found.num_accepted[~at_two, None]) >= 0).all()


def test_sigmoid_looks_at_nothing_but_drafts_and_its_stop_row(problem):
    """+inf weighs 1 there; a range above every logit leaves no weight and no token."""
    data = problem(3, 2, 23)
    clipped = specbench.verify(
        *data.arguments(), method="sigmoid", sigmoid_range=(50.0, 60.0), **data.numbers()
    )
    assert clipped.tokens[:, 0].tolist() == [-1, -1, -1]
    target = data.target_logits.clone()
    target[:] = INF
    found = specbench.verify(target, *data.arguments()[1:], method="sigmoid", **data.numbers())
    assert (found.tokens[:, 0] >= 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_one_nan_spoils_its_row(problem, method):
    data = problem(2, 2, 23)
    target = data.target_logits.clone()
    target[0, :, 7] = torch.nan
    found = specbench.verify(target, *data.arguments()[1:], method=method, **data.numbers())
    stop = int(found.num_accepted[0])
    assert found.tokens[0, stop] == -1


@pytest.mark.parametrize("poison", [torch.nan, -INF])
@pytest.mark.parametrize("method", EXACT)
def test_an_invalid_draft_row_leaves_the_target_alone(method, poison):
    """Its draft is rejected and the token follows the target's own row (N = 20,000)."""
    batch = 20_000
    row = torch.tensor([0.0, 1.0, -INF, 2.0])
    target = row.repeat(batch, 2, 1)
    draft = torch.full((batch, 1, 4), poison)
    drafts = torch.zeros(batch, 1, dtype=torch.int64)
    found = specbench.verify(target, draft, drafts, method=method, seeds=torch.arange(batch))
    assert (found.num_accepted == 0).all()
    share = torch.bincount(found.tokens[:, 0], minlength=4) / batch
    assert torch.allclose(share, row.softmax(0), atol=5 * math.sqrt(0.25 / batch))


@pytest.mark.parametrize("method", EXACT)
def test_an_empty_residual_still_gives_a_token_of_the_target(method):
    """0/0 where draft = target (Hugging Face, gpt-fast): forced rejection, token from the target."""
    target = torch.tensor([0.0, -INF, 1.0, -INF]).repeat(200, 3, 1)
    drafts = torch.zeros(200, 2, dtype=torch.int64)
    found = verify_with(torch.ones(200, 2), method, target, target[:, :2], drafts)
    assert (found.num_accepted == 0).all()
    assert set(found.tokens[:, 0].tolist()) == {0, 2}


@pytest.mark.parametrize("method", METHODS)
def test_greedy_follows_the_argmax(problem, method):
    data = problem(8, 4, 37)
    best = data.target_logits.argmax(-1)
    drafts = best[:, :4].clone()
    for b in range(8):
        if b < 4:
            drafts[b, b] = (drafts[b, b] + 1) % 37
    found = specbench.verify(
        *data.arguments()[:2], drafts, method=method, temperature=0.0, **data.numbers()
    )
    assert found.num_accepted.tolist() == [0, 1, 2, 3, 4, 4, 4, 4]
    for b in range(8):
        count = int(found.num_accepted[b])
        assert found.tokens[b, : count + 1].tolist() == best[b, : count + 1].tolist()


@pytest.mark.parametrize("method", METHODS)
def test_temperatures_mix_in_a_batch(problem, method):
    data = problem(6, 3, 29)
    temperature = torch.tensor([0.0, 1.0, 0.5, 0.0, 2.0, 1.0])
    mixed = specbench.verify(
        *data.arguments(), method=method, temperature=temperature, **data.numbers()
    )
    for b in range(6):
        alone = specbench.verify(
            *(tensor[b : b + 1] for tensor in data.arguments()), method=method,
            temperature=float(temperature[b]),
            seeds=int(data.seeds[b]), positions=int(data.positions[b]),
        )  # fmt: skip
        assert torch.equal(alone.tokens[0], mixed.tokens[b])


@pytest.mark.parametrize("method", METHODS)
def test_strided_logits_are_read_where_they_lie(problem, method):
    data = problem(4, 3, 33)
    wide = torch.full((4, 8, 40), torch.nan)
    wide[:, ::2, :33] = data.target_logits
    view = wide[:, ::2, :33]
    assert not view.is_contiguous()
    found = specbench.verify(view, *data.arguments()[1:], method=method, **data.numbers())
    plain = specbench.verify(*data.arguments(), method=method, **data.numbers())
    assert torch.equal(found.tokens, plain.tokens)


@pytest.mark.parametrize("method", ["baseline", "exact", "fused", "block"])
def test_accepted_count_for_fixed_drafts_meets_theory(method):
    """N = 40,000 steps with the same rows and drafts, seeds 0…N−1: mean within 5 standard errors."""
    steps, gamma, vocab = 40_000, 4, 50
    random = torch.Generator().manual_seed(2)
    target = torch.randn(gamma + 1, vocab, generator=random)
    draft = target[:gamma] + 0.7 * torch.randn(gamma, vocab, generator=random)
    path = tuple(draft.argmax(-1).tolist())
    limits = reference.thresholds(
        method,
        [row.double().softmax(0) for row in target],
        [row.double().softmax(0) for row in draft],
        path,
    )
    law = reference.stop_law(method, limits)
    mean = sum(i * p for i, p in enumerate(law))
    deviation = math.sqrt(sum((i - mean) ** 2 * p for i, p in enumerate(law)) / steps)
    found = specbench.verify(
        target.expand(steps, -1, -1), draft.expand(steps, -1, -1),
        torch.tensor(path).expand(steps, -1), method=method, seeds=torch.arange(steps),
    )  # fmt: skip
    assert abs(found.num_accepted.double().mean() - mean) < 5 * deviation


def test_sigmoid_accepts_nearly_everything_at_the_authors_range(problem):
    """σ maps every logit in [−30, 30] to 0.6221…0.6228, so the ratio is at least 0.998."""
    data = problem(2000, 5, 64, noise=2.0)
    found = specbench.verify(*data.arguments(), method="sigmoid", **data.numbers())
    assert found.num_accepted.double().mean() > 4.95
    narrow = specbench.verify(
        *data.arguments(), method="sigmoid", sigmoid_range=(-3.0, 3.0), **data.numbers()
    )
    assert narrow.num_accepted.double().mean() < 4.5
