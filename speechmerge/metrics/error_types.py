"""What kinds of errors a recogniser makes: every substitution, insertion and deletion of the WER in exactly one class.

    typology = Typology(lexicons={"it": {...}, "fr": {...}}, sounds=lambda word, language: ["k", "a", "z", "a"])
    errors = typology.errors(rates, ["it", ...], [2.3, ...])    # rates: metrics.wer.ErrorRates; a list for each utterance

Alignments are those that the WER is counted from. The first class that fits counts, in the order of CLASSES:

    script         the word that was written is in another Unicode script than the reference's
    language       it stands in another language's training transcripts and not in this one's; or the whole hypothesis is in
                   another language (see `foreign`)
    unjudged       none of both, and nothing can say how words of this language sound
    spelling       the same phones as the reference
    phonetic       at most `threshold` away from it, per phone
    oov            the reference is not in the language's training transcripts
    other          none of these
    hallucination  insertion in an utterance with a loop, a burst or far more words than were said (see `hallucination`)
    insertion      any other
    truncation     deletion in a run of at least `tail` at the end of the reference, or of an empty hypothesis
    deletion       any other
"""
import functools
import unicodedata
from collections import Counter
from dataclasses import dataclass

import jiwer
import numpy as np

from speechmerge.metrics.phone_distance import PhoneDistance
from speechmerge.metrics.wer import EMPTY

SUBSTITUTIONS = ("script", "language", "unjudged", "spelling", "phonetic", "oov", "other")
INSERTIONS, DELETIONS = ("hallucination", "insertion"), ("truncation", "deletion")
CLASSES = (*SUBSTITUTIONS, *INSERTIONS, *DELETIONS)
THRESHOLD = 0.25  # one phone of four left out; of two random words of one language 1 to 7 % are as near
LOOP_WORDS, LOOP_TURNS = 10, 3  # a loop: the same 1 to 10 words at least three times in a row
BURST, TAIL, FASTEST = 3, 2, 7.0  # words, words, words per second (quick talkers reach 5 to 6)
HAN = ("CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA")  # Japanese writes one word in all of them


@dataclass(frozen=True)
class Error:
    """`place`: ("word", i) of the i-th reference word, ("gap", i, n) of the n-th word inserted before it; two systems err
    at the same place of the same reference."""
    kind: str
    place: tuple
    reference: str | None = None
    hypothesis: str | None = None
    distance: float | None = None  # per phone, of substitutions
    phones: tuple = ()  # ((said, written), ...) where kind is phonetic
    reason: str = ""  # of a hallucination: loop, burst, long; of language: the other one


