"""A recording or an uploaded file -> what a data directory would hold of it: 16 kHz, mono, whole, not silent."""
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speechmerge.data.audio import RATE, AudioError, audio_info, read_audio, write_wav
from speechmerge.errors import SpeechMergeError

SHORTEST = 0.1  # seconds
QUIETEST = 1e-3  # of full scale, -60 dB: a microphone that is switched off gives less


@dataclass(frozen=True)
class Taken:
    path: str  # 16 kHz, mono
    seconds: float
    changes: str  # what was done to it, in words; empty: nothing


def take(path, folder, longest: float) -> Taken:
    """The sound as `format` would leave it: the file itself, or where it must be changed a new one in `folder`.

    Raises SpeechMergeError, in words for a page, for what is no audio, broken, silent, shorter than SHORTEST or longer
    than `longest` seconds.
    """
    try:
        seconds, rate, channels = audio_info(path)  # before decoding: an hour is not read to be refused
        check_length(seconds, longest)
        samples = read_audio(path, resample=True, downmix=True)
    except AudioError as error:
        raise SpeechMergeError(f"This sound cannot be used: {error.problem}. Expected an audio file such as wav, flac, mp3 "
                               "or ogg.") from error
    check_length(len(samples) / RATE, longest)
    if np.abs(samples).max() < QUIETEST:
        raise SpeechMergeError("This sound is silent. Is the microphone switched on?")
    changes = [f"{rate} Hz resampled to {RATE} Hz"] if rate != RATE else []
    changes += [f"{channels} channels averaged to one"] if channels > 1 else []
    if changes:
        path = Path(folder) / f"{len(list(Path(folder).iterdir()))}.wav"
        write_wav(path, samples)
    return Taken(str(path), len(samples) / RATE, ", ".join(changes))


def check_length(seconds: float, longest: float):
    if seconds < SHORTEST:
        raise SpeechMergeError(f"This sound is {seconds:.2f} s long; expected at least {SHORTEST:g} s.")
    if seconds > longest:
        raise SpeechMergeError(f"This sound is {seconds:.1f} s long; at most {longest:g} s are listened to. Cut it shorter.")
