"""What the recipe trains on and measures with: problems, functions, and the examples made of them."""

import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

from specbench.demo import corpus, grammar
from specbench.demo.prompts import code_prompt, summarization_prompt
from specbench.demo.recipe import Recipe
from specbench.demo.tokens import Example, Kind, Tokens, encode

Told = tuple[str, str, str]  # a problem's prompt, body, and docstring's first line
CHUNK = 4000


@dataclass
class Data:
    """Everything drawn before training."""

    problems: list[Told]
    validation_problems: list[Told]
    held_out_problems: list[dict[str, str]]
    summaries: list[corpus.Function]
    sources: list[corpus.Function]
    validation_functions: list[corpus.Function]
    held_out_functions: list[dict[str, str]]


def _told(problem: grammar.Problem) -> Told:
    return problem.prompt, problem.body, problem.docstring.split("\n")[0]


def _problems(span: tuple[int, int]) -> list[Told]:
    return [_told(problem) for problem in grammar.training_problems(*span)]


def _validation_problems(count: int) -> list[Told]:
    """Held-out combinations that are not published."""
    published = grammar.held_out_behaviours()
    found: list[Told] = []
    seed = 2 * grammar.SEED_STRIDE
    while len(found) < count:
        seed += 1
        problem = grammar.draw(seed, reserved=True)
        if grammar.held_out(problem.combination) and grammar.behaviour(problem) not in published:
            found.append(_told(problem))
    return found


def code_rows() -> list[dict[str, str]]:
    """The held-out problems in HumanEval's fields."""
    return [
        {
            "task_id": f"demo/{number}",
            "prompt": problem.prompt,
            "entry_point": problem.name,
            "canonical_solution": problem.body,
            "test": grammar.check_source(problem),
        }
        for number, problem in enumerate(grammar.held_out_problems())
    ]


def summarization_rows(functions: list[corpus.Function]) -> list[dict[str, str]]:
    """The held-out functions: source in, the docstring's first line out."""
    return [
        {
            "id": f"demo/{number}",
            "name": function.name,
            "module": function.module,
            "source": function.source,
            "reference": function.summary,
        }
        for number, function in enumerate(corpus.held_out_summaries(functions))
    ]


def gather(recipe: Recipe, stdlib: Path) -> Data:
    """Draws the problems on all cores while one of them reads the library."""
    starts = range(0, recipe.problems, CHUNK)
    spans = [(start, min(start + CHUNK, recipe.problems)) for start in starts]
    with ProcessPoolExecutor() as pool:
        reading = pool.submit(corpus.library, stdlib)
        drawn = list(pool.map(_problems, spans))
        functions = reading.result()
    allowed = corpus.training_functions(functions)
    plain = corpus.without_summary(allowed)
    tests = [f for f in plain if f.is_test][: recipe.test_sources]
    return Data(
        problems=[problem for chunk in drawn for problem in chunk],
        validation_problems=_validation_problems(recipe.validation),
        held_out_problems=code_rows()[: recipe.measured],
        summaries=corpus.with_summary(allowed)[: recipe.functions],
        sources=[f for f in plain if not f.is_test][: recipe.functions] + tests,
        validation_functions=corpus.validation_functions(functions)[: recipe.validation],
        held_out_functions=summarization_rows(functions)[: recipe.measured],
    )


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


# --- examples ------------------------------------------------------------------------------


def code_examples(problems: list[Told]) -> list[Example]:
    """Signature and docstring to body."""
    return [Example(code_prompt(prompt), body) for prompt, body, _ in problems]


def reverse_examples(problems: list[Told]) -> list[Example]:
    """Body to docstring, for problems: the summarization task on code that is easy to read."""
    return [
        Example(summarization_prompt(f"# demo\n{prompt.split(chr(10))[0]}\n{body}"), line)
        for prompt, body, line in problems
    ]


def summary_examples(functions: list[corpus.Function]) -> list[Example]:
    """Source to the docstring's first line."""
    return [Example(summarization_prompt(f.source), f.summary, Kind.SUMMARY) for f in functions]


def source_examples(functions: list[corpus.Function]) -> list[Example]:
    """Undocumented functions: only their source is learnt."""
    return [Example(summarization_prompt(f.source), "", Kind.SOURCE) for f in functions]


def tokenizer_texts(data: Data) -> Iterator[str]:
    """About as much of the one ability as of the other."""
    for function in data.summaries + data.sources:
        yield function.source
        yield from repeat(function.summary, 4)
    for prompt, body, _ in data.problems[:20_000]:
        yield prompt
        yield body


def target_tokens(tokenizer: Any, data: Data, recipe: Recipe) -> tuple[Tokens, list[int]]:
    """The target's examples, and the numbers of those to train on, once per epoch."""
    groups = [
        (code_examples(data.problems), 1),
        (reverse_examples(data.problems[:: recipe.reverse_every]), 1),
        (summary_examples(data.summaries), recipe.summary_epochs),
        (source_examples(data.sources), recipe.source_epochs),
    ]
    examples = [example for group, _ in groups for example in group]
    order: list[int] = []
    first = 0
    for group, epochs in groups:
        order += list(range(first, first + len(group))) * epochs
        first += len(group)
    return encode(tokenizer, examples), order