class Typology:
    """lexicons: {language: words of its training transcripts}. vocabulary: {language: more words that are surely of it},
    such as those of the references: they are not taken for another language's. sounds(word, language): its phones, None
    where nobody knows the language's sounds. Words are normalised as they are scored."""

    def __init__(self, lexicons, sounds, vocabulary=None, threshold=THRESHOLD, burst=BURST, tail=TAIL, fastest=FASTEST):
        self.lexicons, self.sounds, self.threshold = lexicons, sounds, threshold
        self.burst, self.tail, self.fastest = burst, tail, fastest
        self.own = {language: lexicons.get(language, set()) | (vocabulary or {}).get(language, set())
                    for language in {*lexicons, *(vocabulary or {})}}
        self.distance = PhoneDistance()
        self.compared = functools.lru_cache(maxsize=None)(self._compared)

    def errors(self, rates, languages, seconds) -> list[list[Error]]:
        """rates: metrics.wer.ErrorRates; languages, seconds (None: not known): of each utterance."""
        if not rates.references:
            return []
        found = jiwer.process_words(rates.references, rates.hypotheses)
        rows = zip(found.references, found.hypotheses, found.alignments, languages, seconds)
        return [self.utterance(*row) for row in rows]

    def utterance(self, reference, hypothesis, chunks, language, seconds=None) -> list[Error]:
        """Errors of one utterance. reference, hypothesis: words; chunks: jiwer's alignment of them."""
        whole = self.foreign(hypothesis, language)
        wild = self.hallucination(reference, hypothesis, chunks, seconds)
        found = []
        for place, chunk in enumerate(chunks):
            said, written = (reference[chunk.ref_start_idx:chunk.ref_end_idx],
                             hypothesis[chunk.hyp_start_idx:chunk.hyp_end_idx])
            if chunk.type == "substitute":
                pairs = enumerate(zip(said, written), chunk.ref_start_idx)
                found += [self.substitution(i, a, b, language, whole) for i, (a, b) in pairs]
            elif chunk.type == "insert":
                kind = "hallucination" if wild else "insertion"
                found += [Error(kind, ("gap", chunk.ref_start_idx, n), None, word, reason=wild)
                          for n, word in enumerate(written)]
            elif chunk.type == "delete":
                cut = not hypothesis or (place == len(chunks) - 1 and len(said) >= self.tail)
                kind = "truncation" if cut else "deletion"
                found += [Error(kind, ("word", i), word) for i, word in enumerate(said, chunk.ref_start_idx)]
        return found

    def substitution(self, i: int, said: str, written: str, language, whole: str | None) -> Error:
        place = ("word", i)
        if said == EMPTY:  # nothing was said; the normaliser indic counts a word of it
            return Error("other", place, said, written)
        if (first := script(said)) and (second := script(written)) and first != second:
            return Error("script", place, said, written, reason=second.lower())
        if other := whole or self.other_language(written, language):
            return Error("language", place, said, written, reason=other)
        distance, edits, same = self.compared(said, written, language)
        if same is None:
            return Error("unjudged", place, said, written)
        if same:
            return Error("spelling", place, said, written, 0.0)
        if distance is not None and distance <= self.threshold:
            return Error("phonetic", place, said, written, distance, edits)
        unknown = language in self.lexicons and said not in self.lexicons[language]
        return Error("oov" if unknown else "other", place, said, written, distance)

    def _compared(self, said: str, written: str, language):
        """(distance per phone or None, differing phones, whether the phones are the same; None: nobody knows)."""
        first, second = self.sounds(said, language), self.sounds(written, language)
        if first is None or second is None:
            return None, (), None
        distance, edits = self.distance.compare(first, second)
        return distance, tuple(edits), bool(first) and list(first) == list(second)

    def other_language(self, word: str, language) -> str | None:
        """The language in whose training transcripts the word stands, where it is no word of this one."""
        if word in self.own.get(language, ()):
            return None
        others = (other for other in sorted(self.lexicons) if other != language)
        return next((other for other in others if word in self.lexicons[other]), None)

    def foreign(self, words, language) -> str | None:
        """The other language that a whole hypothesis is in: it knows at least two of its words, half of them and twice as
        many as this language does."""
        known = {other: sum(word in own for word in words) for other, own in self.lexicons.items() if other != language}
        other = max(sorted(known), key=known.get, default=None)
        if other is None or known[other] < max(2, len(words) / 2):
            return None
        mine = self.own.get(language, ())
        return other if known[other] >= 2 * sum(word in mine for word in words) else None

    def hallucination(self, reference, hypothesis, chunks, seconds=None) -> str:
        """Why what was inserted here was never said: `loop` (the same words over and over, more often than in the
        reference), `burst` (a run of insertions), `long` (words for nothing said, twice the reference's, or more than
        anybody says in the time); "" where it may have been."""
        if (turns := loop_turns(hypothesis)) >= LOOP_TURNS and turns > loop_turns(reference):
            return "loop"
        if any(chunk.type == "insert" and chunk.hyp_end_idx - chunk.hyp_start_idx >= self.burst for chunk in chunks):
            return "burst"
        reference = [word for word in reference if word != EMPTY]
        count, more = len(hypothesis), len(hypothesis) - len(reference)
        longer = more >= self.burst and (count > 2 * len(reference) or (seconds and count > self.fastest * seconds))
        return "long" if longer or (count and not reference) else ""


def loop_turns(words) -> int:
    """How often the most repeated run of 1 to LOOP_WORDS words stands in a row: 1 where nothing is repeated, 0 of none."""
    best = min(len(words), 1)
    for size in range(1, min(LOOP_WORDS, len(words) // 2) + 1):
        equal = 0
        for i in range(size, len(words)):
            equal = equal + 1 if words[i] == words[i - size] else 0
            best = max(best, equal // size + 1)
    return best


@functools.lru_cache(maxsize=None)
def script(word: str) -> str | None:
    """The Unicode script of most of its letters and vowel signs, such as LATIN, DEVANAGARI; None for digits alone."""
    letters = [c for c in word if unicodedata.category(c) in ("Lu", "Ll", "Lt", "Lo", "Mc", "Mn")]
    names = [unicodedata.name(c, "").split(" ")[0] for c in letters]
    found = Counter("CJK" if name in HAN else name for name in names if name not in ("COMBINING", ""))
    return max(sorted(found), key=found.get, default=None)


def class_counts(errors: list[list[Error]]) -> np.ndarray:
    """int [utterances, classes] in the order of CLASSES."""
    found = np.zeros((len(errors), len(CLASSES)), dtype=np.int64)
    for row, utterance in zip(found, errors):
        for error in utterance:
            row[CLASSES.index(error.kind)] += 1
    return found


def changes(before: list[list[Error]], after: list[list[Error]]) -> tuple[np.ndarray, np.ndarray]:
    """(added, removed), int [utterances, classes]: errors of `after` at places where `before` made none, and of `before`
    where `after` makes none. An error at the same place in both is neither, whatever its class."""
    pairs = [[{error.place for error in errors} for errors in both] for both in zip(before, after, strict=True)]
    added = [[error for error in new if error.place not in old] for new, (old, _) in zip(after, pairs)]
    removed = [[error for error in old if error.place not in new] for old, (_, new) in zip(before, pairs)]
    return class_counts(added), class_counts(removed)


def word_pairs(errors: list[list[Error]]) -> Counter:
    """Substitutions: (said, written) -> how often."""
    return Counter((error.reference, error.hypothesis) for utterance in errors for error in utterance
                   if error.kind in SUBSTITUTIONS)


def phone_pairs(errors: list[list[Error]]) -> Counter:
    """The phones that phonetic confusions confuse: (said, written) -> how often, ∅ for none."""
    return Counter(pair for utterance in errors for error in utterance for pair in error.phones)
