"""Reading and writing audio: always 16 kHz, mono, float32 in [-1, 1].

    samples = read_audio("a.flac")                                  # refuses another rate or several channels
    samples = read_audio("a.m4a", resample=True, downmix=True)      # what `format` does
    samples = read_audio("talk.sph", start=14.95, end=16.19)        # a stretch, in seconds
"""
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile

from speechmerge.data import decoders
from speechmerge.data.decoders import AudioError, decode, decode_pipe
from speechmerge.data.segments import is_pipe
from speechmerge.errors import SpeechMergeError
from speechmerge.files import atomic_file

RATE = 16000  # Hz; every model family here hears 16 kHz


@dataclass(frozen=True)
class Sound:
    """What `read_audio` takes in the place of a path: a stretch of a file, played at another speed."""

    path: str
    start: float | None = None  # seconds
    end: float | None = None
    speed: float = 1.0  # 1.1: a tenth faster and higher, as by a tape

    def __str__(self):
        return self.path


def read_audio(path, rate: int = RATE, *, resample: bool = False, downmix: bool = False, utterance: str | None = None,
               start: float | None = None, end: float | None = None, allow_pipes: bool = False):
    """Decode an audio file, or its stretch from `start` to `end` seconds, to float32 mono [samples] at `rate` Hz.

    `path`: a file (wav flac ogg mp3 SPHERE; m4a aac mp4 webm through PyAV), an entry of an ark (`x.ark:123`), a Sound;
    with `allow_pipes` also a command (`sox a.wav -t wav - |`), which is run.
    `downmix` averages the channels; `resample` converts the rate; without them stereo or another rate is refused.
    Raises AudioError, naming the utterance and the file, for audio that is missing, empty, truncated, unreadable,
    NaN or infinite, of another rate, or with several channels, and for a stretch that lies beyond the audio.
    """
    sound = path if isinstance(path, Sound) else Sound(str(path), start, end)
    name = f"utterance {utterance}: {sound}" if utterance else str(sound)
    if is_pipe(sound.path) and allow_pipes:
        samples, found_rate = decode_pipe(sound.path, name, sound.start, sound.end)
    else:
        samples, found_rate = decode(sound.path, name, sound.start, sound.end)
    if samples.shape[1] > 1 and not downmix:
        raise AudioError(name, f"found {samples.shape[1]} channels, expected mono", convertible=True)
    if found_rate != rate and not resample:
        raise AudioError(name, f"found {found_rate} Hz, expected {rate} Hz", convertible=True)
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float32)
    return change_speed(convert_rate(mono, found_rate, rate), sound.speed, rate)


@lru_cache(maxsize=16)
def resampler(source: int, target: int):
    """One kernel per pair of rates: building it takes longer than applying it to an utterance.

    Kaiser-windowed sinc with the parameters of resampy's `kaiser_best`.
    """
    from torchaudio.transforms import Resample
    return Resample(source, target, resampling_method="sinc_interp_kaiser", lowpass_filter_width=64,
                    rolloff=0.9475937167399596, beta=14.769656459379492)


def convert_rate(samples: np.ndarray, source: int, target: int) -> np.ndarray:
    """Resample float32 [samples]; the same array where nothing is to be done."""
    if source == target:
        return samples
    import torch
    with torch.no_grad():
        return resampler(source, target)(torch.from_numpy(np.ascontiguousarray(samples))).numpy()


def change_speed(samples: np.ndarray, speed: float, rate: int = RATE) -> np.ndarray:
    """[samples] -> [samples / speed], pitch and tempo together (Ko et al. 2015, Audio Augmentation): by resampling, as
    if the recording's rate were `speed` times what it is. Speeds count in hundredths, so that kernels stay short."""
    return convert_rate(samples, round(speed * 100) * (rate // 100), rate)


def write_audio(path, samples: np.ndarray, rate: int = RATE):
    """Write mono float samples as 16-bit PCM, atomically; .wav or .flac by the suffix. Beyond +-1 is clipped."""
    samples = np.asarray(samples, dtype=np.float32)
    if samples.ndim != 1 or not np.isfinite(samples).all():
        raise SpeechMergeError(f"{path}: cannot write samples of shape {samples.shape}, expected finite mono [samples]")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path, "wb") as file:
        soundfile.write(file, samples, rate, subtype="PCM_16", format=Path(path).suffix[1:].upper())


def write_wav(path, samples: np.ndarray, rate: int = RATE):
    """`write_audio` under the name most callers look for."""
    write_audio(path, samples, rate)


def audio_info(path) -> tuple[float, int, int]:
    """(seconds, rate, channels) from the header, without decoding where that can be avoided."""
    if not isinstance(path, Sound):
        return decoders.info(path)
    seconds, rate, channels = decoders.info(path.path)
    first, last = decoders.stretch(round(seconds * rate), rate, path.start, path.end, str(path))
    return (last - first) / rate / path.speed, rate, channels
