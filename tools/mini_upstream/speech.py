"""What the mini upstream hears: speech of the base voices in many languages, without any label.

    python tools/mini_upstream/speech.py --work DIR [--nj 2]     # 14000 utterances, 6 hours of speech, 720 MB

All voices are of the group `base` and all sentences of the train split (text.split_of), so nothing that a recipe trains
or tests on is heard here. Half of the utterances have prosodies from all over espeak's scales, an eighth comes through a
telephone line: what is said, by whom and how are to be told apart later.
"""
import argparse
import json
import multiprocessing
import random
from pathlib import Path

import numpy as np

from speechmerge.corpora.mini.plans import label_set
from speechmerge.corpora.mini.render import Request, render
from speechmerge.corpora.mini.speech import Delivery, Synthesizer
from speechmerge.corpora.mini.text import Grammar, read_words
from speechmerge.corpora.mini.voices import other_pitches, speakers
from speechmerge.files import atomic_file, write_json

SEED = 31
COUNT = 14000
PITCHES = (34, 46, 58, 72)
LANGUAGES = {"en": 10, "es": 3, "de": 3, "it": 3, "hi": 3, "pa": 1, "te": 1, **dict.fromkeys(read_words("siblings"), 1)}
KINDS = {"sentence": 6, "request": 2, "phrase": 1, "word": 1}  # shares; requests and words where the language has some
LONGEST = 3.9  # seconds
HELD_OUT = 300  # utterances at the end on which nothing is trained


def text_of(rng, language: str) -> str:
    """A sentence, a request, a piece of a sentence or a single word."""
    grammar = Grammar(language)
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    if kind == "request" and grammar.intents():
        return grammar.intent(rng, rng.choice(grammar.intents()), "train")
    if kind == "word" and language == "en":
        return rng.choice(label_set("kws", "base"))
    return grammar.phrase(rng) if kind == "phrase" else grammar.sentence(rng, "train")


def delivery_of(rng, speaker) -> Delivery:
    if rng.random() < 0.5:
        return speaker.delivery(rng)
    return Delivery(rng.randint(110, 260), min(99, max(0, speaker.pitch + rng.randint(-22, 26))), rng.randint(5, 99))


def all_requests(count: int) -> list[Request]:
    rng = random.Random(SEED)
    voices = [voice for speaker in speakers("base") for voice in other_pitches(speaker, PITCHES)]
    requests = []
    for number in range(count):
        language, speaker = rng.choices(list(LANGUAGES), list(LANGUAGES.values()))[0], rng.choice(voices)
        channel = "telephone" if rng.random() < 0.125 else "near"
        requests.append(Request(f"{number:06d}", text_of(rng, language), language, speaker.name, speaker.variant,
                                delivery_of(rng, speaker), {}, LONGEST, SEED, channel))
    return requests


def samples_of(requests: list[Request]) -> list[np.ndarray]:
    synthesizer = Synthesizer()
    return [np.round(render(synthesizer, request) * 32767).astype(np.int16) for request in requests]


def write_speech(requests: list[Request], work: Path, nj: int):
    """speech.bin (int16 at 16 kHz, utterance after utterance), then speech.json: samples of each."""
    work.mkdir(parents=True, exist_ok=True)
    shares, lengths = [requests[i : i + 200] for i in range(0, len(requests), 200)], []
    with atomic_file(work / "speech.bin", "wb") as file, multiprocessing.get_context("spawn").Pool(nj) as pool:
        for arrays in pool.imap(samples_of, shares):
            for array in arrays:
                file.write(array.tobytes())
                lengths.append(len(array))
    write_json(work / "speech.json", {"lengths": lengths, "held_out": HELD_OUT})


class Speech:
    """The utterances on disk; `held_out` numbers are at the end."""

    def __init__(self, work: Path):
        index = json.loads((work / "speech.json").read_text(encoding="utf-8"))
        self.lengths = np.array(index["lengths"])
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths)])
        self.data = np.memmap(work / "speech.bin", np.int16, "r")
        self.held_out = list(range(len(self.lengths) - index["held_out"], len(self.lengths)))

    def __getitem__(self, number: int) -> np.ndarray:
        """float32 samples with mean 0 and variance 1, as the feature extractor makes them."""
        samples = self.data[self.offsets[number] : self.offsets[number + 1]].astype(np.float32)
        return (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--nj", type=int, default=2)
    parser.add_argument("--count", type=int, default=COUNT, help="utterances; fewer for a quick look")
    args = parser.parse_args()
    if (args.work / "speech.json").exists():
        print(f"{args.work}: already made")
        return
    write_speech(all_requests(args.count), args.work, args.nj)


if __name__ == "__main__":
    main()
