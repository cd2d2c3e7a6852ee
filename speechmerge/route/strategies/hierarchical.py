import torch

from speechmerge.families import groups
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
        families = groups(self.tree, self.labels, "routing strategy hierarchical: tree").values()
        self.members = torch.tensor([[float(label in family) for label in self.labels] for family in families])

    def weights(self, probabilities, truth=None):
        members = self.members.to(probabilities)
        family = (probabilities @ members.T).argmax(-1)
        inside = probabilities * members[family]
        return best(inside) if self.within == "hard" else inside / inside.sum(-1, keepdim=True)
