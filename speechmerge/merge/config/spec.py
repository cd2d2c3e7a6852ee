"""One merge, or one search for a merge, as config and options say it; checked before any other file is opened.

    spec = MergeSpec.load("conf/merge/ties.yaml", adapters=["asr", "kws"])
    spec.method, spec.method_params, spec.transforms, spec.lambda_policy

`speechmerge merge` and `speechmerge merge-sweep` read the same keys from the same files. Errors name the exact key:

    transforms[1].params.target_nrom: unknown key; did you mean 'target_norm'?
    search.space.lambda.min: found 'a', expected number

No torch, and no adapter is looked up.
"""
import copy
import re
from dataclasses import dataclass, field, fields

from speechmerge.errors import UsageError
from speechmerge.merge import policies, transforms
from speechmerge.merge.config.checks import known_keys, leaf, mapping, names
from speechmerge.merge.config.search_space import read_search, read_subset, tried
from speechmerge.merge.parameters import REQUIRED, Parameter
from speechmerge.merge.registry import METHODS
from speechmerge.merge.run import MODES
from speechmerge.options import split_name
from speechmerge.registry import nearest

SAVED_AS = ("lora", "full", "delta", "none")
LEARNED = ("adamerging", "gradient", "supermerge", "regret_smoothmax")  # see speechmerge.learn
OPTIMIZERS = ("none", "bayes", *LEARNED)
# keys that only merge-sweep reads
SEARCH_KEYS = ("search", "eval_tasks", "split", "save_merged", "eval_subset", "constraint_nonnegative")
RESULT_KEYS = ("save", "rank", "output_dir")  # of merge, and of the best point of merge-sweep --save-merged true


@dataclass(frozen=True)
class MergeSpec:
    """All keys of a config; the fields are complete, typed and consistent with each other."""

    adapters: list[str] | None = None
    method: str = "uniform"
    merge_mode: str = "common"
    method_params: dict = field(default_factory=dict)
    transforms: list[dict] = field(default_factory=list)  # [{name, params}], with all parameters
    lambda_policy: dict | None = None  # {type, ...}
    optimizer: dict = field(default_factory=lambda: {"type": "none", "params": {}})
    search: dict | None = None
    eval_tasks: list[str] | None = None
    split: str = "dev"
    save_merged: bool = False
    eval_subset: dict | None = None
    output_dir: str | None = None
    constraint_nonnegative: bool = False
    save: str = "lora"
    rank: int | None = None
    base: str | None = None
    threads: int | None = None
    device: str | None = None

    @classmethod
    def of(cls, values: dict) -> "MergeSpec":
        """From a mapping with any of the keys; None stands for the default. Raises UsageError with the key path."""
        known = [item.name for item in fields(cls)]
        for key in values:
            if key not in known:
                raise UsageError(f"{key}: unknown key; {nearest(str(key), known)}")
        given = {key: READERS[key](key, value) for key, value in values.items() if value is not None}
        spec = cls(**copy.deepcopy(given))
        check_method(spec)
        if spec.rank is not None and spec.save != "lora":
            raise UsageError(f"rank: found {spec.rank} with save {spec.save}; --rank is for --save lora")
        if spec.search:
            check_search(spec)
        return spec

    @classmethod
    def load(cls, *paths, **overrides) -> "MergeSpec":
        """From YAML files, later ones over earlier ones, and `overrides` over all. Older schemas are translated."""
        from speechmerge.config import merge_configs
        from speechmerge.merge.config.legacy import translate

        known = [item.name for item in fields(cls)]
        return cls.of({**merge_configs(paths, known, translate), **overrides})

    def values(self) -> dict:
        """A copy of all keys, from which the same spec can be made."""
        return {item.name: copy.deepcopy(getattr(self, item.name)) for item in fields(self)}

    def at(self, point: dict) -> "MergeSpec":
        """The spec of one point of its search: `point` {parameter of the method, or key path: value} set, no search."""
        values = {**self.values(), "search": None}
        for path, value in point.items():
            put(values, path, value)
        return MergeSpec.of(values)

    def arguments(self) -> dict:
        """What :func:`speechmerge.merge.run.prepare` takes beside adapters and names."""
        given = {key: getattr(self, key) for key in ("method", "base", "merge_mode", "lambda_policy", "transforms")}
        return {**given, "params": self.method_params}

    def check_runnable(self, verb: str = "merge"):
        """UsageError for what a config may say and `verb` cannot do: missing parameters, learned coefficients."""
        kind, method = self.optimizer["type"], METHODS.get(self.method)
        if kind == "bayes" and verb == "merge":
            raise UsageError("optimizer.type: bayes is a search over decoded results; run `speechmerge merge-sweep` "
                             "with this config, or set optimizer.type: none")
        if kind in LEARNED:
            if verb == "merge":
                return  # what is missing is learned
            raise UsageError(f"optimizer.type: {kind} learns coefficients by itself; run `speechmerge merge` with this config")
        for parameter in method.parameters:
            by_policy = self.lambda_policy is not None and parameter.name == method.strength
            if parameter.default is REQUIRED and parameter.name not in self.method_params and not by_policy:
                raise UsageError(f"method_params.{parameter.name}: missing, method {self.method} needs it; {parameter}")

    def unused(self, keys) -> list[str]:
        """Those of `keys` that say something, for a verb that does not read them."""
        defaults = {item.name: item.default for item in fields(self)}
        return [key for key in keys if getattr(self, key) not in (None, defaults[key])]


