"""`specbench list`: the pairs, tasks, methods and scenarios there are."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table


class What(StrEnum):
    """What can be listed."""

    pairs = "pairs"
    tasks = "tasks"
    methods = "methods"
    scenarios = "scenarios"


def list_(
    what: Annotated[What, typer.Argument(help="pairs, tasks, methods or scenarios.")],
) -> None:
    """List the pairs, tasks, methods or scenarios there are.

    Example: specbench list methods
    """
    Console(markup=False).print({
        What.pairs: _pairs, What.tasks: _tasks, What.methods: _methods, What.scenarios: _scenarios,
    }[what]())  # fmt: skip


def _pairs() -> Table:
    from specbench.pairs import pair_specs

    table = Table(
        Column("pair", no_wrap=True), Column("what it is", overflow="fold"),
        caption="Any other: --pair TARGET+DRAFT, folders or hub names. Those with a slash run without "
        "a network too, as random weights of their shapes: --load-format dummy.",
    )  # fmt: skip
    for spec in pair_specs().values():
        table.add_row(spec.name, spec.summary)
    return table


def _tasks() -> Table:
    from specbench.tasks.base import get_task, hub_datasets, task_names

    sets: dict[str, list[str]] = {}
    for name, task in hub_datasets().items():
        sets.setdefault(task, []).append(name)
    others = "; ".join(f"for {task} {', '.join(names)}" for task, names in sets.items())
    table = Table(
        "task", "data set", "what it is",
        caption=f"These are --dataset demo. Of the hub: {others}. Or a file of texts, a folder of audio.",
    )  # fmt: skip
    for name in task_names():
        found = get_task(name)
        table.add_row(name, found.dataset, found.summary)
    return table


def _methods() -> Table:
    from specbench.sampling.registry import methods, missing_methods

    missing = [f"{name} (pip install {package})" for name, package in missing_methods().items()]
    table = Table(
        "method", "exact", "reads", "launches", "source", "what it is",
        caption="launches: of a method's own kernels, softmax not counted; – is torch operations."
        + (f" Not installed: {', '.join(missing)}." if missing else ""),
    )  # fmt: skip
    for method in methods().values():
        exact = "yes" if method.exact else "no"
        launches = "–" if method.launches is None else str(method.launches)
        what = method.summary + (f"; leaves out: {method.leaves_out}" if method.leaves_out else "")
        table.add_row(method.name, exact, method.input, launches, method.source, what)
    return table


def _scenarios() -> Table:
    from specbench.scenario import load_scenario, scenario_files

    table = Table("scenario", "cases", "the question")
    for name in scenario_files():
        scenario, _ = load_scenario(name)
        table.add_row(name, str(len(scenario.cases())), scenario.description)
    return table
