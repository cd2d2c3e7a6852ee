"""What is said in each task: one function per task, from a random source to requests.

The mini corpus calls them with its own voices and labels, tools/mini_base with the siblings' (labels.yaml).
"""
from dataclasses import dataclass

from speechmerge.corpora.mini.render import Request
from speechmerge.corpora.mini.speech import Delivery
from speechmerge.corpora.mini.text import Grammar, read_words
from speechmerge.corpora.mini.voices import Speaker

LANGUAGES = ("en", "es", "de", "it", "hi")
TASKS = ("asr", "kws", "intent", "emotion", "langid", "speaker_id", "speaker_ver")
PAIR_SECONDS = 1.9  # each side of a verification trial: two of them and 0.2 s of silence fit the mini base's 4 s


@dataclass
class Plan:
    """One split of one task while it is being written down."""

    rng: object  # random.Random
    split: str  # train, dev or test: decides the sentences
    speakers: list[Speaker]
    labels: object  # a list or dict of labels.yaml, where the task has labels
    prefix: str
    seed: int = 0
    languages: tuple[str, ...] = LANGUAGES
    channel: str = "near"

    def request(self, number, text, language, speaker, delivery, labels=(), longest=3.9) -> Request:
        id = f"{speaker.name}-{self.prefix}-{number:05d}"
        return Request(id, text, language, speaker.name, speaker.variant, delivery, dict(labels), longest, self.seed, self.channel)

    def turn(self, number, choices):
        """Every choice equally often."""
        choices = list(choices)
        return choices[number % len(choices)]

    def sentence(self, language, longest) -> str:
        return Grammar(language).sentence(self.rng, self.split, longest)


def asr(plan: Plan, count: int) -> list[Request]:
    """Sentences in all languages."""
    requests = []
    for number in range(count):
        language, speaker = plan.turn(number, plan.languages), plan.rng.choice(plan.speakers)
        text = plan.sentence(language, 48)
        requests.append(plan.request(number, text, language, speaker, speaker.delivery(plan.rng)))
    return requests


def kws(plan: Plan, count: int) -> list[Request]:
    """Single English words."""
    requests = []
    for number in range(count):
        word, speaker = plan.turn(number, plan.labels), plan.rng.choice(plan.speakers)
        requests.append(plan.request(number, word, "en", speaker, speaker.delivery(plan.rng), {"keyword": word}))
    return requests


def intent(plan: Plan, count: int) -> list[Request]:
    """Requests to a household assistant, in all languages."""
    requests = []
    for number in range(count):
        label, language = plan.turn(number, plan.labels), plan.turn(number // len(plan.labels), plan.languages)
        text, speaker = Grammar(language).intent(plan.rng, label, plan.split), plan.rng.choice(plan.speakers)
        requests.append(plan.request(number, text, language, speaker, speaker.delivery(plan.rng), {"intent": label}))
    return requests


def emotion(plan: Plan, count: int) -> list[Request]:
    """The same kind of sentence in different prosodies: rate, pitch and pitch range; words and level say nothing."""
    requests = []
    for number in range(count):
        label, language = plan.turn(number, plan.labels), plan.rng.choice(plan.languages)
        speaker, style = plan.rng.choice(plan.speakers), plan.labels[label]
        delivery = Delivery(round(speaker.rate * style["rate"]) + plan.rng.randint(-6, 6),
                            min(99, max(0, speaker.pitch + style["pitch"] + plan.rng.randint(-3, 3))),
                            min(99, max(0, style["range"] + plan.rng.randint(-5, 5))))
        text = plan.sentence(language, 34)
        requests.append(plan.request(number, text, language, speaker, delivery, {"emotion": label}))
    return requests


def langid(plan: Plan, count: int) -> list[Request]:
    """Sentences in the languages that the labels name."""
    requests = []
    for number in range(count):
        language, speaker = plan.turn(number, plan.labels), plan.rng.choice(plan.speakers)
        text = plan.sentence(language, 40)
        requests.append(plan.request(number, text, language, speaker, speaker.delivery(plan.rng)))
    return requests


def speaker_id(plan: Plan, count: int) -> list[Request]:
    """Sentences in all languages by the speakers that are the labels: the same speakers in every split."""
    requests = []
    for number in range(count):
        speaker, language = plan.turn(number, plan.speakers), plan.rng.choice(plan.languages)
        text = plan.sentence(language, 34)
        requests.append(plan.request(number, text, language, speaker, speaker.delivery(plan.rng)))
    return requests


def speaker_ver(plan: Plan, count: int) -> list[Request]:
    """Short sentences, equally many by every speaker; `trials` pairs them."""
    requests = []
    for number in range(count):
        speaker, language = plan.turn(number, plan.speakers), plan.rng.choice(plan.languages)
        text = plan.sentence(language, 24)
        requests.append(plan.request(number, text, language, speaker, speaker.delivery(plan.rng), longest=PAIR_SECONDS))
    return requests


PLANS = {"asr": asr, "kws": kws, "intent": intent, "emotion": emotion, "langid": langid, "speaker_id": speaker_id,
         "speaker_ver": speaker_ver}


def trials(rng, requests: list[Request], count: int) -> list[tuple[Request, Request, bool]]:
    """Pairs of different utterances, half of them by one speaker; no pair twice."""
    by_speaker = {}
    for request in requests:
        by_speaker.setdefault(request.speaker, []).append(request)
    names, pairs = sorted(by_speaker), {}
    if len(names) < 2 or min(map(len, by_speaker.values())) < 2:
        raise ValueError("trials need two speakers, and two utterances of each")
    for _ in range(100 * count):
        if len(pairs) == count:
            break
        same = len(pairs) % 2 == 0
        first, second = [rng.choice(names)] * 2 if same else rng.sample(names, 2)
        enrol, test = rng.choice(by_speaker[first]), rng.choice(by_speaker[second])
        if enrol.id != test.id:
            pairs.setdefault((enrol.id, test.id), (enrol, test, same))
    return list(pairs.values())


def label_set(task: str, kind: str = "task"):
    """The labels of a task: its own (`task`) or the siblings the base model knows (`base`). None where it has none."""
    return read_words("labels").get(task, {}).get(kind)
