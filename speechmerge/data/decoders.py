"""From any audio file to samples: soundfile (wav flac ogg mp3 SPHERE ...), PyAV (m4a aac mp4 webm ...), Kaldi's arks.

    samples, rate = decode("talk.sph", start=14.95, end=16.19)          # float32 [samples, channels], Hz

What cannot be trusted (truncated, empty, NaN) raises AudioError.
"""
import os
import struct
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from speechmerge.data.segments import ark_entry
from speechmerge.errors import SpeechMergeError

UNKNOWN_SIZE = 0x7FFFFFF0  # programs that write wav to a pipe put such a number where the size should be
OVERSHOOT = 0.5  # s that a stretch may end beyond its recording, as in Kaldi's extract-segments; it then ends there
AV_SUFFIXES = (".aac", ".m4a", ".mp4", ".webm", ".mkv", ".mka", ".3gp", ".amr", ".wma")
AV_INSTALL = "run: pip install 'speechmerge[av]'"
AV_SHORT = 0.1  # s that decoded audio may be shorter than its header says: codecs cut their own delay


class AudioError(SpeechMergeError):
    """`problem`: what is wrong; `convertible`: `format` mends it, else the file is to be copied again or dropped."""

    def __init__(self, name, problem: str, convertible: bool = False):
        self.problem, self.convertible = problem, convertible
        fix = ("run `speechmerge format` on its data directory, which converts it" if convertible else
               "copy it again, or drop it with `speechmerge validate --data DIR --fix true`")
        super().__init__(f"{name}: {problem}; {fix}")


def decode(path, name: str | None = None, start: float | None = None, end: float | None = None):
    """(samples float32 [samples, channels], rate in Hz) of a file or of its stretch from `start` to `end` seconds."""
    name = name or str(path)
    if entry := ark_entry(path):
        samples, rate = decode_ark(*entry, name)
        samples = cut(samples, rate, start, end, name)
    else:
        path, head = Path(path), read_head(path, name)
        if needs_av(path, head):
            samples, rate = decode_av(path, name, start, end)
        else:
            samples, rate = decode_soundfile(path, name, start, end, head)
    if len(samples) == 0:
        raise AudioError(name, "the audio has no samples")
    if not np.isfinite(samples).all():
        bad = int(np.argmin(np.isfinite(samples).all(axis=1)))
        raise AudioError(name, f"NaN or infinite sample at {(start or 0) + bad / rate:.3f} s")
    return samples, rate


def read_head(path, name: str) -> bytes:
    """The first bytes, which tell the formats apart."""
    try:
        with open(path, "rb", buffering=0) as file:
            head = file.read(12)
    except FileNotFoundError as error:
        raise AudioError(name, "no such audio file") from error
    except OSError as error:
        raise AudioError(name, f"cannot be opened ({error.strerror})") from error
    if not head:
        raise AudioError(name, "the audio file is empty (0 bytes)")
    return head


def stretch(frames: int, rate: int, start: float | None, end: float | None, name: str) -> tuple[int, int]:
    """First and last + 1 sample of a stretch of a recording of `frames` samples. Raises AudioError where it is none."""
    first = round((start or 0) * rate)
    last = frames if end is None else round(end * rate)
    if first < 0 or last <= first and frames:
        raise AudioError(name, f"found a segment from {start or 0:g} to {last / rate:g} s, expected 0 <= start < end")
    if first >= frames and frames or last > frames + OVERSHOOT * rate:
        raise AudioError(name, f"the segment from {start or 0:g} to {last / rate:g} s lies beyond the audio, which has "
                               f"{frames / rate:.3f} s")
    return first, min(last, frames)


def cut(samples: np.ndarray, rate: int, start, end, name: str) -> np.ndarray:
    if start is None and end is None:
        return samples
    first, last = stretch(len(samples), rate, start, end, name)
    return samples[first:last]


# soundfile


