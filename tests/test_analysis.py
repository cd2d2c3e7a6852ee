"""Measures against golden values, dense formulas and what PEFT itself merges; the verb on tiny models."""
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from adapters import make_adapter, make_base, merged_weights
from routes import make_recipe
from safetensors.torch import load_file, save_file
from scipy.linalg import subspace_angles

from speechmerge.analysis import ANALYSES
from speechmerge.analysis.judge import Judge, Judgement
from speechmerge.analysis.layers import contribution
from speechmerge.analysis.prediction import FEATURES, cost, fitted
from speechmerge.analysis.representations import hsic, linear_cka, minibatch_cka
from speechmerge.analysis.spectra import effective_rank, measures, participation, spectra_of, stable_rank
from speechmerge.analysis.subspaces import alignment, directions, grassmann, kept_basis, phi
from speechmerge.analysis.transfer import cell
from speechmerge.analysis.weights import by_layer, cosines, grams, sign_counts, together
from speechmerge.cli import main
from speechmerge.data.directory import DataDir
from speechmerge.decode import Options
from speechmerge.errors import UsageError
from speechmerge.merge.delta import Dense, LowRank, concatenate
from speechmerge.merge.read import read
from speechmerge.merge.task_vector import combine
from speechmerge.models.base import Item, load_model
from speechmerge.tasks import get_task

KINDS = ("layers", "prediction", "representations", "spectra", "subspaces", "transfer", "weights")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """(base, folders of two adapters of other rank, scaling and targets)"""
    root = tmp_path_factory.mktemp("pair")
    base = make_base(root / "base")
    make_adapter(base, root / "a", seed=1, r=4, lora_alpha=8)
    make_adapter(
    base,
    root / "b",
    seed=2,
    r=6,
    lora_alpha=3,
    use_rslora=True,
    target_modules=[
        "q_proj",
        "v_proj",
         "fc1"])
    return base, [root / "a", root / "b"]


@pytest.fixture(scope="module")
def dense(pair):
    """What PEFT itself adds to the weights, float64: a {name: array} for each, zeros where nothing is changed."""
    found = [merged_weights(pair[0], folder) for folder in pair[1]]
    names = sorted({name for weights in found for name in weights if name.endswith("proj.weight") or ".fc" in name})
    shapes = {name: tensor.shape for weights in found for name, tensor in weights.items()}
    return [{name: weights.get(name, torch.zeros(shapes[name])).double().numpy() for name in names}
            for weights in found]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return make_recipe(tmp_path_factory.mktemp("recipe"))


def analyze(recipe, kind, *words, name=None, adapters=("low", "high")):
    places = ["--data", recipe / "data", "--exp-dir", recipe / "exp",
        "--output-dir", recipe / "exp/analysis" / (name or kind)]
    options = ["--kind", kind, "--model", recipe / "base", "--adapters", *adapters, "--device", "cpu"]
    return main(list(map(str, ["analyze", *options, *places, *words])))


def result(recipe, name) -> dict:
    return json.loads((recipe / "exp/analysis" / name / "analysis.json").read_text())


# Spectra


@pytest.mark.parametrize("values, expected", [
    ((4, 2, 1, 1), (3.363586, 1.375, 1.766423)), ((10, 1, 1, 1), (2.211631, 1.03, 1.060582)), ((3, 3, 3, 3), (4, 4, 4)),
    ((0, 7, 0, 0), (1, 1, 1)), ((0, 0), (0, 0, 0))])
def test_golden_ranks(values, expected):
    assert [effective_rank(values), stable_rank(values), participation(values)] == pytest.approx(expected, abs=1e-6)


def test_spectra_are_those_of_the_dense_changes(pair, dense):
    for folder, changes in zip(pair[1], dense):
        spectra = spectra_of(read(folder))
        for name, values in spectra.items():
            exact = np.linalg.svd(changes[name], compute_uv=False)[:len(values)]
            assert values == pytest.approx(exact, abs=1e-6)
            assert measures(values)["stable_rank"] == pytest.approx(
                np.linalg.norm(changes[name]) ** 2 / exact[0] ** 2, rel=1e-5)


