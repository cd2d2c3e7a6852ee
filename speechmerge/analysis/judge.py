"""One set's examples, decoded and scored under any mix of an adapter bank; what was decoded is remembered on disk."""
from dataclasses import dataclass
from pathlib import Path

from speechmerge.files import fingerprint, read_json, write_json


@dataclass(frozen=True)
class Judgement:
    """`value`: the deciding metric; `u`: the same, higher is better; `replicates`: u on resampled sets, all None where
    nothing is decoded; `loss`: mean cross-entropy per target token (nats), None where the family or task has none."""

    value: float | None
    u: float | None
    replicates: object
    loss: float | None


class Judge:
    """reading: "generation" or "labels", as in scores; memory: a folder; decoding: false where the loss is enough."""

    def __init__(self, model, set_name: str, task, data_root, split: str, options, reading: str, memory, decoding=True):
        from speechmerge.data.batching import FeatureCache
        from speechmerge.data.directory import DataDir
        from speechmerge.decode import by_cosine
        from speechmerge.scoring import Options, ReferenceCache

        self.model, self.task, self.options, self.memory, self.decoding = model, task, options, Path(memory), decoding
        path = Path(data_root) / set_name / split
        data = DataDir.read(path)
        task.adapt(model)
        self.references = ReferenceCache().get(task.name, str(path), task.settings())
        self.examples, self.labels = task.examples(data), task.labels(data)
        self.cosine, self.scoring, self.cache = by_cosine(task), Options(), FeatureCache()
        self.reading = "labels" if self.cosine else reading if self.labels else "generation"
        self.teacher = [] if self.cosine else [e for e in self.examples if not model.fits(e, task)]
        self.print = [data.fingerprint(), task.name, task.settings(), options.deciding(), self.reading, decoding]

    def judge(self, key) -> Judgement:
        """The model as it is now. `key`: JSON-able, of everything but data and task that decides what it computes."""
        path = self.memory / f"{fingerprint([self.print, key])[:24]}.json"
        if not path.is_file():
            write_json(path, {"key": key, "rows": self.decoded() if self.decoding else None, "loss": self.loss()})
        found = read_json(path)
        return Judgement(*(self.score(found["rows"]) if self.decoding else (None, None, None)), found["loss"])

    def decoded(self) -> list[list]:
        """[[id, text, score], ...]"""
        from dataclasses import replace

        from speechmerge.decode import compared, hypotheses

        if self.cosine:
            batches = compared(self.model, self.task, self.examples, self.options, self.cache)
        else:
            options = replace(self.options, label_scoring=self.reading == "labels")
            batches = hypotheses(self.model, self.task, self.examples, self.labels, options, self.cache)
        return [[h.id, h.label if self.reading == "labels" and not self.cosine else h.text, h.score]
                for batch in batches for h in batch]

    def score(self, rows):
        """(value, u, replicates of u)"""
        from speechmerge.metrics.interference import oriented
        from speechmerge.scoring import score_reading

        hyps = {id: text for id, text, _ in rows if text is not None}
        scores = {id: score for id, _, score in rows if score is not None} or None
        found, replicates = score_reading(self.references, hyps, scores, self.scoring)
        higher = self.task.higher_is_better
        return found["value"], oriented(found["value"], higher), oriented(replicates, higher)

    def loss(self) -> float | None:
        """Teacher-forced, over all examples: far finer than a metric that counts whole answers."""
        import torch

        from speechmerge.decode import plan
        from speechmerge.models.base import Item

        model, total, tokens = self.model, 0.0, 0
        with torch.inference_mode():
            for indices in plan(model, self.task, self.teacher, self.options):
                chosen = [self.teacher[index] for index in indices]
                items = [Item(e, self.cache.get(e, model.features), model.seconds(e)) for e in chosen]
                inputs = model.to_device(model.collate(items, self.task, training=True))
                count = int((inputs["labels"] != -100).sum())
                total += model.loss(model.respond(inputs), inputs["labels"]).item() * count
                tokens += count
        return total / tokens if tokens else None
