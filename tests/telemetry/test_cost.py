"""docs/telemetry_cost.py: what it prints where there is no GPU, and its interval."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "telemetry_cost.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("telemetry_cost", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_shows_the_noise(script, tiny_pair, capsys, monkeypatch):
    monkeypatch.setattr(script, "NEW_TOKENS", 6)
    script.main(tiny_pair.name, 2, "fused", "4")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].endswith("both rounds are the same")
    assert [line.partition(" with")[0] for line in lines[2:]] == ["tokens/s", "verify step"]
    assert all("2 pairs of rounds" in line for line in lines[2:])


def test_the_interval_holds_the_median_as_often_as_it_says(script):
    """Of 2,000 samples of a skewed law whose median is 1, at least 98.5 % of the intervals hold it."""
    chance = random.Random(5)
    held = 0
    for _ in range(2000):
        low, high = script.median_interval([2 ** chance.gauss(0, 2) for _ in range(40)])
        held += low <= 1 <= high
    assert 0.985 <= held / 2000 < 1
