"""One strength for all parameters: what a method does without a policy, too."""
from speechmerge.merge.policies import Key, Policy
from speechmerge.merge.registry import POLICIES


@POLICIES.register("scalar")
class Scalar(Policy):
    """The same strength everywhere; a bare number stands for it."""

    parameters = (Key("value", "strength of all parameters", required=True),)

    def __call__(self, name):
        return self.values["value"]
