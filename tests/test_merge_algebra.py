"""Deltas and task vectors against closed forms."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechmerge.errors import SpeechMergeError
from speechmerge.merge.base import Base
from speechmerge.merge.compute import Tensors
from speechmerge.merge.delta import Computed, Dense, LowRank, concatenate
from speechmerge.merge.kernels.svd import recompress
from speechmerge.merge.kernels.threshold import magnitude_thresholds
from speechmerge.merge.task_vector import TaskVector


def low_rank(seed, m=20, n=24, r=3, scale=1.5, shape=None):
    generator = torch.Generator().manual_seed(seed)
    return LowRank(torch.randn(m, r, generator=generator), torch.randn(r, n, generator=generator), scale, shape)


def spectrum(seed, values, m=20, n=24):
    """A delta with these singular values."""
    generator = torch.Generator().manual_seed(seed)
    left, _ = torch.linalg.qr(torch.randn(m, len(values), generator=generator, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(n, len(values), generator=generator, dtype=torch.float64))
    return LowRank(left * torch.tensor(values, dtype=torch.float64), right.T)


def relative(found, expected):
    return (torch.linalg.vector_norm(found - expected) / torch.linalg.vector_norm(expected)).item()


def test_concatenation_is_the_weighted_sum_for_any_ranks_scales_and_signs():
    deltas = [low_rank(0, r=2), low_rank(1, r=5, scale=0.3), low_rank(2, r=1, scale=-2)]
    weights = [0.5, -1.25, 3.0]
    merged = concatenate(deltas, weights)
    expected = sum(weight * delta.scale * delta.B.double() @ delta.A.double() for delta, weight in zip(deltas, weights))
    assert merged.rank == 8
    assert relative(merged.dense().double(), expected) < 1e-6


def test_norm_through_gram_matrices_is_the_dense_norm():
    delta = concatenate([low_rank(0), low_rank(1)], [1, -0.4])
    assert delta.norm() == pytest.approx(torch.linalg.vector_norm(delta.dense().double()).item(), rel=1e-6)
    cancelled = concatenate([low_rank(0), low_rank(0)], [1, -1])
    assert cancelled.norm() < 1e-5 * low_rank(0).norm()


def test_averaging_factors_apart_would_be_another_result():
    deltas = [low_rank(seed, scale=1.0) for seed in range(4)]
    exact = concatenate(deltas, [0.25] * 4).dense()
    apart = sum(delta.B for delta in deltas) / 4 @ (sum(delta.A for delta in deltas) / 4)
    assert relative(apart, exact) > 0.5


@pytest.mark.parametrize("rank", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("kind", ["factors", "dense", "tall"])
def test_recompression_error_is_the_discarded_singular_values(kind, rank):
    values = [4.0, 2.0, 1.0, 0.5, 0.25]
    delta = spectrum(3, values)
    if kind != "factors":
        matrix = delta.B @ delta.A
        delta = Dense(matrix if kind == "dense" else matrix.T.contiguous())
    small = recompress(delta, rank)
    expected = np.sqrt(sum(value ** 2 for value in values[rank:]))
    assert small.error == pytest.approx(expected, abs=1e-6)
    assert torch.linalg.vector_norm(small.delta.dense() - delta.dense()).item() == pytest.approx(expected, abs=2e-6)
    assert small.relative_error == pytest.approx(expected / np.linalg.norm(values), abs=1e-6)
    assert small.delta.rank == rank and small.delta.shape == delta.shape


def test_without_a_rank_the_numerical_rank_is_kept():
    same = concatenate([low_rank(0)] * 4, [0.25] * 4)
    small = recompress(same)
    assert (same.rank, small.delta.rank) == (12, 3)
    assert relative(small.delta.dense(), low_rank(0).dense()) < 1e-6
    wide = concatenate([low_rank(seed, r=10) for seed in range(4)], [1] * 4)
    assert recompress(wide).delta.rank == 20  # of 40 columns, in 20 rows
    assert relative(recompress(wide).delta.dense(), wide.dense()) < 1e-6


def test_zero_deltas_have_rank_one_and_no_error():
    nothing = concatenate([low_rank(0)], [0.0])
    assert not nothing.dense().any()
    for delta in (nothing, Dense(torch.zeros(4, 6))):
        small = recompress(delta, 3)
        assert small.delta.rank == 1 and not small.delta.dense().any() and small.relative_error == 0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.lists(st.floats(-2, 2, width=32), min_size=2, max_size=4))
def test_the_gauge_of_the_factors_changes_nothing(seed, rank, weights):
    generator = torch.Generator().manual_seed(seed)
    plain = [low_rank(seed + index, r=rank) for index in range(len(weights))]
    turned = []
    for delta in plain:
        turn, _ = torch.linalg.qr(torch.randn(rank, rank, generator=generator))
        turned.append(LowRank(2 * delta.B @ turn, turn.T @ delta.A / 2, delta.scale))
    first, second = concatenate(plain, weights), concatenate(turned, weights)
    size = sum(abs(weight) * delta.norm() for weight, delta in zip(weights, plain)) + 1e-30
    assert torch.linalg.vector_norm(first.dense() - second.dense()).item() < 1e-5 * size
    small, turned_small = recompress(first, 2), recompress(second, 2)
    assert abs(small.error - turned_small.error) < 1e-5 * size


def test_kernels_of_convolutions_keep_their_shape():
    kernel = low_rank(0, m=6, n=12, shape=(6, 4, 3))
    assert kernel.dense().shape == (6, 4, 3)
    assert concatenate([kernel, kernel], [1, 1]).shape == (6, 4, 3)
    assert torch.allclose(recompress(kernel).delta.dense(), kernel.dense(), atol=1e-5)


def test_mixed_sums_become_dense_and_deferred_sums_are_made_late():
    calls = []

    def compute():
        calls.append(1)
        return Dense(torch.ones(20, 24, dtype=torch.bfloat16))

    merged = concatenate([low_rank(0), Computed((20, 24), compute)], [2.0, 3.0])
    assert not calls
    assert torch.allclose(merged.dense(), 2 * low_rank(0).dense() + 3) and len(calls) == 1
    assert not isinstance(concatenate([low_rank(0), Dense(torch.ones(20, 24))], [1, 1]), LowRank)


def test_sums_of_bfloat16_are_float32():
    delta = Dense(torch.full((2, 2), 1 / 256, dtype=torch.bfloat16))
    assert concatenate([delta] * 257, [1.0] * 257).dense()[0, 0].item() == 257 / 256


def test_other_shapes_and_missing_weights_are_refused():
    with pytest.raises(SpeechMergeError, match="shapes"):
        concatenate([low_rank(0), low_rank(1, n=25)], [1, 1])
    with pytest.raises(SpeechMergeError, match="1 weights for 2"):
        concatenate([low_rank(0), low_rank(1)], [1])
    with pytest.raises(SpeechMergeError, match="at least 1"):
        recompress(low_rank(0), 0)


@pytest.mark.parametrize("percent", [0, 0.01, 1, 7.3, 20, 30, 50, 99.9, 100])
def test_threshold_is_the_sorted_one(percent):
    generator = torch.Generator().manual_seed(5)
    tensors = [torch.randn(31, 17, generator=generator) * 10.0 ** exponent for exponent in (-20, -3, 0, 0, 4)]
    tensors[2][:5] = 0
    everywhere = Tensors({str(i): [Dense(tensor)] for i, tensor in enumerate(tensors)})
    [threshold] = magnitude_thresholds(everywhere, percent)
    everything = np.sort(np.abs(np.concatenate([tensor.numpy().ravel() for tensor in tensors])))[::-1]
    keep = int(len(everything) * percent / 100 + 1e-9)
    assert threshold == (np.inf if keep == 0 else 0 if keep == len(everything) else everything[keep - 1])


def test_threshold_of_thirty_percent_of_ten_keeps_three():
    assert magnitude_thresholds(Tensors({"w": [Dense(torch.arange(1.0, 11.0))]}), 30) == [8.0]


def vector(seed, names=("a.weight", "b.weight"), fingerprint="f" * 64, **about):
    return TaskVector(
        {name: low_rank(seed * 10 + i) for i, name in enumerate(names)}, Base("base", fingerprint), **about
    )


def test_task_arithmetic_with_plain_operators():
    first, second = vector(1), vector(2, names=("b.weight", "c.weight"))
    result = 0.5 * first - second * 2 + first
    a, b, c = (result.deltas[name].dense() for name in ("a.weight", "b.weight", "c.weight"))
    assert torch.allclose(a, 1.5 * first.deltas["a.weight"].dense(), atol=1e-5)
    assert torch.allclose(b, 1.5 * first.deltas["b.weight"].dense() - 2 * second.deltas["b.weight"].dense(), atol=1e-4)
    assert torch.allclose(c, -2 * second.deltas["c.weight"].dense(), atol=1e-5)
    assert torch.allclose((-first).deltas["a.weight"].dense(), -first.deltas["a.weight"].dense())
    assert (first - first).norm() < 1e-4


def test_vectors_of_other_bases_do_not_add():
    with pytest.raises(SpeechMergeError, match="(?s)asr.*ffffff.*kws.*000000|kws.*000000.*asr.*ffffff"):
        vector(1, task="asr") + vector(2, task="kws", fingerprint="0" * 64)


def test_vectors_of_other_shapes_do_not_add():
    other = TaskVector({"a.weight": low_rank(0, m=21)}, Base("base", "f" * 64), task="kws")
    with pytest.raises(SpeechMergeError, match=r"a\.weight.*\[20, 24\].*kws.*\[21, 24\]"):
        vector(1, task="asr") + other


def test_applied_changes_a_module_and_restores_its_bytes():
    module = torch.nn.ModuleDict({"a": torch.nn.Linear(24, 20).bfloat16()})
    before = module["a"].weight.detach().clone()
    task = vector(1, names=("a.weight",))
    with pytest.raises(RuntimeError), task.applied(module):
        assert torch.equal(module["a"].weight, (before.float() + task.deltas["a.weight"].dense()).bfloat16())
        raise RuntimeError
    assert torch.equal(module["a"].weight, before)
    with pytest.raises(SpeechMergeError, match="no such parameter"), vector(1).applied(module):
        pass
    assert torch.equal(module["a"].weight, before)


def test_applied_changes_buffers_too():
    norm = torch.nn.BatchNorm1d(4)
    change = torch.arange(4.0)
    with TaskVector({"running_mean": Dense(change)}, Base("base", "f" * 64)).applied(norm):
        assert torch.equal(norm.running_mean, change)
    assert torch.equal(norm.running_mean, torch.zeros(4))
