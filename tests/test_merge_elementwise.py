"""Element-wise methods against float64 transcriptions of the papers, golden values and known statistics."""
import hashlib
import json
import math
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import speechmerge
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.merge.base import Base
from speechmerge.merge.compute import Tensors
from speechmerge.merge.delta import Blockwise, Dense, LowRank, Scaled
from speechmerge.merge.kernels import masks, threshold
from speechmerge.merge.kernels.signs import disjoint_merge, sum_of_signs, trim_
from speechmerge.merge.task_vector import TaskVector

BASE = Base("base", "f" * 64)
FLOATS = st.floats(-1, 1, width=32)
QUICK = settings(max_examples=60, deadline=None)


def vector(tensors, name="a"):
    deltas = {key: Dense(torch.tensor(np.asarray(value, np.float32))) for key, value in tensors.items()}
    return TaskVector(deltas, BASE, details={"name": name})


def vectors(rows, key="w"):
    return [vector({key: row}, "abcdefghij"[index]) for index, row in enumerate(rows)]


def random_vectors(count, shapes=((40, 30), (7,), (16, 4, 3), ()), seed=0):
    random = np.random.default_rng(seed)
    return [vector({f"p{i}": random.normal(size=shape) * 0.1 ** (i % 2) for i, shape in enumerate(shapes)}, f"t{index}")
            for index in range(count)]


def values(merged, key=None):
    names = [key] if key else sorted(merged.deltas)
    return np.concatenate([merged.deltas[name].dense().numpy().reshape(-1) for name in names])


def merge(inputs, method, **params):
    return values(speechmerge.merge(inputs, method=method, **params))


def tensors_of(*inputs):
    """Tensors of inputs given as {name: array}."""
    return Tensors({name: [Dense(torch.tensor(np.asarray(one[name], np.float32))) for one in inputs]
                    for name in inputs[0]})


# thresholds

def expected_threshold(flat, percent):
    keep = int(len(flat) * Fraction(repr(float(percent))) / 100)
    ordered = np.sort(np.abs(flat))
    return math.inf if keep == 0 else 0.0 if keep == len(flat) else float(ordered[len(flat) - keep])


HARD = {
    "normal": lambda random, n: random.normal(size=n),
    "all equal": lambda random, n: np.full(n, -0.25),
    "all zero": lambda random, n: np.zeros(n),
    "90 % zeros": lambda random, n: random.normal(size=n) * (random.random(n) < 0.1),
    "denormal": lambda random, n: random.integers(-300, 300, n) * 1.4e-45,
    "few values": lambda random, n: random.integers(-3, 4, n) * 2.0 ** -10,
    "heavy tails": lambda random, n: random.standard_cauchy(n),
    "all magnitudes": lambda random, n: np.exp(random.uniform(-80, 80, n)) * random.choice([-1, 1], n),
    "sorted": lambda random, n: np.sort(random.normal(size=n)),
    "huge": lambda random, n: random.choice([1e38, -3e38, 1e-38], n),
}


@pytest.fixture
def small_sample(monkeypatch):
    """A sample of a thousand, so that tensors of a test are large."""
    monkeypatch.setattr(threshold, "SAMPLE", 1024)
    monkeypatch.setattr(threshold, "WHOLE", 1024)


@pytest.mark.parametrize("kind", sorted(HARD))
@pytest.mark.parametrize("shape", [(300, 100), (3, 10000), (30000,), (1, 30000)])
def test_thresholds_of_hard_distributions(kind, shape, small_sample):
    random = np.random.default_rng(len(kind))
    inputs = [{"a": HARD[kind](random, 30000).reshape(shape).astype(np.float32),
               "b": HARD[kind](random, 600).reshape(20, 30).astype(np.float32)} for _ in range(2)]
    flat = [np.concatenate([one["a"].reshape(-1), one["b"].reshape(-1)]) for one in inputs]
    for percent in (0, 0.001, 1, 20, 50, 99.9, 100):
        found = threshold.magnitude_thresholds(tensors_of(*inputs), percent)
        assert found == [expected_threshold(one, percent) for one in flat]
        assert threshold.magnitude_thresholds_of_each(tensors_of(*inputs), percent) == {
            name: [expected_threshold(one[name].reshape(-1), percent) for one in inputs] for name in "ab"}


@QUICK
@given(arrays.arrays(np.float32, st.integers(1, 60), elements=st.floats(-1, 1, width=32)), st.floats(0, 100))
def test_thresholds_of_small_tensors(flat, percent):
    assert threshold.magnitude_thresholds(tensors_of({"w": flat}), percent) == [expected_threshold(flat, percent)]


class Watched(Dense):
    """A delta that remembers which rows were read for the sample."""

    def block(self, start, stop):
        if stop - start == threshold.RUN:
            self.seen = [*getattr(self, "seen", []), *range(start, stop)]
        return super().block(start, stop)


