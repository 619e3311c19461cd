"""`specbench list`."""

from __future__ import annotations

import pytest

from specbench.cli.app import main
from specbench.pairs import pair_specs
from specbench.sampling.registry import methods
from specbench.scenario import scenario_files
from specbench.tasks.base import get_task, task_names

KNOWN = {
    "pairs": lambda: list(pair_specs()),
    "tasks": lambda: [*task_names(), *(get_task(name).dataset for name in task_names())],
    "methods": lambda: list(methods()),
    "scenarios": lambda: list(scenario_files()),
}


@pytest.mark.parametrize("what", KNOWN)
@pytest.mark.parametrize("columns", ["80", "200"])
def test_names_everything_in_full_on_stdout(capsys, monkeypatch, what, columns):
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["list", what]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "…" not in out
    words = set(out.replace("│", " ").split())
    assert set(KNOWN[what]()) <= words


def test_methods_say_which_are_exact(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    main(["list", "methods"])
    rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if "│" in line]
    stated = {row[1].strip(): row[2].strip() for row in rows}
    assert stated == {m.name: "yes" if m.exact else "no" for m in methods().values()}
    assert stated["sigmoid"] == "no"


def test_methods_say_how_many_launches_they_are(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    main(["list", "methods"])
    rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if "│" in line]
    stated = {row[1].strip(): row[4].strip() for row in rows}
    assert (stated["baseline"], stated["exact"], stated["fused"]) == ("–", "1", "1")


def test_scenarios_count_their_cases(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    main(["list", "scenarios"])
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("│ demo "))
    assert " 50 " in line, "two tasks by five methods by five gammas"


def test_pairs_say_how_to_give_another(capsys):
    main(["list", "pairs"])
    assert "TARGET+DRAFT" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["pairs", "scenarios"])
def test_is_quick_to_ask(what):
    """Names of pairs and scenarios need no torch."""
    import subprocess
    import sys

    code = (
        "import sys; from specbench.cli.app import main\n"
        f"main(['list', {what!r}]); print('TORCH', 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "TORCH False", done.stderr
