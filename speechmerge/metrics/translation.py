"""Corpus BLEU and chrF by sacreBLEU: detokenised, case as it is.

    result = Translation(references, hypotheses, tokenizer_of("de"))
    result.bleu, result.signature        # 0.2345 (BLEU / 100), "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|..."

Values are fractions (BLEU / 100, chrF / 100), as those of all other metrics; what prints them shows points.
"""
import functools
import importlib.util

import numpy as np

from speechmerge.errors import SpeechMergeError, UsageError

TOKENIZERS = {"zh": "zh", "ja": "ja-mecab", "ko": "ko-mecab"}  # languages without spaces, which 13a would not split
MECAB = {"ja-mecab": ("MeCab", "ja"), "ko-mecab": ("mecab_ko", "ko")}  # tokenizer -> (module, extra of sacrebleu)


def tokenizer_of(language: str | None) -> str:
    """sacreBLEU's tokenizer for a target language (Whisper code; zh-CN is zh): 13a unless it needs one of its own."""
    return TOKENIZERS.get((language or "").replace("_", "-").split("-")[0].lower(), "13a")


class Translation:
    """Scores of hypotheses against one reference each. sacreBLEU itself does not compare the lengths of its lists."""

    def __init__(self, references: list[str], hypotheses: list[str], tokenizer: str = "13a"):
        if len(references) != len(hypotheses):
            raise SpeechMergeError(f"BLEU: {len(references)} references but {len(hypotheses)} hypotheses")
        if not references:
            raise SpeechMergeError("BLEU: no references to score")
        self.references, self.hypotheses, self.tokenizer = references, hypotheses, tokenizer

    @functools.cached_property
    def _bleu(self):
        return metric(self.tokenizer)

    @functools.cached_property
    def corpus(self):
        """sacreBLEU's BLEUScore."""
        return self._bleu.corpus_score(self.hypotheses, [self.references])

    @functools.cached_property
    def _chrf(self):
        from sacrebleu.metrics import CHRF

        scorer = CHRF()
        return scorer.corpus_score(self.hypotheses, [self.references]).score / 100, str(scorer.get_signature())

    @property
    def bleu(self) -> float:
        return self.corpus.score / 100

    @property
    def chrf(self) -> float:
        return self._chrf[0]

    @property
    def signature(self) -> str:
        return self.corpus and str(self._bleu.get_signature())  # known once a corpus was scored

    @property
    def chrf_signature(self) -> str:
        return self._chrf[1]

    @functools.cached_property
    def statistics(self) -> np.ndarray:
        """Per sentence: int [sentences, 10], n-grams matched (1 to 4), n-grams written, length, reference length."""
        sentence = metric(self.tokenizer, effective_order=True)  # the counts are those of the corpus score
        rows = [sentence.sentence_score(hyp, [ref]) for hyp, ref in zip(self.hypotheses, self.references)]
        return np.array([[*row.counts, *row.totals, row.sys_len, row.ref_len] for row in rows])

    def replicates(self, counts: np.ndarray) -> np.ndarray:
        """BLEU / 100 of resampled test sets; counts [repetitions, sentences]."""
        sums = (counts @ self.statistics).astype(int).tolist()
        return np.array([self._bleu.compute_bleu(row[:4], row[4:8], row[8], row[9], smooth_method="exp").score / 100
                         for row in sums])


def metric(tokenizer: str, effective_order: bool = False):
    """sacreBLEU's BLEU. Raises UsageError for a tokenizer it does not know, SpeechMergeError for one not installed."""
    from sacrebleu.metrics import BLEU

    if tokenizer not in BLEU.TOKENIZERS:
        raise UsageError(f"BLEU tokenizer {tokenizer!r}: sacreBLEU knows {', '.join(sorted(BLEU.TOKENIZERS))}")
    module, extra = MECAB.get(tokenizer, (None, None))
    if module and not importlib.util.find_spec(module):
        raise SpeechMergeError(f"BLEU with the tokenizer {tokenizer} needs MeCab: run `pip install "
                               f"'sacrebleu[{extra}]'`, or choose --bleu-tokenizer char (not comparable)")
    return BLEU(tokenize=tokenizer, effective_order=effective_order)
