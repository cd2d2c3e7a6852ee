"""What probes are asked: articulatory classes of a phone, by panphon's 24 features, and the words of an utterance.

    class_of("d͡ʒ", "manner")     # affricate
    class_of("a", "place")        # None: vowels have no place

panphon (Mortensen et al., 2016) splits an affricate without a tie bar into a stop and a fricative, and does not know
ASCII's g; phones are put right before they are looked up (metrics/phone_distance.py), and lose what stands for stress
and for the colour of r, which panphon calls high. A diphthong is a vowel, of neither height nor backness.
"""
import functools
import unicodedata

from speechmerge.metrics.phone_distance import features, repaired

PHONETIC = ("vowel", "manner", "place", "voicing", "height", "backness")
WORD = "word"
PROPERTIES = (*PHONETIC, WORD)
PASSED_OVER = "ˈˌ\u200d˞"


@functools.lru_cache(maxsize=None)
def segments(phone: str) -> tuple[dict[str, int], ...]:
    """panphon's features {name: -1, 0, 1} of each segment of a phone; () for what panphon does not know."""
    table = features()
    written = bare(repaired(bare(phone)))
    return tuple(dict(zip(table.names, vector)) for vector in table.word_to_vector_list(written, numeric=True))


def bare(phone: str) -> str:
    return phone.translate(dict.fromkeys(map(ord, PASSED_OVER)))


@functools.lru_cache(maxsize=None)
def class_of(phone: str, name: str) -> str | None:
    """The class of a phone, None where the question does not arise or panphon does not know the phone."""
    found = segments(phone)
    if not found:
        return None
    first = found[0]
    if name == "vowel":
        return "vowel" if manner(first) == "vowel" else "consonant"
    if manner(first) == "vowel":
        if name in VOWELS and len(found) == 1:
            return VOWELS[name](first)
        return "vowel" if name == "manner" else None
    return CONSONANTS[name](first) if name in CONSONANTS else None


def manner(of: dict[str, int]) -> str:
    if of["nas"] > 0 and of["cons"] > 0:
        return "nasal"
    if of["syl"] > 0:
        return "vowel"
    if of["son"] < 0:
        return "fricative" if of["cont"] > 0 else "affricate" if of["delrel"] > 0 else "stop"
    if glottal(of):
        return "fricative" if of["cont"] > 0 else "stop"  # h, ʔ, which panphon calls sonorants
    if of["cons"] > 0:
        return "lateral" if of["lat"] > 0 else "rhotic"
    return "approximant"


def glottal(of: dict[str, int]) -> bool:
    others = max(of["nas"], of["cor"], of["lab"], of["syl"])
    return of["son"] > 0 > of["delrel"] and of["hi"] < 0 < of["back"] and others < 0


def place(of: dict[str, int]) -> str:
    if of["cor"] > 0:
        if of["ant"] > 0:
            return "dental" if of["distr"] > 0 else "alveolar"
        return "palatal" if of["hi"] > 0 else "postalveolar" if of["distr"] > 0 else "retroflex"
    if of["lab"] > 0:
        return "labial"
    if glottal(of):
        return "glottal"
    if of["hi"] > 0:
        return "velar" if of["back"] > 0 else "palatal"
    return "uvular" if of["back"] > 0 else "other"


def voicing(of: dict[str, int]) -> str | None:
    """Of obstruents: sonorants are voiced, whatever a state holds."""
    return None if of["son"] > 0 else "voiced" if of["voi"] > 0 else "voiceless"


CONSONANTS = {"manner": manner, "place": place, "voicing": voicing}
VOWELS = {"height": lambda of: "high" if of["hi"] > 0 else "low" if of["lo"] > 0 else "mid",
          "backness": lambda of: "back" if of["back"] > 0 else "front"}


def word_type(text: str) -> str:
    """A word without case and the punctuation around it."""
    text = unicodedata.normalize("NFC", text).lower()
    while text and unicodedata.category(text[0])[0] in "PS":
        text = text[1:]
    while text and unicodedata.category(text[-1])[0] in "PS":
        text = text[:-1]
    return text


def phones_at(pieces, times) -> list[int | None]:
    """For each time (seconds, ascending) the number of the piece that is being said."""
    found, place = [], 0
    for time in times:
        while place < len(pieces) and pieces[place].end <= time:
            place += 1
        found.append(place if place < len(pieces) and pieces[place].start <= time else None)
    return found
