"""Every adapter on every task or language, without further training.

    transfer ratio   TM_ij = (u_j(adapter i) - u_j(base)) / (u_j(adapter j) - u_j(base)): 1 on the diagonal, 0 where
                     adapter i is no better than the base on set j, below 0 where it harms; not defined where j's own
                     adapter gains nothing
    transfer gain    u_j(adapter i) - u_j(base), in the metric's own unit

It is interference_delta + 1, with the same paired intervals. u is the metric, higher is better.
"""
from speechmerge.analysis.base import ANALYSES, Analysis, Findings, number, table
from speechmerge.merge.parameters import Parameter


@ANALYSES.register("transfer")
class Transfer(Analysis):
    """Zero-shot matrix: what each adapter does on each set, relative to the base and to the set's own adapter."""

    parameters = (
        Parameter("sets", str, None, "words: the sets; default: one for each adapter"),
        Parameter("reading", ("generation", "labels"), "generation", "what is judged of tasks with labels"),
        Parameter("max_samples", int, 0, "examples of each set, drawn once; 0: all, as `speechmerge decode` has them",
                  low=0),
        Parameter("seed", int, 0, "of that draw"),
    )
    uses_model = True

    def run(self) -> Findings:
        from speechmerge.systems import BASE, System

        systems = [System(BASE, "base"), *self.study.systems]
        entries = {}
        for name, task in self.study.sets(self.values["sets"]).items():
            for entry in self.compared(name, task, systems):
                entries.setdefault(entry["name"], {})[name] = {**entry, "task": task}
        data = self.matrix(entries)
        return Findings(data, pictures(data), lines(data))

    def compared(self, name: str, task, systems) -> list[dict]:
        """The systems of one set as scores have them; what is missing is decoded now."""
        from speechmerge.decode import Options
        from speechmerge.evaluation import Evaluation

        study = self.study
        root, split = study.data(name, task, self.values["max_samples"], self.values["seed"])
        evaluation = Evaluation(study.model, {name: task}, root, split, study.exp_dir, Options.of(study.args))
        return evaluation.compare(systems)["systems"]

    def matrix(self, entries: dict) -> dict:
        """{"sets": {set: metric, base}, "adapters": {adapter: {set: value, gain, ratio, ci, reason}}}"""
        from speechmerge.systems import BASE

        reading, base = self.values["reading"], entries[BASE]
        sets = {name: {"metric": entry["task"].metric, "higher_is_better": entry["task"].higher_is_better,
                       "base": value_of(entry, name, reading)} for name, entry in base.items()}
        found = {system.name: {s: cell(entries[system.name][s], s, sets[s], reading) for s in sets}
                 for system in self.study.systems}
        return {"split": self.study.split, "reading": reading, "sets": sets, "adapters": found}


def value_of(entry: dict, set_name: str, reading: str) -> float | None:
    """The deciding metric; of sets without this reading (transcripts have no labels, cosines no text) the other."""
    scores = entry["scores"][set_name]
    return scores[reading] if scores[reading] is not None else next((v for v in scores.values() if v is not None), None)


def cell(entry: dict, set_name: str, about: dict, reading: str) -> dict:
    from speechmerge.metrics.interference import oriented

    value, higher = value_of(entry, set_name, reading), about["higher_is_better"]
    deltas = entry["interference_delta"][set_name]
    delta = deltas.get(reading) or next(iter(deltas.values()))
    ratio, ends = delta.get("value"), delta.get("ci")
    return {"value": number(value), "gain": number(oriented(value, higher) - oriented(about["base"], higher)),
            "ratio": None if ratio is None else number(1 + ratio), "ci": ends and [number(1 + end) for end in ends],
            "reason": delta.get("reason")}


def pictures(data: dict) -> list:
    from dataclasses import replace

    from speechmerge.analysis.charts import heat_map

    adapters, sets = list(data["adapters"]), list(data["sets"])
    grid = {key: [[data["adapters"][a][s][key] for s in sets] for a in adapters] for key in ("ratio", "gain")}
    ratio = heat_map("transfer_ratio", f"Share of the own adapter's gain ({data['split']})", adapters, sets,
                     grid["ratio"], limit=2.0)
    gain = heat_map("transfer_gain", f"Gain over the base, in the metric's unit ({data['split']})", adapters, sets,
                    grid["gain"])
    rows = [["adapter", "set", "metric", "value", "base", "gain", "ratio", "ci_low", "ci_high", "reason"]]
    rows += [[a, s, about["metric"], c["value"], about["base"], c["gain"], c["ratio"], *(c["ci"] or (None, None)),
              c["reason"]]
             for a in adapters for s, about in data["sets"].items() for c in [data["adapters"][a][s]]]
    return [ratio, replace(gain, rows=rows)]


def lines(data: dict) -> list[str]:
    sets = data["sets"]
    rows = [["base", *(about["base"] for about in sets.values())]]
    rows += [[name, *(row[s]["value"] for s in sets)] for name, row in data["adapters"].items()]
    ratios = [[name, *(row[s]["ratio"] for s in sets)] for name, row in data["adapters"].items()]
    head = [f"{name} {about['metric']}" for name, about in sets.items()]
    return [*table(["adapter", *head], rows), "share of the own adapter's gain", *table(["adapter", *sets], ratios)]
