"""Semantic frames as text: JSON, and forms without brackets for models whose tokens cannot write JSON.

    json     {"scenario":"alarm","action":"query","entities":[{"type":"event_name","filler":"dance class"}]}
    compact  {"scenario":"alarm","action":"query","entities":[{"event_name":"dance class"}]}
    linear   alarm query | event_name : dance class
    plain    alarm query '' event'name ' dance class          for tokenizers of letters and apostrophes

Where one of the first two is read, the other is too, and what stands around it is skipped. Each is read back exactly: words of a filler that look like a separator are made longer when written, shorter when read.
"""
import json
from dataclasses import dataclass

from speechmerge.errors import SpeechMergeError


@dataclass(frozen=True)
class Form:
    """`entity` begins an entity, `filler` its filler; `joiner` stands for the `_` of names."""
    entity: str
    filler: str
    joiner: str

    @property
    def longest(self) -> int:
        return max(len(self.entity), len(self.filler))

    def is_mark(self, word: str) -> bool:
        return set(word) in ({self.entity[0]}, {self.filler[0]})


FORMS = {"linear": Form("|", ":", "_"), "plain": Form("''", "'", "'")}
FORMATS = ("json", "compact", *FORMS)  # in the order in which a model is given what it can write
SIGNS = {"json": '{"a_b":["c","d"]}', "compact": '{"a_b":["c","d"]}', "linear": "a_b | c : d", "plain": "a'b '' c ' d"}

EXAMPLE = {"scenario": "alarm", "action": "set", "entities": [{"type": "time", "filler": "eight o'clock"}]}
KEYS = ("type", "filler")  # of an entity in `json`; no type may be called so in `compact`


def nothing() -> dict:
    """The frame that says nothing."""
    return {"scenario": "", "action": "", "entities": []}


def encode(frame: dict, format: str) -> str:
    """The text of a frame. Raises SpeechMergeError for a name that the format cannot write."""
    if format == "compact":
        if bad := [entity["type"] for entity in frame["entities"] if entity["type"] in KEYS]:
            raise SpeechMergeError(f"the entity type {bad[0]!r} cannot be told from a key; use --target-format json")
        frame = {**frame, "entities": [{entity["type"]: entity["filler"]} for entity in frame["entities"]]}
    if format in ("json", "compact"):
        return json.dumps(frame, ensure_ascii=False, separators=(",", ":"))
    form = FORMS[format]
    words = [name_word(frame["scenario"], form), name_word(frame["action"], form)]
    for entity in frame["entities"]:
        words += [form.entity, name_word(entity["type"], form), form.filler]
        words += [word + word[0] * form.longest if form.is_mark(word) else word for word in entity["filler"].split()]
    return " ".join(words)


def name_word(name: str, form: Form) -> str:
    """A scenario, action or entity type as one word."""
    written = name.replace("_", form.joiner)
    if not name or len(name.split()) != 1 or form.is_mark(written) or written.replace(form.joiner, "_") != name:
        raise SpeechMergeError(f"the name {name!r} cannot be written without brackets; use --target-format json")
    return written


def decode(text: str, format: str) -> dict | None:
    """The frame of a text, None where it is none. JSON may have other white space, order and keys, and text around it (of
    several frames the first counts); what is missing is empty; anything else than strings in it is no frame."""
    if format in ("json", "compact"):
        return next((frame for _, frame in frames_in(text)), None)
    form = FORMS[format]
    head, *entities = split_at(text.split(), form.entity)
    found = [read_entity(words, form) for words in entities]
    if len(head) != 2 or any(form.is_mark(word) for word in head) or None in found:
        return None
    scenario, action = (word.replace(form.joiner, "_") for word in head)
    return {"scenario": scenario, "action": action, "entities": found}


def split_at(words: list[str], mark: str) -> list[list[str]]:
    pieces = [[]]
    for word in words:
        if word == mark:
            pieces.append([])
        else:
            pieces[-1].append(word)
    return pieces


def read_entity(words: list[str], form: Form) -> dict | None:
    if len(words) < 2 or words[1] != form.filler or form.is_mark(words[0]):
        return None
    if any(form.is_mark(word) and len(word) <= form.longest for word in words[2:]):
        return None
    filler = [word[: -form.longest] if form.is_mark(word) else word for word in words[2:]]
    return {"type": words[0].replace(form.joiner, "_"), "filler": " ".join(filler)}


def frames_in(text: str):
    """Yield (place, frame) of the JSON frames in a text. Within other words a frame must say its scenario or action, so
    that an entity of a frame that was cut off is not taken for one."""
    decoder, at = json.JSONDecoder(), text.find("{")
    while at >= 0:
        try:
            value, end = decoder.raw_decode(text, at)
        except RecursionError:
            return
        except ValueError:
            end = at + 1
        else:
            frame = as_frame(value)
            if frame and ("scenario" in value or "action" in value or text.strip() == text[at:end]):
                yield at, frame
        at = text.find("{", end)


def as_frame(value) -> dict | None:
    """A frame out of parsed JSON; white space in it is made single."""
    if not isinstance(value, dict) or not isinstance(value.get("entities", []), list):
        return None
    names = [value.get("scenario", ""), value.get("action", "")]
    entities = [pair for entity in value.get("entities", []) for pair in as_entities(entity)]
    if not all(isinstance(text, str) for row in (names, *entities) for text in row):
        return None
    return {"scenario": single(names[0]), "action": single(names[1]),
            "entities": [{"type": single(type_), "filler": single(filler)} for type_, filler in entities]}


def as_entities(value) -> list[tuple]:
    """(type, filler) of an entity; in the compact form one dictionary may hold several."""
    if not isinstance(value, dict) or not value:
        return [(None, None)]
    return [tuple(value.get(key) for key in KEYS)] if set(KEYS) & value.keys() else list(value.items())


def single(text: str) -> str:
    return " ".join(text.split())
