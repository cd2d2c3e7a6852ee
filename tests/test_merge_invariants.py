"""What must hold for every merge method there is, on PEFT files of a tiny Whisper: a new method has to be entered here.

`FAITHFUL` holds the parameters with which a method gives back one adapter, and n equal ones; methods that change even a
single adapter by design say so in `CHANGES`.
"""
import json
import math

import pytest
import torch
from adapters import make_adapter, make_base
from safetensors.torch import save_file

import speechmerge
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.files import write_json
from speechmerge.merge import METHODS
from speechmerge.merge.read import read
from speechmerge.merge.statistics import statistics_file

FAITHFUL = {
    "boosted_tsv_m": {"beta": 1.0, "k": 1.0}, "breadcrumbs": {"beta": 1.0, "gamma": 0.0, "lambda": "1/n"},
    "breadcrumbs_ties": {"beta": 1.0, "gamma": 0.0, "lambda": 1.0}, "cat": {"weights": "1/n"},
    "consensus": {"k": 0, "lambda": "1/n"}, "core_space": {"inner": "ties", "inner_params": {"k": 100}},
    "dare": {"drop_rate": 0}, "dare_task_arithmetic": {"drop_rate": 0, "lambda": "1/n"}, "dare_ties": {"drop_rate": 0},
    "della": {"density": 1.0, "epsilon": 0.0, "lambda": 1.0},
    "della_linear": {"density": 1.0, "epsilon": 0.0, "lambda": "1/n"}, "emr": {}, "fisher": {},
    "interpolate": {"alpha": 1.0}, "karcher": {}, "knots": {"inner": "uniform"}, "lines": {"alpha": "1/n", "beta": 0.0},
    "model_stock": {}, "pcb": {"ratio": 1.0, "lambda": 1.0}, "regmean": {}, "regmean_plus_plus": {},
    "slerp": {}, "svd": {"weights": "1/n"}, "tall_mask": {"lambda": "1/n"}, "task_vector": {"scale": "1/n"},
    "ties": {"k": 100}, "tsv_m": {"k": 1.0}, "uniform": {}, "weighted": {"coefficients": "1/n"},
    "weighted_delta_n": {"coefficients": "1/n"}, "wudi": {},
}
ALIASES = {"task_arithmetic", "uniform_scalar_delta", "uniform_delta", "weighted_delta"}
CHANGES = {
    "iso_c": "all singular values become their mean",
    "iso_cts": "all singular values become their mean",
}
NOT_OF_EQUALS = {
    "tsv_m": "whitening equal vectors is ill-posed, the sum has the norm of one",
    "boosted_tsv_m": "as tsv_m",
}
TOLERANCE = {"pcb": 0.02}  # clamps at the 1e-4 quantiles of the magnitudes
ORDERED = {"slerp": "the first and the second have names"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("invariants")


@pytest.fixture(scope="module")
def base(folder):
    return make_base(folder / "base")


@pytest.fixture(scope="module")
def three(base, folder):
    """Adapters of different ranks and scalings, with statistics as `speechmerge statistics` would lay them out."""
    kinds = ({}, {"r": 2, "lora_alpha": 6}, {"r": 5, "use_rslora": True})
    found = [make_adapter(base, folder / name, seed=seed, **kind)
             for seed, (name, kind) in enumerate(zip(("asr", "kws", "langid"), kinds), 1)]
    for count in (1, 2, 3):
        add_statistics(found[:count])
    return found


@pytest.fixture(scope="module")
def equals(base, folder):
    found = [make_adapter(base, folder / f"equal{number}", seed=7) for number in range(3)]
    add_statistics(found)
    return found


@pytest.fixture(scope="module")
def foreign(folder):
    return make_adapter(make_base(folder / "other_base", seed=5), folder / "foreign", seed=3)


def add_statistics(folders):
    vectors = [read(path) for path in folders]
    weights = [vector.details["sha256"].value() for vector in vectors]
    for path, vector, own in zip(folders, vectors, weights):
        for kind in ("gram", "fisher", "regmean_plus_plus"):
            generator = torch.Generator().manual_seed(sum(map(ord, own)))
            file = statistics_file(path, kind, weights)
            file.parent.mkdir(exist_ok=True)
            tensors = {}
            for name, delta in vector.deltas.items():
                rows = torch.randn(delta.shape[1] + 8, delta.shape[1], generator=generator)
                square = rows.T @ rows / len(rows)
                tensors[name] = torch.rand(delta.shape, generator=generator) + 0.1 if kind == "fisher" else square
            save_file(tensors, file)
            write_json(file.with_suffix(".json"), {"weights": own, "all_weights": sorted(weights), "off_diagonal": 0.9, "kind": kind})


def given(method: str, count: int) -> dict:
    """FAITHFUL's parameters for `count` adapters."""
    params = {}
    for key, value in FAITHFUL[method].items():
        each = key in ("weights", "coefficients")
        params[key] = ([1 / count] * count if each else 1 / count) if value == "1/n" else value
    return params


def merged(method: str, folders, **params):
    return speechmerge.merge(folders, method=method, **params)


def relative(first, second) -> float:
    assert sorted(first.deltas) == sorted(second.deltas)
    lost = [torch.linalg.vector_norm(first.deltas[name].dense() - delta.dense()).item() for name, delta in second.deltas.items()]
    return math.hypot(*lost) / second.norm()


def own_methods() -> list[str]:
    """Those of the package: other tests register methods of their own."""
    return [name for name in METHODS.names() if METHODS.get(name).__module__.startswith("speechmerge.") and name not in ALIASES]


def test_every_method_is_here():
    assert set(own_methods()) == set(FAITHFUL) | set(CHANGES)


@pytest.mark.parametrize("method", sorted(set(FAITHFUL) - {"slerp"}))
def test_one_adapter_is_itself(method, three):
    assert relative(merged(method, three[:1], **given(method, 1)), read(three[0])) < TOLERANCE.get(method, 2e-6)


@pytest.mark.parametrize("method", sorted(set(FAITHFUL) - set(NOT_OF_EQUALS)))
def test_equal_adapters_are_that_adapter(method, equals):
    folders = equals[:2] if method == "slerp" else equals
    assert relative(merged(method, folders, **given(method, len(folders))), read(equals[0])) < TOLERANCE.get(method, 2e-6)


def params_of(method: str, count: int = 3) -> dict:
    """Parameters with which the method does what it is for."""
    chosen = {"core_space": {"inner": "ties"}, "weighted": {"coefficients": [0.5, 0.2, 0.3][:count]}, "consensus": {"k": 1},
              "weighted_delta_n": {"coefficients": [0.5, 0.2, 0.3][:count]}, "dare": {"drop_rate": 0.5}}
    return chosen.get(method, {})


@pytest.mark.parametrize("method", own_methods())
def test_strength_zero_is_the_base_and_a_second_call_computes_again(method, three):
    folders = three[:2] if method == "slerp" else three
    params, entry = params_of(method, len(folders)), METHODS.get(method)
    strength = entry.strength if method != "weighted" else "coefficients"
    each = strength in ("weights", "coefficients")
    if method == "lines":
        params = {"beta": 0.0}
    if method == "slerp":
        first, last = (merged(method, folders, t=t) for t in (0.0, 1.0))
        assert relative(first, read(folders[0])) < 2e-6 and relative(last, read(folders[1])) < 2e-6
        return
    results = {}
    for size in (0.0, 0.5, 1.0):
        value = [size] * len(folders) if each else size
        results[size] = merged(method, folders, **{**params, strength: value})
    assert all(not delta.dense().any() for delta in results[0.0].deltas.values())
    assert relative(results[0.5], results[1.0]) == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize("method", sorted(set(own_methods()) - set(ORDERED) - {"weighted", "weighted_delta_n"}))
def test_the_order_of_adapters_does_not_matter(method, three):
    forth, back = (merged(method, folders, **params_of(method)) for folders in (three, three[::-1]))
    assert relative(forth, back) < 2e-5


@pytest.mark.parametrize("method", own_methods())
def test_every_method_is_saved_the_same_by_any_number_of_threads(method, three, base, tmp_path):
    folders = three[:2] if method == "slerp" else three
    for threads in (1, 3):
        made = merged(method, folders, threads=threads, **params_of(method, len(folders)))
        for as_, rank in (("lora", 3), ("full", None), ("delta", None)):
            made.save(tmp_path / f"{as_}{threads}", as_=as_, rank=rank, base=base if as_ == "full" else None, threads=threads)
    for as_, name in (("lora", "adapter_model"), ("full", "model"), ("delta", "delta")):
        one, many = ((tmp_path / f"{as_}{threads}" / f"{name}.safetensors").read_bytes() for threads in (1, 3))
        assert one == many
    exact, back = made, read(tmp_path / "delta3")
    assert relative(back, exact) < 1e-6
    report = json.loads((tmp_path / "lora3" / "merge_metadata.json").read_text())["error"]
    small = read(tmp_path / "lora3")
    for name, delta in exact.deltas.items():
        lost = torch.linalg.vector_norm(small.deltas[name].dense() - delta.dense()).item()
        assert report["relative"][name] * delta.norm() == pytest.approx(lost, rel=1e-3, abs=2e-6)


@pytest.mark.parametrize("method", own_methods())
def test_misspelt_parameters_are_refused_with_the_nearest_name(method, three):
    folders = three[:2] if method == "slerp" else three
    for parameter in METHODS.get(method).parameters:
        with pytest.raises(UsageError, match=f"unknown parameter '{parameter.name}x'.*did you mean '{parameter.name}'"):
            merged(method, folders, **{**params_of(method, len(folders)), parameter.name + "x": 1})


@pytest.mark.parametrize("method, parameter", [(method, parameter.name) for method in own_methods()
                                               for parameter in METHODS.get(method).parameters if parameter.kind == "floats"])
def test_as_many_weights_as_adapters(method, parameter, three):
    for count in (2, 4):
        with pytest.raises(UsageError, match=f"{parameter}.*{count}.*3"):
            merged(method, three, **{**params_of(method), parameter: [0.5] * count})


@pytest.mark.parametrize("method", own_methods())
def test_adapters_of_another_base_are_refused(method, three, foreign):
    with pytest.raises(SpeechMergeError, match="belongs to base"):
        merged(method, [three[0], foreign], **params_of(method, 2))
