"""A PEFT adapter folder to a task vector: LoRA, rsLoRA, DoRA, patterns, kernels, fully saved modules, biases.

Scaling: alpha / r, with rsLoRA alpha / sqrt(r). DoRA (arXiv 2402.09353, as PEFT computes it): W' = m (W + s B A) /
||W + s B A||, the norm over each output row, so that its delta is W' - W, of full rank, and needs the base's weights.
"""
import contextlib
import math
import re
from pathlib import Path

from speechmerge.errors import SpeechMergeError
from speechmerge.files import read_mapping
from speechmerge.hashes import ContentHash
from speechmerge.merge.base import Base, given_base
from speechmerge.merge.delta import Computed, Dense, LowRank, Stored, floats
from speechmerge.merge.read import base_folder, difference, our_notes
from speechmerge.merge.task_vector import TaskVector
from speechmerge.storage.checkpoint import Checkpoint
from speechmerge.storage.safetensors_file import FLOATS

WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
PREFIX = "base_model.model."
LARGEST = 1e9  # of a rank or an alpha; beyond it products overflow
# settings under which B A is not the change of the base's weight; any value but an empty one is refused
REFUSED = {
    "fan_in_fan_out": "transposed weights",
    "lora_bias": "a bias on B",
    "layer_replication": "replicated layers",
    "target_parameters": "LoRA on bare parameters",
    "trainable_token_indices": "trainable tokens",
    "alora_invocation_tokens": "activated LoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "arrow_config": "Arrow routing",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
}
# initialisations that also change the base's weights, unless PEFT converted the adapter when it was saved
CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga", "mica")


def read_peft(folder, base=None) -> TaskVector:
    """Raises SpeechMergeError, naming file and key, for everything that cannot be read right."""
    folder = Path(folder)
    config, path = read_config(folder), weights_file(folder)
    notes = our_notes(folder)
    known = Base(notes["base"].source or config.get("base_model_name_or_path"), notes["base"].fingerprint)
    factors, whole = group_keys(path, Checkpoint(path).entries)
    start = None
    if whole or config.get("use_dora"):
        start, known = _open_base(folder, known, base)
    deltas = {f"{module}.weight": _delta(path, module, parts, config, start) for module, parts in factors.items()}
    if twice := sorted(set(deltas) & set(whole)):
        raise SpeechMergeError(f"{path}: key {whole[twice[0]].name}: there is a LoRA of {twice[0]}, too")
    deltas.update({name: difference(entry, start.entry(name)) for name, entry in whole.items()})
    if not deltas:
        raise SpeechMergeError(f"{path}: no LoRA weights in this file")
    ranks = sorted({parts["lora_A"].shape[0] for parts in factors.values()})
    details = {
        "sha256": ContentHash([path]),
        "rank": ranks,
        "kind": "dora" if config.get("use_dora") else "lora",
        "scaling": sorted({scaling(config, module, parts["lora_A"].shape[0]) for module, parts in factors.items()}),
        "peft": {key: config.get(key) for key in ("task_type", "auto_mapping") if config.get(key)},
    }
    return TaskVector(dict(sorted(deltas.items())), known, notes["task"], notes["language"], str(folder), details)


def read_config(folder: Path) -> dict:
    """adapter_config.json, if it describes an adapter whose delta we know."""
    path = folder / "adapter_config.json"
    config = read_mapping(path)
    if config.get("peft_type") != "LORA":
        raise SpeechMergeError(f"{path}: key peft_type: found {config.get('peft_type')!r}, expected 'LORA'")
    for key, meaning in REFUSED.items():
        if config.get(key):
            raise SpeechMergeError(
                f"{path}: key {key}: {meaning} ({config[key]!r}) cannot be merged; merge it into its base with "
                "PEFT's merge_and_unload and give the full model"
            )
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(CHANGED_BASE):
        raise SpeechMergeError(
            f"{path}: key init_lora_weights: {start!r} also changed the base's weights; save the adapter with "
            "PEFT's path_initial_model_for_weight_conversion"
        )
    for key in ("r", "lora_alpha"):
        _check(path, key, _positive(config.get(key)), config.get(key), "a positive number")
    for key in ("use_rslora", "use_dora"):
        _check(path, key, type(config.get(key)) in (bool, type(None)), config.get(key), "true or false")
    source = config.get("base_model_name_or_path")
    _check(path, "base_model_name_or_path", source is None or isinstance(source, str), source, "a name or null")
    for key in ("rank_pattern", "alpha_pattern"):
        pattern = config.get(key) or {}
        _check(path, key, isinstance(pattern, dict), pattern, "an object")
        for module, value in pattern.items():
            _check(path, key, _harmless(module), module, "a regular expression without nested repetitions")
            _check(path, key, _positive(value), value, f"a positive number for {module[:80]!a}")
    return config


def _check(path: Path, key: str, fine: bool, found, expected: str):
    if not fine:
        raise SpeechMergeError(f"{path}: key {key}: found {ascii(found)[:80]}, expected {expected}")


def _positive(value) -> bool:
    return type(value) in (int, float) and 0 < value < LARGEST


