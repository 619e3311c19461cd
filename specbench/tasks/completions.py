"""From what a model wrote to what is run behind a problem's prompt."""

from __future__ import annotations

import ast
import re
import warnings

from specbench.sandbox import Problem
from specbench.tasks.base import Answer

STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint", "\n@", "\n```")
"""What ends a function's body: the five of HumanEval's paper (2107.03374), a decorator, and the end of a
block in markdown."""

_BLOCK = re.compile(r"^[ \t]*```[^\n]*\n(.*?)(^[ \t]*```|\Z)", re.MULTILINE | re.DOTALL)


def completion(output: str, problem: Problem) -> Answer:
    """What is judged of an output.

    A model that goes on behind the prompt begins with an indented line: it is cut where the first of
    `STOPS` shows that the function is over. A model that is asked in a chat begins anew and writes the
    whole function: of its blocks of code the first one that defines it is taken, or else all it wrote,
    and put behind the prompt, whose imports and helpers it may use. Thoughts are left out.

    Args:
        output: with its white space.
    """
    text = output.rpartition("</think>")[2]
    if text.lstrip("\n")[:1] in ("", " ", "\t"):
        return _cut(text)
    blocks = _BLOCK.findall(text)
    defines = re.compile(rf"^(async )?def {re.escape(problem.entry_point)}\b", re.MULTILINE)
    for code, fence in blocks:
        if defines.search(code):
            return Answer(_anew(problem.prompt, code), bool(fence))
    if blocks:
        return Answer(_cut(blocks[0][0]).text, bool(blocks[0][1]))
    return Answer(_anew(problem.prompt, text), False) if defines.search(text) else _cut(text)


def _cut(text: str) -> Answer:
    ends = [at for at in (text.find(stop) for stop in STOPS) if at >= 0]
    return Answer(text[: min(ends)] + "\n", True) if ends else Answer(text, False)


def _anew(prompt: str, code: str) -> str:
    """A second definition, behind the prompt's own; that needs a body if it has not even a docstring."""
    body = "" if _is_whole(prompt) else "    pass\n"
    return f"{body}\n\n{code.strip()}\n"


def _is_whole(prompt: str) -> bool:
    try:
        with warnings.catch_warnings(action="ignore"):  # of escapes in a docstring
            ast.parse(prompt)
    except (SyntaxError, ValueError):
        return False
    return True
