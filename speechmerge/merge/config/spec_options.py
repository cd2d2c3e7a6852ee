"""The keys of a :class:`speechmerge.merge.config.spec.MergeSpec` as command line options of merge and merge-sweep."""
import argparse
import json

from speechmerge.options import CommaList, key_value, mapping_or_value


def add_arguments(parser, method: str = "uniform", searching: bool = False):
    """All keys of a config. `searching`: the verb searches, so that the keys of the search are shown in its help."""

    def key(option, metavar, help, **more):
        parser.add_argument(option, type=mapping_or_value, metavar=metavar, help=help, **more)

    parser.add_argument("--adapters", nargs="+", action=CommaList, required=True,
                        help="folders, or names that `speechmerge list adapters` shows")
    parser.add_argument("--method", default=method, help="`speechmerge list methods` shows all with their parameters")
    key("--lambda", "NUMBER", "the method's parameter lambda", dest="lambda")
    parser.add_argument("--param", type=key_value, action="append", default=[], metavar="KEY=VALUE",
                        help="a parameter of the method; repeatable")
    key("--method-params", "{KEY: VALUE, ...}", "several at once, as in a config")
    key("--merge-mode", "common|strict",
        "parameters that not all adapters change: leave them as in the base, or refuse to merge",
        default="common")
    key("--transforms", "[NAME, {name: NAME, params: ...}]",
        "what is done to each adapter before: `speechmerge list transforms`")
    key("--lambda-policy", "{type: TYPE, ...}", "the method's strength by block or module: `speechmerge list policies`")
    key("--optimizer", "{type: TYPE, params: ...}", "how coefficients are learned: `speechmerge list learners`")
    parser.add_argument("--base",
                        help="folder of the base model; needed for DoRA, full models and --save full where it cannot "
                        "be found")
    key("--save", "lora|full|delta|none",
        "a PEFT adapter, a whole model, the deltas, or nothing: made in memory when used", default="lora")
    key("--rank", "R", "largest rank of the adapter; what it loses is reported. Default: as much as is needed")
    parser.add_argument("--output-dir", help="default: exp/merged/<method>/<task_combo>/runs/run_<time>")
    key("--threads", "N", "threads to merge with; changes no result. Default: one per core")
    if not searching:  # there it is the model's
        parser.add_argument("--device", help="cpu, cuda or cuda:N: where the merge is computed. Default: cpu")
    add_search_arguments(parser, searching)


def add_search_arguments(parser, shown: bool):
    """The keys of merge-sweep; merge takes them too, so that one file serves both, and says so."""

    def key(option, help, **more):
        parser.add_argument(option, help=help if shown else argparse.SUPPRESS, **more)

    def value(option, metavar, help, **more):
        key(option, help, type=mapping_or_value, metavar=metavar, **more)

    value("--search", "{type: grid, grid: {KEY: [...]}}", "the search, as in a config")
    key("--search-type", "overrides search.type: grid or bayes")
    key("--grid", "overrides search.grid", nargs="+", type=grid_axis, default=[], metavar="KEY=V1,V2,...")
    value("--constraint-nonnegative", "true|false", "refuse searches over negative values", default=False)
    key("--eval-tasks", "tasks or sets to score; default: those of the adapters", nargs="+", action=CommaList)
    value("--eval-subset", "{max_samples: N, ...}",
          "score a part of each set, drawn once; results stand apart from the whole set's")
    key("--split", "split that decides: validation, or train", default="dev")
    value("--save-merged", "true|false", "make the best point a run, as `speechmerge merge` does", default=False)


def grid_axis(text: str) -> tuple[str, list]:
    """`lambda=0.2,0.5` -> ("lambda", [0.2, 0.5])."""
    name, value = key_value(text if "=[" in text else text.replace("=", "=[", 1) + "]")
    if not isinstance(value, list) or not value:
        raise argparse.ArgumentTypeError(f"expected NAME=V1,V2,..., found {text!r}")
    return name, value


def spec_of(args):
    """The MergeSpec of a namespace; --param and --lambda over --method-params, --grid over search.grid."""
    from dataclasses import fields

    from speechmerge.merge.config.checks import mapping
    from speechmerge.merge.config.spec import MergeSpec

    values = {item.name: getattr(args, item.name, None) for item in fields(MergeSpec)}
    given = mapping("method_params", {} if args.method_params is None else args.method_params)
    values["method_params"] = {**given, **dict(args.param)}
    if getattr(args, "lambda") is not None:
        values["method_params"]["lambda"] = getattr(args, "lambda")
    if isinstance(args.transforms, (str, dict)):  # --transforms trim
        values["transforms"] = [args.transforms]
    return MergeSpec.of({**values, "search": search_of(args)})


def search_of(args) -> dict | None:
    """`search` with its overrides; another type leaves behind what belongs to the type in the config."""
    from speechmerge.merge.config.checks import mapping
    from speechmerge.merge.config.search_space import SEARCHES, keys_of

    if args.grid:
        return {"type": args.search_type or "grid", "grid": dict(args.grid)}
    if args.search_type is None:
        return args.search
    search = mapping("search", args.search or {})
    own = keys_of(args.search_type) if args.search_type in SEARCHES else []
    others = {key for kind in SEARCHES for key in keys_of(kind)} - set(own)
    return {**{key: value for key, value in search.items() if key not in others}, "type": args.search_type}


def words_of(spec) -> list[str]:
    """The options of `speechmerge merge` that give the same merge."""
    from dataclasses import fields

    from speechmerge.merge.config.spec import SEARCH_KEYS, MergeSpec

    words = []
    for item in fields(MergeSpec):
        value = getattr(spec, item.name)
        if value in (None, [], {}) or value == item.default or item.name in (*SEARCH_KEYS, "optimizer", "device"):
            continue
        words.append("--" + item.name.replace("_", "-"))
        words += value if item.name == "adapters" else [value if isinstance(value, str) else json.dumps(value)]
    return words
