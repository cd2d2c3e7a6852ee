"""Decoding: one system on one data directory -> exp/decode/<split>/<system>/<set>/{hyp,hyp_labels,scores,decode.json};
of routed systems also `routes`, what each utterance was routed to.

A set is mostly named as its task; where one task has several data directories (languages), each is a set. Trials that
are scored by the cosine of embeddings have `scores` alone.

A result is kept under a key of everything that went into it (base, adapter, data, options) and made again only when the
key changes. Work that takes long is saved in parts, so that a killed run goes on, and shards add up.
"""
import contextlib
import logging
import os
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

from speechmerge.data.batching import FeatureCache, batches_by_length
from speechmerge.errors import SpeechMergeError
from speechmerge.files import atomic_dir, fingerprint, lock, read_json, write_json, write_text
from speechmerge.hashes import file_hash
from speechmerge.memory import PeakMemory
from speechmerge.merge.run import again
from speechmerge.merge.save import METADATA
from speechmerge.models.adapters import check_base
from speechmerge.models.base import Item, SpeechModel
from speechmerge.provenance import provenance
from speechmerge.systems import System, content_files, own_adapter

log = logging.getLogger(__name__)
SAVE_EVERY = 20.0  # seconds of work that a kill may cost


@dataclass(frozen=True)
class Hypothesis:
    id: str
    text: str | None  # generated; None where nothing is
    label: str | None = None  # of the task's labels the one with the highest mean log-probability per token
    score: float | None = None  # of a trial: log P(yes) - log P(no), or the cosine of both embeddings
    route: str | None = None  # of a routed system: label, probability, coefficients or stretches


@dataclass(frozen=True)
class Options:
    num_beams: int = 1
    label_scoring: bool = True
    batch_size: int = 32  # does not change results, and is not part of the key
    bank_mb: int | None = None  # of adapters in memory while utterances are routed; likewise

    @classmethod
    def of(cls, args) -> "Options":
        """From the command line options of `stages.decode.add_decode_arguments`."""
        return cls(args.num_beams, args.label_scoring, args.batch_size, getattr(args, "bank_mb", None))

    def deciding(self) -> dict:
        return {"num_beams": self.num_beams, "label_scoring": self.label_scoring}


def hypotheses(model: SpeechModel, task, examples, labels=None, options=Options(), cache=None, batches=None):
    """Yield lists of Hypothesis, batch by batch. Utterances of a batch have equal context and equally long prefixes, so
    batches change nothing.

    labels: score these too (None: generate only). The encoder runs once for both; 1251 labels cost about as much of the
    decoder as writing one text of 1251 x 2 words.
    batches: indices into `examples`; default all, see plan().
    """
    cache = cache if cache is not None else FeatureCache()
    for indices in plan(model, task, examples, options) if batches is None else batches:
        chosen = [examples[index] for index in indices]
        items = [Item(example, cache.get(example, model.features), model.seconds(example)) for example in chosen]
        batch = model.collate(items, task)
        texts = model.generate(batch, task, num_beams=options.num_beams)
        rows = model.score_labels(batch, labels).tolist() if labels and options.label_scoring else [None] * len(texts)
        yield [Hypothesis(example.id, " ".join(text.split()), *judged(task, labels, row))
               for example, text, row in zip(chosen, texts, rows)]


def judged(task, labels, row: list[float] | None) -> tuple[str | None, float | None]:
    """(best label, score of a trial) by the scores of all labels."""
    if row is None:
        return None, None
    best = labels[max(range(len(labels)), key=row.__getitem__)]
    return best, row[labels.index("yes")] - row[labels.index("no")] if task.kind == "verification" else None