# Weights


def flat(changes) -> np.ndarray:
    return np.concatenate([changes[name].ravel() for name in sorted(changes)])


def test_cosines_and_norms_are_those_of_the_dense_changes(pair, dense):
    gram = by_layer(grams(together([read(folder) for folder in pair[1]])))
    a, b = map(flat, dense)
    assert cosines(gram["total"])[0, 1] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-6)
    assert np.sqrt(np.diag(gram["total"])) == pytest.approx([np.linalg.norm(a), np.linalg.norm(b)], rel=1e-6)
    inside = [flat({name: part for name, part in changes.items() if ".decoder.layers.1." in name}) for changes in dense]
    assert gram["decoder.1"] == pytest.approx(np.array(inside) @ np.array(inside).T, abs=1e-6)
    assert list(gram) == ["encoder.0", "encoder.1", "decoder.0", "decoder.1", "total"]


def test_measures_do_not_depend_on_how_a_change_is_factored():
    generator = torch.Generator().manual_seed(0)
    B, A, R, other = (torch.randn(*shape, generator=generator) for shape in ((20, 3), (3, 24), (3, 3), (20, 24)))
    first, second = LowRank(B, A, 0.5), LowRank(B @ R, torch.linalg.inv(R) @ A, 0.5)
    gram = grams(together([SimpleNamespace(deltas={"w": delta}) for delta in (first, second, Dense(other))]))["w"]
    assert gram[0] == pytest.approx(gram[1], rel=1e-4) and cosines(gram)[0, 1] == pytest.approx(1, abs=1e-6)
    assert phi(directions(first, 9), directions(second, 9)) == pytest.approx(1, abs=1e-6)


def test_an_adapter_that_changes_nothing_has_no_cosine():
    assert np.isnan(cosines(np.array([[4.0, 0.0], [0.0, 0.0]]))[0, 1])


def test_signs_are_counted_as_in_dense_vectors(pair, dense):
    counts = by_layer(sign_counts(together([read(folder) for folder in pair[1]]), 20))["total"]
    kept = []
    for vector in map(flat, dense):
        smallest = np.sort(np.abs(vector))[::-1][int(0.2 * len(vector)) - 1]
        kept.append(np.where(np.abs(vector) >= smallest, vector, 0))
    a, b = kept
    elected = np.sign(a + b)
    # float32 against float64 at the threshold
    assert counts.both[0, 1] == pytest.approx(np.sum((a != 0) & (b != 0)), abs=2)
    assert counts.opposite[0, 1] == pytest.approx(np.sum(a * b < 0), abs=2) and counts.opposite[0, 0] == 0
    assert counts.kept == pytest.approx([np.sum(v != 0) for v in kept], abs=2)
    assert counts.elected == pytest.approx([np.sum((v != 0) & (np.sign(v) == elected)) for v in kept], abs=2)
    assert counts.elected_mass == pytest.approx([np.abs(v[np.sign(v) == elected]).sum() for v in kept], rel=1e-4)


def test_all_signs_of_an_opposite_adapter_conflict():
    delta = LowRank(torch.randn(8, 2), torch.randn(2, 9))
    counts = sign_counts(together([SimpleNamespace(deltas={"w": d}) for d in (delta, delta.scaled(-0.5))]), 100)["w"]
    assert counts.opposite[0, 1] == counts.both[0, 1] == 72
    assert list(counts.elected) == [72, 0]


# Subspaces


