"""Generates small programming problems in HumanEval's form, each fully told by its docstring.

A problem is drawn from a seed: a chain of operations (see `vocabulary`), a way to word it and a
way to write it. Problems are split by *combination of operations* (constants left out): the
combinations whose hash falls in the held-out part never reach training, neither do their names,
nor anything that behaves like one of the published held-out problems.
"""

import ast
import hashlib
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from specbench.demo.vocabulary import (
    ANNOTATIONS,
    ARRANGES,
    CONDITIONS,
    DESCRIPTIONS,
    FILTERS,
    LETTERS,
    MAPS,
    PARAMETER_NAMES,
    REDUCES,
    SOURCES,
    Filter,
    Map,
    Source,
)

HELD_OUT_ONE_IN = 12
HELD_OUT_PROBLEMS = 164
PROBES = 10
SEED_STRIDE = 1_000_000_007  # keeps the held-out seeds clear of the training seeds
ORDER_BLIND = {
    "sum", "product", "max", "min", "count", "distinct", "spread", "mean", "any_above",
    "all_above", "all_even", "sum_even", "median", "total_length", "any_long", "square_map",
    "length_map",
}  # fmt: skip
ORDERINGS = {
    "ascending", "descending", "reversed", "rotate", "mirror", "longest_first", "by_length",
}  # fmt: skip
LOOP_VARIABLES = {"int": ("x", "n", "v", "num"), "word": ("w", "word", "s"), "char": ("ch", "c")}
NAME_VERBS = ("get", "compute", "find", "make", "build", "solve", "process", "calculate", "derive",
              "collect")  # fmt: skip
NAME_NOUNS = ("result", "values", "answer", "summary", "output", "report", "data", "items", "it",
              "outcome", "series", "selection")  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """One problem; `combination` names its operations, `kinds` the kinds of its parameters."""

    name: str
    prompt: str
    body: str
    docstring: str
    combination: str
    parts: tuple[str, ...]
    kinds: tuple[str, ...]

    @property
    def program(self) -> str:
        """The whole function: prompt and canonical body."""
        return self.prompt + self.body


@dataclass(frozen=True)
class Step:
    """A Filter, Map, Arrange or Reduce with its constant as docstring and code write it."""

    op: Any
    constant: str = ""


@dataclass
class Chain:
    """A source and the operations on its elements, with the parameters they use."""

    source: Source
    params: tuple[str, ...]
    kinds: list[str]
    elements: list[Step] = field(default_factory=list)
    arrange: Step | None = None
    reduce: Step | None = None

    @property
    def steps(self) -> list[Step]:
        """All operations in order."""
        return [*self.elements, *(s for s in (self.arrange, self.reduce) if s)]

    @property
    def combination(self) -> str:
        """The keys of the source and the operations: what the split into parts goes by."""
        return ">".join([self.source.key, *(step.op.key for step in self.steps)])

    @property
    def source_code(self) -> str:
        """The iterable that the elements come from."""
        return self.source.code.format(*self.params)


class Names:
    """Hands out parameter names, never the same one twice in a function."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.used: list[str] = []

    def take(self, kind: str) -> str:
        """A fresh name for a parameter of this kind."""
        name = self.rng.choice([n for n in PARAMETER_NAMES[kind] if n not in self.used])
        self.used.append(name)
        return name


def held_out(text: str) -> bool:
    """Whether a combination, or a function's name, belongs to the held-out part."""
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT_ONE_IN == 0


# --- drawing a chain of operations ---------------------------------------------------------


def _constant(rng: random.Random, op: Any, chain: Chain, names: Names) -> str:
    if not op.constants:
        return ""
    kind = "bound" if isinstance(op.constants[0], int) else "mark"
    if rng.random() < 0.2 and "bound" not in chain.kinds and "mark" not in chain.kinds:
        chain.kinds.append(kind)
        return names.take(kind)
    return repr(rng.choice(op.constants))


