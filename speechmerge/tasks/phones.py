"""Phone recognition, SUPERB's PR: the phones of what is said, apart by spaces; corpus-level phone error rate decides.

The phones stand in `utt2phones` (written by `speechmerge phones`, from a lexicon or by espeak-ng); where a data directory
has no such table, espeak-ng says how its transcripts are pronounced in the utterance's language.
"""
import ctypes
import re
from pathlib import Path

from speechmerge.data.directory import DataDir
from speechmerge.errors import SpeechMergeError
from speechmerge.metrics.wer import error_rates
from speechmerge.tasks import TASKS
from speechmerge.tasks.asr import ASR

TABLE = "phones"  # utt2phones
IPA, SEPARATOR = 0x02, ord("_") << 8  # espeak's phoneme mode: IPA, an underscore between two phonemes
UTF8 = 1
NOT_PHONES = re.compile(r"[ˈˌ\u200d]|\([^()]*\)")  # stress, joiners, and the marks of a change of language: (en)
DEFAULT_LANGUAGE = "en"


@TASKS.register("phones")
class Phones(ASR):
    """Phone recognition: phones apart by spaces; corpus-level phone error rate (PER) decides."""

    name = "phones"
    metric = "per"
    max_new_tokens = 192
    ctc_units = "word"  # a symbol of CTC is a phone, however many letters it is written with
    instruction = "Write the phones of the speech in IPA, with spaces between them."

    def examples(self, data: DataDir):
        spoken = phones_of(data)
        return [self.example(utterance, spoken[id], self.prompt_of(data, utterance))
                for id, utterance in sorted(data.utterances.items())]

    def rates(self, ids, refs, hyps, languages=None):
        """Phones are compared as they stand: no normaliser may fold what tells them apart."""
        return error_rates([refs[id] for id in ids], [hyps.get(id, "") for id in ids], "none")

    def score(self, refs, hyps, *, speakers=None, languages=None, scores=None, labels=None) -> dict:
        found = super().score(refs, hyps, speakers=speakers, languages=languages, scores=scores, labels=labels)
        found["per"], found["phones"] = found.pop("wer"), found.pop("words")
        del found["cer"]
        return {**found, "normaliser": "none"}

    def more_replicates(self, refs, hyps, counts, *, languages=None, scores=None):
        return {}


def phones_of(data: DataDir) -> dict[str, str]:
    """{utterance: its phones} out of utt2phones, else by espeak-ng from `text`."""
    given = {id: utterance.labels.get(TABLE) for id, utterance in data.utterances.items()}
    if all(given.values()):
        return given
    if any(given.values()):
        id = next(id for id, phones in sorted(given.items()) if not phones)
        raise SpeechMergeError(f"{data.path / 'utt2phones'}: no phones for utterance {id}; run `speechmerge phones --data "
                               f"{data.path}` again")
    return pronounced(data)


def pronounced(data: DataDir, lexicon: dict[str, str] | None = None) -> dict[str, str]:
    """{utterance: the phones of its transcript}: of the words in the lexicon from there, else by espeak-ng."""
    speaker, found = None if lexicon else Phonemizer(), {}
    for id, utterance in sorted(data.utterances.items()):
        if utterance.text is None:
            raise SpeechMergeError(f"{data.path / 'text'}: no transcript for utterance {id}; its phones are made from it")
        if lexicon:
            found[id] = looked_up(utterance.text, lexicon, f"{data.path / 'text'}:{id}")
        else:
            found[id] = speaker(utterance.text, utterance.language or DEFAULT_LANGUAGE)
        if not found[id]:
            raise SpeechMergeError(f"{data.path / 'text'}:{id}: {utterance.text!r} has no phones; leave the utterance out")
    return found


class Phonemizer:
    """espeak-ng: text -> phones in IPA without stress, apart by spaces."""

    def __init__(self):
        from speechmerge.corpora.mini.speech import Synthesizer

        self.engine = Synthesizer()  # loads the library, which is one for all of the process

    def __call__(self, text: str, language: str) -> str:
        library = self.engine.library
        if library.espeak_SetVoiceByName(language.encode()) != 0:
            raise SpeechMergeError(f"espeak-ng: no voice for the language {language!r}; expected a code such as en, de, hi "
                                   "(utt2lang), or give phones in utt2phones")
        library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        place, clauses = ctypes.c_char_p(text.encode("utf-8")), []
        while place.value is not None:  # one clause at a time; None after the last one
            spoken = library.espeak_TextToPhonemes(ctypes.byref(place), UTF8, SEPARATOR | IPA)
            clauses.append((spoken or b"").decode("utf-8"))
        return " ".join(NOT_PHONES.sub("", " ".join(clauses)).replace("_", " ").split())


def read_lexicon(path) -> dict[str, str]:
    """`WORD  P H O N E S` lines as of LibriSpeech's lexicon; of several pronunciations of a word the first counts."""
    found = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        word, *phones = line.split()
        if not phones:
            raise SpeechMergeError(f"{path}:{number}: found {line[:60]!r}, expected `WORD  P H O N E S`")
        found.setdefault(re.sub(r"\(\d+\)$", "", word).lower(), " ".join(phones))
    if not found:
        raise SpeechMergeError(f"{path}: empty, expected `WORD  P H O N E S` lines")
    return found


def looked_up(text: str, lexicon: dict[str, str], place: str) -> str:
    words = text.lower().split()
    if unknown := [word for word in words if word not in lexicon]:
        raise SpeechMergeError(f"{place}: the word {unknown[0]!r} is not in the lexicon; add it, or leave --lexicon away for "
                               "espeak-ng's phones")
    return " ".join(lexicon[word] for word in words)
