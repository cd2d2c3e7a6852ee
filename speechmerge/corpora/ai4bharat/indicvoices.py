"""IndicVoices: natural speech of India, read, extempore and in conversation; long recordings, cut by their transcripts.

    <Language>/v1/{train,valid}/<recording>.{json,wav}

The json holds `verbatim` and `normalized`, lists of {start, end, text, speaker_id}, times in seconds. Speaker 1 is the
one who asks the questions and is left out, as the publisher does, and so are stretches over 30 s or under 0.05 s. The
tracks of a conversation are recordings `<uuid>_<track>`: they are one group, which never lies in two splits.
"""
import json
import re
from pathlib import Path

from speechmerge.corpora.gather import Gathered, make_utterance, stem
from speechmerge.corpora.published import Hub, Part
from speechmerge.data.directory import Utterance
from speechmerge.errors import SpeechMergeError

LANGUAGES = {"hi": "Hindi", "pa": "Punjabi", "te": "Telugu"}
LAYOUT = "<Language>/v1/{train,valid}/<recording>.{json,wav}"
OBTAIN = ("Ask for access at https://huggingface.co/datasets/ai4bharat/IndicVoices (for the raw archives at "
          "https://github.com/AI4Bharat/IndicVoices) and unpack them there.")
SETS = {"train": "train", "dev": "valid"}
TEXTS = ("normalized", "verbatim")
LATIN = ("keep", "delete", "skip")
ASKING = 1  # speaker_id of whoever leads the recording
SHORTEST, LONGEST = 0.05, 30.0  # seconds of a stretch
TAG = re.compile(r"\[[^\]]*\]|\([^)]*\)|<[^>]*>")  # [laugh], (noise), <unintelligible>
LATIN_LETTERS = re.compile(r"[A-Za-z]")
SIGNS = str.maketrans({"|": "।", "‘": "'", "’": "'", "“": '"', "”": '"', "\u200b": "", "\u200c": "", "\u200d": ""})
CONVERSATION = re.compile(r"([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})_\w+")
CHUNK = re.compile(r"(.+)_chunk_\d+")


def read_language(root: Path, language: str, options) -> Gathered:
    found = Gathered("indicvoices", language)
    for split, name in SETS.items():
        folder = find_set(root, LANGUAGES[language], name)
        recordings = sorted(folder.glob("*.json"))
        if not recordings:
            raise SpeechMergeError(f"{folder}: no <recording>.json there (indicvoices, {name}). {OBTAIN}")
        for path in recordings:
            read_recording(path, split, options, found)
        untold = {path.stem for path in folder.glob("*.wav")} - {path.stem for path in recordings}
        found.skip("recording without transcript", len(untold))
    return found


def find_set(root: Path, language: str, name: str) -> Path:
    folders = [root / language / "v1" / name, root / language.lower() / "v1" / name, root / language / name]
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def read_recording(path: Path, split: str, options, found: Gathered):
    """The stretches of one recording, numbered as they come."""
    told = read_json_of(path, options.indicvoices_text)
    speaker = str(told.get("speaker_id") or path.stem)
    for number, part in enumerate(told[options.indicvoices_text]):
        try:
            start, end, text = float(part["start"]), float(part["end"]), str(part["text"])
        except (KeyError, TypeError, ValueError) as error:
            raise SpeechMergeError(f"{path}: stretch {number}: found {str(part)[:80]}, expected start, end, text and "
                                   f"speaker_id ({type(error).__name__}: {error})") from error
        asking = str(part.get("speaker_id")) == str(ASKING)
        reason = length_problem(start, end) or ("of the one who asks" if asking else None)
        name, latin = f"{path.stem}_chunk_{number}", has_latin(text)
        if latin and not reason:
            reason = "with Latin letters" if options.latin == "skip" else None
            found.remarks[f"lines with Latin letters (latin={options.latin})"].append(name)
        if reason:
            found.skip(reason)
        else:
            found.add(split, speaker=speaker, name=name, text=clean(text, options.latin),
                      audio=path.with_suffix(".wav"), gender=str(told.get("gender") or ""), group=group_of(path.stem),
                      segment=(max(0.0, start), end))


def read_json_of(path: Path, key: str) -> dict:
    try:
        told = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:  # also UnicodeDecodeError
        raise SpeechMergeError(f"{path}: is not JSON in UTF-8 ({error}); copy the file again") from error
    if not isinstance(told, dict) or not isinstance(told.get(key), list):
        raise SpeechMergeError(f"{path}: no list {key!r}, expected the transcript of a recording")
    return told


def length_problem(start: float, end: float) -> str | None:
    if end - start < SHORTEST:
        return f"shorter than {SHORTEST:g} s"
    return f"longer than {LONGEST:g} s" if end - start > LONGEST else None


def group_of(recording: str) -> str:
    """What stays in one split: the conversation where the recording is a track of one."""
    match = CONVERSATION.fullmatch(recording)
    return match[1] if match else recording


def has_latin(text: str) -> bool:
    """Whether Latin letters are spoken words here, not in a tag such as [laugh]."""
    return bool(LATIN_LETTERS.search(TAG.sub(" ", text)))


def clean(text: str, latin: str) -> str:
    """Without tags, one kind of quotes and dandas, no zero-width characters.

    The publisher also deletes Latin letters, which leaves sentences with holes: here only with latin=delete.
    """
    text = TAG.sub(" ", text).translate(SIGNS)
    return LATIN_LETTERS.sub("", text) if latin == "delete" else text


def hub(language: str) -> Hub:
    parts = {split: [Part(LANGUAGES[language].lower(), name)] for split, name in SETS.items()}
    return Hub("ai4bharat/IndicVoices", parts, audio="audio_filepath", names=("gender",))


def from_row(row: dict, number: int, language: str, options) -> Utterance | None:
    """Rows are stretches already, files <recording>_chunk_<n>.flac."""
    chunk = stem((row["audio_filepath"] or {}).get("path") or f"row{number:07d}")
    text = row[options.indicvoices_text]
    if length_problem(0, float(row["duration"])) or options.latin == "skip" and has_latin(text):
        return None
    match = CHUNK.fullmatch(chunk)
    utterance = make_utterance("indicvoices", language, speaker=row["speaker_id"], name=chunk,
                               text=clean(text, options.latin), gender=row.get("gender"),
                               group=group_of(match[1] if match else chunk))
    return utterance if utterance.text else None
