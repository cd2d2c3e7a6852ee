"""From decode folders to scores_<split>.json, the results beside each merge, and the verbs."""
import json
import subprocess
from pathlib import Path

import pytest

from speechmerge.cli import main
from speechmerge.data.directory import DataDir
from speechmerge.files import read_json, write_json, write_text
from speechmerge.scoring import NO_BASE, NO_SINGLE, score_split
from speechmerge.tasks import get_task
from tiny import tiny_tones

ROOT = Path(__file__).resolve().parent.parent
RIGHT = {  # how many of 60 answers are right: (system, task)
    ("base", "kws"): 20, ("kws", "kws"): 60, ("intent", "kws"): 22, ("merged_a", "kws"): 40, ("merged_b", "kws"): 50,
    ("base", "intent"): 30, ("kws", "intent"): 25, ("intent", "intent"): 50, ("merged_a", "intent"): 45,
    ("merged_b", "intent"): 20,
}
SYSTEMS = {"base": ("base", None), "kws": ("adapter", "kws"), "intent": ("adapter", "intent"),
           "merged_a": ("merged", None), "merged_b": ("merged", None)}


def decode(exp, data, system: dict, task: str, hyps: dict, labels=None, scores=None, set_name=None):
    """What the decoder leaves behind."""
    folder = exp / "decode" / "test" / system["name"] / (set_name or task)
    tables = {"hyp": hyps, "hyp_labels": labels, "scores": scores}
    for name, rows in tables.items():
        if rows is not None:
            write_text(folder / name, "".join(f"{id} {text}".rstrip() + "\n" for id, text in sorted(rows.items())))
    write_json(folder / "decode.json", {"system": system, "task": task, "split": "test", "data": str(data), "key": "k",
                                        "model": {"source": "egs/mini/base", "fingerprint": "0" * 8}})
    return folder


def system(exp, name, kind, task=None) -> dict:
    runs = exp / "merged" / "ties" / "intent_kws" / "runs"
    path = {"adapter": exp / name / "lora", "merged": runs / f"run_{name}"}.get(kind)
    if path:
        path.mkdir(parents=True, exist_ok=True)
    if kind == "merged":
        write_json(path / "merge_metadata.json", {"tag": name, "method": "ties", "params": {"k": 20}, "adapters": [
            {"path": str(exp / t / "lora"), "task": t} for t in ("intent", "kws")]})
    method, params = ("ties", {"k": 20}) if kind == "merged" else (None, None)
    return {"name": name, "kind": kind, "task": task, "path": path and str(path), "method": method, "params": params}


def answers(data: Path, task: str, right: int) -> dict[str, str]:
    """The first `right` answers are right, in an order that mixes the labels."""
    task = get_task(task)
    found = DataDir.read(data)
    labels = task.labels(found)
    wrong = {label: labels[i - 1] for i, label in enumerate(labels)}
    examples = sorted(task.examples(found), key=lambda e: e.id[-3:])
    return {e.id: e.target if i < right else wrong[e.target] for i, e in enumerate(examples)}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("recipe")
    for task in ("kws", "intent"):
        tiny_tones(root / "data" / task / "test", task=task, n=60)
    return root


@pytest.fixture
def exp(made, tmp_path):
    exp = tmp_path / "exp"
    for (name, task), right in RIGHT.items():
        data = made / "data" / task / "test"
        hyps = answers(data, task, right)
        decode(exp, data, system(exp, name, *SYSTEMS[name]), task, hyps, labels=answers(data, task, min(60, right + 6)))
    return exp


def entry(results: dict, name: str) -> dict:
    return next(entry for entry in results["systems"] if entry["name"] == name)


