"""Are adapters of related languages more alike than others?

For each measure of two languages the mean within families less the mean across them, and a permutation test: how often the
same families, filled with the languages at random, differ as much. With few languages all distinct fillings are gone through
(Mantel-like, exact) and the smallest p that is possible at all is said: 1 / their number.

    cosine, phi      of the adapters' changes (see the analyses weights, subspaces): computed here
    transfer         share of the own adapter's gain, and gain, both ways on average: out of analysis.json of `transfer`
    cka              of encoder states, mean of the layers: out of analysis.json of `representations`
"""
import functools
import itertools
import math
import random
from collections import Counter
from pathlib import Path

from speechmerge.analysis.base import ANALYSES, TOTAL, Analysis, Findings, number, table
from speechmerge.done import content
from speechmerge.errors import UsageError
from speechmerge.families import groups, lineage
from speechmerge.files import fingerprint, read_json
from speechmerge.merge.parameters import Parameter

ENOUGH = 0.05  # p below which people conclude something
OTHERS = ("transfer", "representations")  # analyses whose results are read


@ANALYSES.register("families")
class Families(Analysis):
    """Likeness of adapters within and across language families, with a permutation test."""

    parameters = (
        Parameter("tree", dict, {}, "{family: [adapters]}; others are families of their own. Default: a table of languages"),
        Parameter("level", ("branch", "family"), "branch", "of that table: Romance, or Indo-European"),
        Parameter("rank", int, 16, "leading directions of each delta for phi, at most", low=1),
        Parameter("transfer", str, None, "analysis.json of that analysis; default: in the folder beside"),
        Parameter("representations", str, None, "the same"),
        Parameter("permutations", int, 10000, "beyond so many distinct ones that many random ones are drawn", low=99),
        Parameter("seed", int, 0, "of that draw", low=0),
    )

    def key(self) -> str:
        return fingerprint([content(self.other(name)) for name in OTHERS])

    def other(self, name: str) -> Path:
        return Path(self.values[name] or self.study.output_dir.absolute().parent / name / "analysis.json")

    def run(self) -> Findings:
        names = self.study.names
        if len(names) < 3:
            raise UsageError("--adapters: families are compared between adapters of languages; name at least three")
        found = self.families()
        family = {name: group for group, members in found.items() for name in members}
        order = sorted(names, key=lambda name: (list(found).index(family[name]), name))
        measures, notes = self.measures()
        data = {"adapters": order, "families": found, "family": family, "notes": notes,
                "pairs": pairs(order, family, measures),
                "measures": {name: judged(values, names, found, self.values) for name, values in measures.items()},
                "matrices": {name: [[values.get(pair(a, b)) if a != b else None for b in order] for a in order]
                             for name, values in measures.items()}}
        return Findings(data, pictures(data), lines(data))

    def families(self) -> dict[str, list[str]]:
        """Family -> adapters, those of several languages first."""
        names, tree = self.study.names, self.values["tree"]
        if not tree:
            tree = {}
            for name in names:
                known = lineage(name)
                if known is None:
                    raise UsageError(f"options.tree: the adapter {name!r} is not called by the code of a known language; "
                                     "give {family: [adapters]}")
                tree.setdefault(known[self.values["level"] == "branch"], []).append(name)
        return dict(sorted(groups(tree, names, "options.tree").items(), key=lambda item: (-len(item[1]), item[0])))

    def measures(self) -> tuple[dict, list[str]]:
        """({measure: {pair of adapters: value}}, what is missing)"""
        found, notes = self.of_weights(), []
        for name, read in (("transfer", transfer), ("representations", cka)):
            path = self.other(name)
            if not path.is_file():
                notes.append(f"no {name}: {path} is not there; run `speechmerge analyze --kind {name}` first")
                continue
            values = read(read_json(path), self.study.names)
            notes += [f"no {name}: {path} is not of these adapters"] if not values else []
            found.update(values)
        return found, notes

    def of_weights(self) -> dict:
        from speechmerge.analysis.subspaces import compare, directions, mean_by_layer
        from speechmerge.analysis.weights import by_layer, cosines, grams, together
        from speechmerge.merge.compute import computing, ordered

        with computing():
            tensors = together(self.study.vectors)
            cosine = cosines(by_layer(grams(tensors))[TOTAL])
            chosen = [name for name in tensors.names if len(tensors.shape(name)) > 1]
            bases = functools.partial(directions, rank=self.values["rank"])
            parts = ordered(lambda name: compare([bases(delta) for delta in tensors.deltas(name)]), chosen)
            shared = mean_by_layer(dict(zip(chosen, parts)))[TOTAL]["phi"]
        return {name: values for name, matrix in (("cosine", cosine), ("phi", shared))
                if (values := both_ways(matrix, self.study.names))}


def pair(first: str, second: str) -> tuple[str, str]:
    return (first, second) if first < second else (second, first)


def both_ways(matrix, names) -> dict:
    """Pair -> mean of [i][j] and [j][i], of those that are defined; pairs without a value are left out."""
    found = {}
    for (i, first), (j, second) in itertools.combinations(enumerate(names), 2):
        values = [number(value) for value in (matrix[i][j], matrix[j][i]) if value is not None]
        if values := [value for value in values if value is not None]:
            found[pair(first, second)] = sum(values) / len(values)
    return found


