"""Names to entries. An entry is one file of a package that registers itself; the files are imported on first use."""
import difflib
import importlib
import pkgutil

from speechmerge.errors import UsageError


def nearest(name: str, known) -> str:
    """' Did you mean ...?' with the closest of `known`, or the whole list where none is close."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}? (known: {', '.join(known)})" if close else f"known: {', '.join(known)}"


class Registry:
    """`METHODS = Registry("method", "speechmerge.merge.methods")`, then `@METHODS.register("ties")` in one file."""

    def __init__(self, kind: str, package: str):
        self.kind, self.package = kind, package
        self._entries: dict[str, object] = {}
        self._loaded = False

    def register(self, *names: str):
        """Decorator: the first name is the entry's own, the others are aliases. A name taken twice is an error."""

        def add(entry):
            for name in names:
                if self._entries.setdefault(name, entry) is not entry:
                    raise ValueError(f"{self.kind} {name!r} is registered twice: {self._entries[name]!r} and {entry!r}")
            return entry

        return add

    def get(self, name: str):
        self._load()
        if name not in self._entries:
            raise UsageError(f"unknown {self.kind} {name!r}; {nearest(name, self._entries)}")
        return self._entries[name]

    def names(self) -> list[str]:
        self._load()
        return sorted(self._entries)

    def _load(self):
        if self._loaded:
            return
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self.package}.{module.name}")
        self._loaded = True