def test_a_sample_that_misleads_costs_time_and_nothing_else(small_sample, monkeypatch):
    """Rows that were in the sample are made large, then small, so that the bracket is far off."""
    flat = torch.randn(4000, 40, generator=torch.Generator().manual_seed(0))
    delta = Watched(flat)
    threshold.magnitude_thresholds(Tensors({"w": [delta]}), 20)
    calls, histograms = [], threshold._by_histograms
    monkeypatch.setattr(threshold, "_by_histograms", lambda *given: calls.append(1) or histograms(*given))
    assert threshold.magnitude_thresholds(Tensors({"w": [delta]}), 20) == [expected_threshold(flat.numpy().ravel(), 20)]
    rows = sorted(set(delta.seen))
    assert 0 < len(rows) < 1500 and not calls
    for count, factor in enumerate((1000, 1e-9), 1):
        flat[rows] *= factor
        found = threshold.magnitude_thresholds(Tensors({"w": [delta]}), 20)
        assert found == [expected_threshold(flat.numpy().ravel(), 20)] and len(calls) == count


def test_usual_tensors_are_read_once(monkeypatch):
    """Rows and parameters of very different sizes: the bracket holds, and keeps little."""
    monkeypatch.setattr(threshold, "SAMPLE", 8192)
    monkeypatch.setattr(threshold, "WHOLE", 8192)
    random = np.random.default_rng(3)
    inputs = [{f"p{i}": random.standard_t(3, size=(1600, 50)) * np.exp(random.normal(size=(1600, 1))) * 2.0 ** i
               for i in range(6)} for _ in range(3)]
    reads, kept = [], []
    count, look = threshold._count, threshold._look
    monkeypatch.setattr(threshold, "_count", lambda *given: reads.append(1) or count(*given))

    def watched(*given):
        kept.append(len(look(*given)[3]))
        return look(*given)

    monkeypatch.setattr(threshold, "_look", watched)
    monkeypatch.setattr(threshold, "_by_histograms", None)
    found = threshold.magnitude_thresholds(tensors_of(*inputs), 20)
    flat = [np.concatenate([one[key].reshape(-1) for key in sorted(one)]).astype(np.float32) for one in inputs]
    assert found == [expected_threshold(one, 20) for one in flat]
    assert len(reads) == 1 and sum(kept) < 0.2 * 3 * 480000  # with a sample of 160 rows


def test_thresholds_of_signed_keys(small_sample):
    flat = np.random.default_rng(1).normal(size=(200, 40)).astype(np.float32)
    flat[0, :2] = 0.0, -0.0
    ranks = [1, 2, 500, 4001, 7999, 8000]
    found = threshold.nth_largest(tensors_of({"w": flat}), [ranks],
                                  lambda inputs: [threshold.ordered_keys(tensor) for tensor in inputs])
    ordered = np.sort(flat.reshape(-1))[::-1]
    assert [threshold.ordered_value(key) for key in found[0]] == [ordered[rank - 1] for rank in ranks]


def test_thresholds_of_low_rank_and_computed_deltas(small_sample):
    random = torch.Generator().manual_seed(0)
    low = LowRank(torch.randn(300, 3, generator=random), torch.randn(3, 100, generator=random), 0.5)
    again = Scaled(Blockwise("w", [low], lambda block, tensors: tensors[0] * (block.index + 1)), 2.0)
    for delta in (low, again):
        found = threshold.magnitude_thresholds(Tensors({"w": [delta]}), 20)
        assert found == [expected_threshold(delta.dense().numpy().reshape(-1), 20)]


# sign election and disjoint merge

def transcription(rows, zero_sign, rule="mean", elect="sum", weights=None):
    """Elect and merge of algorithm 1 in float64; rows: trimmed vectors [inputs, elements]."""
    weights = np.ones(len(rows)) if weights is None else np.asarray(weights, float)
    rows = rows.astype(np.float64) * weights[:, None]
    votes = rows if elect == "sum" else np.sign(rows)
    gamma = np.sign(sum(votes))  # in float64, as the paper would be computed; values 2^53 apart are as good as 0
    gamma[gamma == 0] = zero_sign
    agrees = (np.sign(rows) == gamma) & (rows != 0)
    if rule == "max":
        return gamma * np.abs(rows * agrees).max(0)
    total = (rows * agrees).sum(0)
    share = (weights[:, None] * agrees).sum(0)
    return total if rule == "sum" else total / np.where(share > 0, share, 1)


ROWS = st.integers(1, 5).flatmap(lambda count: arrays.arrays(
    np.float32, st.tuples(st.just(count), st.integers(1, 40)),
    elements=st.one_of(FLOATS, st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0 ** -24, -(2.0 ** -24), 1e-45,
                                                3e38]))))


