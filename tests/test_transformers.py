"""`specbench.transformers.use`: our methods as the sampler of other people's `generate`."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
import warnings

import pytest
import torch
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    WhisperConfig,
    WhisperForConditionalGeneration,
)
from transformers.generation import utils

import specbench
from specbench.engine import assisted
from specbench.errors import InputError, MachineError
from specbench.sampling.check import chi_square
from specbench.sampling.registry import get_method

PROMPT = torch.tensor([[3, 4, 5]])
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def llama(vocab=23, layers=2, seed=0, sharpness=0.6):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=16, num_hidden_layers=layers, intermediate_size=32,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=256,
        initializer_range=sharpness, tie_word_embeddings=False, eos_token_id=None, bos_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param


@pytest.fixture
def pair(device):
    return llama(seed=1).to(device), assistant(llama(layers=1, seed=2).to(device))


def assistant(model, gamma=4):
    model.generation_config = GenerationConfig(
        num_assistant_tokens=gamma, num_assistant_tokens_schedule="constant",
        assistant_confidence_threshold=0.0,
    )  # fmt: skip
    return model


def write(target, draft=None, prompt=PROMPT, **options):
    """What a script of others does; returns the new tokens."""
    prompt = prompt.to(target.device)
    options = {"do_sample": True, "max_new_tokens": 20, "top_k": 0} | options
    if not options["do_sample"]:
        del options["top_k"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = target.generate(
            prompt, attention_mask=torch.ones_like(prompt), assistant_model=draft, **options
        )
    return out[0, prompt.shape[1] :].tolist()


def method_that(accepts, name="ours"):
    """A method which accepts all of the drafts or none, and remembers the steps it saw."""
    seen = []

    def law(step):
        seen.append(step)
        accepted = torch.full_like(step.lengths, step.gamma if accepts else 0)
        return accepted, torch.full_like(accepted, 7)

    return dataclasses.replace(get_method("baseline"), name=name, law=law), seen


def places():
    return utils._speculative_sampling, utils.GenerationMixin._get_candidate_generator


@pytest.fixture(autouse=True)
def transformers_has_its_functions_back():
    before = places()
    yield
    assert places() == before


# --- in its place ----------------------------------------------------------------------------


@pytest.mark.parametrize("accepts", [False, True])
def test_the_method_decides_and_is_counted(accepts):
    target, draft = llama(seed=1), assistant(llama(seed=2, layers=1))
    method, seen = method_that(accepts)
    with specbench.transformers.use(method) as verified:
        new = write(target, draft, max_new_tokens=21)
    steps = 5 if accepts else 21
    assert (verified.generations, verified.steps, len(seen)) == (1, steps, steps)
    assert verified.accepted == (21 - 5 if accepts else 0)
    assert verified.drafted == (16 if accepts else 17 * 4 + 3 + 2 + 1)
    assert verified.verify_s > 0
    assert f"accepted={verified.accepted}" in repr(verified)
    if not accepts:
        assert new == [7] * 21


@pytest.mark.parametrize("method", ["baseline", "exact", "sigmoid", "fused", "block"])
def test_greedy_decoding_is_verified_too_and_stays_greedy(pair, method):
    target, draft = pair
    expected = write(target, do_sample=False, max_new_tokens=30)
    settings = GenerationConfig(do_sample=False, max_new_tokens=30)
    prompt = PROMPT.to(target.device)
    with specbench.transformers.use(method) as verified:
        found = target.generate(
            prompt, attention_mask=torch.ones_like(prompt), assistant_model=draft,
            generation_config=settings,
        )  # fmt: skip
    assert found[0, 3:].tolist() == expected
    assert verified.steps + verified.accepted == 30
    assert settings.do_sample is False


def test_a_generation_in_one_block_is_not_as_lucky_as_the_next(device):
    """Chi-square of 500 generations of three tokens from one prompt, level 1 in 10,000: equal numbers
    for each would be far from the law."""
    from scipy.stats import chi2

    target, draft = (llama(3, 1, seed, 0.4).to(device) for seed in (4, 5))
    prompt, count, cells = torch.tensor([[1, 2]]), 500, torch.zeros(27, dtype=torch.float64)
    torch.manual_seed(0)
    with specbench.transformers.use("block") as verified:
        for _ in range(count):
            a, b, c = write(target, assistant(draft, 2), prompt, max_new_tokens=3)
            cells[9 * a + 3 * b + c] += 1
    sequences = torch.cartesian_prod(*[torch.arange(3)] * 3).to(device)
    with torch.no_grad():
        rows = target(torch.cat([prompt.to(device).expand(27, -1), sequences], 1)).logits[:, 1:-1]
    law = rows.double().softmax(-1).gather(2, sequences[:, :, None]).prod(1)[:, 0].cpu()
    statistic, dof = chi_square(cells, count * law)
    assert chi2.sf(statistic, dof) > 1e-4
    assert verified.generations == count
    assert 0 < verified.accepted < verified.drafted


def test_a_whisper_that_drafts_is_told_the_temperature():
    """Its own generate takes the likeliest token unless it is: then the law of this is not the target's.

    Chi-square over 400 sequences of two tokens, level 1 in 10,000.
    """
    from scipy.stats import chi2

    def whisper(seed):
        torch.manual_seed(seed)
        config = WhisperConfig(
            vocab_size=9, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_source_positions=20,
            max_target_positions=64, num_mel_bins=8, pad_token_id=2, bos_token_id=1, eos_token_id=2,
            decoder_start_token_id=3, init_std=0.6, suppress_tokens=None, begin_suppress_tokens=None,
        )  # fmt: skip
        model = WhisperForConditionalGeneration(config).eval()
        model.generation_config.suppress_tokens = [2]  # the end, which Whisper cuts off its output
        return model

    target, draft = whisper(11), whisper(12)
    draft.generation_config.num_assistant_tokens = 1
    draft.generation_config.assistant_confidence_threshold = 0.0
    heard = torch.randn(1, 8, 40, generator=torch.Generator().manual_seed(0))
    cells, count = torch.zeros(9, 9, dtype=torch.float64), 400
    torch.manual_seed(1)
    steps = []

    def law(step):
        steps.append(step)
        return get_method("fused").law(step)

    spied = dataclasses.replace(get_method("fused"), law=law)
    with specbench.transformers.use(spied):
        for _ in range(count):
            found = target.generate(
                input_features=heard,
                assistant_model=draft,
                temperature=1.0,
                max_new_tokens=2,
                top_k=0,
            )
            cells[tuple(found[0, -2:].tolist())] += 1
    assert "generate" not in vars(draft)
    with torch.no_grad():
        firsts = torch.arange(9)[:, None]
        rows = target(
            input_features=heard.expand(9, -1, -1),
            decoder_input_ids=torch.cat([torch.full_like(firsts, 3), firsts], 1),
        ).logits.double()
    rows[:, :, 2] = -torch.inf
    expected = rows[:, 0].softmax(-1)[0][:, None] * rows[:, 1].softmax(-1)
    statistic, dof = chi_square(cells.flatten(), count * expected.flatten())
    assert chi2.sf(statistic, dof) > 1e-4
    drafted = torch.cat([step.draft_tokens[0] for step in steps if step.gamma])
    assert len(drafted.unique()) > 1


def test_a_seed_repeats_a_block_and_torchs_seed_does_without_one(pair):
    def block(seed, torch_seed):
        torch.manual_seed(torch_seed)
        with specbench.transformers.use("fused", seed=seed):
            return [write(*pair) for _ in range(2)]

    assert block(3, 0) == block(3, 0) != block(4, 0)
    assert block(None, 5) == block(None, 5) != block(None, 6)
    first, second = block(3, 0)
    assert first != second


def test_drafts_are_never_more_than_a_method_takes():
    target = llama(5, 1, seed=1)
    twin = assistant(llama(5, 1, seed=1), gamma=200)
    with specbench.transformers.use("fused") as verified:
        write(target, twin, torch.tensor([[1, 2]]), max_new_tokens=140, do_sample=False)
    assert verified.steps == 2
    assert verified.drafted == 128 + 140 - 129 - 1


def test_other_ways_to_draft_are_left_to_transformers():
    target, options = llama(seed=1), {"do_sample": False, "eos_token_id": 22, "pad_token_id": 22}
    expected = write(target, **options)
    with specbench.transformers.use("fused") as verified:
        found = write(target, prompt_lookup_num_tokens=3, **options)
        plain = write(target, **options)
    assert found == plain == expected
    assert (verified.steps, verified.generations) == (0, 0)


# --- and out of it ---------------------------------------------------------------------------


def test_the_inner_of_two_blocks_decides(pair):
    (outer, _), (inner, seen) = method_that(False, "outer"), method_that(True, "inner")
    with specbench.transformers.use(outer) as first:
        write(*pair)
        before = first.steps
        with specbench.transformers.use(inner) as second:
            write(*pair)
        assert second.steps == len(seen)
        assert first.steps == before
        assert write(*pair) == [7] * 20


def test_a_block_counts_for_its_own_thread():
    """Which has transformers' own sampler otherwise, though another thread is in a block."""
    method, _ = method_that(False)
    found = {}

    def elsewhere():
        torch.manual_seed(0)
        found["new"] = write(llama(seed=1), assistant(llama(seed=2, layers=1)))

    elsewhere()
    expected = found.pop("new")
    with specbench.transformers.use(method) as verified:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert verified.steps == 0
    assert found["new"] == expected != [7] * 20


