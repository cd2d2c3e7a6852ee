"""One loaded model, all systems of an experiment on it, and what each of them answers to one sound.

What a system answers to a listed example is what `decode` writes for it: same weights, same batch, same generation.
"""
import logging
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from speechmerge.bank import AdapterBank
from speechmerge.data.batching import FeatureCache
from speechmerge.decode import by_cosine, compared, judged
from speechmerge.demo.subjects import Request, Subject
from speechmerge.demo.weights import KeptWeights
from speechmerge.errors import SpeechMergeError
from speechmerge.files import read_json
from speechmerge.models.base import Item
from speechmerge.route.decode import Routed
from speechmerge.route.strategies import STRATEGIES
from speechmerge.systems import System, own_adapter

log = logging.getLogger(__name__)
KEEP = 4 << 30  # bytes of weights that systems change, beside the base


@dataclass(frozen=True)
class Heard:
    """What a router hears, before anything is decided."""

    router: str
    probabilities: dict[str, float]
    timelines: dict[str, object] = field(default_factory=dict)  # routed system that decides per frame -> [states, labels]


@dataclass(frozen=True)
class Answer:
    """Of one system to one subject. Times in seconds: `decoding` with label scores, `routing` of routed systems,
    `placing` of weights that were not at hand."""

    subject: str
    system: str
    kind: str
    text: str | None = None
    label: str | None = None  # the best of the label set
    scores: dict[str, float] = field(default_factory=dict)  # label -> mean log-probability per token
    trial: float | None = None  # score of a pair
    told: str | None = None  # the language that the decoder was told
    route: str | None = None  # the label that a router found
    mix: dict[str, float] = field(default_factory=dict)  # label -> weight of its adapter; mean over frames
    seconds: float = 0.0  # of audio
    decoding: float = 0.0
    routing: float = 0.0
    placing: float = 0.0
    problem: str | None = None  # why there is no answer

    @property
    def real_time_factor(self) -> float:
        return (self.decoding + self.routing) / self.seconds if self.seconds else 0.0


