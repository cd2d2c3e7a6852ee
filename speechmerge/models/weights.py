"""Tensors of safetensors files, one at a time."""
from pathlib import Path

from speechmerge.errors import SpeechMergeError
from speechmerge.files import read_json


def read_weights(directory: Path):
    """(name, tensor) pairs of a model folder, sharded or not."""
    index = directory / "model.safetensors.index.json"
    names = sorted(set(read_json(index)["weight_map"].values())) if index.is_file() else ["model.safetensors"]
    for name in names:
        yield from read_file(directory / Path(name).name)


def read_file(path: Path):
    """(name, tensor) pairs. Raises SpeechMergeError where the file is missing, or is not whole."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise SpeechMergeError(f"{path}: not there; only safetensors files are read")
    try:
        with safe_open(str(path), framework="pt") as file:
            for name in file.keys():
                yield name, file.get_tensor(name)
    except SafetensorError as error:
        raise SpeechMergeError(f"{path}: not a whole safetensors file ({error}); copy or make it again") from error
