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
FENCE = "```"
"""What begins and ends a block in markdown, indented or not."""
THINKS, THOUGHT = "<think>", "</think>"
"""Around the thoughts of a model that thinks aloud."""

_BLOCK = re.compile(r"^[ \t]*```[^\n]*\n(.*?)(^[ \t]*```|\Z)", re.MULTILINE | re.DOTALL)


def completion(output: str, problem: Problem) -> Answer:
    """What is judged of an output.

    A model that goes on behind the prompt begins with an indented line: it is cut where the first of
    `STOPS` shows that the function is over. A model that is asked in a chat begins anew and writes the
    whole function: of its blocks of code the first one that defines it is taken, or else all it wrote,
    and put behind the prompt, whose imports and helpers it may use. Thoughts are left out, unless they
    are all there is.

    The answer is final where such a body was cut, and where the block that defines the function was
    closed. Of anything else a block with the function may still follow.

    Args:
        output: with its white space; and with the sign that begins a thought, if the prompt has it.
    """
    text = output.rpartition(THOUGHT)[2]
    if text.lstrip().startswith(THINKS):
        return Answer(_said(text, problem).text, False)
    return _said(text, problem)


def _said(text: str, problem: Problem) -> Answer:
    if text.lstrip("\n")[:1] in ("", " ", "\t"):
        found = _cut(text)
        return Answer(found.text, found.ended, found.ended)
    blocks = _BLOCK.findall(text)
    defines = re.compile(rf"^(async )?def {re.escape(problem.entry_point)}\b", re.MULTILINE)
    for code, fence in blocks:
        if defines.search(code):
            return Answer(_anew(problem.prompt, code), bool(fence), bool(fence))
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