def test_two_threads_may_be_in_blocks_at_once_and_leave_in_any_order():
    inside, leave = threading.Event(), threading.Event()
    found = {}

    def first():
        with specbench.transformers.use(method_that(False)[0]) as verified:
            inside.set()
            leave.wait(20)
            found["first"] = write(llama(seed=1), assistant(llama(seed=2, layers=1)))
        found["steps"] = verified.steps

    thread = threading.Thread(target=first)
    with specbench.transformers.use(method_that(True)[0]) as verified:
        thread.start()
        assert inside.wait(20)
        write(llama(seed=1), assistant(llama(seed=2, layers=1)))
    assert places()[0].__name__ == "_speculative_sampling"
    leave.set()
    thread.join()
    assert found == {"first": [7] * 20, "steps": 20}
    assert verified.accepted == verified.drafted > 0


def test_an_error_in_the_block_changes_nothing(pair):
    def law(step):
        raise RuntimeError("no law")

    before = places()
    broken = dataclasses.replace(get_method("baseline"), law=law)
    with pytest.raises(RuntimeError, match="no law"), specbench.transformers.use(broken):
        write(*pair)
    assert places() == before
    assert len(write(*pair)) == 20
    with specbench.transformers.use("fused") as verified:  # after a failed generation too
        with pytest.raises(ValueError, match="prompt"):
            raise ValueError("a prompt of the script's own")
        write(*pair)
    assert verified.steps > 0


