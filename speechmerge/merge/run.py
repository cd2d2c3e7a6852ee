"""One merge, from adapters to a task vector: open, check that they fit, transform, apply the method.

    merge = prepare(["exp/asr/lora", "exp/kws/lora"], "ties", params={"k": 20})   # headers only, nothing is computed
    merge.plan(save="lora", rank=16)
    merge.run().save("exp/merged/x", rank=16)
"""
from dataclasses import dataclass, field

from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.files import fingerprint
from speechmerge.hashes import ContentHash, Later
from speechmerge.merge import policies
from speechmerge.merge.base import common_base, settle
from speechmerge.merge.compute import Tensors, computing
from speechmerge.merge.method import Method
from speechmerge.merge.read import read
from speechmerge.merge.registry import METHODS
from speechmerge.merge.tag import merge_tag
from speechmerge.merge.task_vector import TaskVector, check_shapes
from speechmerge.merge.transforms import make_transforms, normalised

MODES = ("common", "strict")


def merge(adapters, method="uniform", base=None, merge_mode="common", names=None, lambda_policy=None, transforms=(),
          threads=None, device=None, **params) -> TaskVector:
    """Merge adapters, full models or task vectors of one base.

    adapters: folders or TaskVectors. method: a name of `speechmerge list methods`, whose parameters are `params`
    (`lambda`, a Python keyword, may be written `lambda_`). base: folder of the base model, where an input needs it; the
    inputs must belong to it. merge_mode: what happens to parameters that not all inputs change: "strict" refuses them
    by name, "common" leaves them as in the base and lists them in `details["left_out"]`. names: what to call the
    inputs. lambda_policy: the method's strength per parameter, transforms: what is done to each input before, both as in
    a config. threads: default all cores; device: cpu or cuda.

    The result is made when it is saved or applied, one tensor at a time.
    Raises SpeechMergeError for inputs that cannot be combined, UsageError for wrong methods and parameters.
    """
    params = {key.rstrip("_"): value for key, value in params.items()}
    prepared = prepare(adapters, method, base, merge_mode, names, lambda_policy, transforms, params)
    return prepared.run(threads, device)


def prepare(adapters, method="uniform", base=None, merge_mode="common", names=None, lambda_policy=None, transforms=(),
            params=None) -> "Merge":
    """Everything that can be refused is refused here, from the files' headers; torch is not imported."""
    if merge_mode not in MODES:
        raise UsageError(f"merge_mode: found {merge_mode!r}, expected one of {', '.join(MODES)}")
    if isinstance(adapters, (str, bytes)) or not adapters:
        raise UsageError(f"adapters: found {adapters!r}, expected a list of at least one folder or TaskVector")
    if names and len(names) != len(adapters):
        raise UsageError(f"names: found {len(names)} for {len(adapters)} adapters")
    lambda_policy, transforms = settings(lambda_policy, transforms)
    vectors = [read(adapter, base, name) for adapter, name in zip(adapters, names or [None] * len(adapters))]
    rule = METHODS.get(method)(method, [vector.label for vector in vectors], params or {}, lambda_policy)
    known = common_base([vector.base for vector in vectors], [describe(vector) for vector in vectors])
    check_shapes(vectors)
    shared, left_out = shared_parameters(vectors, merge_mode)
    if lambda_policy is not None:
        rule.policy = policies.make_policy(lambda_policy, rule, shared)
        for name in shared:
            rule.check_strength(rule.strength_at(name))
    rule.prepare(vectors)
    return Merge(rule, vectors, known, shared, left_out, merge_mode, make_transforms(transforms),
                 {"lambda_policy": lambda_policy, "transforms": transforms})


def settings(lambda_policy, transforms):
    """Policy and transforms in the one form that metadata and tags hold, however they were written."""
    return lambda_policy if lambda_policy is None else policies.normalised(lambda_policy), normalised(transforms)


