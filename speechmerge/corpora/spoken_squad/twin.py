"""Spoken-SQuAD in miniature: paragraphs of two or three short sentences in one synthetic voice, 24 kHz wav.

With what is awkward: paragraphs without questions, several answers of one question, questions with capitals under
contexts without; noisy variants whose answers are written as in SQuAD, at `answer_start`s of another text.
"""
import hashlib
import json
import random
from pathlib import Path

from speechmerge.corpora.mini.text import split_of
from speechmerge.corpora.twins import Spoken, speak, voices, write_lines

TITLES = {"train": 20, "test": 8}
PARAGRAPHS = {"train": 7, "test": 4}  # with two questions each; one more of each title of the test has none
QUESTIONS = {split: 2 * TITLES[split] * PARAGRAPHS[split] for split in TITLES}
SECONDS = {2: 1.9, 3: 1.25}  # of a sentence, by the number of sentences: together they fit the mini base
RATE = 24000  # Hz

NAMES = "anna peter maria john laura martin sofia david".split()
VERBS = {"buys": "buy", "sells": "sell", "likes": "like", "needs": "need", "finds": "find", "paints": "paint"}
THINGS = "bread apples books eggs tea flowers maps keys shirts bags".split()
CITIES = "rome berlin madrid delhi london paris vienna lisbon".split()
KINDS = ("thing", "city")


def write_twin(root: Path, seed: int, nj: int):
    """JSON files and wav/ below `root`."""
    rng, spoken, seen = random.Random(f"spoken_squad:{seed}"), [], set()
    for split in TITLES:
        titles = [make_title(rng, split, topic, seen, spoken) for topic in range(TITLES[split])]
        write_document(root / f"spoken_{split}-v1.1.json", titles)
        if split == "test":
            for variant, share in (("WER44", 0.3), ("WER54", 0.5)):
                noisy = [as_noisy(random.Random(f"{variant}:{title['title']}"), title, share) for title in titles]
                write_document(root / f"spoken_test-v1.1_{variant}.json", noisy)
    speak(root, [Spoken(*item, seed=seed) for item in spoken], nj)


def make_title(rng, split: str, topic: int, seen: set, spoken: list) -> dict:
    """One article; its sentences go to `spoken`."""
    paragraphs = []
    for number in range(PARAGRAPHS[split] + (split == "test")):
        count = 3 if number % 3 == 2 else 2
        facts = [draw_fact(rng, split, seen) for _ in range(count)]
        for place, fact in enumerate(facts):
            path = f"wav/{split}/{topic}_{number}_{place}.wav"
            spoken.append((path, fact["text"], "en", voices("train")[0], None, SECONDS[count], RATE))
        asked = facts[:2] if number < PARAGRAPHS[split] else []
        context = " ".join(f"{fact['text']}." for fact in facts)
        questions = [question(context, fact, (split, topic, number)) for fact in asked]
        paragraphs.append({"context": context, "qas": questions})
    title = f"{rng.choice(CITIES).title()}_and_{rng.choice(THINGS).title()}_{split}_{topic}"
    return {"title": title, "paragraphs": paragraphs}


def draw_fact(rng, split: str, seen: set) -> dict:
    """A sentence that no other paragraph of the file has, where the words suffice."""
    for _ in range(400):
        name, verb, thing, city = rng.choice(NAMES), rng.choice(list(VERBS)), rng.choice(THINGS), rng.choice(CITIES)
        kind = rng.choice(KINDS)
        text = f"{name} {verb} {thing}" if kind == "thing" else f"{name} lives in {city}"
        if split_of(text) == split and text not in seen:
            break
    seen.add(text)
    return {"text": text, "name": name, "verb": verb, "thing": thing, "city": city, "kind": kind,
            "who": rng.random() < 0.5}


def question(context: str, fact: dict, place) -> dict:
    """Who does it, or what or where; two annotators agree, a third one adds a word."""
    if fact["kind"] == "city":
        asked, answer = (f"Who lives in {fact['city'].title()}?", fact["name"]) if fact["who"] else (
            f"Where does {fact['name'].title()} live?", fact["city"])
    else:
        asked, answer = (f"Who {fact['verb']} {fact['thing']}?", fact["name"]) if fact["who"] else (
            f"What does {fact['name'].title()} {VERBS[fact['verb']]}?", fact["thing"])
    begin = context.index(fact["text"])
    start = context.index(answer, begin)
    answers = [{"answer_start": start, "text": answer}] * 2
    if not fact["who"]:
        longer = fact["text"].split(" ", 1)[1] if fact["kind"] == "thing" else f"in {answer}"
        answers.append({"answer_start": context.index(longer, begin), "text": longer})
    id = hashlib.sha256(f"{place}:{asked}:{start}".encode()).hexdigest()[:24]
    return {"answers": answers, "question": asked, "id": id}


def as_noisy(rng, title: dict, share: float) -> dict:
    """A worse transcript; answers with capitals, as SQuAD has them, where they stood in SQuAD's text."""
    paragraphs = []
    for paragraph in title["paragraphs"]:
        words = paragraph["context"].split()
        heard = [rng.choice(("the", "and", "uh", "a")) if rng.random() < share else word for word in words]
        asked = [{**entry, "answers": [stale(*pair) for pair in enumerate(entry["answers"])]}
                 for entry in paragraph["qas"]]
        paragraphs.append({"context": " ".join(heard), "qas": asked})
    return {"title": title["title"], "paragraphs": paragraphs}


def stale(number: int, answer: dict) -> dict:
    return {"answer_start": answer["answer_start"] + 17 + 5 * (number % 3), "text": answer["text"].title()}


def write_document(path: Path, titles: list[dict]):
    write_lines(path, [json.dumps({"data": titles, "version": "1.1"})])
