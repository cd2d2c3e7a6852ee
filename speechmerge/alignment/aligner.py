"""Forced alignment without a trained model: Viterbi training of phone models on the data itself.

    times = align({id: (samples, text, language)})

1. espeak-ng says each transcript: its phones, and how long each is. These lengths, stretched to the part of the audio
   that is not silent, are the first alignment (better than the equal lengths of a flat start).
2. Each phone has STATES Gaussians over MFCCs with their first and second differences, normalised by utterance; the
   covariance is shared, means of rare phones are drawn to the mean of all.
3. The best path of the frames through the phones, with a pause where it helps before, between and after words, is the
   next alignment. Steps 2 and 3 are done TURNS times.

Nothing here has seen the models that are studied, so that what a probe finds in their states is not put there by the
alignment. Phones are those of espeak-ng's dictionaries: what speakers drop or change is aligned all the same.
"""
from dataclasses import dataclass

import numpy as np

from speechmerge.alignment.espeak import Announcer
from speechmerge.alignment.times import Piece, Times
from speechmerge.alignment.viterbi import best_path
from speechmerge.errors import SpeechMergeError

RATE, HOP = 16000, 0.010  # Hz; s between frames
STATES, TURNS = 2, 8  # of a phone; of training
PRIOR = 10.0  # frames that the mean of all weighs in the mean of a state
PAUSE = "sil"
ENERGY = 0.05  # of the loudest frame's amplitude: below it the ends of an utterance are silent


@dataclass
class Row:
    """One utterance: frames [T, d], the unit and state of each column of its path, which columns may be left out."""

    id: str
    frames: np.ndarray
    units: list[tuple[str, int]]
    optional: np.ndarray
    phone_of: list[int | None]  # of each column: the phone's number, None: a pause
    said: object
    path: np.ndarray  # [T] the column of each frame


def align(utterances: dict[str, tuple], announcer: Announcer | None = None, turns: int = TURNS) -> dict[str, Times]:
    """{id: (float32 samples at 16 kHz, transcript, language)} -> {id: Times}; utterances that are too short for their
    phones are left out."""
    announcer, rows = announcer or Announcer(), []
    for id, (samples, text, language) in sorted(utterances.items()):
        row = make_row(id, samples, announcer.say(text, language))
        rows += [row] if row else []
    if not rows:
        return {}
    for _ in range(turns):
        models = Models.fit(rows)
        for row in rows:
            row.path = best_path(models.scores(row), row.optional)
    return {row.id: times_of(row) for row in rows}


def make_row(id: str, samples, said) -> Row | None:
    """None where there are fewer frames than states."""
    frames = features(samples)
    units, optional, phone_of = [(PAUSE, 0)], [True], [None]
    for number, phone in enumerate(said.times.phones):
        if number and said.word_of[number] != said.word_of[number - 1]:
            units, optional, phone_of = units + [(PAUSE, 0)], optional + [True], phone_of + [None]
        units += [(phone.text, state) for state in range(STATES)]
        optional += [False] * STATES
        phone_of += [number] * STATES
    units, optional, phone_of = units + [(PAUSE, 0)], np.array(optional + [True]), phone_of + [None]
    if len(frames) < (~optional).sum():
        return None
    return Row(id, frames, units, optional, phone_of, said, first_path(samples, len(frames), said, phone_of))


def features(samples) -> np.ndarray:
    """[T, 39] float64: 13 MFCCs and two differences, mean 0 and variance 1 in each utterance; frame t is centred at
    (t + 0.5) HOP seconds."""
    import torch
    from torchaudio.compliance.kaldi import mfcc
    from torchaudio.functional import compute_deltas

    wave = torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32))[None]
    if wave.shape[1] < RATE // 20:
        return np.zeros((0, 39))
    plain = mfcc(wave * 32768.0, sample_frequency=RATE, snip_edges=False, num_ceps=13, dither=1e-3).T
    first = compute_deltas(plain[None])[0]
    found = torch.cat([plain, first, compute_deltas(first[None])[0]]).T.double().numpy()
    return (found - found.mean(0)) / np.maximum(found.std(0), 1e-3)


