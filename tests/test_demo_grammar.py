"""The grammar of the demo's programming problems: deterministic, and never leaking held-out ones."""

import json
from pathlib import Path

import pytest

from specbench.demo import grammar

SEEDS = range(3000)
PUBLISHED = Path(grammar.__file__).parent / "code.jsonl"


@pytest.fixture(scope="module")
def training():
    return list(grammar.training_problems(SEEDS.start, SEEDS.stop))


def test_a_seed_gives_the_same_problem_always(training):
    again = list(grammar.training_problems(SEEDS.start, SEEDS.start + 200))
    assert again == training[: len(again)]


def test_most_seeds_give_a_problem_and_few_repeat(training):
    assert len(training) > 0.75 * len(SEEDS)
    assert len({problem.program for problem in training}) > 0.99 * len(training)
    assert len({problem.combination for problem in training}) > 0.8 * len(training)


def test_every_training_problem_compiles_and_runs_on_sampled_arguments(training):
    for problem in training[:500]:
        assert grammar.behaviour(problem) == grammar.behaviour(problem)


def test_the_published_problems_are_those_of_the_grammar():
    rows = [json.loads(line) for line in PUBLISHED.read_text("utf-8").splitlines()]
    for row, problem in zip(rows, grammar.held_out_problems(), strict=True):
        assert row["prompt"] == problem.prompt
        assert row["canonical_solution"] == problem.body
        assert row["test"] == grammar.check_source(problem)


def test_held_out_names_combinations_and_behaviours_never_reach_training(training):
    held = grammar.held_out_problems()
    assert not {p.name for p in held} & {p.name for p in training}
    assert not {p.prompt for p in held} & {p.prompt for p in training}
    trained = {part for p in training for part in (p.combination, *p.parts)}
    assert not {p.combination for p in held} & trained
    assert not grammar.held_out_behaviours() & {grammar.behaviour(p) for p in training}


def test_held_out_problems_differ_in_name_and_behaviour():
    held = grammar.held_out_problems()
    assert len({p.name for p in held}) == len(held) == 164
    assert len({grammar.behaviour(p) for p in held}) == len(held)


def test_a_seed_of_the_held_out_part_gives_no_training_problem():
    skipped = [seed for seed in SEEDS if grammar.generate(seed) is None]
    assert skipped
    for seed in skipped[:50]:
        problem = grammar.draw(seed, reserved=False)
        keys = (problem.combination, *problem.parts)
        assert (
            any(map(grammar.held_out, keys))
            or grammar.behaviour(problem) in grammar.held_out_behaviours()
        )


@pytest.mark.parametrize(
    ("expression", "expected"),
    [("x", "x"), ("x + 1", "(x + 1)"), ("abs(x)", "abs(x)"), ("-x", "(-x)"), ("x[:2]", "x[:2]")],
)
def test_atom_adds_parentheses_only_where_needed(expression, expected):
    assert grammar.atom(expression) == expected
