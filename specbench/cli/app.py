"""The `specbench` command: registers the commands and turns errors into sentences and exit codes.

Nothing heavy is imported here or at the top of a command's module, so that `--help` answers at once.
"""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from specbench import __version__
from specbench.cli.calibrate import calibrate
from specbench.cli.check import check
from specbench.cli.compare import compare
from specbench.cli.doctor import doctor
from specbench.cli.interrupts import sigterm_as_ctrl_c
from specbench.cli.list import list_
from specbench.cli.micro import micro
from specbench.cli.recommend import recommend
from specbench.cli.report import report
from specbench.cli.run import run
from specbench.errors import ExitCode, SpecbenchError

EPILOG = (
    "Exit codes: 0 fine · 1 a regression, or a method that claims to be exact and is not · 2 wrong use, "
    "or this machine cannot do it · 3 nothing comparable · 4 inconclusive, under --strict · 5 some cases "
    "failed · 130 interrupted, by Ctrl-C or SIGTERM."
)

BROKEN_PIPE = 141
"""128 + SIGPIPE, as the shell has it."""

app = typer.Typer(
    name="specbench",
    help="Benchmarks and profiles speculative sampling: what does this method, this draft model, "
    "this gamma really buy?\n\nExample: specbench run",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_debug = False


def _version(asked: bool) -> None:
    if asked:
        print(f"specbench {__version__}")  # noqa: T201
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show a traceback with each error.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    global _debug
    _debug = debug


def _bounded(command: Callable[..., None]) -> Callable[..., None]:
    """The one error boundary: every command runs inside it."""

    @functools.wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except KeyboardInterrupt as stop:
            sys.stderr.write("interrupted" + (f": {stop}" if str(stop) else "") + "\n")
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        except (BrokenPipeError, SystemExit):
            # `specbench ... | head`: rich leaves with 1, which would read as a regression.
            raise typer.Exit(BROKEN_PIPE) from None
        except Exception as error:
            if _debug:
                traceback.print_exception(error)
            raise typer.Exit(_explain(error)) from None

    return guarded


def _explain(error: Exception) -> ExitCode:
    """Prints `error:` and `hint:` on stderr; returns the exit code."""
    if isinstance(error, SpecbenchError):
        message, hint, code = error.message, error.hint, error.exit_code
    else:
        # Not 1: a CI job would take a bug of ours for a regression.
        text = " ".join(str(error).split())
        message, code = f"unexpected {type(error).__name__}: {text}", ExitCode.USAGE
        hint = "This is a bug in specbench. `specbench --debug ...` shows where; please report it."
    sys.stderr.write(f"error: {message}\n" + (f"hint: {hint}\n" if hint else ""))
    return code


app.command("run")(_bounded(run))
app.command("compare")(_bounded(compare))
app.command("report")(_bounded(report))
app.command("recommend")(_bounded(recommend))
app.command("calibrate")(_bounded(calibrate))
app.command("micro")(_bounded(micro))
app.command("check")(_bounded(check))
app.command("list")(_bounded(list_))
app.command("doctor")(_bounded(doctor))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    try:
        with sigterm_as_ctrl_c():
            app(args=None if argv is None else list(argv), prog_name="specbench")
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def entry() -> None:
    """The console script."""
    sys.exit(main())