def test_phi_grassmann_and_alignment_are_those_of_dense_matrices(pair, dense):
    a, b = (read(folder).deltas for folder in pair[1])
    for name in sorted(set(a) & set(b))[:6]:
        x, y = (changes[name] for changes in dense)
        V, W = np.linalg.svd(x)[2][:4].T, np.linalg.svd(y)[2][:6].T
        first, second = directions(a[name], 16), directions(b[name], 16)
        assert (first.shape[1], second.shape[1]) == (4, 6)
        assert phi(first, second) == pytest.approx(np.sum((V.T @ W) ** 2) / 4, abs=1e-6)
        assert grassmann(first, second) == pytest.approx(np.linalg.norm(subspace_angles(V, W)), abs=1e-5)
        merged = concatenate([a[name], b[name]], [0.5, 0.5])
        U, s, _ = np.linalg.svd((x + y) / 2)
        k = next(k for k in range(1, 11) if np.linalg.norm(s[k:]) <= 0.05 * np.linalg.norm(s))
        basis = kept_basis(merged)
        assert basis.shape[1] == k
        assert alignment(basis, a[name]) == pytest.approx(np.linalg.norm(U[:, :k].T @ x) / np.linalg.norm(x), abs=1e-6)
        assert alignment(basis, Dense(torch.tensor(x))) == pytest.approx(alignment(basis, a[name]), abs=1e-6)


def test_random_directions_share_what_chance_gives():
    generator = torch.Generator().manual_seed(0)
    bases = [torch.linalg.qr(torch.randn(64, k, generator=generator).double()).Q for k in [4, 8] * 100]
    assert np.mean([phi(a, b) for a, b in zip(bases[::2], bases[1::2])]) == pytest.approx(8 / 64, abs=0.01)


# Representations


def test_hsic_is_the_published_formula():
    x, y = np.random.default_rng(0).normal(size=(2, 7, 5))
    K, L = (part @ part.T for part in (x, y))
    np.fill_diagonal(K, 0), np.fill_diagonal(L, 0)
    n, one = 7, np.ones(7)
    expected = (np.trace(K @ L) + one @ K @ one * (one @ L @ one) / \
                ((n - 1) * (n - 2)) - 2 / (n - 2) * one @ K @ L @ one) / (n * (n - 3))
    found = hsic(torch.tensor(np.stack([x @ x.T, y @ y.T])))
    assert found[0, 1].item() == pytest.approx(expected, rel=1e-12)


def test_golden_bias_of_cka_and_its_absence():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 400, 64, generator=generator)
    assert linear_cka(x, y) == pytest.approx(0.139, abs=0.01)
    assert linear_cka(x[:50], y[:50]) == pytest.approx(0.563, abs=0.03)
    assert abs(minibatch_cka([x[None], y[None]])[0, 1]) < 0.01
    assert abs(minibatch_cka([x.reshape(8, 50, 64), y.reshape(8, 50, 64)])[0, 1]) < 0.02


def test_cka_is_one_for_rotations_scales_and_shifts():
    x = torch.randn(3, 20, 6, generator=torch.Generator().manual_seed(0)).double()
    Q = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1)).double()).Q
    assert minibatch_cka([x, 3 * x @ Q + 5])[0, 1] == pytest.approx(1, abs=1e-9)
    assert linear_cka(x[0], 3 * x[0] @ Q + 5) == pytest.approx(1, abs=1e-9)


# Layers


def judgement(u, loss):
    return Judgement(-u, u, np.array([u - 0.01, u, u + 0.01]), loss)


def test_contributions_have_the_sign_of_help():
    full, base = judgement(-0.2, 1.0), judgement(-0.6, 3.0)  # WER 60 % -> 20 %
    found = contribution(judgement(-0.5, 2.5), judgement(-0.5, 2.0), full, base)
    assert (found["without"]["u"], found["without"]["share"]) == (0.3, 0.75)
    assert (found["without"]["loss"], found["without"]["loss_share"]) == (1.5, 0.75)
    assert (found["only"]["u"], found["only"]["share"], found["only"]["loss_share"]) == (0.1, 0.25, 0.5)
    worse = contribution(full, base, base, full)  # an adapter that only harms
    assert worse["without"]["share"] is None and worse["without"]["loss_share"] is None


