"""`specbench check`: what it prints, what it refuses, and its exit code."""

from __future__ import annotations

import dataclasses

import pytest

from specbench.cli.app import main
from specbench.sampling import registry
from specbench.sampling.registry import get_method

FEW = ["--samples", "30000", "--device", "cpu"]


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")


def table(out):
    rows = (line.split() for line in out.splitlines())
    return {row[0]: row[1:] for row in rows if row and row[0] in registry.methods()}


def test_exact_and_not_exact(capsys):
    assert main(["check", "fused", "sigmoid", *FEW]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    found = table(out)
    assert list(found) == ["fused", "sigmoid"]
    assert found["fused"][:2] == ["exact", "exact"]
    assert found["sigmoid"][:3] == ["approximate", "not", "exact"]
    assert "30,000 sequences" in out
    assert found["fused"][-2:] == ["torch", "ops"]
    tv, noise, p_value = (float(x) for x in found["fused"][2:5])
    assert tv < 2 * noise
    assert p_value > 1e-4
    assert float(found["sigmoid"][5]) < 1e-4, "the p-value of a law that is not the target's"


@pytest.mark.gpu
def test_on_a_gpu_the_kernels_are_checked(capsys):
    methods = ["baseline", "exact", "sigmoid", "fused", "block"]
    assert main(["check", *methods, "--samples", "100000", "--device", "cuda"]) == 0
    found = table(capsys.readouterr().out)
    assert found["baseline"][-2:] == ["torch", "ops"]
    assert all(found[name][-2:] == ["CUDA", "kernel"] for name in methods[1:])


def test_the_same_seed_says_the_same(capsys):
    outputs = []
    for seed in ("0", "0", "70000"):
        main(["check", "baseline", *FEW, "--seed", seed])
        outputs.append(table(capsys.readouterr().out))
    assert outputs[0] == outputs[1] != outputs[2]


def test_a_method_that_lies_is_exit_code_1(capsys, monkeypatch):
    boast = dataclasses.replace(get_method("sigmoid"), exact=True)
    monkeypatch.setattr(registry, "methods", lambda: {"sigmoid": boast})
    assert main(["check", "sigmoid", *FEW]) == 1
    assert "NOT EXACT" in capsys.readouterr().out


def test_rare_rejections_raise_no_alarm(capsys):
    """In theory one sequence in 50,000 falls short; among 10,000 none is what one expects."""
    assert main(["check", "sigmoid", "--samples", "10000", "--device", "cpu"]) == 0


def test_without_a_name_all_are_checked(capsys, monkeypatch):
    known = {"baseline": get_method("baseline"), "sigmoid": get_method("sigmoid")}
    monkeypatch.setattr(registry, "methods", lambda: known)
    assert main(["check", *FEW]) == 0
    assert list(table(capsys.readouterr().out)) == ["baseline", "sigmoid"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fussed"], ["unknown method 'fussed'", "Did you mean 'fused'?"]),
        (["fused", "--samples", "9999"], ["samples is 9999", "10000"]),
        (["fused", "--seed", "-1"], ["seed is -1"]),
        (["fused", "--seed", str(2**63)], [f"seed is {2**63}"]),
        (["fused", "--seed", str(2**63 - 1)], ["seed"]),
        (["fused", "--device", "tpu"], ["device 'tpu'", "cuda:N"]),
        (["fused", "--device", "cuda:99"], ["'cuda:99'", "doctor"]),
    ],
)
def test_bad_input(capsys, monkeypatch, arguments, words):
    from specbench.sampling import check

    monkeypatch.setattr(check, "check_method", lambda *args: pytest.fail("began to count"))
    assert main(["check", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    first, second = err.splitlines()
    assert first.startswith("error: ")
    assert second.startswith("hint: ")
    assert "unexpected" not in first
    assert all(word in err for word in words)
