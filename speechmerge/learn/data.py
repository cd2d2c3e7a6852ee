"""The examples that coefficients are learned on, and what a model says to a batch of them."""
import math
import random
from collections import Counter
from dataclasses import dataclass

import torch

from speechmerge.data.batching import FeatureCache
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.models.base import Item
from speechmerge.registry import nearest

STRATEGIES = ("uniform", "inverse", "sqrt_inverse", "balanced", "none")


class TaskData:
    """One task's examples in batches: number `i` is a function of the seed alone, so that a killed run goes on."""

    def __init__(self, name: str, task, data, model, options: dict, head=None):
        """`data`: a DataDir; `head`: folder of the task's own adapter, see SpeechModel.equip. SpeechMergeError where no
        example fits the model."""
        self.head = head
        model.equip(task, head)
        self.name, self.task, self.labels, self.model = name, task, task.labels(data), model
        self.size, self.seed = options["batch_size"], options["seed"]
        examples = [example for example in task.examples(data) if not model.fits(example, task)]
        if not examples:
            raise SpeechMergeError(f"{data.path}: no example that the model can hold; learn on another task or split")
        if options["max_examples"] and len(examples) > options["max_examples"]:
            chosen = random.Random(f"{self.seed}/{name}").sample(range(len(examples)), options["max_examples"])
            examples = [examples[index] for index in sorted(chosen)]
        self.examples, self.cache, self.epoch = examples, FeatureCache(), None
        self.weights = weights_of(examples, strategy_of(options["sampling"], name))

    def batch(self, number: int) -> "Batch":
        """Batch `number`: without weights the next examples of an endless shuffled list, else drawn by weight."""
        if self.weights is None:
            chosen = [self.at(place) for place in range(number * self.size, (number + 1) * self.size)]
        else:
            draw = random.Random(f"{self.seed}/{self.name}/batch {number}")
            chosen = draw.choices(range(len(self.examples)), self.weights, k=self.size)
        examples = [self.examples[index] for index in chosen]
        self.model.equip(self.task, self.head)
        return Batch(self.model, self.task, self.labels,
                     [Item(e, self.cache.get(e, self.model.features), self.model.seconds(e)) for e in examples])

    def rounds(self) -> float:
        """Batches after which every example was there; without end where examples are drawn by weight."""
        return math.ceil(len(self.examples) / self.size) if self.weights is None else math.inf

    def at(self, place: int) -> int:
        epoch, index = divmod(place, len(self.examples))
        if epoch != self.epoch:
            self.epoch, self.order = epoch, list(range(len(self.examples)))
            random.Random(f"{self.seed}/{self.name}/epoch {epoch}").shuffle(self.order)
        return self.order[index]


def strategy_of(sampling: dict, name: str) -> str:
    """`sampling`: {default: {enabled, strategy}, per_task: {name: {...}}}."""
    for key in sampling:
        if key not in ("default", "per_task"):
            raise UsageError(f"optimizer.params.sampling.{key}: unknown key; expected default or per_task")
    chosen = {**(sampling.get("default") or {}), **((sampling.get("per_task") or {}).get(name) or {})}
    strategy = chosen.get("strategy", "uniform") if chosen.get("enabled", bool(chosen)) else "uniform"
    if strategy not in STRATEGIES:
        raise UsageError(f"optimizer.params.sampling: strategy {strategy!r}; {nearest(str(strategy), STRATEGIES)}")
    return strategy


def weights_of(examples, strategy: str) -> list[float] | None:
    """How likely each example is drawn: by the frequency n of its label, 1/n or 1/sqrt(n); None: each equally often."""
    if strategy in ("uniform", "none"):
        return None
    counts = Counter(example.target for example in examples)
    power = 0.5 if strategy == "sqrt_inverse" else 1.0  # balanced: every label equally often, which 1/n is
    return [counts[example.target] ** -power for example in examples]


@dataclass(frozen=True)
class Batch:
    model: object
    task: object
    labels: list[str] | None
    items: list[Item]

    def cross_entropy(self) -> torch.Tensor:
        """Mean over the target tokens."""
        batch = self.model.to_device(self.model.collate(self.items, self.task, training=True))
        return self.model.loss(self.model.respond(batch), batch["labels"])

    def entropy(self) -> torch.Tensor:
        """Mean over the examples of H(p(label | x)), p from the log-likelihoods of all labels' texts."""
        scores = self.model.label_scores(self.items, self.task, self.labels).log_softmax(-1)
        return -(scores.exp() * scores).sum(-1).mean()
