"""What the wheel and the source distribution hold, built from this checkout without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAX_WHEEL_BYTES = 45_000_000


def build(source, target, kind):
    """The one file that hatchling builds."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(target)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    [built] = [path for path in target.iterdir() if path.suffix in {".whl", ".gz"}]
    return built


def contents(folder, prefix):
    """Every file below a folder of the checkout, as named in the wheel."""
    return {
        f"{prefix}/{path.relative_to(folder).as_posix()}": path
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build(ROOT, tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    return build(ROOT, tmp_path_factory.mktemp("sdist"), "sdist")


@pytest.fixture(scope="module")
def files(wheel):
    """Content by name."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory):
    """The wheel as pip would lay it down."""
    folder = tmp_path_factory.mktemp("site") / "site-packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def ask(site, code, cwd):
    """Runs code with the unpacked wheel in front of everything else."""
    environment = os.environ | {"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class TestWheel:
    def test_kernels_are_those_of_the_checkout(self, files):
        expected = contents(ROOT / "kernels", "specbench/kernels")
        assert {name for name in files if name.startswith("specbench/kernels/")} == set(expected)
        assert all(files[name] == path.read_bytes() for name, path in expected.items())
        assert any(name.endswith((".cu", ".cuh")) for name in expected)

    def test_scenarios_are_those_of_the_checkout(self, files):
        expected = contents(ROOT / "scenarios", "specbench/scenarios")
        found = {name for name in files if name.startswith("specbench/scenarios/")}
        assert found == set(expected)
        assert all(files[name] == path.read_bytes() for name, path in expected.items())
        assert "specbench/scenarios/demo.yaml" in expected

    def test_the_package_is_that_of_the_checkout(self, files):
        expected = contents(ROOT / "specbench", "specbench")
        found = {
            name
            for name in files
            if name.startswith("specbench/")
            and not name.startswith(("specbench/kernels/", "specbench/scenarios/"))
        }
        assert found == set(expected)

    @pytest.mark.parametrize("name", ["summarization.jsonl", "code.jsonl"])
    def test_demo_data(self, files, name):
        assert files[f"specbench/demo/{name}"] == (ROOT / "specbench/demo" / name).read_bytes()

    @pytest.mark.parametrize("pair", ["lm", "asr"])
    @pytest.mark.parametrize("role", ["target", "draft"])
    def test_demo_models(self, files, pair, role):
        needed = {"config.json", "model.safetensors", "tokenizer.json"}
        assert {f"specbench/demo/{pair}/{role}/{name}" for name in needed} <= set(files)

    def test_demo_audio(self, files):
        audio = [name for name in files if name.startswith("specbench/demo/asr/audio/")]
        assert len([name for name in audio if name.endswith(".flac")]) == 60
        assert "specbench/demo/asr/audio/metadata.jsonl" in audio

    def test_nothing_else(self, files):
        assert {name.partition("/")[0].partition("-")[0] for name in files} == {"specbench"}
        rubbish = (".pyc", ".parquet", ".tmp", ".so")
        assert [
            name for name in files if name.endswith(rubbish) or "test" in Path(name).parts
        ] == []

    def test_size(self, wheel):
        assert wheel.stat().st_size < MAX_WHEEL_BYTES

    def test_command_licence_and_types(self, files):
        def inside(suffix):
            [name] = [name for name in files if name.endswith(f".dist-info/{suffix}")]
            return files[name].decode()

        assert "specbench = specbench.cli.app:entry" in inside("entry_points.txt")
        assert inside("licenses/LICENSE") == (ROOT / "LICENSE").read_text()
        assert "Typing :: Typed" in inside("METADATA")
        assert "specbench/py.typed" in files, "it says that it is typed"

    def test_finds_its_folders_inside_itself(self, unpacked, tmp_path):
        code = (
            "import json, specbench.assets as a; "
            "print(json.dumps([str(f()) for f in (a.kernels_dir, a.scenarios_dir, a.demo_dir)]))"
        )
        inside = unpacked / "specbench"
        expected = [str(inside / name) for name in ("kernels", "scenarios", "demo")]
        assert ask(unpacked, code, tmp_path) == expected
        # not even from the checkout's own folder, where other ones lie around
        assert ask(unpacked, code, ROOT / "tests") == expected

    def test_loads_its_scenarios(self, unpacked, tmp_path):
        code = (
            "import json; from specbench.scenario import load_scenario, scenario_files; "
            "print(json.dumps({n: load_scenario(n)[0].samples for n in scenario_files()}))"
        )
        assert set(ask(unpacked, code, tmp_path)) == {
            path.stem for path in (ROOT / "scenarios").glob("*.yaml")
        }


class TestSdist:
    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, sdist, tmp_path_factory):
        """The unpacked source distribution."""
        folder = tmp_path_factory.mktemp("source")
        with tarfile.open(sdist) as archive:
            archive.extractall(folder, filter="data")
        [root] = folder.iterdir()
        return root

    def test_holds_what_a_contributor_needs(self, source):
        for name in ("pyproject.toml", "README.md", "LICENSE", "Makefile", "constraints.txt"):
            assert (source / name).read_bytes() == (ROOT / name).read_bytes()
        for folder in ("specbench", "kernels", "scenarios", "tests"):
            assert (source / folder).is_dir()

    def test_holds_no_results_and_no_environment(self, source):
        assert not {".venv", "results", ".git", "dist"} & {path.name for path in source.iterdir()}
        assert list(source.rglob("*.pyc")) == []

    def test_gives_the_same_wheel(self, source, files, tmp_path):
        with zipfile.ZipFile(build(source, tmp_path, "wheel")) as archive:
            assert {name: archive.read(name) for name in archive.namelist()} == files
