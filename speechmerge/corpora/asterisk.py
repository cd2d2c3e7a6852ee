"""Asterisk's core sounds: telephone prompts in en, es, fr, it, ru, one voice each, G.722, CC BY-SA or BY 3.0.

    speechmerge prepare --corpus asterisk --corpus-dir downloads/asterisk --output-dir data

Expected layout, that of Asterisk's tarballs (`egs/asterisk/local/download.sh` makes the same from Debian's packages):

    <corpus_dir>/<lang>/core-sounds-<lang>.txt      `key: transcript` lines, `;` comments
    <corpus_dir>/<lang>/**/<key>.g722

Written: data/<lang>/{train,dev,test} and data/<lang>/wav, 16 kHz. The transcripts stay as they are but for white space.
Lines that do not say what is spoken are skipped and counted: sound descriptions, remarks in brackets that may or may
not be spoken, letters lost in an encoding, a key with two texts.
"""
import hashlib
import logging
import re
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np

from speechmerge.corpora.base import CORPORA
from speechmerge.data.audio import RATE, write_wav
from speechmerge.data.directory import DataDir, Utterance
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.files import write_json

VOICES = {"en": "en_allison", "es": "es_allison", "fr": "fr_june", "it": "it_carlo", "ru": "ru_maxim"}
# Usable prompts of release 1.6.1 with the default limits; another release may differ by a few
EXPECTED = {"en": 543, "es": 472, "fr": 504, "it": 553, "ru": 550}
# Tones and noises; the lists describe some of them in words without brackets (`un suono di beep ascendente`)
SOUNDS = ("beep", "beeperr", "confbridge-join", "confbridge-leave", "ascending-2tone", "descending-2tone", "tt-monkeys")
MIN_FOUND = 0.9  # a corpus with fewer of its prompts is incomplete
TEST_SHARE, DEV_SHARE = 0.16, 0.08
SILENT = 100  # peak of 16-bit samples; the silence prompts have 14
LINE = re.compile(r"([^\s:;]+):(?:\s+(.*))?$")
REMARK = re.compile(r"\[[^\]]*\]|\([^)]*\)|<[^>]*>")
OTHER_KEY = re.compile(r"([\w/]+[-/][\w/-]+): ")
LOST_LETTER = re.compile(r"\?(?=\s+[^\W\d_A-ZА-ЯЁ]|\.)")  # `non pu? essere`: a question mark inside a sentence


@CORPORA.register("asterisk")
class Asterisk:
    """Telephone prompts of the Asterisk PBX: real speech in en, es, fr, it, ru (G.722, 16 kHz, CC BY-SA 3.0)"""

    tasks = ("asr",)
    languages = tuple(VOICES)

    def prepare(self, output_dir, corpus_dir, languages=None, seed=0, min_seconds=0.2, max_seconds=30.0):
        """Write the data directories <lang>/{train,dev,test} of these languages (default: all) and return their paths.

        Raises SpeechMergeError for a missing or incomplete corpus, UsageError for an unknown language.
        """
        languages = list(languages or VOICES)
        for language in languages:
            if language not in VOICES:
                raise UsageError(f"asterisk: language {language!r}; there are {', '.join(VOICES)}")
        limits, made = (min_seconds, max_seconds), []
        for language in languages:
            made += prepare_language(Path(output_dir) / language, Path(corpus_dir) / language, language, seed, limits)
        return made


def prepare_language(output: Path, folder: Path, language: str, seed: int, limits) -> list[Path]:
    """One language's data directories."""
    prompts, skipped = find_prompts(folder, language)
    splits = {"train": {}, "dev": {}, "test": {}}
    for key, (text, path) in sorted(prompts.items()):
        samples = decode_g722(path)
        reason = audio_problem(samples, limits)
        if reason:
            skipped[reason] += 1
            continue
        id = f"{language}-{key.replace('/', '.')}"
        wav = output / "wav" / f"{id}.wav"
        write_wav(wav, samples / np.float32(32768))
        seconds = len(samples) / RATE
        splits[split_of(text, seed)][id] = Utterance(id, str(wav), text, VOICES[language], language, seconds)
    report(output, folder, language, {name: len(utterances) for name, utterances in splits.items()}, skipped)
    for name, utterances in splits.items():
        DataDir(output / name, utterances).write()
    return [output / name for name in splits]


def report(output: Path, folder: Path, language: str, counts: dict[str, int], skipped: Counter):
    """State what was used and what was not, beside what release 1.6.1 gives."""
    usable, expected = sum(counts.values()), EXPECTED[language]
    reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(skipped.items()))
    logging.info("%s: %d prompts (%s), release 1.6.1 has %d; skipped: %s", language, usable,
                 ", ".join(f"{name} {n}" for name, n in counts.items()), expected, reasons or "none")
    if not all(counts.values()):
        raise SpeechMergeError(f"{folder}: {usable} usable prompts, too few for train, dev and test; {again(language)}")
    write_json(output / "prepare.json",
               {"usable": usable, "release_1.6.1": expected, "splits": counts, "skipped": dict(skipped)})


def again(language: str) -> str:
    return f"run egs/asterisk/local/download.sh --languages {language}"


