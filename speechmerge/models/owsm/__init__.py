"""OWSM (Open Whisper-style Speech Models) and other speech-to-text models of ESPnet, through espnet2's own classes.

    model.py     the family: text and prefixes, batches, loss, decoding
    network.py   espnet2's model with the forward pass that our trainer calls (the only module that imports espnet2)
    layout.py    where config, weights, vocabulary and statistics lie; names on the hub
    symbols.py   the vocabulary: languages, tasks, SentencePiece
    search.py    greedy and beam search, batched, with cached keys and values
"""
from speechmerge.models.owsm.model import Owsm

__all__ = ["Owsm"]