@settings(max_examples=300, deadline=None)
@given(ROWS, st.sampled_from([-1, 0, 1]), st.sampled_from(["mean", "sum", "max"]), st.sampled_from(["sum", "count"]))
def test_disjoint_merge_against_the_transcription(rows, zero_sign, rule, elect):
    with np.errstate(over="ignore"):
        expected = transcription(rows, zero_sign, rule, elect)
        if not np.isfinite(rows.sum(0)).all() or np.abs(expected).max() > 3e38:
            return
    found = disjoint_merge([torch.tensor(row) for row in rows], lambda: zero_sign, rule, elect).double().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=3e-45)


@QUICK
@given(ROWS.map(lambda rows: np.clip(rows, -1, 1) * (np.abs(rows) > 1e-30)), st.data())
def test_weights_count_in_the_election_and_in_the_mean(rows, data):
    weights = data.draw(st.lists(st.sampled_from([0.25, 0.5, 1.0, 2.0]), min_size=len(rows), max_size=len(rows)))
    for rule in ("mean", "sum", "max"):
        found = disjoint_merge([torch.tensor(row) for row in rows], lambda: 1, rule, "sum", weights).double().numpy()
        np.testing.assert_allclose(found, transcription(rows, 1, rule, "sum", weights), rtol=1e-6, atol=3e-45)


def test_signs_are_those_of_the_exact_sum_in_any_order():
    """Three values of which rounding makes another sum in each order."""
    random = np.random.default_rng(0)
    big = random.normal(size=4000).astype(np.float32)
    second = (-big * (1 - random.normal(size=4000) * 1e-7)).astype(np.float32)
    rows = np.stack([big, second, (random.normal(size=4000) * 1e-8).astype(np.float32)])
    naive = {order: np.sign(sum(rows[i] for i in order)) for order in ((0, 1, 2), (2, 1, 0), (2, 0, 1))}
    assert (naive[0, 1, 2] != naive[2, 1, 0]).any()  # the test is about something
    expected = transcription(rows, 1)
    for order in naive:
        found = disjoint_merge([torch.tensor(rows[i]) for i in order], lambda: 1).double().numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_trim_keeps_the_threshold_itself():
    values_ = torch.tensor([0.1, -0.1, 0.09999999, 1e-45, -1e-45, 0.0])
    assert (trim_(values_.clone(), float(np.float32(0.1))) != 0).tolist() == [True, True, False, False, False, False]
    assert torch.equal(trim_(values_.clone(), 1e-45) != 0, values_ != 0)
    assert torch.equal(trim_(values_.clone(), 0.0), values_)
    assert not trim_(values_.clone(), math.inf).any()


def test_sum_of_signs():
    rows = [torch.tensor([1.0, -2.0, 0.0, 0.5, -1.0]), torch.tensor([1.0, 1.0, 0.0, -0.5, -1.0])]
    assert sum_of_signs(rows) == 1 - 1 + 0 + 0 - 1
    assert sum_of_signs(rows, "count") == 1 + 0 + 0 + 0 - 1
    assert sum_of_signs([row.clone() for row in rows], weights=[1.0, 3.0]) == 1 + 1 + 0 - 1 - 1


# TIES

def ties_transcription(rows, k, **options):
    """Algorithm 1 on flattened vectors, zero sums by the majority of all signs, magnitudes at the threshold kept."""
    keep = int(rows.shape[1] * Fraction(repr(float(k))) / 100)
    trimmed = np.zeros_like(rows)
    for row, out in zip(rows, trimmed):
        if keep:
            chosen = np.abs(row) >= np.sort(np.abs(row))[-keep]
            out[chosen] = row[chosen]
    votes = trimmed if options.get("elect", "sum") == "sum" else np.sign(trimmed)
    majority = np.sign(sum(np.sign(math.fsum(column)) for column in votes.T))
    return transcription(trimmed, majority if len(rows) > 1 else 1, **options)


@settings(max_examples=100, deadline=None)
@given(ROWS.map(lambda rows: np.clip(rows, -1, 1)), st.sampled_from([0, 10, 20, 33.3, 50, 100]),
       st.sampled_from(["mean", "sum", "max"]), st.sampled_from(["sum", "count"]))
def test_ties_against_the_paper(rows, k, rule, elect):
    found = merge(vectors(rows), "ties", k=k, merge_func=rule, elect=elect)
    np.testing.assert_allclose(found, ties_transcription(rows, k, rule=rule, elect=elect), rtol=1e-6, atol=3e-45)


@pytest.mark.parametrize("shapes", [((300, 250),), ((40, 30), (7,), (16, 4, 3), (), (0, 5), (5, 0), (0,))])
def test_ties_over_several_blocks_and_parameters(shapes):
    inputs = random_vectors(3, shapes)
    rows = np.stack([values(one) for one in inputs])
    np.testing.assert_allclose(merge(inputs, "ties"), ties_transcription(rows, 20), rtol=1e-6)
    apart = np.concatenate([ties_transcription(np.stack([values(one, name) for one in inputs]), 20)
                            for name in sorted(inputs[0].deltas)])
    np.testing.assert_allclose(merge(inputs, "ties", trim="tensor", zero_sum="positive"), apart, rtol=1e-6)


