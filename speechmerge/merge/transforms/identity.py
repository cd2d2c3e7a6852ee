"""The transform that changes nothing: what stands in a config where a pipeline may stand."""
from speechmerge.merge.registry import TRANSFORMS
from speechmerge.merge.transforms import Transform


@TRANSFORMS.register("identity")
class Identity(Transform):
    """The task vector as it is."""

    def prepare(self, vector, tensors):
        return vector
