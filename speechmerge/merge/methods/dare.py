"""DARE (arXiv 2311.03099): drop elements of each task vector at random, rescale the others, then merge.

    tau' = m * tau / (1 - p),    m ~ Bernoulli(1 - p)

The expectation is tau, the variance tau^2 p / (1 - p): nine times tau^2 at p = 0.9, so report several seeds. It is
meant for small deltas (the authors: about 0.005) and harms those of continued pre-training.

`dare` is the mean of the dropped vectors, `dare_task_arithmetic` their sum, `dare_ties` TIES' election and mean of the
values that agree. The authors' script has p = 0.1. `rescale: inverse` divides by 1 - p,
as in the paper and PEFT; `l1` restores the sum of magnitudes of each parameter instead, as mergekit does; `none` does
not rescale, which is the authors' script unless it is told to.

Where dropped values cancel, the sign is + as in mergekit; `zero_sum: majority` as in `ties` draws all masks twice.

Masks depend on seed, name of the adapter, parameter and block, and on nothing else; adapters of one name are numbered.
"""
from speechmerge.errors import UsageError
from speechmerge.merge.methods.ties import POSITIVE_ELECTION, WEIGHTS, SignElection, Sparsified
from speechmerge.merge.parameters import LAMBDA, Parameter
from speechmerge.merge.registry import METHODS

SEED = Parameter("seed", int, 42, "seed of the masks; each (adapter, parameter, block) has a stream of its own", low=0)
RESCALE = Parameter("rescale", ("inverse", "l1", "none"), "inverse",
                    "divide what stays by its probability, restore each parameter's L1 norm, or leave it")
DROP = (
    Parameter("drop_rate", float, 0.9, "probability to drop an element", low=0, high=1, open_high=True),
    SEED,
    RESCALE,
)


class Thinned(Sparsified):
    """Shared by the methods that drop elements at random: they say in `thin` which."""

    def thin(self, block, index: int, tensor):
        """Input `index` without the elements that are dropped, in place."""
        raise NotImplementedError

    def stream(self, block, index: int):
        """What the random numbers of one input's block depend on."""
        label = self.labels[index]
        return self.values["seed"], f"{label}#{self.labels[:index].count(label)}", block.name, block.index

    def survey(self, tensors):
        self.restoring = {}  # parameter -> one factor per input
        if self.values["rescale"] == "l1":
            norms = {}
            for name, before, after in tensors.map_blocks(self.l1_norms):
                sums = norms.setdefault(name, [[0.0, 0.0] for _ in self.labels])
                for total, whole, left in zip(sums, before, after):
                    total[0] += whole
                    total[1] += left
            self.restoring = {name: [whole / left if left else 1.0 for whole, left in sums]
                              for name, sums in norms.items()}
        super().survey(tensors)

    def l1_norms(self, block, tensors):
        """(parameter, sum of magnitudes of each input, the same of what stays)."""
        from torch.linalg import vector_norm
        from torch import float64

        before = [vector_norm(tensor, 1, dtype=float64).item() for tensor in tensors]
        thinned = (self.thin(block, index, tensor) for index, tensor in enumerate(tensors))
        return block.name, before, [vector_norm(tensor, 1, dtype=float64).item() for tensor in thinned]

    def sparsify(self, block, tensors):
        tensors = [self.thin(block, index, tensor) for index, tensor in enumerate(tensors)]
        for tensor, factor in zip(tensors, self.restoring.get(block.name, ())):
            tensor.mul_(factor)
        return tensors


class Added(Sparsified):
    """The weighted sum of what is left of the inputs."""

    def fuse(self, tensors):
        for tensor, weight in zip(tensors, self.values["weights"] or ()):
            tensor.mul_(weight)
        for tensor in tensors[1:]:
            tensors[0].add_(tensor)
        return tensors[0]


class Drop(Thinned):
    """DARE's mask: every element with the same probability."""

    @property
    def boost(self):
        return 1 / (1 - self.values["drop_rate"]) if self.values["rescale"] == "inverse" else 1.0

    def thin(self, block, index, tensor):
        from speechmerge.merge.kernels.masks import drop_

        return drop_(tensor, self.values["drop_rate"], *self.stream(block, index))


@METHODS.register("dare_task_arithmetic")
class DareTaskArithmetic(Drop, Added):
    """Sum of the task vectors after dropping drop_rate of each and rescaling, times lambda."""

    parameters = (*DROP, LAMBDA, WEIGHTS)


@METHODS.register("dare")
class Dare(DareTaskArithmetic):
    """Mean of the task vectors after dropping drop_rate of each and rescaling by 1/(1 - drop_rate)."""

    def fuse(self, tensors):
        return super().fuse(tensors).div_(sum(self.values["weights"] or [1.0] * len(tensors)))

    def check(self):
        super().check()
        if self.values["weights"] is not None and not sum(self.values["weights"]):
            raise UsageError(f"method {self.name}: weights are all 0; expected at least one above")


@METHODS.register("dare_ties")
class DareTies(Drop, SignElection):
    """DARE's drop and rescale, then TIES' sign election and mean of the values that agree, times lambda."""

    parameters = (*DROP, LAMBDA, *POSITIVE_ELECTION)
