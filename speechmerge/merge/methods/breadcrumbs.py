"""Model Breadcrumbs (arXiv 2312.06795): leave out both the outliers and the small values of each task vector, then add
up.

Of n magnitudes the floor(gamma n) largest are taken out, of the others the floor(beta n) largest are kept; merged =
lambda * sum. The authors' example has beta 0.2, gamma 0.1 and lambda 0.4, the defaults here; mergekit calls beta the
density and has gamma 0.01.

n are the elements of a row (`scope: row`), as in the authors' code, which means the last dimension; kernels of
convolutions are unrolled here, since of the 3 elements of a last dimension floor(0.2 * 3) = 0 would be kept. `scope:
tensor` takes each parameter as a whole, as mergekit does. Elements as large as the first or the last kept one are kept
too, so that no order matters. Scalars pass. `breadcrumbs_ties`, as mergekit's, ends in TIES' election instead of the
sum. """
from fractions import Fraction

from speechmerge.merge.methods.dare import Added
from speechmerge.merge.methods.ties import POSITIVE_ELECTION, WEIGHTS, SignElection, Sparsified
from speechmerge.merge.parameters import Parameter
from speechmerge.merge.registry import METHODS

BAND = (
    Parameter("beta", float, 0.2, "part of the elements that is kept", low=0, high=1),
    Parameter("gamma", float, 0.1, "part of the elements, the largest, that is taken out before", low=0, high=1),
    Parameter("lambda", float, 0.4, "scale of the merged task vector"),
    Parameter("scope", ("row", "tensor"), "row", "what the parts are taken of"),
)


class Band(Sparsified):
    """What stays are the magnitudes between two ranks."""

    def counts(self, length: int) -> tuple[int, int]:
        """(how many are taken out, how many of the others are kept), in fractions, for 0.3 * 10 is 3."""
        outliers, kept = (int(length * Fraction(repr(self.values[key]))) for key in ("gamma", "beta"))
        return outliers, min(kept, length - outliers)

    def survey(self, tensors):
        from speechmerge.merge.kernels.threshold import magnitude_bands

        # parameter -> (smallest, largest) magnitude that is kept, for each input
        self.bands = magnitude_bands(tensors, self.counts) if self.values["scope"] == "tensor" else {}
        super().survey(tensors)

    def sparsify(self, block, tensors):
        from speechmerge.merge.kernels.masks import keep_band_, keep_between_

        if not block.shape:
            return tensors
        if block.name in self.bands:
            return [keep_between_(tensor, *band) for tensor, band in zip(tensors, self.bands[block.name])]
        return [keep_band_(tensor, self.counts) for tensor in tensors]


@METHODS.register("breadcrumbs")
class Breadcrumbs(Band, Added):
    """Sum of the task vectors without their largest and their small values, times lambda."""

    parameters = (*BAND, WEIGHTS)


@METHODS.register("breadcrumbs_ties")
class BreadcrumbsTies(Band, SignElection):
    """Take out the largest and the small values, then TIES' sign election and mean of the values that agree."""

    parameters = (*BAND, *POSITIVE_ELECTION)
