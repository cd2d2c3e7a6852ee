"""The one schema of merges and searches: errors by key path, older schemas, searches, and one file for both verbs."""
import argparse
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from adapters import make_adapter, make_base
from tiny import tiny_tones

from speechmerge import cli, sweep
from speechmerge.data.directory import DataDir
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.files import read_json, write_json
from speechmerge.merge.config.legacy import translate
from speechmerge.merge.config.search_space import read_search, read_subset
from speechmerge.merge.config.spec import MergeSpec
from speechmerge.merge.config.spec_options import grid_axis, spec_of, words_of
from speechmerge.merge.registry import METHODS
from speechmerge.search import searcher, warm_points
from speechmerge.stages import merge as merge_verb
from speechmerge.stages import merge_sweep
from speechmerge.subset import choose, shares, write_subsets
from speechmerge.tasks import get_task

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "conf" / "merge").glob("*.yaml"))
BAYES = {"type": "bayes", "space": {"scale": {"type": "float", "min": 0, "max": 1}}}


# errors

@pytest.mark.parametrize("values, message", [
    ({"methd": "ties"}, "methd: unknown key; did you mean 'method'?"),
    ({"adapters": "asr"}, "adapters: found 'asr', expected a list of at least one name"),
    ({"adapters": []}, "adapters: found [], expected a list of at least one name"),
    ({"adapters": ["asr", 3]}, "adapters[1]: found 3, expected a name"),
    ({"method": "tise"}, "method: unknown method 'tise'; did you mean 'ties'?"),
    ({"merge_mode": "some"}, "merge_mode: found 'some', expected common | strict (--merge-mode: what happens"),
    ({"method": "ties", "method_params": 3}, "method_params: found 3, expected a mapping"),
    ({"method": "ties", "method_params": {"density": 3}},
     "method_params.density: unknown parameter 'density' of method ties;"),
    ({"method": "ties", "method_params": {"k": "many"}},
     "method_params.k: found 'many', expected number, 0 <= k <= 100"),
    ({"method": "ties", "method_params": {"k": 120}}, "method_params.k: found 120, expected number, 0 <= k <= 100"),
    ({"method": "weighted", "method_params": {"coefficients": {"asr": "x"}}},
     "method_params.coefficients: found ['x'], expected one number"),
    ({"transforms": [{"name": "identity"}, {"name": "layer_l2_normalize", "params": {"target_nrom": 1}}]},
     "transforms[1].params.target_nrom: unknown key; did you mean 'target_norm'?"),
    ({"transforms": ["trm"]}, "transforms[0].name: unknown transform 'trm'; did you mean 'trim'?"),
    ({"lambda_policy": {"type": "per_layer"}}, "lambda_policy.overrides: missing"),
    ({"method": "task_vector", "lambda_policy": "a"}, "lambda_policy.value: found 'a', expected number"),
    ({"method": "ties", "lambda_policy": {"type": "per_layer", "overrides": {"encoder": {0: [1]}}}},
     "lambda_policy.overrides.encoder.0: found [1], expected number"),
    ({"method": "ties", "lambda_policy": 0.5, "method_params": {"lambda": 0.4}},
     "lambda_policy.value: method_params.lambda says it, too; give one of them"),
    ({"method": "weighted", "lambda_policy": 0.5, "method_params": {"lambda": 0.4}},
     "lambda_policy.value: method_params.lambda says it"),
    ({"optimizer": {"type": "supermrge"}}, "optimizer.type: unknown optimizer 'supermrge'; did you mean 'supermerge'?"),
    ({"optimizer": {"type": "supermerge", "params": [1]}}, "optimizer.params: found [1], expected a mapping"),
    ({"optimizer": {"tpye": "none"}}, "optimizer.tpye: unknown key; did you mean 'type'?"),
    ({"search": {"type": "annealing"}}, "search.type: found 'annealing', expected one of grid, bayes"),
    ({"search": {"grid": {}}}, "search.grid: nothing to search"),
    ({"search": {"grid": {"lambda": 3}}}, "search.grid.lambda: found 3, expected a list"),
    ({"search": {"grid": {"scale": [1]}, "gird": 1}}, "search.gird: unknown key; did you mean 'grid'?"),
    ({"search": {"grid": {"scale": [1]}, "budget": 1}}, "search.budget: belongs to search.type bayes, found grid"),
    ({"method": "task_vector", "search": {"grid": {"scale": [0.5, "a"]}}},
     "search.grid.scale[1]: found 'a', expected number"),
    ({"method": "task_vector", "search": {"grid": {"scal": [0.5]}}},
     "search.grid.scal[0]: unknown parameter 'scal' of method task_vector; did"),
    ({"method": "task_vector", "search": {"grid": {"transforms[0].params.k": [1]}}},
     "search.grid.transforms[0].params.k[0]: there are 0 items"),
    ({"method": "task_vector", "transforms": ["trim"], "search": {"grid": {"transforms[0].params.kk": [1]}}},
     "search.grid.transforms[0].params.kk[0]: unknown key; did you mean 'k'?"),
    ({"method": "task_vector", "search": {"type": "bayes"}}, "search.space: nothing to search"),
    ({"method": "task_vector",
      "search": {"type": "bayes", "space": {"scale": {"type": "float", "min": "a", "max": 1}}}},
     "search.space.scale.min: found 'a', expected number"),
    ({"method": "task_vector", "search": {"type": "bayes", "space": {"scale": {"type": "float", "max": 1}}}},
     "search.space.scale.min: missing"),
    ({"method": "task_vector", "search": {"type": "bayes", "space": {"scale": {"type": "flaot"}}}},
     "search.space.scale.type: found 'flaot'"),
    ({"method": "task_vector", "search": {"type": "bayes", "space": {"scale": {"min": 1, "max": 1}}}},
     "search.space.scale.max: found 1.0, expected more than min, 1.0"),
    ({"method": "task_vector", "search": {"type": "bayes", "space": {"scale": {"type": "log", "min": 0, "max": 1}}}},
     "search.space.scale.min: found 0, expected number"),
    ({"method": "task_vector", "search": {"type": "bayes", "space": {"mode": {"type": "categorical", "choices": []}}}},
     "search.space.mode.choices: found []"),
    ({"method": "task_vector",
      "search": {"type": "bayes", "space": {"mode": {"type": "categorical", "choices": ["product", "sum"]}}}},
     "search.space.mode.choices[1]: found 'sum', expected product | factors"),
    ({"method": "ties", "search": {"type": "bayes", "space": {"k": {"min": 0, "max": 200}}}},
     "search.space.k.max: found 200.0, expected number"),
    ({"search": {**BAYES, "budget": 0}}, "search.budget: found 0, expected integer, 1 <= budget"),
    ({"search": {**BAYES, "budget": 3, "init_points": 4}},
     "search.init_points: found 4, expected at most the budget, 3"),
    ({"search": {**BAYES, "warm_start_sweeps": [3]}}, "search.warm_start_sweeps: found [3], expected files"),
    ({"method": "task_vector", "constraint_nonnegative": True, "search": {"grid": {"scale": [1, -0.5]}}},
     "search.grid.scale[1]: constraint_nonnegative, but the grid has scale=-0.5"),
    ({"method": "task_vector", "constraint_nonnegative": True,
      "search": {"type": "bayes", "space": {"scale": {"min": -1, "max": 1}}}},
     "search.space.scale.min: constraint_nonnegative, but the bayes has scale=-1.0"),
    ({"eval_tasks": "asr"}, "eval_tasks: found 'asr', expected a list"),
    ({"eval_subset": {"max_smaples": 1}}, "eval_subset.max_smaples: unknown key; did you mean 'max_samples'?"),
    ({"eval_subset": {"enabled": True}}, "eval_subset.max_samples: missing"),
    ({"eval_subset": {"per_task": {"asr": {"max_samples": 0}}}},
     "eval_subset.per_task.asr.max_samples: found 0, expected integer"),
    ({"save_merged": "yes"}, "save_merged: found 'yes', expected true or false (--save-merged"),
    ({"save": "peft"}, "save: found 'peft', expected lora | full"),
    ({"rank": 0}, "rank: found 0, expected integer, 1 <= rank (--rank"),
    ({"rank": 4, "save": "full"}, "rank: found 4 with save full; --rank is for --save lora"),
    ({"threads": "many"}, "threads: found 'many', expected integer"),
    ({"output_dir": ["a"]}, "output_dir: found ['a'], expected a text"),
])
def test_errors_name_the_key(values, message):
    with pytest.raises(UsageError) as error:
        MergeSpec.of(values)
    assert str(error.value).startswith(message)


