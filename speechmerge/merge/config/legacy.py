"""Older schemas of merge and sweep configs, in the keys of today.

    grid: {scale: [0.2, 0.5]}       ->  search: {type: grid, grid: {scale: [0.2, 0.5]}}
    search_type: bayes              ->  search: {type: bayes}
    lambda: 0.5                     ->  method_params: {lambda: 0.5}
    params: {k: 20}                 ->  method_params: {k: 20}
    transforms: [ties_scaffold]     ->  transforms: [identity]

and the configs of Speech-FT's merge_model.py:

    merge_method: linear            ->  method: interpolate
    alpha: 0.25                     ->  method_params: {alpha: 0.25}
    base_model_name: models/hubert  ->  base: models/hubert
    finetune_model_paths: [a, b]    ->  adapters: [a, b]
                                        save: full
"""
import copy
import sys
import warnings
from pathlib import Path

import yaml

from speechmerge.errors import UsageError

OLD_KEYS = {"grid": ("search", "grid"), "search_type": ("search", "type"), "lambda": ("method_params", "lambda"),
            "params": ("method_params",)}
SPEECH_FT = ("merge_method", "alpha", "base_model_name", "finetune_model_paths")
UPSTREAM_NAMES = ("hubert_base_ls960", "wav2vec_small", "checkpoint_decoar2", "wavlm_base_plus")  # of its base models
OLD_TRANSFORMS = {"ties_scaffold": "identity"}  # a placeholder that did nothing


def translate(config: dict, path) -> dict:
    """The config of file `path` in the keys of today. Where that changes it, a DeprecationWarning is given and the
    translation is printed on stderr. UsageError where an old key contradicts a new one."""
    new = {str(key).replace("-", "_"): copy.deepcopy(value) for key, value in config.items()}
    speech_ft = _translate_speech_ft(new, path)
    old = [key for key in OLD_KEYS if key in new]
    for key in old:
        _move(new, key, OLD_KEYS[key], path)
    if "grid" in old:
        new["search"].setdefault("type", "grid")
    steps = _translate_transforms(new)
    if not old and not steps and not speech_ft:
        return config
    words = ", ".join([*speech_ft, *old, *steps])
    warnings.warn(f"config {path}: {words}: older schema, please replace it by what is printed", DeprecationWarning,
                  stacklevel=2)
    print(f"# {path}, in the keys of today:\n{yaml.safe_dump(new, sort_keys=False)}", end="", file=sys.stderr)
    return new


def _translate_speech_ft(config: dict, path) -> list[str]:
    """The keys of Speech-FT that were replaced; a config is one of its own where it has any but `alpha`."""
    found = [key for key in SPEECH_FT if key in config]
    if not set(found) - {"alpha"}:
        return []
    if config.get("merge_method", "linear") != "linear":
        raise UsageError(f"config {path}: merge_method: found {config['merge_method']!r}, expected 'linear', the one of "
                         "Speech-FT; other methods are chosen with the key `method`")
    old = {key: config.pop(key) for key in found}
    new = {"method": "interpolate", "save": "full", "adapters": old.get("finetune_model_paths"),
           "base": _base_of(old.get("base_model_name")),
           "method_params": {"alpha": old["alpha"]} if "alpha" in old else None}
    for key, value in new.items():
        if value is not None and config.setdefault(key, value) != value:
            raise UsageError(f"config {path}: {key}: found {config[key]!r} beside Speech-FT's keys, which say {value!r}; "
                             "keep one of them")
    return found


def _base_of(name):
    """None for its names of published checkpoints: a fine-tuned model names its base by itself, or --base does."""
    return None if name in UPSTREAM_NAMES and not Path(name).exists() else name


def _move(config: dict, key: str, place: tuple[str, ...], path):
    value = config.pop(key)
    for word in reversed(place[1:]):
        value = {word: value}
    if not isinstance(value, dict):
        raise UsageError(f"config {path}: {key}: found {value!r}, expected a mapping")
    there = config.setdefault(place[0], {})
    if not isinstance(there, dict):
        raise UsageError(f"config {path}: {place[0]}: found {there!r}, expected a mapping")
    for name, item in value.items():
        if there.setdefault(name, item) != item:
            new = ".".join([*place[:1], str(name)])
            raise UsageError(f"config {path}: {key} contradicts {new}: found {item!r} and {there[name]!r}; keep {new}")


def _translate_transforms(config: dict) -> list[str]:
    """The old names that were replaced in `transforms`."""
    found = []
    steps = config.get("transforms")
    for place, step in enumerate(steps if isinstance(steps, list) else []):
        name = step.get("name") if isinstance(step, dict) else step
        if isinstance(name, str) and name in OLD_TRANSFORMS:
            steps[place] = OLD_TRANSFORMS[name]
            found.append(f"transforms[{place}]")
    return found