def test_ties_zero_sums_follow_the_majority_or_are_positive():
    rows = [[1.0, -2.0, -3.0, -1.0], [-1.0, -2.0, -3.0, -1.0]]
    assert merge(vectors(rows), "ties", k=100).tolist() == [-1, -2, -3, -1]
    assert merge(vectors(rows), "ties", k=100, zero_sum="positive").tolist() == [1, -2, -3, -1]
    assert merge(vectors([[1.0], [-1.0]]), "ties", k=100).tolist() == [0]


def test_ties_weights():
    rows = [[1.0, -2.0], [3.0, 1.0]]
    assert merge(vectors(rows), "ties", k=100, weights=[1, 1]).tolist() == [2, -2]
    assert merge(vectors(rows), "ties", k=100, weights=[1, 3]).tolist() == [2.5, 1]  # -2 + 3 > 0
    assert merge(vectors(rows), "ties", k=100, weights=[1, 3], merge_func="sum").tolist() == [10, 3]
    with pytest.raises(UsageError, match="weights has 1 numbers, expected 2"):
        merge(vectors(rows), "ties", weights=[1])
    with pytest.raises(UsageError, match="weights: found"):
        merge(vectors(rows), "ties", weights=[1, -1])


# random masks

def test_words_are_the_raw_stream_of_sfc64():
    raw = np.random.SFC64(int.from_bytes(hashlib.sha256(b"1\na#0\nw\n0").digest()[:16], "little"))
    expected = raw.random_raw(4).astype("<u8").view("<u4")
    assert masks.words(7, 1, "a#0", "w", 0).tolist() == expected[:7].tolist()


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dare_keeps_the_expectation_and_has_the_known_variance(rate):
    found = merge([vector({"w": np.full((800, 500), -2.0)})], "dare", drop_rate=rate)
    count, spread = len(found), 2 * math.sqrt(rate / (1 - rate))
    assert abs(found.mean() + 2) < 5 * spread / math.sqrt(count)
    assert found.var() == pytest.approx(spread ** 2, rel=0.02)
    assert sorted(set(found.tolist())) == pytest.approx([-2 / (1 - rate), 0])


