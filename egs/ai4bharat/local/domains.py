"""Two domains of spoken sentences in four languages, for studies that need larger test sets than the corpus's miniature.

    speechmerge prepare --corpus local/domains.py --output-dir data/domains --languages it pa [--param scale=0.5]

data/domains/<language>/{train,dev,test}, and each domain's part of test as test_<domain>; utt2corpus says which domain:

    telephone    a narrow band and noise, read calmly
    lively       a microphone beside the mouth; pace, pitch and its range change from sentence to sentence

Spoken by espeak-ng, about people of whom the mini base has never read. Test speakers and sentences are in no train set.
"""
import random
from pathlib import Path

from speechmerge.corpora.ai4bharat.news import sentence
from speechmerge.corpora.base import CORPORA
from speechmerge.corpora.mini.speech import Delivery
from speechmerge.corpora.twins import Spoken, speak, voices
from speechmerge.data.directory import DataDir, Utterance

LANGUAGES = ("hi", "pa", "te", "it")
CHANNELS = {"telephone": "telephone", "lively": "near"}
COUNTS = {"train": 160, "dev": 24, "test": 60}  # of each domain
PACES, PITCHES, RANGES = (0.75, 1.9), (-25, 49), (20, 95)  # of lively speech: times, plus, and espeak's scale


@CORPORA.register("domains")
class Domains:
    """Sentences over the telephone and lively ones, one set for each language."""

    tasks = ("asr",)

    def prepare(self, output_dir, seed: int = 0, nj: int = 2, languages=LANGUAGES, scale: float = 1.0) -> list[Path]:
        """Write the data directories and return them; `scale` multiplies the amounts."""
        folders, spoken = {}, []
        for language in languages:
            for split in COUNTS:
                folder = Path(output_dir) / language / split
                folders[folder] = [item for domain in CHANNELS for item in plan(folder, language, domain, seed, scale)]
                spoken += folders[folder]
        speak(Path("/"), spoken, nj)
        return [made for folder, items in folders.items() for made in write(folder, items)]


def plan(folder: Path, language: str, domain: str, seed: int, scale: float) -> list[Spoken]:
    """The sentences of one split of one domain; speakers take turns."""
    split, rng = folder.name, random.Random(f"{domain}:{language}:{folder.name}:{seed}")
    group, found = voices(split), []
    for number in range(max(4, round(COUNTS[split] * scale))):
        voice, text = group[number % len(group)], sentence(language, split, rng)
        path = folder.resolve() / "audio" / f"{voice.name}-{domain}-{language}-{number:03d}.wav"
        delivery = voice.delivery(rng) if domain == "telephone" else lively(voice, rng)
        found.append(Spoken(str(path), text, language, voice, delivery, seed=seed, channel=CHANNELS[domain],
                            labels={"corpus": domain}))
    return found


def lively(voice, rng) -> Delivery:
    return Delivery(round(voice.rate * rng.uniform(*PACES)), min(99, max(0, voice.pitch + rng.randint(*PITCHES))),
                    rng.randint(*RANGES))


def write(folder: Path, items: list[Spoken]) -> list[Path]:
    """The split; of test also each domain alone."""
    named = [Utterance(Path(item.path).stem, item.path, item.text, item.speaker.name, item.language, None, item.labels)
             for item in items]
    parts = {folder: named}
    if folder.name == "test":
        parts |= {folder.with_name(f"test_{domain}"): [u for u in named if u.labels["corpus"] == domain]
                  for domain in CHANNELS}
    for place, utterances in parts.items():
        DataDir(place, {utterance.id: utterance for utterance in sorted(utterances, key=lambda u: u.id)}).write()
    return list(parts)