def _draw_elements(
    rng: random.Random, chain: Chain, count: int, names: Names, filters_first: bool = False
) -> str:
    """Adds filters and maps; returns the kind of element that comes out."""
    element = chain.source.element
    for _ in range(count):
        mapped = filters_first and any(isinstance(step.op, Map) for step in chain.elements)
        table: tuple[Any, ...] = FILTERS if rng.random() < 0.5 and not mapped else MAPS
        seen = {step.op.key for step in chain.elements}
        op = rng.choice([op for op in table if op.element == element and op.key not in seen])
        chain.elements.append(Step(op, _constant(rng, op, chain, names)))
        element = op.gives if isinstance(op, Map) else element
    return element


def _draw_arrange(rng: random.Random, chain: Chain, element: str, names: Names) -> None:
    op = rng.choice([op for op in ARRANGES if element in op.elements])
    chain.arrange = Step(op, _constant(rng, op, chain, names))


def _draw_reduce(
    rng: random.Random, chain: Chain, element: str, names: Names, inline: bool = False
) -> None:
    """Adds a reduction; `inline` leaves out those that only a loop can write."""
    ordered = chain.arrange is not None and chain.arrange.op.key in ORDERINGS
    fits = [
        op
        for op in REDUCES
        if op.element in (element, "any")
        and not (ordered and op.key in ORDER_BLIND)
        and (op.code or not inline)
        and not (op.key == "count" and not chain.arrange and not chain.elements)
    ]
    if element == "char" and rng.random() < 0.5:
        fits = [op for op in fits if op.key == "text"]
    op = rng.choice(fits)
    chain.reduce = Step(op, _constant(rng, op, chain, names))


def draw_chain(
    rng: random.Random, names: Names, sources: list[Source], size: int, reduce: bool
) -> Chain:
    """A chain of `size` filters, maps and arrangements, then a reduction if asked for."""
    source = rng.choice(sources)
    params = tuple(names.take(kind) for kind in source.params)
    chain = Chain(source, params, list(source.params))
    arranged = rng.random() < 0.35 and size > 1
    element = _draw_elements(rng, chain, size - arranged, names)
    if arranged:
        _draw_arrange(rng, chain, element, names)
    if reduce or element == "char":
        _draw_reduce(rng, chain, element, names)
    return chain


# --- wording it ----------------------------------------------------------------------------


def _filter_noun(rng: random.Random, op: Filter, head: str, tail: str, c: str) -> tuple[str, str]:
    if op.adjective and rng.random() < 0.6:
        return f"{op.adjective} {head}", tail
    return head, f"{tail} that {rng.choice(op.clauses).format(c=c)}"


def noun(rng: random.Random, chain: Chain) -> str:
    """The chain as one noun phrase: "the sum of the squares of the even numbers in xs"."""
    head = rng.choice(chain.source.heads)
    tail = rng.choice(chain.source.tails).format(*chain.params)
    for step in chain.elements:
        if isinstance(step.op, Filter):
            head, tail = _filter_noun(rng, step.op, head, tail, step.constant)
        else:
            template = rng.choice(step.op.nouns)
            head, tail = template.format(of=f"the {head} {tail}", c=step.constant), ""
    phrase = f"the {head} {tail}".rstrip()
    for late in (chain.arrange, chain.reduce):
        if late:
            phrase = _late_noun(rng, late, phrase)
    return phrase


def _late_noun(rng: random.Random, step: Step, phrase: str) -> str:
    template = rng.choice(step.op.nouns)
    text: str = template.format(of=phrase, c=step.constant)
    article = "" if template.startswith(("{of}", "whether", "every")) else "the "
    return article + text


def nounable(chain: Chain) -> bool:
    """A filter after a map would be ambiguous in a noun phrase: which of the two is filtered?"""
    kinds = [type(step.op) for step in chain.elements]
    return kinds == sorted(kinds, key=lambda kind: kind is Map)


