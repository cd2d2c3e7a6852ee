"""A model's weights on disk, opened by header and read tensor by tensor: a folder of safetensors, sharded or not, or a
checkpoint of PyTorch, which is read without running what stands in it.
"""
import contextlib
import hashlib
import json
from pathlib import Path

from speechmerge.errors import SpeechMergeError
from speechmerge.files import read_mapping
from speechmerge.hashes import remembered
from speechmerge.storage.names import by_network_name
from speechmerge.storage.safetensors_file import Entry, read_bytes, read_header, read_tensor
from speechmerge.storage.torch_file import SUFFIXES, TorchFile, open_torch_file

INDEX = "model.safetensors.index.json"
TORCH_INDEX = "pytorch_model.bin.index.json"
BESIDE = ("adapter_model.safetensors", "head.safetensors")  # of a model
NO_WEIGHTS = ("adapter_model.bin", "training_args.bin", "optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pth")


class Checkpoint:
    """`entries`: name -> Entry; `tensor(name)` reads one. Raises SpeechMergeError for damaged files.

    `folder` is the model's place, a folder or a file; `torch` its only file where that is a checkpoint of PyTorch.
    """

    def __init__(self, source):
        self.folder = resolve_model_dir(source)
        self.files = weight_files(self.folder)
        self.entries: dict[str, Entry] = {}
        self.torch: TorchFile | None = None
        for path in self.files:
            for name, entry in self._open(path).items():
                if name in self.entries:
                    raise SpeechMergeError(f"{path}: key {name} also stands in {self.entries[name].path}")
                self.entries[name] = entry
        self._check_index()
        self.entries = by_network_name(self.folder, self.entries)

    def _check_index(self):
        """Every weight is in the shard that the index names."""
        indexes = [self.folder / name for name in (INDEX, TORCH_INDEX) if (self.folder / name).is_file()]
        for name, file in weight_map(indexes[0]).items() if indexes else ():
            if name not in self.entries or self.entries[name].path.name != file:
                raise SpeechMergeError(f"{indexes[0]}: key {name}: is not in {file}; copy the model again")

    def _open(self, path: Path) -> dict[str, Entry]:
        if path.suffix not in SUFFIXES:
            return read_header(path)
        self.torch = open_torch_file(path)
        return self.torch.entries

    def tensor(self, name: str):
        return read_tensor(self.entry(name))

    def entry(self, name: str) -> Entry:
        if name not in self.entries:
            raise SpeechMergeError(
                f"{self.folder}: key {name} is not among the {len(self.entries)} weights of this model; "
                "was the adapter trained on another architecture?"
            )
        return self.entries[name]


def resolve_model_dir(source) -> Path:
    """A model's folder or file, given as such or as a hub id that is already in the local hub cache. No download."""
    path = Path(source).expanduser()
    with contextlib.suppress(OSError, ValueError):  # a name that is too long for a folder, or has a NUL
        if path.is_dir() or is_weights(path):
            return path
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(source), local_files_only=True))
    except Exception as error:  # the hub client has no common error for "not an id" and "not in the cache"
        raise SpeechMergeError(f"model {source}: neither a folder, a file of weights ({', '.join(SUFFIXES)}, .safetensors) "
                               f"nor a model in the local hub cache; run `hf download {source}` first or give --base a "
                               "folder") from error


def is_weights(path: Path) -> bool:
    """Whether a path names a file of weights."""
    return path.suffix in (*SUFFIXES, ".safetensors") and path.is_file()


def weight_files(folder: Path) -> list[Path]:
    """The files of a model's weights: safetensors before PyTorch's, and those of an index where there is one."""
    if folder.is_file():
        return [folder]
    for index in (INDEX, TORCH_INDEX):
        if (folder / index).is_file():
            return _indexed(folder / index)
    found = sorted(path for path in folder.glob("*.safetensors") if path.name not in BESIDE)
    if (folder / "model.safetensors") in found:
        return [folder / "model.safetensors"]
    if found:
        return found
    found = sorted(path for suffix in SUFFIXES for path in folder.glob(f"*{suffix}") if path.name not in NO_WEIGHTS)
    if len(found) == 1:
        return found
    if found:
        raise SpeechMergeError(f"{folder}: found {', '.join(path.name for path in found[:5])}; name the file that is meant")
    raise SpeechMergeError(f"{folder}: no weights found (*.safetensors, {', '.join('*' + suffix for suffix in SUFFIXES)})")


def _indexed(index: Path) -> list[Path]:
    folder, names = index.parent, weight_map(index)
    for key, name in names.items():
        if not (folder / name).is_file():
            raise SpeechMergeError(f"{index}: key {key}: {name} is missing; copy the model again")
    return [folder / name for name in sorted(set(names.values()))]


def weight_map(index: Path) -> dict[str, str]:
    """name of a tensor -> name of its file. SpeechMergeError for names of files that are elsewhere, or none."""
    names, suffix = read_mapping(index).get("weight_map"), ".safetensors" if index.name == INDEX else ".bin"
    if not isinstance(names, dict) or not names:
        raise SpeechMergeError(f"{index}: key weight_map: expected an object that names the file of each weight")
    for key, name in names.items():
        plain = isinstance(name, str) and name.isprintable() and len(name) < 256 and Path(name).name == name
        if not plain or not name.endswith(suffix):
            raise SpeechMergeError(
                f"{index}: key {ascii(key[:80])[1:-1]}: {str(name)[:80]!a} is not the name of a {suffix} file in this folder"
            )
    return names


def model_fingerprint(source) -> str:
    """sha256 over name, type, shape and bytes of every tensor of a model (folder, file or cached hub id), by name."""
    checkpoint = Checkpoint(source)
    return remembered(checkpoint.files, "model", lambda: _hash(checkpoint))


def _hash(checkpoint: Checkpoint) -> str:
    digest = hashlib.sha256()
    for name, entry in sorted(checkpoint.entries.items()):
        digest.update(json.dumps([name, entry.dtype, entry.shape]).encode())
        for block in read_bytes(entry):
            digest.update(block)
    return digest.hexdigest()
