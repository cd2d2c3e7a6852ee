"""Reading and writing audio: always 16 kHz, mono, float32 in [-1, 1].

    samples = read_audio("a.flac")                                  # refuses another rate or several channels
    samples = read_audio("a.wav", resample=True, downmix=True)      # what `format` does
"""
import struct
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile

from speechmerge.errors import SpeechMergeError
from speechmerge.files import atomic_file

RATE = 16000  # Hz; every model family here hears 16 kHz
UNKNOWN_SIZE = 0x7FFFFFF0  # programs that write wav to a pipe put such a number where the size should be


class AudioError(SpeechMergeError):
    """`problem`: what is wrong; `convertible`: `format` mends it, else the file is to be copied again or dropped."""

    def __init__(self, name, problem: str, convertible: bool = False):
        self.problem, self.convertible = problem, convertible
        fix = ("run `speechmerge format` on its data directory, which converts it" if convertible else
               "copy it again, or drop it with `speechmerge validate --data DIR --fix true`")
        super().__init__(f"{name}: {problem}; {fix}")


def read_audio(path, rate: int = RATE, *, resample: bool = False, downmix: bool = False, utterance: str | None = None):
    """Decode an audio file to float32 mono of shape [samples] at `rate` Hz.

    `downmix` averages the channels; `resample` converts the rate; without them stereo or another rate is refused.
    Raises AudioError, naming the utterance and the file, for audio that is missing, empty, truncated, unreadable,
    NaN or infinite, of another rate, or with several channels.
    """
    name = f"utterance {utterance}: {path}" if utterance else str(path)
    samples, found_rate = decode(path, name)
    if samples.shape[1] > 1 and not downmix:
        raise AudioError(name, f"found {samples.shape[1]} channels, expected mono", convertible=True)
    if found_rate != rate and not resample:
        raise AudioError(name, f"found {found_rate} Hz, expected {rate} Hz", convertible=True)
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float32)
    return convert_rate(mono, found_rate, rate)


def decode(path, name: str) -> tuple[np.ndarray, int]:
    """Samples as float32 [samples, channels] and the rate; AudioError for whatever cannot be trusted."""
    path = Path(path)
    if not path.is_file():
        raise AudioError(name, "no such audio file")
    if path.stat().st_size == 0:
        raise AudioError(name, "the audio file is empty (0 bytes)")
    try:
        with soundfile.SoundFile(str(path)) as file:
            expected, rate = file.frames, file.samplerate
            samples = file.read(dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        reason = str(error).rsplit(":", 1)[-1].strip().rstrip(".")
        raise AudioError(name, f"cannot be decoded, truncated or not audio ({reason})") from error
    if missing := missing_wav_bytes(path):
        raise AudioError(name, f"truncated, the last {missing} bytes are missing")
    if len(samples) < expected:
        raise AudioError(name, f"truncated, found {len(samples)} of {expected} samples")
    if len(samples) == 0:
        raise AudioError(name, "the audio has no samples")
    if not np.isfinite(samples).all():
        bad = int(np.argmin(np.isfinite(samples).all(axis=1)))
        raise AudioError(name, f"NaN or infinite sample at {bad / rate:.3f} s")
    return samples, rate


def missing_wav_bytes(path: Path) -> int:
    """How many bytes a RIFF wav promises but lacks. libsndfile reads such a file to its end without a word."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(12)
        if len(head) < 12 or head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return 0
        while len(chunk := file.read(8)) == 8:
            name, length = struct.unpack("<4sI", chunk)
            if name == b"data":
                return 0 if length >= UNKNOWN_SIZE else max(0, file.tell() + length - size)
            file.seek(length + length % 2, 1)
    return 0


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
    """(seconds, rate, channels) from the header, without decoding."""
    try:
        info = soundfile.info(str(path))
    except (soundfile.LibsndfileError, RuntimeError):
        samples, rate = decode(path, str(path))  # raises with the reason
        return len(samples) / rate, rate, samples.shape[1]
    return info.frames / info.samplerate, info.samplerate, info.channels