def compared(model: SpeechModel, task, examples, options=Options(), cache=None, batches=None):
    """Yield lists of Hypothesis of trials, scored by the cosine of both sides' embeddings; nothing is generated."""
    cache, embeddings = cache if cache is not None else FeatureCache(), {}
    for indices in plan(model, task, examples, options) if batches is None else batches:
        chosen = [examples[index] for index in indices]
        sides = {path: replace(example, audio=(path,), duration=None) for example in chosen for path in example.audio
                 if path not in embeddings}
        embeddings.update(embed(model, task, list(sides.values()), options, cache))
        yield [Hypothesis(example.id, None, None, float(embeddings[example.audio[0]] @ embeddings[example.audio[1]]))
               for example in chosen]


def embed(model: SpeechModel, task, examples, options, cache) -> dict:
    """Path of the audio -> embedding, a vector of length 1."""
    found = {}
    for indices in plan(model, task, examples, options):
        items = [Item(examples[i], cache.get(examples[i], model.features), model.seconds(examples[i])) for i in indices]
        vectors = model.embed(model.collate(items, task))
        vectors = vectors / vectors.norm(dim=1, keepdim=True)
        found.update((item.example.audio[0], vector) for item, vector in zip(items, vectors))
    return found


def plan(model, task, examples, options) -> list[list[int]]:
    """Batches of indices: equal context, equally long prefixes."""
    shapes = [(model.context_frames(model.seconds(e)), model.prefix_length(e, task)) for e in examples]
    return batches_by_length(shapes, options.batch_size)


def answer_scores(task, found: list[Hypothesis]) -> dict[str, float] | None:
    """Verification: scores by trial id; None for other tasks or without scores."""
    if task.kind != "verification" or any(hypothesis.score is None for hypothesis in found):
        return None
    return {hypothesis.id: hypothesis.score for hypothesis in found}


def by_cosine(task) -> bool:
    return getattr(task, "verification", None) == "cosine"


def weights_of(model, system: System):
    """Within the block the model has the system's weights; a merge that was not saved is made in memory. Routed systems
    have no one set of weights."""
    if system.path is None or system.kind == "routed":
        return contextlib.nullcontext()
    if content_files(system) == [Path(system.path) / METADATA]:
        metadata = read_json(Path(system.path) / METADATA)
        check_base(model, Path(system.path))
        return again(metadata, model.path).run().applied(model.core)
    return model.adapter(system.path)


