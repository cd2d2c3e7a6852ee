"""What decided the results of an experiment, flat, to be compared with another's: base, training, merging, decoding,
versions."""
from pathlib import Path

from speechmerge.files import read_json
from speechmerge.report.tables import Results
from speechmerge.systems import located

# results of training, times and places, that say nothing of how it was done
RESULTS = ("dev", "date", "command", "key", "seconds", "step", "history", "error", "provenance", "sha256", "peft")
ENVIRONMENT = ("commit", "speechmerge", "python", "platform", "versions")


def settings_of(results: Results) -> dict[str, dict[str, str]]:
    """{"scores" | "base" | "training of NAME" | "merge NAME" | "decoding of SET": {setting: value as text}}."""
    record = results.record
    source = record.get("provenance", record)
    found = {"scores": flat({key: source.get(key) for key in ENVIRONMENT} | {"normaliser": record.get("normaliser")}),
             "base": {"fingerprint": str(record.get("base", {}).get("fingerprint"))}}
    for system in results.of_kind("adapter"):
        if training := read_record(system, "speechmerge.json", results):
            found[f"training of {system.name}"] = flat(without(training))
    for system in results.of_kind("merged"):
        if merge := read_record(system, "merge_metadata.json", results):
            found[f"merge {system.name}"] = flat({key: merge.get(key) for key in ("method", "params", "lambda_policy",
                                                                                 "merge_mode", "rank", "saved_as")})
    for task in results.tasks:
        if decoding := decoding_of(results, task.name):
            found[f"decoding of {task.name}"] = flat({**decoding.get("options", {}), **decoding.get("settings", {}),
                                                      **{key: decoding.get(key) for key in ("audio_context", "dtype", "commit",
                                                                                            "versions")}})
    return found


def read_record(system, name: str, results: Results) -> dict | None:
    path = Path(located(system.path, results.exp_dir)) / name if system.path else None
    return read_json(path) if path and path.is_file() else None


def decoding_of(results: Results, name: str) -> dict | None:
    """That of the first system; the others of a set are decoded alike."""
    records = (results.decoding(system.name, name) for system in results.systems)
    return next(filter(None, records), None)


def without(record: dict) -> dict:
    """Without what was found, and without the folder that the base was read from."""
    kept = {key: value for key, value in record.items() if key not in RESULTS}
    if isinstance(kept.get("base"), dict):
        kept["base"] = kept["base"].get("fingerprint")
    return kept


def flat(record: dict, before: str = "") -> dict[str, str]:
    """{"options.rank": "8"}: mappings unfolded, everything else as text; what is None is left out."""
    found = {}
    for key, value in record.items():
        name = f"{before}{key}"
        if isinstance(value, dict):
            found |= flat(value, f"{name}.")
        elif value is not None:
            found[name] = str(value)
    return found
