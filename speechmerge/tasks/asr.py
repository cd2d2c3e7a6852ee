"""Speech recognition: the transcript, scored by corpus-level word error rate."""
from speechmerge.data.directory import DataDir
from speechmerge.errors import SpeechMergeError
from speechmerge.metrics.bootstrap import ratio_replicates
from speechmerge.metrics.wer import error_rates, rate
from speechmerge.tasks import TASKS
from speechmerge.tasks.base import Example, Task


@TASKS.register("asr")
class ASR(Task):
    """Speech recognition: the transcript; corpus-level WER decides."""

    name = "asr"
    kind = "transcription"
    metric = "wer"
    higher_is_better = False
    hears_all = True
    max_new_tokens = 96
    instruction = "Transcribe the speech. Answer with the transcript only."

    def __init__(self, normaliser: str = "basic"):
        self.normaliser = normaliser

    def examples(self, data: DataDir) -> list[Example]:
        found = []
        for id, utterance in sorted(data.utterances.items()):
            if utterance.text is None:
                raise SpeechMergeError(f"{data.path / 'text'}: no transcript for utterance {id}; asr needs one")
            found.append(self.example(utterance, utterance.text, self.prompt_of(data, utterance)))
        return found

    def stratum(self, example):
        return example.language

    def parse(self, text: str) -> str | None:
        return " ".join(text.split())  # an empty transcript is an answer: nothing was said

    def score(self, refs, hyps, *, speakers=None, languages=None, scores=None, labels=None) -> dict:
        self.check_ids(refs, hyps)
        ids = sorted(refs)
        result = self.rates(ids, refs, hyps, languages)
        hits, substitutions, deletions, insertions = (int(total) for total in result.counts.sum(axis=0))
        return {
            "value": result.wer, "metric": self.metric, "n": len(ids), "n_missing": len(refs.keys() - hyps.keys()),
            "n_unparsed": 0, "wer": result.wer, "cer": result.cer, "normaliser": self.normaliser,
            "words": int(result.words.sum()), "hits": hits, "substitutions": substitutions, "deletions": deletions,
            "insertions": insertions, "empty_references": result.empty_references,
            "per_language": self.per_group(ids, result, languages),
            "per_speaker": self.per_group(ids, result, speakers),
        }

    def rates(self, ids, refs, hyps, languages=None):
        by_utterance = [(languages or {}).get(id) for id in ids]
        return error_rates([refs[id] for id in ids], [hyps.get(id, "") for id in ids], self.normaliser, by_utterance)

    @staticmethod
    def per_group(ids, result, groups) -> dict[str, float]:
        """WER of each language or speaker that has reference words."""
        rows = {}
        for i, id in enumerate(ids):
            if (groups or {}).get(id) is not None:
                rows.setdefault(groups[id], []).append(i)
        return {group: rate(result.counts[own]) for group, own in sorted(rows.items()) if result.words[own].any()}

    def more_replicates(self, refs, hyps, counts, *, languages=None, scores=None):
        characters = self.rates(sorted(refs), refs, hyps, languages).characters
        return {"cer": ratio_replicates(characters[:, 1:].sum(axis=1), characters[:, :3].sum(axis=1), counts)}

    def parts(self, refs, hyps, languages=None):
        result = self.rates(sorted(refs), refs, hyps, languages)
        return result.errors, result.words
