"""`merge-sweep --method auto`: which method? Those that are registered are tried under a time budget.

Every method is scored with its defaults first. The better half of them is searched over the ranges of SPACES with a few
points each, the better half of those with more, and so on until the time is up or one is left. Each search is an
ordinary sweep below exp/merged/<method>/, which a later run, or a sweep of that method, goes on with; the table is
exp/merged/auto/<task_combo>/auto_<time>.json.
"""
import logging
import time
from pathlib import Path

from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.files import write_json
from speechmerge.merge.config.spec import MergeSpec
from speechmerge.merge.registry import METHODS
from speechmerge.merge.tag import task_combo
from speechmerge.metrics.interference import rank
from speechmerge.provenance import provenance
from speechmerge.sweep import Sweep, best_point
from speechmerge.systems import adapter_labels, find_adapters

log = logging.getLogger(__name__)
# Where papers and their code have found good values; strengths from almost the base to beyond the sum.
SPACES = {
    "lambda": (0.2, 2.0), "scale": (0.1, 1.2), "alpha": (0.2, 3.0), "t": (0.1, 0.9), "drop_rate": (0.3, 0.95),
    "density": (0.2, 0.9), "gamma": (0.0, 0.1), "ratio": (0.05, 0.5), "common_fraction": (0.3, 1.0), "ridge": (0.0, 0.1),
    "beta": (0.05, 0.6), "coefficients": (0.0, 1.2),
}
TIES_K = (5.0, 60.0)  # percent; `k` is another thing in other methods
# the same as one that is tried: sums and means by other names, masks that need the task to be known, inner methods
LEFT_OUT = ("uniform_delta", "uniform_scalar_delta", "task_arithmetic", "weighted", "weighted_delta", "cat", "svd", "emr",
            "tall_mask", "core_space")
SUM = "weighted_delta_n"  # one coefficient per adapter, from the mean on
BUDGETS = (1, 6, 12, 24, 48)  # points per method and round; the first is the default


class Auto:
    """`spec`: a MergeSpec whose method does not count; `args` as for Sweep, with time_budget in seconds."""

    def __init__(self, spec: MergeSpec, args):
        if not args.time_budget > 0:
            raise UsageError(f"--time-budget: found {args.time_budget}, expected seconds above 0")
        self.spec, self.args = spec, args
        self.scorer, self.results, self.failed = None, {}, {}
        self.labels = adapter_labels(find_adapters(spec.adapters, args.exp_dir))
        self.mean = {label: 1 / len(self.labels) for label in self.labels}

    def run(self) -> dict:
        """The table: {"methods": {name: {"values", "interference_delta", "summary", "points"}}, "ranking", "failed"}."""
        deadline = time.monotonic() + self.args.time_budget
        methods = [name for name in METHODS.names() if name not in LEFT_OUT]
        for number, budget in enumerate(BUDGETS):
            log.info("round %d: %d methods, up to %d points each: %s", number + 1, len(methods), budget, ", ".join(methods))
            for name in methods:
                if time.monotonic() < deadline or not self.results:
                    self.attempt(name, budget, deadline)
            ranking = self.ranking()
            methods = [name for name in ranking[:max(1, -(-len(methods) // 2))] if self.space(name)]
            if time.monotonic() >= deadline or not methods:
                break
        return self.write(ranking)

    def attempt(self, name: str, budget: int, deadline: float):
        """One sweep of one method; one that cannot merge these adapters is noted and left."""
        try:
            sweep = Sweep(self.of(name, budget), self.args, self.scorer, deadline)
            self.scorer = sweep.scorer
            summary = sweep.run()
            best = best_point(summary)
        except SpeechMergeError as error:  # such as a method that needs statistics, or two adapters
            log.info("%s: not tried: %s", name, error)
            self.failed.setdefault(name, str(error))
            return
        points = sum(point.get("state", "done") == "done" for point in summary["points"])
        earlier = self.results.get(name)
        found = {key: best[key] for key in ("values", "interference_delta", "intervals", "summary", "scores")}
        found |= {"points": points + (earlier["points"] if earlier else 0), "sweep": summary["path"]}
        if earlier and rank({"now": best["interference_delta"], "then": earlier["interference_delta"]})[0] == "then":
            found = {**earlier, "points": found["points"]}
        self.results[name] = found

    def of(self, name: str, budget: int) -> MergeSpec:
        """The spec of one round of a method."""
        space = self.space(name)
        search = {"type": "bayes", "budget": budget, "init_points": max(2, budget // 3), "space": space}
        if budget == 1 or not space:
            search = {"type": "grid", "grid": {key: [value] for key, value in self.default(name).items()}}
        params = {"coefficients": self.mean} if name == SUM else {}
        return MergeSpec.of({**self.spec.values(), "method": name, "method_params": params, "lambda_policy": None,
                             "optimizer": None, "search": search})

    def default(self, name: str) -> dict:
        """One parameter with its default: a grid of a single point."""
        if name == SUM:
            return {"coefficients": self.mean}
        method = METHODS.get(name)
        known = {p.name: p.default for p in method.parameters if isinstance(p.default, (str, int, float))}
        key = method.strength if method.strength in known else next(iter(known))
        return {key: known[key]}

    def space(self, name: str) -> dict:
        """The axes of a method's own parameters that have a range in SPACES."""
        if name == SUM:
            return {f"coefficients.{label}": axis(*SPACES["coefficients"]) for label in self.labels}
        ranges = {**SPACES, **({"k": TIES_K} if name == "ties" else {})}
        floats = [p.name for p in METHODS.get(name).parameters if p.kind is float and p.name in ranges]
        return {key: axis(*ranges[key]) for key in floats}

    def ranking(self) -> list[str]:
        if not self.results:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in list(self.failed.items())[:2])
            raise SpeechMergeError(f"--method auto: no method could merge these adapters ({reasons})")
        return rank({name: found["interference_delta"] for name, found in self.results.items()})

    def write(self, ranking: list[str]) -> dict:
        folder = Path(self.args.exp_dir) / "merged" / "auto" / task_combo(self.labels)
        path = folder / time.strftime("auto_%Y%m%d_%H%M%S.json")
        table = {"methods": self.results, "ranking": ranking, "failed": self.failed, "split": self.spec.split,
                 "reading": self.args.reading, "adapters": self.labels, "time_budget": self.args.time_budget, **provenance()}
        write_json(path, table)
        return {**table, "path": str(path)}

    def best(self, table: dict) -> MergeSpec:
        """The winner as a spec for `speechmerge merge`."""
        name = table["ranking"][0]
        return self.of(name, 1).at(table["methods"][name]["values"])


def axis(low: float, high: float) -> dict:
    return {"type": "float", "min": low, "max": high}
