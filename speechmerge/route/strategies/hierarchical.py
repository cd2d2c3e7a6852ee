import torch

from speechmerge.errors import UsageError
from speechmerge.registry import nearest
from speechmerge.route.strategies import STRATEGIES
from speechmerge.route.strategies.base import Strategy, best


@STRATEGIES.register("hierarchical")
class Hierarchical(Strategy):
    """First the most probable family, then its languages: by p(language | family) (`within: soft`) or the best (`hard`).

    A family's probability is the sum of its languages'. Unlike `hard` it never trusts one language of a family that is
    improbable as a whole. tree: {family: [labels]}; labels that it does not name are families of their own.
    """

    declared_parameters = {"tree": {}, "within": "soft"}

    def check(self):
        self.need("within", self.within in ("soft", "hard"), "soft or hard")
        named = [label for labels in self.tree.values() for label in labels]
        for label in named:
            if label not in self.labels:
                raise UsageError(f"routing strategy hierarchical: tree names {label!r}; {nearest(label, self.labels)}")
            if named.count(label) > 1:
                raise UsageError(f"routing strategy hierarchical: tree names {label!r} twice")
        families = [*self.tree.values(), *([label] for label in self.labels if label not in named)]
        self.members = torch.tensor([[float(label in family) for label in self.labels] for family in families])

    def weights(self, probabilities, truth=None):
        members = self.members.to(probabilities)
        family = (probabilities @ members.T).argmax(-1)
        inside = probabilities * members[family]
        return best(inside) if self.within == "hard" else inside / inside.sum(-1, keepdim=True)