def check_method(spec: MergeSpec):
    """The method's parameters and the policy for its strength, as far as they can be checked without adapters."""
    method = METHODS.get(spec.method)
    declared = {parameter.name: parameter for parameter in method.parameters}
    for key, value in spec.method_params.items():
        if key not in declared:
            raise UsageError(f"method_params.{key}: unknown parameter {key!r} of method {spec.method}; "
                             f"{nearest(str(key), declared)}")
        policies.read_strength(f"method_params.{key}", declared[key], value)
    if spec.lambda_policy is not None:
        check_policy(spec, declared, strengths_of(method))


def strengths_of(method) -> list[str]:
    """The parameters that a policy may set; a method of several decides once it has adapters."""
    if method.strength is not None:
        return [method.strength]
    return [parameter.name for parameter in method.parameters if parameter.name in ("lambda", "coefficients")]


def check_policy(spec: MergeSpec, declared: dict, possible: list[str]):
    if not possible:
        raise UsageError(f"lambda_policy: method {spec.method} has no strength that could differ between parameters")
    policy = policies.policy_of(spec.lambda_policy)
    if len(possible) == 1:
        for place, value in policy.strengths().items():
            policies.read_strength(f"lambda_policy.{place}", declared[possible[0]], value)
    place, _ = policies.default_of(policy)
    said = [name for name in possible if name in spec.method_params]
    if place and said:
        raise UsageError(f"lambda_policy.{place}: method_params.{said[0]} says it, too; give one of them")


def check_search(spec: MergeSpec):
    """Every value that the search will set must be one that the spec can have."""
    for path, name, value in tried(spec.search):
        if spec.constraint_nonnegative and isinstance(value, (int, float)) and value < 0:
            what = f"the {spec.search['type']} has {name}={value}"
            raise UsageError(f"{path}: constraint_nonnegative, but {what}")
        try:
            spec.at({name: value})
        except UsageError as error:
            message = str(error).removeprefix("method_params.").removeprefix(f"{name}: ")
            raise UsageError(f"{path}: {message}") from error


def put(values: dict, path: str, value):
    """Set the value at a key path such as `lambda`, `coefficients.asr`, `transforms[0].params.k` of a spec's values."""
    words = re.findall(r"[^.\[\]]+", path)
    if words[0] not in ("method_params", "lambda_policy", "transforms"):
        words = ["method_params", *words]
    place = values
    for word, after in zip(words, [*words[1:], None]):
        if isinstance(place, list):
            word = int(word) if word.isdigit() else len(place)
            if word >= len(place):
                raise UsageError(f"{path}: there are {len(place)} items, counted from 0")
        elif isinstance(place, dict):
            word = next((key for key in place if str(key) == word), word)  # blocks may be numbers or texts
        else:
            raise UsageError(f"{path}: there is nothing below {place!r}")
        if after is None:
            place[word] = value
        else:
            place = place[word] if isinstance(place, list) else place.setdefault(word, {})


def read_method(path: str, value) -> str:
    if value not in METHODS.names():
        raise UsageError(f"{path}: unknown method {value!r}; {nearest(str(value), METHODS.names())}")
    return value


def read_policy(path: str, value) -> dict:
    value = policies.normalised(value, path)
    policies.policy_of(value, path)
    return value


def read_optimizer(path: str, value) -> dict:
    value = {"type": value} if isinstance(value, str) else mapping(path, value)
    known_keys(path, value, ("type", "params"))
    kind = value.get("type", "none")
    if kind not in OPTIMIZERS:
        raise UsageError(f"{path}.type: unknown optimizer {kind!r}; {nearest(str(kind), OPTIMIZERS)}")
    return {"type": kind, "params": mapping(f"{path}.params", value.get("params") or {})}


def read_text(path: str, value) -> str:
    if isinstance(value, (dict, list, bool)):
        raise UsageError(f"{path}: found {value!r}, expected a text")
    return str(value)


def typed(kind, help: str, **bounds):
    """Reader of one value; the message also names the option."""

    def read(path, value):
        try:
            return leaf(path, Parameter(path, kind, REQUIRED, help, **bounds), value)
        except UsageError as error:
            raise UsageError(f"{error} (--{path.replace('_', '-')}: {help})") from error

    return read


READERS = {
    "adapters": names,
    "method": read_method,
    "merge_mode": typed(MODES, "what happens to parameters that not all adapters change"),
    "method_params": mapping,
    "transforms": lambda path, value: transforms.normalised(value, path),
    "lambda_policy": read_policy,
    "optimizer": read_optimizer,
    "search": read_search,
    "eval_tasks": names,
    "split": lambda path, value: split_name(read_text(path, value)),
    "save_merged": typed(bool, "make the best point a run"),
    "eval_subset": read_subset,
    "output_dir": read_text,
    "constraint_nonnegative": typed(bool, "refuse negative values"),
    "save": typed(SAVED_AS, "what is written"),
    "rank": typed(int, "largest rank of the adapter", low=1),
    "base": read_text,
    "threads": typed(int, "threads to merge with", low=1),
    "device": lambda path, value: None if value == "auto" else read_text(path, value),  # auto is for models
}
