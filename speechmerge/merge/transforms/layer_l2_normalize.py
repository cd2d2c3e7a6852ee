"""Every transformer block's change brought to one length, so that no adapter outweighs another in any layer.

    tau_b <- tau_b * target_norm / max(||tau_b||_F, eps)

b runs over the blocks of :mod:`speechmerge.blocks`; the norm is that of all parameters of the block together.
For LoRA it is computed from the factors' Gram matrices, which is exact and forms no product B A. What lies outside
blocks is one more group, or is left as it is.
"""
import math

from speechmerge.blocks import block_of
from speechmerge.merge.parameters import Parameter
from speechmerge.merge.registry import TRANSFORMS
from speechmerge.merge.transforms import Transform, changed


@TRANSFORMS.register("layer_l2_normalize")
class LayerL2Normalize(Transform):
    """Scale the change of each transformer block to the same Frobenius norm."""

    parameters = (
        Parameter("target_norm", float, 1.0, "Frobenius norm of each block's change", low=0),
        Parameter("eps", float, 1e-12, "a shorter change is treated as this long", low=1e-300),
        Parameter("include_non_layer_keys", bool, True, "treat all parameters outside blocks as one more block"),
    )

    def prepare(self, vector, tensors):
        names = [name for name in tensors.names if self.values["include_non_layer_keys"] or block_of(name)]
        squares = {}
        for name, norm in zip(names, tensors.map(lambda name, deltas: deltas[0].norm(), names)):
            squares.setdefault(block_of(name), []).append(norm ** 2)
        factors = {block: self.values["target_norm"] / max(math.sqrt(math.fsum(found)), self.values["eps"])
                   for block, found in squares.items()}
        return changed(vector, lambda name, delta: delta.scaled(factors.get(block_of(name), 1.0)))
