"""Merges on a loaded model, one after the other, without a file of weights in between.

    mixer = Mixer(model)
    with mixer.applied(prepare(["exp/asr/lora", "exp/kws/lora"], "weighted", params={"lambda": 0.3})):
        model.generate(batch, task)

Weighted sums of LoRA adapters are coefficients of one adapter bank, which stays from merge to merge; what any other
method makes is added to the weights, and taken off again.
"""
import contextlib
import json

from speechmerge.bank import AdapterBank, Coefficients
from speechmerge.merge.compute import Tensors, computing
from speechmerge.merge.delta import LowRank
from speechmerge.merge.method import Linear


class Mixer:
    """`model`: a loaded SpeechModel, the base of all merges."""

    def __init__(self, model):
        self.model, self.bank, self.carried = model, None, None

    @contextlib.contextmanager
    def applied(self, merge):
        """Within the block the model computes what this :class:`speechmerge.merge.run.Merge` gives."""
        vectors = self.factors(merge)
        if vectors is None:
            carried = merge.run().applied(self.model.core)
        else:
            self.carry(merge, vectors)
            carried = self.bank.using(self.coefficients(merge.rule))
        with carried:
            yield

    @staticmethod
    def factors(merge) -> list | None:
        """The vectors of a weighted sum of low-rank changes, None for any other merge."""
        if not isinstance(merge.rule, Linear) or merge.rule.values["mode"] != "product":
            return None
        with computing():
            vectors = merge.transformed()
            if not all(isinstance(vector.deltas[name], LowRank) for vector in vectors for name in merge.shared):
                return None
            merge.rule.survey(Tensors({name: [vector.deltas[name] for vector in vectors] for name in merge.shared}))
        return vectors

    def carry(self, merge, vectors):
        """These vectors in the bank, unless they are there."""
        wanted = json.dumps([[vector.origin for vector in vectors], merge.shared, merge.settings["transforms"]])
        if wanted != self.carried:
            self.close()
            self.bank = AdapterBank(self.model.core, vectors, [vector.label for vector in vectors], self.model.path)
            self.carried = wanted

    def coefficients(self, rule) -> Coefficients:
        rows: list = [None] * len(self.bank.groups)
        for name in self.bank.parameters:
            rows[self.bank.group_of[name]] = [float(value) for value in rule.coefficients(name)]
        return Coefficients.per_task(rows[0]) if all(row == rows[0] for row in rows) else Coefficients.per_layer(rows)

    def close(self):
        """The model as it was."""
        if self.bank is not None:
            self.bank.remove()
        self.bank = self.carried = None
