"""Where an adapter works: it is switched off in one layer, or everywhere but in one; nothing is trained again.

    without l   u(adapter) - u(adapter without layer l): above 0 where the layer is needed
    only l      u(adapter in layer l alone) - u(base): above 0 where the layer does something by itself

u is the metric, higher is better. Both, because layers stand in for each other: what is lost without each of them does
not add up to the whole. The same in teacher-forced loss (nats per token), which resolves what a metric on few
utterances does not. Shares are of the whole adapter's gain, not defined where that is no more than noise.
"""
from speechmerge.analysis.base import ANALYSES, Analysis, Findings, number, table
from speechmerge.analysis.weights import place_of
from speechmerge.merge.parameters import Parameter


@ANALYSES.register("layers")
class Layers(Analysis):
    """What each layer of an adapter contributes, by switching it off or on alone; each adapter on its own set."""

    parameters = (
        Parameter("max_samples", int, 100, "examples of each set, drawn once; 0: all", low=0),
        Parameter("seed", int, 0, "of that draw"),
        Parameter("reading", ("generation", "labels"), "generation", "what is judged of tasks with labels"),
    )
    uses_model = True

    def run(self) -> Findings:
        study, found = self.study, {}
        tasks = study.sets()
        for name, system, vector in zip(study.names, study.systems, study.vectors):
            own = study.own_set(name)
            found[name] = self.of(own, tasks[own], system, vector)
        data = {"split": study.split, "reading": self.values["reading"], "adapters": found}
        return Findings(data, pictures(found), lines(found))

    def of(self, set_name: str, task, system, vector) -> dict:
        from speechmerge.analysis.judge import Judge
        from speechmerge.bank import AdapterBank
        from speechmerge.decode import Options
        from speechmerge.hashes import file_hash
        from speechmerge.systems import content_files

        study, model = self.study, self.study.model
        root, split = study.data(set_name, task, self.values["max_samples"], self.values["seed"])
        model.equip(task, system.path)
        options, memory = Options.of(study.args), study.output_dir / ".cells"
        judge = Judge(model, set_name, task, root, split, options, self.values["reading"], memory)
        weights = [model.fingerprint(), str(model.dtype), repr(model.context),
                   [file_hash(path) for path in content_files(system)]]
        bank = AdapterBank(model.core, [vector], base=model.path, group_by="block")
        try:
            names = sorted(bank.parameters, key=place_of)
            groups = list(dict.fromkeys(bank.groups[bank.group_of[name]] for name in names))
            parts = parts_of(groups, model)
            found = contributions(groups, parts, lambda active: judged(judge, bank, active, weights), task)
            return {"set": set_name, "utterances": len(judge.examples), **found}
        finally:
            bank.remove()


def judged(judge, bank, active, weights: list):
    """With the adapter in these of the bank's groups alone."""
    from speechmerge.bank import Coefficients

    with bank.using(Coefficients.per_layer([[float(group in active)] for group in bank.groups])):
        return judge.judge([*weights, sorted(active)])


def parts_of(groups: list[str], model) -> dict[str, list[str]]:
    """encoder, decoder, ..., and of each its early and its late half, counted in the model's layers, adapted or not."""
    from speechmerge.blocks import depths

    depth = depths(name for name, _ in model.core.named_parameters())
    parts = {}
    for group in groups:
        part, dot, index = group.rpartition(".")
        if dot:
            half = "early" if int(index) < depth[part] / 2 else "late"
            parts.setdefault(part, []).append(group)
            parts.setdefault(f"{half} {part}", []).append(group)
    return dict(sorted(parts.items(), key=lambda item: part_order(item[0])))


def part_order(name: str) -> tuple:
    """The encoder first, each part before its halves."""
    part = name.split()[-1]
    return part != "encoder", part, " " in name, name


def contributions(groups: list[str], parts: dict, judge, task) -> dict:
    """judge(set of active groups) -> Judgement."""
    full, base = judge(frozenset(groups)), judge(frozenset())
    rows = {**{group: [group] for group in groups}, **parts}
    found = {name: contribution(judge(frozenset(groups) - set(part)), judge(frozenset(part)), full, base)
             for name, part in rows.items()}
    return {"metric": task.metric, "higher_is_better": task.higher_is_better, "full": about(full), "base": about(base),
            "gain": number(full.u - base.u), "layers": {name: found[name] for name in groups},
            "parts": {name: found[name] for name in parts}}