def test_a_spec_is_complete_and_makes_itself_again():
    spec = MergeSpec.of({"method": "ties", "transforms": ["trim"], "lambda_policy": 0.4, "split": "validation",
                         "optimizer": "none",
                         "search": {"type": "bayes", "space": {"k": {"type": "int", "min": 1, "max": 40}}}})
    assert spec.transforms == [{"name": "trim", "params": {"k": 20.0, "scope": "all"}}] and spec.split == "dev"
    assert spec.lambda_policy == {"type": "scalar", "value": 0.4}
    assert spec.search["space"] == {"k": {"type": "int", "min": 1, "max": 40}} and spec.search["budget"] == 20
    assert MergeSpec.of(spec.values()) == spec


def test_points_by_key_path():
    spec = MergeSpec.of({"method": "weighted", "method_params": {"coefficients": {"asr": 1, "kws": 1}},
                         "transforms": ["trim"],
                         "search": {"grid": {"coefficients.kws": [0.5]}}})
    point = spec.at({"coefficients.kws": 0.5, "transforms[0].params.k": 50})
    assert point.method_params == {"coefficients": {"asr": 1, "kws": 0.5}} and point.transforms[0]["params"]["k"] == 50
    assert point.search is None and spec.method_params["coefficients"]["kws"] == 1
    layered = MergeSpec.of({"method": "ties",
                            "lambda_policy": {"type": "per_layer", "overrides": {"encoder": {0: 0.2}}}})
    assert layered.at({"lambda_policy.overrides.encoder.0": 0.9}).lambda_policy["overrides"] == {"encoder": {"0": 0.9}}


