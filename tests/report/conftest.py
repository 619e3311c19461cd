"""Result rows whose every rate can be worked out by hand."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from specbench.report import atomic
from specbench.report.writer import RunWriter

Row = dict[str, Any]

METADATA: Row = {
    "created_utc": "2026-11-22T10:00:00+00:00",
    "argv": ["specbench", "run"],
    "scenario": "name: demo",
    "driver": None,
    "methods": {
        "baseline": {"exact": True},
        "fused": {"exact": True},
        "sigmoid": {"exact": False},
    },
}


def make_row(**changed: Any) -> Row:
    """Four steps of γ = 2: 8 drafted, 6 accepted, 10 new tokens in 0.5 s."""
    row: Row = {
        "case_id": "fused-2",
        "pair": "demo-lm",
        "task": "summarization",
        "dataset": "stdlib-functions",
        "completions_per_sample": 1,
        "chat_template": False,
        "sample_id": "s0",
        "method": "fused",
        "implementation": "torch",
        "engine": "native",
        "gamma": "2",
        "batch_size": 1,
        "batch_index": 0,
        "temperature": 1.0,
        "max_new_tokens": 64,
        "dtype": "float32",
        "device_name": "cpu",
        "seed": 7,
        "repeat": 0,
        "status": "ok",
        "new_tokens": 10,
        "verify_steps": 4,
        "drafted": 8,
        "accepted": 6,
        "step_drafted": [2, 2, 2, 2],
        "step_accepted": [2, 2, 2, 0],
        "step_draft_us": [10.0] * 4,
        "step_target_us": [40.0] * 4,
        "step_verify_us": [100.0] * 4,
        "wall_s": 0.5,
        "verify_s": 4e-4,
        "metric": "rouge1",
        "metric_value": 0.5,
        "metric_weight": 1.0,
    }
    return row | changed


def plain_row(**changed: Any) -> Row:
    """Plain decoding: 10 tokens in 1 s, one per step."""
    plain = {"gamma": "0", "case_id": "baseline-0", "method": "baseline", "verify_steps": 10}
    none = {"drafted": 0, "accepted": 0, "wall_s": 1.0, "verify_s": 5e-4}
    steps = {"step_drafted": [0] * 10, "step_accepted": [0] * 10, "step_verify_us": [50.0] * 10}
    return make_row(**(plain | none | steps | changed))


def demo_rows(**changed: Any) -> list[Row]:
    """Three repeats of plain decoding and, at γ = 2, of baseline, sigmoid and fused."""
    methods: list[Row] = [
        {"method": "baseline", "case_id": "baseline-2", "step_verify_us": [200.0] * 4}
        | {"wall_s": 0.8},
        {"method": "sigmoid", "case_id": "sigmoid-2", "sigmoid_alpha": -1e4, "sigmoid_beta": 1e4}
        | {"wall_s": 0.4, "metric_value": 0.2},
        {},
    ]
    return [
        row
        for repeat in range(3)
        for row in [
            plain_row(repeat=repeat, **changed),
            *(make_row(**(method | {"repeat": repeat} | changed)) for method in methods),
        ]
    ]


def sweep_rows(
    methods: dict[str, dict[str, float]], samples: int = 8, repeats: int = 3, **changed: Any
) -> list[Row]:
    """Plain decoding, 10 tokens in 1 s, and each method at each γ so many times as fast.

    Args:
        methods: method → γ → speed-up, the same in every repeat but for the machine's drift, which hits
            all alike: repeat r is r % slower than the first.
    """
    rows = []
    for repeat in range(repeats):
        drift = 1 + 0.01 * repeat
        for sample in range(samples):
            about = {"sample_id": f"s{sample}", "batch_index": sample, "repeat": repeat}
            rows.append(plain_row(wall_s=drift, **about, **changed))
            for method, gammas in methods.items():
                for gamma, speedup in gammas.items():
                    rows.append(_drafted(method, gamma, drift / speedup, about | changed))
    return rows


def _drafted(method: str, gamma: str, wall_s: float, changed: Row) -> Row:
    """Two steps that keep all drafts, two that keep none."""
    offered = int(gamma)
    sigmoid = {"sigmoid_alpha": -1e4, "sigmoid_beta": 1e4} if method == "sigmoid" else {}
    steps: Row = {
        "step_gamma": [offered] * 4, "step_drafted": [offered] * 4,
        "step_accepted": [offered, 0, offered, 0], "step_draft_us": [10.0 * offered] * 4,
        "step_target_us": [55.0] * 4, "drafted": 4 * offered, "accepted": 2 * offered,
    }  # fmt: skip
    what = {"method": method, "gamma": gamma, "case_id": f"{method}-{gamma}", "wall_s": wall_s}
    return make_row(**(what | steps | sigmoid | changed))


@pytest.fixture
def sweep() -> Callable[..., list[Row]]:
    return sweep_rows


@pytest.fixture
def row() -> Callable[..., Row]:
    return make_row


@pytest.fixture
def plain() -> Callable[..., Row]:
    return plain_row


@pytest.fixture
def demo() -> Callable[..., list[Row]]:
    return demo_rows


@pytest.fixture
def write_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes rows as a finished run and gives the file; without waiting for the disk."""
    monkeypatch.setattr(atomic, "_sync", lambda path: None)

    def write(rows: list[Row], run_id: str | None = None, **metadata: Any) -> Path:
        writer = RunWriter(tmp_path / "results", "demo", METADATA | metadata, run_id)
        writer.write(rows)
        path = writer.finish()
        assert path is not None
        return path

    return write


@pytest.fixture(scope="session")
def simulation() -> ModuleType:
    """docs/simulate_gate.py: result rows of a drifting machine, and comparisons of them."""
    path = Path(__file__).parents[2] / "docs" / "simulate_gate.py"
    spec = importlib.util.spec_from_file_location("simulate_gate", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
