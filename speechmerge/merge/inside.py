"""Another method, applied to coordinates of the deltas in a basis that they share: the frame of `core_space` and
`knots`.

The inner method sees, per parameter, one dense delta per input with that input's coordinates, and surveys these as it
would survey the deltas themselves. Coordinates are computed when they are asked for, of all inputs at once, and kept
only while one of them is in use.
"""
import threading
import weakref

from speechmerge.errors import UsageError
from speechmerge.merge.core_space import all_low_rank, largest_rank
from speechmerge.merge.delta import Computed, Delta, Dense
from speechmerge.merge.method import Method
from speechmerge.merge.parameters import Parameter
from speechmerge.merge.registry import METHODS


PARAMS = Parameter("inner_params", dict, {}, "parameters of the inner method")


def inner(default) -> Parameter:
    return Parameter("inner", str, default, "the method that is applied to the coordinates")


class Inside(Method):
    """`inner` with `inner_params` in a space of `coordinates`; the result is scaled by lambda."""

    strength = "lambda"

    def __init__(self, name, labels, params, policy=None):
        given = dict(params)
        inner_params = dict(PARAMS.read(given.pop("inner_params", None) or {}))
        super().__init__(name, labels, given, policy)
        entry = METHODS.get(self.values["inner"])
        if issubclass(entry, Inside):
            raise UsageError(f"method {name}: inner {self.values['inner']} is such a method itself")
        self.inner = entry(self.values["inner"], self.labels, inner_params)
        self.values["inner_params"] = self.inner.values

    def space(self, name: str, deltas):
        """An object with `matrices`, the coordinates of each input, and `delta(matrix, shape)`, the way back."""
        raise NotImplementedError

    def shape(self, name: str, deltas) -> tuple[int, int]:
        """Of the coordinates."""
        raise NotImplementedError

    def applies(self, deltas) -> bool:
        """Whether the parameter has coordinates; the inner method is applied to the deltas of others."""
        return len(deltas[0].shape) > 1 and all_low_rank(deltas)

    def prepare(self, vectors):
        self.inner.prepare(vectors)
        if self.inner.statistics:
            raise UsageError(f"method {self.name}: inner {self.inner.name} goes by statistics of the parameters "
                             "themselves, which say nothing of coordinates")

    def survey(self, tensors):
        from speechmerge.merge.compute import Tensors

        self.inner.survey(Tensors({name: self.seen(name, tensors.deltas(name))[0] for name in tensors.names}))

    def seen(self, name: str, deltas):
        """What the inner method sees: (deltas, where they come from)."""
        if not self.applies(deltas):
            return deltas, None
        shared = Shared(lambda: self.space(name, deltas))
        return [Coordinates(shared, index, self.shape(name, deltas)) for index in range(len(deltas))], shared

    def merge(self, name, deltas):
        seen, shared = self.seen(name, deltas)
        strength = self.strength_at(name)
        if shared is None:
            return self.inner.merge(name, seen).scaled(strength)

        def compute():
            space = shared.get()  # kept until the inner method is done, so that it is computed once
            merged = self.inner.merge(name, seen).matrix()
            return space.delta(merged.double() * strength, deltas[0].shape)

        return Computed(deltas[0].shape, compute, self.rank(name, deltas))

    def rank(self, name, deltas):
        return largest_rank(deltas) if self.applies(deltas) else self.inner.rank(name, deltas)


class Shared:
    """`make()`, computed by the first who asks and kept as long as anyone has the result."""

    def __init__(self, make):
        self.make, self.lock, self.made = make, threading.Lock(), lambda: None

    def get(self):
        with self.lock:
            found = self.made()
            if found is None:
                found = self.make()
                self.made = weakref.ref(found)
            return found


class Coordinates(Delta):
    """Those of one input; the others' are computed with them."""

    def __init__(self, shared: Shared, index: int, shape):
        self.shared, self.index, self.shape = shared, index, tuple(shape)

    def loaded(self):
        space = self.shared.get()
        ready = Dense(space.matrices[self.index].float())
        ready.space = space  # keeps it for the next input
        return ready

    def block(self, start, stop):
        return self.loaded().block(start, stop)