def recipe(rng: random.Random, chain: Chain) -> str:
    """The chain as orders, one after the other: "Take ..., square each one, return their sum"."""
    head, tail = rng.choice(chain.source.heads), rng.choice(chain.source.tails)
    parts = [f"{rng.choice(('Take', 'Start from'))} the {head} {tail.format(*chain.params)}"]
    for step in chain.elements:
        if isinstance(step.op, Filter):
            clause = rng.choice(step.op.clauses).format(c=step.constant)
            parts.append(f"{rng.choice(('keep only', 'select'))} those that {clause}")
        else:
            parts.append(rng.choice(step.op.steps).format(c=step.constant))
    if chain.arrange:
        parts.append(rng.choice(chain.arrange.op.steps).format(c=chain.arrange.constant))
    last = "the resulting list"
    if chain.reduce:
        last = _late_noun(rng, chain.reduce, "the results")
    return ", ".join(parts) + f" and return {last}."


def sentence(rng: random.Random, phrase: str) -> str:
    """A noun phrase as a docstring's sentence."""
    opening = rng.choice(("Return", "Return", "Compute", "Find", "Compute and return", "Give"))
    if phrase.startswith("whether"):
        opening = rng.choice(("Return", "Check", "Tell"))
    return f"{opening} {phrase}."


# --- writing it ----------------------------------------------------------------------------


@cache
def atom(expression: str) -> str:
    """The expression, in parentheses unless it binds as tightly as a name."""
    node = ast.parse(expression, mode="eval").body
    tight = (ast.Name, ast.Call, ast.Constant, ast.Subscript, ast.Attribute, ast.List, ast.ListComp)
    return expression if isinstance(node, tight) else f"({expression})"


def _fill(step: Step, value: str) -> str:
    """The operation on one value, with parentheses only where they are needed."""
    enclosed = re.search(r"\(\{x\}[),]", step.op.code)
    text: str = step.op.code.format(x=value if enclosed else atom(value), c=step.constant)
    return text


def _per_element(steps: list[Step], variable: str) -> tuple[str, list[str]]:
    """The expression and the conditions that the steps put on one element."""
    value, conditions = variable, []
    for step in steps:
        text = _fill(step, value)
        if isinstance(step.op, Filter):
            conditions.append(text)
        else:
            value = text
    return value, conditions


def _generator(steps: list[Step], iterable: str, variable: str) -> str:
    value, conditions = _per_element(steps, variable)
    where = f" if {' and '.join(conditions)}" if conditions else ""
    return f"{value} for {variable} in {iterable}{where}"


def _apply(step: Step, expression: str, generator: str | None = None) -> str:
    """One late step on a list expression; `generator` may stand for it inside a call."""
    inside = generator or expression
    sole = step.op.code.count("{gen}") and re.fullmatch(r"[\w.']+\(\{gen\}\)", step.op.code)
    if not sole and generator:  # a bare generator must be a call's only argument
        inside = expression
    text: str = step.op.code.format(xs=atom(expression), gen=inside, c=step.constant, x="v")
    return text