class Decoder:
    """Decodes systems on one (task, data directory); the features are computed once for all systems.

    output_dir: of the only system, instead of its place below exp_dir. shard: (index from 0, count) of the batches.
    """

    def __init__(self, model: SpeechModel, task, data, split: str, exp_dir, options=Options(), shard=(0, 1),
                 set_name=None, output_dir=None):
        self.model, self.task, self.data, self.split = model, task, data, split
        self.exp_dir, self.options, self.shard = Path(exp_dir), options, shard
        self.set_name, self.output_dir = set_name or task.name, output_dir
        task.adapt(model)
        self.examples, self.labels = task.examples(data), task.labels(data)
        self.cache, self._data_print = FeatureCache(), data.fingerprint()
        if long := [example.id for example in self.examples if model.seconds(example) > model.full_seconds]:
            log.warning("%s: %d utterances, such as %s, are longer than the %g s that the model hears and are cut",
                        data.path, len(long), long[0], model.full_seconds)

    def folder(self, system: System) -> Path:
        return Path(self.output_dir or self.exp_dir / "decode" / self.split / system.name / self.set_name)

    def head(self, system: System):
        """The folder that has what this task needs beside the weights: of an adapter trained on it the adapter's own,
        else that of the adapter registered for this set."""
        if system.kind == "adapter" and system.task == self.task.name:
            return system.path
        return own_adapter(self.set_name, self.task.name, self.exp_dir)

    def key(self, system: System) -> str:
        context, heads = self.model.context, self.model.equipment(self.head(system))
        return fingerprint({
            "base": self.model.fingerprint(), "dtype": str(self.model.dtype), "options": self.options.deciding(),
            "system": [(path.name, file_hash(path)) for path in content_files(system)],
            **({"routing": deciding(system.routing)} if system.routing else {}),
            "data": self._data_print, "task": self.task.name,
            "context": [context.kind] if context.kind == "full" else [context.kind, context.minimum, context.step],
            **({"settings": self.task.settings()} if self.task.settings() else {}),
            **({"heads": [(path.name, file_hash(path)) for path in heads]} if heads else {}),
        })

    def done(self, system: System, key: str) -> bool:
        folder = self.folder(system)
        record, result = folder / "decode.json", folder / ("scores" if by_cosine(self.task) else "hyp")
        return record.is_file() and read_json(record)["key"] == key and result.is_file()

    def decode(self, system: System, force: bool = False, carried: bool = False) -> str:
        """"kept" where the result was there, "made", or "part" where other shards have not finished.

        carried: the model has the system's weights already, whoever put them there.
        """
        key = self.key(system)
        if not force and self.done(system, key):
            return "kept"
        parts = Parts(self.folder(system), key, shared=self.shard[1] > 1, peak=PeakMemory(self.model.device))
        self._work(system, parts, carried)
        with lock(parts.folder) if parts.shared else contextlib.nullcontext():
            found = parts.read()
            if len(found) == len(self.examples):
                seconds = parts.seconds()
                self._write(system, key, [found[example.id] for example in self.examples], seconds, parts.peaks())
                parts.remove()
                log.info("%s on %s: %d utterances, %.1f s", system.name, self.set_name, len(found), seconds)
                return "made"
        return "kept" if self.done(system, key) else "part"

    def _work(self, system: System, parts: "Parts", carried: bool):
        ready = parts.read()
        index, count = self.shard
        batches = plan(self.model, self.task, self.examples, self.options)[index::count]
        missing = [batch for batch in batches if any(self.examples[i].id not in ready for i in batch)]
        if ready and missing:
            log.info("%s on %s: going on after %d of %d utterances", system.name, self.set_name, len(ready),
                     len(self.examples))
        if not missing:
            return
        self.model.equip(self.task, self.head(system))
        with contextlib.nullcontext() if carried else weights_of(self.model, system):
            for found in self._made(system, missing):
                parts.add(found)
        parts.finish()

    def _made(self, system: System, batches):
        if system.kind == "routed":
            return self._routed(system, sorted(index for batch in batches for index in batch))
        work = {"options": self.options, "cache": self.cache, "batches": batches}
        if by_cosine(self.task):
            return compared(self.model, self.task, self.examples, **work)
        return hypotheses(self.model, self.task, self.examples, self.labels, **work)

    def _routed(self, system: System, indices: list[int]):
        """Batches anew: what the decoder is told may depend on the route."""
        from speechmerge.route.decode import Routed, routed_hypotheses

        if by_cosine(self.task):
            raise SpeechMergeError(f"{system.name}: the embeddings of a trial must come from one set of weights, routed ones do "
                                   "not; use --verification answers")
        limit = self.options.bank_mb and self.options.bank_mb << 20
        with Routed(self.model, system.routing, limit) as routed:
            chosen = [self.examples[index] for index in indices]
            truths = [self.truth(example.id, routed.router.labels_from) for example in chosen]
            yield from routed_hypotheses(routed, self.task, chosen, truths, self.labels, self.options, self.cache)
            log.info("%s on %s: routing took %.1f ms per utterance", system.name, self.set_name, 1000 * routed.seconds / len(chosen))

    def truth(self, id: str, labels_from: str) -> str | None:
        """The label that a router should find for an utterance."""
        if labels_from == "set":
            return self.set_name
        utterance = self.data.utterances.get(id)
        if utterance is None:  # a trial
            return None
        return utterance.language if labels_from == "language" else utterance.labels.get(labels_from)

    def _write(self, system: System, key: str, found: list[Hypothesis], seconds: float, peaks: dict):
        audio = sum(self.model.seconds(example) for example in self.examples)
        scores, context = answer_scores(self.task, found), self.model.context
        context = {"kind": context.kind, "min": context.minimum, "step": context.step}
        with atomic_dir(self.folder(system)) as folder:
            for name, rows in (("hyp", {h.id: h.text for h in found}), ("hyp_labels", {h.id: h.label for h in found})):
                if None not in rows.values():
                    write_table(folder / name, rows)
            if routes := {h.id: h.route for h in found if h.route}:
                write_table(folder / "routes", routes)
            if scores:
                write_table(folder / "scores", {id: f"{score:.6f}" for id, score in scores.items()})
            write_json(folder / "decode.json", {
                "key": key, "system": system.record(), "task": self.task.name, "split": self.split,
                "data": str(self.data.path), "n": len(found), "seconds": round(seconds, 3),
                "audio_seconds": round(audio, 3), "real_time_factor": round(seconds / audio, 4) if audio else None, **peaks,
                "options": self.options.deciding(), "audio_context": context, "dtype": str(self.model.dtype),
                "settings": self.task.settings(),
                "model": {"source": self.model.source, "fingerprint": self.model.fingerprint()}, **provenance(),
            })