def test_one_layer_that_carries_the_change_is_found(recipe):
    folder, carries = recipe / "exp/asr/one", "model.decoder.layers.1."
    make_adapter(recipe / "base", folder, seed=7, size=0.3)
    weights = load_file(folder / "adapter_model.safetensors")
    save_file({name: tensor if carries in name or "lora_A" in name else tensor * 0 for name, tensor in weights.items()},
              folder / "adapter_model.safetensors")
    (folder / "speechmerge.json").write_text(json.dumps({"task": "low", "language": None, "base": None}))
    assert analyze(recipe, "layers", "--task", "asr", name="one", adapters=[folder]) == 0
    about = result(recipe, "one")["adapters"]["one"]
    whole = about["base"]["loss"] - about["full"]["loss"]
    assert abs(whole) > 0.1
    for layer, found in about["layers"].items():
        share = float(layer == "decoder.1")
        assert found["only"]["loss"] == pytest.approx(share * whole, abs=2e-6)
        assert found["without"]["loss"] == pytest.approx(share * whole, abs=2e-6)
        assert found["without"]["u"] == pytest.approx(share * about["gain"], abs=2e-6)
    parts = {name: part["only"]["loss"] for name, part in about["parts"].items()}
    assert parts == pytest.approx({"encoder": 0, "early encoder": 0, "late encoder": 0, "decoder": whole,
                                   "early decoder": 0, "late decoder": whole}, abs=2e-6)


def test_all_layers_together_are_the_adapter_as_peft_merges_it(recipe, tmp_path):
    assert analyze(recipe, "layers") == 0
    about = result(recipe, "layers")["adapters"]["high"]
    model = load_model(recipe / "base", device="cpu")
    judge = Judge(model, "high", get_task("asr"), recipe / "data", "dev", Options(), "generation", tmp_path)
    with model.adapter(recipe / "exp/asr/high"):
        merged = judge.judge("merged")
    assert (merged.value, merged.loss) == pytest.approx((about["full"]["value"], about["full"]["loss"]), abs=1e-5)
    base = judge.judge("base")
    assert (base.value, base.loss) == pytest.approx((about["base"]["value"], about["base"]["loss"]), abs=1e-5)
    assert base.loss != pytest.approx(merged.loss, abs=1e-2)


# Prediction


def made_up(costs_of, adapters=7, seed=0):
    """(measures, costs, rows) of random symmetric and directed measures; costs_of: their values -> cost."""
    random = np.random.default_rng(seed)
    measured = {name: random.normal(size=(adapters, adapters)) for name in FEATURES}
    rows = [(i, j) for i in range(adapters) for j in range(adapters) if i != j]
    costs = [[None] * adapters for _ in range(adapters)]
    for i, j in rows:
        costs[i][j] = costs_of({name: values[i, j] for name, values in measured.items()}, random)
    return measured, costs, rows


def test_a_linear_cost_is_predicted_for_unseen_pairs_and_adapters():
    found = fitted(*made_up(lambda m, random: 0.3 - 0.2 * m["alignment"] + 0.1 * m["cosine"]), ridge=0.0)
    assert found["errors"]["new_pair"]["r2"] == pytest.approx(1, abs=1e-6)
    assert found["errors"]["new_adapters"]["mean_absolute"] == pytest.approx(0, abs=1e-6)
    assert found["weights"]["phi"] == pytest.approx(0, abs=1e-6) and found["weights"]["alignment"] < -0.1


def test_noise_is_not_predicted():
    errors = [fitted(*made_up(lambda m, random: random.normal(), seed=seed), ridge=1.0)["errors"] for seed in range(5)]
    assert max(error["new_pair"]["r2"] for error in errors) < 0.15
    assert all(error["mean"]["r2"] == 0 for error in errors)


