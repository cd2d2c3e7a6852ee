"""The weights of the base as tensors of a merge, for methods whose result depends on them."""
from speechmerge.errors import SpeechMergeError
from speechmerge.merge.base import common_base
from speechmerge.merge.read import OnDisk, base_folder
from speechmerge.storage.checkpoint import Checkpoint


def base_weights(vectors) -> dict:
    """Parameter -> Delta that reads the base's weight from disk. SpeechMergeError where the base cannot be found."""
    known = common_base([vector.base for vector in vectors], [vector.origin or vector.label for vector in vectors])
    weights = Checkpoint(base_folder(known))
    found = {}
    for name, delta in vectors[0].deltas.items():
        entry = weights.entry(name)
        if tuple(entry.shape) != tuple(delta.shape):
            raise SpeechMergeError(f"{entry.path}: key {name}: shape {list(entry.shape)}, {vectors[0].label} changes "
                                   f"one of {list(delta.shape)}; give the right --base")
        found[name] = OnDisk(entry)
    return found
