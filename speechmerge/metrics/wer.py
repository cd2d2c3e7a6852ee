"""Word and character error rates, corpus level: (substitutions + deletions + insertions) / reference words.

    result = error_rates(["a b c"], ["a x c"])     # result.wer == 1/3

Empty references count: their insertions are errors, their zero words are in the denominator. Rates are never averaged
over utterances.
"""
import functools
import unicodedata
import warnings
from dataclasses import dataclass

import jiwer
import numpy as np

from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.registry import nearest

APOSTROPHES = "'\u2019\u02bc"


@dataclass(frozen=True)
class ErrorRates:
    """Aligned pairs of normalised texts. Alignments are made when they are first asked for."""
    references: list[str]
    hypotheses: list[str]

    @functools.cached_property
    def counts(self) -> np.ndarray:
        """Words: int [utterances, 4] with the columns hits, substitutions, deletions, insertions."""
        return alignment_counts(jiwer.process_words, self.references, self.hypotheses)

    @functools.cached_property
    def characters(self) -> np.ndarray:
        """The same of characters; spaces count, as in jiwer and Kaldi."""
        return alignment_counts(jiwer.process_characters, self.references, self.hypotheses)

    @property
    def wer(self) -> float:
        return rate(self.counts)

    @property
    def cer(self) -> float:
        return rate(self.characters)

    @property
    def errors(self) -> np.ndarray:
        """Word errors per utterance."""
        return self.counts[:, 1:].sum(axis=1)

    @property
    def words(self) -> np.ndarray:
        """Reference words per utterance: hits + substitutions + deletions."""
        return self.counts[:, :3].sum(axis=1)


def rate(counts: np.ndarray) -> float:
    """Errors per reference token of rows (hits, substitutions, deletions, insertions)."""
    tokens = counts[:, :3].sum()
    if tokens == 0:
        raise SpeechMergeError("error rate: all references are empty, there is nothing to divide by; "
                               "check the `text` of the data directory")
    return float(counts[:, 1:].sum() / tokens)


def error_rates(references: list[str], hypotheses: list[str], normaliser: str = "basic") -> ErrorRates:
    """Pairs, normalised on both sides, ready to be counted."""
    if len(references) != len(hypotheses):
        raise SpeechMergeError(f"error rate: {len(references)} references but {len(hypotheses)} hypotheses")
    warn_if_marks_are_lost(normaliser, references)
    normalise = normaliser_by_name(normaliser)
    return ErrorRates([" ".join(normalise(text).split()) for text in references],
                      [" ".join(normalise(text).split()) for text in hypotheses])


def alignment_counts(process, references, hypotheses) -> np.ndarray:
    """[utterances, 4]: hits, substitutions, deletions, insertions of jiwer's alignments."""
    counts = np.zeros((len(references), 4), dtype=np.int64)
    column = {"equal": 0, "substitute": 1, "delete": 2, "insert": 3}
    if references:
        for row, chunks in zip(counts, process(references, hypotheses).alignments):
            for chunk in chunks:
                length = max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
                row[column[chunk.type]] += length
    return counts


def none(text: str) -> str:
    """Only white space is unified."""
    return text


def basic(text: str) -> str:
    """NFKC, case folded, punctuation and symbols become spaces; letters, digits and vowel signs of all scripts stay.

    Whisper's own "basic" normaliser also turns every combining mark into a space, which cuts Indic words to pieces.
    Invisible joiners are dropped: two spellings that look the same are the same word.
    """
    kept = []
    for c in unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()):
        kind = unicodedata.category(c)
        hidden = kind in ("Cf", "Cc") and not c.isspace()
        kept.append(" " if kind[0] in "PSZ" or c in APOSTROPHES else "" if hidden else c)
    return " ".join("".join(kept).split())


def english(text: str) -> str:
    """Whisper's English normaliser (numbers, contractions, fillers) without its table of British spellings."""
    return english_normaliser()(text)


@functools.lru_cache(maxsize=1)
def english_normaliser():
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer
    return EnglishTextNormalizer({})


NORMALISERS = {"none": none, "basic": basic, "english": english}


def normaliser_by_name(name: str):
    if name not in NORMALISERS:
        raise UsageError(f"unknown normaliser {name!r}; {nearest(name, NORMALISERS)}")
    return NORMALISERS[name]


def warn_if_marks_are_lost(name: str, references: list[str]):
    """Combining marks (Indic vowel signs) that a normaliser deletes make wrong words right: say so once."""
    normalise = normaliser_by_name(name)
    if name == "none":
        return
    for text in references:
        before = marks(text)
        if before and marks(normalise(text)) < before:
            warnings.warn(f"normaliser {name!r} removes vowel signs: {text[:40]!r} becomes {normalise(text)[:40]!r}; "
                          "error rates would be wrong, use 'basic'", stacklevel=3)
            return


def marks(text: str) -> int:
    """Combining marks that stay separate characters when composed (NFC)."""
    return sum(unicodedata.category(c)[0] == "M" for c in unicodedata.normalize("NFC", text))
