"""Routers: how well their classifiers know the labels (exp/router/<name>/report.json), and what routed systems did with
the utterances that they decoded (`routes`)."""
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from speechmerge.files import read_json
from speechmerge.report.figure import Plot, slug
from speechmerge.report.listing import Listing, Shown
from speechmerge.report.tables import Results, System
from speechmerge.report.wording import natural, percent


@dataclass(frozen=True)
class RouterReport:
    """`listings`: accuracy by split, by duration, by label; `plots`: confusions of each split."""
    name: str
    command: str
    listings: list[Listing] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)


def router_reports(exp_dir, split: str) -> list[RouterReport]:
    """Of every router of the experiment; confusions of the reported split, else of the last one it was tried on."""
    paths = sorted(Path(exp_dir).glob("router/**/report.json"), key=lambda path: natural(str(path)))
    records = [(path.parent, read_json(path)) for path in paths]
    return [router_report(folder, record, split) for folder, record in records if record.get("splits")]


def router_report(folder: Path, record: dict, split: str) -> RouterReport:
    name, splits = folder.name, record["splits"]
    shown = split if split in splits else list(splits)[-1]
    head = ["split", "utterances", "accuracy", "over 2 s", "calibration error"]
    accuracy = Listing(f"router_{slug(name)}", "By split", head,
                       [[key, row["n"], share(row["accuracy"]), share(row.get("accuracy_over_2s")), share(row.get("ece"))]
                        for key, row in splits.items()])
    ranges = list(splits[shown].get("by_duration", {}).items())
    duration = Listing(f"router_{slug(name)}_duration", f"By duration ({shown})", ["duration", "utterances", "accuracy"],
                       [[key, row["n"], share(row["accuracy"])] for key, row in ranges])
    labels = Listing(f"router_{slug(name)}_label", f"By label ({shown})", ["label", "accuracy"],
                     [[key, share(value)] for key, value in splits[shown].get("by_label", {}).items()])
    plots = [confusion_plot(name, splits[shown], shown)]
    filled = [table for table in (accuracy, duration, labels) if table.rows]
    return RouterReport(name, record.get("command", ""), filled, plots)


def share(value: float | None) -> Shown:
    return Shown(value, percent(value))


def confusion_plot(name: str, row: dict, split: str) -> Plot:
    """Counts as shares of each true label."""
    from speechmerge.analysis.charts import heat_map

    labels = row["labels"]
    shares = [[count / sum(counts) if sum(counts) else None for count in counts] for counts in row["confusion"]]
    return heat_map(f"confusion_{slug(name)}", f"Router {name}: true label against chosen ({split})", labels, labels, shares,
                    "columns: what was chosen; shares of each row", limit=1.0)


def routed_shares(results: Results) -> tuple[Plot, Listing] | None:
    """(picture, table) of the mean weight of each label in every routed system on every set, with how many utterances
    had their own set as the most probable label."""
    rows, labels = [], []
    for system in results.of_kind("routed"):
        for task in results.tasks:
            path = results.decode_dir(system.name, task.name) / "routes"
            if path.is_file():
                lines = path.read_text(encoding="utf-8").splitlines()
                rows.append((system, task.name, *read_routes(lines)))
                labels += [label for label in rows[-1][3] if label not in labels]
    if not rows:
        return None
    return share_plot(rows, labels), share_listing(rows, labels)


def read_routes(lines: list[str]) -> tuple[Counter, dict[str, float]]:
    """(most probable labels, label -> mean weight) of the lines of a `routes` file.

    A line is `utterance label probability`, then `label=weight` or, by frames, `start-end=label` in seconds, which
    weighs a label by its share of the time.
    """
    chosen, totals = Counter(), Counter()
    for line in lines:
        _, label, _, *parts = line.split()
        chosen[label] += 1
        totals.update(line_weights(parts))
    return chosen, {label: total / len(lines) for label, total in sorted(totals.items(), key=lambda item: natural(item[0]))}


def line_weights(parts: list[str]) -> dict[str, float]:
    """Weights of one line; those of stretches add up to 1."""
    spans, weights = Counter(), Counter()
    for part in parts:
        left, _, right = part.rpartition("=")
        start, dash, end = left.partition("-")
        if dash and is_number(start) and is_number(end):
            spans[right] += float(end) - float(start)
        elif is_number(right):
            weights[left] += float(right)
    seconds = sum(spans.values())
    return {label: length / seconds for label, length in spans.items()} if seconds else weights


def is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdecimal()


def own_label(system: System, task: str, chosen: Counter) -> float | None:
    """Share of utterances whose most probable label is their set, where the router has a label of that name."""
    return chosen[task] / chosen.total() if task in chosen or task in system.tasks else None


def share_plot(rows, labels: list[str]) -> Plot:
    from speechmerge.analysis.charts import heat_map

    return heat_map("routed_shares", "Mean weight of each adapter", [f"{system.label}, {task}" for system, task, *_ in rows],
                    labels, [[weights.get(label, 0.0) for label in labels] for *_, weights in rows],
                    "rows: routed system, set that was decoded; columns: label of the router", limit=1.0)


def share_listing(rows, labels: list[str]) -> Listing:
    table = [[system.label, task, chosen.total(), share(own_label(system, task, chosen)),
              *(Shown(weights.get(label, 0.0), f"{weights.get(label, 0.0):.3f}") for label in labels)]
             for system, task, chosen, weights in rows]
    head = ["system", "set", "utterances", "routed to its own label", *labels]
    return Listing("routed_systems", "What routed systems did", head, table, "Weights are means over the utterances; by frames, shares of the time.")
