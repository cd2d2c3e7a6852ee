"""SuperMerge (arXiv 2412.10416): sum_t tanh(w_t) tau_t for every adapted tensor, w learned on a few labelled examples.

Hierarchical: adapters are merged in small groups, then the merged groups, in a tree; each group is learned on the tasks
in it alone. A leaf's coefficient is the product of tanh(w) along its path, so the result is again one mix.

    hierarchical: {enabled: true, groups: [[asr, kws], [emotion, [langid, intent]]]}
"""
from speechmerge.errors import UsageError
from speechmerge.learn.base import LEARNERS, Learner
from speechmerge.merge.config.checks import section
from speechmerge.merge.parameters import Parameter


class Tree(Parameter):
    """Nested lists of names."""

    def _expected(self):
        return "nested lists of adapter names"

    def _convert(self, value):
        if value is not None and not isinstance(value, list):
            raise ValueError(value)
        return value


HIERARCHICAL = (
    Parameter("enabled", bool, False, "merge in a tree"),
    Parameter("group_size", int, 2, "adapters of a group, where no groups are given", low=2),
    Tree("groups", list, None, "nested lists of adapters; default: neighbours, then neighbouring groups"),
)


@LEARNERS.register("supermerge")
class SuperMerge(Learner):
    """Sum of the tasks' losses over tanh coefficients, which may be negative; flat or in a tree."""

    defaults = {"coefficient_parameterization": "tanh_alpha"}
    own = (Parameter("hierarchical", dict, {}, "{enabled, group_size, groups}: merge in a tree"),)

    def check(self):
        super().check()
        self.hierarchical = section(f"{self.where}.hierarchical", HIERARCHICAL, self.values["hierarchical"])
        if self.hierarchical["enabled"] and self.values["coefficient_parameterization"] == "softmax":
            raise UsageError(f"{self.where}.hierarchical: a tree multiplies coefficients, which softmax cannot be; use tanh_alpha")

    def tree(self, names) -> list:
        """Nested lists of all adapters; flat: one list. UsageError where the groups are not exactly the adapters."""
        if not self.hierarchical["enabled"]:
            return list(names)
        groups = self.hierarchical["groups"]
        if groups is None:
            groups, size = list(names), self.hierarchical["group_size"]
            while len(groups) > size:
                groups = [groups[i : i + size] if i + 1 < len(groups) else groups[i] for i in range(0, len(groups), size)]
        found = leaves(groups)
        if sorted(found) != sorted(names):
            raise UsageError(f"{self.where}.hierarchical.groups: found {', '.join(map(str, found))}, expected each of "
                             f"{', '.join(names)} once")
        return groups

    def combine(self, names, losses, baselines, base=None):
        return sum(losses) / len(losses), [1 / len(losses)] * len(losses)


def leaves(tree) -> list:
    return [tree] if not isinstance(tree, list) else [leaf for branch in tree for leaf in leaves(branch)]