def test_rows_that_are_no_distribution_end_in_a_sentence(pair):
    target, draft = pair
    forward = target.forward

    def poisoned(*args, **kwargs):
        out = forward(*args, **kwargs)
        out.logits[:] = torch.nan
        return out

    target.forward = poisoned
    with pytest.raises(InputError, match="no token to emit"), specbench.transformers.use("fused"):
        write(target, draft)


def test_unknown_methods_are_refused_with_the_nearest_name():
    with pytest.raises(InputError, match="unknown method 'fusd'") as caught:
        specbench.transformers.use("fusd")
    assert "'fused'" in caught.value.hint


@pytest.mark.parametrize(
    "sampler",
    [
        lambda candidate_input_ids, logits: None,
        lambda candidate_input_ids, candidate_logits, candidate_length, new_logits, tree: None,
        lambda candidate_input_ids, candidate_logits, candidate_length, new_logits,
        last_assistant_token_is_eos, max_matches: None,  # transformers 4.38
    ],
)  # fmt: skip
def test_a_sampler_of_another_signature_is_refused(monkeypatch, sampler):
    monkeypatch.setattr(utils, "_speculative_sampling", sampler)
    with pytest.raises(MachineError, match="arguments are not known") as caught:
        specbench.transformers.use("fused")
    assert "pip install" in caught.value.hint
    monkeypatch.undo()


