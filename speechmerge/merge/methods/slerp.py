"""SLERP: along the great circle from one task vector to the other, parameter by parameter (Shoemake 1985).

    sin((1 - t) w) / sin w * tau_1 + sin(t w) / sin w * tau_2,    w the angle between tau_1 and tau_2

As in mergekit and fusion_bench the angle is that of the normalised tensors, what is combined are the tensors
themselves, and above a |cosine| of 0.9995 the way is straight. Whole weights, which they interpolate, are so nearly
parallel in fine-tuned models of one base that SLERP of them is mostly linear interpolation; so here task vectors are
the default (as in mergekit's `nuslerp` with a base), and `space: weights` is the other. Both are linear combinations of
the inputs (and of the base), so in the space of task vectors a LoRA stays one.
"""
from speechmerge.merge.kernels.sphere import OnSphere, slerp
from speechmerge.merge.parameters import Parameter
from speechmerge.merge.registry import METHODS


@METHODS.register("slerp")
class Slerp(OnSphere):
    """Spherical interpolation of two task vectors: t = 0 is the first, t = 1 the second."""

    fewest = most = 2
    strength = "t"
    parameters = (
        Parameter("t", float, 0.5, "place between the first and the second", low=0, high=1),
        Parameter("space", ("delta", "weights"), "delta", "the angle between task vectors, or between whole weights, "
                  "which needs the base"),
    )

    def check(self):
        self.on_weights = self.values["space"] == "weights"

    def prepare(self, vectors):
        if self.on_weights:
            from speechmerge.merge.base_weights import base_weights

            self.base = base_weights(vectors)

    def survey(self, tensors):
        if self.on_weights:
            from speechmerge.merge.compute import Tensors

            tensors = Tensors({name: [*tensors.deltas(name), self.base[name]] for name in tensors.names})
        super().survey(tensors)

    def combination(self, products, name):
        if not self.on_weights:
            return slerp(products, self.strength_at(name))
        base = products[2, :2]
        return slerp(products[:2, :2] + base[:, None] + base[None, :] + products[2, 2], self.strength_at(name))

    def merge(self, name, deltas):
        if not self.on_weights:
            return super().merge(name, deltas)
        from speechmerge.merge.delta import concatenate

        first, second = self.combination(self.products[name], name)
        beyond = first + second - 1  # what the great circle adds of the base; rounding where the way is straight
        return concatenate([*deltas, self.base[name]], [first, second, beyond if abs(beyond) > 1e-12 else 0.0])

    def rank(self, name, deltas):
        return None if self.on_weights else super().rank(name, deltas)
