"""Where a model's code ends: outputs as base models and chat models write them."""

from __future__ import annotations

import textwrap

import pytest

from specbench.sandbox import Problem
from specbench.tasks.completions import FENCE, STOPS, completion

PROMPT = 'from typing import List\n\n\ndef total(xs: List[int]) -> int:\n    """Sum."""\n'
BODY = "    result = 0\n    for x in xs:\n        result += x\n\n    return result\n"
PROBLEM = Problem(PROMPT, "def check(c):\n    assert c([1, 2]) == 3\n", "total")


def runs(answer, problem=PROBLEM):
    """Whether prompt and answer make the function."""
    names = {}
    exec(problem.prompt + answer.text, names)
    return names[problem.entry_point]([1, 2]) == 3


@pytest.mark.parametrize("stop", STOPS)
def test_each_stop_ends_the_body(stop):
    answer = completion(f"{BODY}{stop} what follows\n    return 7\n", PROBLEM)
    assert answer.ended
    assert answer.text.rstrip() == BODY.rstrip()
    assert runs(answer)


@pytest.mark.parametrize(
    "body",
    [
        BODY,
        "\n" + BODY,
        "    # first\n    def inner(a):\n        return a\n    return sum(map(inner, xs))\n",
        "    if xs:\n        pass\n    return sum(\n        xs\n)\n",
        "\treturn sum(xs)",
        "    class A: pass\n    return sum(xs)",
        "    import math\n    return sum(xs)",
    ],
)
def test_what_is_indented_is_the_functions_own(body):
    answer = completion(body, PROBLEM)
    assert (answer.text, answer.ended) == (body, False)


def test_the_first_of_several_stops_counts():
    answer = completion("    return 3\n\n# a\nclass A: pass\n\ndef b(): pass\n", PROBLEM)
    assert answer.text == "    return 3\n\n"


def test_a_stop_at_the_very_end_is_one():
    assert completion("    return 3\ndef", PROBLEM).ended
    assert not completion("    return 3\nde", PROBLEM).ended
    assert completion("    return 3\nprint", PROBLEM).text == "    return 3\n"


def test_nothing_is_nothing():
    assert completion("", PROBLEM).text == ""
    assert completion("  \n\n", PROBLEM).ended is False


WHOLE = textwrap.dedent(PROMPT) + BODY
CHATS = {
    "a block": f"Here it is:\n\n```python\n{WHOLE}```\nIt adds.",
    "no language": f"```\n{WHOLE}```",
    "an indented fence": f"1. So:\n   ```python\n{WHOLE}   ```",
    "the second block": f"First\n```python\nprint(total([1]))\n```\nthen\n```python\n{WHOLE}```\n",
    "a helper before it": f"```python\ndef add(a, b):\n    return a + b\n\n{WHOLE}```\n",
    "without the imports": f"```python\ndef total(xs: List[int]) -> int:\n{BODY}```",
    "a test behind it": f"```python\n{WHOLE}\nassert total([1]) == 1\n```",
    "code alone": WHOLE,
    "a body in a block": f"```python\n{BODY}```",
    "thoughts first": f"<think>\n```\ndef total(xs):\n    return 7\n```\n</think>\n```\n{WHOLE}```",
}


@pytest.mark.parametrize("name", CHATS)
def test_what_a_chat_model_writes(name):
    answer = completion(CHATS[name], PROBLEM)
    assert runs(answer)
    assert answer.ended == ("```" in CHATS[name])


def test_a_block_that_was_cut_off_has_not_ended():
    answer = completion(f"```python\n{WHOLE}", PROBLEM)
    assert not answer.ended
    assert runs(answer)


def test_a_prompt_without_a_docstring_gets_a_body_first():
    problem = Problem("def total(xs):\n", PROBLEM.test, "total")
    assert runs(completion(f"```python\n{WHOLE.partition('docstring')[0]}```", problem), problem)
    for prompt in ("def total(xs):", "def total(xs):\n    # adds\n", "def total(xs):\n  "):
        problem = Problem(prompt, PROBLEM.test, "total")
        completion(CHATS["a block"], problem)


def test_a_function_of_a_longer_name_is_another():
    text = "```python\ndef totality(xs):\n    return 7\n```\n```python\ndef total(xs):\n    return 3\n```"
    assert "return 3" in completion(text, PROBLEM).text


def test_a_name_with_signs_of_a_pattern():
    problem = Problem("def a_(x):\n    ''' \\d '''\n", "", "a_")
    assert completion("```\ndef a_(x):\n    return 1\n```", problem).ended


OUTPUTS = [
    *CHATS.values(),
    *(f"{BODY}{stop} what follows\n    return 7\n" for stop in STOPS),
    f"I cannot.\n# {CHATS['a block']}",
    f"\n\nimport x\n# a\n{WHOLE}",
    f"<think>\n{BODY}\n# {CHATS['a block']}",
]


@pytest.mark.parametrize("output", OUTPUTS)
def test_what_is_final_stays_so_whatever_follows(output):
    """Decoding stops there: at every length, and before a block, a class, another answer."""
    was = None
    for end in range(len(output) + 1):
        found = completion(output[:end], PROBLEM)
        assert found.ended or not found.final
        assert was is None or found == was
        if found.final and was is None:
            was = found
            assert output[:end].endswith((*STOPS, FENCE)), "a decoder looks for nothing else"
            for more in ("def", f"\n{CHATS['a block']}", "\n```\n", f"\n{WHOLE}", "\nclass A:"):
                assert completion(output[:end] + more, PROBLEM) == was


def test_what_is_final():
    assert completion(f"{BODY}\ndef", PROBLEM).final
    assert completion(CHATS["a block"], PROBLEM).final
    for text in (BODY, "I cannot.\n# Why", CHATS["a body in a block"], CHATS["code alone"]):
        assert not completion(text, PROBLEM).final


def test_thoughts_that_go_on_are_no_answer_that_ends():
    for text in ("<think>\n    x\n# y", f"\n<think>\n{CHATS['a block']}"):
        found = completion(text, PROBLEM)
        assert (found.ended, found.final) == (False, False)


@pytest.mark.parametrize("text", ["I cannot.", "```", "```python", "```\n```", "def other(): pass"])
def test_what_is_no_answer_is_still_a_text(text):
    assert isinstance(completion(text, PROBLEM).text, str)
