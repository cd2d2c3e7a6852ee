"""Requests to wav files: speak, trim, add light noise, set the level. The same request always gives the same bytes."""
import hashlib
import json
import multiprocessing
import os
import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from scipy.signal import butter, sosfilt
import soundfile

from speechmerge.corpora.mini.speech import RATE, Delivery, Synthesizer
from speechmerge.files import write_text

QUIET = 0.003  # below this the engine's leading and trailing silence ends
MARGIN = RATE // 20  # 50 ms of it are kept
HEADER = 44  # bytes of a wav file before its samples
NOISE = {"near": (22, 45), "telephone": (4, 12)}  # dB below the speech
TELEPHONE = butter(4, [300, 3400], "bandpass", fs=RATE, output="sos")  # the band of a telephone line, Hz
FASTER = 1.15  # what is too long is said again this much faster


@dataclass(frozen=True)
class Request:
    """One utterance to be spoken; `longest` in seconds."""

    id: str
    text: str
    language: str
    speaker: str
    variant: str
    delivery: Delivery
    labels: dict = field(default_factory=dict)
    longest: float = 3.9
    seed: int = 0
    channel: str = "near"  # or "telephone"


def render(synthesizer: Synthesizer, request: Request) -> np.ndarray:
    """float32 samples in [-1, 1] at 16 kHz, at most `request.longest` seconds."""
    samples = spoken(request, lambda delivery: synthesizer.speak(request.text, request.language, request.variant, delivery))[0]
    return disturb(through(request.channel, samples), f"{request.seed}:{request.id}", NOISE[request.channel])


def spoken(request: Request, speak) -> tuple[np.ndarray, int]:
    """(what is kept of `speak(delivery)`, number of its first sample), said faster until it is short enough."""
    delivery = request.delivery
    while True:
        samples = speak(delivery)
        first, end = loud_part(samples)
        if end - first <= request.longest * RATE:
            return samples[first:end], first
        if delivery.rate > 400:
            raise ValueError(f"{request.id}: {request.text!r} does not fit into {request.longest} s at any rate")
        delivery = replace(delivery, rate=round(delivery.rate * FASTER))


def loud_part(samples: np.ndarray) -> tuple[int, int]:
    """First sample and end without most of the silence before and after."""
    loud = np.flatnonzero(np.abs(samples) > QUIET)
    return (max(0, loud[0] - MARGIN), min(len(samples), loud[-1] + MARGIN)) if len(loud) else (0, len(samples))


def through(channel: str, samples: np.ndarray) -> np.ndarray:
    """What a channel lets pass."""
    return samples if channel == "near" else sosfilt(TELEPHONE, samples).astype(np.float32)


def disturb(samples: np.ndarray, key: str, below=NOISE["near"]) -> np.ndarray:
    """White noise, so many dB `below` the speech, and a peak of 0.2-0.9, both drawn from the key."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big"))
    noise = rng.standard_normal(len(samples)).astype(np.float32) * samples.std() * 10 ** (-rng.uniform(*below) / 20)
    noisy = samples + noise
    return (noisy * (rng.uniform(0.2, 0.9) / np.abs(noisy).max())).astype(np.float32)


def audio_path(directory: Path, request: Request) -> Path:
    return directory / f"{request.id}.wav"


def begin(requests: list[Request], directory: Path) -> list[tuple[Request, Path]]:
    """Prepare a folder for the audio of these requests; returns those that are still to be spoken.

    What an earlier, killed call with the same requests has finished is kept; what belongs to others is removed.
    """
    plan = json.dumps([asdict(request) for request in requests], ensure_ascii=False)
    plan = hashlib.sha256(plan.encode("utf-8")).hexdigest()
    mark = directory / "plan"
    if directory.exists() and not (mark.is_file() and mark.read_text() == plan):
        shutil.rmtree(directory)
    directory.mkdir(parents=True, exist_ok=True)
    write_text(mark, plan)
    return [(request, directory) for request in requests if not audio_path(directory, request).exists()]


def render_all(missing: list[tuple[Request, Path]], nj: int = 1):
    """One wav per (request, folder), by `nj` processes."""
    if nj == 1 or len(missing) < 50:
        return write_share(missing)
    with multiprocessing.get_context("spawn").Pool(nj) as pool:
        pool.map(write_share, [missing[i::nj] for i in range(nj)], chunksize=1)


def write_share(share: list[tuple[Request, Path]]):
    """Speak a list of requests, each file renamed into place when it is whole."""
    synthesizer = Synthesizer() if share else None
    for request, directory in share:
        path = audio_path(directory, request)
        beside = path.with_name(f".{path.name}")
        soundfile.write(beside, render(synthesizer, request), RATE, subtype="PCM_16", format="WAV")
        os.replace(beside, path)


def seconds_of(directory: Path, request: Request) -> float:
    return (audio_path(directory, request).stat().st_size - HEADER) / 2 / RATE