def find_prompts(folder: Path, language: str) -> tuple[dict[str, tuple[str, Path]], Counter]:
    """{key: (transcript, g722 file)} of what is spoken, and why the others were left out."""
    texts = folder / f"core-sounds-{language}.txt"
    if not texts.is_file():
        raise SpeechMergeError(f"{texts}: not there; expected the texts of package asterisk-core-sounds-{language}; "
                               f"{again(language)}")
    audio = {path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob("*.g722")}
    if not audio:
        raise SpeechMergeError(f"{folder}: no *.g722 files; expected those of asterisk-core-sounds-{language}-g722; "
                               f"{again(language)}")
    transcripts, skipped = read_transcripts(texts)
    paths = {key: locate(key, audio, transcripts) for key in transcripts}
    absent = sorted(key for key, path in paths.items() if path is None)
    if len(absent) > (1 - MIN_FOUND) * len(paths):
        raise SpeechMergeError(f"{folder}: incomplete, {len(absent)} of {len(paths)} transcripts have no audio (first: "
                               f"{absent[0]}.g722); {again(language)}")
    skipped.update({"audio without transcript": len(set(audio.values()) - set(paths.values()))})
    prompts = {}
    for key, path in paths.items():
        text, reason = spoken_text(key, transcripts[key], audio) if path else (None, "transcript without audio")
        if reason:
            skipped[reason] += 1
        else:
            prompts[key] = text, path
    return prompts, skipped


def read_transcripts(path: Path) -> tuple[dict[str, str], Counter]:
    """{key: text as published}; keys with two different texts are left out."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise SpeechMergeError(f"{path}: is not UTF-8 (byte {error.start}); fetch it again") from error
    transcripts, skipped, doubtful = {}, Counter(), set()
    for line in map(str.strip, lines):
        if not line or line.startswith(";"):
            continue
        match = LINE.match(line)
        if not match:
            skipped["line without key"] += 1
            continue
        key, text = match[1], match[2] or ""
        if transcripts.setdefault(key, text) != text:
            doubtful.add(key)
    for key in doubtful:
        del transcripts[key]
        skipped["two texts for one key"] += 1
    return transcripts, skipped


def locate(key: str, audio: dict[str, Path], transcripts) -> Path | None:
    """The prompt's file; the lists write some names in capitals (letters/O) that are small on disk."""
    if key in audio:
        return audio[key]
    close = [name for name in audio if name.lower() == key.lower() and name not in transcripts]
    return audio[close[0]] if len(close) == 1 else None


def spoken_text(key: str, text: str, keys) -> tuple[str | None, str | None]:
    """(what is said, None) or (None, why this cannot be known)."""
    if key in SOUNDS:
        return None, "no words"
    text = own_part(key, text, keys)
    remarks = REMARK.findall(text)
    bare = " ".join(REMARK.sub(" ", text).split())
    if not has_words(bare):
        return None, "no words"
    if any(has_words(remark) for remark in remarks):
        return None, "remark in brackets"
    if LOST_LETTER.search(bare):
        return None, "lost letters"
    if re.search(r"[*#]", bare):  # read out as `star`, `pound`
        return None, "symbol for a word"
    return bare, None  # brackets around a lone sign (`at [@]`) are not spoken


def own_part(key: str, text: str, keys) -> str:
    """A few lines repeat their key, or run into the next entry (`... dièse.vm-review: Pour ...`)."""
    for match in OTHER_KEY.finditer(text):
        if match[1] == key and not match.start():
            return text[match.end():]
        if match[1] in keys:
            return text[:match.start()]
    return text


def has_words(text: str) -> bool:
    return any(c.isalnum() for c in text)


def split_of(text: str, seed: int) -> str:
    """train, dev or test from the letters of the text alone: one text is in one set, in every language and release.

    Case, accents, punctuation and spaces do not count: `Contraseña.` and `contrasena` are one text.
    """
    letters = "".join(c for c in unicodedata.normalize("NFKD", text).casefold() if c.isalnum())
    share = int.from_bytes(hashlib.sha256(f"{seed}:{letters}".encode()).digest()[:8], "big") / 2 ** 64
    return "test" if share < TEST_SHARE else "dev" if share < TEST_SHARE + DEV_SHARE else "train"


def decode_g722(path: Path) -> np.ndarray:
    """16-bit samples [n] at 16 kHz; an empty file gives none. G.722 has no header: any bytes decode."""
    try:
        import av
    except ImportError as error:
        raise SpeechMergeError("asterisk: PyAV, which decodes G.722, is missing; "
                               "run: pip install 'speechmerge[av]'") from error
    if path.stat().st_size == 0:
        return np.zeros(0, np.int16)
    try:
        with av.open(str(path), format="g722") as container:
            frames = [frame.to_ndarray().ravel() for frame in container.decode(audio=0)]
    except (av.error.FFmpegError, IndexError) as error:
        raise SpeechMergeError(f"{path}: cannot be decoded as G.722 ({error}); fetch it again") from error
    return np.concatenate(frames) if frames else np.zeros(0, np.int16)


def audio_problem(samples: np.ndarray, limits: tuple[float, float]) -> str | None:
    seconds = len(samples) / RATE
    if seconds < limits[0]:
        return f"shorter than {limits[0]:g} s"
    if seconds > limits[1]:
        return f"longer than {limits[1]:g} s"
    return "silence" if np.abs(samples.astype(np.int32)).max() < SILENT else None
