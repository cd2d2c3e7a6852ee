"""The short name of a merge: for folders, tables and plots."""
import hashlib
import json
import re

LONGEST = 60  # characters; longer lists of adapters are replaced by a hash


def merge_tag(method: str, parameters, values: dict, vectors, more=None) -> str:
    """`ties_k20_l1_asr-emotion`: safe as a file name, and another one for other parameters or adapters.

    Numbers always stand in it (by the first letter of their name), words and switches where they differ from the
    default. A hash is added where the readable part alone could be shared: rounded numbers, unregistered or equally
    named adapters, and where there is `more` that makes it another merge (policy, transforms).
    """
    words, exact = [], not more
    for parameter in parameters:
        value = values[parameter.name]
        is_number = parameter.kind in (float, "floats") and value is not None
        if is_number or value != parameter.default:
            numbers = [_short(item) for item in (value if isinstance(value, list) else [value])]
            words.append(parameter.name[0] + "-".join(numbers))
            exact &= all(_exact(item) for item in (value if isinstance(value, list) else [value]))
    labels = [vector.label for vector in vectors]
    exact &= len(set(labels)) == len(labels) and all(vector.details.get("name") for vector in vectors)
    readable = safe("_".join([method, *words, "-".join(labels)]))
    if exact and len(readable) <= LONGEST:
        return readable
    identity = json.dumps(
        [method, values, [(vector.label, vector.origin) for vector in vectors], *([more] if more else [])], sort_keys=True, default=str
    )
    digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
    if len(readable) > LONGEST:
        readable = safe("_".join([method, *words, f"{len(labels)}adapters"]))[:LONGEST]
    return f"{readable}_{digest}"


def task_combo(labels) -> str:
    """The folder of merges of these adapters, in any order: `asr_emotion`."""
    combo = safe("_".join(sorted(labels)))
    if len(combo) <= 100:
        return combo
    return f"{combo[:80]}_{hashlib.sha256(combo.encode()).hexdigest()[:8]}"


def safe(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text).lstrip(".-") or "merge"


def _short(value) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)


def _exact(value) -> bool:
    return not isinstance(value, float) or float(f"{value:g}") == value