def test_a_pair_does_not_help_to_predict_itself():
    measured, costs, rows = made_up(lambda m, random: m["phi"] + random.normal())
    before = fitted(measured, costs, rows, 1.0)["rows"]
    costs[2][5], costs[5][2] = 40.0, -30.0
    after = fitted(measured, costs, rows, 1.0)["rows"]
    for row in ((2, 5), (5, 2)):
        assert after[rows.index(row)]["predicted"] == before[rows.index(row)]["predicted"]
        assert after[rows.index(row)]["predicted_new_adapters"] == before[rows.index(row)]["predicted_new_adapters"]
    assert after[rows.index((2, 4))]["predicted"] != before[rows.index((2, 4))]["predicted"]
    assert after[rows.index((2, 4))]["predicted_new_adapters"] == before[rows.index((2, 4))]["predicted_new_adapters"]


def test_cost_is_the_share_of_the_gain_that_is_lost():
    single, base, merged = judgement(-0.2, 1.0), judgement(-0.6, 3.0), judgement(-0.3, 2.5)
    assert (cost(merged, single, base, "loss"), cost(merged, single, base, "metric")) == (0.75, 0.25)
    assert cost(merged, base, single, "loss") is None


def trained_a_little(recipe, name, set_name, seed):
    """An adapter that does lower the loss on a set's dev data."""
    from peft import LoraConfig

    torch.manual_seed(seed)
    model, task, folder = load_model(recipe / "base", device="cpu"), get_task("asr"), recipe / "exp/asr" / name
    examples = task.examples(DataDir.read(recipe / "data" / set_name / "dev"))
    items = [Item(example, model.features(example.audio, example.id), model.seconds(example)) for example in examples]
    batch = model.to_device(model.collate(items, task, training=True))
    model.wrap(LoraConfig(r=4, target_modules=["q_proj", "v_proj", "fc1", "fc2"]))
    optimizer = torch.optim.Adam([p for p in model.module.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(6):
        optimizer.zero_grad()
        model.loss(model.respond(batch), batch["labels"]).backward()
        optimizer.step()
    model.save(folder)
    (folder / "speechmerge.json").write_text(json.dumps({"task": set_name, "language": None, "base": None}))
    return folder


def test_costs_are_those_of_the_merged_weights(recipe, tmp_path, capsys):
    folders = [trained_a_little(recipe, f"t{seed}", name, seed) for seed, name in enumerate(["low", "low", "high"])]
    assert analyze(recipe, "prediction", "--task", "asr", adapters=folders) == 0
    found = result(recipe, "prediction")
    assert found["sets"] == ["low", "low", "high"] and found["costs"][1][1] is None
    model = load_model(recipe / "base", device="cpu")
    judge = Judge(model, "low", get_task("asr"), recipe / "data", "dev", Options(), "generation", tmp_path)
    a, b = read(folders[0], name="a"), read(folders[2], name="b")
    base, losses = judge.judge("base").loss, []
    for place, vector in enumerate([a, combine([a, b], [0.5, 0.5])]):
        with vector.applied(model.core):
            losses.append(judge.judge(place).loss)
    assert losses[0] < base
    assert found["costs"][0][2] == pytest.approx((losses[1] - losses[0]) / (base - losses[0]), abs=1e-4)
    assert set(found["errors"]) == {"new_pair", "new_adapters", "mean"}
    capsys.readouterr()
    assert analyze(recipe, "prediction", name="wrong") == 2
    assert "at least 3" in capsys.readouterr().err


# The verb


def test_the_registry_has_all_kinds():
    assert set(KINDS) <= set(ANALYSES.names())  # others have test files of their own


def test_every_kind_end_to_end(recipe, capsys):
    for kind in set(KINDS) - {"prediction"}:  # of three adapters, below
        assert analyze(recipe, kind) == 0
        capsys.readouterr()
        folder = recipe / "exp/analysis" / kind
        done = json.loads((folder / "done.json").read_text())["outputs"]
        assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == {*done, "done.json"}
        pictures = sorted(folder.glob("*.png"))
        assert pictures and all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)
        assert all(path.with_suffix(".csv").is_file() for path in pictures)
        assert result(recipe, kind)["kind"] == kind
        assert analyze(recipe, kind) == 0 and "kept" in capsys.readouterr().out


def test_what_is_changed_is_done_again(recipe, capsys):
    assert analyze(recipe, "weights", name="again") == 0
    assert (recipe / "exp/analysis/again/ties_survival.png").is_file()
    assert analyze(recipe, "weights", "--options", "{signs: false}", name="again") == 0
    assert "kept" not in capsys.readouterr().out
    assert not (recipe / "exp/analysis/again/ties_survival.png").exists()


def test_an_interrupted_analysis_of_layers_goes_on(recipe, monkeypatch):
    assert analyze(recipe, "layers") == 0
    before = result(recipe, "layers")["adapters"]
    (recipe / "exp/analysis/layers/done.json").unlink()
    monkeypatch.setattr(Judge, "decoded", lambda self: pytest.fail("decoded again"))
    assert analyze(recipe, "layers") == 0
    assert result(recipe, "layers")["adapters"] == before


def test_transfer_is_the_share_of_the_own_adapters_gain(recipe):
    assert analyze(recipe, "transfer") == 0
    found, decoded = result(recipe, "transfer"), recipe / "exp/decode/dev"
    values = {name: {s: json.loads((decoded / name / s / "score.json").read_text())["generation"]["value"]
                     for s in ("low", "high")} for name in ("base", "low", "high")}
    for adapter, row in found["adapters"].items():
        for name, entry in row.items():
            gain = values["base"][name] - values[adapter][name]
            own = values["base"][name] - values[name][name]
            assert entry["value"] == pytest.approx(values[adapter][name], abs=1e-6)
            assert entry["gain"] == pytest.approx(gain, abs=1e-6)
            assert (entry["ratio"] is None) == (entry["reason"] is not None)
            if entry["ratio"] is not None:
                assert entry["ratio"] == pytest.approx(gain / own, abs=1e-5)


def test_transfer_below_the_base_is_negative():
    deltas = {"kws": {"generation": {"value": -1.5,
        "ci": [-1.75, -1.25], "reason": None}, "labels": {"value": 0.0, "reason": None}}}
    entry = {"scores": {"kws": {"generation": 0.45, "labels": 0.9}}, "interference_delta": deltas}
    about = {"higher_is_better": True, "base": 0.55}
    assert cell(entry, "kws", about, "generation") == {"value": 0.45,
                "gain": -0.1, "ratio": -0.5, "ci": [-0.75, -0.25], "reason": None}
    assert cell(entry, "kws", {"higher_is_better": False, "base": 0.55}, "labels")["gain"] == -0.35


def test_an_adapter_that_changes_little_keeps_the_states(recipe):
    make_adapter(recipe / "base", recipe / "exp/asr/little", seed=9, size=0.003)
    folder = recipe / "exp/asr/little"
    (folder / "speechmerge.json").write_text(json.dumps({"task": "asr", "language": None, "base": None}))
    options = "{sets: low high, rounds: 2}"
    assert analyze(
    recipe,
    "representations",
    "--options",
    options,
    "--task",
    "asr",
    name="cka",
    adapters=[
        "low",
         folder]) == 0
    layers = result(recipe, "cka")["layers"]
    assert layers["0"][0] == pytest.approx([1, 1, 1], abs=1e-6)  # nothing is adapted below the first block
    assert layers["2"][0][2] == pytest.approx(1, abs=1e-3) and layers["2"][0][1] < layers["2"][0][2] - 1e-3


@pytest.mark.parametrize("words, message", [
    (["wieghts"], "did you mean 'weights'"), (["weights", "--options", "{k: 120}"], "options.k: found 120"),
    (["layers", "--options", "{sample: 3}"], "options.sample: unknown key")])
def test_wrong_options_are_refused_by_name(recipe, capsys, words, message):
    assert analyze(recipe, *words, name="wrong") == 2
    assert message in capsys.readouterr().err


def test_subspaces_need_two_adapters(recipe, capsys):
    assert analyze(recipe, "subspaces", name="wrong", adapters=["low"]) == 2
    assert "at least two" in capsys.readouterr().err
    with pytest.raises(UsageError):
        ANALYSES.get("subspace")
