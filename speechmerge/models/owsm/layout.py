"""Where the files of an ESPnet speech-to-text model lie.

    exp/s2t_train/{config.yaml,valid.acc.ave.pth}                           an experiment of a recipe
    meta.yaml, exp/.../{config.yaml,*.pth}, data/.../bpe.model, ...         as published (model zoo, hub)
    config.yaml, model.pth, bpe.model, feats_stats.npz, config.json         as we save

config.yaml names vocabulary and statistics relative to the folder in which the recipe ran. They are looked for beside
config.yaml, in the folders above it, and with the base where a merge or a training names one.
"""
import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from speechmerge.errors import SpeechMergeError
from speechmerge.files import read_json
from speechmerge.storage.checkpoint import weight_files

CONFIG, META, MODEL, TYPE = "config.yaml", "meta.yaml", "model.pth", "espnet_s2t"
DECODING = "decode.yaml"  # ESPnet's options of decoding; only ctc_weight is read
RECORDS = ("speechmerge.json", "merge_metadata.json")
SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
NO_MODEL = re.compile(r"(optimizer|scheduler|scaler|rng_state|checkpoint|training_args|adapter_model)\b.*")
AVERAGES = re.compile(r"valid\..*(ave|best).*\.pth")
HUB_FILES = ["*.yaml", "*.pth", "*.model", "*.npz", "*.json"]  # of espnet/owsm_*: no images, no logs
SHORT = {"owsm_v4_base": "espnet/owsm_v4_base_102M", "owsm_v4_small": "espnet/owsm_v4_small_370M",
         "owsm_v4_medium": "espnet/owsm_v4_medium_1B", "owsm_v3.1_base": "espnet/owsm_v3.1_ebf_base",
         "owsm_v3.1_small": "espnet/owsm_v3.1_ebf_small", "owsm_v3.1": "espnet/owsm_v3.1_ebf"}
NAME = re.compile(r"espnet/owsm_[\w.-]+")


@dataclass(frozen=True)
class Files:
    config: Path
    weights: Path

    @property
    def place(self) -> Path:
        """What the weights are opened by: the folder, or the file where others lie beside it."""
        with contextlib.suppress(SpeechMergeError):
            if weight_files(self.config.parent) == [self.weights]:
                return self.config.parent
        return self.weights


def recognises(path: Path) -> bool:
    return any(has_vocabulary(config) for config in configs(path))


def configs(path: Path) -> list[Path]:
    """The config.yaml of a folder, of a published model, or of the folder that a file of weights lies in."""
    if path.is_file():
        path = path.parent
    if (path / META).is_file():
        named = (read_yaml(path / META).get("yaml_files") or {}).get("s2t_train_config")
        return [path / named] if isinstance(named, str) and (path / named).is_file() else []
    return [path / CONFIG] if (path / CONFIG).is_file() else sorted(path.glob(f"exp/*/{CONFIG}"))


def has_vocabulary(config: Path) -> bool:
    """Is it of a speech-to-text task? Read line by line: a config has 50 000 tokens, and others are no YAML of ours."""
    with config.open(encoding="utf-8", errors="replace") as lines:
        keys = {line.split(":")[0] for line in lines if line[:1].isalpha()}
    return {"token_list", "encoder", "decoder", "preprocessor_conf"} <= keys


def locate(path: Path) -> Files:
    """Raises SpeechMergeError where there is no config, more than one, or no weights that can be told apart."""
    found = [config for config in configs(path) if has_vocabulary(config)]
    if len(found) != 1:
        listed = ", ".join(str(config.parent) for config in found[:5])
        raise SpeechMergeError(f"{path}: found {listed or 'no config.yaml of a speech-to-text model'}, expected one "
                               "model; give the folder of its config.yaml")
    if path.is_file():
        return Files(found[0], path)
    if (path / META).is_file():
        named = (read_yaml(path / META).get("files") or {}).get("s2t_model_file")
        if isinstance(named, str) and (path / named).is_file():
            return Files(found[0], path / named)
        raise SpeechMergeError(f"{path / META}: key files.s2t_model_file: {named!r} is not there; download the model "
                               "again")
    return Files(found[0], choose(found[0].parent))


def candidates(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES and not NO_MODEL.fullmatch(file.name))


def choose(folder: Path) -> Path:
    """The only file of weights, else the only average of the best epochs."""
    found = candidates(folder)
    averages = [file for file in found if AVERAGES.fullmatch(file.name) and not file.is_symlink()]
    for chosen in (found, averages):
        if len(chosen) == 1:
            return chosen[0]
    if not found:
        raise SpeechMergeError(f"{folder}: no weights beside config.yaml (expected a .pth file); copy the whole "
                               "folder again")
    raise SpeechMergeError(f"{folder}: found {', '.join(file.name for file in found[:8])}; name the file that is "
                           f"meant, as {found[-1]}")


def read_yaml(path: Path) -> dict:
    """Raises SpeechMergeError for what is no mapping, and for YAML that names Python objects: those are not made."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise SpeechMergeError(f"{path}: not plain YAML ({' '.join(str(error).split())[:200]})") from error
    if not isinstance(found, dict):
        raise SpeechMergeError(f"{path}: found {type(found).__name__}, expected a mapping")
    return found


def resource(name: str, config: Path, what: str) -> Path:
    """The file that config.yaml names, wherever the model has been moved to."""
    tried = [config.parent / Path(name).name, *(folder / name for folder in config.absolute().parents)]
    for base in bases(config.parent):
        tried += [base / Path(name).name, *(folder / name for folder in (base, *base.parents))]
    for path in tried:
        if path.is_file():
            return path.absolute()  # not resolved: the hub's cache keeps files under other names
    raise SpeechMergeError(f"{config}: {what} {name} is not there, nor beside config.yaml; copy it there as "
                           f"{Path(name).name}")


def bases(folder: Path):
    """Folders of the model that this one was made from, as its records say."""
    for record in RECORDS:
        if (folder / record).is_file():
            source = ((read_json(folder / record).get("base") or {}).get("source")) or ""
            path = Path(source)
            if source and path.exists():
                yield locate(path).config.absolute().parent


def find(name: str) -> Path | None:
    """A file of weights, or a published OWSM from the local cache of the hub, else from the hub itself."""
    if Path(name).suffix in SUFFIXES and Path(name).is_file():
        return Path(name) if recognises(Path(name)) else None
    name = SHORT.get(name, name)
    if not NAME.fullmatch(name) or Path(name).exists():
        return None
    if "_ctc" in name:
        raise SpeechMergeError(f"model {name}: OWSM-CTC has no decoder to adapt; use {', '.join(SHORT.values())}")
    return fetch(name)


def fetch(name: str) -> Path:
    from huggingface_hub import snapshot_download

    for local in (True, False):
        try:
            path = Path(snapshot_download(name, local_files_only=local, allow_patterns=HUB_FILES))
        except Exception as error:  # the hub client has no common error for "not there" and "no network"
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            failure, cause = reason, error
            continue
        if recognises(path):
            return path
        failure, cause = "the copy in the cache is incomplete", None
    raise SpeechMergeError(f"model {name}: not in the hub cache, and the hub gave none ({failure}); on a machine "
                           f"with network run `hf download {name} --local-dir FOLDER` and give that folder") from cause