class Writer:
    """Writes the body of a chain's function, line by line."""

    def __init__(self, rng: random.Random, chain: Chain, taken: list[str]) -> None:
        self.rng, self.chain, self.taken = rng, chain, list(taken)
        self.lines: list[str] = []
        last = [s.op.gives for s in chain.elements if isinstance(s.op, Map)]
        self.element = last[-1] if last else chain.source.element
        self.variable = self.fresh(*LOOP_VARIABLES[chain.source.element])

    def fresh(self, *wanted: str) -> str:
        """One of the wanted names that the function does not use yet."""
        options = [name for name in wanted if name not in self.taken] or ["item"]
        self.taken.append(name := self.rng.choice(options))
        return name

    def name(self, expression: str, *wanted: str) -> str:
        """A name for the expression: a new line assigns it unless it is one already."""
        if expression.isidentifier():
            return expression
        self.lines.append(f"{(name := self.fresh(*wanted))} = {expression}")
        return name

    def listed(self) -> str:
        """The list after filters and maps, as one expression."""
        chain = self.chain
        if chain.elements:
            return f"[{_generator(chain.elements, chain.source_code, self.variable)}]"
        return chain.source_code if chain.source.is_list else f"list({chain.source_code})"

    def one_line(self) -> list[str]:
        """As one expression, but for what an operation needs a name for."""
        chain, expression = self.chain, self.listed()
        inside = expression[1:-1] if chain.elements else chain.source_code
        for step in (chain.arrange, chain.reduce):
            if step:
                if step.op.named:
                    expression = self.name(expression, "values", "result", "picked")
                    inside = expression
                expression = _apply(step, expression, inside)
                inside = expression
        return [*self.lines, f"return {expression}"]

    def stepwise(self) -> list[str]:
        """One assignment for each operation."""
        chain = self.chain
        current = self.name(self.listed_source(), chain.source.word, "values")
        for step in chain.elements:
            wanted = ("kept", "chosen") if isinstance(step.op, Filter) else ("changed", "mapped")
            current = self.name(f"[{_generator([step], current, self.variable)}]", *wanted, "more")
        if chain.arrange:
            current = self.name(_apply(chain.arrange, current), "ordered", "arranged")
        if chain.reduce:
            current = _apply(chain.reduce, current)
        return [*self.lines, f"return {current}"]

    def listed_source(self) -> str:
        """The source, as a list where nothing else will make one of it."""
        chain = self.chain
        plain = chain.source.is_list or bool(chain.elements)
        return chain.source_code if plain else f"list({chain.source_code})"

    def loop(self) -> list[str]:
        """A loop that fills a result."""
        chain = self.chain
        reduce = chain.reduce.op.loop if chain.reduce else None
        start, update, _ = reduce or ("[]", "{r}.append({x})", "{r}")
        steps, iterable = chain.elements, chain.source_code
        if chain.arrange:
            listed = self.listed()
            if chain.arrange.op.named:
                listed = self.name(listed, "values", "picked")
            iterable = self.name(_apply(chain.arrange, listed), "ordered", "arranged")
            steps = []
        result = self.fresh("result", "total", "out")
        value, conditions = _per_element(steps, self.variable)
        tight = atom(value) if "{x}[" in update or "{x} %" in update else value
        inner = [update.format(r=result, x=tight)]
        if conditions:
            inner = [f"if {' and '.join(conditions)}:", *("    " + line for line in inner)]
        inner = ["    " + line for line in inner]
        head = [*self.lines, f"{result} = {start.format()}", f"for {self.variable} in {iterable}:"]
        return [*head, *inner, f"return {result}"]

    def write(self, told_in_steps: bool) -> list[str]:
        """In one of the three styles, mostly the one that the docstring's form suggests."""
        reduce: Any = self.chain.reduce.op if self.chain.reduce else None
        can_loop = (reduce is None and not self.chain.arrange) or (reduce and reduce.loop)
        if reduce and not reduce.code:
            return self.loop()
        # the docstring's form mostly decides the style, so that a model can foresee it
        draw = self.rng.random()
        if can_loop and draw < 0.15:
            return self.loop()
        if told_in_steps == (draw < 0.9) and self.chain.elements:
            return self.stepwise()
        return self.one_line()


# --- families of problems ------------------------------------------------------------------


@dataclass
class Draft:
    """A problem before it has a name: what the three families produce."""

    text: str
    lines: list[str]
    params: list[str]
    kinds: list[str]
    words: list[str]
    combination: str
    parts: tuple[str, ...]
    returns: str


def _returns(chain: Chain, element: str) -> str:
    kinds = {"int": "int", "word": "str", "char": "str"}
    if chain.reduce is None:
        return f"list[{kinds[element]}]"
    name = chain.reduce.op.returns
    return f"{kinds[element]} | None" if name == "any" else name


def _words(chain: Chain) -> list[str]:
    ops = [step.op.word for step in chain.elements]
    late = [step.op.word for step in (chain.reduce, chain.arrange) if step]
    return [*late, *ops, chain.source.word]


def chain_problem(rng: random.Random) -> Draft:
    """One chain over one source."""
    names = Names(rng)
    size = rng.choice((1, 2, 2, 3, 3, 4))
    chain = draw_chain(rng, names, list(SOURCES), size, rng.random() < 0.6)
    in_steps = not nounable(chain) or rng.random() < 0.4
    text = recipe(rng, chain) if in_steps else sentence(rng, noun(rng, chain))
    writer = Writer(rng, chain, names.used)
    lines = writer.write(in_steps)
    returns = _returns(chain, writer.element)
    return Draft(text, lines, names.used, chain.kinds, _words(chain), chain.combination,
                 (chain.combination,), returns)  # fmt: skip


