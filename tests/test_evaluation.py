"""Merges evaluated and swept through the command line, on two adapters that really learned something."""
import json
from pathlib import Path

import pytest
from tiny import tiny_tones, tiny_whisper

from speechmerge.cli import main
from speechmerge.files import read_json

CONTEXT = ["--audio-context", "dynamic", "--audio-context-min", "0.5"]
TASKS = ("kws", "emotion")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A recipe folder with data, a base, and one trained adapter per task."""
    folder = tmp_path_factory.mktemp("recipe")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        tiny_whisper("base")
        for task in TASKS:
            for split, n, seed in (("train", 24, 1), ("dev", 9, 2), ("test", 9, 3)):
                tiny_tones(f"data/{task}/{split}", task=task, n=n, seed=seed)
            words = ["train", "--task", task, "--model", "base", "--data", f"data/{task}/train", "--epochs", "12", "--batch-size", "8",
                     "--learning-rate", "1e-2", "--report-to", "", "--device", "cpu", *CONTEXT]
            assert main(words) == 0
        yield folder


@pytest.fixture(autouse=True)
def inside(recipe, monkeypatch):
    monkeypatch.chdir(recipe)


def sweep(*words):
    return main(["merge-sweep", "--adapters", "kws", "emotion", "--method", "task_vector", "--split", "validation", *words])


def summaries():
    return sorted(Path("exp").glob("merged/*/*/sweeps/sweep_*.json"))


def test_model_and_context_follow_from_the_adapters(capsys):
    assert main(["evaluate", "--task", "kws", "--adapter", "kws", "--data", "data/kws/test"]) == 0
    assert main(["evaluate", "--task", "kws", "--data", "data/kws/test"]) == 0
    records = [read_json(f"exp/decode/test/{name}/kws/decode.json") for name in ("kws", "base")]
    assert all(Path(record["model"]["source"]).resolve() == Path("base").resolve() for record in records)
    score = {name: read_json(f"exp/decode/test/{name}/kws/score.json")["labels"]["value"] for name in ("kws", "base")}
    assert score["kws"] > 0.8 > score["base"]


def test_merge_and_evaluate_in_one_command(capsys):
    words = ["merge", "--adapters", "kws", "emotion", "--method", "weighted", "--lambda", "0.5", "--evaluate", "--eval-split", "test"]
    assert main(words) == 0
    assert "weighted_l0.5_kws-emotion" in capsys.readouterr().out
    [found] = Path("exp/merged/weighted/emotion_kws/runs").glob("run_*/eval_results_test.json")
    results = read_json(found)["results"]
    assert sorted(results) == ["emotion", "kws"]
    # the table of the whole split belongs to `score`
    assert not Path("exp/scores_test.json").exists()
    index = read_json("exp/merged/weighted/emotion_kws/eval/index.json")
    assert [entry["split"] for entry in index] == ["test"]
    assert main(["evaluate-merged", "--method", "weighted", "--tasks", "emotion", "kws", "--run-id", "latest", "--split", "test"]) == 0
    assert read_json(found)["results"] == results


def test_interference_delta_of_a_merge_by_hand():
    main(["merge", "--adapters", "kws", "emotion", "--method", "uniform", "--evaluate", "--eval-split", "test"])
    [found] = Path("exp/merged/uniform/emotion_kws/runs").glob("run_*/eval_results_test.json")
    tag = read_json(found.parent / "merge_metadata.json")["tag"]
    value = {name: read_json(f"exp/decode/test/{name}/kws/score.json")["labels"]["value"] for name in ("base", "kws", tag)}
    expected = (value[tag] - value["kws"]) / (value["kws"] - value["base"])
    assert read_json(found)["results"]["kws"]["interference_delta"]["labels"]["value"] == pytest.approx(expected)


def test_sweep_ranks_points_by_the_worst_task_and_the_base_scores_minus_one(capsys):
    assert sweep("--grid", "scale=0.0,0.5,1.0", "--reading", "labels", "--save-merged", "true") == 0
    summary = read_json(summaries()[-1])
    points = {point["params"]["scale"]: point for point in summary["points"]}
    assert set(points) == {0.0, 0.5, 1.0}
    assert all(delta == pytest.approx(-1.0) for delta in points[0.0]["interference_delta"].values() if delta is not None)
    worst = {point["tag"]: point["summary"]["min"] for point in points.values()}
    assert worst[summary["ranking"][0]] == max(worst.values())
    assert not list(Path("exp").glob("merged/*/*/sweeps/points/*"))
    runs = list(Path("exp/merged/task_vector/emotion_kws/runs").glob("run_*/merge_metadata.json"))
    assert [read_json(run)["tag"] for run in runs] == [summary["ranking"][0]]


def test_an_unfinished_sweep_goes_on(capsys):
    sweep("--grid", "scale=0.2,0.4")
    path = summaries()[-1]
    whole = read_json(path)
    path.write_text(json.dumps({**whole, "points": whole["points"][:1], "ranking": []}))
    first = whole["points"][0]["tag"]
    decoded = Path(f"exp/decode/dev/{first}/kws/hyp").stat().st_mtime_ns
    sweep("--grid", "scale=0.2,0.4")
    again = read_json(path)
    assert [point["params"] for point in again["points"]] == [point["params"] for point in whole["points"]]
    assert again["ranking"] == whole["ranking"] and again["points"] == whole["points"]
    assert Path(f"exp/decode/dev/{first}/kws/hyp").stat().st_mtime_ns == decoded


def test_sweeps_of_one_second_are_two(monkeypatch):
    monkeypatch.setattr("time.strftime", lambda *_: "sweep_20260101_000000")
    for scale in ("0.3", "0.45"):
        assert sweep("--grid", f"scale={scale}", "--reading", "labels", "--eval-tasks", "kws") == 0
    first, second = sorted(Path("exp").glob("merged/*/*/sweeps/sweep_20260101_*.json"))
    assert [read_json(path)["points"][0]["values"]["scale"] for path in (first, second)] == [0.3, 0.45]


def test_hopeless_points_are_stopped_on_a_part_of_the_data(capsys):
    assert sweep("--search", "{type: grid, grid: {scale: [0.6, 0.0, 0.01]}, halving: {rungs: [0.5]}}", "--reading", "labels",
                 "--eval-tasks", "kws") == 0
    points = read_json(summaries()[-1])["points"]
    assert [point["state"] for point in points] == ["done", "stopped", "stopped"]
    assert all(0.5 in map(float, point["rungs"]) for point in points)
    assert "scale=0.6" in capsys.readouterr().out
    names = {path.parent.parent.name: read_json(path)["n"] for path in Path("exp/decode").glob("dev.sub*/*/kws/decode.json")}
    assert points[1]["tag"] in names and set(names.values()) == {5}  # half of nine
    assert not Path(f"exp/decode/dev/{points[2]['tag']}").exists()


def test_auto_tries_the_methods_and_makes_the_best(capsys):
    words = ["merge-sweep", "--adapters", "kws", "emotion", "--method", "auto", "--reading", "labels", "--time-budget", "1",
             "--save-merged", "true"]
    assert main(words) == 0
    [path] = Path("exp/merged/auto/emotion_kws").glob("auto_*.json")
    table, out = read_json(path), capsys.readouterr().out
    best = table["ranking"][0]
    worst = {name: found["summary"]["min"] for name, found in table["methods"].items()}
    assert worst[best] == max(worst.values()) and f"written: {path}" in out
    [run] = Path(f"exp/merged/{best}/emotion_kws/runs").glob("run_*/merge_metadata.json")
    assert read_json(run)["tag"] in {point["tag"] for point in read_json(table["methods"][best]["sweep"])["points"]}
    assert main([*words, "--grid", "scale=1"]) == 2 and "chooses method, parameters and search" in capsys.readouterr().err


@pytest.mark.parametrize("words, message", [
    (["--grid", "scale=0.5", "--split", "test"], "--allow-test-selection"),
    (["--grid", "scal=0.5"], "did you mean 'scale'"),
    (["--grid", "scale=-0.5", "--constraint-nonnegative", "true"], "the grid has scale=-0.5"),
    (["--search-type", "bayes"], "search.space: nothing to search"),
    ([], "nothing to search"),
    (["--search", "{type: grid, gird: {scale: [1]}}"], "search.gird: unknown key"),
])
def test_sweeps_that_cannot_be_meant(words, message, capsys):
    assert main(["merge-sweep", "--adapters", "kws", "emotion", "--method", "task_vector", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("words, status, message", [
    (["--adapter-path", "exp/kws/kws"], 2, "holds no merge_metadata.json"),
    (["--method", "ties", "--tasks", "kws", "emotion"], 1, "no finished run"),
    (["--method", "ties"], 2, "needs --tasks"),
    ([], 2, "name the merge by"),
])
def test_merges_that_are_not_there(words, status, message, capsys):
    assert main(["evaluate-merged", *words]) == status
    assert message in capsys.readouterr().err


def test_a_sweep_says_what_it_could_not_compare(capsys):
    from speechmerge.stages.merge_sweep import print_summary

    def point(tag, kws, asr):
        known = [value for value in (kws, asr) if value is not None]
        return {"tag": tag, "values": {"scale": tag}, "interference_delta": {"kws": kws, "asr": asr},
                "summary": {"min": min(known), "mean": sum(known) / len(known)}}

    summary = {"points": [point("a", -0.5, None), point("b", -0.2, None)], "ranking": ["b", "a"], "eval_tasks": ["kws", "asr"],
               "split": "dev", "reading": "generation", "path": "x.json"}
    print_summary(summary)
    assert "\nasr: not compared" in capsys.readouterr().out
    print_summary({**summary, "points": [point("a", -0.5, -0.1), point("b", -0.2, None)]})
    assert "not compared" not in capsys.readouterr().out