@pytest.mark.parametrize("values, verb, message", [
    ({"optimizer": "adamerging"}, "merge-sweep", "optimizer.type: adamerging learns coefficients by itself; run `speechmerge merge`"),
    ({"optimizer": "bayes"}, "merge",
     "optimizer.type: bayes is a search over decoded results; run `speechmerge merge-sweep`"),
])
def test_what_cannot_be_run_yet(values, verb, message):
    with pytest.raises(UsageError) as error:
        MergeSpec.of(values).check_runnable(verb)
    assert str(error.value).startswith(message)


def test_bayes_as_optimizer_is_for_the_sweep():
    MergeSpec.of({"optimizer": "bayes"}).check_runnable("merge-sweep")


# older schemas

LEGACY = """\
adapters: [asr, kws]
method: task_vector
params: {scale: 0.3}
grid: {scale: [0.2, 0.5]}
transforms: [ties_scaffold, {name: trim, params: {k: 30}}]
"""
TODAY = """\
adapters:
- asr
- kws
method: task_vector
transforms:
- identity
- name: trim
  params:
    k: 30
search:
  grid:
    scale:
    - 0.2
    - 0.5
  type: grid
method_params:
  scale: 0.3
"""


def test_an_older_file_is_translated_and_printed(tmp_path, capsys):
    path = tmp_path / "old.yaml"
    path.write_text(LEGACY)
    with pytest.warns(DeprecationWarning, match="old.yaml: grid, params, transforms.0.: older schema"):
        spec = MergeSpec.load(path)
    printed = capsys.readouterr().err
    assert printed == f"# {path}, in the keys of today:\n{TODAY}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (tmp_path / "new.yaml").write_text(TODAY)
        assert MergeSpec.load(tmp_path / "new.yaml") == spec
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("old, new", [
    ({"lambda": 0.5}, {"method_params": {"lambda": 0.5}}),
    ({"lambda": 0.5, "method_params": {"k": 3}}, {"method_params": {"k": 3, "lambda": 0.5}}),
    ({"lambda": 0.5, "params": {"lambda": 0.5}}, {"method_params": {"lambda": 0.5}}),
    ({"search_type": "bayes", "search": {"space": {"x": 1}}}, {"search": {"space": {"x": 1}, "type": "bayes"}}),
    ({"grid": {"k": [1]}, "search_type": "grid"}, {"search": {"grid": {"k": [1]}, "type": "grid"}}),
    ({"method": "ties"}, {"method": "ties"}),
])
def test_old_keys(old, new):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert translate(old, "x.yaml") == new


