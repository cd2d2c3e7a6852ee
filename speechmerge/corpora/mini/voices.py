"""Who speaks: espeak's voice variants as speakers, each variant in one group only.

`base` speaks to the base model alone; `train`, `dev` and `test` are the corpus's. Variants that differ in little but
pitch (edward and edward2, Gene and Gene2, pablo and pedro ...) stay in one group. Left out: variants whose noise
espeak does not seed (Reed, caleb), whispers, and those that people cannot follow (robosoft, UniRobot ...).
"""
from dataclasses import dataclass, replace

from speechmerge.corpora.mini.speech import Delivery

GROUPS = {
    "base": (
        "Andy AnxiousAndy Lee Denis Diogo Henrique Hugo michel miguel anika Jacky Mario Michael Mike adam "
        "announcer antonio benjamin boris croak david edward edward2 f4 grandpa ian iven iven3 john kaukovalta "
        "klatt2 klatt4 klatt6 m5 marcelo mike2 norbert rob sandro travis Tweaky linda belinda steph2 steph3 Alicia "
    ).split(),
    "train": "f1 f3 m2 m4 Gene Gene2 Marco ed victor quincy Storm pablo pedro paul grandma steph".split(),
    "dev": "f5 m8 Annie robert max m1".split(),
    "test": "f2 m3 Andrea Alex aunty m7 gustave shelby m6 Nguyen".split(),
}


@dataclass(frozen=True)
class Speaker:
    """A variant with the speaker's own pitch and pace."""

    name: str
    variant: str
    pitch: int = 50  # espeak's scale, 50 = the variant's own
    rate: int = 165  # words per minute

    def delivery(self, rng) -> Delivery:
        """An ordinary way of saying something: small changes around the speaker's own."""
        return Delivery(self.rate + rng.randint(-12, 12), self.pitch + rng.randint(-4, 4), 50 + rng.randint(-10, 10))


def speakers(group: str) -> list[Speaker]:
    """The speakers of a group; pitch and pace follow from the variant's place, not from any seed."""
    found = []
    for place, variant in enumerate(GROUPS[group]):
        found.append(Speaker(f"{group}-{variant.lower()}", variant, 42 + 8 * (place % 3), 155 + 10 * (place * 2 % 3)))
    return found


def other_pitches(speaker: Speaker, pitches) -> list[Speaker]:
    """The same variant as several speakers: how the base model hears more voices than there are variants."""
    return [replace(speaker, name=f"{speaker.name}-{pitch}", pitch=pitch) for pitch in pitches]
