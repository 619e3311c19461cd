"""Where kernels/, scenarios/ and demo/ are looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from specbench import assets
from specbench.errors import MachineError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def site_packages(tmp_path, monkeypatch):
    """An installation without the folders, beside unrelated ones of the same names."""
    package = tmp_path / "specbench"
    package.mkdir()
    for name in ("kernels", "scenarios"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(assets, "PACKAGE", package)
    return tmp_path


def test_in_a_checkout_they_lie_beside_the_package():
    assert assets.checkout_dir() == ROOT
    assert assets.kernels_dir() == ROOT / "kernels"
    assert assets.scenarios_dir() == ROOT / "scenarios"
    assert assets.demo_dir() == ROOT / "specbench" / "demo"


def test_in_a_wheel_they_lie_inside(site_packages):
    for name in ("kernels", "scenarios", "demo"):
        (site_packages / "specbench" / name).mkdir()
    assert assets.checkout_dir() is None
    assert assets.kernels_dir() == site_packages / "specbench" / "kernels"
    assert assets.scenarios_dir() == site_packages / "specbench" / "scenarios"
    assert assets.demo_dir() == site_packages / "specbench" / "demo"


@pytest.mark.parametrize(
    "neighbour",
    [
        None,
        b"",
        b"[project]\nname = 'another'\n",
        b"[project]\nname = 'specbench-extras'\n",
        b"[tool.specbench]\nname = 'specbench'\n",
        b"project = 'specbench'\n",
        b"not toml",
        b"\xff\xfe",
    ],
)
def test_unrelated_folders_beside_the_package_are_never_taken(site_packages, neighbour):
    if neighbour is not None:
        (site_packages / "pyproject.toml").write_bytes(neighbour)
    for look in (assets.kernels_dir, assets.scenarios_dir):
        with pytest.raises(MachineError, match="missing from this installation") as caught:
            look()
        assert "Reinstall" in caught.value.hint
    assert assets.checkout_dir() is None


def test_its_own_checkout_is_trusted(site_packages):
    (site_packages / "pyproject.toml").write_text("[project]\nname = 'specbench'\n")
    assert assets.kernels_dir() == site_packages / "kernels"
