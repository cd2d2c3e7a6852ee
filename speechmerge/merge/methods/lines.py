"""LiNeS (arXiv 2410.17146): deeper blocks, which learn what is special to a task, are scaled more than shallow ones.

    (alpha + beta * l / (L - 1)) * sum of the task vectors    for block l of L, counted from 0

Parameters outside the blocks get alpha. Published for encoders alone; here the blocks of encoder and decoder are
counted apart. `alpha: auto` is the authors' rule for several tasks, |sum of the task vectors|_1 / |merged one|_1 / T,
which is 1 / T where the merged one is that sum. beta is what they search; their rule for one task, 1 - alpha, is the
default, so that the last block gets the whole sum.
"""
from speechmerge.blocks import block_of, depths
from speechmerge.errors import UsageError
from speechmerge.merge.method import Linear
from speechmerge.merge.parameters import Parameter
from speechmerge.merge.registry import METHODS


class NumberOrAuto(Parameter):
    def _expected(self):
        return f"{super()._expected()}, or auto"

    def _convert(self, value):
        return "auto" if value == "auto" else super()._convert(value)


@METHODS.register("lines")
class Lines(Linear):
    """The sum of the task vectors, scaled from alpha in the first block to alpha + beta in the last."""

    strength = "alpha"
    parameters = (
        NumberOrAuto("alpha", float, "auto", "scale of the first block and of what lies in none; auto: 1 / number of "
                     "adapters"),
        NumberOrAuto("beta", float, "auto", "how much more the last block is scaled; auto: 1 - alpha"),
    )

    def prepare(self, vectors):
        self.depths = depths(set.intersection(*(set(vector.deltas) for vector in vectors)))
        if not self.depths:
            raise UsageError(f"method {self.name}: no parameter of these adapters lies in a numbered block, as "
                             "model.decoder.layers.3.fc1.weight does; use task_vector")

    def scale(self, name: str) -> float:
        alpha, beta = self.strength_at(name), self.values["beta"]
        alpha = 1 / len(self.labels) if alpha == "auto" else alpha
        place = block_of(name)
        if place is None:
            return alpha
        part, index = place
        last = self.depths[part] - 1
        return alpha + (1 - alpha if beta == "auto" else beta) * (index / last if last else 1.0)

    def coefficients(self, name):
        return [self.scale(name)] * len(self.labels)
