"""A strength per kind of module, by the end of its name:

    lambda_policy:
      type: per_module
      default: 0.5
      overrides: {q_proj: 0.8, "fc[12]": 0.2, "encoder_attn.out_proj": 0.3}

A pattern is a regular expression for the last parts of the module's dotted name, or of the parameter's. It covers whole
parts: `proj` does not match `q_proj`, `.*_proj` does.
"""
import re

from speechmerge.errors import UsageError
from speechmerge.merge.config.checks import mapping
from speechmerge.merge.policies import DEFAULT, Key, Policy
from speechmerge.merge.registry import POLICIES


@POLICIES.register("per_module")
class PerModule(Policy):
    """A default, and overrides by regular expression for the end of the module's name."""

    parameters = (DEFAULT, Key("overrides", '{q_proj: 0.8, "fc[12]": 0.2}: patterns for the ends of module names',
                               required=True))

    def check(self):
        self.patterns = {}
        for pattern in mapping(f"{self.where}.overrides", self.given["overrides"]):
            try:
                self.patterns[str(pattern)] = re.compile(rf"(?:.*\.)?(?:{pattern})")
            except re.error as error:
                raise UsageError(f"{self.where}.overrides.{pattern}: no regular expression ({error})") from error

    def strengths(self):
        found = {f"overrides.{pattern}": value for pattern, value in self.given["overrides"].items()}
        return {**({"default": self.given["default"]} if "default" in self.given else {}), **found}

    def survey(self, names):
        self.places = {name: self.place(name) for name in names}
        for pattern in self.patterns:
            if f"overrides.{pattern}" not in self.places.values():
                modules = sorted({name.rsplit(".", 2)[-2] for name in names if "." in name})
                raise UsageError(f"{self.where}.overrides.{pattern}: matches no merged parameter; modules here end in "
                                 f"{', '.join(modules)}")

    def place(self, name: str) -> str:
        """Where the strength of a parameter stands. Raises UsageError where two patterns claim it."""
        module = name.rpartition(".")[0]
        claims = [pattern for pattern, expression in self.patterns.items()
                  if expression.fullmatch(module) or expression.fullmatch(name)]
        if len(claims) > 1:
            raise UsageError(f"{self.where}.overrides.{claims[1]}: overlaps with {self.where}.overrides.{claims[0]}, "
                             f"both match {name}")
        return f"overrides.{claims[0]}" if claims else "default"

    def __call__(self, name):
        return self.values[self.places[name]]