@pytest.mark.parametrize("old, message", [
    ({"lambda": 0.5, "method_params": {"lambda": 0.4}},
     "x.yaml: lambda contradicts method_params.lambda: found 0.5 and 0.4"),
    ({"grid": [1], "search": {"grid": {}}}, r"x.yaml: grid contradicts search.grid"),
    ({"params": 3}, "x.yaml: params: found 3, expected a mapping"),
    ({"lambda": 3, "method_params": [1]}, r"x.yaml: method_params: found \[1\], expected a mapping"),
])
def test_old_keys_that_contradict(old, message):
    with pytest.raises(UsageError, match=message):
        translate(old, "x.yaml")


# canonical configs

@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_canonical_configs(config):
    """Each loads, says what it is for, and its method takes its parameters."""
    text = config.read_text()
    assert text.startswith("# ") and max(map(len, text.splitlines())) <= 120
    spec = MergeSpec.load(config, adapters=["asr", "kws"])
    assert MergeSpec.of(spec.values()) == spec and spec.split == "dev"
    policy = spec.lambda_policy or (spec.optimizer["type"] != "none" or None)  # learned coefficients come as a policy
    METHODS.get(spec.method)(spec.method, spec.adapters, spec.method_params, policy)


def test_the_canonical_set_is_there():
    expected = {"weighted_scalar", "weighted_per_layer", "dare", "ties", "weighted_delta_sweep_bayes", "supermerge",
                "uniform_scalar"}
    assert expected <= {path.stem for path in CONFIGS}


# options

def parsed(verb, *words):
    return spec_of(cli.parse(verb, {"merge": merge_verb, "merge-sweep": merge_sweep}[verb], list(words)))


def test_options_over_config(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"adapters": ["asr", "kws"], "method": "ties",
                                    "method_params": {"k": 30, "lambda": 0.5},
                                    "lambda_policy": None,
                                    "transforms": ["identity", {"name": "trim", "params": {"k": 1e-9}}],
                                    "search": {**BAYES, "space": {"k": {"min": 1, "max": 50}}}, "eval_tasks": ["asr"],
                                    "rank": 8}))
    spec = parsed("merge-sweep", "--config", str(path), "--param", "k=50", "--lambda", "0.7", "--rank", "4")
    assert spec.method_params == {"k": 50, "lambda": 0.7} and spec.rank == 4
    assert spec.transforms[1]["params"]["k"] == 1e-9 and spec.search["type"] == "bayes"
    assert spec == parsed("merge", "--config", str(path), "--param", "k=50", "--lambda", "0.7", "--rank", "4")
    grid = parsed("merge-sweep", "--config", str(path), "--search-type", "grid", "--grid", "k=10,20", "lambda=0.5")
    assert grid.search == {"type": "grid", "grid": {"k": [10, 20], "lambda": [0.5]}}


def test_axes_of_a_grid():
    assert grid_axis("lambda=0.2,0.5") == ("lambda", [0.2, 0.5])
    assert grid_axis("transforms[0].params.k=1,2") == ("transforms[0].params.k", [1, 2])
    assert grid_axis("coefficients=[[1,0],[0,1]]") == ("coefficients", [[1, 0], [0, 1]])
    for text in ("lambda", "lambda=[]", "=3"):
        with pytest.raises(argparse.ArgumentTypeError):
            grid_axis(text)


def test_one_transform_needs_no_list():
    words = ("--adapters", "asr", "--transforms")
    assert parsed("merge", *words, "identity") == parsed("merge", *words, "{name: identity}") == \
        parsed("merge", *words, "[identity]")


def test_the_words_of_a_spec_give_it_again():
    spec = MergeSpec.of({"adapters": ["asr", "kws"], "method": "ties", "method_params": {"k": 12.5},
                         "transforms": ["trim"],
                         "lambda_policy": {"type": "per_layer", "overrides": {"encoder": {0: 0.3}}}, "rank": 4,
                         "base": "b", "threads": 2,
                         "merge_mode": "strict", "output_dir": "out"})
    assert parsed("merge", *words_of(spec)) == spec


