"""espeak-ng through ctypes: text in, 16 kHz float samples out, the same samples for the same request.

`espeakng_loader` carries the shared library and all its voices, so nothing is installed and no network is used.
The engine keeps state between utterances (flutter, noise, the language's dictionary); `Synthesizer.speak` starts it
afresh where that matters, so that an utterance does not depend on what was spoken before it or in which process.
"""
from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np

from speechmerge.errors import SpeechMergeError

RATE = 16000  # Hz, of everything we write
AUDIO_RETRIEVAL = 1  # espeak_AUDIO_OUTPUT: AUDIO_OUTPUT_RETRIEVAL, samples only through the callback
PHONES_NOT_PRINTED, DONT_EXIT = 0, 0x8000
CHARS_UTF8 = 1
PARAMETER = {"rate": 1, "volume": 2, "pitch": 3, "range": 4}  # espeak_PARAMETER
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


@dataclass(frozen=True)
class Delivery:
    """How a sentence is said: words per minute, and pitch and pitch range on espeak's scale of 0-99 (50 = the voice's own)."""

    rate: int = 165
    pitch: int = 50
    range: int = 50


class Synthesizer:
    """One espeak-ng engine. The library is global to a process: make one Synthesizer per process."""

    def __init__(self):
        try:
            import espeakng_loader
        except ImportError as error:
            raise SpeechMergeError(
                "espeak-ng: the Python package espeakng-loader is missing, the mini corpora are spoken by it; "
                "run tools/setup.sh (or: pip install 'espeakng-loader>=0.2.4')"
            ) from error
        self.library = ctypes.CDLL(espeakng_loader.get_library_path())
        self.data_path = str(espeakng_loader.get_data_path()).encode()
        self.chunks: list[np.ndarray] = []
        self.callback = CALLBACK(self._collect)  # kept: ctypes would free it
        self.native_rate = self._start()
        self.voice = None
        self.resample = _resampler(self.native_rate)

    def _start(self) -> int:
        rate = self.library.espeak_Initialize(AUDIO_RETRIEVAL, 0, self.data_path, DONT_EXIT)
        if rate <= 0:
            raise SpeechMergeError(f"espeak-ng: cannot start with the voices in {self.data_path.decode()}; run tools/setup.sh")
        self.library.espeak_SetSynthCallback(self.callback)
        return rate

    def _collect(self, samples, count, events) -> int:
        if samples and count > 0:
            self.chunks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        return 0

    def restart(self):
        """Forget everything spoken so far."""
        self.library.espeak_Terminate()
        self._start()
        self.voice = None

    def speak(self, text: str, language: str, variant: str, delivery: Delivery = Delivery()) -> np.ndarray:
        """Samples of one utterance: float32 in [-1, 1], 16 kHz mono. SpeechMergeError for an unknown voice or silence."""
        self._choose(f"{language}+{variant}")
        self.library.espeak_ng_SetRandSeed(1)
        for name in ("rate", "pitch", "range"):
            self.library.espeak_SetParameter(PARAMETER[name], getattr(delivery, name), 0)
        self.chunks.clear()
        data = text.encode("utf-8")
        self.library.espeak_Synth(data, len(data) + 1, 0, 0, 0, CHARS_UTF8, None, None)
        self.library.espeak_Synchronize()
        if not self.chunks:
            raise SpeechMergeError(f"espeak-ng: voice {language}+{variant} said nothing for {text!r}")
        return self.resample(np.concatenate(self.chunks).astype(np.float32) / 32768.0)

    def _choose(self, voice: str):
        if voice != self.voice and self.library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise SpeechMergeError(f"espeak-ng: no voice {voice!r} in {self.data_path.decode()}; run tools/setup.sh")
        self.voice = voice


def _resampler(native_rate: int):
    import torch
    from torchaudio.transforms import Resample

    transform = Resample(native_rate, RATE)  # one kept object: 0.9 ms a sentence, the functional form takes 3.5 ms
    return lambda samples: transform(torch.from_numpy(samples)).numpy()
