"""espeak-ng says a text and when it says each phone and each word of it.

    said = Announcer().say("il maestro", "it")       # phones as IPA with stress marks left away, times in seconds

The times are the synthesizer's own, to the sample. A phone lasts until the next one begins; what espeak puts between a
word's beginning and its first sound is the closure of that sound.
"""
import ctypes
import re
from dataclasses import dataclass

import numpy as np

from speechmerge.alignment.times import Piece, Times
from speechmerge.corpora.mini.speech import DONT_EXIT, RATE, SYNCHRONOUS, Delivery, Synthesizer
from speechmerge.errors import SpeechMergeError

PHONEME_EVENTS, IPA = 0x1, 0x2  # options of espeak_Initialize
WORD, END, PHONEME = 1, 5, 7  # types of events
STRESS = re.compile(r"[ˈˌ\u200d]|\([^()]*\)")  # and marks of a change of language


class Id(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h"""

    _fields_ = [("type", ctypes.c_int), ("unique_identifier", ctypes.c_uint), ("text_position", ctypes.c_int),
                ("length", ctypes.c_int), ("audio_position", ctypes.c_int), ("sample", ctypes.c_int),
                ("user_data", ctypes.c_void_p), ("id", Id)]


CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(Event))


@dataclass(frozen=True)
class Said:
    """samples: float32 at 16 kHz, not trimmed; times in them; word_of: for each phone the number of its word."""

    samples: np.ndarray
    times: Times
    word_of: tuple[int, ...]


class Announcer(Synthesizer):
    """A Synthesizer that also tells the times; its samples are the same."""

    def __init__(self):
        self.events, self.native = [], 0
        self.told = CALLBACK(self._collect_told)
        super().__init__()

    def _load(self) -> int:
        """As the base does, then again with phoneme events, which the library only gives when it is initialised so."""
        import _ctypes

        super()._load()
        library = Synthesizer.library
        library.espeak_Terminate()
        _ctypes.dlclose(library._handle)
        Synthesizer.library = ctypes.CDLL(self.library_path)
        self.native = self.library.espeak_Initialize(SYNCHRONOUS, 0, self.data_path.encode(),
                                                     DONT_EXIT | PHONEME_EVENTS | IPA)
        self.library.espeak_SetSynthCallback(self.told)
        return self.native

    def _collect_told(self, samples, count, events) -> int:
        self._collect(samples, count, None)
        place = 0
        while events and events[place].type:
            event = events[place]
            name = event.id.string.decode("utf-8", "ignore") if event.type == PHONEME else ""
            self.events.append((event.type, event.sample / self.native, event.text_position - 1, STRESS.sub("", name)))
            place += 1
        return 0

    def say(self, text: str, language: str, variant: str = "", delivery: Delivery = Delivery()) -> Said:
        """SpeechMergeError for an unknown language, or a text of which nothing is said."""
        self.events.clear()
        samples = self.speak(text, language, variant, delivery)
        found = phones_of(self.events, len(samples) / RATE)
        if not found:
            raise SpeechMergeError(f"espeak-ng: nothing of {text!r} is said in {language}; leave the utterance out")
        tokens = [(match.start(), match.end(), match.group()) for match in re.finditer(r"\S+", text)]
        of_phone = [token_at(tokens, position) for _, position in found]
        order = sorted(set(of_phone))
        words = [word_piece(tokens[number][2], [piece for (piece, _), own in zip(found, of_phone) if own == number])
                 for number in order]
        return Said(samples, Times(tuple(piece for piece, _ in found), tuple(words)),
                    tuple(order.index(number) for number in of_phone))


def token_at(tokens, position: int) -> int:
    """The number of the token that holds this character, else of the last one that begins before it."""
    return max((number for number, (start, _, _) in enumerate(tokens) if start <= position), default=0)


def word_piece(text: str, phones: list[Piece]) -> Piece:
    return Piece(phones[0].start, phones[-1].end, text)


def phones_of(events, seconds: float) -> list[tuple[Piece, int]]:
    """[(phone, place of its word in the text)]. A phone without a name inside a word belongs to the one before it;
    others without a name are pauses."""
    found, begin, position = [], None, 0
    begun = None  # (start, name, position) of the phone that is being said
    events = [event for event in events if event[0] in (WORD, END, PHONEME)]
    for place, (kind, time, at, name) in enumerate(events):
        if kind == WORD:
            begin, position = time, at
        elif kind == PHONEME and (name or not continues(events, place)):
            start = time if begin is None or not name else begin
            if begun:
                found.append((Piece(begun[0], start, begun[1]), begun[2]))
            begun = (start, name, position) if name else None
            begin = None if name else begin
    if begun:
        found.append((Piece(begun[0], seconds, begun[1]), begun[2]))
    return [(piece, position) for piece, position in found if piece.end > piece.start]


def continues(events, place: int) -> bool:
    """Does a phone of the same word follow?"""
    return place + 1 < len(events) and events[place + 1][0] == PHONEME and events[place + 1][3] != ""
