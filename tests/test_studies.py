"""Studies of trainings: shares of data, curves and where they cross, ranks, ratios of corpora; counted by jiwer."""
import json
import math
from pathlib import Path

import jiwer
import numpy as np
import pytest
from adapters import make_adapter
from routes import make_recipe, write_tones
from safetensors.torch import load_file

from speechmerge.analysis import few_shot
from speechmerge.analysis.mixing import best, mean_curve
from speechmerge.analysis.ranks import TIED, enough, in_curves
from speechmerge.analysis.studies import Point, over_seeds
from speechmerge.cli import main
from speechmerge.data.directory import DataDir, Utterance
from speechmerge.data.filters import Filters, apply
from speechmerge.errors import UsageError
from speechmerge.files import read_json, write_json
from speechmerge.grid.expand import cells
from speechmerge.grid.file import in_order
from speechmerge.metrics.bootstrap import resample
from speechmerge.metrics.wer import basic
from speechmerge.storage.checkpoint import model_fingerprint
from speechmerge.systems import register_adapter

ROOT = Path(__file__).resolve().parents[1]
GRIDS = ROOT / "egs/ai4bharat/conf/grid"


# --- shares of the data ---------------------------------------------------------------------------------------------


def many(n=75):
    ids = {f"s{i % 5}-{i:03d}" for i in range(n)}
    return DataDir("data", {id: Utterance(id, f"{id}.wav", "words", id[:2], "en", 2.0) for id in sorted(ids)})


def test_shares_are_nested_balanced_and_the_same_every_time():
    shares = [set(apply(many(), Filters(fraction=share))[0].utterances) for share in (0.1, 0.25, 0.5, 1.0)]
    assert [len(ids) for ids in shares] == [8, 19, 38, 75]  # half up
    assert shares[0] < shares[1] < shares[2] < shares[3]
    assert shares[1] == set(apply(many(), Filters(fraction=0.25))[0].utterances)
    assert shares[1] != set(apply(many(), Filters(fraction=0.25, seed=1))[0].utterances)
    assert sorted(sum(id.startswith(f"s{s}") for id in shares[2]) for s in range(5)) == [7, 7, 8, 8, 8]
    assert len(apply(many(3), Filters(fraction=0.01))[0].utterances) == 1
    both = apply(many(), Filters(hours=40 / 3600, fraction=0.5))[0].utterances
    assert len(both) == 10 and set(both) < set(apply(many(), Filters(hours=40 / 3600))[0].utterances)
    for wrong in (0.0, -0.5, 1.5, math.nan):
        with pytest.raises(UsageError, match="--fraction"):
            Filters(fraction=wrong)


def test_keys_of_what_was_formatted_before_stay():
    assert "fraction" not in str(Filters()) and str(Filters(fraction=0.5)) == str(Filters())


def test_format_writes_a_share_and_another_one_anew(tmp_path, capsys):
    write_tones(tmp_path / "data/train", "low", 200, "it", 8, seed=1)
    words = ["format", "--data", str(tmp_path / "data/train"), "--output-dir", str(tmp_path / "part/train")]
    for share, count in (("0.25", 2), ("train=0.5", 4), ("0.5", 4)):
        assert main([*words, "--fraction", share]) == 0
        assert len(DataDir.read(tmp_path / "part/train").utterances) == count
    assert "already done" in capsys.readouterr().out.splitlines()[-1]


# --- curves ---------------------------------------------------------------------------------------------------------


def point(value, u=None, **more):
    """A word error rate with replicates around it."""
    return Point([], value, -np.full(200, value) if u is None else u, False, more)


def test_where_a_curve_reaches_a_goal():
    shares, values = [0.1, 0.25, 0.5, 1.0], [-0.8, -0.6, -0.4, -0.3]
    share, bound = few_shot.crossing(shares, values, -0.5)
    assert share == pytest.approx(math.sqrt(0.25 * 0.5)) and bound is None  # half way of the logarithm
    assert few_shot.crossing(shares, values, -0.6) == (pytest.approx(0.25), None)
    assert few_shot.crossing(shares, values, -0.9) == (0.1, "at most")
    assert few_shot.crossing(shares, values, -0.8) == (0.1, None)
    assert few_shot.crossing(shares, values, -0.2) == (1.0, "more than")
    assert few_shot.crossing(shares, [-0.8, -0.3, -0.5, -0.4], -0.4)[0] < 0.25  # the first time counts


