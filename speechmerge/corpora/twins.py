"""What the miniatures of published corpora share: espeak-ng speech in the corpus's own file formats.

    speak(root, [Spoken("dev-clean/84/121123/84-121123-0000.flac", "go to the market", "en", voices("dev")[0])])

The suffix decides the format: wav, flac, mp3, sph (NIST SPHERE), m4a. Equal lists give equal bytes; files that are
there are kept, so a killed twin goes on.
"""
import multiprocessing
import os
import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile

from speechmerge.corpora.mini.render import Request, render
from speechmerge.corpora.mini.speech import RATE, Delivery, Synthesizer
from speechmerge.corpora.mini.text import Grammar
from speechmerge.corpora.mini.voices import Speaker
from speechmerge.corpora.mini.voices import speakers as voices
from speechmerge.errors import SpeechMergeError
from speechmerge.files import write_text

__all__ = ["Delivery", "Speaker", "Spoken", "crowd", "gender", "sentences", "speak", "voices", "write_lines"]

FORMATS = {".wav": "WAV", ".flac": "FLAC", ".mp3": "MP3", ".sph": "NIST"}  # not ogg: its serial number is random
PCM = (".wav", ".flac", ".sph")
PAUSE = 0.3  # seconds between two texts of one file
WOMEN = "f1 f2 f3 f4 f5 Alicia Andrea Annie anika aunty belinda grandma linda Nguyen shelby steph steph2 steph3".split()


@dataclass(frozen=True)
class Spoken:
    """One audio file: one text, or several with pauses between them. `longest`: seconds of each text."""

    path: str  # below the corpus folder
    text: str | tuple[str, ...]
    language: str  # espeak's code: en, hi, ...
    speaker: Speaker
    delivery: Delivery | None = None  # default: an ordinary one, drawn from the path
    longest: float = 3.9
    rate: int = RATE  # Hz, of the file
    seed: int = 0
    channel: str = "near"  # or "telephone": a narrow band and noise
    labels: dict = field(default_factory=dict)  # for whoever makes the list; nothing is done with them here

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.text,) if isinstance(self.text, str) else self.text


def sentences(language: str, split: str, rng: random.Random, longest: int = 48) -> str:
    """A general sentence of `split` (no sentence is in two) of at most `longest` characters; en es de it hi pa te."""
    return Grammar(language).sentence(rng, split, longest)


def crowd(split: str) -> list[Speaker]:
    """The voices of a corpus of many people: to train on those of the mini base, too, which no dev or test set has.

    Without `shelby`, whose second formant is raised by 40 % while its first is lowered: no vocal tract does that, and its
    vowels are others.
    """
    found = voices(split) + (voices("base") if split == "train" else [])
    return [voice for voice in found if voice.variant != "shelby"]


def gender(speaker: Speaker) -> str:
    """`F` or `M`: what a voice sounds like."""
    return "F" if speaker.variant in WOMEN else "M"


def speak(root, spoken: list[Spoken], nj: int = 1) -> dict[str, list[tuple[float, float]]]:
    """Write the files that are missing; returns {path: (start, end) of each text in seconds} of files with several."""
    root, paths = Path(root), [item.path for item in spoken]
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise ValueError(f"{twice}: to be spoken twice")
    todo = [item for item in spoken if len(item.texts) > 1 or not (root / item.path).is_file()]
    if nj == 1 or len(todo) < 50:
        return speak_share(root, todo)
    shares = [(root, todo[i::nj]) for i in range(nj)]
    with multiprocessing.get_context("spawn").Pool(nj) as pool:
        done = pool.starmap(speak_share, shares, chunksize=1)
    return {path: times for found in done for path, times in found.items()}


def speak_share(root: Path, spoken: list[Spoken]) -> dict[str, list[tuple[float, float]]]:
    """One process's part."""
    synthesizer, times = Synthesizer() if spoken else None, {}
    for item in spoken:
        samples, stretches = say(synthesizer, item)
        if len(stretches) > 1:
            times[item.path] = stretches
        if not (root / item.path).is_file():
            write(root / item.path, samples, item.rate)
    return times


def say(synthesizer: Synthesizer, item: Spoken) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """float32 samples at 16 kHz, and where each text stands in them (seconds)."""
    parts, stretches, at = [], [], 0
    pause = np.zeros(round(PAUSE * RATE), np.float32)
    for number, text in enumerate(item.texts):
        key = f"{item.path}:{number}"
        delivery = item.delivery or item.speaker.delivery(random.Random(key))
        request = Request(key, text, item.language, item.speaker.name, item.speaker.variant, delivery, {}, item.longest,
                          item.seed, item.channel)
        samples = render(synthesizer, request)
        if number:
            parts.append(pause)
            at += len(pause)
        parts.append(samples)
        stretches.append((at / RATE, (at + len(samples)) / RATE))
        at += len(samples)
    return np.concatenate(parts), stretches


def write(path: Path, samples: np.ndarray, rate: int):
    """Renamed into place when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}")
    if rate != RATE:
        samples = at_rate(samples, rate)
    if path.suffix == ".m4a":
        write_aac(beside, samples, rate)
    elif path.suffix in FORMATS:
        subtype = "PCM_16" if path.suffix in PCM else None
        soundfile.write(beside, samples, rate, format=FORMATS[path.suffix], subtype=subtype)
    else:
        raise ValueError(f"{path}: no such audio format; known: {', '.join([*FORMATS, '.m4a'])}")
    os.replace(beside, path)


def at_rate(samples: np.ndarray, rate: int) -> np.ndarray:
    from scipy.signal import resample_poly

    return np.clip(resample_poly(samples, rate, RATE), -1, 1).astype(np.float32)


def write_aac(path: Path, samples: np.ndarray, rate: int):
    try:
        import av
    except ImportError as error:
        raise SpeechMergeError(f"{path}: PyAV, which writes m4a, is missing; "
                               "run: pip install 'speechmerge[av]'") from error
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("aac", rate=rate, layout="mono", bit_rate=48000)
        frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


def write_lines(path, lines, encoding: str = "utf-8"):
    """Lines with a newline at the end of each; `encoding` where a corpus has another (utf-8-sig: with a BOM)."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if encoding == "utf-8":
        write_text(path, "".join(f"{line}\n" for line in lines))
    else:
        path.write_bytes("".join(f"{line}\n" for line in lines).encode(encoding))
