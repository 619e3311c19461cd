"""What `verify` and `Verifier` refuse, and in which words."""

import pytest
import torch

import specbench
from specbench.errors import InputError, MachineError


def arguments(batch=2, gamma=3, vocab=7):
    return [
        torch.zeros(batch, gamma + 1, vocab),
        torch.zeros(batch, gamma, vocab),
        torch.zeros(batch, gamma, dtype=torch.int64),
    ]


def wrong(index, value):
    found = arguments()
    found[index] = value
    return found


BAD_TENSORS = {
    "no batch": (wrong(0, torch.zeros(4, 7)), "target_logits has shape (4, 7)"),
    "rows": (wrong(1, torch.zeros(2, 4, 7)), "draft_logits has shape (2, 4, 7)"),
    "vocabularies": (wrong(1, torch.zeros(2, 3, 6)), "draft_logits has shape (2, 3, 6)"),
    "tokens' shape": (wrong(2, torch.zeros(2, 4, dtype=torch.int64)), "draft_tokens is (2, 4)"),
    "tokens' dtype": (wrong(2, torch.zeros(2, 3)), "draft_tokens is (2, 3) float32"),
    "mixed dtypes": (wrong(1, torch.zeros(2, 3, 7).half()), "draft_logits is torch.float16"),
    "double": ([t.double() for t in arguments()[:2]] + arguments()[2:], "dtype torch.float64"),
    "stride": (wrong(0, torch.zeros(2, 7, 4).transpose(1, 2)), "stride 4 over the vocabulary"),
    "id too large": (wrong(2, torch.full((2, 3), 7)), "draft_tokens holds the id [7]"),
    "id negative": (wrong(2, torch.full((2, 3), -1)), "draft_tokens holds the id [-1]"),
    "gamma 129": (arguments(gamma=129), "gamma is 129"),
    "empty vocabulary": (arguments(vocab=0), "target_logits has shape (2, 4, 0)"),
    "empty batch": (arguments(batch=0), "target_logits has shape (0, 4, 7)"),
}
BAD_OPTIONS = {
    "method": ({"method": "fusde"}, "unknown method 'fusde'"),
    "lengths over gamma": ({"lengths": torch.tensor([0, 4])}, "lengths range from 0 to 4"),
    "lengths negative": ({"lengths": torch.tensor([-1, 2])}, "lengths range from -1 to 2"),
    "lengths shape": ({"lengths": torch.tensor([1])}, "lengths has shape (1,)"),
    "lengths dtype": ({"lengths": torch.tensor([1.0, 2.0])}, "lengths has dtype torch.float32"),
    "temperature": ({"temperature": -0.5}, "temperature is -0.5"),
    "temperature nan": ({"temperature": float("nan")}, "temperature is nan"),
    "one bad temperature": ({"temperature": torch.tensor([1.0, -2.0])}, "temperature is -2.0"),
    "temperature too small": ({"temperature": 1e-46}, "temperature is 1e-46"),
    "seeds": ({"seeds": 1.5}, "seeds is 1.5"),
    "positions": ({"positions": torch.zeros(3, dtype=torch.int64)}, "positions has shape (3,)"),
    "seeds of 65 bits": ({"seeds": 2**63}, f"seeds is {2**63}"),
    "sigmoid range of one float32": (
        {"sigmoid_range": (1.0, 1.0 + 1e-12)},
        "sigmoid_range is (1, 1)",
    ),
    "sigmoid range": ({"sigmoid_range": (1.0, 1.0)}, "sigmoid_range is (1, 1)"),
}


@pytest.mark.parametrize(("tensors", "message"), BAD_TENSORS.values(), ids=BAD_TENSORS)
def test_tensors_that_do_not_fit_are_refused_by_name(tensors, message):
    with pytest.raises(InputError) as refusal:
        specbench.verify(*tensors)
    assert message in refusal.value.message
    assert refusal.value.hint


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_options_that_do_not_fit_are_refused_by_name(options, message):
    with pytest.raises(InputError) as refusal:
        specbench.verify(*arguments(), **options)
    assert message in refusal.value.message
    assert refusal.value.hint


def test_the_nearest_method_is_suggested():
    with pytest.raises(InputError) as refusal:
        specbench.verify(*arguments(), method="fusde")
    assert "Did you mean 'fused'?" in refusal.value.hint


def test_padding_ids_are_not_looked_at():
    tensors = arguments()
    tensors[2][:, 1:] = -1
    found = specbench.verify(*tensors, lengths=torch.tensor([1, 0]))
    assert (found.num_accepted <= torch.tensor([1, 0])).all()


def test_verify_is_documented_by_an_example_that_runs():
    import doctest

    from specbench.sampling import verifier

    assert doctest.testmod(verifier).failed == 0


def test_a_verifier_does_what_verify_does(problem):
    data = problem(3, 4, 31)
    verifier = specbench.Verifier("block", batch_size=3, gamma=4, vocab_size=31)
    found = verifier(*data.arguments(), **data.numbers())
    plain = specbench.verify(*data.arguments(), method="block", **data.numbers())
    assert torch.equal(found.tokens, plain.tokens)


def test_a_verifier_refuses_another_shape_or_dtype(problem):
    verifier = specbench.Verifier("fused", batch_size=3, gamma=4, vocab_size=31)
    with pytest.raises(InputError, match="made for"):
        verifier(*problem(3, 4, 32).arguments())
    with pytest.raises(InputError, match="float16"):
        verifier(*problem(3, 4, 31, dtype=torch.float16).arguments())


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0, 4, 31), "batch_size is 0"),
        ((1, 129, 31), "gamma is 129"),
        ((1, 4, 0), "vocab_size is 0"),
    ],
)
def test_a_verifier_refuses_impossible_sizes(sizes, message):
    with pytest.raises(InputError, match=message):
        specbench.Verifier("fused", *sizes)


def test_methods_tell_what_they_claim():
    found = specbench.methods()
    assert list(found)[:5] == ["baseline", "exact", "sigmoid", "fused", "block"]
    assert [name for name, method in found.items() if not method.exact] == ["sigmoid"]
    assert {method.input for method in found.values()} <= {"logits", "probs"}


def test_methods_of_other_packages_join(monkeypatch):
    from specbench.sampling import registry

    other = registry.Method("theirs", True, "logits", 1, "them", "theirs", registry.verify_fused)

    class Entry:
        name = "theirs"

        def load(self):
            return other

    class Broken:
        name = "broken"

        def load(self):
            raise ImportError("no module named nowhere")

    class Impostor(Entry):
        name = "fused"

    entries = [Entry(), Broken(), Impostor()]
    monkeypatch.setattr(registry, "entry_points", lambda group: entries)
    registry.methods.cache_clear(), registry._joined.cache_clear()
    try:
        assert registry.get_method("theirs") is other
        assert registry.get_method("fused").source == "specbench"
        assert list(registry.methods())[:5] == ["baseline", "exact", "sigmoid", "fused", "block"]
        with pytest.raises(MachineError, match="no module named nowhere"):
            registry.get_method("broken")
    finally:
        registry.methods.cache_clear(), registry._joined.cache_clear()
