"""An adapter bank that holds only as many adapters in memory as it may, and reads the others when they are asked for.

    bank = LazyBank(model.core, {"hi": "exp/asr/hi", "it": "exp/asr/it"}, base=model.path, limit=64 << 20)
    with bank.using(Coefficients.per_utterance(weights)):      # columns in the order of bank.names, loaded or not
        model.generate(batch, task)
"""
import contextlib
import logging
from collections import OrderedDict
from pathlib import Path

from speechmerge.bank.bank import AdapterBank
from speechmerge.bank.coefficients import Coefficients
from speechmerge.errors import SpeechMergeError
from speechmerge.registry import nearest

log = logging.getLogger(__name__)
WEIGHTS = ("*.safetensors", "*.bin", "*.pt")


class LazyBank:
    """Like AdapterBank, but adapters with zero coefficients stay on disk; the least recently used ones go first.

    limit: bytes of the adapters' weight files that may be loaded together. What one batch needs is loaded even where it is
    more. Adapters can be added and dropped at any time between two `using` blocks.
    """

    def __init__(self, module, adapters: dict[str, str], base=None, limit: int | None = None, **options):
        self.paths = {name: Path(path) for name, path in adapters.items()}
        self.limit, self.bank, self.busy = limit, AdapterBank(module, base=base, **options), False
        self.sizes: OrderedDict[str, int] = OrderedDict()  # of what is loaded, the most recently used last
        self.loads = 0  # adapters read so far

    @property
    def names(self) -> list[str]:
        return list(self.paths)

    @property
    def loaded(self) -> list[str]:
        return list(self.sizes)

    def bytes(self) -> int:
        return sum(self.sizes.values())

    def add(self, adapter, name: str) -> str:
        """One more adapter, the last of `names`; read when it is first used."""
        if name in self.paths:
            raise SpeechMergeError(f"adapter bank: two adapters are called {name!r} ({self.paths[name]} and {adapter}); give them names")
        self.paths[name] = Path(adapter)
        return name

    def drop(self, name: str):
        if name not in self.paths:
            raise SpeechMergeError(f"adapter bank: no adapter {name!r}; {nearest(name, self.paths)}")
        self._idle()
        del self.paths[name]
        if name in self.sizes:
            self._unload(name)

    def remove(self):
        self.bank.remove()

    def one(self, name: str) -> Coefficients:
        if name not in self.paths:
            raise SpeechMergeError(f"adapter bank: no adapter {name!r}; {nearest(name, self.paths)}")
        return Coefficients.per_task([float(name == other) for other in self.paths])

    @contextlib.contextmanager
    def using(self, coefficients: Coefficients | None):
        """As AdapterBank.using. Coefficients per layer are refused: which layers there are depends on what is loaded."""
        if coefficients is None:
            with self.bank.using(None):
                yield self
            return
        if coefficients.kind.endswith("layer"):
            raise SpeechMergeError("coefficients per layer: a bank that loads adapters on demand has no fixed layers; use AdapterBank")
        coefficients.check(len(self.paths), 0)
        values = coefficients.values
        needed = [name for name, any_ in zip(self.paths, (values.flatten(0, -2) if values.dim() > 1 else values[None]).ne(0).any(0))
                  if any_]
        self._load(needed)
        places = [self.names.index(name) for name in self.bank.names]
        self.busy = True
        try:
            with self.bank.using(Coefficients(values[..., places], coefficients.kind) if places else None):
                yield self
        finally:
            self.busy = False

    def _load(self, needed: list[str]):
        self._idle()
        for name in needed:
            if name in self.sizes:
                self.sizes.move_to_end(name)
        missing = {name: size_of(self.paths[name]) for name in needed if name not in self.sizes}
        self._make_room(sum(missing.values()), needed)
        for name, size in missing.items():
            self.bank.add(self.paths[name], name)
            self.sizes[name] = size
            self.loads += 1

    def _make_room(self, size: int, needed):
        for name in self.loaded:
            if self.limit is None or self.bytes() + size <= self.limit:
                return
            if name not in needed:
                self._unload(name)
        if self.limit is not None and self.bytes() + size > self.limit:
            log.debug("adapter bank: a batch needs %d adapters, more than the limit of %d bytes holds", len(needed), self.limit)

    def _unload(self, name: str):
        self.bank.drop(name)
        del self.sizes[name]

    def _idle(self):
        if self.busy:
            raise SpeechMergeError("adapter bank: adapters cannot be loaded or dropped while they are in use")


def size_of(folder: Path) -> int:
    """Bytes of an adapter's weight files."""
    found = sum(file.stat().st_size for pattern in WEIGHTS for file in folder.glob(pattern))
    if not found:
        raise SpeechMergeError(f"{folder}: no weights here ({', '.join(WEIGHTS)}); correct the path of this adapter")
    return found
