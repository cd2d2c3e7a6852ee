"""exp/routed.json: the routed systems by name, {name: the fields of systems.Routing}. Light: nothing here needs torch."""
from pathlib import Path

from speechmerge.errors import SpeechMergeError
from speechmerge.files import read_mapping

INDEX = "routed.json"
RECORD, WEIGHTS = "router.json", "router.safetensors"


def known_routings(exp_dir) -> dict[str, dict]:
    """Name -> entry, as registered."""
    index = Path(exp_dir) / INDEX
    return dict(sorted(read_mapping(index).items())) if index.is_file() else {}


def router_folder(routing: dict, exp_dir) -> Path:
    """As the path is seen from here or from a folder around the experiment folder, such as the recipe's."""
    folder = Path(routing["router"])
    around = [parent / folder for parent in Path(exp_dir).absolute().parents]
    folder = next((path for path in (folder, *around) if path.is_dir()), folder)
    if not (folder / RECORD).is_file():
        raise SpeechMergeError(f"{Path(exp_dir) / INDEX}: the router {folder} is not there; run speechmerge train-router "
                               f"--output-dir {folder}")
    return folder


def with_folders(routing: dict, exp_dir, known: dict[str, str]) -> dict:
    """The entry with its router's folder and {label: folder of its adapter}. `known`: registered adapter -> folder.

    Raises SpeechMergeError for a label that has neither an adapter nor a place in `base_labels`.
    """
    folder, found = router_folder(routing, exp_dir), {}
    for label in read_mapping(folder / RECORD)["labels"]:
        if label in routing["base_labels"]:
            continue
        name = str(routing["adapters"].get(label, label))
        path = known.get(name) or (name if "/" in name else None)
        if path is None or not Path(path).is_dir():
            raise SpeechMergeError(f"{Path(exp_dir) / INDEX}: the router {folder} sends utterances of {label!r} to the adapter "
                                   f"{name!r}, which is not there (known: {', '.join(sorted(known)) or 'none'}); train it, or name "
                                   f"{label} in --base-labels of train-router")
        found[label] = str(path)
    return {**routing, "router": str(folder), "adapters": found}


def deciding_files(folder) -> list[Path]:
    return [Path(folder) / RECORD, Path(folder) / WEIGHTS]