def _reducing(rng: random.Random, names: Names, source: Source, params: tuple[str, ...]) -> Chain:
    chain = Chain(source, params, list(source.params))
    element = _draw_elements(rng, chain, rng.choice((0, 1, 1, 2)), names, True)
    _draw_reduce(rng, chain, element, names, inline=True)
    return chain


def conditional_problem(rng: random.Random) -> Draft:
    """One of two chains over the same parameter, chosen by a condition on it."""
    names = Names(rng)
    kind, key, phrase, test = rng.choice(CONDITIONS)
    sources = [s for s in SOURCES if s.params == (kind,)]
    params = (names.take(kind),)
    values = {"p": params[0], "c": str(rng.randint(2, 9))}
    chains = [_reducing(rng, names, rng.choice(sources), params) for _ in range(2)]
    nouns = [noun(rng, chain) for chain in chains]
    text = sentence(rng, f"{nouns[0]} if {phrase.format(**values)}; otherwise {nouns[1]}")
    bodies = [Writer(rng, chain, names.used).one_line() for chain in chains]
    lines = [f"if {test.format(**values)}:", *("    " + line for line in bodies[0]), *bodies[1]]
    kinds = [kind, *(k for chain in chains for k in chain.kinds[1:])]
    words = [_words(chains[0])[0], "or", _words(chains[1])[0], key]
    parts = tuple(chain.combination for chain in chains)
    return Draft(text, lines, names.used, kinds, words, f"if:{kind}:{key}:{'|'.join(parts)}",
                 parts, "")  # fmt: skip


def _single(step: Step, rng: random.Random) -> str:
    """A map's wording for one value instead of many."""
    text: str = rng.choice(step.op.steps).format(c=step.constant)
    for many, one in (("each one", "it"), ("each of them", "it"), ("each ", "its "),
                      ("those ", "it when ")):  # fmt: skip
        text = text.replace(many, one)
    return text


def scalar_problem(rng: random.Random) -> Draft:
    """Two to five maps on one number or one string, then perhaps a question about the result."""
    names = Names(rng)
    kind, element = rng.choice((("size", "int"), ("text", "word")))
    source = Source("scalar", element, (kind,), (), (), "{0}", "number" if kind == "size" else "")
    chain = Chain(source, (names.take(kind),), [kind])
    ops = [op for op in MAPS if op.element == element == op.gives]
    for op in rng.sample(ops, rng.choice((2, 3, 3, 4, 4, 5))):
        chain.elements.append(Step(op, _constant(rng, op, chain, names)))
    told = [_single(step, rng) for step in chain.elements]
    ask = _question(rng, chain, names, element)
    ending = f"whether the result {ask[0]}" if ask else "the result"
    text = f"{rng.choice(('Take', 'Start from'))} {names.used[0]}, {', '.join(told)} and return {ending}."
    lines = _scalar_lines(rng, chain, names.used, ask[1] if ask else None)
    words = [step.op.word for step in chain.elements]
    combination = chain.combination + (f">is_{ask[2]}" if ask else "")
    returns = "bool" if ask else ("int" if element == "int" else "str")
    return Draft(text, lines, names.used, chain.kinds, words, combination, (combination,), returns)


def _question(
    rng: random.Random, chain: Chain, names: Names, element: str
) -> tuple[str, Step, str] | None:
    if element != "int" or rng.random() < 0.6:
        return None
    op = rng.choice([op for op in FILTERS if op.element == "int" and op.clauses[0][:4] == "are "])
    step = Step(op, _constant(rng, op, chain, names))
    return "is " + op.clauses[0][4:].format(c=step.constant), step, op.key


