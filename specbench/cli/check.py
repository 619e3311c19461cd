"""`specbench check`: is the method exact?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from specbench.errors import ExitCode, InputError

if TYPE_CHECKING:
    from specbench.sampling.check import Verdict


def check(
    method: Annotated[
        list[str] | None, typer.Argument(metavar="[METHOD...]", help="All, if none is given.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Sequences in each of the four settings.")] = 100_000,
    seed: Annotated[int, typer.Option(help="Seed of the first sequence.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Is a method exact? Count what it emits and test it against the target's own law.

    Shows the total variation from the target beside what noise alone would give, the p-value of a
    chi-square test over four settings, and accepted drafts per step against theory.

    Example: specbench check fused block

    Exit code 1: a method that claims to be exact is not.
    """
    if samples < 10_000:
        raise InputError(f"samples is {samples}", "Give at least 10000, or the test has no power.")
    if seed < 0:
        raise InputError(f"seed is {seed}", "Give 0 or more.")
    from specbench.runner import resolve_device
    from specbench.sampling.check import check_method
    from specbench.sampling.registry import get_method, methods

    chosen = [get_method(name) for name in method or methods()]
    where = resolve_device(device)
    verdicts = []
    with Console(stderr=True).status("counting") as status:
        for one in chosen:
            status.update(f"counting {one.name}")
            verdicts.append(check_method(one, samples, seed, str(where)))
    Console().print(_table(verdicts, samples, str(where)))
    if not all(verdict.honest for verdict in verdicts):
        raise typer.Exit(ExitCode.REGRESSION)


def _table(verdicts: list[Verdict], samples: int, where: str) -> Table:
    table = Table(
        "method", "claims", "finding", "TV", "noise", "p-value", "accepted", "theory",
        box=SIMPLE_HEAD, caption_justify="left",
        caption=f"{samples:,} sequences in each of 4 settings on {where}.\nTV: total variation from "
        "the target's law, the worst setting; noise: what an exact method would show.\np-value: "
        "chi-square over all settings; under 0.0001 is not exact.\naccepted: drafts per step in the "
        "first setting, beside the float64 reference's mean.",
    )  # fmt: skip
    for column in table.columns:
        column.no_wrap = True
    for column in table.columns[3:]:
        column.justify = "right"
    for verdict in verdicts:
        worst = max(verdict.counts, key=lambda count: count.tv)
        first = verdict.counts[0]
        table.add_row(
            verdict.method.name,
            "exact" if verdict.method.exact else "approximate",
            _finding(verdict),
            f"{worst.tv:.4f}",
            f"{worst.tv_noise:.4f}",
            f"{verdict.p_value:.2g}",
            f"{first.accepted:.4f}",
            f"{first.expected_accepted:.4f}",
        )
    return table


def _finding(verdict: Verdict) -> str:
    if not verdict.keeps_theory:
        return "[red]acceptance off theory[/]"
    if verdict.looks_exact:
        return "[green]exact[/]"
    return "[red]NOT exact[/]" if verdict.method.exact else "[yellow]not exact[/]"
