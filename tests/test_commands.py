"""Every `specbench` command in the documentation and in the workflows is one that the command takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from specbench.cli.app import app
from specbench.scenario import scenario_files

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = {"run", "compare", "calibrate", "micro", "check", "list", "doctor"}
PLACES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "scenarios/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / ".github" / "workflows").glob("*.yml")),
]
_CALL = re.compile(r"(?:^|[\s/])specbench ((?:" + "|".join(COMMANDS) + r")\b.*)")


def commands(text, is_markdown):
    """The arguments of each call in a script, or in the indented and fenced blocks of a text."""
    lines = text.replace("\\\n", " ").splitlines()
    found = []
    fenced = False
    for line in lines:
        fenced ^= line.startswith("```")
        if not is_markdown or fenced or line.startswith("    "):
            found += _CALL.findall(line.partition(" # ")[0])
    return [arguments(call) for call in found]


def arguments(call):
    """Words as the shell would give them; what it would put in stands for itself."""
    call = re.sub(r"\$\{\w+:\+([^}]*)\}", r"\1", call)
    call = re.sub(r"\$\{\w+\[(0|-1)\]\}", "file.parquet", call)
    call = call.replace('"$scenario"', "nightly").replace('"$REPEATS"', "5")
    lexer = shlex.shlex(call, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = []
    for word in lexer:
        if set(word) <= set("();<>|&"):
            break
        words.append(word)
    return words


CALLS = [
    pytest.param(words, id=f"{path.name}: {' '.join(words)}")
    for path in PLACES
    for words in commands(path.read_text(encoding="utf-8"), path.suffix == ".md")
]


@pytest.mark.parametrize("words", CALLS)
def test_is_understood(words):
    group = typer.main.get_command(app)
    context = group.make_context("specbench", list(words))
    name, command, rest = group.resolve_command(context, list(words))
    parsed = command.make_context(name, rest, parent=context).params
    scenario = parsed.get("scenario")
    if scenario is not None:
        assert Path(scenario).suffix == ".yaml" or scenario in scenario_files()


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", ROOT / "docs/nightly.md", ROOT / ".github/workflows/nightly.yml"]
)
def test_there_are_commands_to_look_at(path):
    found = commands(path.read_text(encoding="utf-8"), path.suffix == ".md")
    assert len(found) >= 5
    assert {"run", "compare"} <= {words[0] for words in found}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("run demo > out.txt", ["run", "demo"]),
        ("compare 'a b' || true", ["compare", "a b"]),
        ('run "$scenario" --repeats "$REPEATS"', ["run", "nightly", "--repeats", "5"]),
        (
            "compare ${new[0]} --baseline ${old[-1]} ${S:+--strict} >> x",
            ["compare", "file.parquet", "--baseline", "file.parquet", "--strict"],
        ),
    ],
)
def test_the_shells_part_is_left_out(call, words):
    assert arguments(call) == words


def test_an_option_that_is_not_there_is_seen():
    with pytest.raises(Exception, match="No such option"):
        test_is_understood(["run", "demo", "--nope"])