def _scalar_lines(rng: random.Random, chain: Chain, used: list[str], ask: Step | None) -> list[str]:
    lines, value = [], chain.params[0]
    result = rng.choice([n for n in ("result", "value", "y", "out") if n not in used])
    in_steps = rng.random() < 0.6
    for step in chain.elements:
        value = _fill(step, value)
        if in_steps and step is not chain.elements[-1]:
            lines.append(f"{result} = {value}")
            value = result
    if ask:
        value = _fill(ask, value)
    return [*lines, f"return {value}"]


# --- a named problem -----------------------------------------------------------------------


def _candidate(rng: random.Random, words: list[str]) -> str:
    if rng.random() < 0.25:
        return f"{rng.choice(NAME_VERBS)}_{rng.choice(NAME_NOUNS)}"
    chosen = [w for w in words if w][: rng.choice((1, 2, 3, 4))]
    if len(chosen) == 1 or rng.random() < 0.2:
        chosen.insert(0, rng.choice(NAME_VERBS))
    return "_".join(chosen)


def function_name(rng: random.Random, words: list[str], reserved: bool) -> str:
    """A name from the held-out part (`reserved`) or from the training part."""
    while held_out(name := _candidate(rng, words)) != reserved:
        words = [*words, rng.choice(NAME_NOUNS)]
        rng.shuffle(words)
    return name


def _signature(rng: random.Random, name: str, draft: Draft) -> str:
    if not draft.returns or rng.random() < 0.5:
        return f"def {name}({', '.join(draft.params)}):"
    pairs = zip(draft.params, draft.kinds, strict=True)
    typed = ", ".join(f"{param}: {ANNOTATIONS[kind]}" for param, kind in pairs)
    return f"def {name}({typed}) -> {draft.returns}:"


def _given(rng: random.Random, draft: Draft) -> str:
    """The docstring's text, sometimes with the parameters introduced first."""
    if rng.random() < 0.75:
        return draft.text
    pairs = zip(draft.params, draft.kinds, strict=True)
    told = [DESCRIPTIONS[kind].format(param) for param, kind in pairs]
    return f"Given {' and '.join(told)}, {draft.text[0].lower()}{draft.text[1:]}"


def _prompt(signature: str, docstring: str) -> str:
    return f'{signature}\n    """{docstring}"""\n'


def finish(rng: random.Random, draft: Draft, reserved: bool) -> Problem:
    """Gives a draft its name, signature and docstring."""
    name = function_name(rng, draft.words, reserved)
    signature, text = _signature(rng, name, draft), _given(rng, draft)
    body = "".join(f"    {line}\n" for line in draft.lines)
    kinds = tuple(draft.kinds)
    if rng.random() < 0.3:
        text = _with_example(rng, text, name, body, draft.params, kinds)
    return Problem(name, _prompt(signature, text), body, text, draft.combination, draft.parts,
                   kinds)  # fmt: skip


def _with_example(
    rng: random.Random, text: str, name: str, body: str, params: list[str], kinds: tuple[str, ...]
) -> str:
    function = compiled(f"def {name}({', '.join(params)}):\n{body}", name)
    arguments = sample_arguments(rng, kinds)
    call = f"{name}({', '.join(map(repr, arguments))})"
    return f"{text}\n\n    >>> {call}\n    {function(*arguments)!r}\n    "


def draw(seed: int, reserved: bool) -> Problem:
    """The problem of a seed, from any part, with a name of the held-out part if `reserved`."""
    rng = random.Random(seed)
    families = (chain_problem, chain_problem, chain_problem, conditional_problem, scalar_problem)
    return finish(rng, rng.choice(families)(rng), reserved)


# --- behaviour -----------------------------------------------------------------------------

_WORDS = ("apple", "banana", "Cat", "dog", "level", "noon", "tree", "blue", "Rome", "stone", "a",
          "edit", "radar", "moss", "pencil", "table", "Oslo", "lime", "did", "cedar")  # fmt: skip


def _integers(rng: random.Random) -> list[int]:
    return [rng.randint(-12, 30) for _ in range(rng.choice((0, 1, 3, 5, 6, 7, 8)))]


def _text(rng: random.Random) -> str:
    words = rng.choices(_WORDS, k=rng.randint(1, 4))
    extra = rng.choice(("", "", "7", " 42", ",x"))
    return rng.choice((" ", " ", ",")).join(words) + extra


