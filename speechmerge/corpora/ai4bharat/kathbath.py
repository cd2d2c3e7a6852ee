"""Kathbath (IndicSUPERB): read sentences, m4a, speakers of test in no other set, speakers of test_known in train.

    kb_data_clean_m4a/<language>/{train,valid,test,test_known}/audio/<clip>-<speaker>-<f|m>.m4a
    kb_data_clean_m4a/<language>/<set>/transcription_n2w.txt    <clip>-<speaker>-<f|m>.m4a<TAB>text, numbers in words
    kb_data_noisy_m4a/<language>/{test,test_known}                  the same clips with noise; its `valid` is no set

`data/<language>/<set>` and `transcription.txt` are the same under the names that IndicSUPERB's own programs use. Clips
that were converted to wav or flac beside their transcripts are found too. Texts hold no-break spaces.
"""
from pathlib import Path

from speechmerge.corpora.gather import Gathered, make_utterance, stem
from speechmerge.corpora.lines import numbered_lines
from speechmerge.corpora.published import Hub, Part
from speechmerge.data.directory import Utterance
from speechmerge.errors import SpeechMergeError

LANGUAGES = {"hi": "hindi", "pa": "punjabi", "te": "telugu"}
LAYOUT = "kb_data_clean_m4a/<language>/{train,valid,test,test_known}/{transcription_n2w.txt,audio/*.m4a}"
OBTAIN = ("Get the clean (and, for the noisy sets, the noisy) m4a archives that "
          "https://github.com/AI4Bharat/IndicSUPERB links under Kathbath and unpack them there.")
# Our split: the publisher's set, and the folders that it may lie in
CLEAN, NOISY = ("kb_data_clean_m4a", "data", "."), ("kb_data_noisy_m4a",)
SETS = {"train": ("train", CLEAN), "dev": ("valid", CLEAN), "test": ("test", CLEAN),
        "test_known": ("test_known", CLEAN), "test_noisy": ("test", NOISY), "test_known_noisy": ("test_known", NOISY)}
TRANSCRIPTS = ("transcription_n2w.txt", "transcription.txt")


def read_language(root: Path, language: str, options) -> Gathered:
    """The sets `options.kathbath_sets` of one language."""
    found = Gathered("kathbath", language)
    for split in options.kathbath_sets:
        read_set(find_set(root, LANGUAGES[language], split), split, found)
    return found


def find_set(root: Path, language: str, split: str) -> Path:
    """The transcripts of a set."""
    name, tops = SETS[split]
    folders = [root / top / language / name for top in tops]
    there = [folder / file for folder in folders for file in TRANSCRIPTS if (folder / file).is_file()]
    if not there:
        raise SpeechMergeError(f"{folders[0]}: no {' or '.join(TRANSCRIPTS)} there (kathbath, {split}). {OBTAIN} Or "
                               "name the sets that you have, as --param kathbath_sets=train,dev,test")
    return there[0]


def read_set(transcripts: Path, split: str, found: Gathered):
    folder, told = transcripts.parent / "audio", set()
    audio = {stem(path): path for path in sorted(folder.iterdir())} if folder.is_dir() else {}
    for number, line in numbered_lines(transcripts):
        name, tab, text = line.partition("\t")
        clip = stem(name.strip())
        if not tab or not clip:
            raise SpeechMergeError(f"{transcripts}:{number}: found {line[:60]!r}, expected "
                                   "<clip>-<speaker>-<f|m>.m4a<TAB>text")
        told.add(clip)
        given = parts_of(clip)
        if given is None:
            found.skip("clip without speaker in its name")
            continue
        if split.endswith("_noisy"):
            given["name"] += "-noisy"
        found.add(split, text=text, audio=audio.get(clip, folder / f"{clip}.m4a"), **given)
    found.skip("audio without transcript", len(audio.keys() - told))


def parts_of(clip: str) -> dict | None:
    """clip-speaker-gender; the clip's own number may hold dashes."""
    parts = clip.rsplit("-", 2)
    if len(parts) != 3 or not all(parts):
        return None
    return {"name": parts[0], "speaker": parts[1], "gender": parts[2]}


def hub(language: str) -> Hub:
    """Train and valid only: the test sets are in the archives alone."""
    parts = {"train": "train", "dev": "valid"}
    return Hub("ai4bharat/Kathbath", {split: [Part(LANGUAGES[language], name)] for split, name in parts.items()},
               audio="audio_filepath", names=("gender",))


def from_row(row: dict, number: int, language: str, options) -> Utterance | None:
    clip = stem(row["fname"])
    name = (parts_of(clip) or {"name": clip})["name"]
    utterance = make_utterance("kathbath", language, speaker=row["speaker_id"], name=name, text=row["text"],
                               gender=row.get("gender"))
    return utterance if utterance.text else None
