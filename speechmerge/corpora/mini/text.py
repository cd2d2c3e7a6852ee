"""Sentences of the mini corpus: template grammars and word lists of our own, one yaml file per language.

    grammar = Grammar("it")
    grammar.sentence(random.Random(1), "train")        # "il maestro compra un libro al mercato"
    grammar.intent(random.Random(1), "weather", "test")

Every sentence belongs to exactly one of train, dev and test, decided by a hash of its text alone (`split_of`). So no
training set, the base model's included, can contain a sentence of a dev or test set, whatever the seeds.
"""
import hashlib
import re
from functools import lru_cache
from pathlib import Path

import yaml

SLOT = re.compile(r"{(\w+)}")
TRIES = 2000  # draws until a sentence falls into the wanted split; 1 of 10 belongs to dev, 2 to test


@lru_cache
def read_words(name: str) -> dict:
    """The yaml file `name` beside this module."""
    return yaml.safe_load((Path(__file__).parent / f"{name}.yaml").read_text(encoding="utf-8"))


def split_of(text: str) -> str:
    """train, dev or test: a property of the text."""
    bucket = hashlib.sha256(text.encode("utf-8")).digest()[0] % 10
    return "train" if bucket < 7 else "dev" if bucket == 7 else "test"


class Grammar:
    """One language's sentences."""

    def __init__(self, language: str):
        siblings = read_words("siblings")
        self.words = siblings[language] if language in siblings else read_words(language)
        self.language = language

    def sentence(self, rng, split: str, longest: int = 60) -> str:
        """A sentence of at most `longest` characters that belongs to `split`."""
        return self._draw(rng, self.words["sentences"], split, longest)

    def intent(self, rng, label: str, split: str) -> str:
        """A request with this intent, at times with a word before or after it."""
        requests = self.words["intents"][label]
        frames = [(before, after) for before in ("", "", "{before} ") for after in ("", "", " {after}")]
        templates = [before + text + after for text in requests for before, after in frames]
        return self._draw(rng, templates, split, 60)

    def phrase(self, rng) -> str:
        """A piece of a sentence, one to three words: what recognition is learned from first. Belongs to no split."""
        slots = [slot for slot, value in self.words.items() if slot not in ("sentences", "intents")]
        words = rng.choice(self.words[rng.choice(slots)]).split()
        return " ".join(words[-rng.choice((1, 2, 3)):])

    def intents(self) -> list[str]:
        return list(self.words.get("intents", {}))

    def all_text(self) -> list[str]:
        """Every template (slots blanked) and every slot filler: what a tokenizer is trained on."""
        words = dict(self.words)
        lists = [words.pop("sentences"), *words.pop("intents", {}).values()]
        blanked = [SLOT.sub(" ", template) for templates in lists for template in templates]
        return blanked + [word for fill in words.values() for word in fill]

    def _draw(self, rng, templates, split, longest) -> str:
        for _ in range(TRIES):
            text = SLOT.sub(lambda slot: rng.choice(self.words[slot[1]]), rng.choice(templates))
            if len(text) <= longest and split_of(text) == split:
                return text
        raise ValueError(f"{self.language}: no {split} sentence of at most {longest} characters in {TRIES} draws")