def test_data_efficiency_of_known_curves():
    """A source whose curve is that from scratch, moved by a factor of four in the data: ratios of four."""
    scratch = [point(0.8 - 0.3 * i, share=share, utterances=n) for i, (share, n) in
               enumerate(((1 / 16, 5), (1 / 4, 20), (1, 80)))]
    moved = [point(0.5 - 0.3 * i, share=share, utterances=n) for i, (share, n) in enumerate(((1 / 16, 5), (1 / 4, 20)))]
    found = few_shot.compared({"from scratch": scratch, "from it": moved})
    about = found["efficiency"]["from it"]
    assert about["share"] == 0.25 and about["bound"] is None and about["reached"] == 1
    assert about["ci"] == [0.25, 0.25] and about["ci_bounds"] == [None, None]
    assert [(r["ratio"], r["bound"]) for r in about["ratios"]] == [(4.0, None), (4.0, None)]
    assert [g["value"] for g in found["gains"]["from it"]] == pytest.approx([0.3, 0.3])
    better = few_shot.compared({"from scratch": scratch, "from it": [point(0.1, share=1 / 16, utterances=5)]})
    about = better["efficiency"]["from it"]
    assert (about["share"], about["bound"]) == (1 / 16, "at most") and about["ci_bounds"] == ["at most", "at most"]
    assert about["ratios"][0] == {"share": 1 / 16, "ratio": 16.0, "bound": "more than"}


def test_intervals_of_a_crossing_hold_what_is_no_more_than_a_bound():
    u = -np.r_[np.full(100, 0.6), np.full(100, 0.3)]  # in half of the resampled sets the goal of 0.4 is not reached
    about = few_shot.crossings([point(0.7, share=0.1), point(0.45, u, share=1.0)], np.full(200, -0.4))
    assert about["ci"][1] is None and about["ci_bounds"][1] == "more than" and about["reached"] == 0.5
    expected = 0.1 ** (1 - (0.7 - 0.4) / (0.7 - 0.3))
    assert about["ci"][0] == pytest.approx(expected, abs=1e-5)


def test_seeds_are_resampled_with_the_test_sets():
    rows = np.array([[0.2] * 4000, [0.6] * 4000])
    found = over_seeds(rows)
    assert found.mean() == pytest.approx(0.4, abs=0.01) and set(np.round(found, 3)) == {0.2, 0.4, 0.6}
    assert np.mean(found == 0.2) == pytest.approx(0.25, abs=0.03)  # both draws the first
    assert np.array_equal(found, over_seeds(rows)) and np.array_equal(over_seeds(rows[:1]), rows[0])
    assert np.allclose(over_seeds(rows) - over_seeds(rows - 0.1), 0.1)  # equally many seeds: paired


def test_curves_of_ranks_share_the_point_where_alpha_is_the_rank():
    made = ((2, 2.0), (8, 8.0), (16, 16.0), (2, 8.0), (16, 8.0))
    points = {(rank, alpha): point(0.5, rank=rank) for rank, alpha in made}
    found = in_curves(dict(sorted(points.items())))
    assert {name: [p.more["rank"] for p in own] for name, own in found.items()} == {
        TIED: [2, 8, 16], "alpha = 8": [2, 8, 16]}


def test_the_smallest_rank_that_is_not_clearly_worse():
    noise = np.random.default_rng(0).normal(0, 0.05, 500)
    ranks = [point(0.5, -0.5 + noise, rank=1), point(0.42, -0.42 + noise[::-1], rank=4),
             point(0.4, -0.4 + noise, rank=16)]
    found = enough(ranks)  # rank 1 moves with the best, so that its gap is sure; that of rank 4 is not
    assert (found["best"], found["rank"]) == (16, 4)
    assert found["difference"]["value"] == pytest.approx(0.02) and found["difference"]["ci"][0] < 0


def test_the_best_ratio_and_how_sure_it_is():
    u = [np.r_[np.full(30, -0.3), np.full(70, -0.6)], np.full(100, -0.4), np.full(100, -0.9)]
    found = best([point(value, own, share=share) for value, own, share in zip((0.51, 0.4, 0.9), u, (0.0, 0.5, 1.0))])
    assert found["share"] == 0.5 and found["ci"] == [0.0, 0.5] and found["best_in"] == {"0": 0.3, "0.5": 0.7, "1": 0.0}
    [mean] = mean_curve([[point(0.2, -np.full(3, 0.2))], [point(0.4, -np.full(3, 0.4))]])
    assert mean.value == pytest.approx(0.3) and np.allclose(mean.u, -0.3)


# --- from end to end ------------------------------------------------------------------------------------------------