def _harmless(pattern: str) -> bool:
    """A regular expression that ends soon on any name: no repeated groups, at most three repetitions."""
    with contextlib.suppress(re.error, RecursionError, OverflowError):
        re.compile(pattern)
        plain = re.sub(r"\\.|\[[^]]*\]", "x", pattern)
        return len(pattern) <= 1000 and not re.search(r"\)[*+{]", plain) and len(re.findall(r"[*+{]", plain)) <= 3
    return False


def weights_file(folder: Path) -> Path:
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise SpeechMergeError(
        f"{folder / WEIGHTS[0]}: missing, found only {', '.join(sorted(p.name for p in folder.iterdir()))}"
    )


def group_keys(path: Path, entries: dict):
    """(module -> {"lora_A", "lora_B", "lora_magnitude_vector"} entries, parameter -> entry of whole parameters)."""
    factors, whole = {}, {}
    for key, entry in entries.items():
        if not key.startswith(PREFIX):
            raise SpeechMergeError(f"{path}: key {key}: expected a name that begins with {PREFIX}")
        if entry.dtype not in FLOATS:
            raise SpeechMergeError(f"{path}: key {key}: type {entry.dtype}, expected one of {', '.join(FLOATS)}")
        name = key[len(PREFIX):]
        match = re.fullmatch(r"(.+)\.(lora_A|lora_B|lora_magnitude_vector)(\.weight)?", name)
        if match:
            parts = factors.setdefault(match[1], {})
            if match[2] in parts:
                raise SpeechMergeError(f"{path}: key {key}: the same as {parts[match[2]].name}")
            parts[match[2]] = entry
        elif "lora_" in name:
            raise SpeechMergeError(f"{path}: key {key}: this kind of LoRA weight (embedding, bias) is not handled")
        else:
            parameter = name.replace(".base_layer.", ".").replace(".modules_to_save.", ".")
            if parameter in whole:
                raise SpeechMergeError(f"{path}: key {key}: the same as {whole[parameter].name}")
            whole[parameter] = entry
    for module, parts in factors.items():
        for part in ("lora_A", "lora_B"):
            if part not in parts:
                raise SpeechMergeError(
                    f"{path}: key {PREFIX}{module}.{part}.weight is missing beside {', '.join(sorted(parts))}"
                )
    return factors, whole


def scaling(config: dict, module: str, rank: int) -> float:
    alpha = pattern_value(config.get("alpha_pattern"), module, config["lora_alpha"])
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def pattern_value(pattern, module: str, default):
    """PEFT's rule: the first pattern that is a regular expression for the module's name or for its end after a dot."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default


def _delta(path: Path, module: str, parts: dict, config: dict, start):
    a, b = parts["lora_A"], parts["lora_B"]
    rank = pattern_value(config.get("rank_pattern"), module, config["r"])
    if len(a.shape) < 2 or len(b.shape) != len(a.shape) or a.shape[0] != b.shape[1] or set(b.shape[2:]) - {1} or (
        0 in (*a.shape[1:], b.shape[0])
    ):
        raise SpeechMergeError(
            f"{path}: key {a.name}: shape {list(a.shape)} does not fit {b.name} with {list(b.shape)} "
            "(expected A [r, in, ...] and B [out, r, 1...]; grouped convolutions are not handled)"
        )
    if a.shape[0] != rank or rank == 0:
        raise SpeechMergeError(f"{path}: key {a.name}: rank {a.shape[0]}, adapter_config.json says {rank}")
    shape = (b.shape[0], *a.shape[1:])
    B, A = Stored(b, b.shape[:2]), Stored(a, (a.shape[0], math.prod(a.shape[1:])))
    low = LowRank(B, A, scaling(config, module, rank), shape)
    if not config.get("use_dora"):
        if "lora_magnitude_vector" in parts:
            key = parts["lora_magnitude_vector"].name
            raise SpeechMergeError(f"{path}: key {key}: DoRA weights, adapter_config.json says use_dora false")
        return low
    return _dora(path, module, low, parts, start)


def _dora(path: Path, module: str, low: LowRank, parts: dict, start: Checkpoint) -> Computed:
    if "lora_magnitude_vector" not in parts:
        raise SpeechMergeError(f"{path}: key {PREFIX}{module}.lora_magnitude_vector is missing, use_dora is set")
    magnitude, weight = parts["lora_magnitude_vector"], start.entry(f"{module}.weight")
    if weight.shape != low.shape or magnitude.numel != low.shape[0]:
        raise SpeechMergeError(
            f"{path}: key {PREFIX}{module}: LoRA {list(low.shape)} with {magnitude.numel} magnitudes, "
            f"the base's weight is {list(weight.shape)}"
        )

    def compute():
        import torch

        base = floats(weight, 0, low.shape[0]).reshape(low.shape[0], -1)
        moved = base + low.matrix()
        norm = torch.linalg.vector_norm(moved, dim=1, keepdim=True)
        sizes = floats(magnitude, 0, magnitude.shape[0]).reshape(-1, 1)
        return Dense((sizes * moved / norm - base).reshape(low.shape))

    return Computed(low.shape, compute)


def _open_base(folder: Path, known: Base, given):
    """The weights that the adapter was trained on, checked, and what is now known of this base."""
    try:
        found = base_folder(known, given)
    except SpeechMergeError as error:
        raise SpeechMergeError(
            f"{folder}: DoRA, fully saved modules and trained biases need the base's weights: {error}"
        ) from error
    return Checkpoint(found), given_base(given or known.source, found, known, str(folder))
