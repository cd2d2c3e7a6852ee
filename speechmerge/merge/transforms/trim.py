"""Only the largest changes of a task vector, the first step of TIES (arXiv 2306.01708): small ones are mostly noise.

Exactly floor(k % of N) elements are kept, and more where magnitudes at the threshold are equal. N counts the elements
of all merged parameters together, or of each parameter.
"""
from speechmerge.merge.parameters import Parameter
from speechmerge.merge.registry import TRANSFORMS
from speechmerge.merge.transforms import Transform, changed


@TRANSFORMS.register("trim")
class Trim(Transform):
    """Keep the k % of the elements whose magnitudes are largest, zero the others."""

    parameters = (
        Parameter("k", float, 20.0, "percent that is kept", low=0, high=100),
        Parameter("scope", ("all", "tensor"), "all", "one threshold over all parameters, or one for each"),
    )

    def prepare(self, vector, tensors):
        from speechmerge.merge.delta import Blockwise
        from speechmerge.merge.kernels.threshold import magnitude_thresholds

        if self.values["scope"] == "all":
            [threshold] = magnitude_thresholds(tensors, self.values["k"])
            thresholds = dict.fromkeys(tensors.names, threshold)
        else:
            thresholds = {name: magnitude_thresholds(tensors, self.values["k"], [name])[0] for name in tensors.names}

        def combine(block, blocks):
            [values] = blocks
            return values.mul_(values.abs() >= thresholds[block.name])

        return changed(vector, lambda name, delta: Blockwise(name, [delta], combine))
