"""Decoding with a router: every utterance with its own mix of adapters, mixed batches in one pass.

First the router hears the beginning of every utterance (the base, adapters off); then the decoding goes on as for any
system, with one row of coefficients per utterance (or per frame) in the adapter bank.
"""
import contextlib
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from speechmerge.bank import AdapterBank, Coefficients
from speechmerge.bank.lazy import LazyBank
from speechmerge.errors import SpeechMergeError
from speechmerge.models.adapters import check_base
from speechmerge.models.base import Item
from speechmerge.route.ensemble import averaging, repeated
from speechmerge.route.hearing import Stretch, hear
from speechmerge.route.router import Router, listening_task
from speechmerge.route.smoothing import smoothed
from speechmerge.route.systems import Routing
from speechmerge.route.timeline import segments_of, stretched


@dataclass(frozen=True)
class Decision:
    """What the router says of one utterance. weights: [labels], or [states, labels] per frame; text: its line in `routes`."""

    label: str
    weights: torch.Tensor
    text: str


class Routed:
    """A routed system in place: its router, its strategy and a bank of its adapters. Use as a context manager.

    limit: bytes of adapters in memory; None: all of them.
    """

    def __init__(self, model, routing: dict, limit: int | None = None):
        self.model, self.routing, self.limit = model, Routing(**{**routing, "adapters": {}}), limit
        self.router = Router.load(routing["router"], model)
        self.strategy = self.routing.make_strategy(self.router.labels)
        self.adapters = {label: Path(path) for label, path in routing["adapters"].items()}
        for path in self.adapters.values():
            check_base(model, path)
        self.columns = [self.router.index(label) for label in self.adapters]
        self.seconds = 0.0  # spent on routing
        self.bank = None

    def __enter__(self):
        folders = list(self.adapters.values())
        if self.limit is None or self.strategy.per_token:
            self.bank = AdapterBank(self.model.core, folders, list(self.adapters), base=self.model.path)
        else:
            self.bank = LazyBank(self.model.core, self.adapters, base=self.model.path, limit=self.limit)
        return self

    def __exit__(self, *_):
        self.bank.remove()

    # What the router says

    def decide(self, examples, truths=None, cache=None, batch_size: int = 32) -> list[Decision]:
        """truths: the true label of each example, where the strategy asks for it."""
        begun = time.perf_counter()
        truth = self._truth(truths) if self.strategy.needs_truth else None
        decide = self._per_frame if self.routing.level == "frame" else self._per_utterance
        found = decide(examples, truth, cache, batch_size)
        self.seconds += time.perf_counter() - begun
        return found

    def _truth(self, truths) -> torch.Tensor:
        if truths is None or any(label is None for label in truths):
            raise SpeechMergeError(f"routing strategy {self.routing.strategy}: the true labels of these utterances are not known; "
                                   f"expected sets or columns as the router {self.router.name} was trained on")
        return torch.tensor([self.router.index(label) for label in truths])

    def _per_utterance(self, examples, truth, cache, batch_size):
        if truth is None:
            probabilities = self.router.probabilities(self.model, examples, cache, batch_size)
        else:
            probabilities = torch.nn.functional.one_hot(truth, len(self.router.labels)).float()
        weights, found = self.strategy.weights(probabilities, truth), []
        for row, own in zip(probabilities, weights):
            label = self.router.labels[int(row.argmax())]
            mix = " ".join(f"{name}={weight:.4f}" for name, weight in zip(self.router.labels, own.tolist()) if weight)
            found.append(Decision(label, own, f"{label} {float(row.max()):.4f} {mix}"))
        return found

    def timelines(self, examples, cache=None, batch_size: int = 32) -> list[torch.Tensor]:
        """[states, labels] of each utterance: smoothed probabilities, one row every `state_seconds`."""
        hearing = replace(self.router.hearing, seconds=0.0)
        whole = [Stretch(e, 0.0, min(self.model.seconds(e), self.model.full_seconds)) for e in examples]
        heard = hear(self.model, listening_task(), whole, hearing, cache, batch_size)
        found = []
        for stretch, states in zip(whole, heard):
            per_second = len(states) / stretch.seconds
            window = max(1, round(self.routing.window * per_second))
            rows = self.router.frame_probabilities(states, window)
            found.append(smoothed(rows, self.routing.smoothing, max(1.0, self.routing.smoothing_seconds * per_second)))
        return found

    def _per_frame(self, examples, truth, cache, batch_size):
        found = []
        for place, (example, rows) in enumerate(zip(examples, self.timelines(examples, cache, batch_size))):
            true = None if truth is None else truth[place].expand(len(rows))
            label = self.router.labels[int(rows.mean(0).argmax() if true is None else true[0])]
            spans = segments_of(rows.argmax(-1), self.router.labels, self.model.seconds(example))
            mix = " ".join(f"{span.start:.2f}-{span.end:.2f}={span.label}" for span in spans)
            found.append(Decision(label, self.strategy.weights(rows, true), f"{label} {float(rows.mean(0).max()):.4f} {mix}"))
        return found

    def told(self, example, decision: Decision):
        """The example as the decoder is told of it: the language is the router's, unless it has none for this label."""
        language = self.router.languages.get(decision.label) if self.routing.language == "routed" else None
        return replace(example, language=language) if language else example

    # Decoding

    def coefficients(self, decisions: list[Decision], batch: dict) -> Coefficients:
        if self.strategy.per_token:
            return self.strategy.coefficients(self.bank)
        if self.routing.level == "utterance":
            return Coefficients.per_utterance(torch.stack([decision.weights[self.columns] for decision in decisions]))
        positions = self.model.encoder_states(batch, 0)[0].shape[1]
        stride = self.router.hearing.stride
        return Coefficients.per_frame(torch.stack([stretched(d.weights[:, self.columns], stride, positions) for d in decisions]))

    @contextlib.contextmanager
    def mixing(self, decisions: list[Decision], items: list[Item], task):
        """Yields (batch, rows per utterance): within the block the model has every utterance's own mix."""
        if not self.strategy.ensemble:
            batch = self.model.collate(items, task)
            with self.bank.using(self.coefficients(decisions, batch)):
                yield batch, 1
            return
        rows, shares = repeated(torch.stack([decision.weights for decision in decisions]), self.strategy.k)
        count = shares.shape[1]
        batch = self.model.collate([item for item in items for _ in range(count)], task)
        with self.bank.using(Coefficients.per_utterance(rows[:, self.columns])), averaging(self.model, shares):
            yield batch, count


def routed_hypotheses(routed: Routed, task, examples, truths, labels, options, cache):
    """Yield lists of Hypothesis of these examples, as decode.hypotheses does."""
    from speechmerge.decode import Hypothesis, judged, plan

    model = routed.model
    decisions = routed.decide(examples, truths, cache, options.batch_size)
    told = [routed.told(example, decision) for example, decision in zip(examples, decisions)]
    for indices in plan(model, task, told, options):
        chosen = [decisions[i] for i in indices]
        items = [Item(told[i], cache.get(told[i], model.features), model.seconds(told[i])) for i in indices]
        with routed.mixing(chosen, items, task) as (batch, count):
            texts = model.generate(batch, task, num_beams=options.num_beams)[::count]
            scored = labels and options.label_scoring
            rows = model.score_labels(batch, labels)[::count].tolist() if scored else [None] * len(texts)
        yield [Hypothesis(item.example.id, " ".join(text.split()), *judged(task, labels, row), decision.text)
               for item, text, row, decision in zip(items, texts, rows, chosen)]