def transfer(data: dict, names) -> dict:
    """Out of analysis.json of `transfer`; {} where it does not have all adapters as sets, too."""
    if not set(names) <= set(data["adapters"]) & set(data["sets"]):
        return {}
    return {f"transfer {key}": values for key in ("ratio", "gain")
            if (values := both_ways([[data["adapters"][a][b][key] for b in names] for a in names], names))}


def cka(data: dict, names) -> dict:
    if not set(names) <= set(data["systems"]):
        return {}
    places = [data["systems"].index(name) for name in names]
    layers = [[[layer[i][j] for j in places] for i in places] for layer in data["layers"].values()]
    values = [both_ways(layer, names) for layer in layers]
    common = set.intersection(*(set(part) for part in values))
    return {"cka": {key: sum(part[key] for part in values) / len(values) for key in common}} if common else {}


def judged(values: dict, names, families: dict, options: dict) -> dict:
    """Means within and across families, their difference, p (one-sided: more alike within), how it was found."""
    sizes = sorted(map(len, families.values()), reverse=True)
    possible = distinct(sizes)
    within, across = means(values, [set(members) for members in families.values()])
    found = {"within": within, "across": across, "difference": None, "p": None, "smallest_p": number(1 / possible),
             "arrangements": possible, "exact": possible <= options["permutations"]}
    if within is None or across is None:
        return found
    observed = within - across
    if found["exact"]:
        parts = partitions(sorted(names), sizes)
    else:
        found["smallest_p"] = number(1 / (1 + options["permutations"]))
        parts = drawn(sorted(names), sizes, options["permutations"], options["seed"])
    others = [means(values, part) for part in parts]
    differences = [a - b for a, b in others if a is not None and b is not None]
    extra = 0 if found["exact"] else 1  # the arrangement that was found is one of those drawn
    least = sum(value >= observed - 1e-12 for value in differences) + extra
    return {**found, "difference": observed, "p": number(least / (len(differences) + extra))}


def means(values: dict, families) -> tuple[float | None, float | None]:
    """(mean of pairs within one family, of pairs across), None where there are none."""
    parts = {True: [], False: []}
    for (first, second), value in values.items():
        parts[any(first in family and second in family for family in families)].append(value)
    return tuple(sum(part) / len(part) if part else None for part in (parts[True], parts[False]))


def distinct(sizes) -> int:
    """How many ways there are to share sum(sizes) languages out into unnamed families of these sizes."""
    ways = math.factorial(sum(sizes))
    for size in sizes:
        ways //= math.factorial(size)
    for same in Counter(sizes).values():
        ways //= math.factorial(same)
    return ways


def partitions(names, sizes):
    """All of them, each once: the first name's family is chosen, then those of the rest."""
    if not names:
        yield []
        return
    first, rest = names[0], names[1:]
    for size in sorted(set(sizes)):
        others = list(sizes)
        others.remove(size)
        for chosen in itertools.combinations(rest, size - 1):
            left = [name for name in rest if name not in chosen]
            for part in partitions(left, others):
                yield [{first, *chosen}, *part]


def drawn(names, sizes, count: int, seed: int):
    draw = random.Random(seed)
    for _ in range(count):
        mixed = iter(draw.sample(names, len(names)))
        yield [set(itertools.islice(mixed, size)) for size in sizes]


def pairs(order, family: dict, measures: dict) -> list[dict]:
    return [{"first": a, "second": b, "families": [family[a], family[b]], "same": family[a] == family[b],
             **{name: values.get(pair(a, b)) for name, values in measures.items()}}
            for a, b in itertools.combinations(order, 2)]


def pictures(data: dict) -> list:
    from speechmerge.analysis.charts import dendrogram, grouped_bars, heat_map
    from speechmerge.report.figure import slug

    order, family = data["adapters"], data["family"]
    labels = [name if family[name] == name else f"{name} ({family[name]})" for name in order]
    plots = [heat_map(f"families_{slug(name)}", f"{name} of each two adapters, by family", labels, order, matrix)
             for name, matrix in data["matrices"].items()]
    if cosine := data["matrices"].get("cosine"):
        distances = [[0.0 if i == j else 1 - (value or 0.0) for j, value in enumerate(row)]
                     for i, row in enumerate(cosine)]
        plots.append(dendrogram("families_tree", "Adapters by 1 - cosine, average linkage", labels, distances))
    measures = data["measures"]
    series = {key: [part[key] for part in measures.values()] for key in ("within", "across")}
    return plots + [grouped_bars("families_means", "Within families and across them", list(measures), series, "mean")]


def lines(data: dict) -> list[str]:
    shown = [f"{family}: {' '.join(members)}" for family, members in data["families"].items()]
    rows = [[name, *(part[key] for key in ("within", "across", "difference", "p"))]
            for name, part in data["measures"].items()]
    found = ["; ".join(shown), *table(["measure", "within", "across", "difference", "p"], rows)]
    part = next(iter(data["measures"].values()))
    if part["p"] is None:
        found.append("nothing to compare: it takes a family of two languages, and another family")
    elif part["smallest_p"] > ENOUGH:
        found.append(f"too few languages to conclude anything: p can be no smaller than {part['smallest_p']:.3f} "
                     f"(1 of {part['arrangements']} ways to fill the families)")
    return found + data["notes"]
