"""Statistics of adapters and the merges that use them: against plain torch, lstsq, autograd, naive code."""
import contextlib
import copy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from adapters import load_base, make_adapter, make_base, peft_model
from safetensors.torch import load_file, save_file
from tiny import tiny_tones

import speechmerge
from speechmerge.cli import main
from speechmerge.data.directory import DataDir
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.files import read_json, write_json
from speechmerge.merge.compute import computing
from speechmerge.merge.delta import Dense, LowRank
from speechmerge.merge.kernels.regression import regression_mean
from speechmerge.merge.run import prepare
from speechmerge.models import load_model
from speechmerge.statistics import Options, Source, collect, fisher_parts, gram_parts, in_blocks, passes
from speechmerge.systems import System
from speechmerge.tasks import get_task

TASKS = ("kws", "emotion")
EXAMPLES = 3


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A recipe with a base, data of two tasks, a LoRA of each (of different ranks) and a full model of each."""
    folder = tmp_path_factory.mktemp("statistics")
    base = make_base(folder / "base")
    names = {}
    for seed, task in enumerate(TASKS):
        tiny_tones(folder / "data" / task / "train", task, n=8, seed=seed)
        make_adapter(base, folder / "exp" / task / "lora", seed=seed, r=3 + seed)
        full_model(base, folder / "exp" / task / "full", seed)
        for name, path in ((task, f"exp/{task}/lora"), (f"{task}_full", f"exp/{task}/full")):
            write_json(folder / path / "speechmerge.json", {"task": task, "language": "en", "base": {}})
            names[name] = {"path": path, "task": task}
    write_json(folder / "exp/adapters.json", names)
    return folder


def full_model(base, folder, seed):
    """Every parameter of the base moved a little, convolutions, norms and embeddings too."""
    model = load_base(base)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)


@pytest.fixture
def recipe(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sources(folder, kind="lora", options=Options(max_examples=EXAMPLES), context="full"):
    model = load_model(folder / "base", device="cpu", audio_context=context, audio_context_min=0.5)
    return [Source(model, System(task, "adapter", str(folder / "exp" / task / kind), task), get_task(task),
                   DataDir.read(folder / "data" / task / "train"), "train", options) for task in TASKS]


def inputs_of(source):
    """(features, decoder input ids, targets) of each example, without the batches of the code under test."""
    model = source.model
    for example in source.batches.examples:
        prefix, target = model.prefix(source.task, example.language), model.target_ids(example.target)
        features = model.mel.pad(model.features(example.audio), model.mel.full)[None]
        ids = torch.tensor([prefix + target[:-1]])
        yield features, ids, len(prefix) - 1, torch.tensor(target)


def captured(model, names, batches):
    """Parameter -> all rows that its linear layer saw, float64, by hooks on plain transformers."""
    rows = {name: [] for name in names}
    with contextlib.ExitStack() as stack, torch.no_grad():
        for name in names:
            hook = model.get_submodule(name.removesuffix(".weight")).register_forward_hook(
                lambda _, args, __, name=name: rows[name].append(args[0].flatten(0, -2).double()))
            stack.callback(hook.remove)
        for features, ids, *_ in batches:
            model(input_features=features, decoder_input_ids=ids)
    return {name: torch.cat(found) for name, found in rows.items()}


def merged_model(base, folder):
    """base + adapter as PEFT merges them."""
    return peft_model(base, folder).merge_and_unload()


def collected(source, kind):
    return load_file(Path(source.system.path) / "statistics" / f"{kind}.safetensors")


# Collecting

def test_grams_are_what_plain_hooks_see(recipe):
    for source in sources(recipe):
        assert collect([source], "gram", Options()) == ["made"]
        found = collected(source, "gram")
        model = merged_model(recipe / "base", source.system.path)
        rows = captured(model, list(found), inputs_of(source))
        assert sorted(found) == sorted(source.vector.deltas)
        record = read_json(Path(source.system.path) / "statistics/gram.json")
        for name, gram in found.items():
            expected = rows[name].T @ rows[name] / len(rows[name])
            assert torch.allclose(gram.double(), expected, rtol=1e-4, atol=1e-4 * expected.diagonal().mean())
            assert record["rows"][name] == len(rows[name])
        assert record["examples"] == EXAMPLES and record["task"] == source.task.name


def test_fisher_is_the_squared_gradient_of_single_examples(recipe):
    for kind in ("lora", "full"):
        source = sources(recipe, kind)[0]
        collect([source], "fisher", Options())
        found = collected(source, "fisher")
        plain = merged_model(recipe / "base", source.system.path) if kind == "lora" else load_base(source.system.path)
        plain = plain.double()
        parameters = dict(plain.named_parameters())
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        expected = {name: torch.zeros_like(parameters[name]) for name in found}
        for features, ids, first, target in inputs_of(source):
            plain.zero_grad()
            logits = plain(input_features=features.double(), decoder_input_ids=ids).logits[0, first:]
            logits.log_softmax(-1)[torch.arange(len(target)), target].sum().backward()
            for name in found:
                expected[name] += parameters[name].grad ** 2 / EXAMPLES
        assert sorted(found) == sorted(source.vector.deltas)
        for name, value in found.items():
            assert torch.allclose(value.double(), expected[name], rtol=1e-3, atol=1e-3 * expected[name].mean()), name


def test_the_audio_context_and_several_passes(recipe):
    """A dynamic context gives fewer rows; a small memory limit gives the same numbers in more passes."""
    [full, *_], [dynamic, *_] = sources(recipe), sources(recipe, context="dynamic")
    rows = [gram_parts(source, Collector(), 1 << 30) for source in (full, dynamic)]
    encoder, decoder = (next(name for name in rows[0] if part in name) for part in (".encoder.", ".decoder."))
    assert rows[0][encoder] == EXAMPLES * 100 > rows[1][encoder] and rows[0][decoder] == rows[1][decoder]
    for measure in (gram_parts, fisher_parts):
        once, often = Collector(), Collector()
        measure(dynamic, once, 1 << 30)
        measure(dynamic, often, 20000)
        assert once.tensors.keys() == often.tensors.keys() and len(once.tensors) > 10
        assert all(torch.equal(once.tensors[name], often.tensors[name]) for name in once.tensors)


class Collector:
    """In the place of a Writer."""

    def __init__(self):
        self.tensors = {}

    def allocate(self, name, dtype, shape):
        assert name not in self.tensors and dtype == "F32"
        return name

    def write(self, name, first, tensor):
        self.tensors[name] = tensor


def test_passes_fit_the_limit():
    assert passes({"a": 3, "b": 4, "c": 9, "d": 1, "e": 1}, 7) == [["a", "b"], ["c"], ["d", "e"]]
    assert passes({}, 7) == []


def test_the_base_is_untouched(recipe):
    pair = sources(recipe, "full")
    model = pair[0].model
    before = {name: parameter.clone() for name, parameter in model.core.named_parameters()}
    flags = [parameter.requires_grad for parameter in model.core.parameters()]
    for kind in ("gram", "fisher", "regmean_plus_plus"):
        collect(pair, kind, Options())
    assert all(torch.equal(before[name], parameter) for name, parameter in model.core.named_parameters())
    assert flags == [parameter.requires_grad for parameter in model.core.parameters()]
    assert not any(part._forward_pre_hooks for part in model.core.modules())


def test_examples_are_drawn_by_seed(recipe):
    first, second, again = ([example.id for example in sources(recipe, options=options)[0].batches.examples]
                            for options in (Options(4, 0), Options(4, 1), Options(4, 1)))
    assert first != second == again == sorted(again) and len(again) == 4
    assert len(sources(recipe, options=Options())[0].batches) == 8
    for wrong in ({"max_examples": 0}, {"memory_mb": 0}, {"off_diagonal": 1.5}):
        with pytest.raises(UsageError, match="--" + next(iter(wrong)).replace("_", "-")):
            Options(**wrong)


# RegMean

def problem(count=3, rows=40, shape=(5, 8), seed=0):
    """Random layers and inputs of `count` tasks, float64."""
    generator = torch.Generator().manual_seed(seed)
    layers = [torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(count)]
    inputs = [torch.randn(rows, shape[1], generator=generator, dtype=torch.float64) * (1 + torch.arange(shape[1]))
              for _ in range(count)]
    return layers, inputs


def loss(weight, layers, inputs):
    return sum((X @ (weight - layer).T).square().sum() for layer, X in zip(layers, inputs)).item()


def test_regmean_solves_the_least_squares_problem():
    layers, inputs = problem()
    found = regression_mean([Dense(layer) for layer in layers], [X.T @ X for X in inputs], 1.0).dense().double()
    wanted = torch.cat([X @ layer.T for layer, X in zip(layers, inputs)])
    stacked = torch.linalg.lstsq(torch.cat(inputs), wanted).solution.T
    assert torch.allclose(found, stacked, atol=1e-5)
    best, generator = loss(stacked, layers, inputs), torch.Generator().manual_seed(1)
    assert loss(found, layers, inputs) == pytest.approx(best, rel=1e-6)
    for _ in range(50):
        step = 0.01 * torch.randn(found.shape, generator=generator, dtype=torch.float64)
        assert loss(found + step, layers, inputs) > best


@pytest.mark.parametrize("off_diagonal", [0.0, 0.5, 0.9, 1.0])
def test_regmean_of_low_rank_is_the_dense_formula_and_low_rank(off_diagonal):
    _, inputs = problem(shape=(12, 8))
    generator = torch.Generator().manual_seed(2)
    loras = [LowRank(torch.randn(12, r, generator=generator), torch.randn(r, 8, generator=generator), 0.5 * r)
             for r in (1, 2, 3)]
    grams = [X.T @ X / len(X) for X in inputs]
    found = regression_mean(loras, grams, off_diagonal)
    shrunk = [off_diagonal * gram + (1 - off_diagonal) * torch.diag(gram.diagonal()) for gram in grams]
    products = [lora.scale * lora.B.double() @ lora.A.double() for lora in loras]
    expected = sum(D @ G for D, G in zip(products, shrunk)) @ torch.linalg.inv(sum(shrunk))
    assert isinstance(found, LowRank) and found.rank == 6
    assert torch.allclose(found.dense().double(), expected, atol=1e-5)
    dense = regression_mean([Dense(lora.dense()) for lora in loras], grams, off_diagonal)
    assert torch.allclose(dense.dense(), found.dense(), atol=1e-4)


@pytest.mark.parametrize("dead", [False, True])
def test_regmean_where_inputs_do_not_span_the_space(dead):
    """Seen directions are solved, others get the mean; a single adapter comes back as it is."""
    layers, inputs = problem(count=2, rows=3)
    if dead:
        inputs = [X * (torch.arange(8) < 2) for X in problem(count=2)[1]]
    grams = [X.T @ X / len(X) for X in inputs]
    found = regression_mean([Dense(layer) for layer in layers], grams, 1.0).dense().double()
    best = torch.linalg.lstsq(torch.cat(inputs), torch.cat([X @ layer.T for layer, X in zip(layers, inputs)]),
                              driver="gelsd").solution.T
    assert loss(found, layers, inputs) == pytest.approx(loss(best, layers, inputs), rel=1e-3, abs=1e-3)
    unseen = torch.linalg.svd(torch.cat(inputs))[2][2 if dead else 6:].T
    assert torch.allclose(found @ unseen, sum(layers) / 2 @ unseen, atol=1e-4)
    alone = regression_mean([Dense(layers[0])], grams[:1], 1.0).dense().double()
    assert torch.allclose(alone, layers[0], atol=1e-4)
    nothing = regression_mean([Dense(layer) for layer in layers], [gram * 0 for gram in grams], 0.9).dense().double()
    assert torch.allclose(nothing, sum(layers) / 2, atol=1e-6)


def test_regmean_from_files(recipe):
    """The merge of both adapters against the formula with the collected Grams; norms and convolutions are averaged."""
    for kind in ("lora", "full"):
        pair = sources(recipe, kind)
        collect(pair, "gram", Options())
        grams = [collected(source, "gram") for source in pair]
        merged = speechmerge.merge([source.system.path for source in pair], method="regmean", base=recipe / "base",
                                   lambda_=0.5)
        deltas = [{name: delta.dense().double() for name, delta in source.vector.deltas.items()} for source in pair]
        assert merged.deltas.keys() == deltas[0].keys()
        for name, delta in merged.deltas.items():
            both = [found[name] for found in deltas]
            expected = sum(both) / 2
            if name in grams[0]:
                shrunk = [0.9 * g[name].double() + 0.1 * torch.diag(g[name].diagonal()).double() for g in grams]
                expected = sum(D @ G for D, G in zip(both, shrunk)) @ torch.linalg.inv(sum(shrunk))
            assert torch.allclose(delta.dense().double(), 0.5 * expected, atol=1e-5), name
        linear = sum(isinstance(part, torch.nn.Linear) for part in load_base(recipe / "base").model.modules())
        assert len(grams[0]) == (linear if kind == "full" else 2 * 4 + 2 * 6)


def test_regmean_is_the_same_for_any_number_of_threads_and_as_a_lora(recipe):
    pair = sources(recipe)
    collect(pair, "gram", Options())
    paths = [source.system.path for source in pair]
    for threads in (1, 3):
        merged = speechmerge.merge(paths, method="regmean", threads=threads)
        metadata = merged.save(recipe / f"merged{threads}", threads=threads)
        assert metadata["rank"] <= 7 and metadata["error"]["relative_total"] < 1e-5
    one, three = ((recipe / f"merged{threads}/adapter_model.safetensors").read_bytes() for threads in (1, 3))
    assert one == three


# RegMean++

def naive_plus_plus(base, folders, batches, off_diagonal):
    """A transcription on whole models: state dicts, one copy per adapter, the blocks by name."""
    models = [(load_base if (folder / "config.json").exists() else lambda lora: merged_model(base, lora))(folder)
              for folder in folders]
    merged = load_base(base)
    linear = [f"{name}.weight" for name, part in merged.named_modules()
              if isinstance(part, torch.nn.Linear) and name != "proj_out"]
    weights = [model.state_dict() for model in models]
    blocks = [f"model.{part}.layers.{i}." for part in ("encoder", "decoder") for i in range(2)]
    result = {name: sum(state[name] for state in weights) / len(weights) for name in merged.state_dict()}
    result = {name: value for name, value in result.items() if not any(name.startswith(block) for block in blocks)}
    for block in blocks:
        inside = [name for name in weights[0] if name.startswith(block)]
        grams = []
        for model, state, task_batches in zip(models, weights, batches):
            stage = copy.deepcopy(model)
            stage.load_state_dict({**state, **result})
            rows = captured(stage, [name for name in inside if name in linear], task_batches)
            grams.append({name: X.T @ X / len(X) for name, X in rows.items()})
        for name in inside:
            both = [state[name].double() for state in weights]
            if name in linear and not all(torch.equal(value, both[0]) for value in both):
                shrunk = [off_diagonal * g[name] + (1 - off_diagonal) * torch.diag(g[name].diagonal()) for g in grams]
                result[name] = (sum(W @ G for W, G in zip(both, shrunk)) @ torch.linalg.inv(sum(shrunk))).float()
            else:
                result[name] = (sum(both) / len(both)).float()
    return result


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_regmean_plus_plus_is_the_naive_algorithm(recipe, kind):
    pair = sources(recipe, kind)
    collect(pair, "regmean_plus_plus", Options(off_diagonal=0.7))
    paths = [Path(source.system.path) for source in pair]
    merged = speechmerge.merge(paths, method="regmean_plus_plus", base=recipe / "base", off_diagonal=0.7)
    start = load_base(recipe / "base").state_dict()
    batches = [list(inputs_of(source)) for source in pair]
    expected = naive_plus_plus(recipe / "base", paths, batches, 0.7)
    size = max((expected[name] - start[name]).abs().max() for name in merged.deltas)
    for name, delta in merged.deltas.items():
        assert torch.allclose(delta.dense(), expected[name] - start[name], atol=1e-3 * size), name
    collect(pair, "gram", Options())
    plain = speechmerge.merge(paths, method="regmean", base=recipe / "base", off_diagonal=0.7)
    last = "model.decoder.layers.1.fc2.weight"  # the first block sees the same, the last one does not
    assert not torch.allclose(plain.deltas[last].dense(), merged.deltas[last].dense(), atol=1e-2 * size)


def test_blocks_in_the_order_of_the_forward_pass():
    linear = ["project.weight", "encoder.layers.1.fc.weight", "encoder.layers.0.fc.weight"]
    names = sorted([*linear, "encoder.layers.0.norm.weight", "encoder.layers.2.norm.weight", "norm.bias"])
    assert in_blocks(names, linear) == ([["project.weight"], ["encoder.layers.1.fc.weight"],
                                         ["encoder.layers.0.fc.weight", "encoder.layers.0.norm.weight"]],
                                        ["encoder.layers.2.norm.weight", "norm.bias"])


# Fisher

def write_fisher(folder, values, weights=None):
    (folder / "statistics").mkdir(exist_ok=True)
    save_file(values, folder / "statistics/fisher.safetensors")
    record = {"weights": weights or speechmerge.merge([folder]).details["adapters"][0]["sha256"].value()}
    write_json(folder / "statistics/fisher.json", record)


def fisher_case(recipe, missing=()):
    """(folders, deltas, Fisher information) with random, very unequal Fisher information."""
    folders = [recipe / "exp" / task / "lora" for task in TASKS]
    generator, values = torch.Generator().manual_seed(0), []
    for size, folder in zip((1.0, 1e-9), folders):
        deltas = {name: delta.dense() for name, delta in speechmerge.merge([folder]).deltas.items()}
        values.append({name: size * torch.randn(delta.shape, generator=generator).exp() ** 4
                       for name, delta in deltas.items() if name not in missing})
        write_fisher(folder, values[-1])
    return folders, [speechmerge.merge([folder]).deltas for folder in folders], values


@pytest.mark.parametrize("params", [{}, {"normalize": False}, {"floor": 0.1}, {"weights": [1.0, 3.0], "lambda": 0.5}])
def test_fisher_formula(recipe, params):
    missing = "model.encoder.layers.0.fc1.weight"
    folders, deltas, values = fisher_case(recipe, [missing])
    merged = speechmerge.merge(folders, method="fisher", **params)
    floor, share = params.get("floor", 1e-6), params.get("weights", [1.0, 1.0])
    count = sum(value.numel() for value in values[0].values())
    scales = [(sum(value.double().square().sum() for value in found.values()) / count).sqrt() for found in values]
    scales = [1.0, 1.0] if params.get("normalize") is False else scales
    for name, delta in merged.deltas.items():
        tau = [found[name].dense().double() for found in deltas]
        F = [torch.ones_like(t) for t in tau]  # of what was not measured: the mean
        if name != missing:
            F = [(found[name].double() / scale).clamp(min=floor) for found, scale in zip(values, scales)]
        expected = sum(c * f * t for c, f, t in zip(share, F, tau)) / sum(c * f for c, f in zip(share, F))
        assert torch.allclose(delta.dense().double(), params.get("lambda", 1.0) * expected, atol=1e-6), name
    if not params:  # without the normalisation the second adapter would have no say
        assert (merged.deltas[name].dense() - tau[0]).norm() > 0.1 * tau[0].norm()


def test_fisher_over_several_blocks_and_threads(tmp_path):
    generator = torch.Generator().manual_seed(0)
    folders = [tmp_path / name for name in "ab"]
    weights = [{"big": torch.randn(300, 500, generator=generator), "bias": torch.randn(7, generator=generator),
                "scalar": torch.randn((), generator=generator)} for _ in range(3)]
    for folder, values in zip([*folders, tmp_path / "base"], weights):
        folder.mkdir()
        save_file(values, folder / "model.safetensors")
    fishers = [{name: value.square() for name, value in found.items()} for found in weights]
    for folder, values in zip(folders, fishers):
        (folder / "statistics").mkdir()
        save_file(values, folder / "statistics/fisher.safetensors")
        write_json(folder / "statistics/fisher.json", {"weights": speechmerge.merge([folder], base=tmp_path / "base")
                                                       .details["adapters"][0]["sha256"].value()})
    found = {}
    for threads in (1, 3):
        with computing(threads):
            merged = speechmerge.merge(folders, method="fisher", base=tmp_path / "base", normalize=False,
                                       threads=threads)
            found[threads] = {name: delta.dense() for name, delta in merged.deltas.items()}
    for name in weights[0]:
        F, D = [f[name].clamp(min=1e-6) for f in fishers[:2]], [w[name] - weights[2][name] for w in weights[:2]]
        assert torch.allclose(found[1][name], (F[0] * D[0] + F[1] * D[1]) / (F[0] + F[1]), atol=1e-5)
        assert torch.equal(found[1][name], found[3][name])


def test_one_and_equal_adapters_come_back(recipe):
    folders, [own, _], _ = fisher_case(recipe)
    collect(sources(recipe)[:1], "gram", Options())
    for method in ("fisher", "regmean"):
        for chosen in (folders[:1], [folders[0], folders[0]]):
            merged = speechmerge.merge(chosen, method=method).deltas
            assert all(torch.allclose(merged[name].dense(), own[name].dense(), atol=1e-5) for name in own)


# Refusals

def test_missing_stale_and_damaged_statistics(recipe):
    folders, _, values = fisher_case(recipe)
    with pytest.raises(SpeechMergeError, match="gram.safetensors: not there.* statistics --adapters .* --kind gram"):
        speechmerge.merge(folders, method="regmean")
    with pytest.raises(SpeechMergeError, match="--adapters a b --kind fisher"):
        shutil.rmtree(folders[1] / "statistics")
        speechmerge.merge(folders, method="fisher", names=["a", "b"])
    write_fisher(folders[1], values[1], weights="other")
    with pytest.raises(SpeechMergeError, match="other weights than"):
        speechmerge.merge(folders, method="fisher")
    name = "model.decoder.layers.0.fc1.weight"
    write_fisher(folders[1], {**values[1], name: values[1][name].T.contiguous()})
    with pytest.raises(SpeechMergeError, match=f"key {name}: found F32 .*expected"):
        speechmerge.merge(folders, method="fisher")
    with pytest.raises(SpeechMergeError, match="never saved"):
        speechmerge.merge([speechmerge.merge([folders[0]])], method="fisher")


def test_partial_merges_belong_to_their_adapters(recipe):
    pair = sources(recipe)
    paths = [source.system.path for source in pair]
    collect(pair, "regmean_plus_plus", Options())
    speechmerge.merge(paths[::-1], method="regmean_plus_plus")  # in any order
    with pytest.raises(SpeechMergeError, match="regmean_plus_plus_.*not there"):
        speechmerge.merge(paths[:1], method="regmean_plus_plus")
    with pytest.raises(SpeechMergeError, match="off_diagonal 0.9, found 0.5"):
        speechmerge.merge(paths, method="regmean_plus_plus", off_diagonal=0.5)
    with pytest.raises(UsageError, match="the same adapter twice"):
        collect([pair[0], pair[0]], "regmean_plus_plus", Options())


# The verb

def statistics(*words):
    return main(["statistics", "--adapters", *TASKS, "--model", "base", "--max-examples", "3", "--device", "cpu",
                 "--audio-context", "dynamic", "--audio-context-min", "0.5", *words])


def test_the_verb_and_merges_with_it(recipe, capsys):
    assert statistics("--kind", "gram", "fisher", "regmean_plus_plus") == 0
    assert "kws: gram of 3 examples in exp/kws/lora/statistics" in capsys.readouterr().out
    folder = Path("exp/kws/lora/statistics")
    times = {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if not path.name.startswith(".")}
    assert len(times) == 6 and not list(folder.glob("*.part"))
    assert statistics("--kind", "gram,fisher,regmean_plus_plus") == 0
    assert capsys.readouterr().out.count("already measured") == 6
    assert times == {name: (folder / name).stat().st_mtime_ns for name in times}
    for method in ("regmean", "fisher", "regmean_plus_plus"):
        words = ["--method", method, "--save", "delta", "--output-dir", f"exp/{method}"]
        assert main(["merge", "--adapters", *TASKS, *words]) == 0
        plan = prepare([f"exp/{task}/lora" for task in TASKS], method).plan()
        assert plan["ranks"] == [32 if method == "fisher" else 7]
    assert statistics("--kind", "gram", "--seed", "1") == 0
    assert "already" not in capsys.readouterr().out.splitlines()[-1]
    record = read_json(folder / "gram.json")
    assert record["seed"] == 1 and record["examples"] == 3 and record["split"] == "train" and "commit" in record


def test_a_killed_measurement_leaves_nothing_that_counts(recipe, monkeypatch):
    import speechmerge.statistics as module

    def fail(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "put", fail)
        collect(sources(recipe), "gram", Options())
    assert [path.name for path in Path("exp/kws/lora/statistics").iterdir() if not path.name.endswith(".lock")] == []
    assert collect(sources(recipe), "gram", Options()) == ["made", "made"]
    (recipe / "exp/kws/lora/statistics/gram.safetensors").write_bytes(b"cut")
    assert collect(sources(recipe), "gram", Options()) == ["made", "kept"]


@pytest.mark.parametrize("words, message", [
    (["--kind", "grams"], "--kind grams: expected one of gram"),
    (["--split", "test"], "must not be seen in the test data"),
    (["--max-examples", "0"], "--max-examples: found 0"),
    (["--data", "nowhere"], "nowhere/kws/train: no such data directory"),
])
def test_the_verb_refuses(recipe, capsys, words, message):
    assert statistics(*words) in (1, 2)
    assert message in capsys.readouterr().err


def test_listing_imports_no_torch():
    code = "import sys; from speechmerge.cli import main; main(['list', 'methods']); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
