"""What a pair of text is asked, where a document is too long for it, and where what it answers ends."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace

from specbench.pairs import Pair
from specbench.tasks.base import Answer, JudgedTask, Sample
from specbench.tasks.completions import THINKS


def fit(pair: Pair, sample: Sample, room: int | None) -> Sample:
    """The sample with as many words of its document, from the first on, as its prompt has room for.

    Unchanged if all have, if there is no document, or if the prompt is too long without a word of it:
    decoding will refuse that.

    Args:
        room: tokens that the prompt may have; None is any number.
    """
    if room is None or not sample.document or len(pair.prompt(sample)) <= room:
        return sample
    ends = [word.end() for word in re.finditer(r"\S+", sample.document)]
    count = bisect_left(ends, True, key=lambda end: len(pair.prompt(_head(sample, end))) > room)
    return _head(sample, ends[count - 1]) if count else sample


def _head(sample: Sample, end: int) -> Sample:
    """The sample with the document's first `end` characters."""
    head = sample.document[:end]
    return replace(
        sample,
        prompt=sample.prompt.replace(sample.document, head, 1),
        question=sample.question.replace(sample.document, head, 1),
        document=head,
        kept=end / len(sample.document),
    )


def shortened(samples: Sequence[Sample], room: int | None) -> str | None:
    """What to say of documents that did not fit; None if all did."""
    kept = [sample.kept for sample in samples if sample.kept is not None and sample.kept < 1]
    if not kept:
        return None
    return (
        f"{len(kept)} of {len(samples)} documents are shortened, so that their prompts have at most "
        f"{room} tokens; of the longest {min(kept):.0%} is left"
    )


def find_answer(
    pair: Pair,
    task: JudgedTask,
    sample: Sample,
    prompt: Sequence[int],
    tokens: Sequence[int],
    has_ended: bool,
) -> tuple[str, int | None]:
    """The part of an output that is scored, and the tokens with which it was whole.

    Where the answer was final, decoding stopped with them (`ending`). Else a decoder that knew that
    nothing more of it would come could have: the first with which it was there and showed its end.

    Args:
        has_ended: whether the last token is an end token.

    Returns:
        None for the tokens if the answer was never seen to end.
    """
    answer = _reader(pair, task, sample, prompt)
    found = answer(tokens)
    if found.ended:
        first = bisect_left(range(len(tokens)), True, key=lambda n: answer(tokens[:n]) == found)
        return found.text, first
    return found.text, len(tokens) if has_ended else None


def ending(
    pair: Pair, task: JudgedTask, sample: Sample, prompt: Sequence[int]
) -> Callable[[Sequence[int], Sequence[int]], int | None] | None:
    """Says of which of a step's tokens the answer is final, as a decoder asks (`Request.ended`).

    At each step it reads the step's tokens and the few before them that a stop may have begun in: a
    token of a stop has at least one of its characters. The whole output is read where a stop is there.

    Returns:
        None if there is no tokenizer: the tokens are no text.
    """
    if pair.tokenizer is None:
        return None
    answer = _reader(pair, task, sample, prompt)
    reach = max(map(len, task.stops)) - 1

    def ended(before: Sequence[int], step: Sequence[int]) -> int | None:
        tail = pair.continuation((), (*before[-reach:], *step))
        if not any(stop in tail for stop in task.stops):
            return None

        def is_final(count: int) -> bool:
            return answer([*before, *step[:count]]).final

        if not is_final(len(step)):
            return None
        return 1 + bisect_left(range(1, len(step)), True, key=is_final)

    return ended


def _reader(
    pair: Pair, task: JudgedTask, sample: Sample, prompt: Sequence[int]
) -> Callable[[Sequence[int]], Answer]:
    """From new tokens to their answer. A chat template may have begun a thought already."""
    begun = THINKS if pair.decode(prompt).endswith(THINKS) else ""
    return lambda tokens: task.answer(begun + pair.continuation(prompt, tokens), sample)
