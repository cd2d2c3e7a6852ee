"""Speech that switches between sets (languages), made of utterances whose words and times are known.

inter: whole utterances of changing labels with a pause between them. intra: a short utterance of another label inside the
speech of one, without pauses. rapid: many short utterances, each of another label than the one before, without pauses.
Voices change with the utterances, which real code-switching does not: a router may hear the voice instead of the language.

Tables beside the usual ones: utt2segments `0.000-1.520=hi 1.520-2.900=it`, utt2word_labels (one label per word of `text`).
"""
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speechmerge.data.audio import RATE, read_audio, write_wav
from speechmerge.data.directory import DataDir, Utterance
from speechmerge.data.loudness import normalise_loudness, trim_silence
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.route.timeline import Segment

PIECES = {"inter": (2, 3), "intra": (3, 3), "rapid": (5, 8)}  # utterances in one, at least and at most
PAUSE = {"inter": (0.2, 0.6), "intra": (0.0, 0.0), "rapid": (0.0, 0.0)}  # seconds
SHORT = 1 / 3  # the shortest share of a set's utterances: what is put inside others, and what `rapid` is made of
LOUDNESS = -23.0  # LUFS, of every piece
FADE = 0.005  # seconds at both ends of a piece, against clicks
TRIES = 50


@dataclass(frozen=True)
class Options:
    kind: str = "inter"
    count: int = 40
    seed: int = 0
    longest: float = 28.0  # seconds

    def __post_init__(self):
        if self.kind not in PIECES:
            raise UsageError(f"--kind {self.kind!r}: expected {', '.join(PIECES)}")
        if self.count < 1 or self.longest <= 0:
            raise UsageError("--count and --max-seconds: expected numbers above 0")


def make(sets: dict[str, DataDir], folder, options: Options) -> DataDir:
    """Writes folder/{wav,text,...} and returns it; the same for the same seed. `sets`: label -> what it is made of."""
    if len(sets) < 2:
        raise UsageError("--tasks: code-switching needs at least two sets")
    pools = {label: by_length(data) for label, data in sets.items()}
    folder, rows = Path(folder), {}
    for number in range(options.count):
        id = f"cs-{options.kind}-{number:04d}"
        draw = random.Random(f"{options.seed}/{id}")
        pieces = draw_pieces(pools, options, draw)
        rows[id] = join(id, pieces, folder / "wav" / f"{id}.wav", options.kind, draw)
    data = DataDir(folder, rows)
    data.write()
    return data


def by_length(data: DataDir) -> list[Utterance]:
    """Utterances with words, the shortest first."""
    found = [u for u in data.utterances.values() if u.text and u.text.split() and u.duration]
    if len(found) < 3:
        raise SpeechMergeError(f"{data.path}: {len(found)} utterances with a text and a duration, expected at least 3; "
                               "run `speechmerge format` first")
    return sorted(found, key=lambda u: (u.duration, u.id))


def draw_pieces(pools, options: Options, draw: random.Random) -> list[tuple[str, Utterance]]:
    """[(label, utterance)] that fit into `options.longest` seconds."""
    for _ in range(TRIES):
        count = draw.randint(*PIECES[options.kind])
        pieces = [(label, draw.choice(pool_of(pools[label], options.kind, place)))
                  for place, label in enumerate(draw_labels(list(pools), count, options.kind, draw))]
        if sum(u.duration for _, u in pieces) + count * max(PAUSE[options.kind]) <= options.longest:
            return pieces
    raise SpeechMergeError(f"code-switching: no {options.kind} pieces of {', '.join(pools)} fit into {options.longest:g} s; "
                           "give more --max-seconds")


def draw_labels(labels: list[str], count: int, kind: str, draw: random.Random) -> list[str]:
    """Neighbours differ; of `intra` the matrix, the inserted one, the matrix again."""
    found = [draw.choice(labels)]
    while len(found) < count:
        found.append(draw.choice([label for label in labels if label != found[-1]]))
    return [found[0], found[1], found[0]] if kind == "intra" else found


def pool_of(pool: list[Utterance], kind: str, place: int) -> list[Utterance]:
    short = pool[: max(1, round(len(pool) * SHORT))]
    return short if kind == "rapid" or kind == "intra" and place == 1 else pool


def join(id: str, pieces, path: Path, kind: str, draw: random.Random) -> Utterance:
    """The utterance, its audio written. A pause belongs to what was before it."""
    waves, segments, words, at = [], [], [], 0
    for place, (label, piece) in enumerate(pieces):
        wave = faded(normalise_loudness(trim_silence(read_audio(piece.audio, utterance=piece.id), RATE, 40, 0.03), RATE, LOUDNESS)[0])
        if place + 1 < len(pieces):
            wave = np.concatenate([wave, np.zeros(round(draw.uniform(*PAUSE[kind]) * RATE), dtype=np.float32)])
        segments.append(Segment(at / RATE, (at + len(wave)) / RATE, label))
        words += [label] * len(piece.text.split())
        waves.append(wave)
        at += len(wave)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_wav(path, np.concatenate(waves))
    matrix = max(dict.fromkeys(words), key=words.count)
    language = next((piece.language for label, piece in pieces if label == matrix), None)
    text = " ".join(" ".join(piece.text.split()) for _, piece in pieces)
    return Utterance(id, str(path), text, id, language, at / RATE,
                     {"segments": " ".join(map(str, segments)), "word_labels": " ".join(words), "matrix": matrix})


def faded(wave: np.ndarray) -> np.ndarray:
    length = min(round(FADE * RATE), len(wave) // 2)
    ramp = np.linspace(0, 1, length, dtype=np.float32)
    wave = wave.copy()
    wave[:length] *= ramp
    wave[len(wave) - length :] *= ramp[::-1]
    return wave
