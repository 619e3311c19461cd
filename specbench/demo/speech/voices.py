"""Who speaks: accents and timbres of eSpeak NG, some of their combinations kept for the held-out set."""

import hashlib
import random
from dataclasses import dataclass

ACCENTS = (
    "en-us", "en-us", "gmw/en", "en-gb-x-rp", "en-gb-scotland", "en-us-nyc", "en-029",
    "en-gb-x-gbcwmd",
)  # fmt: skip
TIMBRES = (
    "f1", "f2", "f3", "f4", "f5", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "Alicia", "Andrea",
    "Andy", "Annie", "Denis", "Gene", "Jacky", "Lee", "Mario", "Michael", "Mike", "Reed", "adam",
    "anika", "antonio", "belinda", "benjamin", "boris", "caleb", "david", "ed", "edward", "iven",
    "john", "klatt", "klatt2", "linda", "max", "michel", "miguel", "norbert", "paul", "pedro",
    "quincy", "rob", "robert", "shelby", "steph", "steph2", "travis", "victor", "zac",
)  # fmt: skip
PARTS = 10  # one voice in ten is held out


@dataclass(frozen=True)
class Voice:
    """Settings of the synthesiser; rate in words a minute, pitch, pitch_range and volume 0 to 100."""

    name: str
    rate: int
    pitch: int
    pitch_range: int
    volume: int

    @property
    def held_out(self) -> bool:
        """Whether no training utterance has this accent with this timbre."""
        return held_out(self.name)


def held_out(name: str) -> bool:
    """Whether a voice's name falls into the held-out part."""
    return hashlib.sha256(name.encode()).digest()[0] % PARTS == 0


def draw(seed: int, from_held_out: bool) -> Voice:
    """The voice of this seed, from the part that is asked for."""
    rng = random.Random(seed)
    while True:
        name = f"{rng.choice(ACCENTS)}+{rng.choice(TIMBRES)}"
        if held_out(name) == from_held_out:
            return Voice(
                name,
                rate=rng.randint(130, 215),
                pitch=rng.randint(30, 70),
                pitch_range=rng.randint(30, 70),
                volume=rng.randint(60, 100),
            )
