"""The functions of Python's standard library, split by name into training and held-out parts.

The split hashes the bare function name, so every function of that name, in whatever module or
class, falls into the same part. A training source never contains a definition with a name of
another part, and a training summary never equals a held-out one.
"""

import ast
import hashlib
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from specbench.demo.prompts import MAX_SOURCE_CHARS, MAX_SOURCE_LINES, shorten

PARTS = 18  # one part is held out, one is for validation, the others are for training
HELD_OUT_SUMMARIES = 120
TEST_FOLDERS = {"test", "tests", "idle_test"}
Definition = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Function:
    """One function; `source` has no docstring and opens with a comment naming module and class."""

    name: str
    module: str
    source: str
    summary: str  # the docstring's first line, "" if there is none
    names: tuple[str, ...]  # its own name and those of the functions defined inside it
    is_test: bool
    lines: int


def default_stdlib() -> Path:
    """The standard library of the running Python."""
    return Path(sysconfig.get_paths()["stdlib"])


def part_of(name: str) -> str:
    """ "held_out", "validation" or "training", from the name alone."""
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % PARTS
    return {0: "held_out", 1: "validation"}.get(number, "training")


def _without_docstring(lines: list[str], node: Definition) -> list[str]:
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1
    kept = list(range(first, node.end_lineno or node.lineno))
    if ast.get_docstring(node, clean=False) is not None:
        doc = node.body[0]
        kept = [i for i in kept if not doc.lineno - 1 <= i < (doc.end_lineno or doc.lineno)]
    return [lines[i] for i in kept]


def _dedented(lines: list[str]) -> list[str]:
    """Moves the function to the left margin; lines of a string further left stay where they are."""
    margin = len(lines[0]) - len(lines[0].lstrip())
    return [line[margin:] if not line[:margin].strip() else line for line in lines]


def _summary(node: Definition) -> str:
    document = ast.get_docstring(node) or ""
    return next((line.strip() for line in document.splitlines() if line.strip()), "")


def _inner_names(node: Definition) -> tuple[str, ...]:
    found = [n.name for n in ast.walk(node) if isinstance(n, Definition)]
    return tuple(dict.fromkeys(found))


def _definitions(node: ast.AST, path: str) -> Iterator[tuple[str, Definition]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Definition):
            yield path, child
        inner = f"{path}.{child.name}" if isinstance(child, ast.ClassDef) else path
        yield from _definitions(child, inner)


def functions_of(text: str, module: str, is_test: bool = False) -> list[Function]:
    """Every function of one module, nested ones too."""
    lines = text.split("\n")  # not splitlines: a form feed ends no line for the parser
    found = []
    for path, node in _definitions(ast.parse(text), module):
        body = _without_docstring(lines, node)
        if not body:  # the docstring stands on the line of the def
            continue
        body = _dedented(body)
        source = "\n".join([f"# {path}", *(line.rstrip() for line in body if line.strip())])
        found.append(Function(node.name, module, source, _summary(node), _inner_names(node),
                              is_test, len(body)))  # fmt: skip
    return found


def _modules(root: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if not {"site-packages", "dist-packages", "__pycache__"} & set(parts):
            yield path, ".".join(p for p in parts if p != "__init__")


def library(root: Path | None = None) -> list[Function]:
    """All functions of the library in a fixed order, each source once; unreadable files skipped."""
    found: dict[str, Function] = {}
    for path, module in _modules(root or default_stdlib()):
        is_test = bool(TEST_FOLDERS & set(module.split(".")))
        try:
            functions = functions_of(path.read_text("utf-8"), module, is_test)
        except (SyntaxError, UnicodeDecodeError, ValueError):
            continue  # the library's own tests hold files that are broken on purpose
        for function in functions:
            found.setdefault(function.source.split("\n", 1)[-1], function)
    return list(found.values())


def _body(function: Function) -> str:
    return function.source.split("\n", 1)[-1]


def _fit_to_learn(function: Function) -> bool:
    words = len(function.summary.split())
    return 2 <= words <= 25 and function.summary.isascii() and function.source.isascii()


def _fit_to_publish(function: Function) -> bool:
    """Between 4 and 20 words, 3 to 40 lines, no test, a whole sentence, and nothing cut off."""
    words = len(function.summary.split())
    return (
        _fit_to_learn(function)
        and 4 <= words <= 20
        and 3 <= function.lines <= MAX_SOURCE_LINES
        and len(function.source) <= MAX_SOURCE_CHARS
        and not function.is_test
        and function.summary.endswith(".")
    )


def _rank(function: Function) -> str:
    return hashlib.sha256(f"{function.module}.{function.source}".encode()).hexdigest()


def held_out_summaries(functions: list[Function]) -> list[Function]:
    """The published 120: one function per held-out name, no summary twice."""
    chosen: dict[str, Function] = {}
    summaries: set[str] = set()
    for function in sorted(functions, key=_rank):
        fits = part_of(function.name) == "held_out" and _fit_to_publish(function)
        if fits and function.name not in chosen and function.summary not in summaries:
            chosen[function.name] = function
            summaries.add(function.summary)
    best = sorted(chosen.values(), key=_rank)[:HELD_OUT_SUMMARIES]
    return sorted(best, key=lambda f: (f.module, f.name))


def training_functions(functions: list[Function]) -> list[Function]:
    """Functions that may be trained on, with a summary or without."""
    reserved = {f.summary for f in functions if f.summary and part_of(f.name) != "training"}
    return [
        f
        for f in functions
        if all(part_of(name) == "training" for name in f.names) and f.summary not in reserved
    ]


def validation_functions(functions: list[Function]) -> list[Function]:
    """For early stopping: names that are neither trained on nor published."""
    return [
        f
        for f in functions
        if part_of(f.name) == "validation" and _fit_to_learn(f) and not f.is_test
    ]


def with_summary(functions: list[Function]) -> list[Function]:
    """Functions whose docstring begins with a line worth learning."""
    return [f for f in functions if _fit_to_learn(f)]


def without_summary(functions: list[Function]) -> list[Function]:
    """Undocumented functions, long enough to say something, cut to a prompt's length."""
    return [
        f
        for f in functions
        if not f.summary and f.lines >= 3 and shorten(f.source).isascii() and "\0" not in f.source
    ]
