"""The spoken paragraphs: sentence files TopicIndex_ParagraphIndex_SentenceIndex.wav, joined into one flac each.

Indices count as the entries of SQuAD's JSON file do, from 0; some copies of the archive count from 1.
"""
import logging
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from speechmerge.data.audio import audio_info, read_audio, write_audio
from speechmerge.errors import SpeechMergeError

log = logging.getLogger(__name__)
NAME = re.compile(r"(\d+)_(\d+)_(\d+)$")
TOLERANCE = 0.1  # seconds by which a joined file may differ from its parts: rounding of each resampled one
Place = tuple[int, int]  # (topic, paragraph), from 0


def find_sentences(folder: Path) -> dict[Place, list[Path]]:
    """{paragraph: its sentence files in order}, also below sub-folders of `folder`.

    Where a sentence is missing between others, its path stands in the list nevertheless. SpeechMergeError where there
    are no such files at all.
    """
    found: dict[Place, dict[int, Path]] = {}
    for path in sorted(folder.rglob("*.wav")):
        match = NAME.match(path.stem)
        if match:
            topic, paragraph, sentence = map(int, match.groups())
            found.setdefault((topic, paragraph), {})[sentence] = path
    if not found:
        raise SpeechMergeError(f"{folder}: no files <topic>_<paragraph>_<sentence>.wav; unpack the audio there")
    base = 0 if any(0 in (*place, *sentences) for place, sentences in found.items()) else 1
    return {(topic - base, paragraph - base): without_gaps(sentences, base)
            for (topic, paragraph), sentences in found.items()}


def without_gaps(sentences: dict[int, Path], base: int) -> list[Path]:
    """From the first sentence to the last one that is there."""
    some = next(iter(sentences.values()))
    stem = some.stem.rpartition("_")[0]
    return [sentences.get(number, some.with_name(f"{stem}_{number}.wav")) for number in range(base, max(sentences) + 1)]


def join_all(parts: dict[Path, list[Path]], what: str):
    """Writes the joined files that are missing or were made of other parts; a killed run goes on where it was."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        joining = pool.map(join, parts, parts.values())
        done = list(tqdm(joining, f"paragraphs of {what}", len(parts), unit="par", disable=None))
    if any(done):
        log.info("spoken_squad %s: %d paragraphs joined, %d were there", what, sum(done), len(done) - sum(done))


def join(target: Path, parts: list[Path]) -> bool:
    """One file of all sentences, 16 kHz mono; False where it is there already."""
    if target.is_file() and abs(seconds(target) - sum(map(seconds, parts))) <= TOLERANCE:
        return False
    write_audio(target, np.concatenate([read_audio(part, resample=True, downmix=True) for part in parts]))
    return True


def seconds(path: Path) -> float:
    return audio_info(str(path))[0]
