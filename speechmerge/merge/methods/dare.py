"""DARE (arXiv 2311.03099): drop elements of each task vector at random, rescale the others, then fuse."""
from speechmerge.merge.method import Method
from speechmerge.merge.parameters import Parameter
from speechmerge.merge.registry import METHODS

DROP = (
    Parameter("drop_rate", float, 0.9, "probability to drop an element; the others are divided by 1 - drop_rate",
              low=0, high=1, open_high=True),
    Parameter("seed", int, 42, "seed of the masks; each (adapter, parameter) has a stream of its own", low=0),
)


class Drop(Method):
    """Shared by the DARE methods: `dropped(i, name, delta)`, the rescaled remains of input i."""

    parameters = DROP

    def check(self):
        # equal labels are numbered, so that two adapters of one name have masks of their own
        self.streams = [f"{label}#{self.labels[:index].count(label)}" for index, label in enumerate(self.labels)]

    def dropped(self, index: int, name: str, delta):
        from speechmerge.merge.masks import keep_mask

        rate, tensor = self.values["drop_rate"], delta.dense()
        return tensor * keep_mask(tensor.shape, rate, self.values["seed"], self.streams[index], name) / (1 - rate)


@METHODS.register("dare")
class Dare(Drop):
    """Mean of the task vectors after dropping drop_rate of each and rescaling by 1/(1 - drop_rate)."""

    def merge(self, name, deltas):
        from speechmerge.merge.delta import Deferred

        def compute():
            total = self.dropped(0, name, deltas[0])
            for index, delta in enumerate(deltas[1:], 1):
                total += self.dropped(index, name, delta)
            return total / len(deltas)

        return Deferred(deltas[0].shape, compute)


@METHODS.register("dare_ties")
class DareTies(Drop):
    """DARE's drop and rescale, then TIES' sign election and mean of the values that agree, times lambda."""

    parameters = (*DROP, Parameter("lambda", float, 1.0, "scale of the merged task vector"))

    def survey(self, tensors):
        self._tensors = tensors

    def merge(self, name, deltas):
        from speechmerge.merge.delta import Deferred
        from speechmerge.merge.signs import disjoint_mean

        def compute():
            tensors = [self.dropped(index, name, delta) for index, delta in enumerate(deltas)]
            return disjoint_mean(tensors, self.majority) * self.values["lambda"]

        return Deferred(deltas[0].shape, compute)

    def majority(self) -> int:
        from speechmerge.merge.signs import sum_of_signs

        rows = zip(*(self._tensors(index) for index in range(len(self.labels))))
        total = sum(sum_of_signs([self.dropped(i, name, delta) for i, (name, delta) in enumerate(row)]) for row in rows)
        return (total > 0) - (total < 0)