def test_dare_fuses_as_it_says():
    inputs = random_vectors(3)
    kept = [merge([one], "dare", drop_rate=0.5, seed=7) for one in inputs]
    np.testing.assert_allclose(merge(inputs, "dare", drop_rate=0.5, seed=7), sum(kept) / 3, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(merge(inputs, "dare_task_arithmetic", drop_rate=0.5, seed=7, lambda_=0.3),
                               0.3 * sum(kept), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(merge(inputs, "dare", drop_rate=0.5, seed=7, weights=[2, 1, 1]),
                               (2 * kept[0] + kept[1] + kept[2]) / 4, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(merge(inputs, "dare_ties", drop_rate=0.5, seed=7), transcription(np.stack(kept), 1),
                               rtol=1e-5, atol=1e-7)
    with pytest.raises(UsageError, match="weights are all 0"):
        merge(inputs, "dare", weights=[0, 0, 0])


def test_masks_of_inputs_parameters_blocks_and_seeds_differ():
    one = vector({"a": np.ones((200, 655)), "b": np.ones((200, 655))})
    blocks = [merge([one], "dare", drop_rate=0.5, seed=seed).reshape(4, -1)[:, :65000] != 0 for seed in (1, 2)]
    kept = np.concatenate(blocks)
    for first in range(len(kept)):
        for second in range(first):
            assert abs((kept[first] == kept[second]).mean() - 0.5) < 0.02


@pytest.mark.parametrize("method", ["dare", "dare_ties", "della", "della_linear"])
def test_l1_rescaling_restores_the_norm_of_each_parameter(method):
    inputs = random_vectors(1, ((200, 400), (30, 20)))
    given = speechmerge.merge(inputs, method=method, rescale="l1", lambda_=1)
    for name, delta in inputs[0].deltas.items():
        assert np.abs(values(given, name)).sum() == pytest.approx(delta.tensor.abs().sum().item(), rel=1e-5)
    bare = speechmerge.merge(inputs, method=method, rescale="none", lambda_=1)
    kept = values(bare) != 0
    np.testing.assert_array_equal(values(bare)[kept], values(inputs[0])[kept])


def test_same_bytes_for_any_number_of_threads_and_any_hash_seed():
    code = """if True:
        import hashlib, json, sys
        sys.path.insert(0, "tests")
        import speechmerge
        from test_merge_elementwise import random_vectors, values
        inputs = random_vectors(3, ((300, 400), (1000,), (50, 30, 10)))
        found = {}
        for method in sys.argv[2].split(","):
            merged = speechmerge.merge(inputs, method=method, threads=int(sys.argv[1]))
            found[method] = hashlib.sha256(values(merged).tobytes()).hexdigest()
        print(json.dumps(found))"""
    methods = "ties,dare,dare_ties,della,breadcrumbs,pcb,consensus,emr"
    root = Path(__file__).parent.parent
    results = [json.loads(subprocess.run([sys.executable, "-c", code, str(threads), methods], check=True, cwd=root,
                                         capture_output=True, text=True,
                                         env={**os.environ, "PYTHONHASHSEED": str(threads)}).stdout)
               for threads in (1, 2)]
    assert results[0] == results[1] and len(set(results[0].values())) == 8


# DELLA

def test_della_keeps_by_rank_and_divides_by_the_probability():
    """The same 3 rows 20,000 times: how often each rank stays, and what it becomes."""
    row = np.array([[0.5, -0.1, 3.0, -2.0, 0.1], [1, 2, 3, 4, 5], [-5, 4, -3, 2, -1]], np.float32)
    ranks = np.array([[2, 0, 4, 3, 1], [0, 1, 2, 3, 4], [4, 3, 2, 1, 0]])  # -0.1 stands before 0.1
    probability, count = 0.6 - 0.2 + 0.4 * ranks / 4, 20000
    found = masks.drop_by_rank_(torch.tensor(np.tile(row, (count, 1))), 0.6, 0.2, True, "test").numpy()
    found = found.reshape(count, 3, 5)
    np.testing.assert_allclose(found, np.where(found != 0, row / probability, 0), rtol=1e-6)
    assert np.abs((found != 0).mean(0) - probability).max() < 5 * 0.5 / math.sqrt(count)


def test_della_against_rows_one_by_one():
    """A transcription that ranks by a stable sort and takes the random words in order of rank."""
    inputs = random_vectors(2, ((40, 30), (16, 4, 3), (25,)))
    expected = []
    for name in sorted(inputs[0].deltas):
        total = 0
        for one in inputs:
            delta = values(one, name).astype(np.float64)
            rows = delta.reshape(len(one.deltas[name].tensor) if one.deltas[name].tensor.dim() > 1 else 1, -1)
            drawn = masks.words(rows.size, 3, f"{one.label}#0", name, 0).reshape(rows.shape)
            for row, numbers in zip(rows, drawn):
                for rank, place in enumerate(np.argsort(np.abs(row), kind="stable")):
                    chance = 0.7 - 0.1 + 0.2 * rank / (len(row) - 1)
                    row[place] *= (numbers[rank] < chance * 2 ** 32) / chance
            total = total + rows.reshape(-1)
        expected.append(total)
    found = merge(inputs, "della_linear", epsilon=0.1, seed=3, lambda_=1)
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=1e-6, atol=1e-6)


def test_della_refuses_what_is_no_probability():
    with pytest.raises(UsageError, match="probabilities from 0.8 to 1.2"):
        merge(random_vectors(2), "della", density=1, epsilon=0.2)
    with pytest.raises(UsageError, match="above 0 and at most 1"):
        merge(random_vectors(2), "della", density=0.1, epsilon=0.1)


# Breadcrumbs

def crumbs(row, beta, gamma):
    """One row: the largest taken out, then the largest of the others kept; equal ones stay together."""
    size, order = len(row), np.sort(np.abs(row))[::-1]
    out, kept = int(size * Fraction(repr(gamma))), int(size * Fraction(repr(beta)))
    kept = min(kept, size - out)
    if not kept:
        return np.zeros_like(row)
    return np.where((np.abs(row) <= order[out]) & (np.abs(row) >= order[out + kept - 1]), row, 0)


@QUICK
@given(arrays.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 20)), elements=FLOATS),
       st.sampled_from([0.0, 0.2, 0.3, 0.9, 1.0]), st.sampled_from([0.0, 0.1, 0.3, 1.0]))
def test_breadcrumbs_against_rows_one_by_one(rows, beta, gamma):
    found = merge([vector({"w": rows})], "breadcrumbs", beta=beta, gamma=gamma, lambda_=1)
    np.testing.assert_array_equal(found, np.concatenate([crumbs(row, beta, gamma) for row in rows]))
    found = merge([vector({"w": rows})], "breadcrumbs", beta=beta, gamma=gamma, lambda_=1, scope="tensor")
    np.testing.assert_array_equal(found, crumbs(rows.reshape(-1), beta, gamma))


def test_breadcrumbs_adds_up_unrolls_kernels_and_lets_scalars_pass():
    inputs = random_vectors(2)
    expected = []
    for name in sorted(inputs[0].deltas):
        shape = inputs[0].deltas[name].shape
        rows = [values(one, name).reshape(shape[0] if len(shape) > 1 else 1, -1) for one in inputs]
        expected.append(sum(np.concatenate([crumbs(row, 0.2, 0.1) if shape else row for row in one]) for one in rows))
    np.testing.assert_allclose(merge(inputs, "breadcrumbs"), 0.4 * np.concatenate(expected), rtol=1e-6)


