"""A grammar of short spoken sentences with wide slots, and the split by the pairs inside them.

A pair is a first and a last name, or an adjective and a noun. It is for training, validation or the
held-out set by its hash alone, so a held-out sentence holds a pair that training never uttered.
"""

import hashlib
import math
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from specbench.demo.speech import words

Part = Literal["training", "validation", "held_out"]
PARTS = 12  # one is held out, one is for validation, the others are for training

TEMPLATES = (
    "{person} {verb} the {object}",
    "{person} {adverb} {verb} {count} {plural} in {city}",
    "{person} the {job} {verb} the {object} {adverb}",
    "the {job} from {city} {verb} the {object}",
    "on {day} {person} {verb} the {object} at the {place}",
    "{first} and {first} {verb} the {object} near the {place}",
    "my {object} is {count} {unit} from the {place}",
    "{first} paid {count} {unit} for the {object}",
    "the {place} in {city} has {count} {plural} for {person}",
    "please bring the {object} and the {noun} to {person}",
    "please tell {person} to meet the {job} at the {place}",
    "the {object} {verb} by {person} is not in the {place}",
    "in {month} the {job} {verb} the {object} and the {noun}",
    "{person} lives at number {count} near the {adjective} {place}",
    "did {person} leave the {object} in {city}",
    "call {person} in room {count} before {hour} on {day}",
    "there are {count} {adjective} {plural} behind the {object}",
    "we {adverb} {verb} the {object} with {first} and {first}",
    "nobody at the {place} {verb} the {object} on {day}",
    "{first} said that the {job} {verb} the {object}",
    "the train to {city} leaves at {hour} with {person}",
    "her {object} and his {noun} were in the {adjective} {place}",
    "flight {count} to {city} carries {person} and the {job}",
    "{person} turned {small} and got the {object}",
    "from {month} to {month} {person} {verb} {plural} in {city}",
    "the {plural} that {person} {verb} cost {count} {unit}",
    "a {job} and a {job} {verb} the {object} in {month}",
    "{first} {verb} {small} {plural} and {small} {plural} for {person}",
    "put the {noun} under the {object} next to the {noun}",
    "the code for the {object} is {digit} {digit} {digit} {digit}",
)

_LISTS: dict[str, tuple[str, ...]] = {
    "first": words.FIRST, "last": words.LAST, "noun": words.NOUN, "adjective": words.ADJECTIVE,
    "verb": words.VERB, "place": words.PLACE, "city": words.CITY, "day": words.DAY,
    "month": words.MONTH, "unit": words.UNIT, "adverb": words.ADVERB,
    "job": tuple(job for job in words.JOB if job[0] not in "aeiou"),  # "a" may stand before any
    "digit": words.SMALL_NUMBERS[:9],
}  # fmt: skip


@dataclass(frozen=True)
class Sentence:
    """Lower-case words without punctuation; `bits`: of the choices that the grammar made."""

    text: str
    pairs: tuple[str, ...]
    bits: float

    @property
    def part(self) -> Part | None:
        """The part that its pairs put it in; None if they disagree or there are none."""
        parts = {part_of(pair) for pair in self.pairs}
        if len(parts) == 1:
            return parts.pop()
        return next(iter(parts - {"training"})) if len(parts - {"training"}) == 1 else None


def part_of(pair: str) -> Part:
    """The part of a pair of words, from its text alone."""
    number = int.from_bytes(hashlib.sha256(pair.encode()).digest()[:8], "big") % PARTS
    return {0: "held_out", 1: "validation"}.get(number, "training")  # type: ignore[return-value]


def plural(noun: str) -> str:
    """The regular plural; the nouns of the lists have no other."""
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def spoken(number: int) -> str:
    """A number from 1 to 999 in words, without "and": 342 is "three hundred forty two"."""
    found = []
    if number >= 100:
        found += [words.SMALL_NUMBERS[number // 100 - 1], "hundred"]
    rest = number % 100
    if rest >= 20:
        found.append(words.TENS[rest // 10 - 2])
        rest %= 10
    if rest:
        found.append(words.SMALL_NUMBERS[rest - 1])
    return " ".join(found)


class _Drawing:
    """One sentence in the making."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.bits = 0.0
        self.pairs: list[str] = []

    def one_of(self, choices: tuple[str, ...]) -> str:
        self.bits += math.log2(len(choices))
        return self.rng.choice(choices)

    def number(self, first: int, last: int) -> str:
        self.bits += math.log2(last - first + 1)
        return spoken(self.rng.randint(first, last))

    def pair(self, one: str, other: str) -> str:
        self.pairs.append(f"{self.one_of(_LISTS[one])} {self.one_of(_LISTS[other])}")
        return self.pairs[-1]

    def slot(self, name: str) -> str:
        match name:
            case "person":
                return self.pair("first", "last")
            case "object":
                return self.pair("adjective", "noun")
            case "plural":
                return plural(self.one_of(words.NOUN))
            case "small":
                return self.number(2, 20)
            case "count":
                self.bits += 1
                return self.number(2, 99) if self.rng.random() < 0.5 else self.number(100, 999)
            case "hour":
                minutes = ("", " fifteen", " thirty", " forty five")
                return self.number(1, 12) + self.one_of(minutes)
        return self.one_of(_LISTS[name])


def draw(seed: int) -> Sentence:
    """The sentence of this seed."""
    drawing = _Drawing(seed)
    template = drawing.one_of(TEMPLATES)
    text = re.sub(r"{(\w+)}", lambda found: drawing.slot(found[1]), template)
    return Sentence(text, tuple(drawing.pairs), drawing.bits)


def sentences(part: Part, first_seed: int) -> Iterator[Sentence]:
    """The part's sentences, from this seed on, without end; none comes twice."""
    seen: set[str] = set()
    seed = first_seed
    while True:
        sentence = draw(seed)
        seed += 1
        if sentence.part == part and sentence.text not in seen:
            seen.add(sentence.text)
            yield sentence
