"""What a pair of text is asked, where a document is too long for it, and what it answers, where an output
goes on behind its answer."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

from specbench.pairs import Pair
from specbench.tasks.base import JudgedTask, Sample


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

    Decoding does not stop where the answer ends. A decoder that did would have stopped with that token:
    the first with which the output shows that the answer is over.

    Args:
        has_ended: whether the last token is an end token.

    Returns:
        None for the tokens if the answer was never seen to end.
    """

    def answer(count: int) -> tuple[str, bool]:
        found = task.answer(pair.continuation(prompt, tokens[:count]), sample)
        return found.text, found.ended

    text, ended = answer(len(tokens))
    if ended:
        return text, bisect_left(range(len(tokens)), True, key=lambda count: answer(count)[1])
    return text, len(tokens) if has_ended else None
