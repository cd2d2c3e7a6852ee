"""What is done to each task vector before the method: a pipeline, in the order of the config.

    transforms:
      - {name: trim, params: {k: 20}}
      - layer_l2_normalize                  # a bare name: its defaults

A new transform is one file in this package:

    @TRANSFORMS.register("halve")
    class Halve(Transform):
        \"\"\"Half of every change.\"\"\"

        def prepare(self, vector, tensors):
            return changed(vector, lambda name, delta: delta.scaled(0.5))

Nothing dense is kept: what `prepare` gives are deltas that are made when they are asked for.
"""
from dataclasses import replace

from speechmerge.errors import UsageError
from speechmerge.merge.config.checks import known_keys, mapping, section
from speechmerge.merge.parameters import Parameter
from speechmerge.merge.registry import TRANSFORMS
from speechmerge.registry import nearest


class Transform:
    """`values` holds the parameters, complete and in their types."""

    parameters: tuple[Parameter, ...] = ()

    def __init__(self, params: dict, where: str = "params"):
        self.values = section(where, self.parameters, params)

    def prepare(self, vector, tensors):
        """The transformed TaskVector, its deltas not yet computed. `tensors`: the deltas of `vector`, as a
        :class:`speechmerge.merge.compute.Tensors` with one input, for what must be known of all of them."""
        raise NotImplementedError


def changed(vector, change):
    """`vector` with change(name, delta) instead of every delta."""
    return replace(vector, deltas={name: change(name, delta) for name, delta in vector.deltas.items()})


def normalised(given, where: str = "transforms") -> list[dict]:
    """[{name, params}] of a pipeline as it may be written, all parameters with their values."""
    if not isinstance(given, (list, tuple)):
        raise UsageError(f"{where}: found {given!r}, expected a list of transforms")
    return [_normalised(step, f"{where}[{place}]") for place, step in enumerate(given)]


def _normalised(step, where: str) -> dict:
    step = {"name": step} if isinstance(step, str) else mapping(where, step)
    known_keys(where, step, ("name", "params"))
    if step.get("name") not in TRANSFORMS.names():
        found = f"unknown transform {step['name']!r}" if "name" in step else "missing"
        raise UsageError(f"{where}.name: {found}; {nearest(str(step.get('name')), TRANSFORMS.names())}")
    transform = TRANSFORMS.get(step["name"])(step.get("params") or {}, f"{where}.params")
    return {"name": step["name"], "params": transform.values}


def make_transforms(given) -> list[Transform]:
    """The transforms of a config's `transforms`."""
    return [TRANSFORMS.get(step["name"])(step["params"]) for step in normalised(given)]
