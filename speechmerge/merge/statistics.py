"""What `speechmerge statistics` measured of adapters on their data, for the methods that weigh by it.

    gram.safetensors      float32 [in, in] by parameter: X'X / rows of a linear layer's inputs
    fisher.safetensors    float32 of the parameter's shape: diagonal of the Fisher information
    regmean_plus_plus_<8 letters>.safetensors    Gram matrices on the partial merge of certain adapters

in <adapter>/statistics, beside each a .json of the same name: which weights it was measured of, on what data. Headers
are read and checked first, tensors when they are used.
"""
import hashlib
import math
from pathlib import Path

from speechmerge.errors import SpeechMergeError
from speechmerge.files import read_json
from speechmerge.storage.safetensors_file import read_header

FOLDER = "statistics"
KINDS = ("gram", "fisher", "regmean_plus_plus")


def statistics_file(folder, kind: str, weights) -> Path:
    """The file of one kind in an adapter's folder. weights: hashes of all adapters that are merged, which a partial
    merge depends on."""
    if kind != "regmean_plus_plus":
        return Path(folder) / FOLDER / f"{kind}.safetensors"
    digest = hashlib.sha256("".join(sorted(weights)).encode()).hexdigest()[:8]
    return Path(folder) / FOLDER / f"{kind}_{digest}.safetensors"


class Statistics:
    """The statistics of one adapter: parameters and their tensors, and the `record` of how they were made."""

    def __init__(self, path: Path, record: dict):
        self.path, self.record, self.entries = path, record, read_header(path)

    def __contains__(self, name: str):
        return name in self.entries

    def tensor(self, name: str):
        """float32, on the device of the merge."""
        entry = self.entries[name]
        return self.rows(name, 0, entry.shape[0] if entry.shape else 1).reshape(entry.shape)

    def rows(self, name: str, start: int, stop: int):
        """Rows of the leading dimension."""
        from speechmerge.merge.delta import floats

        return floats(self.entries[name], start, stop)


def read_statistics(vectors, kind: str) -> list[Statistics]:
    """The statistics of each vector. Raises SpeechMergeError, with the command that makes them, where one has none of
    these weights."""
    weights = [_weights(vector) for vector in vectors]
    found = []
    for vector, own in zip(vectors, weights):
        path = statistics_file(vector.origin, kind, weights)
        if not path.is_file() or not path.with_suffix(".json").is_file():
            raise SpeechMergeError(f"{path}: not there, the method needs it; run `{command(vectors, kind)}`")
        record = read_json(path.with_suffix(".json"))
        if record.get("weights") != own:
            raise SpeechMergeError(f"{path}: measured of other weights than {vector.origin} has now; run "
                                   f"`{command(vectors, kind)}`")
        found.append(Statistics(path, record))
        _check_shapes(found[-1], vector, kind)
    return found


def _weights(vector) -> str:
    if vector.origin is None or "sha256" not in vector.details:
        raise SpeechMergeError(f"{vector.label}: was never saved as it is, so it has no statistics; save it, and run "
                               "`speechmerge statistics` on its folder")
    return vector.details["sha256"].value()


def command(vectors, kind: str) -> str:
    """What makes the statistics of these vectors."""
    names = " ".join(str(vector.details.get("name") or vector.origin) for vector in vectors)
    base = vectors[0].base.source or "BASE"
    return f"speechmerge statistics --adapters {names} --kind {kind} --model {base} --data data --split train"


def _check_shapes(statistics: Statistics, vector, kind: str):
    for name, entry in statistics.entries.items():
        if name not in vector.deltas:
            continue
        shape = vector.deltas[name].shape
        expected = shape if kind == "fisher" else (math.prod(shape[1:]),) * 2
        if tuple(entry.shape) != tuple(expected) or entry.dtype != "F32":
            raise SpeechMergeError(f"{statistics.path}: key {name}: found {entry.dtype} {list(entry.shape)}, expected "
                                   f"F32 {list(expected)}; delete the file and run `speechmerge statistics` again")
