"""Families of languages: the table, the permutation test against a plain enumeration, the verb on small adapters."""
import itertools
import json
import math

import numpy as np
import pytest
from adapters import make_adapter, make_base, merged_weights

from speechmerge.analysis.families import both_ways, cka, distinct, drawn, judged, means, partitions, transfer
from speechmerge.cli import main
from speechmerge.corpora.fleurs.languages import LANGUAGES, language_code
from speechmerge.errors import UsageError
from speechmerge.families import FAMILIES, LINEAGES, groups, lineage

OPTIONS = {"permutations": 10000, "seed": 0}


def test_the_table_has_each_language_of_fleurs_once():
    listed = [code for branches in FAMILIES.values() for codes in branches.values() for code in codes.split()]
    assert sorted(listed) == sorted(map(language_code, LANGUAGES)) and len(listed) == len(LINEAGES) == 102


@pytest.mark.parametrize("name, expected", [
    ("hi", ("Indo-European", "Indo-Aryan")), ("pa_in", ("Indo-European", "Indo-Aryan")), ("it-r16", ("Indo-European", "Romance")),
    ("te", ("Dravidian", "South Dravidian")), ("fi", ("Uralic", "Finnic")), ("mt", ("Afro-Asiatic", "Semitic")), ("asr", None)])
def test_lineages(name, expected):
    assert lineage(name) == expected


def test_groups_hold_every_label_once():
    assert groups({"romance": ["it", "fr"]}, ["te", "it", "fr"], "tree") == {"romance": ["it", "fr"], "te": ["te"]}
    for tree, message in (({"a": ["xx"]}, "names 'xx'"), ({"a": ["it"], "b": ["it"]}, "twice"), ({"te": ["it"]}, "called as")):
        with pytest.raises(UsageError, match=message):
            groups(tree, ["te", "it", "fr"], "tree")


@pytest.mark.parametrize("sizes", [(2, 1, 1), (3, 1), (2, 2), (3, 2, 1), (2, 2, 2), (1, 1, 1)])
def test_every_arrangement_comes_once(sizes):
    names = "abcdef"[:sum(sizes)]
    expected = set()
    for order in itertools.permutations(names):  # plainly: all orders, cut into pieces
        letters = iter(order)
        expected.add(frozenset(frozenset(itertools.islice(letters, size)) for size in sizes))
    found = [frozenset(map(frozenset, part)) for part in partitions(names, sizes)]
    assert len(found) == len(set(found)) == distinct(sizes) and set(found) == expected


def symmetric(names, related, inside, outside):
    return {tuple(sorted(couple)): inside if set(couple) <= related else outside for couple in itertools.combinations(names, 2)}


def test_p_is_the_share_of_arrangements():
    names = ["es", "fr", "it", "ru", "te"]
    values = symmetric(names, {"es", "fr", "it"}, 0.4, 0.1)
    found = judged(values, names, {"romance": ["es", "fr", "it"], "slavic": ["ru"], "d": ["te"]}, OPTIONS)
    assert found["within"] == pytest.approx(0.4) and found["across"] == pytest.approx(0.1)
    assert found["arrangements"] == math.comb(5, 3) and found["exact"]
    assert found["p"] == found["smallest_p"] == 0.1
    other = judged(values, names, {"wrong": ["es", "ru", "te"], "fr": ["fr"], "it": ["it"]}, OPTIONS)
    assert other["difference"] < 0 and other["p"] > 0.5


def test_many_languages_are_drawn_and_agree_with_all():
    generator = np.random.default_rng(0)
    names = [f"l{i}" for i in range(8)]
    values = {couple: generator.normal() + (couple in [("l0", "l1"), ("l2", "l3")]) for couple in itertools.combinations(names, 2)}
    families = {str(i): [f"l{2 * i}", f"l{2 * i + 1}"] for i in range(4)}
    exact = judged(values, names, families, OPTIONS)
    sample = judged(values, names, families, {"permutations": 99, "seed": 1})
    assert exact["arrangements"] == 105 and exact["exact"] and not sample["exact"] and sample["smallest_p"] == 0.01
    close = judged(values, names, families, {"permutations": 104, "seed": 1})
    assert not close["exact"] and abs(close["p"] - exact["p"]) < 0.15
    assert all(sorted(map(len, part)) == [2, 2, 2, 2] for part in drawn(names, [2] * 4, 5, 0))


