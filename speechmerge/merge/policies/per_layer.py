"""A strength per transformer block, for encoder and decoder apart or for both at once:

    lambda_policy:
      type: per_layer
      default: 0.5                            # everything that no override names: also embeddings, norms, heads
      overrides:
        encoder: {0: 0.2, 1-3: 0.4}           # by block index or range, both ends included
        decoder: {11: 0.8}
    # or overrides: {0: 0.2}, block 0 of every part

The parts are those of :mod:`speechmerge.blocks`.
"""
import re

from speechmerge.blocks import block_of, indices
from speechmerge.errors import UsageError
from speechmerge.merge.config.checks import mapping
from speechmerge.merge.policies import DEFAULT, Key, Policy
from speechmerge.merge.registry import POLICIES

RANGE = re.compile(r"(\d+)(?:-(\d+))?")


@POLICIES.register("per_layer")
class PerLayer(Policy):
    """A default, and overrides by block index or range, for all parts or for encoder and decoder apart."""

    parameters = (DEFAULT,
                  Key("overrides", "{encoder: {0: 0.2, 1-3: 0.4}, decoder: {11: 0.8}}, or {0: 0.2} for all parts",
                      required=True))

    def check(self):
        self.places: dict[tuple[str | None, int], str] = {}  # (part, None: all parts; block) -> place of its strength
        self.overrides = {}
        for key, value in mapping(f"{self.where}.overrides", self.given["overrides"]).items():
            if is_range(key):
                self.add(None, key, f"overrides.{key}", value)
                continue
            for key_inside, inside in mapping(f"{self.where}.overrides.{key}", value).items():
                self.add(key, key_inside, f"overrides.{key}.{key_inside}", inside)

    def add(self, part, key, place: str, value):
        """One override. Raises UsageError where another one already covers a block of it."""
        if not is_range(key):
            raise UsageError(f"{self.where}.{place}: found {key!r}, expected a block such as 3 or a range such as 1-3")
        first, last = (int(number) for number in RANGE.fullmatch(str(key)).groups(default=str(key).split("-")[0]))
        if first > last:
            raise UsageError(f"{self.where}.{place}: the range {key} is empty; write the smaller index first")
        for index in range(first, last + 1):
            for (other_part, other), other_place in self.places.items():
                if other == index and (part is None or other_part is None or part == other_part):
                    raise UsageError(f"{self.where}.{place}: overlaps with {self.where}.{other_place} in block {index}")
        self.places.update({(part, index): place for index in range(first, last + 1)})
        self.overrides[place] = value

    def strengths(self):
        return {**({"default": self.given["default"]} if "default" in self.given else {}), **self.overrides}

    def survey(self, names):
        there = indices(names)
        for (part, index), place in self.places.items():
            parts = there if part is None else {part: there.get(part, [])}
            if not any(index in blocks for blocks in parts.values()):
                where = "any part" if part is None else repr(part)
                raise UsageError(f"{self.where}.{place}: no merged parameter lies in block {index} of {where}; there "
                                 f"are {described(there)}")

    def __call__(self, name):
        part, index = block_of(name) or (None, None)
        place = self.places.get((part, index)) or self.places.get((None, index))
        return self.values[place or "default"]


def is_range(key) -> bool:
    return RANGE.fullmatch(str(key)) is not None


def described(there: dict[str, list[int]]) -> str:
    """'encoder 0-11, decoder 0-3, 5': the blocks that there are."""
    if not there:
        return "no blocks"
    words = []
    for part, blocks in there.items():
        runs = []
        for index in blocks:
            if runs and index == runs[-1][1] + 1:
                runs[-1][1] = index
            else:
                runs.append([index, index])
        spans = ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)
        words.append(f"{part or 'a part without a name'} {spans}")
    return "; ".join(words)