def about(judgement) -> dict:
    return {"value": number(judgement.value), "loss": judgement.loss and number(judgement.loss)}


def contribution(without, only, full, base) -> dict:
    """What is lost without a part, and what it gains alone, each with its interval and as a share of the whole gain."""
    found = {"without": difference(full, without), "only": difference(only, base)}
    for entry in found.values():
        entry["share"] = share(entry["u"], full, base)
        entry["loss_share"] = loss_share(entry["loss"], full, base)
    return found


def difference(better, worse) -> dict:
    """u of the first less u of the second, paired on the same resampled sets; loss the other way round."""
    from speechmerge.metrics import bootstrap

    loss = None if better.loss is None else number(worse.loss - better.loss)
    return {"u": number(better.u - worse.u),
            "ci": [number(end) for end in bootstrap.interval(better.replicates - worse.replicates)], "loss": loss}


def share(difference: float, full, base) -> float | None:
    from speechmerge.metrics.bootstrap import standard_error
    from speechmerge.metrics.interference import interference_delta

    value, _ = interference_delta(base.u + difference, full.u, base.u,
                                  standard_error(full.replicates - base.replicates))
    return None if value is None else number(1 + value)


def loss_share(difference: float | None, full, base) -> float | None:
    if difference is None or base.loss - full.loss <= 1e-6:
        return None
    return number(difference / (base.loss - full.loss))


READINGS = {"share": "of the gain in the metric", "loss_share": "of the gain in loss"}


def pictures(found: dict) -> list:
    from speechmerge.analysis.charts import grouped_bars, heat_map

    layers = list(dict.fromkeys(layer for about in found.values() for layer in about["layers"]))
    parts = list(dict.fromkeys(part for about in found.values() for part in about["parts"]))
    titles = {"without": "Lost without each layer", "only": "Gained by each layer alone"}
    plots = []
    for kind, title in titles.items():
        for reading, note in READINGS.items():
            rows = [[about["layers"].get(layer, {}).get(kind, {}).get(reading) for layer in layers]
                    for about in found.values()]
            if any(value is not None for row in rows for value in row):
                plots.append(heat_map(f"{kind}_{reading}", f"{title}, share {note}", list(found), layers, rows))
        series = {part: [about["parts"].get(part, {}).get(kind, {}).get("loss_share") for about in found.values()]
                  for part in parts}
        if any(value is not None for values in series.values() for value in values):
            plots.append(grouped_bars(f"{kind}_parts", title.replace("each layer", "a part"), list(found), series,
                                      f"share {READINGS['loss_share']}"))
    rows = [["adapter", "layer", "kind", "u", "ci_low", "ci_high", "share", "loss", "loss_share"]]
    rows += [[name, layer, kind, e["u"], *e["ci"], e["share"], e["loss"], e["loss_share"]]
             for name, about in found.items()
             for layer, both in {**about["layers"], **about["parts"]}.items() for kind, e in both.items()]
    return [*plots, numbers(rows, found)]


def numbers(rows: list[list], found: dict):
    """All numbers in one CSV, with a picture of what is lost without each layer in the metric's own unit."""
    from dataclasses import replace

    from speechmerge.analysis.charts import grouped_bars

    layers = list(dict.fromkeys(layer for about in found.values() for layer in about["layers"]))
    series = {name: [about["layers"].get(layer, {}).get("without", {}).get("u") for layer in layers]
              for name, about in found.items()}
    bars = grouped_bars("layers", "Lost without each layer", layers, series, "the metric, higher is better")
    return replace(bars, rows=rows)


def lines(found: dict) -> list[str]:
    rows = []
    for name, about in found.items():
        base, full = about["base"]["value"], about["full"]["value"]
        rows.append([f"{name} ({about['metric']} {base:.3f} -> {full:.3f})", "", "", "", ""])
        for layer, both in {**about["layers"], **about["parts"]}.items():
            rows.append([f"  {layer}", both["without"]["u"], both["without"]["loss"], both["only"]["u"],
                         both["only"]["loss"]])
    return ["above 0: the layer helps (loss: nats per token)",
            *table(["layer", "without", "loss", "only", "loss"], rows)]