def decode_soundfile(path: Path, name: str, start, end, head: bytes) -> tuple[np.ndarray, int]:
    """Whatever libsndfile knows. A whole file is checked to be whole; of a stretch, only what it needs is read."""
    if head.startswith(b"NIST_1A") and (problem := sphere_problem(path)):
        raise AudioError(name, problem)
    try:
        with soundfile.SoundFile(str(path)) as file:
            first, last = stretch(file.frames, file.samplerate, start, end, name)
            rate = file.samplerate
            from_start = 0 if file.format == "MP3" else first  # a frame of mp3 needs those before it
            if from_start:
                file.seek(from_start)
            samples = file.read(last - from_start, dtype="float32", always_2d=True)[first - from_start :]
    except (soundfile.LibsndfileError, RuntimeError) as error:
        reason = str(error).rsplit(":", 1)[-1].strip().rstrip(".")
        raise AudioError(name, f"cannot be decoded, truncated or not audio ({reason})") from error
    if head.startswith(b"RIFF") and (missing := missing_wav_bytes(path)):
        raise AudioError(name, f"truncated, the last {missing} bytes are missing")
    if len(samples) < last - first:
        raise AudioError(name, f"truncated, found {len(samples)} of {last - first} samples")
    return samples, rate


def missing_wav_bytes(path: Path) -> int:
    """How many bytes a RIFF wav promises but lacks. libsndfile reads such a file to its end without a word."""
    with open(path, "rb") as file:
        head = file.read(12)
        if len(head) < 12 or head[8:] != b"WAVE":
            return 0
        size = os.fstat(file.fileno()).st_size
        while len(chunk := file.read(8)) == 8:
            name, length = struct.unpack("<4sI", chunk)
            if name == b"data":
                return 0 if length >= UNKNOWN_SIZE else max(0, file.tell() + length - size)
            file.seek(length + length % 2, 1)
    return 0


def sphere_problem(path: Path) -> str | None:
    """Why a NIST SPHERE file cannot be used: compressed with shorten, which libsndfile does not know, or truncated."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(1024).decode("latin-1").splitlines()
    fields = {words[0]: words[2] for words in (line.split(None, 2) for line in head) if len(words) == 3}
    coding = fields.get("sample_coding", "pcm")
    if "shorten" in coding or "wavpack" in coding or "shortpack" in coding:
        return f"SPHERE audio compressed as {coding!r}; uncompress it with `sph2pipe -f wav {path} OUT.wav`"
    numbers = [fields.get(key, "") for key in ("sample_count", "channel_count", "sample_n_bytes")]
    if not all(number.isdigit() for number in numbers) or not head[1].strip().isdigit():
        return "a SPHERE header without sample_count, channel_count or sample_n_bytes"
    missing = int(head[1]) + int(numbers[0]) * int(numbers[1]) * int(numbers[2]) - size
    return f"truncated, the last {missing} bytes are missing" if missing > 0 else None


# PyAV


def needs_av(path: Path, head: bytes) -> bool:
    """Containers of MP4, Matroska and WebM, bare AAC and some telephone codecs: by their first bytes or suffix."""
    if head[4:8] == b"ftyp" or head[:4] == b"\x1a\x45\xdf\xa3":
        return True
    return path.suffix.lower() in AV_SUFFIXES and head[:4] not in (b"RIFF", b"fLaC", b"OggS")


def import_av(name: str):
    try:
        import av
    except ImportError as error:
        raise SpeechMergeError(f"{name}: PyAV, which decodes {Path(name).suffix or 'this audio'}, is missing; "
                               f"{AV_INSTALL}") from error
    return av


def decode_av(path: Path, name: str, start=None, end=None) -> tuple[np.ndarray, int]:
    """By ffmpeg's libraries, decoded from the beginning: these codecs do not start everywhere."""
    av = import_av(name)
    try:
        with av.open(str(path)) as container:
            stream = av_stream(container, name)
            rate, promised = stream.rate, av_seconds(container, stream)
            resampler = av.AudioResampler(format="fltp", rate=rate)
            frames = [out.to_ndarray() for frame in container.decode(stream) for out in resampler.resample(frame)]
            frames += [out.to_ndarray() for out in resampler.resample(None)]
    except (av.error.FFmpegError, ValueError, IndexError) as error:
        raise AudioError(name, f"cannot be decoded, truncated or not audio ({error})") from error
    samples = np.concatenate(frames, axis=1).T if frames else np.zeros((0, 1), np.float32)
    if promised and len(samples) / rate < promised - AV_SHORT:
        raise AudioError(name, f"truncated, found {len(samples) / rate:.3f} of {promised:.3f} s")
    return cut(samples, rate, start, end, name), rate