def trained(root, name, *, language="it", seed=1, utterances=8, data=None, weights=0, rank=4, **more):
    """A registered adapter of random weights with the record that a training leaves."""
    folder, base = root / "exp/asr" / name, root / "base"
    options = {"tuning": "lora", "rank": rank, "alpha": None, "seed": seed, **more.pop("options", {})}
    alpha = rank if options["alpha"] is None else options["alpha"]
    make_adapter(base, folder, seed=weights, size=0.3, r=rank, lora_alpha=alpha)
    write_json(folder / "speechmerge.json", {
        "task": "asr", "language": language, "base": {"source": str(base), "fingerprint": model_fingerprint(base)},
        "options": options, "utterances": utterances, "data": str(data), "settings": {},
        "audio_context": {"kind": "full", "min": 6.0, "step": 3.0}, **more})
    register_adapter(root / "exp", name, folder, "asr")
    return folder


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Italian is the set `it`; its shares are 2, 4 and 8 utterances; the source is German."""
    root = make_recipe(tmp_path_factory.mktemp("recipe"), adapters=False)
    (root / "data/low").rename(root / "data/it")
    for split in ("dev", "test"):
        folder = root / "data/it" / split
        scp = (folder / "wav.scp").read_text().replace("/data/low/", "/data/it/")
        (folder / "wav.scp").write_text(scp)
    source = trained(root, "de", language="de", weights=1)
    for place, count in enumerate((2, 4, 8)):
        trained(root, f"it-{count}", utterances=count, weights=10 + place)
        if count < 8:
            for gradual in (0.0, 0.1):
                name = f"de-it-{count}-{gradual}"
                trained(root, name, utterances=count, weights=20 + place + round(50 * gradual),
                        init_adapter=str(source), options={"unfreeze_every": gradual} if gradual else {})
    return root


def analyze(root, kind, *words, adapters=("adapters",), name=None, split="dev", data="data"):
    places = ["--data", root / data, "--exp-dir", root / "exp", "--output-dir", root / "exp/analysis" / (name or kind)]
    options = ["--model", root / "base", "--adapters", *adapters, "--device", "cpu", "--task", "asr", "--split", split]
    return main(list(map(str, ["analyze", "--kind", kind, *options, *places, *words])))


def result(root, kind):
    return json.loads((root / "exp/analysis" / kind / "analysis.json").read_text())


def errors(root, system, split="dev", name="it"):
    """(edits, words) of each utterance in the order of the ids."""
    files = root / "data" / name / split / "text", root / "exp/decode" / split / system / name / "hyp"
    reference, hypothesis = ({id: basic(text) for id, _, text in (line.partition(" ") for line in
                                                                  path.read_text().splitlines())} for path in files)
    counts = []
    for id in sorted(reference):
        found = jiwer.process_words(reference[id], hypothesis[id])
        counts.append((found.substitutions + found.deletions + found.insertions, len(reference[id].split())))
    return np.array(counts, dtype=float).T


def test_few_shot_from_end_to_end(recipe, capsys):
    assert analyze(recipe, "few_shot") == 0
    said, about = capsys.readouterr().out, result(recipe, "few_shot")["targets"]["it"]
    curves = about["curves"]
    assert {kind: [(p["utterances"], p["share"]) for p in points] for kind, points in curves.items()} == {
        "from scratch": [(2, 0.25), (4, 0.5), (8, 1.0)], "from de": [(2, 0.25), (4, 0.5)],
        "from de, unfreezing": [(2, 0.25), (4, 0.5)]}
    names = {"from scratch": "it-2", "from de": "de-it-2-0.0", "from de, unfreezing": "de-it-2-0.1"}
    rates = {}
    for kind, name in names.items():
        wrong, words = errors(recipe, name)
        rates[kind] = (wrong, wrong.sum() / words.sum())
        assert curves[kind][0]["value"] == pytest.approx(rates[kind][1], abs=1e-6)
        assert curves[kind][0]["trainings"] == [name]
    assert set(about["zero_shot"]) == {"de"} and "it de" not in said
    counts, _ = resample(sorted(DataDir.read(recipe / "data/it/dev").utterances))
    gains = (counts @ rates["from scratch"][0] - counts @ rates["from de"][0]) / (counts @ words)
    [first, _] = about["gains"]["from de"]
    assert first["value"] == pytest.approx(rates["from scratch"][1] - rates["from de"][1], abs=1e-6)
    assert first["ci"] == pytest.approx(np.quantile(gains, [0.025, 0.975]), abs=1e-6)
    unfrozen = about["unfreezing"]["from de"][0]["value"]
    assert unfrozen == pytest.approx(rates["from de"][1] - rates["from de, unfreezing"][1], abs=1e-6)
    assert "as good as all data from scratch with" in said and "unfreezing adds" in said
    folder = recipe / "exp/analysis/few_shot"
    assert {path.name for path in folder.glob("*.png")} == {"few_shot_it.png", "transfer_gain_it.png"}
    rows = (folder / "few_shot_it.csv").read_text().splitlines()
    assert rows[0].startswith("curve,share of the 8 utterances of it,wer") and any(r.startswith("base,") for r in rows)
    assert analyze(recipe, "few_shot") == 0 and "kept" in capsys.readouterr().out


def test_what_a_few_shot_study_needs(recipe, capsys):
    cases = ((["it-2", "it-8"], "none of the adapters was trained from another one"),
             (["de", "de-it-2-0.0"], "no adapter was trained from scratch"))
    for adapters, message in cases:
        assert analyze(recipe, "few_shot", adapters=adapters, name="wrong") == 1
        assert message in capsys.readouterr().err
    twin = trained(recipe, "again", utterances=2, weights=30)
    assert analyze(recipe, "few_shot", adapters=["it-2", "it-8", "de-it-2-0.0", twin], name="wrong") == 1
    assert "the same in all that this study varies" in capsys.readouterr().err
    (twin / "speechmerge.json").unlink()
    assert analyze(recipe, "few_shot", adapters=["it-8", twin], name="wrong") == 1
    assert "no speechmerge.json" in capsys.readouterr().err


def test_ranks_from_end_to_end(recipe, capsys):
    made = {}
    for rank, alpha, seed in ((1, None, 1), (1, None, 2), (4, None, 1), (4, None, 2), (1, 4, 1)):
        name = f"r{rank}-a{alpha or rank}-s{seed}"
        made[name] = trained(recipe, name, rank=rank, seed=seed, weights=40 + rank + seed, options={"alpha": alpha})
    assert analyze(recipe, "ranks", adapters=made) == 0
    about = result(recipe, "ranks")["sets"]["it"]
    found = {name: [(p["rank"], len(p["trainings"])) for p in points] for name, points in about["curves"].items()}
    assert found == {TIED: [(1, 2), (4, 2)], "alpha = 4": [(1, 1), (4, 2)]}
    first = about["curves"][TIED][0]
    rates = [wrong.sum() / words.sum() for wrong, words in (errors(recipe, f"r1-a1-s{seed}") for seed in (1, 2))]
    assert first["value"] == pytest.approx(np.mean(rates), abs=1e-6)
    weights = load_file(made["r4-a4-s1"] / "adapter_model.safetensors")
    assert about["curves"][TIED][1]["parameters"] == sum(tensor.numel() for tensor in weights.values())
    assert first["effective_rank"] == pytest.approx(1)
    effective = []
    for seed in (1, 2):
        weights = load_file(made[f"r4-a4-s{seed}"] / "adapter_model.safetensors")
        for name in (name for name in weights if "lora_A" in name):
            delta = weights[name.replace("lora_A", "lora_B")] @ weights[name]
            values = np.linalg.svd(delta.numpy(), compute_uv=False)[:4]
            p = values / values.sum()
            effective.append(math.exp(-(p * np.log(p)).sum()))
    assert about["curves"][TIED][1]["effective_rank"] == pytest.approx(np.mean(effective), rel=1e-3)
    assert "rank" in about["enough"][TIED] and "is enough" in capsys.readouterr().out
    assert {path.name for path in (recipe / "exp/analysis/ranks").glob("*.png")} == {
        "rank_curve_it.png", "rank_parameters_it.png", "rank_effective_it.png"}


def test_mixing_from_end_to_end(recipe, tmp_path, capsys):
    for split, prefix in (("dev_read", "read"), ("dev_talk", "talk")):
        write_tones(recipe / "data/it" / split, prefix, 300, "it", 6, seed=len(prefix) + ord(prefix[0]))
    made = []
    for place, (read, talk) in enumerate(((4, 0), (2, 2), (0, 4))):
        folder = tmp_path / f"train{place}"
        corpora = ["read"] * read + ["talk"] * talk
        rows = {f"u{i}": Utterance(f"u{i}", f"u{i}.wav", "yes", f"u{i}", "it", 9.0, {"corpus": corpus})
                for i, corpus in enumerate(corpora)}
        DataDir(folder, rows).write()
        made.append(f"mix{place}")
        trained(recipe, made[-1], weights=60 + place, data=folder)
    assert analyze(recipe, "mixing", adapters=made) == 0
    about = result(recipe, "mixing")["sets"]["it"]
    assert about["corpus"] == "read" and list(about["curves"]) == ["dev_read", "dev_talk", "mean"]
    assert [(p["share"], p["hours"]) for p in about["curves"]["mean"]] == [(0.0, 0.01), (0.5, 0.01), (1.0, 0.01)]
    for place, name in enumerate(reversed(made)):
        counted = [errors(recipe, name, split) for split in ("dev_read", "dev_talk")]
        rates = [wrong.sum() / words.sum() for wrong, words in counted]
        found = [own[place]["value"] for own in about["curves"].values()]
        assert found == pytest.approx([*rates, np.mean(rates)], abs=1e-6)
    values = [p["value"] for p in about["curves"]["mean"]]
    assert about["best"]["mean"]["share"] == (0.0, 0.5, 1.0)[int(np.argmin(values))]
    assert sum(about["best"]["mean"]["best_in"].values()) == pytest.approx(1)
    assert analyze(recipe, "mixing", "--options", "{corpus: talk, domains: dev_talk}", adapters=made, name="other") == 0
    other = result(recipe, "other")["sets"]["it"]
    assert other["curves"]["dev_talk"][0]["trainings"] == ["mix0"] and other["curves"]["mean"][0]["share"] == 0
    capsys.readouterr()
    (tmp_path / "train0/utt2corpus").unlink()
    assert analyze(recipe, "mixing", "--options", "{domains: dev_talk}", adapters=made, name="wrong") == 1
    assert "u0 has no corpus" in capsys.readouterr().err


# --- grids ----------------------------------------------------------------------------------------------------------


def option(command, name):
    return command[command.index(name) + 1]


@pytest.mark.parametrize("name, given", [("few_shot_mini", {}), ("phase3", {})])
def test_all_that_learn_from_a_share_learn_from_the_same(name, given):
    phases = {phase.name: phase for phase in in_order(GRIDS / f"{name}.yaml", given)}
    scratch = cells(phases["scratch"])
    transfer = cells(phases["transfer" if name == "few_shot_mini" else "few_shot"])
    trainings = {(cell.axes["share"], option(cell.commands[0], "--data")) for cell in [*scratch, *transfer]}
    targets = {cell.axes.get("target", "te") for cell in scratch}
    assert len(trainings) == 4 * len(targets)  # one folder for each share of each target
    assert all("--init-adapter" in cell.commands[0] for cell in transfer)
    assert not any("--init-adapter" in cell.commands[0] for cell in scratch)
    names = [option(cell.commands[0], "--output-dir") for cell in [*scratch, *transfer]]
    assert len(set(names)) == len(names)


def test_grids_of_ranks_and_mixing():
    [*_, train, _] = in_order(GRIDS / "rank_mini.yaml")
    found = {(c.axes["rank"], c.axes["alpha"], c.axes["seed"]): c.commands[0] for c in cells(train)}
    assert len(found) == 11 and not any("--alpha" in words for (_, alpha, _), words in found.items() if alpha == "tied")
    assert all(option(words, "--alpha") == "4" for (_, alpha, _), words in found.items() if alpha == "fixed")
    for name, hours in (("mixing", "40"), ("mixing_mini", "0.06")):
        phases = {phase.name: phase for phase in in_order(GRIDS / f"{name}.yaml")}
        assert all(option(cell.commands[0], "--hours") == hours for cell in cells(phases["ratios"]))
        mixes = {tuple(words[words.index("--mix") + 1:words.index("--hours")]) for [words, *_] in
                 (cell.commands for cell in cells(phases["ratios"]))}
        assert len(mixes) == 5
        assert all(sum(float(word.split("=")[1]) for word in mix) == 1 for mix in mixes)


def test_two_domains_are_spoken(tmp_path):
    words = ["prepare", "--corpus", str(ROOT / "egs/ai4bharat/local/domains.py"), "--output-dir", str(tmp_path),
             "--languages", "it", "--param", "scale=0.05", "--seed", "1", "--nj", "1"]
    assert main(words) == 0
    train, test = DataDir.read(tmp_path / "it/train"), DataDir.read(tmp_path / "it/test")
    found = [u.labels["corpus"] for u in train.utterances.values()]
    assert len(found) == 16 and found.count("telephone") == 8
    parts = [DataDir.read(tmp_path / f"it/test_{domain}").utterances for domain in ("telephone", "lively")]
    assert not parts[0].keys() & parts[1].keys() and parts[0].keys() | parts[1].keys() == test.utterances.keys()
    assert not {u.speaker for u in train.utterances.values()} & {u.speaker for u in test.utterances.values()}
    assert not {u.text for u in train.utterances.values()} & {u.text for u in test.utterances.values()}
    assert read_json(tmp_path / "prepared_domains.json")["directories"]
