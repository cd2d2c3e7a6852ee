"""Truncation, core space and the spectral merge methods against numpy in float64 and transcriptions of the papers."""
import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

import speechmerge
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.merge import METHODS
from speechmerge.merge.base import Base
from speechmerge.merge.compute import Tensors, computing, ordered
from speechmerge.merge.core_space import CoreSpace
from speechmerge.merge.delta import Computed, Dense, LowRank
from speechmerge.merge.kernels.eigen import _routine, leading
from speechmerge.merge.kernels.spectral import isotropic, isotropic_common_specific, least_interference, polar, tsv
from speechmerge.merge.kernels.svd import recompress, svd, svd_of_product, truncate
from speechmerge.merge.task_vector import TaskVector

BASE = Base("base", "f" * 64)
SPECTRAL = {
    "svd": {"rank": 4},
    "knots": {"inner_params": {"k": 40}},
    "core_space": {"inner": "ties", "inner_params": {"k": 40}},
    "tsv_m": {},
    "boosted_tsv_m": {},
    "iso_c": {},
    "iso_cts": {},
    "wudi": {},
}


def normal(seed, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def random_delta(seed, m=20, n=24, r=3, scale=0.7):
    return LowRank(normal(seed, m, r, dtype=torch.float32), normal(seed + 1000, r, n, dtype=torch.float32), scale)


def full(delta):
    """[m, n], float64: the product, not rounded to float32."""
    return delta.scale * delta.B.double() @ delta.A.double()


def relative(found, expected):
    return (torch.linalg.vector_norm(found - expected) / torch.linalg.vector_norm(expected)).item()


def rank_of(matrix):
    return int(torch.linalg.matrix_rank(matrix.double(), rtol=1e-5))


def method(name, count, params=None, policy=None):
    return METHODS.get(name)(name, [f"t{index}" for index in range(count)], params or {}, policy)


def merged(name, deltas, params=None, policy=None):
    """The merged matrix of one parameter, float32."""
    rule = method(name, len(deltas), SPECTRAL.get(name) if params is None else params, policy)
    rule.survey(Tensors({"w": deltas}))
    return rule.merge("w", deltas).dense()


def assert_orthonormal(columns, tolerance):
    assert torch.linalg.matrix_norm(columns.T @ columns - torch.eye(columns.shape[1])) < tolerance


# truncation

def factors(kind, seed, m, n, r):
    B, A = normal(seed, m, r), normal(seed + 1, r, n)
    if kind == "zero columns":
        B[:, ::2] = 0
    if kind == "zero":
        B[:] = 0
    if kind == "shared A":
        A[:] = A[:1]
    if kind.startswith("shared A + "):
        A[:] = A[:1] + float(kind.split()[-1]) * A
    if kind == "scales":
        B, A = B * torch.logspace(-6, 6, r, dtype=B.dtype), A / torch.logspace(-6, 6, r, dtype=B.dtype)[:, None]
    if kind == "decay":
        B = B * torch.logspace(0, -6, r, dtype=B.dtype)
    if kind == "cancelling":
        B[:, r // 2:2 * (r // 2)] = -B[:, :r // 2] + 1e-3 * B[:, r // 2:2 * (r // 2)]
        A[r // 2:2 * (r // 2)] = A[:r // 2]
    return B, A


KINDS = ["plain", "zero columns", "zero", "shared A", "shared A + 1e-2", "shared A + 1e-4", "shared A + 1e-6", "scales",
         "decay", "cancelling"]


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(KINDS), st.integers(0, 10**6), st.integers(1, 70), st.integers(1, 70), st.integers(1, 40),
       st.one_of(st.none(), st.integers(1, 45)))
@example("plain", 0, 64, 48, 12, 5)
@example("shared A + 1e-2", 0, 64, 48, 12, None)
@example("shared A + 1e-4", 0, 64, 48, 12, None)
@example("plain", 0, 6, 48, 40, 3)
def test_truncated_products_are_those_of_numpy(kind, seed, m, n, r, rank):
    B, A = factors(kind, seed, m, n, r)
    expected = np.linalg.svd((B @ A).numpy(), compute_uv=False)
    before = B.clone(), A.clone()
    found = svd_of_product(B, A, rank)
    kept, largest, size = len(found.values), expected[0], np.linalg.norm(expected)
    assert torch.equal(B, before[0]) and torch.equal(A, before[1])
    assert np.abs(found.values.numpy() - expected[:kept]).max() <= 1e-9 * largest
    assert kept == (min(rank or m, m, n) if rank and expected[min(rank, m, n) - 1] > 1e-6 * largest else kept)
    assert (expected[kept:] <= 1.1e-7 * largest).all() or kept == rank
    error = torch.linalg.matrix_norm(B @ A - found.left * found.values @ found.right).item()
    assert error == pytest.approx(np.linalg.norm(expected[kept:]), abs=1e-9 * size)
    assert found.lost == pytest.approx(error, abs=1e-9 * size) and found.norm == pytest.approx(size, rel=1e-9)
    if largest:
        assert_orthonormal(found.left, 1e-9)
        assert_orthonormal(found.right.T, 1e-9)


def spectrum(seed, m, n, values):
    left, right = (torch.linalg.qr(normal(seed + side, size, len(values))).Q for side, size in enumerate((m, n)))
    return (left * torch.as_tensor(values, dtype=torch.float64)) @ right.T


DENSE = {
    "flat": lambda m, n: normal(0, m, n),
    "decaying": lambda m, n: spectrum(0, m, n, np.logspace(0, -3, 60)) + 1e-4 * normal(1, m, n) / (m * n) ** 0.25,
    "steep": lambda m, n: spectrum(0, m, n, np.logspace(0, -5, 60)) + 1e-6 * normal(1, m, n) / (m * n) ** 0.25,
    "one and a tail": lambda m, n: spectrum(0, m, n, [1.0]) + 3e-5 * spectrum(1, m, n, np.ones(min(m, n))),
    "exact rank 5": lambda m, n: spectrum(0, m, n, [5, 4, 3, 2, 1]),
    "pairs": lambda m, n: spectrum(0, m, n, np.repeat(np.linspace(2, 1, 30), 2)),
    "one element": lambda m, n: torch.nn.functional.pad(torch.tensor([[3.0]]).double(), (2, n - 3, 1, m - 2)),
    "tiny": lambda m, n: 1e-30 * normal(0, m, n),
}


@pytest.mark.parametrize("rank", [1, 16, 100, None])
@pytest.mark.parametrize("shape", [(290, 270), (300, 600), (600, 280), (64, 2000)])
@pytest.mark.parametrize("kind", DENSE)
def test_truncation_of_dense_matrices_is_as_good_as_any(kind, shape, rank):
    matrix = DENSE[kind](*shape).float()  # what is truncated are float32 tensors
    expected = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
    found = svd(matrix, rank)
    kept, size = len(found.values), np.linalg.norm(expected)
    best = np.linalg.norm(expected[kept:])
    error = torch.linalg.matrix_norm(matrix.double() - found.left * found.values @ found.right).item()
    assert error <= best * (1 + 1e-6) + 1e-9 * size
    assert found.lost == pytest.approx(error, abs=1e-7 * error + 1e-9 * size)
    assert np.abs(found.values.numpy() - expected[:kept]).max() <= 1e-7 * expected[0]
    assert_orthonormal(found.left, 1e-5)
    assert_orthonormal(found.right.T, 1e-5)
    small = recompress(Dense(matrix), rank)
    assert small.error == found.lost and small.delta.rank == kept
    assert relative(small.delta.B.double() @ small.delta.A.double(), found.left * found.values @ found.right) < 1e-6


def test_numerical_rank_zero_deltas_and_wrong_ranks():
    assert recompress(Dense(DENSE["exact rank 5"](300, 400).float())).delta.rank == 5
    low = LowRank(torch.zeros(9, 4), torch.ones(4, 300))
    for nothing in (low, Dense(torch.zeros(300, 400)), Dense(torch.zeros(3))):
        small = recompress(nothing, 2)
        assert small.delta.rank == 1 and not small.delta.dense().any() and small.relative_error == 0
    with pytest.raises(SpeechMergeError, match="rank: found 0, expected at least 1"):
        recompress(random_delta(0), 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_refused(value):
    low, dense = random_delta(0), normal(0, 300, 290).float()
    low.B[3, 1] = dense[7, 8] = value
    for delta in (low, Dense(dense), Dense(dense[:20])):
        with pytest.raises(SpeechMergeError, match="found NaN or infinite values"):
            recompress(delta, 2)


def test_leading_eigenvectors_are_those_of_numpy():
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-13)):
        assert _routine(dtype) is not None  # scipy's LAPACK was found; else all vectors are computed
        matrix = spectrum(0, 200, 200, np.linspace(3, 0.1, 150)).to(dtype)
        matrix = matrix @ matrix.T
        before = matrix.clone()
        values, vectors = leading(matrix, 12)
        expected = np.linalg.eigvalsh(matrix.double().numpy())[::-1][:12]
        assert torch.equal(matrix, before) and values.dtype == vectors.dtype == dtype
        assert np.abs(values.numpy() - expected).max() < tolerance * expected[0]
        assert torch.linalg.matrix_norm(matrix @ vectors - vectors * values) < tolerance * 10 * expected[0]
        assert torch.linalg.matrix_norm(vectors.T @ vectors - torch.eye(12, dtype=dtype)) < tolerance * 10
        assert leading(torch.eye(30, dtype=dtype), 3)[0].tolist() == [1, 1, 1]


def test_eigenvectors_leave_the_interpreter_free():
    matrix = normal(0, 800, 800)
    matrix = matrix @ matrix.T
    leading(matrix, 10)

    def longest_pause():
        """Of this thread while another computes, as part of that computation."""
        worker = threading.Thread(target=leading, args=(matrix, 10))
        begin = last = time.perf_counter()
        pause = 0
        worker.start()
        while worker.is_alive():
            time.sleep(0.0005)
            now = time.perf_counter()
            pause, last = max(pause, now - last), now
        return pause / (last - begin)

    assert any(longest_pause() < 0.5 for _ in range(10))


def test_truncations_are_the_same_on_any_number_of_threads():
    deltas = [random_delta(seed, 300, 280, 30) for seed in range(4)]
    deltas += [Dense(normal(seed, 300, 280).float()) for seed in range(4)]
    results = []
    for threads in (1, 3):
        with computing(threads):
            results.append([small.delta for small in ordered(lambda delta: recompress(delta, 8), deltas)])
    for one, other in zip(*results):
        assert torch.equal(one.B, other.B) and torch.equal(one.A, other.A)


# core space

@pytest.mark.parametrize("complete", [False, True])
@pytest.mark.parametrize("ranks", [(3, 3, 3), (1, 7, 4), (12, 12, 12)])
def test_core_space_loses_nothing(ranks, complete):
    pairs = [(normal(seed, 20, r) * 10.0 ** -seed, normal(seed + 9, r, 30)) for seed, r in enumerate(ranks)]
    space = CoreSpace.of(pairs, complete)
    assert_orthonormal(space.left, 1e-13)
    assert_orthonormal(space.right.T, 1e-13)
    assert space.left.shape[1] == min(20, sum(ranks)) and len(space.right) == min(30, sum(ranks))
    for (B, A), matrix in zip(pairs, space.matrices):
        assert relative(space.left @ matrix @ space.right, B @ A) < 1e-12


def test_core_space_has_no_direction_that_no_delta_has():
    B, A = normal(0, 20, 3), normal(1, 3, 30)
    space = CoreSpace.of([(B, A), (2 * B, A), (torch.zeros(20, 2), normal(2, 2, 30))])
    assert space.left.shape == (20, 3) and space.right.shape == (3, 30)
    assert relative(space.left @ space.matrices[1] @ space.right, 2 * B @ A) < 1e-13
    assert not space.matrices[2].any()
    nothing = CoreSpace.of([(torch.zeros(20, 2), A[:2])] * 2)
    assert not nothing.delta(nothing.matrices[0], (20, 30)).dense().any()


LINEAR = {"uniform": {}, "task_vector": {"scale": 0.3}, "cat": {"weights": [0.2, -1.5, 0.7]}}


@pytest.mark.parametrize("inner", LINEAR)
@pytest.mark.parametrize("outer", ["core_space", "knots"])
def test_linear_rules_give_in_a_shared_space_what_they_give_without(outer, inner):
    deltas = [random_delta(seed, r=rank, scale=1.0) for seed, rank in enumerate((2, 5, 3))]
    plain = merged(inner, deltas, LINEAR[inner])
    assert relative(merged(outer, deltas, {"inner": inner, "inner_params": LINEAR[inner]}), plain) < 1e-6
    rule = method(outer, 3, {"inner": inner, "inner_params": LINEAR[inner]})
    space = rule.space("w", deltas)  # in float64 the coordinates say exactly the same
    weights = rule.inner.coefficients("w")
    total = sum(weight * matrix for weight, matrix in zip(weights, space.matrices))
    back = space.left @ total @ (space.right if outer == "core_space" else torch.eye(24).double())
    expected = sum(weight * full(delta) for weight, delta in zip(weights, deltas))
    assert relative(back, expected) < 1e-10


def ties_transcribed(vectors, percent):
    """arXiv 2306.01708, float64: trim, elect, disjoint mean of vectors [T, N]; zero sums take the majority's sign."""
    keep = int(vectors.shape[1] * percent / 100)
    trimmed = np.zeros_like(vectors)
    for row, vector in zip(trimmed, vectors):
        places = np.argsort(-np.abs(vector), kind="stable")[:keep]
        row[places] = vector[places]
    sign = np.sign(trimmed.sum(0))
    sign[sign == 0] = np.sign(sign.sum())
    agree = np.where(np.sign(trimmed) == sign, trimmed, 0)
    return agree.sum(0) / np.maximum((agree != 0).sum(0), 1)


def test_knots_ties_is_the_paper():
    """The dense SVD of the concatenated products, one threshold over the blocks of all parameters."""
    names = {"x": (20, 24), "y": (16, 30)}
    deltas = {name: [random_delta(10 * seed + len(name), *shape, r=3 + seed) for seed in range(3)]
              for name, shape in names.items()}
    sides, blocks = {}, {}
    for name, parts in deltas.items():
        U, S, Vt = np.linalg.svd(np.hstack([full(delta).numpy() for delta in parts]), full_matrices=False)
        rank = (S > 1e-7 * S[0]).sum()
        sides[name] = U[:, :rank]
        blocks[name] = np.split(S[:rank, None] * Vt[:rank], 3, axis=1)
    result = ties_transcribed(np.array([np.hstack([blocks[n][t].ravel() for n in "xy"]) for t in range(3)]), 20)
    rule = method("knots", 3)
    rule.survey(Tensors(deltas))
    for name, shape in names.items():
        size = blocks[name][0].size
        expected, result = result[:size].reshape(-1, shape[1]), result[size:]
        found = rule.merge(name, deltas[name]).loaded()
        assert isinstance(found, LowRank) and found.rank == rule.rank(name, deltas[name]) == 12
        assert relative(found.dense().double(), torch.from_numpy(sides[name] @ expected)) < 1e-5


def test_ties_in_core_space_is_ties_on_coordinates():
    deltas = [random_delta(seed, r=2 + seed) for seed in range(3)]
    products = [full(delta).numpy() for delta in deltas]
    U = np.linalg.svd(np.hstack([p / np.linalg.norm(p) for p in products]))[0][:, :9]
    V = np.linalg.svd(np.vstack([p / np.linalg.norm(p) for p in products]))[2][:9].T
    result = ties_transcribed(np.array([(U.T @ p @ V).ravel() for p in products]), 40).reshape(9, 9)
    assert relative(merged("core_space", deltas).double(), torch.from_numpy(U @ result @ V.T)) < 1e-5


def test_core_space_counts_missing_directions_as_zeros():
    equal = [random_delta(0)] * 3  # 9 x 9 coordinates of which 3 x 3 are not zero: 40 % of 81 hold them all
    assert relative(merged("core_space", equal), equal[0].dense()) < 1e-6


def test_a_shared_space_is_computed_once_for_all_inputs(monkeypatch):
    calls, real = [], CoreSpace.of

    def counted(*args, **options):
        calls.append(args)
        return real(*args, **options)

    monkeypatch.setattr(CoreSpace, "of", counted)
    deltas = [random_delta(seed) for seed in range(5)]
    rule = method("core_space", 5, {"inner": "uniform"})
    rule.survey(Tensors({"w": deltas}))
    rule.merge("w", deltas).dense()
    assert len(calls) == 1
    seen, _ = rule.seen("w", deltas)
    assert [block.shape for block, in Tensors({"w": seen}).map_blocks(lambda block, tensors: tensors[:1])] == [(15, 15)]
    assert len(calls) == 2


def test_parameters_that_are_not_low_rank_are_merged_by_the_inner_method():
    deltas = [Dense(normal(seed, 6, 5).float()) for seed in range(3)]
    for name in ("core_space", "knots"):
        params = {"inner": "ties", "inner_params": {"k": 50}, "lambda": 0.5}
        assert torch.equal(merged(name, deltas, params), 0.5 * merged("ties", deltas, {"k": 50}))


@pytest.mark.parametrize("params, message", [
    ({}, "parameter 'inner' is required"),
    ({"inner": "tis"}, "unknown method 'tis'; did you mean 'ties'"),
    ({"inner": 3}, "parameter inner: found 3, expected word"),
    ({"inner": "ties", "inner_params": {"kk": 3}}, "method ties: unknown parameter 'kk'; did you mean 'k'"),
    ({"inner": "ties", "inner_params": 3}, "inner_params: found 3, expected {key: value, ...}"),
    ({"inner": "knots"}, "method core_space: inner knots is such a method itself"),
])
def test_wrong_inner_methods_are_refused(params, message):
    with pytest.raises(UsageError) as error:
        method("core_space", 2, params)
    assert message in str(error.value)


def test_inner_methods_that_go_by_statistics_are_refused(monkeypatch):
    monkeypatch.setattr(METHODS.get("regmean"), "prepare", lambda self, vectors: setattr(self, "statistics", ["gram"]))
    with pytest.raises(UsageError, match="inner regmean goes by statistics of the parameters themselves"):
        method("core_space", 2, {"inner": "regmean"}).prepare([])


def test_inner_weights_by_name_and_recorded_parameters_make_the_same_method():
    rule = method("core_space", 2, {"inner": "cat", "inner_params": {"weights": {"t1": 3, "t0": 2}}})
    assert rule.inner.coefficients("w") == [2, 3]
    again = method("core_space", 2, rule.values)
    assert again.values == rule.values and again.inner.coefficients("w") == [2, 3]


# TSV-M

def tsv_transcribed(matrices, counts):
    """arXiv 2412.00081, float64: Procrustes of the concatenated left and right vectors, counts[t] of each task."""
    parts = [np.linalg.svd(matrix.numpy(), full_matrices=False) for matrix in matrices]
    U = np.hstack([u[:, :c] for (u, _, _), c in zip(parts, counts)])
    S = np.hstack([s[:c] for (_, s, _), c in zip(parts, counts)])
    V = np.vstack([v[:c] for (_, _, v), c in zip(parts, counts)])
    (p, _, q), (a, _, b) = np.linalg.svd(U, full_matrices=False), np.linalg.svd(V, full_matrices=False)
    return torch.from_numpy(p @ q @ np.diag(S) @ a @ b)


def orthogonal_tasks(m, n, ranks):
    left, right = torch.linalg.qr(normal(0, m, sum(ranks))).Q, torch.linalg.qr(normal(1, n, sum(ranks))).Q
    values = torch.linspace(3, 1, sum(ranks), dtype=torch.float64)
    return [(u * s) @ v.T for u, s, v in zip(left.split(ranks, 1), values.split(ranks), right.split(ranks, 1))]


def test_tsv_of_orthogonal_tasks_is_their_sum():
    tasks = orthogonal_tasks(30, 40, (4, 4, 4))
    assert relative(tsv(tasks, 10), sum(tasks)) < 1e-14
    assert relative(tsv_transcribed(tasks, [10] * 3), sum(tasks)) > 0.1  # what vectors of zero singular values do


@pytest.mark.parametrize("shape", [(30, 40), (40, 30), (24, 24)])
def test_tsv_is_the_paper(shape):
    dense = [normal(seed, *shape) for seed in range(3)]
    assert relative(tsv(dense, min(shape) // 3), tsv_transcribed(dense, [min(shape) // 3] * 3)) < 1e-12
    low = [normal(seed, shape[0], seed + 2) @ normal(seed + 5, seed + 2, shape[1]) for seed in range(3)]
    assert relative(tsv(low, min(shape) // 3), tsv_transcribed(low, [2, 3, 4])) < 1e-12


def test_tsv_keeps_a_part_of_the_original_size_not_of_core_space():
    deltas = [random_delta(0, 40, 90, 3), random_delta(1, 40, 90, 9)]
    assert relative(merged("tsv_m", deltas), tsv_transcribed([full(d) for d in deltas], [3, 9])) < 1e-5
    assert relative(merged("tsv_m", deltas, {"k": 0.1}), tsv_transcribed([full(d) for d in deltas], [3, 4])) < 1e-5
    assert method("tsv_m", 2, {"k": 0.1}).rank("w", deltas) == 7 and method("tsv_m", 2).rank("w", deltas) == 12


def test_equal_tasks_count_once():
    task, other = orthogonal_tasks(30, 40, (4, 5))
    assert relative(tsv([task] * 3, 10), task) < 1e-13
    assert relative(tsv([task, other, task], 10), task + other) < 1e-13
    assert relative(tsv([task, torch.zeros_like(task)], 10), task) < 1e-13
    assert not tsv([torch.zeros_like(task)] * 2, 10).any()


def test_tasks_that_differ_by_rounding_count_once():
    B, A = normal(0, 30, 3), normal(1, 3, 40)
    rounded = (B + 1e-6 * normal(2, 30, 3)) @ (A + 1e-6 * normal(3, 3, 40))
    assert relative(tsv([B @ A, rounded], 10), B @ A) < 1e-5
    task, turn = random_delta(0), torch.linalg.qr(normal(2, 3, 3)).Q.float()
    other = LowRank(task.B @ turn, turn.T @ task.A, task.scale)
    assert 0 < relative(full(other), full(task)) < 1e-6
    assert relative(merged("tsv_m", [task, other]), task.dense()) < 1e-5


def test_polar_factor_is_the_nearest_orthonormal_matrix():
    stacked = normal(0, 20, 6)
    nearest = polar(stacked)
    assert_orthonormal(nearest, 1e-13)
    for seed in range(20):
        other = torch.linalg.qr(nearest + 0.1 * normal(seed, 20, 6)).Q
        assert torch.linalg.matrix_norm(stacked - other) > torch.linalg.matrix_norm(stacked - nearest)


def test_boosting_raises_small_singular_values():
    values = np.array([4.0, 3.0, 2.0, 1.0])
    tasks = orthogonal_tasks(30, 40, (4, 4))
    for part, expected in ((0.3, [4, 4, 4, 4]), (0.5, [4, 3, 3, 3]), (0.7, [4, 3, 3, 3]), (1.0, [4, 3, 2, 1])):
        rebuilt = []
        for task in tasks:
            left, _, right = torch.linalg.svd(task, full_matrices=False)
            rebuilt.append(left[:, :4] * torch.from_numpy(values) @ right[:4])
        found = torch.linalg.svdvals(tsv(rebuilt, 10, part))[:8]
        assert found.tolist() == pytest.approx(sorted(expected * 2, reverse=True), rel=1e-12)


# Iso-C, Iso-CTS

def test_isotropic_spectrum_is_flat_and_its_rank_is_that_of_the_sum():
    tasks = [normal(seed, 30, 4) @ normal(seed + 5, 4, 20) for seed in range(3)]
    u, s, v = np.linalg.svd(sum(tasks).numpy(), full_matrices=False)
    found = isotropic(tasks)
    assert torch.linalg.svdvals(found)[:12].tolist() == pytest.approx([s[:12].mean()] * 12, rel=1e-12)
    assert rank_of(found) == 12 and rank_of(torch.from_numpy(s.mean() * u @ v)) == 20
    assert relative(found, torch.from_numpy(s[:12].mean() * u[:, :12] @ v[:12])) < 1e-12
    assert not isotropic([tasks[0], -tasks[0]]).any()


def iso_cts_transcribed(matrices, fraction):
    """arXiv 2502.04959, float64, for matrices of full rank."""
    size, count = min(matrices[0].shape), len(matrices)
    common = int(size * fraction)
    common = size - round((size - common) / count) * count
    each = (size - common) // count
    u, s, v = np.linalg.svd(sum(matrices).numpy(), full_matrices=False)
    shared, left, values, right = u[:, :common], [], [], []
    for matrix in matrices:
        a, b, c = np.linalg.svd(matrix.numpy() - shared @ shared.T @ matrix.numpy(), full_matrices=False)
        left, values, right = [*left, a[:, :each]], [*values, b[:each]], [*right, c[:each]]
    left, right = np.hstack([*left, shared]), np.vstack([*right, v[:common]])
    (p, _, q), (a, _, b) = np.linalg.svd(left, full_matrices=False), np.linalg.svd(right, full_matrices=False)
    return torch.from_numpy(np.hstack([*values, s[:common]]).mean() * p @ q @ a @ b)


@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.8, 1.0])
def test_iso_cts_is_the_paper(fraction):
    full_rank = [normal(seed, 20, 26) for seed in range(4)]
    assert relative(isotropic_common_specific(full_rank, fraction), iso_cts_transcribed(full_rank, fraction)) < 1e-11
    cores = [normal(seed, 12, 3) @ normal(seed + 5, 3, 12) for seed in range(4)]  # four tasks of rank 3: the sum has 12
    left, right = torch.linalg.qr(normal(0, 30, 12)).Q, torch.linalg.qr(normal(1, 40, 12)).Q
    found = isotropic_common_specific([left @ core @ right.T for core in cores], fraction)
    assert rank_of(found) <= 12
    if fraction >= 0.5:  # below, a task has to give more directions than its rank
        assert relative(found, left @ iso_cts_transcribed(cores, fraction) @ right.T) < 1e-11


def test_iso_cts_with_everything_common_is_iso_c():
    tasks = [normal(seed, 30, 4) @ normal(seed + 5, 4, 20) for seed in range(3)]
    assert relative(isotropic_common_specific(tasks, 1.0), isotropic(tasks)) < 1e-12
    left, values, right = torch.linalg.svd(tasks[0], full_matrices=False)
    within = values[0] * left[:, :1] @ right[:1]  # beyond the two common directions it has nothing but rounding
    assert rank_of(isotropic_common_specific([tasks[0], within], 0.5)) == 3


# WUDI

def wudi_loss(X, tasks):
    return sum(((X - task) @ task.T).square().sum() / task.square().sum() for task in tasks)


@pytest.mark.parametrize("ranks", [(3, 3, 3), (1, 5, 2), (20, 20, 20)])
def test_wudi_is_the_least_loss(ranks):
    tasks = [(10.0 ** -seed) * normal(seed, 24, r) @ normal(seed + 5, r, 20) for seed, r in enumerate(ranks)]
    found = least_interference(tasks)
    X = found.clone().requires_grad_()
    gradient, = torch.autograd.grad(wudi_loss(X, tasks), X)
    loss = wudi_loss(found, tasks)
    assert torch.linalg.matrix_norm(gradient) < 1e-10 * torch.linalg.matrix_norm(tasks[0])
    for seed in range(10):
        assert wudi_loss(found + 1e-3 * normal(seed, 24, 20), tasks) > loss
    grams = [task.T @ task / task.square().sum() for task in tasks]
    regmean = sum(task @ gram for task, gram in zip(tasks, grams)) @ torch.linalg.pinv(sum(grams), rtol=1e-12)
    assert relative(found, regmean) < 1e-6

    def value_and_gradient(flat):
        X = torch.from_numpy(flat.reshape(24, 20)).requires_grad_()
        value = wudi_loss(X, tasks)
        return value.item(), torch.autograd.grad(value, X)[0].numpy().ravel()

    if ranks[0] < 20:
        start = sum(tasks).numpy().ravel()
        options = {"maxiter": 500, "ftol": 0, "gtol": 1e-14}
        best = minimize(value_and_gradient, start, jac=True, method="L-BFGS-B", options=options)
        assert best.fun >= loss.item() - 1e-15
        assert loss < 1e-20  # independent rows: nothing interferes


def test_wudi_acts_on_the_rows_of_a_task_as_the_task_does():
    pairs = [(normal(seed, 24, 3), normal(seed + 5, 3, 20)) for seed in range(3)]
    found = least_interference([B @ A for B, A in pairs])
    for B, A in pairs:
        assert relative(found @ A.T, B @ A @ A.T) < 1e-11
    stacked = torch.cat([A for _, A in pairs])
    closed = torch.cat([B @ A @ A.T for B, A in pairs], dim=1) @ torch.linalg.inv(stacked @ stacked.T) @ stacked
    assert relative(found, closed) < 1e-11


def test_wudi_of_equal_and_of_nearly_equal_rows():
    task = normal(0, 24, 3) @ normal(1, 3, 20)
    assert relative(least_interference([task] * 4), task) < 1e-12
    assert relative(least_interference([task, torch.zeros_like(task)]), task) < 1e-12
    assert not least_interference([torch.zeros_like(task)] * 2).any()
    A = normal(1, 3, 20)
    same = [normal(seed, 24, 3) @ A for seed in range(2)]
    X = least_interference(same)
    norms = [task.square().sum() for task in same]
    gram = sum(task.T @ task / norm for task, norm in zip(same, norms))
    assert relative(X @ gram, sum(task @ task.T @ task / norm for task, norm in zip(same, norms))) < 1e-11
    near = [normal(seed, 24, 3) @ (A + 1e-3 * normal(seed + 3, 3, 20)) for seed in range(2)]
    size = torch.linalg.matrix_norm(sum(near))
    assert torch.linalg.matrix_norm(least_interference(near)) > 10 * size  # the price of no interference at all
    assert torch.linalg.matrix_norm(least_interference(near, ridge=1e-3)) < size


# all of them

def invertible(seed, r):
    """A gauge: [r, r], condition 4."""
    left, right = torch.linalg.qr(normal(seed, r, r)).Q, torch.linalg.qr(normal(seed + 1, r, r)).Q
    return (left * torch.linspace(2, 0.5, r, dtype=torch.float64)) @ right.T


@pytest.mark.parametrize("name", SPECTRAL)
def test_the_gauge_of_the_factors_changes_nothing(name):
    plain, turned = [], []
    for seed, r in enumerate((2, 5, 3)):
        B, A, turn = normal(seed, 20, r), normal(seed + 9, r, 24), invertible(seed + 20, r)
        plain.append(LowRank(B, A, 0.7))
        turned.append(LowRank(B @ turn, torch.linalg.inv(turn) @ A, 0.7))
    assert relative(merged(name, turned), merged(name, plain)) < 2e-5


@pytest.mark.parametrize("name", ["tsv_m", "boosted_tsv_m", "iso_c", "iso_cts", "wudi", "svd"])
def test_low_rank_and_dense_deltas_give_the_same(name):
    low = [random_delta(seed, r=r) for seed, r in enumerate((2, 5, 3))]
    dense = [Dense(full(delta).float()) for delta in low]
    found = method(name, 3, SPECTRAL[name])
    found.survey(Tensors({"w": low}))
    small = found.merge("w", low).loaded()
    assert isinstance(small, LowRank) and small.rank <= found.rank("w", low) <= 10
    assert relative(merged(name, dense), small.dense()) < 2e-5


@pytest.mark.parametrize("name", ["tsv_m", "wudi", "svd"])
def test_one_adapter_is_itself_and_equal_ones_are_one(name):
    delta = random_delta(0)
    params = {"weights": [0.25] * 4} if name == "svd" else {}
    assert relative(merged(name, [delta], {}), delta.dense()) < 1e-6
    assert relative(merged(name, [delta] * 4, params), delta.dense()) < 1e-6


@pytest.mark.parametrize("name", SPECTRAL)
def test_order_does_not_matter(name):
    deltas = [random_delta(seed, r=2 + seed) for seed in range(4)]
    assert relative(merged(name, deltas[::-1]), merged(name, deltas)) < 2e-5


@pytest.mark.parametrize("name", [name for name in SPECTRAL if name != "svd"])
def test_lambda_scales_and_zero_is_the_base(name):
    deltas, params = [random_delta(seed) for seed in range(3)], SPECTRAL[name]
    assert relative(merged(name, deltas, {**params, "lambda": 0.25}), 0.25 * merged(name, deltas)) < 1e-6
    assert not merged(name, deltas, {**params, "lambda": 0}).any()
    by_policy = merged(name, deltas, params, lambda parameter: {"w": -2.0}[parameter])
    assert relative(by_policy, -2 * merged(name, deltas)) < 1e-6
    kernels = [LowRank(delta.B, delta.A, 0.7, (20, 6, 4)) for delta in deltas]
    assert torch.equal(merged(name, kernels), merged(name, deltas).reshape(20, 6, 4))


@pytest.mark.parametrize("name", ["tsv_m", "iso_c", "iso_cts", "wudi"])
def test_vectors_and_scalars_are_averaged(name):
    for shape in ((7,), ()):
        vectors = [torch.full(shape, float(value)) for value in (1, 2, 6)]
        assert torch.equal(merged(name, [Dense(vector) for vector in vectors], {"lambda": 0.5}), torch.full(shape, 1.5))


def test_svd_is_the_best_approximation_of_the_weighted_sum():
    deltas = [random_delta(seed, r=2 + seed) for seed in range(3)]
    total = sum(weight * full(delta) for weight, delta in zip((1, -2, 0.5), deltas))
    found = merged("svd", deltas, {"weights": [1, -2, 0.5], "rank": 5})
    assert relative(found, total) == pytest.approx(
        torch.linalg.svdvals(total)[5:].norm().item() / torch.linalg.matrix_norm(total).item(), rel=1e-5)
    rule = method("svd", 3)
    assert rule.rank("w", deltas) == 4 == rank_of(merged("svd", deltas, {}))  # the largest of 2, 3, 4
    dense = [Dense(delta.dense()) for delta in deltas]
    assert rank_of(merged("svd", dense, {"rank": 5})) == 5 and rank_of(merged("svd", dense, {})) == 9


def vector(seed, **about):
    deltas = {f"{part}.weight": random_delta(7 * seed + place, *shape)
              for place, (part, shape) in enumerate({"x": (20, 24), "y": (16, 30), "z": (40, 12)}.items())}
    return TaskVector(deltas, BASE, details={"name": f"t{seed}"}, **about)


@pytest.mark.parametrize("name", SPECTRAL)
def test_same_bytes_on_any_number_of_threads_and_nothing_is_kept(name):
    results = []
    for threads in (1, 4):
        result = speechmerge.merge([vector(seed) for seed in range(3)], method=name, threads=threads, **SPECTRAL[name])
        assert all(isinstance(delta, Computed) for delta in result.deltas.values())
        with computing(threads):
            results.append(list(ordered(lambda part: result.deltas[part].dense(), sorted(result.deltas))))
    for one, other in zip(*results):
        assert torch.equal(one, other)


def test_truncate_keeps_kernels_and_mixed_deltas_are_dense():
    kernel = LowRank(normal(0, 6, 4).float(), normal(1, 4, 12).float(), 1.0, (6, 4, 3))
    assert truncate(kernel, 2).shape == (6, 4, 3)
    mixed = [random_delta(0), Dense(random_delta(1).dense())]
    low = [random_delta(0), random_delta(1)]
    assert relative(merged("tsv_m", mixed), merged("tsv_m", low)) < 2e-5