@dataclass
class Merge:
    """A merge that fits, before anything is computed."""

    rule: Method
    vectors: list[TaskVector]
    base: object
    shared: list[str]
    left_out: dict[str, list[str]]
    merge_mode: str
    transforms: list = field(default_factory=list)
    settings: dict = field(default_factory=dict)  # policy and transforms as they were given

    def start_hashing(self):
        """Hash inputs and base in the background, for the metadata."""
        for vector in self.vectors:
            if isinstance(vector.details.get("sha256"), ContentHash):
                vector.details["sha256"].start()
        Later(self.base.computed).start()

    def statistics(self) -> dict[str, str]:
        """File -> fingerprint of how it was measured, for the statistics that the method goes by."""
        return {str(found.path): fingerprint(found.record) for found in self.rule.statistics}

    def plan(self, save="lora", rank=None) -> dict:
        """What would be done; see :mod:`speechmerge.merge.plan`."""
        from speechmerge.merge.plan import plan

        return plan(self, save, rank)

    def run(self, threads=None, device=None) -> TaskVector:
        self.start_hashing()
        with computing(threads, device):
            vectors = self.transformed()
            deltas = {name: [vector.deltas[name] for vector in vectors] for name in self.shared}
            tensors = Tensors(deltas)
            self.rule.survey(tensors)
            merged = {name: self.rule.merge(name, deltas[name]) for name in self.shared}
        vector = self.outcome(merged)
        if hasattr(self.rule, "side_file"):
            vector.details["side_file"] = lambda: self.rule.side_file(tensors)
        return vector

    def outcome(self, deltas=()) -> TaskVector:
        """The merged task vector, or without `deltas` what is to be recorded of it."""
        tasks, languages = [v.task for v in self.vectors], [v.language for v in self.vectors]
        return TaskVector(dict(deltas), self.base, _agreed(tasks), _agreed(languages), None, self.details())

    def transformed(self) -> list[TaskVector]:
        vectors = [self._shared_only(vector) for vector in self.vectors]
        for transform in self.transforms:
            vectors = [transform.prepare(vector, Tensors({name: [d] for name, d in vector.deltas.items()}))
                       for vector in vectors]
        return vectors

    def _shared_only(self, vector: TaskVector) -> TaskVector:
        return TaskVector(**{**vars(vector), "deltas": {name: vector.deltas[name] for name in self.shared}})

    def details(self) -> dict:
        """What the metadata says of the merge, without the results of saving it."""
        rule, settings = self.rule, {key: value for key, value in self.settings.items() if value}
        return {
            "tag": merge_tag(rule.name, rule.parameters, rule.values, self.vectors, settings),
            "method": rule.name,
            "params": rule.values,
            **self.settings,
            "merge_mode": self.merge_mode,
            "left_out": self.left_out,
            "statistics": self.statistics(),
            "adapters": [about(vector) for vector in self.vectors],
            "peft": _agreed([vector.details.get("peft") for vector in self.vectors]) or {},
        }


def again(metadata: dict, base=None) -> Merge:
    """The merge that a merge_metadata.json describes, prepared anew. SpeechMergeError where an input has changed."""
    inputs = metadata["adapters"]
    found = prepare([entry["path"] for entry in inputs], metadata["method"], base, metadata["merge_mode"],
                    [entry["name"] for entry in inputs], metadata.get("lambda_policy"), metadata.get("transforms") or (),
                    {key: value for key, value in metadata["params"].items() if value is not None})
    for vector, entry in zip(found.vectors, inputs):
        now = settle(vector.details.get("sha256"))
        if entry.get("sha256") and now != entry["sha256"]:
            raise SpeechMergeError(f"{vector.origin}: has changed since it was merged (sha256 {now[:12]}, recorded "
                                   f"{entry['sha256'][:12]}); merge again with --force true")
    if found.statistics() != metadata.get("statistics", {}):
        raise SpeechMergeError(f"{', '.join(found.statistics())}: measured again since it was merged; merge again")
    return found


def shared_parameters(vectors, merge_mode: str):
    """(names that all vectors have, sorted; label -> names that only some have). Mode strict: SpeechMergeError."""
    shared = set.intersection(*(set(vector.deltas) for vector in vectors))
    rest = [(vector.label, set(vector.deltas) - shared | set(vector.details.get("not_in_base", ()))) for vector in vectors]
    left_out = [(label, sorted(names)) for label, names in rest if names]
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
            "base": vector.base, **{key: vector.details[key] for key in keys if key in vector.details}}


def _agreed(values):
    """The value that all share, else None."""
    return values[0] if all(value == values[0] for value in values) else None