# PCB

def pcb_transcription(rows, ratio, scale):
    """The formulas in float64 on flattened vectors [tasks, elements]."""
    rows, size = rows.astype(np.float64), rows.shape[1]
    total, merged, weight = rows.sum(0), 0, 0
    for row in rows:
        ordered = np.sort(np.abs(row))
        cut = int(size * Fraction(1, 10000))
        a = np.clip(np.abs(row), ordered[cut], ordered[size - 1 - cut])
        u = (a - a.min()) / (a.max() - a.min())
        score = np.exp(len(rows) * u ** 2) * np.tanh(row * total)
        low = np.sort(score)[int(size * (1 - Fraction(repr(ratio))))]
        s = (np.maximum(score, low) - low) / (score.max() - low)
        merged, weight = merged + s * np.sign(row) * a, weight + s
    return scale * merged / np.maximum(weight, 1e-12)


@pytest.mark.parametrize("count,ratio", [(1, 0.1), (2, 0.05), (3, 0.1), (4, 1.0)])
def test_pcb_against_the_formulas(count, ratio):
    inputs = random_vectors(count, ((150, 120), (50,)))
    rows = np.stack([values(one) for one in inputs])
    found, expected = merge(inputs, "pcb", ratio=ratio), pcb_transcription(rows, ratio, 1.2)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max())
    assert np.abs(found - expected).mean() < 1e-6 * np.abs(expected).max()


def test_pcb_with_many_tasks_and_with_tasks_that_change_nothing():
    many = merge(random_vectors(3) * 40, "pcb")
    assert np.isfinite(many).all() and many.any()
    assert not merge(vectors([np.zeros(50)] * 2), "pcb").any()
    np.testing.assert_allclose(merge(vectors([np.ones(50)] * 2), "pcb", lambda_=1), np.ones(50))
    with pytest.raises(UsageError, match="ratio: found 0"):
        merge(random_vectors(2), "pcb", ratio=0)


# Consensus and TALL masks

def test_consensus_golden():
    rows = np.array([[1.0, -0.2, 0.5, 0.0], [0.9, 0.1, -0.4, 0.0], [-0.1, 0.1, 0.0, 2.0]])
    # |tau_t| > 0.4 |tau - tau_t|: sums [1.8, 0, 0.1, 2]
    needed = np.array([[1, 1, 1, 0], [1, 1, 1, 0], [0, 1, 0, 1]])
    total = rows.sum(0)
    for k in (0, 1, 2, 3):
        expected = 0.5 * total * (needed.sum(0) >= k)
        np.testing.assert_allclose(merge(vectors(rows), "consensus", k=k, lambda_=0.5), expected, atol=1e-7)
    for task, mask in zip("abc", needed):
        np.testing.assert_allclose(merge(vectors(rows), "tall_mask", task=task), total * mask, atol=1e-7)
    strict = merge(vectors(rows), "consensus", k=1, mask_lambda=[0.1, 100, 100])
    np.testing.assert_allclose(strict, total * [1, 1, 1, 1], atol=1e-7)
    with pytest.raises(UsageError, match="k: found 4, expected at most the number of adapters, 3"):
        merge(vectors(rows), "consensus", k=4)


@QUICK
@given(arrays.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 30)), elements=st.integers(-64, 64)),
       st.sampled_from([0.25, 0.5, 1.0]))
def test_masks_against_the_formula(rows, mask_lambda):
    """Multiples of 1 and powers of 2, so that float32 is exact."""
    total = rows.sum(0)
    mask = np.abs(rows) > mask_lambda * np.abs(total - rows)
    given_ = [mask_lambda] * len(rows)
    assert (merge(vectors(rows), "consensus", k=1, mask_lambda=given_) == total * (mask.sum(0) >= 1)).all()
    assert (merge(vectors(rows), "tall_mask", task="a", mask_lambda=given_) == total * mask[0]).all()


# EMR

def test_golden_emr():
    rows = [[1, -2, .5], [.5, 1, -1]]
    assert merge(vectors(rows), "emr").tolist() == [1, -2, -1]
    np.testing.assert_allclose(merge(vectors(rows), "emr", task="a"), 7 / 6 * np.array([1, -2, 0]), rtol=1e-6)
    np.testing.assert_allclose(merge(vectors(rows), "emr", task="b"), 1.25 * np.array([1, 0, -1]), rtol=1e-6)


