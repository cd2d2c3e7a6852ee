"""YAML config files as defaults of a verb's options: several files, later wins, unknown keys refused by name."""
import json
from pathlib import Path

import yaml

from speechmerge.errors import UsageError
from speechmerge.registry import nearest


def read_yaml(path) -> dict:
    """A YAML mapping. Raises UsageError that names the file and line."""
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"config {path}: not there") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"config {path}: cannot be read as YAML ({' '.join(str(error).split())})") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UsageError(f"config {path}: expected `key: value` lines, found a {type(data).__name__}")
    return data


def merge_configs(paths, known, translate=None) -> dict:
    """The keys of all files, later files over earlier ones. `known`: the verb's option names, as `output_dir`;
    translate(config, path): the keys of today for a file of an older schema."""
    merged = {}
    for path in paths:
        config = read_yaml(path)
        for key, value in (translate(config, path) if translate else config).items():
            name = str(key).replace("-", "_")
            if name not in known:
                raise UsageError(f"config {path}: unknown key {key!r}; {nearest(name, known)}")
            merged[name] = value
    return merged


def as_argument(value):
    """A config value in the words that the command line would use; mappings travel as JSON, which is YAML."""
    if isinstance(value, dict):
        return json.dumps(value)
    if isinstance(value, list):
        return [as_argument(item) for item in value]
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