def test_scores_and_deltas_by_hand(exp):
    results = score_split(exp, "test")
    assert results == read_json(exp / "scores_test.json")
    assert [e["name"] for e in results["systems"]] == ["base", "intent", "kws", "merged_a", "merged_b"]
    assert results["tasks"] == ["intent", "kws"]
    for (name, task), right in RIGHT.items():
        assert entry(results, name)["scores"][task]["generation"] == pytest.approx(right / 60)
        assert entry(results, name)["scores"][task]["labels"] == pytest.approx(min(60, right + 6) / 60)
    merged = entry(results, "merged_a")["interference_delta"]
    assert merged["kws"]["generation"]["value"] == pytest.approx((40 - 60) / (60 - 20))
    assert merged["intent"]["generation"]["value"] == pytest.approx((45 - 50) / (50 - 30))
    assert merged["intent"]["generation"]["single"] == "intent" and merged["intent"]["generation"]["reason"] is None
    low, high = merged["kws"]["generation"]["ci"]
    assert low < -0.5 < high


def test_base_is_minus_one_and_each_adapter_zero(exp):
    results = score_split(exp, "test")
    for task in ("kws", "intent"):
        for reading in ("generation", "labels"):
            assert entry(results, "base")["interference_delta"][task][reading]["value"] == pytest.approx(-1)
            assert entry(results, task)["interference_delta"][task][reading]["value"] == 0


def test_ranking_and_harm(exp):
    results = score_split(exp, "test")
    assert results["ranking"]["generation"] == ["merged_a", "merged_b"]
    found = entry(results, "merged_b")["summary"]["generation"]
    assert found == {"min": pytest.approx(-1.5), "mean": pytest.approx((-1.5 - 0.25) / 2), "harmed": 1, "defined": 2}
    assert entry(results, "merged_a")["own_sets"] == ["intent", "kws"] and entry(results, "kws")["own_sets"] == ["kws"]


def test_score_json_beside_each_hyp(exp):
    score_split(exp, "test")
    found = read_json(exp / "decode" / "test" / "kws" / "kws" / "score.json")
    assert (found["task"], found["metric"], found["higher_is_better"], found["n"]) == ("kws", "accuracy", True, 60)
    assert found["generation"]["value"] == 1 and found["generation"]["ci"] == [1, 1]
    assert {"macro_f1", "uar", "confusion", "n_unparsed", "n_missing", "ci_unit"} <= found["labels"].keys()


def test_results_stand_beside_the_merge(exp, capsys):
    assert main(["score", "--exp-dir", str(exp)]) == 0
    combination = exp / "merged" / "ties" / "intent_kws"
    run = read_json(combination / "runs" / "run_merged_a" / "eval_results_test.json")
    assert run["results"]["kws"]["interference_delta"]["generation"]["value"] == pytest.approx(-0.5)
    assert read_json(combination / "eval" / "test" / "eval_results_merged_a_test.json") == run
    link = exp / "kws" / "metrics" / "eval" / "test" / "merged" / "intent" / "merged_a" / "metrics.json"
    assert link.is_symlink() and not Path(link.readlink()).is_absolute()
    per_task = combination / "eval" / "test" / "per_task"
    assert link.resolve() == (per_task / "kws" / "kws_merged_a_metrics.json").resolve()
    assert read_json(link)["generation"]["accuracy"] == pytest.approx(40 / 60)


def test_the_index_only_grows_when_results_change(exp, made):
    index = exp / "merged" / "ties" / "intent_kws" / "eval" / "index.json"
    for expected in (2, 2):
        assert main(["score", "--exp-dir", str(exp)]) == 0
        assert len(read_json(index)) == expected
    first = read_json(index)
    data = made / "data" / "kws" / "test"
    decode(exp, data, system(exp, "merged_a", "merged"), "kws", answers(data, "kws", 41))
    assert main(["score", "--exp-dir", str(exp)]) == 0
    assert read_json(index)[:2] == first and len(read_json(index)) == 3


