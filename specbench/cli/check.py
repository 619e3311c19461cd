"""`specbench check`: is the method exact?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from specbench.errors import ExitCode, InputError
from specbench.report.sheet import Cell, Column, Sheet, print_sheet

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
    On a GPU a method's kernel is what runs.

    Example: specbench check fused block

    Exit code 1: a method that claims to be exact is not.
    """
    if samples < 10_000:
        raise InputError(f"samples is {samples}", "Give at least 10000, or the test has no power.")
    if not 0 <= seed < 2**62:
        raise InputError(f"seed is {seed}", "Give 0 or more, and less than 2**62.")
    from specbench.planning import check_kernels, resolve_device
    from specbench.sampling.check import check_method
    from specbench.sampling.registry import get_method, methods

    chosen = [get_method(name) for name in method or methods()]
    where = resolve_device(device)
    check_kernels(where)
    verdicts = []
    with Console(stderr=True).status("counting") as status:
        for one in chosen:
            status.update(f"counting {one.name}")
            verdicts.append(check_method(one, samples, seed, str(where)))
    print_sheet(_sheet(verdicts, samples, str(where)), Console(highlight=False))
    if not all(verdict.honest for verdict in verdicts):
        raise typer.Exit(ExitCode.REGRESSION)


def _sheet(verdicts: list[Verdict], samples: int, where: str) -> Sheet:
    columns = [
        Column("method", right=False), Column("claims", right=False), Column("finding", right=False),
        Column("TV", "worst setting"), Column("TV", "noise alone"), Column("p-value", "chi-square"),
        Column("accepted", "per step"), Column("accepted", "in theory"),
        Column("ran as", right=False),
    ]  # fmt: skip
    captions = [
        f"{samples:,} sequences in each of 4 settings on {where}",
        "TV: total variation from the target's law, beside what an exact method would show",
        "p-value: of all settings together; under 0.0001 the method is not exact",
        "accepted: in the first setting, beside the mean that the float64 reference computes",
    ]
    return Sheet("is it exact?", columns, [[_row(verdict) for verdict in verdicts]], captions)


def _row(verdict: Verdict) -> list[Cell]:
    worst = max(verdict.counts, key=lambda count: count.tv)
    first = verdict.counts[0]
    texts = (
        verdict.method.name,
        "exact" if verdict.method.exact else "approximate",
        _finding(verdict),
        f"{worst.tv:.4f}",
        f"{worst.tv_noise:.4f}",
        f"{verdict.p_value:.2g}",
        f"{first.accepted:.4f}",
        "–" if first.expected_accepted is None else f"{first.expected_accepted:.4f}",
        {"torch": "torch ops", "cuda": "CUDA kernel"}[verdict.implementation],
    )
    return [Cell(text) for text in texts]


def _finding(verdict: Verdict) -> str:
    if not verdict.keeps_theory:
        return "ACCEPTANCE OFF THEORY"
    if verdict.looks_exact:
        return "exact"
    return "NOT EXACT" if verdict.method.exact else "not exact"
