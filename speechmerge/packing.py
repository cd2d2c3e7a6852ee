"""A trained or merged system as a folder to share: weights as plain PEFT or transformers load them, with a model card.

    folder = pack(find_system("kws", "exp"), "exp", "packed/kws", base="openai/whisper-small")
    push(folder, "me/whisper-small-kws")
"""
import logging
import shutil
from pathlib import Path

from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.files import atomic_dir, read_json, write_json, write_text
from speechmerge.hashes import file_hash
from speechmerge.models.adapters import LORA_CONFIG, LORA_WEIGHTS
from speechmerge.provenance import provenance
from speechmerge.report.card import card
from speechmerge.systems import BASE, System, find_systems

log = logging.getLogger(__name__)
RECORD = "pack.json"
LEFT_OUT = ("done.json", "train.log", "samples.jsonl", "README.md")  # of a training's folder
EVALUATIONS = "eval_results_"  # of a merge's folder


def find_system(name: str, exp_dir) -> System:
    """One adapter or merged model, by name, tag or folder. UsageError for the base and for groups."""
    if name == BASE:
        raise UsageError("--system base: the base is as it was published; name an adapter or a merged model")
    found = find_systems([name], exp_dir)
    if len(found) != 1 or found[0].kind == BASE:
        raise UsageError(f"--system {name}: names {len(found)} systems, expected one adapter or merged model")
    return found[0]


def pack(system: System, exp_dir, output_dir, base: str | None = None, model: str | None = None,
         force: bool = False) -> Path:
    """Copy the system's files and write README.md and pack.json; an older pack is replaced as a whole.

    base: what the base is called on the hub, where it was trained from a local copy; model: the base of a system that
    does not say what it was trained on. Raises SpeechMergeError for a system
    that neither PEFT nor transformers could load, and for a folder that holds something else.
    """
    source, output_dir = Path(system.path), Path(output_dir)
    if output_dir.is_dir() and any(output_dir.iterdir()) and not (output_dir / RECORD).is_file() and not force:
        raise SpeechMergeError(f"{output_dir}: is not empty and no earlier pack (no {RECORD}); give another "
                               "--output-dir, or --force true to replace it")
    kind = library(source)
    facts = facts_of(source, base, model)
    if Path(facts["base"] or "").is_dir():
        log.warning("%s: the base is the local folder %s, which others do not have; name it with --base ORG/NAME",
                    system.name, facts["base"])
    with atomic_dir(output_dir) as folder:
        for file in shared_files(source):
            shutil.copyfile(file, folder / file.name)
        if kind == "peft" and facts["base"]:
            config = read_json(folder / LORA_CONFIG)
            write_json(folder / LORA_CONFIG, {**config, "base_model_name_or_path": facts["base"]})
        write_text(folder / "README.md", card(system, kind, facts, Path(exp_dir)))
        files = {file.name: file_hash(file) for file in sorted(folder.iterdir())}
        write_json(folder / RECORD, {"system": system.record(), "library": kind, "files": files, **provenance()})
    return output_dir


def library(folder: Path) -> str:
    """"peft" or "transformers": what loads this folder."""
    if (folder / LORA_CONFIG).is_file() and (folder / LORA_WEIGHTS).is_file():
        return "peft"
    whole = [name for name in ("model.safetensors", "model.safetensors.index.json") if (folder / name).is_file()]
    if whole and (folder / "config.json").is_file():
        return "transformers"
    if (folder / "delta.json").is_file() or (folder / "merge_metadata.json").is_file():
        metadata = folder / "merge_metadata.json"
        saved = read_json(metadata).get("saved_as") if metadata.is_file() else "delta"
        raise SpeechMergeError(f"{folder}: saved as {saved}, which PEFT and transformers do not load; merge it again "
                               "with --save lora or --save full")
    raise SpeechMergeError(f"{folder}: neither an adapter ({LORA_CONFIG}, {LORA_WEIGHTS}) nor a whole model (config.json, "
                           "model.safetensors); train it again")


def shared_files(folder: Path) -> list[Path]:
    """What belongs to the model; logs, checkpoints and evaluations stay behind."""
    return [file for file in sorted(folder.iterdir()) if file.is_file() and not file.name.startswith((".", EVALUATIONS))
            and file.name not in LEFT_OUT]


def facts_of(folder: Path, base: str | None = None, model: str | None = None) -> dict:
    """base, records of training (of each adapter of a merge) and of merging: what the card tells."""
    merge = read_json(folder / "merge_metadata.json") if (folder / "merge_metadata.json").is_file() else None
    own = read_json(folder / "speechmerge.json") if (folder / "speechmerge.json").is_file() else {}
    adapters = [Path(entry["path"]) for entry in merge["adapters"] if entry.get("path")] if merge else []
    trained = [read_json(path / "speechmerge.json") for path in adapters if (path / "speechmerge.json").is_file()]
    known = (merge or own).get("base") or {}
    config = read_json(folder / LORA_CONFIG) if (folder / LORA_CONFIG).is_file() else {}
    return {"base": base or known.get("source") or config.get("base_model_name_or_path") or model, "merge": merge,
            "trainings": trained if merge else [own] if own else []}


def push(folder: Path, name: str, private: bool = False) -> str:
    """Upload a pack to the Hugging Face hub; its address. SpeechMergeError where there is no token or the hub refuses."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        api = HfApi()
        api.create_repo(name, exist_ok=True, private=private)
        api.upload_folder(repo_id=name, folder_path=str(folder), commit_message="speechmerge pack", ignore_patterns=[".*"])
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SpeechMergeError(f"--push {name}: the hub refused ({reason}); the pack is complete in {folder}, run the same "
                               "command again") from error
    return f"https://huggingface.co/{name}"


def check_token(name: str):
    """Before anything is done."""
    from huggingface_hub import get_token
    from huggingface_hub.utils import validate_repo_id

    if name.count("/") != 1:
        raise UsageError(f"--push {name}: expected ORG/NAME")
    try:
        validate_repo_id(name)
    except ValueError as error:
        raise UsageError(f"--push {name}: {error}") from error
    if not get_token():
        raise SpeechMergeError(f"--push {name}: no token of the Hugging Face hub; run `hf auth login` or set HF_TOKEN")
