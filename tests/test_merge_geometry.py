"""Means on a sphere, interpolation and LiNeS: golden values, float64 transcriptions, LoRA kept exact."""
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import speechmerge
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.merge.base import Base
from speechmerge.merge.compute import Tensors, computing
from speechmerge.merge.delta import Computed, Dense, LowRank
from speechmerge.merge.kernels.inner_products import inner_products
from speechmerge.merge.kernels.sphere import karcher, slerp, stock_ratio
from speechmerge.merge.task_vector import TaskVector

NAME = "model.encoder.layers.0.fc1.weight"


def dense(*tensors, name=NAME):
    return [TaskVector({name: Dense(torch.as_tensor(tensor, dtype=torch.float32))}, task=f"t{i}")
            for i, tensor in enumerate(tensors)]


def lora(shape, rank, scale, generator):
    B = torch.randn(shape[0], rank, generator=generator)
    return LowRank(B, torch.randn(rank, math.prod(shape[1:]), generator=generator), scale, shape)


def low(count=3, shape=(9, 7), ranks=(2, 3, 1), seed=0, name=NAME):
    """Task vectors of random LoRA and their products in float64."""
    generator = torch.Generator().manual_seed(seed)
    deltas = [lora(shape, r, 0.5 + i, generator) for i, r in zip(range(count), ranks)]
    products = [delta.scale * delta.B.double() @ delta.A.double() for delta in deltas]
    return [TaskVector({name: delta}, task=f"t{i}") for i, delta in enumerate(deltas)], products


def result(vectors, method, name=NAME, **params):
    return speechmerge.merge(vectors, method=method, **params).deltas[name]


def reference_slerp(first, second, t):
    """As published: the angle of the normalised tensors, the tensors themselves combined."""
    cosine = (first * second).sum() / first.norm() / second.norm()
    if cosine.abs() > 0.9995:
        return (1 - t) * first + t * second
    angle = torch.arccos(cosine)
    return (torch.sin((1 - t) * angle) * first + torch.sin(t * angle) * second) / torch.sin(angle)


def log_map(point, other):
    angle = torch.arccos((point * other).sum().clamp(-1, 1))
    return torch.zeros_like(point) if angle == 0 else angle / torch.sin(angle) * (other - torch.cos(angle) * point)


# SLERP

def test_slerp_golden():
    found = result(dense([[1.0, 0.0]], [[0.0, 2.0]]), "slerp").dense()
    assert found.tolist()[0] == pytest.approx([0.70711, 1.41421], abs=1e-5)


@pytest.mark.parametrize("t", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_slerp_is_the_published_formula_and_keeps_a_lora(t):
    vectors, products = low(2)
    found = result(vectors, "slerp", t=t)
    assert torch.allclose(found.dense().double(), reference_slerp(*products, t), atol=1e-5)
    assert isinstance(found, LowRank) and found.rank <= 5


def test_slerp_of_parallel_tensors_is_a_straight_line():
    first = torch.tensor([[3.0, 4.0]])
    assert torch.allclose(result(dense(first, 2 * first), "slerp", t=0.25).dense(), 1.25 * first)
    assert torch.allclose(result(dense(first, -first), "slerp", t=0.25).dense(), 0.5 * first)
    assert torch.allclose(result(dense(first, 0 * first), "slerp", t=0.25).dense(), 0.75 * first)


def test_slerp_takes_two():
    with pytest.raises(UsageError, match="exactly 2"):
        speechmerge.merge(low(3)[0], method="slerp")


def base_and_models(tmp_path, count=2, size=0.3):
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(1)
    start = {NAME: torch.randn(6, 5, generator=generator)}
    models = [{NAME: start[NAME] + size * torch.randn(6, 5, generator=generator)} for _ in range(count)]
    for folder, weights in zip(("base", "m0", "m1"), [start, *models]):
        (tmp_path / folder).mkdir()
        save_file(weights, tmp_path / folder / "model.safetensors")
    return start[NAME].double(), [model[NAME].double() for model in models]


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_slerp_of_whole_weights(tmp_path, t):
    start, models = base_and_models(tmp_path)
    merged = speechmerge.merge([tmp_path / "m0", tmp_path / "m1"], method="slerp", base=tmp_path / "base", t=t,
                               space="weights")
    expected = reference_slerp(*models, t)
    assert not torch.allclose(expected, (1 - t) * models[0] + t * models[1], atol=1e-3) or t in (0.0, 1.0)
    assert torch.allclose(start + merged.deltas[NAME].dense().double(), expected, atol=1e-5)


def test_slerp_of_whole_weights_of_loras_that_are_nearly_the_base_is_linear(tmp_path):
    base_and_models(tmp_path)
    vectors, products = low(2, shape=(6, 5))
    known = Base(str(tmp_path / "base"))
    vectors = [TaskVector({NAME: vector.deltas[NAME].scaled(1e-4)}, known) for vector in vectors]
    found = result(vectors, "slerp", t=0.25, space="weights")
    assert isinstance(found, LowRank)
    assert torch.allclose(found.dense().double(), 1e-4 * (0.75 * products[0] + 0.25 * products[1]), atol=1e-8)


def test_slerp_of_whole_weights_needs_the_base():
    with pytest.raises(SpeechMergeError, match="--base"):
        result(low(2)[0], "slerp", space="weights")


# Karcher mean

@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 5.0]])
def test_karcher_mean_is_where_the_log_maps_cancel(weights):
    vectors, products = low(3)
    found = result(vectors, "karcher", weights=weights)
    assert isinstance(found, LowRank) and found.rank == 6
    share = torch.tensor(weights or [1.0] * 3, dtype=torch.float64)
    share /= share.sum()
    mean = found.dense().double()
    point = mean / mean.norm()
    pull = sum(a * log_map(point, product / product.norm()) for a, product in zip(share, products))
    assert pull.norm() < 1e-6
    size = sum(a * product.norm() for a, product in zip(share, products))
    assert mean.norm().item() == pytest.approx(size.item(), rel=1e-6)


