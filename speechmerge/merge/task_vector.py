"""A task vector: every parameter's delta, and the base that the deltas are relative to."""
import contextlib
from dataclasses import dataclass, field, replace

from speechmerge.errors import SpeechMergeError
from speechmerge.merge.base import Base, common_base
from speechmerge.merge.delta import Delta, concatenate


@dataclass(frozen=True)
class TaskVector:
    """name of the parameter -> Delta. `origin` is the folder it was read from, `details` what is worth keeping of it
    (sha256, rank, scaling of an adapter; method, parameters and inputs of a merge).

    Arithmetic is task arithmetic: `a + b`, `a - b`, `0.4 * a`, `-a`; what one side lacks is unchanged there.
    """

    deltas: dict[str, Delta]
    base: Base = Base()
    task: str | None = None
    language: str | None = None
    origin: str | None = None
    details: dict = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What people call it: the name it was given or registered under, else its task, else its folder."""
        folder = (self.origin or "vector").rstrip("/").rsplit("/", 1)[-1]
        return self.details.get("name") or self.task or folder

    def __add__(self, other):
        return combine([self, other], [1.0, 1.0])

    def __sub__(self, other):
        return combine([self, other], [1.0, -1.0])

    def __mul__(self, factor):
        deltas = {name: delta.scaled(float(factor)) for name, delta in self.deltas.items()}
        return replace(self, deltas=deltas, details={"sum_of": [(float(factor), self.label)]})

    __rmul__ = __mul__

    def __neg__(self):
        return self * -1.0

    def norm(self) -> float:
        """Frobenius norm over all parameters."""
        return sum(delta.norm() ** 2 for delta in self.deltas.values()) ** 0.5

    @contextlib.contextmanager
    def applied(self, module):
        """Within the block, `module` (a model of this base) has base + delta; afterwards its own bytes again."""
        import torch

        from speechmerge.merge.compute import computing, ordered

        kept, names = {}, sorted(self.deltas)
        try:
            with torch.no_grad(), computing():
                for name, change in zip(names, ordered(lambda name: self.deltas[name].dense(), names, here=True)):
                    parameter = _parameter(module, name, self.deltas[name])
                    kept[name] = parameter.detach().clone()
                    parameter.copy_(parameter.float() + change.to(parameter.device))
            yield module
        finally:
            with torch.no_grad():
                for name, tensor in kept.items():
                    _weight(module, name).copy_(tensor)

    def save(self, folder, as_="lora", rank=None, base=None, threads=None, device=None):
        """Write the vector as a PEFT adapter ("lora"), as full weights ("full") or as its deltas ("delta").

        See :func:`speechmerge.merge.save.save`; returns its metadata.
        """
        from speechmerge.merge.save import save

        return save(self, folder, as_, rank, base, threads, device)


def combine(vectors, weights) -> TaskVector:
    """sum_i weights[i] * vectors[i] over all parameters that any of them has. SpeechMergeError for other bases."""
    base = common_base([vector.base for vector in vectors], [vector.label for vector in vectors])
    check_shapes(vectors)
    names = sorted({name for vector in vectors for name in vector.deltas})
    deltas = {}
    for name in names:
        present = [(vector.deltas[name], weight) for vector, weight in zip(vectors, weights) if name in vector.deltas]
        deltas[name] = concatenate(*zip(*present))
    return TaskVector(
        deltas, base, details={"sum_of": [(weight, vector.label) for weight, vector in zip(weights, vectors)]}
    )


def check_shapes(vectors):
    """Raises SpeechMergeError naming the first parameter whose shape differs between vectors."""
    seen = {}
    for vector in vectors:
        for name, delta in vector.deltas.items():
            shape, owner = seen.setdefault(name, (delta.shape, vector.label))
            if shape != delta.shape:
                raise SpeechMergeError(
                    f"key {name}: {owner} has shape {list(shape)}, {vector.label} has {list(delta.shape)}; "
                    "these adapters were not trained on the same architecture"
                )


def _parameter(module, name: str, delta: Delta):
    """The module's own parameter, or buffer. SpeechMergeError where it has none of that name and shape."""
    try:
        parameter = _weight(module, name)
    except AttributeError as error:
        raise SpeechMergeError(f"key {name}: the model {type(module).__name__} has no such parameter") from error
    if tuple(parameter.shape) != delta.shape:
        raise SpeechMergeError(
            f"key {name}: the model has shape {list(parameter.shape)}, the delta {list(delta.shape)}"
        )
    return parameter


def _weight(module, name: str):
    """Means and variances that a model normalises by are buffers, and saved like parameters."""
    try:
        return module.get_parameter(name)
    except AttributeError:
        return module.get_buffer(name)