def test_errors_of_files_name_the_key(tmp_path, capsys):
    path = tmp_path / "c.yaml"
    path.write_text("adapters: [asr, kws]\nmethod: ties\nrank: many\n")
    assert cli.main(["merge", "--config", str(path)]) == 2
    path.write_text("adapters: [asr, kws]\nmethod: ties\ntransforms: 3\n")
    assert cli.main(["merge-sweep", "--config", str(path)]) == 2
    first, second = capsys.readouterr().err.strip().splitlines()
    assert "rank: found 'many', expected integer" in first and "transforms: found 3, expected a list" in second


@pytest.mark.parametrize("words", [["merge-sweep", "--help"], ["merge-sweep", "--config", "x.yaml", "--adapters", "a"]])
def test_no_torch_before_the_options_are_right(words, tmp_path):
    (tmp_path / "x.yaml").write_text("method: ties\nmethod_params: {k: 300}\n")
    code = "import sys\nfrom speechmerge.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\n" \
           "sys.exit(1 if {'torch', 'optuna', 'scipy'} & set(sys.modules) else 0)"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=tmp_path,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert "--search-type" in done.stdout or "method_params.k: found 300" in done.stderr


# searches

def run_search(search, objective, points=()):
    points, asked = list(points), searcher(search)
    while (values := asked.ask(points)) is not None:
        points.append((values, objective(values)))
    return points


def hill(values):
    """Largest, 0, at x = 0.37, y = 1, n = 3."""
    import math

    return -(values["x"] - 0.37) ** 2 - 0.1 * math.log10(values["y"]) ** 2 - 0.1 * (values["n"] - 3) ** 2


SPACE = {"x": {"type": "float", "min": 0, "max": 1}, "y": {"type": "log", "min": 0.01, "max": 100},
         "n": {"type": "int", "min": 1, "max": 5}}


def test_grid_asks_for_what_is_missing():
    search = read_search("search", {"grid": {"a": [1, 2], "b": [{0: "x"}, 0.5]}})
    points = run_search(search, lambda values: 0.0)
    assert [values for values, _ in points] == [{"a": 1, "b": {"0": "x"}}, {"a": 1, "b": 0.5},
                                                {"a": 2, "b": {"0": "x"}}, {"a": 2, "b": 0.5}]
    assert searcher(search).ask(points[:1] + points[2:]) == points[1][0]


def test_bayes_finds_what_random_points_do_not():
    search = read_search("search", {"type": "bayes", "budget": 22, "init_points": 6, "seed": 1, "space": SPACE})
    points = run_search(search, hill)
    assert len(points) == 22 and len({repr(values) for values, _ in points}) == 22
    assert all(0 <= v["x"] <= 1 and 0.01 <= v["y"] <= 100 and v["n"] in range(1, 6) for v, _ in points)
    best = max(score for _, score in points)
    random = max(score for _, score in run_search({**search, "init_points": 22}, hill))
    assert best > -0.005 and best > random


@pytest.mark.parametrize("kept", [0, 3, 9])
def test_bayes_goes_on_after_a_kill_as_if_it_had_not_been(kept):
    search = read_search("search", {"type": "bayes", "budget": 11, "init_points": 4, "seed": 7, "space": SPACE})
    whole = run_search(search, hill)
    stored = [(json.loads(json.dumps(values)), score) for values, score in whole[:kept]]
    assert run_search(search, hill, stored) == whole
    other = run_search({**search, "seed": 8}, hill)
    assert other != whole


def test_bayes_over_choices_ends_when_all_are_tried():
    search = read_search("search", {"type": "bayes", "budget": 9, "init_points": 2, "space":
                                    {"mode": {"type": "categorical", "choices": ["a", [1, 2], None]}}})
    found = run_search(search, lambda values: 0.0)
    assert sorted(repr(values["mode"]) for values, _ in found) == ["'a'", "None", "[1, 2]"]


def test_bayes_where_nothing_is_defined():
    search = read_search("search", {"type": "bayes", "budget": 4, "init_points": 2, "space": SPACE})
    with pytest.raises(SpeechMergeError, match="interference_delta is undefined for every task"):
        run_search(search, lambda values: None)


def summary_file(path, values, deltas, **other):
    points = [{"params": {**value, "seed": 3}, "values": value, "interference_delta": delta} for value,
              delta in zip(values, deltas)]
    write_json(path, {"key": str(path), "method": "task_vector", "split": "dev", "adapters": ["a", "b"],
                      "points": points, **other})


