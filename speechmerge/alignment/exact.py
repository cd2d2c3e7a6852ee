"""Exact times of the mini corpus: each utterance is said again as it was planned, by the same voice, as fast and high.

An utterance counts only where what is said again is its audio: equally long to the sample, and with noise and telephone
put aside the same wave (correlation above 0.5; other utterances have less than 0.2).
"""
from pathlib import Path

import numpy as np

from speechmerge.alignment.espeak import Announcer
from speechmerge.alignment.times import Piece, Times
from speechmerge.corpora.mini import plans
from speechmerge.corpora.mini.corpus import SPLITS, plan_split
from speechmerge.corpora.mini.render import Request, spoken, through
from speechmerge.corpora.mini.speech import RATE
from speechmerge.data.audio import read_audio
from speechmerge.data.directory import DataDir

ALIKE = 0.5
SEEDS = range(8)  # of the corpus, that are tried


def exact_times(data: DataDir, announcer: Announcer) -> dict[str, Times]:
    """Of the utterances that the mini corpus made, with one of SEEDS and in full size; {} for other data."""
    task, split = Path(data.path).resolve().parts[-2:]
    found = {}
    for id, request in planned(data, task, split).items():
        audio = read_audio(data.utterances[id].own_file(data.path), RATE, utterance=id)
        if times := of_request(announcer, request, audio):
            found[id] = times
    return found


def planned(data: DataDir, task: str, split: str) -> dict[str, Request]:
    """What was asked for, of the seed that agrees with these transcripts and speakers; {} where none does."""
    for seed in SEEDS if task in plans.TASKS and split in SPLITS else ():
        requests = {request.id: request for request in plan_split(task, split, seed, 1.0)[0]}
        agreed = {id: requests[id] for id, utterance in data.utterances.items() if id in requests
                  and (requests[id].text, requests[id].speaker) == (utterance.text, utterance.speaker)}
        if len(agreed) * 2 > len(data.utterances):
            return agreed
    return {}


def of_request(announcer: Announcer, request: Request, audio: np.ndarray) -> Times | None:
    """None where this audio is not what was asked for."""
    said = None

    def speak(delivery):
        nonlocal said
        said = announcer.say(request.text, request.language, request.variant, delivery)
        return said.samples

    samples, first = spoken(request, speak)
    samples = through(request.channel, samples)
    if len(samples) != len(audio) or abs(np.corrcoef(samples, audio)[0, 1]) < ALIKE:
        return None
    return shifted(said.times, -first / RATE, len(audio) / RATE)


def shifted(times: Times, by: float, seconds: float) -> Times:
    """Moved by so many seconds and cut to [0, seconds]; what is outside goes."""
    def moved(pieces):
        cut = [Piece(max(piece.start + by, 0.0), min(piece.end + by, seconds), piece.text) for piece in pieces]
        return tuple(piece for piece in cut if piece.end > piece.start)

    return Times(moved(times.phones), moved(times.words))