def test_table_on_stdout(exp, capsys):
    main(["score", "--exp-dir", str(exp)])
    out = capsys.readouterr().out
    assert "free generation" in out and "label scoring" in out
    rows = {line.split()[0]: line.split()[1:] for line in out.split("label scoring")[0].splitlines() if line.strip()}
    assert rows["merged_a"] == ["75.0", "66.7", "-0.50"] and rows["merged_b"] == ["33.3", "83.3", "-1.50", "harmed"]


def test_no_gain_no_adapter_no_base(exp, made):
    data = made / "data" / "kws" / "test"
    decode(exp, data, system(exp, "kws", "adapter", "kws"), "kws", answers(data, "kws", 20))

    def delta(task):
        return entry(score_split(exp, "test"), "merged_a")["interference_delta"][task]["generation"]

    found = delta("kws")
    assert found["value"] is None and found["reason"] == "undefined_no_gain" and found["log_ratio"] > 0
    (exp / "decode" / "test" / "kws" / "kws" / "decode.json").unlink()
    assert delta("kws")["reason"] == NO_SINGLE
    (exp / "decode" / "test" / "base" / "intent" / "decode.json").unlink()
    assert delta("intent")["reason"] == NO_BASE


def test_sets_of_one_task_have_their_own_adapters(made, tmp_path):
    """Two languages, one task: the adapter of a set is the one of its name."""
    exp = tmp_path / "exp"
    for language, offset in (("it", 0), ("es", 5)):
        data = tiny_tones(tmp_path / "data" / language / "test", task="kws", n=60, seed=offset)
        for name, kind, right in (("base", "base", 20), ("it", "adapter", 50 - offset), ("es", "adapter", 40 + offset)):
            own = system(exp, name, kind, "kws" if kind == "adapter" else None)
            decode(exp, data, own, "kws", answers(data, "kws", right), set_name=language)
        merged = system(exp, "m", "merged")
        write_json(Path(merged["path"]) / "merge_metadata.json", {"tag": "m", "method": "ties", "adapters": [
            {"path": str(exp / name / "lora"), "task": "kws"} for name in ("it", "es")]})
        decode(exp, data, merged, "kws", answers(data, "kws", 35), set_name=language)
    found = entry(score_split(exp, "test"), "m")
    assert found["own_sets"] == ["es", "it"]
    assert found["interference_delta"]["it"]["generation"]["value"] == pytest.approx((35 - 50) / 30)
    assert found["interference_delta"]["es"]["generation"]["value"] == pytest.approx((35 - 45) / 25)


def test_verification_uses_its_scores_for_labels_only(tmp_path):
    data = tiny_tones(tmp_path / "data", task="speaker_ver", n=30)
    refs = {e.id: e.target for e in get_task("speaker_ver").examples(DataDir.read(data))}
    exp = tmp_path / "exp"
    folder = decode(exp, data, system(exp, "base", "base"), "speaker_ver", {id: "yes" for id in refs}, labels=refs,
                    scores={id: 3.5 if ref == "yes" else -1 for id, ref in refs.items()})
    score_split(exp, "test")
    found = read_json(folder / "score.json")
    assert found["generation"]["value"] == pytest.approx(0.5) and found["labels"]["value"] == 0
    assert found["metric"] == "eer" and found["higher_is_better"] is False


BROKEN = {
    "nothing decoded": (lambda exp: None, ["--split", "dev"], "nothing decoded on 'dev'"),
    "unknown set": (lambda exp: None, ["--tasks", "kws,emotion"], "nothing decoded on 'emotion'"),
    "hyp of other data": (lambda exp: append(exp, "zz yes\n"), [], "hypothesis 'zz' is not in the references"),
    "duplicate hyp": (lambda exp: append(exp, "s0-000 yes\n"), [], "hyp:61:s0-000: duplicate id"),
    "hyp missing": (lambda exp: hyp(exp).unlink(), [], "hyp: not there; run `speechmerge decode`"),
    "hyp not utf-8": (lambda exp: hyp(exp).write_bytes(b"s0-000 \xe9\n"), [], "hyp: not UTF-8"),
    "other base": (lambda exp: rebase(exp), [], "different base models"),
}


