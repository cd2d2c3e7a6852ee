"""espeak-ng through ctypes: text in, 16 kHz float samples out, the same samples for the same request.

`espeakng_loader` carries the shared library and all its voices, so nothing is installed and no network is used.
The engine keeps state between utterances (flutter, noise) that no call resets, so `Synthesizer.speak` loads the
library afresh each time (about 2 ms): an utterance never depends on what was spoken before it or in which process.
"""
from __future__ import annotations

import _ctypes
import ctypes
import math
from dataclasses import dataclass

import numpy as np
from scipy.signal import firwin, resample_poly

from speechmerge.errors import SpeechMergeError

RATE = 16000  # Hz, of everything we write
SYNCHRONOUS = 2  # espeak_AUDIO_OUTPUT: the callback runs in this thread; plain retrieval (1) is ten times slower
DONT_EXIT = 0x8000
CHARS_UTF8 = 1
PARAMETER = {"rate": 1, "volume": 2, "pitch": 3, "range": 4}  # espeak_PARAMETER
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


@dataclass(frozen=True)
class Delivery:
    """How a sentence is said: words per minute, and pitch and range on espeak's scale of 0-99 (50 = the voice's own)."""

    rate: int = 165
    pitch: int = 50
    range: int = 50


class Synthesizer:
    """One espeak-ng engine. The library is global to a process, so all Synthesizers of a process share it."""

    library = None

    def __init__(self):
        try:
            import espeakng_loader
        except ImportError as error:
            raise SpeechMergeError(
                "espeak-ng: the Python package espeakng-loader is missing, the mini corpora are spoken by it; "
                "run tools/setup.sh (or: pip install 'espeakng-loader>=0.2.4')"
            ) from error
        self.library_path = str(espeakng_loader.get_library_path())
        self.data_path = str(espeakng_loader.get_data_path())
        self.chunks: list[np.ndarray] = []
        self.callback = CALLBACK(self._collect)  # kept: ctypes would free it
        self.resample = _resampler(self._load())

    def _load(self) -> int:
        """Load the library as if nothing had been spoken before; returns its native sample rate."""
        if Synthesizer.library is not None:
            Synthesizer.library.espeak_Terminate()
            _ctypes.dlclose(Synthesizer.library._handle)
        Synthesizer.library = ctypes.CDLL(self.library_path)
        rate = self.library.espeak_Initialize(SYNCHRONOUS, 0, self.data_path.encode(), DONT_EXIT)
        if rate <= 0:
            raise SpeechMergeError(f"espeak-ng: cannot start with the voices in {self.data_path}; run tools/setup.sh")
        self.library.espeak_SetSynthCallback(self.callback)
        return rate

    def _collect(self, samples, count, events) -> int:
        if samples and count > 0:
            self.chunks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        return 0

    def speak(self, text: str, language: str, variant: str, delivery: Delivery = Delivery()) -> np.ndarray:
        """Samples of one utterance: float32 in [-1, 1], 16 kHz. SpeechMergeError for an unknown voice or silence."""
        self._load()
        self.library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # breath noise
        voice = f"{language}+{variant}"
        if self.library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise SpeechMergeError(f"espeak-ng: no voice {voice!r} in {self.data_path}; run tools/setup.sh")
        for name in ("rate", "pitch", "range"):
            self.library.espeak_SetParameter(PARAMETER[name], getattr(delivery, name), 0)
        self.chunks.clear()
        data = text.encode("utf-8")
        self.library.espeak_Synth(data, len(data) + 1, 0, 0, 0, CHARS_UTF8, None, None)
        if not self.chunks:
            raise SpeechMergeError(f"espeak-ng: voice {voice} said nothing for {text!r}")
        return self.resample(np.concatenate(self.chunks).astype(np.float32) / 32768.0)


def _resampler(native_rate: int):
    """A function from native_rate to RATE: polyphase, the filter designed once."""
    divisor = math.gcd(native_rate, RATE)
    up, down = RATE // divisor, native_rate // divisor
    taps = firwin(20 * max(up, down) + 1, 1 / max(up, down), window=("kaiser", 5.0)).astype(np.float32)
    return lambda samples: resample_poly(samples, up, down, window=taps)