def test_warm_start(tmp_path):
    summary_file(tmp_path / "one" / "sweep_1.json", [{"scale": 0.1}, {"scale": 0.2}, {"scale": 3.0}],
                 [{"a": -0.5, "b": 0.1}, {"a": -0.2}, {"a": 0.0}])
    summary_file(tmp_path / "one" / "sweep_2.json", [{"scale": 0.2}, {"scale": 0.4}], [{"a": -0.2}, {"a": None}])
    summary_file(tmp_path / "sweep_3.json", [{"scale": 0.7}], [{"a": 0.3}], split="test")
    here = {"key": "here", "method": "task_vector", "split": "dev", "adapters": ["a", "b"]}
    search = read_search("search",
                         {**BAYES, "warm_start_sweeps": [str(tmp_path / "one"), str(tmp_path / "sweep_*.json")]})
    points, refused = warm_points(search, here)
    assert points == [({"scale": 0.2}, -0.2), ({"scale": 0.1}, -0.5)]
    assert refused == [f"{tmp_path / 'sweep_3.json'}: another split"]
    assert warm_points({**search, "warm_start_max_points": 1}, here)[0] == points[:1]
    with pytest.raises(UsageError, match="search.warm_start_sweeps: .*none.*: no such file"):
        warm_points({**search, "warm_start_sweeps": [str(tmp_path / "none")]}, here)
    asked = searcher({**search, "init_points": 2})
    assert asked.ask([], points) not in [asked.spread(0), *(values for values, _ in points)]


# parts of the data

def examples(count, label):
    return [SimpleNamespace(id=f"u{i:03d}", target=label(i), language="en" if i % 4 else "it") for i in range(count)]


SUBSET = read_subset("eval_subset", {"max_samples": 20, "seed": 3})


def test_a_stratified_part_keeps_the_proportions():
    task = get_task("kws")
    rows = examples(100, lambda i: "rare" if i < 10 else "a" if i < 40 else "b")
    found = choose(task, rows, 20, SUBSET)
    counts = {label: sum(row.target == label for row in rows if row.id in found) for label in ("rare", "a", "b")}
    assert counts == {"rare": 2, "a": 6, "b": 12}
    assert found == choose(task, rows[::-1], 20, SUBSET) != choose(task, rows, 20, {**SUBSET, "seed": 4})
    assert choose(task, rows, 20, {**SUBSET, "shuffle": False, "stratified": False}) == {row.id for row in rows[:20]}
    assert len(choose(task, rows, 20, {**SUBSET, "stratified": False})) == 20
    assert choose(task, rows, 100, SUBSET) == choose(task, rows, None, SUBSET) == {row.id for row in rows}
    languages = choose(get_task("asr"), rows, 20, SUBSET)
    assert sum(row.language == "it" for row in rows if row.id in languages) == 5


def test_shares_add_up():
    assert shares([1, 1, 1], 2) == [1, 1, 0] and shares([5, 3, 2], 10) == [5, 3, 2]
    assert shares([7, 2, 1], 3) == [2, 1, 0]


def test_parts_are_data_directories_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for task in ("kws", "speaker_ver"):
        tiny_tones(f"data/{task}/dev", task=task, n=12)
    sets = {name: get_task(name) for name in ("kws", "speaker_ver")}
    settings = {**SUBSET, "max_samples": 6, "per_task": {"speaker_ver": {"max_samples": 4}}}
    root, split = write_subsets("data", "dev", sets, settings, "exp")
    assert split.startswith("dev.sub")
    assert split != write_subsets("data", "dev", sets, {**settings, "seed": 4}, "exp2")[1]
    part, whole = DataDir.read(root / "kws" / split), DataDir.read("data/kws/dev")
    assert len(part.utterances) == 6 and part.labels == whole.labels
    assert all(whole.utterances[id] == utterance for id, utterance in part.utterances.items())
    trials = DataDir.read(root / "speaker_ver" / split)
    assert sorted(trial.target for trial in trials.trials) == [False, False, True, True]
    assert set(trials.utterances) == {id for trial in trials.trials for id in (trial.enrol, trial.test)}
    before = (root / "kws" / split / "wav.scp").stat().st_mtime_ns
    write_subsets("data", "dev", sets, settings, "exp")
    assert (root / "kws" / split / "wav.scp").stat().st_mtime_ns == before
    tiny_tones("data/kws/dev", task="kws", n=15)
    write_subsets("data", "dev", sets, settings, "exp")
    assert (root / "kws" / split / "wav.scp").stat().st_mtime_ns != before