def test_nothing_to_compare_has_no_p():
    names = ["hi", "it", "te"]
    found = judged(symmetric(names, set(), 1, 0.5), names, {name: [name] for name in names}, OPTIONS)
    assert found["within"] is None and found["p"] is None
    assert means({("a", "b"): 1.0}, [{"a", "b"}]) == (1.0, None)


def test_numbers_of_other_analyses_are_taken_both_ways():
    cells = {"a": {"a": 1.0, "b": 0.5}, "b": {"a": 0.1, "b": 1.0}}
    rows = {first: {second: {"ratio": value, "gain": None} for second, value in row.items()} for first, row in cells.items()}
    data = {"sets": {"a": {}, "b": {}}, "adapters": rows}
    assert transfer(data, ["b", "a"]) == {"transfer ratio": {("a", "b"): pytest.approx(0.3)}}
    assert transfer(data, ["a", "c"]) == {}
    layers = {"0": [[1, 1, 1], [1, 1, 0.4], [1, 0.4, 1]], "1": [[1, 1, 1], [1, 1, 0.8], [1, 0.8, 1]]}
    assert cka({"systems": ["base", "a", "b"], "layers": layers}, ["a", "b"]) == {"cka": {("a", "b"): pytest.approx(0.6)}}
    assert both_ways([[1, None], [float("nan"), 1]], ["a", "b"]) == {}


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    root = tmp_path_factory.mktemp("languages")
    base = make_base(root / "base")
    return root, [make_adapter(base, root / name, seed=seed) for seed, name in enumerate(("te", "hi", "it", "fr"))]


def analyze(root, names, *words):
    return main(list(map(str, ["analyze", "--kind", "families", "--model", root / "base", "--exp-dir", root / "exp", "--adapters",
                               *(root / name for name in names), "--output-dir", root / "exp/analysis/families", *words])))


def test_end_to_end(adapters, capsys):
    root, folders = adapters
    assert analyze(root, ["te", "hi", "it", "fr"]) == 0
    found = json.loads((root / "exp/analysis/families/analysis.json").read_text())
    assert found["adapters"] == ["fr", "it", "hi", "te"] and found["families"]["Romance"] == ["it", "fr"]
    changes = {folder.name: merged_weights(root / "base", folder) for folder in folders[2:]}
    shared = sorted(name for name in changes["it"] if name in changes["fr"])
    first, second = (np.concatenate([changes[name][key].double().numpy().ravel() for key in shared]) for name in ("it", "fr"))
    expected = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    assert found["measures"]["cosine"]["within"] == pytest.approx(expected, abs=1e-5)
    assert found["matrices"]["cosine"][0][1] == pytest.approx(expected, abs=1e-5) and found["matrices"]["cosine"][0][0] is None
    assert found["measures"]["phi"]["arrangements"] == 6
    printed = capsys.readouterr().out
    assert "too few languages" in printed and "0.167" in printed and "analyze --kind transfer" in printed
    folder = root / "exp/analysis/transfer"
    folder.mkdir(parents=True)
    names = ["te", "hi", "it", "fr"]
    table = {a: {b: {"ratio": 0.5 if {a, b} == {"it", "fr"} else 0.0, "gain": 0.1} for b in names} for a in names}
    folder.joinpath("analysis.json").write_text(json.dumps({"sets": dict.fromkeys(names, {}), "adapters": table}))
    assert analyze(root, names) == 0 and "kept" not in capsys.readouterr().out
    found = json.loads((root / "exp/analysis/families/analysis.json").read_text())
    ratio = found["measures"]["transfer ratio"]
    assert ratio["difference"] == 0.5 and ratio["p"] == pytest.approx(1 / 6, abs=1e-6)
    assert {path.name for path in (root / "exp/analysis/families").glob("*.png")} >= {"families_cosine.png", "families_tree.png"}


def test_trees_and_errors(adapters, capsys):
    root, _ = adapters
    assert analyze(root, ["te", "hi", "it"], "--options", "{tree: {indian: [te, hi]}}") == 0
    found = json.loads((root / "exp/analysis/families/analysis.json").read_text())
    assert found["families"] == {"indian": ["te", "hi"], "it": ["it"]}
    assert analyze(root, ["te", "hi"]) == 2
    assert analyze(root, ["te", "hi", "it"], "--options", "{tree: {indian: [te, fr]}}") == 2
    assert "options.tree names 'fr'" in capsys.readouterr().err
