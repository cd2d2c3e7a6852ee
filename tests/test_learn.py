"""Learned coefficients: closed forms, golden values, a task whose best mix is known, kills."""
import math
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from adapters import load_base, make_adapter
from tiny import tiny_tones, tiny_whisper

from speechmerge.bank import AdapterBank
from speechmerge.data.directory import DataDir
from speechmerge.errors import UsageError
from speechmerge.learn import LEARNERS
from speechmerge.learn.data import TaskData, weights_of
from speechmerge.learn.learners.regret_smoothmax import smooth_max
from speechmerge.learn.loop import Loop, State
from speechmerge.learn.parametrisation import Parametrisation, paths_of, stages
from speechmerge.learn.run import with_coefficients
from speechmerge.merge.config.spec import MergeSpec
from speechmerge.models.base import load_model
from speechmerge.tasks import get_task


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_whisper(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def model(base):
    return load_model(base, audio_context="dynamic", audio_context_min=0.5)


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    """{name: folder of dev data} of two tasks."""
    root = tmp_path_factory.mktemp("data")
    for seed, task in enumerate(("kws", "intent")):
        tiny_tones(root / task / "dev", task, n=12, seed=seed)
    return root


@pytest.fixture(scope="module")
def adapters(base, tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    return [make_adapter(base, root / name, seed=seed, size=0.2) for seed, name in enumerate(("kws", "intent"))]


def learned(model, tones, adapters, folder, kind, **params):
    """(state, coefficients, bank) after learning."""
    learner = LEARNERS.get(kind)({"batch_size": 6, "steps": 6, "progress_bar": False, **params})
    names = [path.name for path in adapters]
    bank = AdapterBank(model.core, adapters, names, group_by=learner.values["group_by"])
    try:
        data = {name: TaskData(name, get_task(name), DataDir.read(tones / name / "dev"), model, learner.values) for name in names}
        learner.check_tasks(data)
        loop = Loop(bank, data, learner, folder)
        state = loop.run()
        return state, loop.coefficients(state.parameters).values.detach(), loop
    finally:
        bank.remove()


# objectives

def test_smooth_max_golden_values():
    regrets = (0.1, 0.5, -0.2, 0.3)
    for tau, expected in ((0.01, 0.48614), (0.1, 0.37574), (1, 0.20752), (100, 0.17533)):
        value, shares = smooth_max(regrets, tau)
        assert value == pytest.approx(expected, abs=1e-5)
        assert max(regrets) - tau * math.log(4) - 1e-12 <= value <= max(regrets)
        step = 1e-6
        for place in range(4):
            moved = [number + step * (index == place) for index, number in enumerate(regrets)]
            assert (smooth_max(moved, tau)[0] - value) / step == pytest.approx(shares[place], abs=1e-3)


def test_regret_and_its_derivative():
    learner = LEARNERS.get("regret_smoothmax")({"tau": 0.5})
    losses, baselines = [1.2, 0.8, 3.0], [1.0, 0.5, 2.5]
    value, weights = learner.combine("abc", losses, baselines)
    assert value == pytest.approx(0.5 * math.log(sum(math.exp(r / 0.5) for r in (0.2, 0.6, 0.2)) / 3))
    for place in range(3):
        moved = [loss + 1e-6 * (index == place) for index, loss in enumerate(losses)]
        assert (learner.combine("abc", moved, baselines)[0] - value) / 1e-6 == pytest.approx(weights[place], abs=1e-4)


def test_regret_relative_to_the_gain_is_that_of_interference():
    learner = LEARNERS.get("regret_smoothmax")({"tau": 1e-6, "regret_divisor": "gain"})
    single, base = [1.0, 0.5], [3.0, 0.75]
    for losses, worst in (([2.0, 0.5], 0.5), ([1.0, 0.75], 1.0), ([1.0, 0.5], 0.0)):
        assert learner.combine("ab", losses, single, base)[0] == pytest.approx(worst, abs=1e-5)
    assert learner.combine("ab", [2.0, 0.5], single, base)[1] == pytest.approx([0.5, 0.0])  # the worst, by its gain


def test_weights_of_tasks():
    combine = LEARNERS.get("gradient")({}).combine
    assert combine("ab", [1.0, 3.0], [0.5, 2.0]) == (pytest.approx(2 + 1.5), [2.0, 0.5])
    manual = LEARNERS.get("gradient")({"ce_task_weighting": "manual", "ce_manual_task_weights": {"a": 2, "b": 1}})
    assert manual.combine(["b", "a"], [1.0, 3.0], None) == (7.0, [1.0, 2.0])
    with pytest.raises(UsageError, match="ce_manual_task_weights: says nothing of 'c'"):
        manual.check_tasks({"a": None, "c": None})


def test_entropy_against_the_definition(model, tones):
    data = TaskData("kws", get_task("kws"), DataDir.read(tones / "kws/dev"), model, LEARNERS.get("adamerging")({}).values)
    batch = data.batch(0)
    tokens = {label: len(model.target_ids(label)) for label in data.labels}
    inputs = model.collate(batch.items, data.task)
    scores = model.score_labels(inputs, data.labels) * torch.tensor([tokens[label] for label in data.labels])  # mean -> sum
    p = scores.double().softmax(-1)
    assert batch.entropy().item() == pytest.approx(-(p * p.log()).sum(-1).mean().item(), abs=1e-5)


def test_adamerging_refuses_tasks_without_labels():
    with pytest.raises(UsageError, match="asr has no closed label set"):
        LEARNERS.get("adamerging")({}).check_tasks({"kws": SimpleNamespace(labels=["a"]), "asr": SimpleNamespace(labels=None)})


# parametrisations

def test_parametrisations():
    names = ["a", "b", "c"]
    w = torch.tensor([0.2, -1.0, 3.0])
    for kind, expected in (("free", w), ("clamp", w.clamp(0, 1)), ("tanh_alpha", w.tanh()), ("softmax", 2 * w.softmax(-1))):
        made = Parametrisation(kind, names, scale=2.0)
        assert torch.allclose(made(w), expected)
        if kind != "softmax":
            assert torch.allclose(made(made.start(0.3)), torch.full((3,), 0.3))
    assert Parametrisation("free", names, normalise=True)(w).abs().sum().item() == pytest.approx(1)
    assert Parametrisation("free", names, layers=4)(torch.rand(4, 3)).shape == (4, 3)
    with pytest.raises(UsageError, match="init: found 1.5"):
        Parametrisation("tanh_alpha", names).start(1.5)


def test_a_tree_is_a_product_of_coefficients():
    """Merging groups, then merging the merged groups, is one mix with the products along the paths."""
    tree = [["a", "b"], ["c", ["d", "e"]]]
    assert paths_of(tree) == {"a": [1, 0], "b": [2, 0], "c": [4, 3], "d": [6, 5, 3], "e": [7, 5, 3]}
    made, w = Parametrisation("tanh_alpha", "abcde", tree), torch.randn(8, generator=torch.Generator().manual_seed(0))
    t, tau = w.tanh(), torch.randn(5, 7, generator=torch.Generator().manual_seed(1))
    inner = {"ab": t[1] * tau[0] + t[2] * tau[1], "de": t[6] * tau[3] + t[7] * tau[4]}
    whole = t[0] * inner["ab"] + t[3] * (t[4] * tau[2] + t[5] * inner["de"])
    assert torch.allclose(made(w) @ tau, whole, atol=1e-6)
    assert [(s.names, s.trained) for s in stages(tree)] == [(["a", "b"], [1, 2]), (["d", "e"], [6, 7]), (["c", "d", "e"], [4, 5]),
                                                            (list("abcde"), [0, 3])]
    made.active, made.used = {"d", "e"}, {6, 7}
    assert torch.allclose(made(w), torch.stack([torch.tensor(0.0)] * 3 + [t[6], t[7]]))


def test_default_groups_and_wrong_groups():
    learner = LEARNERS.get("supermerge")({"hierarchical": {"enabled": True}})
    assert learner.tree(list("abcde")) == [[["a", "b"], ["c", "d"]], "e"]
    assert LEARNERS.get("supermerge")({}).tree(list("abc")) == ["a", "b", "c"]
    wrong = LEARNERS.get("supermerge")({"hierarchical": {"enabled": True, "groups": [["a"], ["x"]]}})
    with pytest.raises(UsageError, match="hierarchical.groups: found a, x, expected each of a, b once"):
        wrong.tree(["a", "b"])


# the loop

@pytest.mark.parametrize("kind", ["supermerge", "gradient", "regret_smoothmax", "adamerging"])
@pytest.mark.parametrize("variant", ["task_wise", "layer_wise"])
def test_the_objective_falls(model, tones, adapters, tmp_path, kind, variant):
    state, values, loop = learned(model, tones, adapters, tmp_path, kind, variant=variant, steps=12, learning_rate=0.03,
                                  batch_size=12)
    objective = [row[2] for row in state.history]
    assert len(objective) == 12 and objective[-1] < objective[0]
    assert values.shape == ((2,) if variant == "task_wise" else (len(loop.bank.groups), 2))
    assert {"supermerge": lambda v: v.abs() < 1, "adamerging": lambda v: (v >= 0) & (v <= 1), "gradient": lambda v: v == v,
            "regret_smoothmax": lambda v: (v.sum(-1, keepdim=True) - 1).abs() < 1e-5}[kind](values).all()


def test_finds_the_adapter_that_solves_the_task(base, model, tones, tmp_path):
    """One adapter was fitted to the data, the other is noise: its coefficient must become the larger one."""
    from speechmerge.train.options import TrainOptions
    from speechmerge.train.run import train
    data = DataDir.read(tones / "kws/dev")
    own = load_model(base, audio_context="dynamic", audio_context_min=0.5)
    options = TrainOptions(rank=4, epochs=25, batch_size=6, learning_rate=5e-3)
    train(own, get_task("kws"), data, None, tmp_path / "kws", options, exp_dir=tmp_path)
    make_adapter(base, tmp_path / "noise", seed=3, size=0.3)
    learner = LEARNERS.get("supermerge")({"variant": "task_wise", "steps": 25, "learning_rate": 0.1, "batch_size": 12,
                                          "progress_bar": False, "init": 0.3})
    bank = AdapterBank(model.core, [tmp_path / "kws", tmp_path / "noise"], ["kws", "noise"])
    try:
        loop = Loop(bank, {"kws": TaskData("kws", get_task("kws"), data, model, learner.values)}, learner, tmp_path / "state")
        values = loop.coefficients(loop.run().parameters).values
    finally:
        bank.remove()
    assert values[0] > 0.6 and abs(values[1]) < 0.3


def test_gradient_of_the_objective(model, tones, adapters, tmp_path):
    """Against finite differences of the objective itself; the loss is float32, so the steps are not small."""
    double = load_model(model.path, audio_context="dynamic", audio_context_min=0.5)
    double.module.double()
    learner = LEARNERS.get("regret_smoothmax")({"batch_size": 4, "progress_bar": False})
    bank = AdapterBank(double.core, adapters, ["kws", "intent"])
    data = {name: TaskData(name, get_task(name), DataDir.read(tones / name / "dev"), double, learner.values) for name in bank.names}
    loop = Loop(bank, data, learner, tmp_path)
    at, state = torch.tensor([0.3, -0.2], dtype=torch.float64), State(torch.zeros(2), baselines=[1.0, 2.0])
    _, _, gradient = loop.gradient(at.clone().requires_grad_(), list(data), 0, state)
    for place in range(2):
        values = []
        for sign in (1, -1):
            moved = at.clone()
            moved[place] += sign * 2e-3
            values.append(loop.gradient(moved.requires_grad_(), list(data), 0, state)[0])
        assert (values[0] - values[1]) / 4e-3 == pytest.approx(gradient[place].item(), rel=5e-3)


@pytest.mark.parametrize("kind, params", [("supermerge", {"hierarchical": {"enabled": True}}), ("regret_smoothmax", {})])
def test_goes_on_with_the_same_result(model, tones, adapters, tmp_path, monkeypatch, kind, params):
    _, whole, _ = learned(model, tones, adapters, tmp_path / "a", kind, save_steps=2, **params)

    class Killed(Exception):
        pass

    saved = State.save

    def save(state, path):
        saved(state, path)
        if state.step == 4:
            raise Killed
    monkeypatch.setattr(State, "save", save)
    with pytest.raises(Killed):
        learned(model, tones, adapters, tmp_path / "b", kind, save_steps=2, **params)
    monkeypatch.undo()
    _, again, _ = learned(model, tones, adapters, tmp_path / "b", kind, save_steps=2, **params)
    assert torch.equal(whole, again)


@pytest.mark.parametrize("kind", ["adamerging", "supermerge"])
def test_checkpointing_changes_memory_alone(model, tones, adapters, tmp_path, kind):
    before = [parameter.clone() for parameter in model.core.parameters()]
    found = [learned(model, tones, adapters, tmp_path / str(on), kind, gradient_checkpointing=on)[1] for on in (False, True)]
    assert torch.allclose(*found, atol=1e-6) and not torch.allclose(found[0], found[0].mean())
    assert "forward" not in vars(model.core.model.encoder.layers[0])
    assert all(torch.equal(one, other) for one, other in zip(before, model.core.parameters()))


def test_the_encoder_hears_once_for_all_labels(model, tones, monkeypatch):
    calls = []
    hook = model.core.model.encoder.register_forward_hook(lambda *_: calls.append(1))
    options = LEARNERS.get("adamerging")({"batch_size": 4}).values
    TaskData("kws", get_task("kws"), DataDir.read(tones / "kws" / "dev"), model, options).batch(0).entropy()
    hook.remove()
    assert len(calls) == 1


def test_early_stopping_and_the_best(model, tones, adapters, tmp_path):
    state, values, _ = learned(model, tones, adapters, tmp_path, "supermerge", variant="task_wise", steps=40, learning_rate=0.9,
                                  early_stopping_patience=3, early_stopping_warmup_steps=0, min_optimizer_steps_before_early_stop=5,
                                  restore_best_checkpoint=True, batch_size=12)
    objective = [row[2] for row in state.history]
    assert 5 <= len(objective) < 40
    best = objective.index(min(objective))
    assert best > 0 and len(objective) - 1 - best >= 3
    _, until_then, _ = learned(model, tones, adapters, tmp_path / "again", "supermerge", variant="task_wise", steps=best,
                               learning_rate=0.9, batch_size=12)
    assert torch.equal(values, until_then)


def test_sampling_by_label():
    examples = [SimpleNamespace(target=target) for target in "aaab"]
    assert weights_of(examples, "uniform") is None
    assert weights_of(examples, "inverse") == weights_of(examples, "balanced") == [1 / 3, 1 / 3, 1 / 3, 1]
    assert weights_of(examples, "sqrt_inverse") == pytest.approx([3 ** -0.5] * 3 + [1])


# options

@pytest.mark.parametrize("kind, params, words", [
    ("supermerge", {"stepz": 3}, "optimizer.params.stepz: unknown key; did you mean 'steps'"),
    ("supermerge", {"steps": "many"}, "optimizer.params.steps: found 'many', expected integer"),
    ("gradient", {"split": "test"}, "optimizer.params.split: found 'test'"),
    ("gradient", {"split": "train"}, "needs enforce_validation_only_selection: false"),
    ("supermerge", {"hierarchical": {"enabeld": True}}, "hierarchical.enabeld: unknown key"),
])
def test_wrong_options(kind, params, words):
    with pytest.raises(UsageError, match=words):
        LEARNERS.get(kind)(params)


def test_names_of_other_frameworks():
    values = LEARNERS.get("adamerging")({"log_every": 3, "grad_accum_steps": 2, "early_stopping_min_delta": 0.1,
                                         "merge_impl": "streaming_parametrize", "split": "validation"}).values
    assert (values["logging_steps"], values["gradient_accumulation_steps"], values["early_stopping_threshold"]) == (3, 2, 0.1)
    assert values["split"] == "dev" and values["init"] == 0.3


# the verb

def merge(*words, cwd):
    return subprocess.run([sys.executable, "-m", "speechmerge", "merge", *map(str, words)], cwd=cwd, capture_output=True, text=True)


def prepare_exp(base, tones, adapters, folder):
    """exp/adapters.json and a config, as in a recipe."""
    import json
    from speechmerge.storage.checkpoint import model_fingerprint
    entries = {}
    for path in adapters:
        record = {"task": path.name, "base": {"source": str(base), "fingerprint": model_fingerprint(base)},
                  "audio_context": {"kind": "dynamic", "min": 0.5, "step": 0.5}}
        (path / "speechmerge.json").write_text(json.dumps(record))
        entries[path.name] = {"path": str(path), "task": path.name}
    (folder / "exp").mkdir()
    (folder / "exp/adapters.json").write_text(json.dumps(entries))
    config = {"method": "weighted_delta_n", "optimizer": {"type": "supermerge", "params": {
        "steps": 6, "batch_size": 6, "save_steps": 1, "progress_bar": False}}}
    (folder / "learn.yaml").write_text(yaml.safe_dump(config))


@pytest.mark.slow
def test_merge_with_learned_coefficients(base, tones, adapters, tmp_path):
    prepare_exp(base, tones, adapters, tmp_path)
    words = ["--config", "learn.yaml", "--adapters", "kws", "intent", "--data", tones]
    done = merge(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    [file] = tmp_path.glob("exp/learned/supermerge/intent_kws/*/coefficients.yaml")
    found = yaml.safe_load(file.read_text())
    assert found["lambda_policy"]["type"] == "table" and set(next(iter(found["lambda_policy"]["values"].values()))) == {"kws", "intent"}
    again = merge("--coefficients", file, "--adapters", "kws", "intent", "--output-dir", "again", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    [run] = tmp_path.glob("exp/merged/weighted_delta_n/*/runs/run_*/adapter_model.safetensors")
    assert run.read_bytes() == (tmp_path / "again/adapter_model.safetensors").read_bytes()
    model = load_base(base)
    bank = AdapterBank(model, adapters, ["kws", "intent"])
    spec = with_coefficients(MergeSpec.of({"adapters": ["kws", "intent"]}), file)
    rows = torch.tensor([[spec.lambda_policy["values"][group][name] for name in bank.names] for group in bank.groups])
    assert rows.abs().max() < 1 and not torch.allclose(rows, rows[0].expand_as(rows))


@pytest.mark.slow
def test_killed_for_real(base, tones, adapters, tmp_path):
    results = []
    for place in ("whole", "killed"):
        (tmp_path / place).mkdir()
        prepare_exp(base, tones, adapters, tmp_path / place)
        words = [sys.executable, "-m", "speechmerge", "merge", "--config", "learn.yaml", "--adapters", "kws", "intent", "--data", str(tones)]
        if place == "killed":
            process = subprocess.Popen(words, cwd=tmp_path / place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while process.poll() is None and not list((tmp_path / place).glob("exp/learned/*/*/*/state.pt")):
                time.sleep(0.02)
            process.kill()
            process.wait()
        assert subprocess.run(words, cwd=tmp_path / place, capture_output=True).returncode == 0
        [file] = (tmp_path / place).glob("exp/learned/*/*/*/coefficients.yaml")
        results.append(file.read_text())
    assert results[0] == results[1]


def test_a_method_that_cannot_be_learned(base, tones, adapters, tmp_path):
    prepare_exp(base, tones, adapters, tmp_path)
    done = merge("--config", "learn.yaml", "--method", "ties", "--adapters", "kws", "intent", "--data", tones, cwd=tmp_path)
    assert done.returncode == 2 and "method: found ties; coefficients are learned for weighted_delta_n" in done.stderr


def test_data_that_is_not_there(base, adapters, tmp_path):
    prepare_exp(base, None, adapters, tmp_path)
    done = merge("--config", "learn.yaml", "--adapters", "kws", "intent", cwd=tmp_path)
    assert done.returncode == 1 and "data/kws/dev" in done.stderr


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads Linux's /proc")
def test_large_tensors_go_back_to_the_system():
    from speechmerge.memory import returned_at_once

    def resident():
        return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) / 1024

    torch.ones(7 << 20)  # 28 MB, freed: from then on glibc would take as much from its heap
    with returned_at_once():
        large, pins = [], []
        for _ in range(80):  # 160 MB, with small ones between that stay
            large.append(torch.ones(1 << 19))
            pins.append(torch.ones(1 << 14))
        full = resident()
        del large
        assert full - resident() > 80  # what was free in the heap before may have served some
