"""Speech translation: `utt2translation` in the language of `utt2target_lang`; `text` is what is said."""
from speechmerge.data.directory import DataDir
from speechmerge.errors import SpeechMergeError
from speechmerge.metrics import bootstrap
from speechmerge.metrics.translation import Translation, tokenizer_of
from speechmerge.tasks import TASKS
from speechmerge.tasks.base import Example, Task


@TASKS.register("st")
class SpeechTranslation(Task):
    """Speech translation; detokenised, case-sensitive BLEU decides."""

    name = "st"
    kind = "translation"
    metric = "bleu"
    higher_is_better = True
    hears_all = True
    max_new_tokens = 128
    instruction = "Translate the speech into {target_language}. Answer with the translation only."
    target_language: str | None = None  # known once examples were read; decides the tokenizer of BLEU
    bleu_tokenizer: str | None = None  # instead of the target language's

    def examples(self, data: DataDir) -> list[Example]:
        found = []
        for id, utterance in sorted(data.utterances.items()):
            for name in ("translation", "target_lang"):
                if not utterance.labels.get(name):
                    raise SpeechMergeError(f"{data.path / f'utt2{name}'}: no {name} for utterance {id}; st needs one")
            found.append(self.example(utterance, utterance.labels["translation"], self.prompt_of(data, utterance),
                                        utterance.labels["target_lang"]))
        languages = sorted({example.target_language for example in found})
        if len(languages) > 1:
            raise SpeechMergeError(f"{data.path / 'utt2target_lang'}: found {' and '.join(languages)}, expected one "
                                   "target language per data directory, since BLEU depends on it")
        self.target_language = languages[0] if languages else None
        return found

    def stratum(self, example):
        return example.language

    def parse(self, text: str) -> str | None:
        return " ".join(text.split())

    def translation(self, refs, hyps) -> Translation:
        ids = sorted(refs)
        tokenizer = self.bleu_tokenizer or tokenizer_of(self.target_language)
        return Translation([refs[id] for id in ids], [hyps.get(id, "") for id in ids], tokenizer)

    def score(self, refs, hyps, *, speakers=None, languages=None, scores=None, labels=None) -> dict:
        self.check_ids(refs, hyps)
        result = self.translation(refs, hyps)
        return {
            "value": result.bleu, "metric": self.metric, "n": len(refs), "n_missing": len(refs.keys() - hyps.keys()),
            "n_unparsed": 0, "bleu": result.bleu, "chrf": result.chrf, "brevity_penalty": result.corpus.bp,
            "length": result.corpus.sys_len, "reference_length": result.corpus.ref_len,
            "empty_references": sum(not ref.strip() for ref in refs.values()), "tokenizer": result.tokenizer,
            "signature": result.signature, "chrf_signature": result.chrf_signature,
        }

    def replicates(self, refs, hyps, *, speakers=None, languages=None, scores=None, repetitions=bootstrap.REPETITIONS,
                   seed=bootstrap.SEED):
        counts, unit = self.resampled(refs, speakers, repetitions, seed)
        return self.translation(refs, hyps).replicates(counts), unit