class Parts:
    """Finished utterances of an unfinished decoding, saved every SAVE_EVERY seconds in a hidden folder beside it.

    A shard saves what it has at its end too; whoever then finds all utterances there writes the result.
    """

    def __init__(self, target: Path, key: str, shared: bool, peak: PeakMemory | None = None):
        self.folder = target.parent / f".{target.name}.parts"
        self.prefix, self.shared, self.peak = key[:16], shared, peak or PeakMemory()
        self.memory: dict[str, Hypothesis] = {}
        self.unsaved: list[Hypothesis] = []
        self.since = time.monotonic()

    def add(self, found: list[Hypothesis]):
        self.memory.update((hypothesis.id, hypothesis) for hypothesis in found)
        self.unsaved += found
        if time.monotonic() - self.since > SAVE_EVERY:
            self.save()

    def finish(self):
        if self.shared and self.unsaved:
            self.save()

    def save(self):
        rows = [[h.id, h.text, h.label, h.score, h.route] for h in self.unsaved]
        name = f"{self.prefix}-{os.getpid()}-{time.time_ns()}.json"
        write_json(self.folder / name, {"seconds": time.monotonic() - self.since, **self.peak.read(), "rows": rows})
        self.unsaved, self.since = [], time.monotonic()

    def read(self) -> dict[str, Hypothesis]:
        """By utterance id, from this process and from the files."""
        for path in self._files():
            self.memory.update((row[0], Hypothesis(*row)) for row in read_json(path)["rows"])
        return self.memory

    def seconds(self) -> float:
        """Time spent on all of them, in this and in other processes."""
        unsaved = time.monotonic() - self.since if self.unsaved else 0.0
        return unsaved + sum(read_json(path)["seconds"] for path in self._files())

    def peaks(self) -> dict[str, float]:
        """The largest of this and of other processes, each for itself, in MB."""
        records = [self.peak.read(), *map(read_json, self._files())]
        return {name: max(record.get(name, 0.0) for record in records) for name in records[0]}

    def _files(self):
        return sorted(self.folder.glob(f"{self.prefix}-*.json")) if self.folder.is_dir() else []

    def remove(self):
        """Also parts of other keys: nobody will ask for them again."""
        shutil.rmtree(self.folder, ignore_errors=True)


def deciding(routing: dict) -> dict:
    """What of a routing decides a result beside the files of router and adapters, wherever these lie."""
    return {**{name: value for name, value in routing.items() if name != "router"}, "adapters": sorted(routing["adapters"])}


def write_table(path: Path, rows: dict[str, str]):
    """`id value` lines sorted by id; the value may be empty."""
    write_text(path, "".join(f"{id} {value}".rstrip() + "\n" for id, value in sorted(rows.items())))