def test_karcher_mean_of_two_is_slerp_of_the_normalised():
    vectors, products = low(2)
    units = [product / product.norm() for product in products]
    size = sum(product.norm() for product in products) / 2
    found = result(vectors, "karcher").dense().double()
    assert torch.allclose(found, size * reference_slerp(*units, 0.5), atol=1e-5)


def test_karcher_golden():
    """Three orthogonal axes of lengths 1, 2, 3: the mean points along (1, 1, 1) with length 2."""
    found = result(dense([[1.0, 0, 0]], [[0, 2.0, 0]], [[0, 0, 3.0]]), "karcher").dense()
    assert torch.allclose(found, torch.full((1, 3), 2 / math.sqrt(3)))


def test_karcher_of_cases_without_direction():
    one = torch.tensor([[3.0, 4.0]])
    assert torch.allclose(result(dense(one, 0 * one), "karcher").dense(), one / 2)
    assert result(dense(0 * one, 0 * one), "karcher").dense().abs().max() == 0
    assert torch.allclose(result(dense(one, -one), "karcher").dense(), 0 * one)
    assert torch.allclose(result(dense(one, -one), "karcher", weights=[3, 1]).dense(), one)  # |one| along the stronger


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 6), st.integers(2, 5), st.integers(0, 10**6))
def test_karcher_against_the_iteration_on_tensors(count, size, seed):
    random = np.random.default_rng(seed)
    rows = random.normal(size=(count, size)) + 1.5  # within a half-sphere, where the mean is unique
    found = np.array(karcher(rows @ rows.T, np.full(count, 1 / count), 500, 1e-12)) @ rows
    units = torch.from_numpy(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    point = units.mean(0) / units.mean(0).norm()
    for _ in range(500):
        step = torch.stack([log_map(point, unit) for unit in units]).mean(0)
        if step.norm() < 1e-12:
            break
        point = torch.cos(step.norm()) * point + torch.sin(step.norm()) * step / step.norm()
    assert np.allclose(found, point.numpy() * np.linalg.norm(rows, axis=1).mean(), atol=1e-7)


def test_weights_by_name_must_not_all_be_zero():
    vectors, _ = low(2)
    named = result(vectors, "karcher", weights={"t1": 3.0, "t0": 1.0}).dense()
    assert torch.equal(named, result(vectors, "karcher", weights=[1.0, 3.0]).dense())
    with pytest.raises(UsageError, match="all 0"):
        result(vectors, "karcher", weights=[0, 0])
    with pytest.raises(UsageError, match="3 numbers, expected 2"):
        result(vectors, "karcher", weights=[1, 1, 1])


# Model Stock

@pytest.mark.parametrize("n, cosine, ratio", [(2, 0.1, 0.1818), (2, 0.5, 0.6667), (4, 0.1, 0.3077), (3, 0.0, 0.0),
                                              (3, 1.0, 1.0), (2, -0.4, 0.0)])
def test_model_stock_golden(n, cosine, ratio):
    products = np.full((n, n), cosine) + (1 - cosine) * np.eye(n)
    sizes = np.arange(1, n + 1)
    assert stock_ratio(products * np.outer(sizes, sizes)) == pytest.approx(ratio, abs=5e-5)


def test_model_stock_averages_cosines_or_angles():
    vectors, products = low(3, seed=5)
    flat = torch.stack([product.flatten() / product.norm() for product in products])
    cosines = torch.tensor([(flat[i] @ flat[j]).item() for i, j in ((0, 1), (0, 2), (1, 2))], dtype=torch.float64)
    for average, mean in (("cosine", cosines.mean()), ("angle", cosines.arccos().mean().cos())):
        assert mean > 0
        expected = 3 * mean / (1 + 2 * mean) * sum(products) / 3
        found = result(vectors, "model_stock", average=average)
        assert isinstance(found, LowRank) and torch.allclose(found.dense().double(), expected, atol=1e-5)


# What these have in common

@pytest.mark.parametrize("method", ["karcher", "model_stock"])
def test_identical_and_single_inputs_come_back(method):
    vectors, products = low(3)
    assert torch.allclose(result(vectors[:1], method).dense().double(), products[0], atol=1e-5)
    assert torch.allclose(result([vectors[0]] * 3, method).dense().double(), products[0], atol=1e-5)
    assert torch.allclose(result(vectors[:1], method, lambda_=0.5).dense().double(), products[0] / 2, atol=1e-5)


@pytest.mark.parametrize("method", ["karcher", "model_stock", "interpolate", "lines"])
def test_order_does_not_matter(method):
    vectors, _ = low(3)
    one, other = (result(order, method).dense() for order in (vectors, vectors[::-1]))
    assert torch.allclose(one, other, atol=1e-6)


def test_inner_products_of_factors_blocks_and_computed_deltas_agree():
    """400 x 300 is several blocks; kernels count as matrices."""
    generator = torch.Generator().manual_seed(0)
    loras = [lora((400, 100, 3), r, 2.0, generator) for r in (2, 5)]
    tensors = [delta.dense().double() for delta in loras]
    expected = np.array([[(a * b).sum().item() for b in tensors] for a in tensors])
    computed = [Computed(delta.shape, lambda delta=delta: delta, delta.rank) for delta in loras]
    wrong = [Computed(delta.shape, lambda delta=delta: Dense(delta.dense()), 7) for delta in loras]
    full = [Dense(delta.dense()) for delta in loras]
    for deltas in (loras, full, [loras[0], full[1]], computed, wrong):
        found = {}
        for threads in (1, 3):
            with computing(threads):
                found[threads] = inner_products(Tensors({"a": deltas, "b": deltas[::-1]}))
        assert np.allclose(found[1]["a"], expected, rtol=1e-6)
        assert np.allclose(found[1]["b"], expected[::-1, ::-1], rtol=1e-6)
        assert all(np.array_equal(found[1][name], found[3][name]) for name in "ab")


def test_strength_per_parameter():
    """A policy that gives each parameter its own t, alpha or lambda."""
    from speechmerge.merge.registry import METHODS

    first, _ = low(2)
    second, _ = low(2, seed=5, name="model.decoder.layers.1.fc2.weight")
    deltas = {name: [vector.deltas[name] for vector in both] for both in (first, second) for name in both[0].deltas}
    vectors = [TaskVector({name: both[i] for name, both in deltas.items()}) for i in range(2)]
    ends = {"slerp": (0.0, 1.0), "interpolate": (0.1, 0.7), "karcher": (0.0, 2.0), "model_stock": (0.5, 1.5),
            "lines": (0.3, 0.4)}
    for method, (low_end, high_end) in ends.items():
        entry = METHODS.get(method)
        rule = entry(method, ["a", "b"], {}, policy=lambda name: high_end if "decoder" in name else low_end)
        rule.prepare(vectors)
        rule.survey(Tensors(deltas))
        for name, both in deltas.items():
            strength = high_end if "decoder" in name else low_end
            alone = entry(method, ["a", "b"], {entry.strength: strength})
            alone.prepare(vectors)
            alone.survey(Tensors(deltas))
            assert torch.equal(rule.merge(name, both).dense(), alone.merge(name, both).dense())


# Interpolation

def test_interpolate_is_a_quarter_of_the_mean_and_keeps_the_heads():
    names = [NAME, "model.final_proj.weight", "label_embs_concat", "my_final_projection.weight"]
    values = [{name: Dense(torch.full((2, 3), float(i + 1))) for name in names} for i in range(2)]
    found = speechmerge.merge([TaskVector(deltas) for deltas in values], method="interpolate")
    sizes = {name: delta.dense().unique().tolist() for name, delta in found.deltas.items()}
    assert sizes == {NAME: [0.375], "my_final_projection.weight": [0.375], "model.final_proj.weight": [0.0],
                     "label_embs_concat": [0.0]}
    for patterns, kept in (([], []), ("*.final_proj.*", names[1:2]), ([NAME, "my_*"], [NAME, names[3]]), (None, [])):
        found = speechmerge.merge([TaskVector(deltas) for deltas in values], method="interpolate", alpha=1.0,
                                  keep_base=patterns)
        zeros = [name for name, delta in found.deltas.items() if not delta.dense().any()]
        assert sorted(zeros) == sorted(kept), patterns
    with pytest.raises(UsageError, match="list of name patterns"):
        speechmerge.merge([TaskVector(values[0])], method="interpolate", keep_base=[3])


def test_interpolate_ends():
    vectors, products = low(1)
    assert torch.allclose(result(vectors, "interpolate", alpha=1.0).dense().double(), products[0], atol=1e-6)
    assert not result(vectors, "interpolate", alpha=0.0).dense().any()


# LiNeS

def blocks_of_ones(encoder=3, decoder=5):
    depths = {"encoder": encoder, "decoder": decoder}
    names = [f"model.{part}.layers.{i}.fc1.weight" for part, depth in depths.items() for i in range(depth)]
    return {name: Dense(torch.ones(2, 2)) for name in [*names, "model.encoder.conv1.weight"]}


def scales(vectors, **params):
    found = speechmerge.merge(vectors, method="lines", **params)
    return {name: delta.dense().unique().item() for name, delta in found.deltas.items()}


def test_lines_scales_blocks_of_encoder_and_decoder_apart():
    found = scales([TaskVector(blocks_of_ones())] * 2, alpha=0.2, beta=0.6)
    for part, depth in (("encoder", 3), ("decoder", 5)):
        for i in range(depth):
            expected = 2 * (0.2 + 0.6 * i / (depth - 1))
            assert found[f"model.{part}.layers.{i}.fc1.weight"] == pytest.approx(expected, rel=1e-6)
    assert found["model.encoder.conv1.weight"] == pytest.approx(0.4)


def test_lines_auto():
    """alpha = 1/T, and beta so that the last block has the whole sum; of one task nothing changes."""
    found = scales([TaskVector(blocks_of_ones())] * 4)
    assert found["model.encoder.layers.0.fc1.weight"] == pytest.approx(1.0)
    assert found["model.decoder.layers.4.fc1.weight"] == pytest.approx(4.0)
    assert set(scales([TaskVector(blocks_of_ones())]).values()) == {1.0}
    single = scales([TaskVector(blocks_of_ones())], alpha=0.3)  # beta = 1 - alpha, as published for one task
    assert single["model.encoder.layers.1.fc1.weight"] == pytest.approx(0.65)
    assert single["model.encoder.layers.2.fc1.weight"] == pytest.approx(1.0)


def test_lines_counts_blocks_that_no_adapter_changes():
    deltas = {f"model.decoder.layers.{i}.fc1.weight": Dense(torch.ones(2, 2)) for i in (2, 4)}
    assert scales([TaskVector(deltas)], alpha=0.0, beta=1.0)["model.decoder.layers.2.fc1.weight"] == pytest.approx(0.5)
    with pytest.raises(UsageError, match="numbered block"):
        scales([TaskVector({"conv.weight": Dense(torch.ones(2, 2))})])
    with pytest.raises(UsageError, match="or auto"):
        scales([TaskVector(deltas)], alpha="much")


def test_plan_needs_no_survey():
    """Ranks of the result are known from headers."""
    from speechmerge.merge.run import prepare

    for method, rank in (("slerp", 5), ("karcher", 5), ("model_stock", 5), ("interpolate", 5), ("lines", 5)):
        vectors, _ = low(2)
        assert prepare(vectors, method).plan()["ranks"] == [rank], method


def test_functions_on_inner_products_alone():
    assert slerp([[1, 0], [0, 4]], 0.5) == pytest.approx([math.sqrt(0.5)] * 2)
    assert karcher(np.eye(3), np.full(3, 1 / 3), 10, 1e-9) == pytest.approx([1 / math.sqrt(3)] * 3)
    assert stock_ratio(np.eye(1)) == 1.0
