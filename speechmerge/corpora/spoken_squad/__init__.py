"""Spoken-SQuAD: questions in writing about paragraphs that are read aloud. See corpus.py."""
from speechmerge.corpora.spoken_squad.corpus import SpokenSquad

__all__ = ["SpokenSquad"]
