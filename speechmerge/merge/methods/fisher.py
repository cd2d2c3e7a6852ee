"""Fisher-weighted averaging (arXiv 2111.09832): each value is averaged by how sharply each task depends on it.

    merged = sum_t c_t F_t tau_t / sum_t c_t F_t,    F_t the diagonal of the Fisher information of model t on its data

F comes from `speechmerge statistics --kind fisher`, of the dense weights, also where the task vector is a LoRA. The
base cancels, so that task vectors may be averaged instead of weights. A model whose loss is steeper everywhere would
decide everything: so the paper's code and fusion_bench divide each F by its L2 norm over all parameters. Here it is
divided by its root mean square, the same up to a factor that all share. The floor of 1e-6, which both of them add or
raise absolute values to, counts from there (on the mini recipe an absolute one would lift a quarter of the values of a
well-trained adapter); with `normalize: false` it is absolute. What was not measured is averaged.
"""
import math

from speechmerge.merge.method import Elementwise, shares
from speechmerge.merge.parameters import LAMBDA, Parameter
from speechmerge.merge.registry import METHODS


@METHODS.register("fisher")
class Fisher(Elementwise):
    """The mean of the task vectors, each value weighted by its Fisher information on the adapter's own data."""

    strength = "lambda"
    kind = "fisher"  # of the statistics
    parameters = (
        LAMBDA,
        Parameter("weights", "floats", None, "one weight per adapter beside its Fisher information, as a list or "
                  "{name: weight}; default: all equal", low=0),
        Parameter("normalize", bool, True, "divide the Fisher information of each adapter by its root mean square"),
        Parameter("floor", float, 1e-6, "smallest Fisher information of a value", low=1e-30),
    )

    def check(self):
        self.weights = shares(self)

    def prepare(self, vectors):
        from speechmerge.merge.statistics import read_statistics

        self.statistics = read_statistics(vectors, self.kind)

    def survey(self, tensors):
        names = [name for name in tensors.names if self.known(name)]
        self.scales = [1.0] * len(self.labels)
        if self.values["normalize"] and names:
            self.scales = [self._root_mean_square(tensors, statistics, names) for statistics in self.statistics]

    def _root_mean_square(self, tensors, statistics, names) -> float:
        def squares(block):
            rows = statistics.rows(block.name, block.start, block.stop).double()
            return (rows * rows).sum().item()

        from speechmerge.merge.compute import ordered, units

        blocks = (block for name in names for unit in units(name, tensors.shape(name)) for block in unit)
        count = sum(math.prod(tensors.shape(name)) for name in names)
        return math.sqrt(math.fsum(ordered(squares, blocks)) / count) or 1.0

    def known(self, name: str) -> bool:
        return all(name in statistics for statistics in self.statistics)

    def combine(self, block, tensors):
        total = share = None
        for index, tensor in enumerate(tensors):
            weight = self._weight(index, block, tensor)
            part = tensor.mul_(weight)
            total, share = (part, weight) if total is None else (total.add_(part), share.add_(weight))
        return total.div_(share).mul_(self.strength_at(block.name))

    def _weight(self, index: int, block, like):
        """c_t F_t of a block, in memory of its own."""
        if not self.known(block.name):
            return like.new_full(like.shape, self.weights[index])
        rows = self.statistics[index].rows(block.name, block.start, block.stop).reshape(like.shape)
        return rows.div_(self.scales[index]).clamp_(min=self.values["floor"]).mul_(self.weights[index])