class Listener:
    """keep: bytes for weights of adapters and merges beside the base's (see weights.py). One request at a time: the model is
    locked while a system answers."""

    def __init__(self, model, systems: list[System], subjects: list[Subject], exp_dir, num_beams: int = 1, keep: int = KEEP):
        self.model, self.exp_dir, self.num_beams, self.lock = model, exp_dir, num_beams, threading.Lock()
        self.systems = [system for system in systems if not needs_truth(system)]
        self.subjects = {subject.name: subject for subject in subjects}
        self.weights = KeptWeights(model, keep)
        self.languages = {system.name: language_of(system) for system in systems}
        begun = time.perf_counter()
        self.unkept = [system.name for system in self.systems if not self.weights.keep(system)]
        if self.unkept:
            log.warning("%s: their weights do not fit into %.1f GB beside the base (--keep-gb), and are put in place for each "
                        "sound", ", ".join(self.unkept), keep / 2**30)
        self.routed = route_all(model, self.systems)
        self.loading = time.perf_counter() - begun

    # What is there

    def answering(self, subject: Subject) -> list[System]:
        """Adapters answer to their own task only; everything else to all."""
        return [s for s in self.systems if s.kind != "adapter" or s.task in (None, subject.task.name)]

    def longest(self, limit: float) -> float:
        return min(limit, self.model.full_seconds)

    def example(self, key: str):
        """The Example listed under this key."""
        return next(subject.examples[key] for subject in self.subjects.values() if key in subject.examples)

    def known_languages(self) -> list[str]:
        """Codes that occur in adapters, examples and routers."""
        examples = (example for subject in self.subjects.values() for example in subject.examples.values())
        routers = (code for routed in self.routed.values() for code in routed.router.languages.values())
        return sorted({*self.languages.values(), *(example.language for example in examples), *routers} - {None})

    # Listening

    def warm_up(self, path: str) -> float:
        """Seconds that the first sound takes longer than any after it: libraries choose and build what they compute with."""
        begun, request = time.perf_counter(), Request((path, path), question="?")
        for subject in self.subjects.values():
            self.answer(System("base", "base"), subject, request, FeatureCache())
        self.hear(request, FeatureCache())
        return time.perf_counter() - begun

    def hear(self, request: Request, cache: FeatureCache) -> list[Heard]:
        """Every router on this sound: on its beginning, and where a system decides per frame all along it."""
        found, example = {}, self._plain_example(request)
        with self.lock:
            for name, routed in self.routed.items():
                router = routed.router
                if router.name not in found:
                    row = router.probabilities(self.model, [example], cache)[0]
                    found[router.name] = Heard(router.name, dict(zip(router.labels, row.tolist())))
                if routed.routing.level == "frame":
                    found[router.name].timelines[name] = routed.timelines([example], cache)[0]
        return list(found.values())

    def _plain_example(self, request: Request):
        """The first sound alone."""
        listed = request.example and self.example(request.example)
        if listed and len(listed.audio) == 1:
            return listed
        from speechmerge.tasks.base import Example

        return Example("sound", request.audio[:1], "", request.language, None, None)

    def answers(self, request: Request, subjects=None, systems=None, cache=None, heard=None):
        """Yield the Answer of every system to every subject; names of `subjects` and `systems`: only these.

        Where the language is not known, an adapter is told the one that it was trained on, and the others what a router
        hears. heard: of `hear`, where it was called before.
        """
        cache = cache if cache is not None else FeatureCache()
        found = None
        if request.language is None and self.routed:
            found = self._language(heard or self.hear(request, cache))
        for name, subject in self.subjects.items():
            for system in self.answering(subject):
                if (subjects is None or name in subjects) and (systems is None or system.name in systems):
                    language = request.language or self.languages[system.name] or found
                    yield self.answer(system, subject, replace(request, language=language), cache)

    def _language(self, heard: list[Heard]) -> str | None:
        """Of the label that the first router finds most probable."""
        router = next(iter(self.routed.values())).router
        return router.languages.get(max(heard[0].probabilities, key=heard[0].probabilities.get))

    def answer(self, system: System, subject: Subject, request: Request, cache: FeatureCache) -> Answer:
        """Whatever is wrong with this system or this subject stands in `problem`; the others still answer."""
        blank = Answer(subject.name, system.name, system.kind)
        try:
            example = subject.example(request)
            with self.lock:
                return self._decoded(blank, system, subject, example, request, cache)
        except SpeechMergeError as error:
            return replace(blank, problem=str(error))

    def _decoded(self, blank: Answer, system, subject, example, request, cache) -> Answer:
        task, begun = subject.task, time.perf_counter()
        self.model.equip(task, self._head(system, subject, request))
        if system.kind == "routed":
            return self._routed(blank, self.routed[system.name], subject, example, cache)
        with self.weights.of(system):
            blank = replace(blank, placing=time.perf_counter() - begun, told=example.language, seconds=self.model.seconds(example))
            if by_cosine(task):
                begun = time.perf_counter()
                found = next(compared(self.model, task, [example], cache=cache))[0]
                return replace(blank, trial=found.score, decoding=time.perf_counter() - begun)
            item = self._item(example, cache)
            begun = time.perf_counter()
            text, row = self._written(self.model.collate([item], task), 1, subject)
            return finished(blank, subject, text, row, time.perf_counter() - begun)

    def _routed(self, blank: Answer, routed: Routed, subject, example, cache) -> Answer:
        """As route.decode.routed_hypotheses, for one utterance, with the time of each part."""
        if by_cosine(subject.task):
            raise SpeechMergeError("The embeddings of a pair must come from one set of weights; routed ones do not.")
        self._item(example, cache)  # features are the same for all systems and count for none
        begun = time.perf_counter()
        decision = routed.decide([example], cache=cache)[0]
        routing = time.perf_counter() - begun
        told = routed.told(example, decision)
        item = self._item(told, cache)
        begun = time.perf_counter()
        with routed.mixing([decision], [item], subject.task) as (batch, count):
            text, row = self._written(batch, count, subject)
        decoding = time.perf_counter() - begun
        weights = decision.weights if decision.weights.dim() == 1 else decision.weights.mean(0)
        mix = dict(zip(routed.router.labels, weights.tolist()))
        blank = replace(blank, routing=routing, told=told.language, route=decision.label, seconds=self.model.seconds(example),
                        mix={} if routed.strategy.per_token else {label: weight for label, weight in mix.items() if weight})
        return finished(blank, subject, text, row, decoding)

    def _written(self, batch, count: int, subject: Subject):
        """(text, scores of the labels or None) of the only utterance of a batch, which has `count` rows."""
        text = self.model.generate(batch, subject.task, num_beams=self.num_beams)[::count][0]
        row = self.model.score_labels(batch, subject.labels)[::count][0].tolist() if subject.labels else None
        return text, row

    def _item(self, example, cache) -> Item:
        return Item(example, cache.get(example, self.model.features), self.model.seconds(example))

    def _head(self, system: System, subject: Subject, request: Request):
        """As decode.Decoder.head: what the task needs beside the weights."""
        if system.kind == "adapter" and system.task == subject.task.name:
            return system.path
        return own_adapter(subject.set_of(request), subject.task.name, self.exp_dir)


def finished(blank: Answer, subject: Subject, text: str, row, seconds: float) -> Answer:
    label, trial = judged(subject.task, subject.labels, row)
    scores = dict(zip(subject.labels, row)) if row else {}
    return replace(blank, text=" ".join(text.split()), label=label, trial=trial, scores=scores, decoding=seconds)


def needs_truth(system: System) -> bool:
    """A router that is told the answer has nothing to say of a sound that nobody has labelled."""
    return system.kind == "routed" and STRATEGIES.get(system.routing["strategy"]).needs_truth


def language_of(system: System) -> str | None:
    """What an adapter was trained on; None for several languages, and for everything else."""
    record = Path(system.path or "") / "speechmerge.json"
    return read_json(record).get("language") if system.kind == "adapter" and record.is_file() else None


def route_all(model, systems) -> dict[str, Routed]:
    """Routed systems by name, in place as long as the model lives; those over the same adapters share one bank."""
    found, banks = {}, {}
    for system in systems:
        if system.kind != "routed":
            continue
        routed = Routed(model, system.routing)
        key = tuple(sorted((label, str(path)) for label, path in routed.adapters.items()))
        if key not in banks:
            banks[key] = AdapterBank(model.core, list(routed.adapters.values()), list(routed.adapters), base=model.path)
        routed.bank = banks[key]
        found[system.name] = routed
    return found
