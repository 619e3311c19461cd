"""Who may import whom, read from the source of every module.

The layers: cli → runner → engine → sampling → cuda, never upward. telemetry and report stand beside
them, under runner. An import inside a function counts like one at the top.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "specbench"

# What each layer may import of specbench; `errors`, `assets` and the package's version are open to all.
OPEN = {"errors", "assets", "__version__"}
ALLOWED = {
    "cuda": set(),
    "sampling": {"cuda"},
    "engine": {"sampling", "cuda"},
    "audio": set(),
    "tasks": {"demo", "audio", "sandbox"},
    "architectures": set(),
    "whisper": set(),
    "pairs": {"tasks", "architectures", "whisper"},
    "texts": {"pairs", "tasks"},
    "memory": {"architectures", "pairs", "scenario", "sampling", "engine.workspace"},
    "demo": {"tasks", "pairs", "engine", "sampling"},
    "floors": set(),
    "scenario": {"sampling.names", "tasks.base", "floors"},
    "report": {"floors"},
    "telemetry": {"engine.observer", "cuda.loader"},
    "micro": {"scenario", "sampling", "cuda.graphs", "telemetry", "report"},
    "sandbox": set(),
    "planning": {
        "scenario", "pairs", "memory", "tasks", "audio", "sampling", "cuda", "telemetry", "sandbox",
        "engine.assisted",
    },
    "rows": {"planning", "scenario", "tasks", "engine", "sampling", "telemetry"},
    "profiling": {"planning", "rows", "scenario", "sampling", "telemetry", "report"},
    "outcome": {"rows", "telemetry"},
    "outputs": {
        "outcome", "rows", "scenario", "pairs", "tasks", "engine", "sampling", "telemetry", "texts",
    },
    "pair_run": {
        "planning", "rows", "outcome", "outputs", "profiling", "scenario", "pairs", "tasks", "engine",
        "sampling", "telemetry", "report", "texts",
    },
    "runner": {
        "planning", "rows", "outcome", "pair_run", "profiling", "scenario", "pairs", "telemetry",
        "report",
    },
    "cli": {
        "planning", "outcome", "runner", "micro", "scenario", "pairs", "tasks", "engine", "sampling",
        "cuda", "telemetry", "report", "demo", "sandbox", "floors",
    },
    "errors": set(),
    "assets": set(),
    "__init__": set(),
    "transformers": {"engine", "sampling"},
    "__main__": {"cli"},
}  # fmt: skip

# Packages of others that only some may import, and who.
RESERVED = {
    "cupy": {"cuda", "sampling.cuda_methods"},
    "cuda": {"cuda"},
    "pynvml": {"telemetry.nvml"},
    "typer": {"cli"},
    "click": set(),
    "torch": {
        "sampling", "engine", "cuda", "telemetry.spans", "telemetry.profile", "telemetry.trace",
        "telemetry.nvml", "telemetry.environment", "micro", "planning", "runner", "pair_run", "outputs",
        "pairs", "architectures", "memory", "cli", "demo", "__init__", "transformers",
    },
    "transformers": {"engine", "pairs", "architectures", "cli.run", "demo", "tasks.asr"},
    "soundfile": {"audio", "demo"},
    "soxr": {"audio", "demo"},
    "jiwer": {"tasks.asr", "demo"},
    "pandas": {"report", "cli"},
    "matplotlib": {"report.figures"},
    "jinja2": {"report.page"},
    "datasets": {"tasks"},
}  # fmt: skip


def imports(source: str) -> set[str]:
    """Dotted names of everything a module imports, at the top or inside; relative ones as written.

    What is imported for the type checker alone does not count: it is never executed.
    """
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for other in node.orelse:
                visit(other)
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found.update(f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found.update(a.value for a in node.args if isinstance(a, ast.Constant))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(source))
    return found


def violations(module: str, source: str) -> list[str]:
    """What a module (`engine.native`, without `specbench.`) imports and must not."""
    layer = module.partition(".")[0]
    broken = []
    for name in sorted(imports(source)):
        if name.startswith("."):
            broken.append(f"{module} imports {name}: write the whole name")
        top, _, rest = name.partition(".")
        if top in RESERVED and not within(module, RESERVED[top]):
            broken.append(f"{module} imports {name}")
        if top == "specbench" and not within(rest, ALLOWED[layer] | OPEN | {layer}):
            broken.append(f"{module} imports {name}")
    return broken


def within(name: str, allowed: set[str]) -> bool:
    """Whether a dotted name is one of `allowed` or lies inside one."""
    return any(name == one or name.startswith(f"{one}.") for one in allowed)


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)] = path
    return found


@pytest.mark.parametrize("module", modules())
def test_imports_only_what_it_may(module):
    assert violations(module, modules()[module].read_text(encoding="utf-8")) == []


def test_every_layer_is_one_the_design_names():
    assert {name.partition(".")[0] for name in modules()} <= set(ALLOWED)


@pytest.mark.parametrize("name", ["utils", "helpers", "common", "misc"])
def test_no_module_is_a_drawer_for_odds_and_ends(name):
    assert [path for path in modules().values() if path.stem == name] == []


def test_kernels_and_scenarios_hold_no_python():
    """An importable `kernels` would hide the Hugging Face package of that name."""
    for folder in ("kernels", "scenarios"):
        assert list((ROOT / folder).rglob("*.py")) == []


def test_tests_are_no_packages():
    assert list((ROOT / "tests").rglob("__init__.py")) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("engine.native", "from specbench.runner import plan"),
        ("engine.native", "from specbench.telemetry.spans import SpanRecorder"),
        ("engine.native", "from specbench import telemetry"),
        ("engine.native", "import specbench.telemetry.nvml as nvml"),
        ("sampling.laws", "from specbench.engine.batch import Batch"),
        ("cuda.loader", "from specbench.sampling.names import MAX_GAMMA"),
        ("runner", "from specbench.cli.run import run"),
        ("scenario", "from specbench.sampling.registry import methods"),
        ("telemetry.spans", "from specbench.engine.native import NativeEngine"),
        ("pairs", "from specbench.scenario import Case"),
        ("architectures", "from specbench.pairs import PairSpec"),
        ("memory", "import transformers"),
        ("report.stats", "import torch"),
        ("report.stats", "def late():\n    import torch.nn"),
        ("report.stats", "from transformers import AutoModel"),
        ("report.stats", "import cupy"),
        ("report.render", "from matplotlib.figure import Figure"),
        ("report.stats", "from specbench.sampling.names import MAX_GAMMA"),
        ("report.stats", "from specbench.telemetry.nvml import NvmlSampler"),
        ("report.stats", "from specbench.runner import Outcome"),
        ("report.stats", "from importlib import import_module\nimport_module('specbench.engine')"),
        ("sampling.laws", "import cupy as cp"),
        ("sampling.laws", "try:\n    from cupy.cuda import Event\nexcept ImportError:\n    pass"),
        ("telemetry.spans", "import pynvml"),
        ("runner", "import typer"),
        ("cli.app", "from click import UsageError"),
        ("scenario", "import torch"),
        ("scenario", "if TYPE_CHECKING:\n    pass\nelse:\n    import torch"),
        ("engine.cache", "from . import model"),
    ],
)
def test_the_checker_sees_a_violation(module, line):
    assert violations(module, line) != []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("engine.native", "from specbench.sampling.verifier import run"),
        ("engine.native", "from specbench.engine.batch import Batch"),
        ("scenario", "from specbench.sampling.names import MAX_GAMMA"),
        ("sampling.cuda_methods", "import cupy"),
        ("telemetry.nvml", "import pynvml"),
        ("cli.run", "import typer"),
        ("report.stats", "from specbench.errors import InputError"),
        ("report.stats", "import torchlike"),
        ("scenario", "if TYPE_CHECKING:\n    import torch"),
    ],
)
def test_the_checker_lets_pass_what_is_allowed(module, line):
    assert violations(module, line) == []


def test_the_public_names_are_listed_before_they_are_loaded():
    code = "import specbench; print(set(specbench.__all__) <= set(dir(specbench)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