_ARGUMENTS: dict[str, Callable[[random.Random], Any]] = {
    "ints": _integers,
    "words": lambda rng: rng.choices(_WORDS, k=rng.choice((0, 1, 3, 4, 5, 6))),
    "text": _text,
    "size": lambda rng: rng.randint(1, 60),
    "table": lambda rng: {w: rng.randint(-9, 20) for w in rng.sample(_WORDS, rng.randint(0, 5))},
    "rows": lambda rng: [_integers(rng)[:4] for _ in range(rng.randint(1, 4))],
    "bound": lambda rng: rng.randint(1, 9),
    "mark": lambda rng: rng.choice(LETTERS),
}


def sample_arguments(rng: random.Random, kinds: tuple[str, ...]) -> list[Any]:
    """Random arguments for parameters of these kinds."""
    return [_ARGUMENTS[kind](rng) for kind in kinds]


def compiled(program: str, name: str) -> Callable[..., Any]:
    """The function of a program that the grammar itself wrote."""
    scope: dict[str, Any] = {}
    exec(program, scope)
    function: Callable[..., Any] = scope[name]
    return function


def behaviour(problem: Problem) -> str:
    """A fingerprint of what the function does: its results on fixed probes of its signature."""
    function = compiled(problem.program, problem.name)
    rng = random.Random("|".join(problem.kinds))
    results = [repr(function(*sample_arguments(rng, problem.kinds))) for _ in range(PROBES)]
    text = "\n".join([*problem.kinds, *results])
    return hashlib.sha256(text.encode()).hexdigest()


def _interesting(problem: Problem) -> bool:
    """Enough different results for a test to tell a right body from a wrong one."""
    function = compiled(problem.program, problem.name)
    rng = random.Random("|".join(problem.kinds))
    results = {repr(function(*sample_arguments(rng, problem.kinds))) for _ in range(PROBES)}
    boolean = results <= {"True", "False"}
    return len(results) >= (2 if boolean else 5)


# --- the two streams -----------------------------------------------------------------------


@cache
def held_out_problems() -> tuple[Problem, ...]:
    """The 164 published problems: held-out combination, distinct names, distinct behaviour."""
    problems: list[Problem] = []
    names: set[str] = set()
    seen: set[str] = set()
    seed = SEED_STRIDE
    while len(problems) < HELD_OUT_PROBLEMS:
        seed += 1
        problem = draw(seed, reserved=True)
        if not held_out(problem.combination) or problem.combination.count(">") < 2:
            continue
        if problem.name in names or not _interesting(problem):
            continue
        if (mark := behaviour(problem)) not in seen:
            names.add(problem.name)
            seen.add(mark)
            problems.append(problem)
    return tuple(problems)


@cache
def held_out_behaviours() -> frozenset[str]:
    """The fingerprints of the published problems."""
    return frozenset(behaviour(problem) for problem in held_out_problems())


def _trainable(problem: Problem) -> bool:
    keys = [problem.combination, *problem.parts]
    if any(held_out(key) and key.count(">") >= 2 for key in keys):
        return False
    return behaviour(problem) not in held_out_behaviours()


def generate(seed: int) -> Problem | None:
    """The training problem of a seed, or None where the seed falls into the held-out part."""
    problem = draw(seed, reserved=False)
    return problem if _trainable(problem) else None


def training_problems(start: int, stop: int) -> Iterator[Problem]:
    """The training problems of the seeds in [start, stop)."""
    for seed in range(start, stop):
        problem = generate(seed)
        if problem is not None:
            yield problem


def check_source(problem: Problem, cases: int = 8) -> str:
    """HumanEval's `test`: `check(candidate)` with asserts computed from the canonical body."""
    function = compiled(problem.program, problem.name)
    rng = random.Random(problem.name)
    lines = ["def check(candidate):"]
    for _ in range(cases):
        arguments = sample_arguments(rng, problem.kinds)
        call = ", ".join(map(repr, arguments))
        lines.append(f"    assert candidate({call}) == {function(*arguments)!r}")
    return "\n".join(lines) + "\n"