def hyp(exp):
    return exp / "decode" / "test" / "kws" / "kws" / "hyp"


def append(exp, text):
    write_text(hyp(exp), hyp(exp).read_text() + text)


def rebase(exp):
    path = hyp(exp).parent / "decode.json"
    write_json(path, {**read_json(path), "model": {"fingerprint": "1"}})


@pytest.mark.parametrize("name", BROKEN)
def test_broken_inputs(exp, capsys, name):
    damage, options, expected = BROKEN[name]
    damage(exp)
    assert main(["score", "--exp-dir", str(exp), *options]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert expected in error and str(exp) in error


def test_missing_hypotheses_are_said(exp, caplog):
    write_text(hyp(exp), "".join(hyp(exp).read_text().splitlines(True)[:-2]))
    found = entry(score_split(exp, "test"), "kws")["scores"]["kws"]["generation"]
    assert found == pytest.approx(58 / 60) and "2 of 60 hypotheses are missing and count as errors" in caplog.text


def test_chosen_sets_and_data_root(exp, made):
    assert main(["score", "--exp-dir", str(exp), "--tasks", "kws", "--data", str(made / "data")]) == 0
    assert read_json(exp / "scores_test.json")["tasks"] == ["kws"]


# --- plain files

@pytest.fixture
def files(tmp_path):
    write_text(tmp_path / "ref", "u1 The cat sat.\nu2 हिन्दी में किताबें\nu3 yes\n")
    write_text(tmp_path / "hyp", "u1 the cat\nu2 हिन्दी मे किताबें\nu3\n")
    write_text(tmp_path / "trials", "t1 a b target\nt2 a c nontarget\nt3 b c nontarget\nt4 c d target\n")
    write_text(tmp_path / "scores", "t1 3\nt2 0\nt3 2\nt4 1\n")
    return tmp_path


def run(*words):
    return subprocess.run([str(ROOT / "utils" / words[0]), *map(str, words[1:])], capture_output=True, text=True)


def test_score_asr(files):
    found = run("score_asr.sh", files / "ref", files / "hyp", "--output", files / "out.json")
    assert found.returncode == 0, found.stderr
    assert "wer                  42.86 %" in found.stdout and "deletions" in found.stdout
    assert read_json(files / "out.json")["wer"] == pytest.approx(3 / 7)


def test_score_cls(files):
    write_text(files / "cls", "u1 a\nu2 b\nu3 a\n")
    write_text(files / "answers", "u1 A\nu2 a\nu3 c\n")
    found = run("score_cls.sh", files / "cls", files / "answers")
    assert "accuracy             33.33 %" in found.stdout and "b -> a" in found.stdout, found.stderr


def test_score_sv(files):
    found = run("score_sv.sh", files / "trials", files / "scores")
    assert "eer                  50.00 %" in found.stdout, found.stderr


@pytest.mark.parametrize("name", ["score_asr.sh", "score_cls.sh", "score_sv.sh", "validate_data_dir.sh",
                                  "fix_data_dir.sh"])
def test_wrappers_explain_themselves(name):
    found = run(name, "--help")
    assert found.returncode == 0 and f"usage: utils/{name}" in found.stdout


def test_data_dir_wrappers(tmp_path):
    data = tiny_tones(tmp_path / "kws", task="kws", n=4)
    assert run("validate_data_dir.sh", data).returncode == 0
    write_text(data / "text", "".join(sorted((data / "text").read_text().splitlines(True))[::-1]))
    found = run("validate_data_dir.sh", data)
    assert found.returncode == 1 and "text:2:" in found.stdout and "not sorted" in found.stdout
    assert run("fix_data_dir.sh", data).returncode == 0 and run("validate_data_dir.sh", data).returncode == 0


def test_scores_file_is_json_without_nan(exp):
    score_split(exp, "test")
    text = (exp / "scores_test.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in scores_test.json"))
