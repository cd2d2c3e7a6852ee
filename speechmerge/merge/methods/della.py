"""DELLA (arXiv 2406.11617): drop elements at random, the smaller of a row more likely, then TIES' election and mean.

    p_j  = density - epsilon + 2 epsilon j / (n - 1)    probability that rank j of n in its row stays, 0 the smallest
    tau' = m * tau / p,    m ~ Bernoulli(p)

A row is what one output of a layer sees: kernels are unrolled, a vector is one row. The authors' script calls 2 epsilon
the window and merges with density 0.7, window 0.14, lambda 1.1, the defaults here. mergekit has epsilon 0.15 and
restores the L1 norm of each parameter (`rescale: l1`) instead of dividing by p. Equal magnitudes rank by position.
`della_linear`, as mergekit's, adds the vectors up instead of electing signs. """
from speechmerge.errors import UsageError
from speechmerge.merge.methods.dare import RESCALE, SEED, Added, Thinned
from speechmerge.merge.methods.ties import POSITIVE_ELECTION, WEIGHTS, SignElection
from speechmerge.merge.parameters import Parameter
from speechmerge.merge.registry import METHODS

MAGPRUNE = (
    Parameter("density", float, 0.7, "mean probability that an element stays", low=0, high=1),
    Parameter("epsilon", float, 0.07, "the smallest of a row stays with density - epsilon, the largest with +",
              low=0, high=0.5),
    Parameter("lambda", float, 1.1, "scale of the merged task vector"),
    SEED,
    RESCALE,
)


class MagPrune(Thinned):
    """DELLA's mask: by rank within the row."""

    def check(self):
        super().check()
        density, epsilon = self.values["density"], self.values["epsilon"]
        if density - epsilon <= 0 or density + epsilon > 1:
            raise UsageError(f"method {self.name}: density {density:g} and epsilon {epsilon:g} give probabilities from "
                             f"{density - epsilon:g} to {density + epsilon:g}, expected them above 0 and at most 1")

    def thin(self, block, index, tensor):
        from speechmerge.merge.kernels.masks import drop_by_rank_

        density, epsilon, rescale = (self.values[key] for key in ("density", "epsilon", "rescale"))
        return drop_by_rank_(tensor, density, epsilon, rescale == "inverse", *self.stream(block, index))


@METHODS.register("della")
class Della(MagPrune, SignElection):
    """Drop at random by rank in the row, rescale, elect signs, mean of the values that agree, times lambda."""

    parameters = (*MAGPRUNE, *POSITIVE_ELECTION)


@METHODS.register("della_linear")
class DellaLinear(MagPrune, Added):
    """Drop at random by rank in the row, rescale, add up, times lambda."""

    parameters = (*MAGPRUNE, WEIGHTS)
