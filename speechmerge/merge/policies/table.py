"""A strength written out for every module or block: what learned coefficients are kept as.

    lambda_policy:
      type: table
      group_by: block
      values: {encoder.0: {asr: 0.4, kws: -0.1}, decoder.1: {asr: 0.2, kws: 0.7}, outside: {asr: 0.5, kws: 0.5}}

`group_by: module` names modules, `model.encoder.layers.0.fc1`. Every merged parameter must be covered.
"""
from speechmerge.blocks import GROUPINGS, group_of
from speechmerge.errors import UsageError
from speechmerge.merge.config.checks import mapping
from speechmerge.merge.policies import Key, Policy
from speechmerge.merge.registry import POLICIES
from speechmerge.registry import nearest


@POLICIES.register("table")
class Table(Policy):
    """One strength for every module or block, by its full name."""

    parameters = (Key("values", "{module or block: strength}", required=True), Key("group_by", "module or block; default module"))

    def check(self):
        self.group_by = self.given.get("group_by", "module")
        if self.group_by not in GROUPINGS:
            raise UsageError(f"{self.where}.group_by: found {self.group_by!r}; {nearest(str(self.group_by), GROUPINGS)}")
        mapping(f"{self.where}.values", self.given["values"])

    def strengths(self):
        return {f"values.{group}": value for group, value in self.given["values"].items()}

    def survey(self, names):
        for name in names:
            if group_of(name, self.group_by) not in self.given["values"]:
                raise UsageError(f"{self.where}.values: says nothing of {group_of(name, self.group_by)}, where {name} lies; "
                                 "were these coefficients learned for other adapters?")

    def __call__(self, name):
        return self.values[f"values.{group_of(name, self.group_by)}"]