@QUICK
@given(arrays.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 30)), elements=FLOATS))
def test_emr_against_the_formulas(rows):
    exact = rows.astype(np.float64)
    gamma = np.array([np.sign(math.fsum(column)) for column in exact.T])
    unified = gamma * np.abs(exact * (np.sign(exact) == gamma)).max(0)
    assert (merge(vectors(rows), "emr") == unified).all()
    for task, row in zip("abcd", exact):
        mask = row * gamma > 0
        size = np.abs(mask * unified).sum()
        expected = mask * unified * (np.abs(row).sum() / size if size else 1)
        np.testing.assert_allclose(merge(vectors(rows), "emr", task=task), expected, rtol=1e-6, atol=3e-45)


@pytest.mark.parametrize("method", ["emr", "tall_mask"])
def test_vectors_of_tasks_from_the_saved_masks(method, tmp_path):
    from speechmerge.merge.methods.emr import vector_of_task

    inputs = random_vectors(2, ((300, 260), (13,), (16, 3, 3), (5, 7), ()))
    speechmerge.merge(inputs, method=method, lambda_=0.5).save(tmp_path / "all", as_="delta")
    for task in ("t0", "t1"):
        saved = vector_of_task(tmp_path / "all", task)
        expected = speechmerge.merge(inputs, method=method, lambda_=0.5, task=task)
        np.testing.assert_allclose(values(saved), values(expected), rtol=1e-6)
        assert saved.label == task and saved.deltas["p0"].block(200, 203).shape == (3, 260)
        np.testing.assert_allclose(saved.deltas["p0"].block(200, 203), saved.deltas["p0"].dense()[200:203])
    with pytest.raises(SpeechMergeError, match="no task 't2'; known: t0, t1"):
        vector_of_task(tmp_path / "all", "t2")
    other = random_vectors(2, ((30, 26), (13,), (16, 3, 3), (5, 7), ()))
    speechmerge.merge(other, method=method).save(tmp_path / "other", as_="delta")
    with pytest.raises(SpeechMergeError, match="belongs to another merge"):
        vector_of_task(tmp_path / "all", "t0", masks=tmp_path / "other" / "masks.safetensors")


def test_tasks_are_known_by_name():
    with pytest.raises(UsageError, match="task: no adapter 'asr'"):
        merge(random_vectors(2), "emr", task="asr")
    with pytest.raises(UsageError, match="task: found 3, expected word"):
        merge(random_vectors(2), "emr", task=3)
    twins = [vector({"w": [1.0, 2.0]}), vector({"w": [3.0, -1.0]})]
    np.testing.assert_allclose(merge(twins, "emr", task="a#2"), [4, 0], rtol=1e-6)
    assert speechmerge.merge(twins, method="emr", task="a").details["tag"] != speechmerge.merge(
        twins, method="emr", task="a#2").details["tag"]


# all of them

@pytest.mark.parametrize("method", ["ties", "dare", "dare_ties", "della", "breadcrumbs", "breadcrumbs_ties", "pcb",
                                    "consensus", "emr"])
def test_parameters_without_elements_and_models_without_any(method):
    shapes = ((0, 5), (5, 0), (0,), (3, 4))
    for inputs in (random_vectors(2, shapes), random_vectors(2, shapes[:3])):
        for options in ({}, {"trim": "tensor"} if method == "ties" else {"lambda": 0.5}):
            merged = speechmerge.merge(inputs, method=method, **options)
            assert [tuple(merged.deltas[name].dense().shape) for name in sorted(merged.deltas)] == [
                inputs[0].deltas[name].shape for name in sorted(inputs[0].deltas)]


SCALED = {"ties": {}, "dare": {}, "dare_task_arithmetic": {}, "dare_ties": {}, "della": {}, "della_linear": {},
          "breadcrumbs": {}, "breadcrumbs_ties": {}, "pcb": {}, "consensus": {}, "tall_mask": {}, "emr": {},
          "emr of one": {"task": "t1"}}


@pytest.mark.parametrize("name", sorted(SCALED))
def test_lambda_scales_and_zero_is_the_base(name):
    inputs, method = random_vectors(3), name.split()[0]
    assert not merge(inputs, method, lambda_=0, **SCALED[name]).any()
    full = merge(inputs, method, lambda_=1, **SCALED[name])
    np.testing.assert_allclose(merge(inputs, method, lambda_=-0.25, **SCALED[name]), -0.25 * full, rtol=1e-6)
    assert full.any()


@pytest.mark.parametrize("name", sorted(SCALED))
def test_order_of_adapters_does_not_matter(name):
    inputs, method = random_vectors(3), name.split()[0]
    np.testing.assert_allclose(merge(inputs[::-1], method, **SCALED[name]), merge(inputs, method, **SCALED[name]),
                               rtol=1e-5, atol=1e-6)


