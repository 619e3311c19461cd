"""Finds the folders that travel with the package: kernels/, scenarios/ and demo/.

In a wheel they lie inside the package; in a checkout kernels/ and scenarios/ lie beside it. The
parent folder is trusted only if it is this project's own checkout, so that an unrelated `kernels/`
in site-packages is never picked up.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from specbench.errors import MachineError

PACKAGE = Path(__file__).resolve().parent


def kernels_dir() -> Path:
    """The folder of CUDA C sources."""
    return _find("kernels")


def scenarios_dir() -> Path:
    """The folder of built-in scenario files."""
    return _find("scenarios")


def demo_dir() -> Path:
    """The folder of the embedded pairs and task data."""
    return _find("demo")


def checkout_dir() -> Path | None:
    """The root of this project's checkout; None when the package was installed from a wheel."""
    root = PACKAGE.parent
    return root if _is_checkout(root) else None


def _find(name: str) -> Path:
    inside = PACKAGE / name
    if inside.is_dir():
        return inside
    root = checkout_dir()
    if root is not None and (root / name).is_dir():
        return root / name
    raise MachineError(
        f"the folder {name}/ is missing from this installation ({PACKAGE})",
        "Reinstall specbench from a wheel, or run it from a complete checkout.",
    )


def _is_checkout(root: Path) -> bool:
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # no file, no UTF-8, no TOML
        return False
    table = project.get("project")
    return isinstance(table, dict) and table.get("name") == "specbench"
