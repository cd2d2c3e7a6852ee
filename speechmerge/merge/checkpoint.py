"""A model's weights on disk: a folder of safetensors, sharded or not, opened by header and read tensor by tensor."""
from pathlib import Path

from speechmerge.errors import SpeechMergeError
from speechmerge.files import read_json
from speechmerge.merge.safetensors_file import Entry, read_header, read_tensor

INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


class Checkpoint:
    """`entries`: name -> Entry; `tensor(name)` reads one. Raises SpeechMergeError for pickles and damaged files."""

    def __init__(self, source):
        self.folder = resolve_model_dir(source)
        self.files = weight_files(self.folder)
        self.entries: dict[str, Entry] = {}
        for path in self.files:
            for name, entry in read_header(path).items():
                if name in self.entries:
                    raise SpeechMergeError(f"{path}: key {name} also stands in {self.entries[name].path}")
                self.entries[name] = entry

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
    """A model's folder, given as such or as a hub id that is already in the local hub cache. Never downloads."""
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(source), local_files_only=True))
    except Exception as error:  # the hub client has no common error for "not an id" and "not in the cache"
        raise SpeechMergeError(f"model {source}: neither a folder nor a model in the local hub cache; "
                               f"run `hf download {source}` first or give --base a folder") from error


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder, from its index where it has one."""
    if (folder / INDEX).is_file():
        return _indexed(folder)
    found = sorted(path for path in folder.glob("*.safetensors") if path.name != "adapter_model.safetensors")
    if (folder / "model.safetensors") in found:
        return [folder / "model.safetensors"]
    if found:
        return found
    pickles = [path.name for pattern in PICKLES for path in folder.glob(pattern)]
    if pickles:
        raise SpeechMergeError(
            f"{folder / pickles[0]}: pickled weights can run code and are not read; save the model as "
            "safetensors (transformers: model.save_pretrained)"
        )
    raise SpeechMergeError(f"{folder}: no *.safetensors weights found")


def _indexed(folder: Path) -> list[Path]:
    names = read_json(folder / INDEX).get("weight_map", {})
    for key, name in names.items():
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise SpeechMergeError(
                f"{folder / INDEX}: key {key}: {name!r} is not the name of a safetensors file in this folder"
            )
        if not (folder / name).is_file():
            raise SpeechMergeError(f"{folder / INDEX}: key {key}: {name} is missing; copy the model again")
    return [folder / name for name in sorted(set(names.values()))]
