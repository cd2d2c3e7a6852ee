"""Model Stock (arXiv 2403.19522): from the base towards the mean as far as the task vectors point the same way.

    t = n c / (1 + (n - 1) c),    merged task vector = t * mean,    c the mean cosine of the task vectors' pairs

per parameter. Task vectors of different tasks are nearly orthogonal (c of 0.02 to 0.2), so that t is small and the
result close to the base: it keeps what the base knows rather than what the tasks learnt. mergekit averages the cosines,
which is the default here, fusion_bench the angles. A mean cosine below 0 counts as 0, so that t is in [0, 1].
"""
from speechmerge.merge.kernels.sphere import OnSphere, stock_ratio
from speechmerge.merge.parameters import LAMBDA, Parameter
from speechmerge.merge.registry import METHODS


@METHODS.register("model_stock")
class ModelStock(OnSphere):
    """The mean of the task vectors, shortened by the angle between them."""

    strength = "lambda"
    parameters = (
        LAMBDA,
        Parameter("average", ("cosine", "angle"), "cosine", "what is averaged over the pairs"),
    )

    def combination(self, products, name):
        ratio = self.strength_at(name) * stock_ratio(products, self.values["average"])
        return [ratio / len(self.labels)] * len(self.labels)