def first_path(samples, frames: int, said, phone_of) -> np.ndarray:
    """espeak's lengths on the stretch between the first and the last frame that is not silent."""
    size = round(HOP * RATE)
    blocks = np.abs(samples[: len(samples) // size * size]).reshape(-1, size).max(1)
    loud = np.flatnonzero(blocks > ENERGY * blocks.max())
    start, end = (loud[0], loud[-1] + 1) if len(loud) else (0, frames)
    phones = said.times.phones
    scale = (end - start) / (phones[-1].end - phones[0].start)
    columns = {number: place for place, number in reversed(list(enumerate(phone_of))) if number is not None}
    path = np.full(frames, len(phone_of) - 1)
    path[:start] = 0
    for number, phone in enumerate(phones):
        edges = np.linspace(phone.start, phone.end, STATES + 1) - phones[0].start
        edges = start + np.round(edges * scale).astype(int)
        for state in range(STATES):
            path[edges[state] : edges[state + 1]] = columns[number] + state
        following = phones[number + 1].start if number + 1 < len(phones) else phone.end
        if following > phone.end + HOP:  # a pause of espeak's
            path[edges[-1] : start + round((following - phones[0].start) * scale)] = columns[number] + STATES
    return path[:frames]


@dataclass
class Models:
    """Gaussians of one covariance: means [units, d] in the space where it is the identity."""

    names: dict[tuple[str, int], int]
    means: np.ndarray
    whiten: np.ndarray  # [d, d]

    @classmethod
    def fit(cls, rows: list[Row]) -> "Models":
        names = {unit: place for place, unit in enumerate(sorted({unit for row in rows for unit in row.units}))}
        size = rows[0].frames.shape[1]
        sums, counts, square = np.zeros((len(names), size)), np.zeros(len(names)), np.zeros((size, size))
        for row in rows:
            own = np.array([names[unit] for unit in row.units])[row.path]
            np.add.at(sums, own, row.frames)
            counts += np.bincount(own, minlength=len(names))
            square += row.frames.T @ row.frames
        means = (sums + PRIOR * sums.sum(0) / counts.sum()) / (counts + PRIOR)[:, None]
        cross = sums.T @ means
        within = (square - cross - cross.T + (means * counts[:, None]).T @ means) / counts.sum()
        values, vectors = np.linalg.eigh(within)
        whiten = vectors / np.sqrt(np.maximum(values, 1e-4))
        return cls(names, means @ whiten, whiten)

    def scores(self, row: Row) -> np.ndarray:
        """Log-likelihood [T, columns], up to what is equal for all columns."""
        own = self.means[[self.names[unit] for unit in row.units]]
        frames = row.frames @ self.whiten
        return frames @ own.T - 0.5 * np.square(own).sum(1)


def times_of(row: Row) -> Times:
    numbers = [row.phone_of[column] for column in row.path]
    spans = {}
    for frame, number in enumerate(numbers):
        if number is not None:
            spans[number] = (spans.get(number, (frame,))[0], frame + 1)
    phones = [Piece(spans[number][0] * HOP, spans[number][1] * HOP, phone.text)
              for number, phone in enumerate(row.said.times.phones)]
    words = []
    for number, word in enumerate(row.said.times.words):
        own = [piece for piece, of in zip(phones, row.said.word_of) if of == number]
        words.append(Piece(own[0].start, own[-1].end, word.text))
    return Times(tuple(phones), tuple(words))


def boundary_errors(found: Times, truth: Times) -> list[float]:
    """Seconds between the beginnings of the same phones. SpeechMergeError where they are not the same phones."""
    if [piece.text for piece in found.phones] != [piece.text for piece in truth.phones]:
        raise SpeechMergeError("alignments of other phones cannot be compared")
    return [abs(ours.start - theirs.start) for ours, theirs in zip(found.phones, truth.phones)]
