"""The command itself: help, version, start-up, and the one error boundary."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from specbench import __version__
from specbench.cli import app
from specbench.errors import ExitCode, InputError, MachineError, NotComparableError

COMMANDS = ["run", "compare", "calibrate", "micro", "check", "list", "doctor"]


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture
def failing(monkeypatch):
    """Makes `specbench doctor` raise what the test wants."""
    from specbench.cli import doctor

    def arm(error):
        def findings():
            raise error

        monkeypatch.setattr(doctor, "findings", findings)

    return arm


class TestHelp:
    @pytest.mark.parametrize("flag", ["--help", "-h"])
    def test_lists_every_command_and_the_exit_codes(self, capsys, flag):
        assert app.main([flag]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        assert all(re.search(rf"^. {command}\s", out, re.MULTILINE) for command in COMMANDS)
        text = " ".join(out.split())
        assert all(f" {int(code)} " in text for code in ExitCode)

    @pytest.mark.parametrize("command", COMMANDS)
    def test_of_each_command_shows_an_example(self, capsys, command):
        assert app.main([command, "--help"]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        assert f"Example: specbench {command}" in out

    def test_version(self, capsys):
        assert app.main(["--version"]) == 0
        assert capsys.readouterr().out == f"specbench {__version__}\n"

    @pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]])
    def test_start_up_imports_nothing_heavy(self, arguments):
        code = (
            "import sys; from specbench.cli.app import main\n"
            f"rc = main({arguments!r})\n"
            "heavy = {'torch', 'pandas', 'pyarrow', 'numpy', 'transformers', 'scipy', 'yaml'}\n"
            "print('HEAVY', rc, sorted(heavy & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == "HEAVY 0 []", done.stderr

    def test_importing_the_package_is_light_too(self):
        code = (
            "import sys, specbench; print(specbench.__version__, "
            "{'torch', 'pandas', 'transformers', 'typer'} & set(sys.modules))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout == f"{__version__} set()\n", done.stderr


class TestWrongUse:
    @pytest.mark.parametrize(
        "arguments",
        [
            ["rnu"], ["run", "--nope"], ["run", "demo", "smoke"], ["run", "--samples", "x"],
            ["list"], ["list", "models"], ["compare"], ["doctor", "extra"], ["--nope"],
            ["check", "--samples", "1.5"], [],
        ],
    )  # fmt: skip
    def test_is_exit_code_2_on_stderr(self, capsys, arguments):
        assert app.main(arguments) == 2
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        if arguments:  # without arguments the help is what was asked for
            assert out == ""
            assert err

    def test_a_misspelt_command_is_suggested(self, capsys):
        app.main(["rnu"])
        assert "'run'" in capsys.readouterr().err


class TestErrorBoundary:
    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (InputError("gamma is 'x'", "Give 5."), 2),
            (MachineError("there is no GPU", "Buy one."), 2),
            (NotComparableError("no case in common", "Compare others."), 3),
        ],
    )
    def test_a_specbench_error_is_two_lines(self, capsys, failing, error, code):
        failing(error)
        assert app.main(["doctor"]) == code
        out, err = capsys.readouterr()
        assert out == ""
        assert err == f"error: {error.message}\nhint: {error.hint}\n"

    def test_without_a_hint_it_is_one(self, capsys, failing):
        failing(InputError("that says it all"))
        app.main(["doctor"])
        assert capsys.readouterr().err == "error: that says it all\n"

    @pytest.mark.parametrize(
        "error", [ValueError("odd\n\nvery odd"), KeyError("k"), OSError(28, "x")]
    )
    def test_anything_else_is_called_a_bug(self, capsys, failing, error):
        """Exit code 1 would look like a regression to a CI job."""
        failing(error)
        assert app.main(["doctor"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        first, second = err.splitlines()
        assert first.startswith(f"error: unexpected {type(error).__name__}: ")
        assert "bug in specbench" in second
        assert "--debug" in second

    @pytest.mark.parametrize(
        ("error", "code"),
        [(ValueError("odd"), 2), (InputError("bad", "mend it"), 2), (NotComparableError("no"), 3)],
    )
    def test_debug_adds_a_traceback_and_keeps_the_code(self, capsys, failing, error, code):
        failing(error)
        assert app.main(["--debug", "doctor"]) == code
        out, err = capsys.readouterr()
        assert out == ""
        assert "Traceback (most recent call last)" in err
        assert "in findings" in err
        assert "\nerror: " in err

    def test_debug_is_forgotten_afterwards(self, capsys, failing):
        failing(ValueError("odd"))
        app.main(["--debug", "doctor"])
        capsys.readouterr()
        app.main(["doctor"])
        assert "Traceback" not in capsys.readouterr().err

    def test_ctrl_c_is_130_and_said_without_a_traceback(self, capsys, failing):
        failing(KeyboardInterrupt())
        assert app.main(["doctor"]) == 130
        assert capsys.readouterr().err == "interrupted\n"

    def test_sigterm_is_ctrl_c_once(self, capsys, monkeypatch):
        def stopped():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(5)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                sys.stderr.write("kept\n")

        monkeypatch.setattr("specbench.cli.doctor.findings", stopped)
        before = signal.getsignal(signal.SIGTERM)
        assert app.main(["doctor"]) == 130
        assert capsys.readouterr().err == "kept\ninterrupted\n"
        assert signal.getsignal(signal.SIGTERM) is before

    @pytest.mark.parametrize("command", ["run", "micro"])
    def test_interrupted_before_anything_was_measured(self, capsys, monkeypatch, command):
        def interrupted(*arguments, **options):
            raise KeyboardInterrupt

        monkeypatch.setattr("specbench.planning.plan", interrupted)
        monkeypatch.setattr("specbench.planning.resolve_device", interrupted)
        assert app.main([command]) == 130
        assert capsys.readouterr().err == "interrupted: nothing was measured\n"
