"""SLURP in miniature: its JSON lines, metadata.json and flac names, with what is awkward about them.

Prompts with one, two and three recordings; double dashes in file names; `intent` fields that are not scenario_action;
`ent_wer` null without entities; clitics that are tokens; capitals in tokens of the test; an intent that only the test
has; a training prompt whose recording is one of the test's.
"""
import json
import random
from pathlib import Path

from speechmerge.corpora.slurp.commands import COMMANDS, TEST_ONLY, annotation, draw, sentence
from speechmerge.corpora.twins import Spoken, gender, speak, voices, write_lines

PROMPTS = {"train": 120, "train_synthetic": 42, "devel": 18, "test": 30}  # multiples of 3, for `expected`
SPLITS = {"devel": "dev", "test": "test"}  # of the sentences
GROUPS = {"train": "train", "train_synthetic": "base", "devel": "dev", "test": "test"}
# What the field `intent` says of every other prompt
OTHER_INTENT = {"play_music": "music", "weather_query": "weather", "lists_createoradd": "createoradd"}


def expected(options) -> dict[str, int]:
    """Of three prompts in a row the first has one recording, the second two, the third three; four are by headset."""
    share = 3 if options.audio == "none" else {"all": 6, "best": 3, "headset": 4}[options.recordings]
    sources = {"train": "train", "dev": "devel", "test": "test"}
    real = {split: PROMPTS[name] * share // 3 for split, name in sources.items()}
    real["train"] = real["train"] * ("train" in options.train)
    if "train_synthetic" in options.train:
        real["train"] += PROMPTS["train_synthetic"]
    return real


def write_twin(root: Path, seed: int, nj: int):
    """The tree of the publisher below `root`."""
    rng, seen = random.Random(f"slurp:{seed}"), set()
    clock, ids = iter(rng.sample(range(1434500000, 1506100000), 600)), iter(rng.sample(range(1, 17000), 300))
    spoken, metadata, lines = [], {}, {name: [] for name in PROMPTS}
    for name in ("test", "devel", "train", "train_synthetic"):
        synthetic, speakers = name == "train_synthetic", voices(GROUPS[name])
        for number in range(PROMPTS[name]):
            prompt = make_prompt(rng, name, number, seen, next(ids))
            takes = record(rng, prompt, speakers, clock, 0 if synthetic else number % 3)
            folder = "audio/slurp_synth" if synthetic else "audio/slurp_real"
            spoken += [Spoken(f"{folder}/{file}", prompt["sentence"], "en", speaker, seed=seed)
                       for file, speaker in takes]
            if not synthetic:
                metadata[str(prompt["slurp_id"])] = about(prompt, takes)
            lines[name].append(prompt)
    lines["train"].append({**lines["test"][0], "slurp_id": next(ids)})
    for name, prompts in lines.items():
        write_lines(root / "dataset/slurp" / f"{name}.jsonl", [json.dumps(prompt) for prompt in prompts])
    write_lines(root / "dataset/slurp/metadata.json", [json.dumps(metadata)])
    speak(root, spoken, nj)


def make_prompt(rng, name: str, number: int, seen: set, id: int) -> dict:
    """One line, its recordings still to come; keys in the publisher's order."""
    intents = list(COMMANDS["en"])
    intent = list(TEST_ONLY["en"])[0] if name == "test" and number in (7, 17) else intents[number % len(intents)]
    parts = draw(rng, "en", intent, SPLITS.get(name, "train"), seen)
    scenario, _, action = intent.partition("_")
    tokens, entities = tokenise(parts, capitals=name == "test" and number % 5 == 0)
    return {"slurp_id": id, "sentence": sentence(parts), "sentence_annotation": annotation(parts),
            "intent": OTHER_INTENT.get(intent, intent) if number % 2 else intent, "action": action, "tokens": tokens,
            "scenario": scenario, "recordings": [], "entities": entities}


def tokenise(parts, capitals: bool) -> tuple[list[dict], list[dict]]:
    """(tokens, entities): `jessica's` is two tokens; with `capitals` the first token of an entity has one."""
    tokens, entities = [], []
    for text, kind in parts:
        begin = len(tokens)
        for word in text.replace("'s", " 's").split():
            surface = word.capitalize() if capitals and kind and len(tokens) == begin else word
            tokens.append({"surface": surface, "id": len(tokens), "lemma": word, "pos": "NN"})
        if kind:
            entities.append({"span": list(range(begin, len(tokens))), "type": kind})
    return tokens, entities


def record(rng, prompt: dict, speakers, clock, more: int) -> list[tuple[str, object]]:
    """[(file, speaker)]: one by headset, with `more` the same session far from it, and one by somebody else."""
    first, second = rng.sample(speakers, 2)
    session, other = (f"audio{'--' if rng.random() < 0.07 else '-'}{next(clock)}" for _ in range(2))
    takes = [(f"{session}-headset.flac", first), (f"{session}.flac", first), (f"{other}-headset.flac", second)]
    for file, _ in takes[:more + 1]:
        wer, ent_wer = rng.choice((0.0, 0.0, 0.0, 0.2, 0.33)), rng.choice((0.0, 0.5)) if prompt["entities"] else None
        prompt["recordings"].append({"file": file, "wer": wer, "ent_wer": ent_wer, "status": "correct"})
    return takes[:more + 1]


def about(prompt: dict, takes) -> dict:
    """The prompt's entry in metadata.json."""
    recordings = {file: {"ansid": number, "recid": file[5:-5], "status": 1, "usrid": usrid(speaker)}
                  for number, (file, speaker) in enumerate(takes)}
    return {"nlub_id": prompt["slurp_id"], "recordings": recordings, "sentence_normalised": prompt["sentence"],
            "sentence_original": prompt["sentence"], "status": "gold", "userid_amt": 1}


def usrid(speaker) -> str:
    """F or M, E(nglish) or O(ther), and a number; of some only the number is known."""
    number = [voice.name for group in ("train", "dev", "test") for voice in voices(group)].index(speaker.name)
    return f"UNK-{300 + number}" if number % 7 == 6 else f"{gender(speaker)}{'EO'[number % 2]}-{100 + number}"
