"""Sentences of the miniature, a quarter of them about people of the news, of whom the mini base has never read.

    sentence("hi", "test", random.Random(1))      # "आज पत्रकार किताब लाता है"

So the base has errors in every language, and not in every sentence. Each sentence belongs to one of train, dev and test
by a hash of its text, as those of the mini corpus do.
"""
import random
from functools import lru_cache

from speechmerge.corpora.mini.text import Grammar
from speechmerge.corpora.twins import sentences

# Masculine, as the verbs of the grammars ask; only letters that the base can write
PEOPLE = {"hi": ["मंत्री", "पत्रकार", "सैनिक"], "pa": ["ਮੰਤਰੀ", "ਪੱਤਰਕਾਰ", "ਸੈਨਿਕ"],
          "te": ["మంత్రి", "విలేకరి", "సైనికుడు"], "it": ["il ministro", "il giornalista", "il soldato"]}
SHARE = 0.25
LONGEST = 48  # characters


def sentence(language: str, split: str, rng: random.Random) -> str:
    """Of at most LONGEST characters. ValueError where the split has none."""
    if rng.random() >= SHARE:
        return sentences(language, split, rng, LONGEST)
    return about_people(language).sentence(rng, split, LONGEST)


@lru_cache
def about_people(language: str) -> Grammar:
    grammar = Grammar(language)
    templates = [text for text in grammar.words["sentences"] if "{subject}" in text and "{verb}" in text]
    grammar.words = grammar.words | {"sentences": templates, "subject": PEOPLE[language]}
    return grammar
