"""Utterances of one source in one language: ids that are unique across sources, tidy text, what was left out and why.

    found = Gathered("kathbath", "hi")
    found.add("train", speaker="594", name="844424931537866", text="आज\\u00a0बारिश", audio=path, gender="f")
    found.splits["train"]["kathbath-hi-594-844424931537866"].text      # "आज बारिश"

Corpora that mix sources need all of this in one form; corpora of one source get the same ids from the same code, so
that a set made alone and a set made in a mixture agree.
"""
import logging
import re
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

from speechmerge.data.directory import Utterance
from speechmerge.data.tables import NO_BREAK_SPACES, invisible_characters

log = logging.getLogger(__name__)
# First and last code point of the letters that a language is written in; others are not checked
SCRIPTS = {"hi": (0x900, 0x97F), "pa": (0xA00, 0xA7F), "te": (0xC00, 0xC7F), "it": (0x41, 0x24F)}
SUFFIXES = (".m4a", ".wav", ".flac", ".mp3", ".opus", ".ogg")
NOT_IN_ID = re.compile(r"[^\w.-]")
APOSTROPHE = re.compile(r"(?<=\w)['’](?=\w)")
KEPT = "\ue000"  # stands for an apostrophe inside a word while punctuation goes; private use, in no text


class Gathered:
    """What a reader found: `splits` {split: {id: Utterance}}, `skipped` {reason: count}, `remarks` {reason: ids}."""

    def __init__(self, source: str, language: str):
        self.source, self.language = source, language
        self.splits: dict[str, dict[str, Utterance]] = {}
        self.skipped: Counter = Counter()
        self.remarks: defaultdict[str, list[str]] = defaultdict(list)  # of what is kept, but should be known

    def add(self, split: str, **given):
        """An utterance as `make_utterance` takes it; without text, or a second time, it is left out and counted."""
        utterance = make_utterance(self.source, self.language, **given)
        own = self.splits.setdefault(split, {})
        if not utterance.text:
            self.skip("empty transcript")
        elif utterance.id in own:
            self.skip("listed twice")
        else:
            own[utterance.id] = utterance

    def skip(self, reason: str, count: int = 1):
        if count:
            self.skipped[f"{self.source} {self.language}: {reason}"] += count

    def report(self):
        """Says what was remarked, with the first utterance of each kind."""
        for reason, ids in sorted(self.remarks.items()):
            if ids:
                log.warning("%s %s: %d %s, the first is %s", self.source, self.language, len(ids), reason, ids[0])


def make_utterance(source: str, language: str, *, speaker: str, name: str, text: str, audio="", gender: str = "",
                   group: str | None = None, segment=None) -> Utterance:
    """Id <source>-<language>-<speaker>-<name>, tidy text, and the tables corpus, gender (f, m or u), group.

    `group`: what must stay in one split beside the speaker, a recording or a conversation; by default the clip itself.
    `segment`: start and end in seconds inside `audio`.
    """
    speaker = f"{source}-{language}-{safe(speaker)}"
    id = f"{speaker}-{safe(name)}"
    group = f"{source}-{language}-{safe(group)}" if group else id
    labels = {"corpus": source, "gender": gender_letter(gender), "group": group}
    return Utterance(id, str(audio), tidy(text), speaker, language, labels=labels, segment=segment)


def safe(name) -> str:
    """As a part of an id."""
    return NOT_IN_ID.sub("_", str(name).strip())


def gender_letter(value: str | None) -> str:
    """f, m or u of what the publishers write: F, female, female_feminine, Male, male_masculine, other, nothing."""
    first = (value or "").strip().lower()[:1]
    return first if first in ("f", "m") else "u"


def tidy(text: str) -> str:
    """NFC, one plain space between words, nothing invisible but the joiners that belong to the spelling.

    NFC because sources write the same letter as one code point or as letter + nukta; it makes them one.
    """
    text = "".join(" " if c in NO_BREAK_SPACES or c.isspace() else c for c in unicodedata.normalize("NFC", text))
    hidden = set(invisible_characters(text))
    return " ".join("".join(c for c in text if c not in hidden).split())


def plain(text: str) -> str:
    """Lower case without punctuation and symbols, apostrophes inside words kept: one form for sources that differ."""
    text = APOSTROPHE.sub(KEPT, text.lower())
    text = "".join(" " if unicodedata.category(c)[0] in "PS" else c for c in text)
    return " ".join(text.replace(KEPT, "'").split())


def in_script(text: str, language: str) -> bool:
    """Whether at least half of the words have a letter of the language; true of languages that are not in SCRIPTS."""
    if language not in SCRIPTS:
        return True
    first, last = SCRIPTS[language]
    words = [word for word in text.split() if any(c.isalpha() for c in word)]
    return 2 * sum(any(first <= ord(c) <= last for c in word) for word in words) >= len(words)


def stem(name) -> str:
    """The name of a clip without folder and suffix; only a suffix that is one of audio goes, dots in names stay."""
    name = Path(str(name)).name
    return name.rpartition(".")[0] if name.lower().endswith(SUFFIXES) else name
