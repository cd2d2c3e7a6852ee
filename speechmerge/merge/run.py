"""One merge, from adapters to a task vector: read, check that they fit, apply the method."""
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.merge.delta import one_thread
from speechmerge.merge.fingerprint import common_base
from speechmerge.merge.read import read
from speechmerge.merge.registry import METHODS
from speechmerge.merge.tag import merge_tag
from speechmerge.merge.task_vector import TaskVector, check_shapes

MODES = ("common", "strict")


def merge(adapters, method="uniform", base=None, merge_mode="common", names=None, **params) -> TaskVector:
    """Merge adapters, full models or task vectors of one base.

    adapters: folders or TaskVectors. method: a name of `speechmerge list methods`, whose parameters are `params`
    (`lambda`, a Python keyword, may be written `lambda_`). base: folder of the base model, where an input needs it; the
    inputs must belong to it. merge_mode: what happens to parameters that not all inputs change: "strict" refuses them
    by name, "common" leaves them as in the base and lists them in `details["left_out"]`. names: what to call the
    inputs.

    Element-wise methods give deltas that are made when they are saved or applied, one tensor at a time.
    Raises SpeechMergeError for inputs that cannot be combined, UsageError for wrong methods and parameters.
    """
    if merge_mode not in MODES:
        raise UsageError(f"merge_mode: found {merge_mode!r}, expected one of {', '.join(MODES)}")
    if isinstance(adapters, (str, bytes)) or not adapters:
        raise UsageError(f"adapters: found {adapters!r}, expected a list of at least one folder or TaskVector")
    entry, params = METHODS.get(method), {key.rstrip("_"): value for key, value in params.items()}
    vectors = [
        read(adapter, base, name) for adapter, name in zip(adapters, names or [None] * len(adapters), strict=True)
    ]
    rule = entry(method, [vector.label for vector in vectors], params)
    known = common_base([vector.base for vector in vectors], [describe(vector) for vector in vectors])
    check_shapes(vectors)
    shared, left_out = shared_parameters(vectors, merge_mode)
    with one_thread():
        rule.survey(lambda index: ((name, vectors[index].deltas[name]) for name in shared))
        deltas = {name: rule.merge(name, [vector.deltas[name] for vector in vectors]) for name in shared}
    details = {
        "tag": merge_tag(method, entry.parameters, rule.values, vectors),
        "method": method,
        "params": rule.values,
        "merge_mode": merge_mode,
        "left_out": left_out,
        "adapters": [about(vector) for vector in vectors],
        "peft": _agreed([vector.details.get("peft") for vector in vectors]) or {},
    }
    return TaskVector(deltas, known, _agreed([vector.task for vector in vectors]),
                      _agreed([vector.language for vector in vectors]), None, details)


def shared_parameters(vectors, merge_mode: str):
    """(names that all vectors have, sorted; label -> names that only some have). Mode strict: SpeechMergeError."""
    shared = set.intersection(*(set(vector.deltas) for vector in vectors))
    left_out = [
        (vector.label, sorted(set(vector.deltas) - shared)) for vector in vectors if set(vector.deltas) - shared
    ]
    if left_out and merge_mode == "strict":
        lines = "; ".join(f"{label} has {len(names)} more: {', '.join(names[:3])}" for label, names in left_out)
        raise SpeechMergeError(f"merge_mode strict: the adapters do not change the same parameters: {lines}")
    if not shared:
        raise SpeechMergeError(f"no parameter is changed by all of {', '.join(vector.label for vector in vectors)}")
    return sorted(shared), dict(left_out)


def describe(vector: TaskVector) -> str:
    return vector.origin or vector.label


def about(vector: TaskVector) -> dict:
    """What the metadata of a merge says of one input."""
    keys = ("sha256", "rank", "scaling", "kind", "method", "params", "adapters", "sum_of")
    return {"name": vector.label, "path": vector.origin, "task": vector.task, "language": vector.language,
            "base": vars(vector.base), **{key: vector.details[key] for key in keys if key in vector.details}}


def _agreed(values):
    """The value that all share, else None."""
    return values[0] if all(value == values[0] for value in values) else None