# both verbs

@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spec")
    base = make_base(folder / "base")
    for seed, name in enumerate(("kws", "emotion")):
        make_adapter(base, folder / "exp" / name / "lora", seed=seed)
        context = {"kind": "dynamic", "min": 0.5, "step": 0.5}
        write_json(folder / "exp" / name / "lora" / "speechmerge.json",
                   {"task": name, "language": "en", "base": {"source": str(base)}, "audio_context": context})
        tiny_tones(folder / "data" / name / "dev", task=name, n=9, seed=seed)
    write_json(folder / "exp" / "adapters.json",
               {name: {"path": str(folder / "exp" / name / "lora"), "task": name} for name in ("kws", "emotion")})
    return folder


@pytest.fixture
def recipe(made, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    os.symlink(made / "data", tmp_path / "data")
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "adapters.json").write_bytes((made / "exp" / "adapters.json").read_bytes())
    return tmp_path


BOTH = """\
adapters: [kws, emotion]
method: weighted_delta
method_params: {lambda: 0.5}
transforms: [layer_l2_normalize]
search: {type: grid, grid: {lambda: [0.25, 0.75]}}
split: validation
eval_tasks: [kws]
eval_subset: {max_samples: 6, seed: 1}
save_merged: true
save: lora
rank: 3
"""


def test_one_file_for_both_verbs(recipe, caplog, capsys):
    Path("both.yaml").write_text(BOTH)
    caplog.set_level("INFO")
    assert cli.main(["merge", "--config", "both.yaml"]) == 0
    said = [record.message for record in caplog.records if "merge-sweep" in record.message]
    assert len(said) == 1 and said[0].startswith("search, eval_tasks, save_merged, eval_subset")
    runs = Path("exp/merged/weighted_delta/emotion_kws/runs")
    [merged] = runs.glob("run_*/merge_metadata.json")
    assert read_json(merged)["params"]["lambda"] == 0.5 and read_json(merged)["requested_rank"] == 3
    assert cli.main(["merge-sweep", "--config", "both.yaml"]) == 0
    [path] = Path("exp/merged/weighted_delta/emotion_kws/sweeps").glob("sweep_*.json")
    summary = read_json(path)
    assert [point["values"] for point in summary["points"]] == [{"lambda": 0.25}, {"lambda": 0.75}]
    assert summary["eval_tasks"] == ["kws"] and summary["transforms"][0]["name"] == "layer_l2_normalize"
    best = next(point for point in summary["points"] if point["tag"] == summary["ranking"][0])
    saved = [read_json(file) for file in runs.glob("run_*/merge_metadata.json")]
    assert [found for found in saved if found["params"]["lambda"] == best["values"]["lambda"]
            and found["requested_rank"] == 3]
    splits = {folder.name for folder in Path("exp/decode").iterdir()}
    assert len(splits) == 1 and splits.pop().startswith("dev.sub")  # apart from the results of the whole set
    assert "lambda=0.25" in capsys.readouterr().out


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_canonical_configs_merge(config, recipe, capsys):
    spec = MergeSpec.load(config, adapters=["kws", "emotion"])
    status = cli.main(["merge", "--config", str(config), "--adapters", "kws", "emotion", "--output-dir", "out"])
    error = capsys.readouterr().err
    if spec.optimizer["type"] == "bayes":
        assert status == 2 and "optimizer.type" in error
    elif spec.method in ("fisher", "regmean", "regmean_plus_plus"):
        assert status == 1 and "speechmerge statistics" in error
    else:
        assert status == 0 and Path("out/adapter_model.safetensors").is_file(), error


def fake_score(self, values, share=1.0):
    """As Sweep.score, without a model: the best lambda is 0.62 for the worse of two tasks."""
    self.prepared(self.spec.at(values))
    deltas = {"kws": -abs(values["lambda"] - 0.62), "emotion": -0.5 * abs(values["lambda"] - 0.62) - 0.01}
    return {"values": values, "params": values, "tag": f"l{values['lambda']}", "scores": {},
            "interference_delta": deltas,
            "summary": {"min": min(deltas.values()), "mean": sum(deltas.values()) / 2}}


