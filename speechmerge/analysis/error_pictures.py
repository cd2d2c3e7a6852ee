"""Pictures and tables of the analysis `errors`: what is wrong per set and system, and what a merge changes of it."""
from dataclasses import replace

from speechmerge.analysis.base import table
from speechmerge.metrics.error_types import CLASSES, script

# substitutions in blue to green, insertions in red to orange, deletions in grey; neighbours differ in hatching, too
LOOKS = {"script": ("#08306b", ""), "language": ("#1d63b0", "//"), "unjudged": ("#c9ced6", "xx"),
         "spelling": ("#a9c6e8", ""), "phonetic": ("#2f9fd0", ".."), "oov": ("#007a5a", ""), "other": ("#8fcdb8", "\\\\"),
         "hallucination": ("#8c3b00", ""), "insertion": ("#f0b429", "//"), "truncation": ("#3a3a3a", ""),
         "deletion": ("#9aa2ad", "..")}
SHOWN = 8  # of the most frequent pairs of each set
HEAD = ["system", "kind", "words", "class", "errors", "per_100_words", "ci_low", "ci_high"]


def pictures(data: dict) -> list:
    plots = []
    for name, about in data["sets"].items():
        plots.append(stacked_bars(name, about))
        if about["changes"]:
            plots.append(changed(name, about))
    return plots + [plot for key in ("words", "phones") if (plot := confusions(data, key))]


def stacked_bars(name: str, about: dict):
    """Errors per 100 reference words, one bar for each system: together they are its WER in percent."""
    from speechmerge.report.figure import Plot, label_room, name_rows, new_axes, png, slug

    systems = about["systems"]
    title = f"Errors of each kind on {name}"
    figure, axes = new_axes(6.4 + label_room(list(systems)), 1.9 + 0.27 * len(systems), title, grid="x")
    left = [0.0] * len(systems)
    for kind in CLASSES:
        widths = [found["per_100"][kind] or 0.0 for found in systems.values()]
        if any(widths):
            colour, hatch = LOOKS[kind]
            axes.barh(range(len(systems)), widths, left=left, height=0.74, color=colour, hatch=hatch, edgecolor="white",
                      linewidth=0.3, label=kind, zorder=2)
            left = [a + b for a, b in zip(left, widths)]
    name_rows(axes, list(systems))
    axes.set_xlabel("errors per 100 reference words (WER in %)", fontsize=9)
    if any(left):
        figure.legend(loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    rows = [HEAD]
    for system, found in systems.items():
        rows += [[system, found["kind"], about["words"], kind, found["counts"][kind], found["per_100"][kind],
                  *(found["ci"][kind] or (None, None))] for kind in CLASSES]
    alt = "; ".join(f"{system} {100 * found['wer']:.1f}" for system, found in systems.items())
    return Plot(f"errors_{slug(name)}", title, f"Stacked bars, errors per 100 words: {alt}.", png(figure), rows)


def changed(name: str, about: dict):
    """What each system saves (blue) or adds (orange) against the set's own adapter, net, per 100 reference words."""
    from speechmerge.analysis.charts import heat_map
    from speechmerge.report.figure import slug

    found = about["changes"]
    kinds = [kind for kind in CLASSES if any(change["net"].get(kind) for change in found.values())]
    values = [[None if change["net"][kind] is None else 0.0 - change["net"][kind] for kind in kinds]
              for change in found.values()]
    rows = [["system", "against", "class", "added", "removed", "net_per_100_words", "ci_low", "ci_high"]]
    for system, change in found.items():
        rows += [[system, change["against"], kind, change["added"][kind], change["removed"][kind], change["net"][kind],
                  *(change["ci"][kind] or (None, None))] for kind in CLASSES]
    plot = heat_map(f"errors_changed_{slug(name)}", f"Errors per 100 words saved against the own adapter on {name}",
                    list(found), kinds or ["none"], values if kinds else [[0.0]] * len(found), "above 0: fewer errors")
    return replace(plot, rows=rows)


def confusions(data: dict, key: str):
    """The most frequent pairs of words or phones of each set, by system; None where there are none."""
    from speechmerge.analysis.charts import heat_map

    systems = list(dict.fromkeys(system for about in data["sets"].values() for system in about["systems"]))
    labels, values, rows = [], [], [["set", "said", "written", *systems]]
    for name, about in data["sets"].items():
        for place, (said, written, counts) in enumerate(about["confused"][key]):
            rows.append([name, said, written, *(counts.get(system) for system in systems)])
            if place < SHOWN:
                labels.append(f"{name}: {said} > {written}" if drawable(said + written) else f"{name}: pair {place + 1}")
                values.append([float(value) if value is not None else None for value in rows[-1][3:]])
    if not labels:
        return None
    title = f"Most frequent confusions of {key}, how often"
    note = "said > written; all of them in the CSV"
    return replace(heat_map(f"confused_{key}", title, labels, systems, values, note), rows=rows)


def drawable(text: str) -> bool:
    """Whether the pictures' font has these letters; it has no Indic ones and could not join them."""
    return all(script(c) in (None, "LATIN", "CYRILLIC", "GREEK", "MODIFIER") for c in text)


def lines(data: dict) -> list[str]:
    found = []
    for name, about in data["sets"].items():
        kinds = [kind for kind in CLASSES if any(part["per_100"][kind] for part in about["systems"].values())]
        rows = [[system, 100 * part["wer"], *(part["per_100"][kind] for kind in kinds)]
                for system, part in about["systems"].items()]
        found.append(f"{name}: errors per 100 words of {about['words']}; - : not defined")
        found += table(["system", "wer", *kinds], rows)
        found += [f"  {note}" for note in about["notes"]]
        if about["changes"]:
            rows = [[system, change["against"], sum(change["added"].values()), sum(change["removed"].values()),
                     *worst(change)] for system, change in about["changes"].items()]
            head = [f"{name}: against the own adapter", "it is", "added", "removed", "most added", "most saved"]
            found += table(head, rows, 15)
    return found


def worst(change: dict) -> tuple[str | None, str | None]:
    """The classes that grew and shrank most, net, where their intervals leave out 0."""
    sure = {kind: value for kind, value in change["net"].items()
            if value and change["ci"][kind][0] * change["ci"][kind][1] > 0}
    more = max(sure, key=sure.get, default=None)
    less = min(sure, key=sure.get, default=None)
    return (more if more and sure[more] > 0 else None), (less if less and sure[less] < 0 else None)

