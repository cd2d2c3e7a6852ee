"""Word and character error rates, corpus level: (substitutions + deletions + insertions) / reference words.

    result = error_rates(["a b c"], ["a x c"])     # result.wer == 1/3

Empty references count: their insertions are errors, their zero words are in the denominator. Rates are never averaged
over utterances.

Normalisers: none; basic (all scripts); english (Whisper's); indic (as the Vistaar benchmark scores, by language).
"""
import functools
import re
import string
import unicodedata
import warnings
from dataclasses import dataclass

import jiwer
import numpy as np

from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.registry import nearest

APOSTROPHES = "'\u2019\u02bc"
INDIC_DELETED = str.maketrans("", "", string.punctuation + "\u0964\u06d4'-\u0965")  # both dandas and the Urdu full stop
EMPTY = "<empty>"  # what an empty reference becomes under `indic`: one word


@dataclass(frozen=True)
class ErrorRates:
    """Aligned pairs of normalised texts. Alignments are made when they are first asked for."""
    references: list[str]
    hypotheses: list[str]
    empty_references: int = 0  # once normalised

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


def error_rates(references: list[str], hypotheses: list[str], normaliser: str = "basic",
                languages: list[str | None] | None = None) -> ErrorRates:
    """Pairs, normalised on both sides, ready to be counted. `languages`: of each pair, which only `indic` asks for."""
    if len(references) != len(hypotheses):
        raise SpeechMergeError(f"error rate: {len(references)} references but {len(hypotheses)} hypotheses")
    warn_if_marks_are_lost(normaliser, references)
    each = [normaliser_by_name(normaliser, language) for language in languages or [None] * len(references)]
    refs, hyps = ([normalise(text) for normalise, text in zip(each, texts)] for texts in (references, hypotheses))
    empty = sum(not text for text in refs)
    return ErrorRates([text or EMPTY for text in refs] if normaliser == "indic" else refs, hyps, empty)


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
    return " ".join(text.split())


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
    return " ".join(english_normaliser()(text).split())


@functools.lru_cache(maxsize=1)
def english_normaliser():
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer
    return EnglishTextNormalizer({})


def indic(text: str, language: str | None) -> str:
    """Vistaar's (Bhogale et al. 2023): ASCII punctuation and dandas deleted, not replaced by a space; spellings unified
    by the Indic NLP library except for Urdu; runs of spaces made one. Case stays. Languages that the library does not
    know, such as Italian beside Hindi, are normalised as by `basic`.
    """
    if not language:
        raise SpeechMergeError("normaliser indic: an utterance without a language; it is normalised by language, so "
                               "give utt2lang (or --lang for plain files)")
    unify = indic_normaliser(language)
    if unify is None:
        return basic(text)
    text = text.translate(INDIC_DELETED)
    return re.sub(" +", " ", unify(text)).strip()


@functools.lru_cache(maxsize=None)
def indic_normaliser(language: str):
    """text -> text, None for a language that the library does not know."""
    try:
        from indicnlp.normalize.indic_normalize import IndicNormalizerFactory
    except ImportError as error:
        raise SpeechMergeError("normaliser indic: needs the Indic NLP library; run: pip install 'speechmerge[indic]'") from error
    if language == "ur":  # Vistaar leaves Urdu's spellings alone
        return str
    factory = IndicNormalizerFactory()
    return factory.get_normalizer(language).normalize if factory.is_language_supported(language) else None


NORMALISERS = {"none": none, "basic": basic, "english": english, "indic": indic}


def normaliser_by_name(name: str, language: str | None = None):
    """The function text -> text; `language` for those that depend on it."""
    if name not in NORMALISERS:
        raise UsageError(f"unknown normaliser {name!r}; {nearest(name, NORMALISERS)}")
    return functools.partial(indic, language=language) if name == "indic" else NORMALISERS[name]


def warn_if_marks_are_lost(name: str, references: list[str]):
    """Combining marks (Indic vowel signs) that a normaliser deletes make wrong words right: say so once."""
    normalise = normaliser_by_name(name)
    if name in ("none", "indic"):  # the Indic NLP library joins and unifies marks on purpose
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