# what makes a method give back an adapter of which it gets `count`
NEUTRAL = {
    "ties": lambda count: {"k": 100},
    "dare": lambda count: {"drop_rate": 0},
    "dare_task_arithmetic": lambda count: {"drop_rate": 0, "lambda": 1 / count},
    "dare_ties": lambda count: {"drop_rate": 0},
    "della": lambda count: {"density": 1, "epsilon": 0, "lambda": 1},
    "della_linear": lambda count: {"density": 1, "epsilon": 0, "lambda": 1 / count},
    "breadcrumbs": lambda count: {"beta": 1, "gamma": 0, "lambda": 1 / count},
    "breadcrumbs_ties": lambda count: {"beta": 1, "gamma": 0, "lambda": 1},
    "consensus": lambda count: {"k": 1, "lambda": 1 / count},
    "tall_mask": lambda count: {"task": "t0", "lambda": 1 / count},
    "emr": lambda count: {"task": "t0"},
}


@pytest.mark.parametrize("method", sorted(NEUTRAL))
@pytest.mark.parametrize("count", [1, 3])
def test_equal_adapters_give_that_adapter(method, count):
    adapter = random_vectors(1)[0]
    found = merge([adapter] * count, method, **NEUTRAL[method](count))
    np.testing.assert_allclose(found, values(adapter), rtol=1e-6)


@pytest.mark.parametrize("method", ["ties", "dare_ties", "breadcrumbs", "pcb", "consensus", "emr"])
def test_a_policy_sets_lambda_per_parameter(method):
    inputs = random_vectors(2, ((40, 30), (16, 8)))
    plain = speechmerge.merge(inputs, method=method, lambda_=1)
    policy = {"type": "per_module", "default": 1.0, "overrides": {"p1": 0.25}}
    found = speechmerge.merge(inputs, method=method, lambda_policy=policy)
    for name, scale in (("p0", 1.0), ("p1", 0.25)):
        np.testing.assert_allclose(values(found, name), scale * values(plain, name), rtol=1e-6)


# on adapters and models as they are stored

@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """(base, two PEFT adapters of different rank and scaling, two full models), as folders."""
    from adapters import load_base, make_adapter, make_base

    folder = tmp_path_factory.mktemp("elementwise")
    base = make_base(folder / "base")
    adapters = [make_adapter(base, folder / "a", seed=1),
                make_adapter(base, folder / "b", seed=2, r=6, use_rslora=True)]
    models = []
    for seed, name in enumerate(("c", "d")):
        model = load_base(base)
        random = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.data += 0.01 * torch.randn(parameter.shape, generator=random)
        model.save_pretrained(folder / name)
        models.append(folder / name)
    return base, adapters, models


def stored_deltas(base, folders, names):
    from adapters import load_base, merged_weights

    if (folders[0] / "adapter_config.json").is_file():
        found = [merged_weights(base, folder) for folder in folders]
    else:
        start, tuned = load_base(base).state_dict(), [load_base(folder).state_dict() for folder in folders]
        found = [{name: one[name] - start[name] for name in names} for one in tuned]
    return np.stack([np.concatenate([one[name].double().numpy().reshape(-1) for name in names]) for one in found])


@pytest.mark.parametrize("kind", ["adapters", "models"])
def test_ties_of_stored_adapters_and_models(kind, stored):
    base, adapters, models = stored
    folders = adapters if kind == "adapters" else models
    merged = speechmerge.merge(folders, method="ties", k=20, lambda_=0.7, base=base)
    rows = stored_deltas(base, folders, sorted(merged.deltas))
    expected = 0.7 * ties_transcription(rows.astype(np.float32), 20)
    found = values(merged).astype(np.float64)
    # PEFT computes B A in another order, so that values at the threshold or of sums near 0 may fall to the other side
    different = ~np.isclose(found, expected, rtol=1e-3, atol=1e-6)
    assert different.mean() < 1e-3 and np.count_nonzero(found) > 0.2 * len(found)


@pytest.mark.parametrize("method", ["ties", "dare_ties", "della", "breadcrumbs", "pcb", "consensus", "emr",
                                    "tall_mask"])
def test_every_method_is_saved_as_lora_and_as_a_full_model(method, stored, tmp_path):
    from adapters import load_base, peft_model
    from safetensors.torch import load_file

    base, adapters, models = stored
    merged = speechmerge.merge(adapters, method=method, base=base)
    merged.save(tmp_path / "lora", base=base)
    weights = peft_model(base, tmp_path / "lora").merge_and_unload().state_dict()
    start = load_base(base).state_dict()
    for name, delta in merged.deltas.items():
        torch.testing.assert_close(weights[name] - start[name], delta.dense(), atol=1e-5, rtol=1e-4)
    merged = speechmerge.merge(models, method=method, base=base)
    merged.save(tmp_path / "full", as_="full")
    weights = load_file(tmp_path / "full" / "model.safetensors")
    for name, delta in merged.deltas.items():
        torch.testing.assert_close(weights[name], start[name] + delta.dense(), atol=1e-7, rtol=1e-6)
    assert (tmp_path / "full" / "masks.safetensors").exists() == (method in ("emr", "tall_mask"))
