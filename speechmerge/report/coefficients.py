"""How much of each adapter a merge takes: in all and, where coefficients were learned or given by layer, layer by layer;
and what sweeps found."""
import statistics
from pathlib import Path

from speechmerge.blocks import group_of
from speechmerge.errors import SpeechMergeError
from speechmerge.files import read_json
from speechmerge.report.figure import Plot, slug
from speechmerge.report.listing import Listing, Shown
from speechmerge.report.tables import Results
from speechmerge.report.wording import all_parameters, natural, signed
from speechmerge.systems import located

MOST_PLOTS = 6  # of merges layer by layer


def coefficient_plots(results: Results) -> list[Plot]:
    """One picture of all merges by adapters, and one by layers of each merge whose layers differ."""
    totals, layered = {}, []
    for system in results.of_kind("merged"):
        found = coefficients(system, results.exp_dir)
        if found is None:
            continue
        labels, rows = found
        totals[system.label] = dict(zip(labels, column_means(rows.values())))
        if len({tuple(row) for row in rows.values()}) > 1:
            layered.append((system, labels, rows))
    plots = [by_layer(*entry) for entry in layered[:MOST_PLOTS]]
    if any(len(set(row.values())) > 1 for row in totals.values()):
        plots.insert(0, by_merge(totals))
    return plots


def coefficients(system, exp_dir) -> tuple[list[str], dict[str, list[float]]] | None:
    """(names of the adapters, {block: a coefficient for each}), means over a block's parameters, as the merge's metadata
    says. None where the merge is no weighted sum or its metadata is not there."""
    from speechmerge.merge.method import Linear
    from speechmerge.merge.policies import make_policy
    from speechmerge.merge.registry import METHODS

    path = Path(located(system.path or ".", exp_dir)) / "merge_metadata.json"
    record = read_json(path) if system.path and path.is_file() else {}
    labels = [adapter.get("name") or Path(adapter["path"]).parent.name for adapter in record.get("adapters", [])]
    policy, names = record.get("lambda_policy"), parameter_names(record)
    try:
        rule = METHODS.get(record["method"])(record["method"], labels, record.get("params") or {}, policy) if labels else None
        if not isinstance(rule, Linear):
            return None
        if policy is not None:
            rule.policy = make_policy(policy, rule, names)
        rows = {name: [float(number) for number in rule.coefficients(name)] for name in names or ["all"]}
    except SpeechMergeError:  # of a version whose methods had other parameters: nothing can be said
        return None
    return labels, by_block(rows)


def parameter_names(record: dict) -> list[str]:
    """Of the merged parameters, where the metadata has them; else of the modules in a table."""
    if names := (record.get("error") or {}).get("relative"):
        return sorted(names, key=natural)
    values = (record.get("lambda_policy") or {}).get("values") or {}
    return [f"{module}.weight" for module in values]


def by_block(rows: dict[str, list[float]]) -> dict[str, list[float]]:
    """Parameter -> numbers, as block -> their means: encoder, decoder, then what lies outside."""
    groups: dict[str, list] = {}
    for name, row in rows.items():
        groups.setdefault(group_of(name, "block"), []).append(row)
    order = sorted(groups, key=lambda group: (group == "outside", not group.startswith("encoder"), natural(group)))
    return {group: column_means(groups[group]) for group in order}


def column_means(rows) -> list[float]:
    """Rounded, so that a mean of equal numbers is the number."""
    return [round(statistics.fmean(column), 9) for column in zip(*rows)]


def by_merge(totals: dict[str, dict[str, float]]) -> Plot:
    from speechmerge.analysis.charts import heat_map

    labels = list(dict.fromkeys(label for row in totals.values() for label in row))
    return heat_map("coefficients", "Coefficient of each adapter in each merge", list(totals), labels,
                    [[row.get(label) for label in labels] for row in totals.values()],
                    "means over all parameters; empty: not part of the merge")


def by_layer(system, labels: list[str], rows: dict[str, list[float]]) -> Plot:
    from speechmerge.analysis.charts import heat_map

    return heat_map(f"coefficients_{slug(system.name)}", f"Coefficients of {system.label}, layer by layer", list(rows),
                    labels, list(rows.values()), "means over the parameters of a block")


def sweeps(exp_dir) -> Listing | None:
    """What every sweep of the experiment searched and found best, in natural order."""
    paths = sorted(Path(exp_dir).glob("merged/*/*/sweeps/sweep_*.json"), key=lambda path: natural(str(path)))
    rows = [row for path in paths if (row := sweep_row(path, read_json(path)))]
    head = ["method", "adapters", "search", "points", "best point", "worst Δ", "chosen on", "sweep"]
    note = "The best point is the one with the best worst task on the split that it was chosen on."
    return Listing("sweeps", "Sweeps", head, rows, note) if rows else None


def sweep_row(path: Path, record: dict) -> list | None:
    done = [point for point in record.get("points", []) if point.get("interference_delta")]
    if not done:
        return None
    ranks = {tag: place for place, tag in enumerate(record.get("ranking", []))}
    best = min(done, key=lambda point: ranks.get(point.get("tag"), len(ranks)))
    deltas = [value for value in best["interference_delta"].values() if value is not None]
    worst = min(deltas, default=None)
    chosen = str(record.get("split")) + (" (the test set itself)" if record.get("selected_on_test") else "")
    return [record.get("method"), path.parents[1].name, (record.get("search") or {}).get("type"), len(done),
            all_parameters(best.get("values") or {}), Shown(worst, signed(worst)), chosen, path.stem]