def av_stream(container, name: str):
    if not container.streams.audio:
        raise AudioError(name, "there is no sound in this file")
    return container.streams.audio[0]


def av_seconds(container, stream) -> float | None:
    """Seconds by the header; None where it says nothing (bare AAC only guesses)."""
    if container.format.name == "aac":
        return None
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    return container.duration / 1e6 if container.duration else None


# Kaldi's arks


def decode_ark(path: Path, offset: int, name: str) -> tuple[np.ndarray, int]:
    """One entry of an ark of audio, as wav-copy or kaldiio write it; arks of features are refused."""
    from kaldiio.matio import read_kaldi

    read_head(path, name)
    with open(path, "rb") as file:
        file.seek(offset)
        head = file.read(5)
        if not (head.startswith(b"RIFF") or head == b"AUDIO"):  # others may be matrices, or pickles, which run code
            found = "a Kaldi matrix" if head.startswith(b"\0B") else f"{head!r}"
            raise AudioError(name, f"found {found} at byte {offset}, expected an entry of audio (wav or flac)")
        file.seek(offset)
        try:
            rate, samples = read_kaldi(file)
        except Exception as error:  # kaldiio lets pass whatever wave, struct and soundfile raise
            reason = str(error) or type(error).__name__
            raise AudioError(name, f"cannot be decoded, truncated or not audio ({reason})") from error
    scale = np.float32(1 / 32768) if samples.dtype == np.int16 else np.float32(1)
    samples = samples.astype(np.float32) * scale
    return samples.reshape(len(samples), -1), rate


# Commands


def decode_pipe(command: str, name: str, start=None, end=None) -> tuple[np.ndarray, int]:
    """Run `command |` with bash and decode what it writes. It can do whatever its author wrote: see --allow-pipes."""
    if command.startswith("|"):
        raise AudioError(name, "found a command that reads, expected one that writes audio (`command |`)")
    with tempfile.NamedTemporaryFile(suffix=".audio") as file:
        words = ["bash", "-o", "pipefail", "-c", command[:-1]]
        done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.PIPE)
        if done.returncode:
            said = done.stderr.decode("utf-8", errors="replace").strip().splitlines() or ["it said nothing"]
            raise AudioError(name, f"the command ended with status {done.returncode}: {said[-1]}")
        return decode(file.name, name, start, end)


def info(path) -> tuple[float, int, int]:
    """(seconds, rate, channels) from the header where it can be trusted to say it, else by decoding."""
    path = Path(path)
    if not ark_entry(path) and path.is_file():
        try:
            if needs_av(path, read_head(path, str(path))):
                return av_info(path)
            found = soundfile.info(str(path))
            return found.frames / found.samplerate, found.samplerate, found.channels
        except (soundfile.LibsndfileError, RuntimeError):
            pass  # decoding says what is wrong
    samples, rate = decode(path)
    return len(samples) / rate, rate, samples.shape[1]


def av_info(path: Path) -> tuple[float, int, int]:
    av = import_av(str(path))
    try:
        with av.open(str(path)) as container:
            stream = av_stream(container, str(path))
            seconds = av_seconds(container, stream)
            found = (seconds, stream.rate, stream.channels)
    except (av.error.FFmpegError, ValueError, IndexError) as error:
        raise AudioError(path, f"cannot be decoded, truncated or not audio ({error})") from error
    if seconds is None:
        samples, rate = decode_av(path, str(path))
        return len(samples) / rate, rate, samples.shape[1]
    return found