@pytest.fixture
def faked(recipe, monkeypatch):
    monkeypatch.setattr(sweep.Sweep, "score", fake_score)
    return recipe


SWEEP = ["merge-sweep", "--config", str(ROOT / "conf/merge/weighted_delta_sweep_bayes.yaml"), "--adapters", "kws",
         "emotion",
         "--save-merged", "false"]
SEARCH = "{type: bayes, budget: %d, init_points: 4, seed: 1, space: {lambda: {min: 0, max: 1}}}"


def only_summary():
    [path] = Path("exp/merged/weighted_delta/emotion_kws/sweeps").glob("sweep_*.json")
    return path, read_json(path)


def test_a_bayesian_sweep_finds_the_best_lambda_and_goes_on(faked, monkeypatch, capsys):
    assert cli.main([*SWEEP, "--search", SEARCH % 9]) == 0
    path, whole = only_summary()
    assert len(whole["points"]) == 9 and whole["search"]["space"]["lambda"]["type"] == "float"
    best = next(point for point in whole["points"] if point["tag"] == whole["ranking"][0])
    assert abs(best["values"]["lambda"] - 0.62) < 0.02
    for kept in (2, 6):  # killed among the first points, and among the proposed ones
        write_json(path, {**whole, "points": whole["points"][:kept], "ranking": []})
        assert cli.main([*SWEEP, "--search", SEARCH % 9]) == 0
        assert only_summary()[1] == whole
    monkeypatch.setattr(sweep.Sweep, "search", lambda *_: pytest.fail("searched again"))
    assert cli.main([*SWEEP, "--search", SEARCH % 9]) == 0


def test_killed_for_real(faked):
    """SIGKILL after three points; the same command gives the points of a sweep that was left alone."""
    code = "import os, signal, sys\nfrom speechmerge import cli, sweep\nimport test_merge_spec as here\n" \
           "def score(self, values, *rest):\n" \
           "    written = list(sweep.Path('exp').glob('merged/*/*/sweeps/sweep_*.json'))\n" \
           "    if written and len(here.only_summary()[1]['points']) == 3:\n" \
           "        os.kill(os.getpid(), signal.SIGKILL)\n" \
           "    return here.fake_score(self, values, *rest)\n" \
           "sweep.Sweep.score = score\nsys.exit(cli.main(sys.argv[1:]))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    killed = subprocess.run([sys.executable, "-c", code, *SWEEP, "--search", SEARCH % 6], env=environment,
                            capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    path, part = only_summary()
    assert len(part["points"]) == 3
    assert cli.main([*SWEEP, "--search", SEARCH % 6]) == 0
    again = only_summary()[1]
    assert cli.main([*SWEEP, "--search", SEARCH % 6, "--force", "true"]) == 0
    whole = read_json(sorted(path.parent.glob("sweep_*.json"))[-1])
    assert again["points"] == whole["points"] and again["ranking"] == whole["ranking"]


def test_a_larger_budget_goes_on(faked):
    assert cli.main([*SWEEP, "--search", SEARCH % 5]) == 0
    first = only_summary()[1]["points"]
    assert cli.main([*SWEEP, "--search", SEARCH % 7]) == 0
    points = only_summary()[1]["points"]
    assert len(points) == 7 and points[:5] == first


@pytest.mark.parametrize("words, message", [
    (["--method", "weighted_delta_n", "--method-params", "{}", "--grid", "coefficients.kws=0.1,0.2"],
     "says nothing of 'emotion'"),
    (["--method", "weighted_delta_n", "--method-params", "{}", "--grid", "coefficients=[[1,2,3]]"],
     "has 3 numbers, expected 2"),
    (["--optimizer", "gradient"], "optimizer.type: gradient learns coefficients by itself"),
    (["--grid", "lambda=0.2", "--lambda-policy", "{type: per_layer, overrides: {encoder: {7: 0.5}}}"],
     "lambda_policy.overrides.encoder.7: no merged parameter lies in block 7"),
])
def test_points_that_cannot_be_merged_are_refused_before_the_first(words, message, faked, capsys):
    assert cli.main([*SWEEP, *words]) == 2
    assert message in capsys.readouterr().err