@pytest.mark.parametrize("name", ["_speculative_sampling", "_get_candidate_generator"])
def test_a_version_without_the_function_is_refused(monkeypatch, name):
    owner = utils if name == "_speculative_sampling" else utils.GenerationMixin
    monkeypatch.delattr(owner, name)
    with pytest.raises(MachineError, match=name):
        specbench.transformers.use("fused")
    monkeypatch.undo()


@pytest.mark.parametrize("known", [4, 5])
@pytest.mark.parametrize("relaxed", [False, True])
def test_every_signature_that_there_was_is_served(monkeypatch, known, relaxed):
    """5.12: five arguments; 5.17: and a weight; 5.23: four and the weight."""
    names = ["candidate_input_ids", "candidate_logits", "candidate_length", "new_logits",
             "is_done_candidate"][:known]  # fmt: skip
    text = ", ".join([*names, "assistant_ensemble_weight=None"] if relaxed else names)
    sampler = eval(f"lambda {text}: None")
    monkeypatch.setattr(utils, "_speculative_sampling", sampler)
    method, _ = method_that(True)
    drafts, logits = torch.tensor([[1, 2, 3, 4]]), torch.zeros(1, 3, 9)
    given = [drafts, logits[:, :2], 2, logits, torch.tensor([True])][:known]
    answers = []
    one = assisted.StandIn(method, (-10, 10), assisted_watch(), listener(answers))
    with assisted.standing_in(one):
        one.begin(llama(), drafter(), GenerationConfig(do_sample=True))
        one.has_drafts = True
        options = {"assistant_ensemble_weight": None} if relaxed else {}
        tokens, matches = utils._speculative_sampling(*given, **options)
    if (
        known == 5
    ):  # the drafts end the sequence, and the last of them stands for the token that follows
        assert (tokens.tolist(), matches) == ([[3, 4]], 1)
        assert answers == [(2, 2, [3, 4])]
    else:
        assert (tokens.tolist(), matches) == ([[3, 4, 7]], 2)
        assert answers == [(2, 2, [3, 4, 7])]
    monkeypatch.undo()


def assisted_watch():
    from specbench.engine.observer import Silent

    return Silent()


def listener(answers):
    class Listener:
        def begin(self, device):
            return 5

        def step(self, drafted, accepted, tokens):
            answers.append((drafted, accepted, tokens))

    return Listener()


def drafter():
    from transformers.generation.candidate_generator import AssistedCandidateGenerator

    config = GenerationConfig(do_sample=True, max_length=20)
    return AssistedCandidateGenerator(PROMPT, assistant(llama(layers=1)), config, {})


def test_a_loop_that_decides_by_itself_is_not_taken_for_ours(pair):
    """As a version would whose loop looks at do_sample before it asks who drafts."""
    with specbench.transformers.use("fused"), pytest.MonkeyPatch.context() as patch:
        ours = utils.GenerationMixin._get_candidate_generator

        def too_late(self, *args, generation_config, **kwargs):
            found = ours(self, *args, generation_config=generation_config, **kwargs)
            generation_config.do_sample = False
            return found

        patch.setattr(utils.GenerationMixin, "_get_candidate_generator", too_late)
        with pytest.raises(MachineError, match="without asking"):
            write(*pair, do_sample=False)


def test_a_relaxed_law_is_refused(pair):
    if not hasattr(GenerationConfig(), "assistant_ensemble_weight"):
        pytest.skip("this transformers cannot relax it")
    with pytest.raises(InputError, match="assistant_ensemble_weight"):  # noqa: SIM117
        with specbench.transformers.use("fused"):
            write(*pair, assistant_ensemble_weight=0.5)


def test_the_module_is_there_when_first_asked_for():
    code = (
        "import sys, specbench; assert 'torch' not in sys.modules; "
        "assert specbench.transformers.use is not None; "
        "from specbench.transformers import use; import transformers; "
        "assert transformers is not specbench.transformers"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
