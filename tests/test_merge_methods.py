"""Every method against golden values, invariants and an independent float64 transcription of TIES."""
import subprocess
import sys

import numpy as np
import pytest
import torch

import speechmerge
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.merge import METHODS
from speechmerge.merge.base import Base
from speechmerge.merge.delta import Dense, LowRank
from speechmerge.merge.method import Elementwise
from speechmerge.merge.task_vector import TaskVector

BASE = Base("base", "f" * 64)
# parameters with which n equal adapters must give that adapter back
IDENTITY = {
    "uniform": {},
    "uniform_delta": {},
    "weighted": "coefficients",
    "weighted_delta": "coefficients",
    "weighted_delta_n": "coefficients",
    "task_vector": "scale",
    "task_arithmetic": "scale",
    "uniform_scalar_delta": "scale",
    "cat": "weights",
    "ties": {"k": 100},
    "dare": {"drop_rate": 0},
    "dare_ties": {"drop_rate": 0},
}


def dense(rows, **about):
    return TaskVector({"w": Dense(torch.tensor(rows))}, BASE, **about)


def lora(seed, shapes=((20, 24), (16, 12)), rank=3, name=None):
    generator = torch.Generator().manual_seed(seed)
    deltas = {
        f"{'xyz'[i]}.weight": LowRank(
            torch.randn(m, rank, generator=generator), torch.randn(rank, n, generator=generator), 0.7
        )
        for i, (m, n) in enumerate(shapes)
    }
    return TaskVector(deltas, BASE, details={"name": name or f"t{seed}"})


def flat(vector):
    return torch.cat([vector.deltas[name].dense().reshape(-1) for name in sorted(vector.deltas)])


def identity_params(method, count):
    kind = IDENTITY[method]
    if kind == "scale":
        return {"scale": 1 / count}
    return kind if isinstance(kind, dict) else {kind: [1 / count] * count}


def ties_transcription(vectors, k, scale):
    """The paper's algorithm 1 in float64 numpy on flattened vectors, with exactly floor(k% N) elements kept."""
    vectors = np.stack([flat(vector).double().numpy() for vector in vectors])
    keep = int(vectors.shape[1] * k / 100)
    trimmed = np.zeros_like(vectors)
    for row, vector in enumerate(vectors):
        chosen = np.argsort(-np.abs(vector), kind="stable")[:keep]
        trimmed[row, chosen] = vector[chosen]
    gamma = np.sign(trimmed.sum(0))
    gamma[gamma == 0] = np.sign(gamma.sum())
    agrees = (np.sign(trimmed) == gamma) & (trimmed != 0)
    return scale * (trimmed * agrees).sum(0) / np.maximum(agrees.sum(0), 1)


def test_every_method_has_an_identity_test():
    assert set(METHODS.names()) >= set(IDENTITY)
    for name in METHODS.names():
        assert METHODS.get(name).__doc__ and all(parameter.help for parameter in METHODS.get(name).parameters)


def test_golden_ties():
    rows = [[.9, -.1, .4, 0, -.5], [-.8, .2, .3, .6, -.4], [.2, -.7, .1, -.5, .05]]
    merged = speechmerge.merge([dense(row) for row in rows], method="ties", k=40)
    assert flat(merged).tolist() == pytest.approx([.9, -.7, 0, .6, -.5])
    halved = speechmerge.merge([dense(row) for row in rows], method="ties", k=40, lambda_=0.5)
    assert flat(halved).tolist() == pytest.approx([.45, -.35, 0, .3, -.25])


def test_ties_gives_elements_that_cancel_to_the_majority():
    rows = [[1.0, 2.0, 3.0, -1.0], [-1.0, 2.0, 3.0, -1.0]]
    assert flat(speechmerge.merge([dense(row) for row in rows], method="ties", k=100)).tolist() == [1.0, 2.0, 3.0, -1.0]
    negative = [[-value for value in row] for row in rows]
    assert flat(speechmerge.merge([dense(row) for row in negative], method="ties", k=100)).tolist() == [
        -1.0,
        -2.0,
        -3.0,
        1.0,
    ]
    assert flat(speechmerge.merge([dense([1.0]), dense([-1.0])], method="ties", k=100)).tolist() == [0.0]


@pytest.mark.parametrize("k", [1, 20, 50, 100])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_ties_against_the_transcription(k, count):
    vectors = [lora(seed) for seed in range(count)]
    merged = speechmerge.merge(vectors, method="ties", k=k, lambda_=0.8)
    np.testing.assert_allclose(flat(merged).double().numpy(), ties_transcription(vectors, k, 0.8), atol=1e-6)


def test_ties_trims_over_all_parameters_or_each_alone():
    small = TaskVector(
        {"a.weight": Dense(torch.tensor([[1.0, 2.0]])), "b.weight": Dense(torch.tensor([[10.0, 20.0]]))}, BASE
    )
    together = speechmerge.merge([small], method="ties", k=50)
    apart = speechmerge.merge([small], method="ties", k=50, trim="tensor")
    assert flat(together).tolist() == [0, 0, 10, 20]
    assert flat(apart).tolist() == [0, 2, 0, 20]


@pytest.mark.parametrize("method", sorted(IDENTITY))
@pytest.mark.parametrize("count", [1, 3])
def test_equal_adapters_give_that_adapter(method, count):
    adapter = lora(0)
    merged = speechmerge.merge([adapter] * count, method=method, **identity_params(method, count))
    torch.testing.assert_close(flat(merged), flat(adapter), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", sorted(set(IDENTITY) - {"dare", "dare_ties"}))
def test_order_does_not_matter(method):
    vectors = [lora(seed) for seed in range(3)]
    params = identity_params(method, 3)
    torch.testing.assert_close(flat(speechmerge.merge(vectors, method=method, **params)),
                               flat(speechmerge.merge(vectors[::-1], method=method, **params)), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("method", ["dare", "dare_ties"])
def test_dare_does_not_depend_on_the_order_of_adapters(method):
    vectors = [lora(seed) for seed in range(3)]
    torch.testing.assert_close(
        flat(speechmerge.merge(vectors, method=method)), flat(speechmerge.merge(vectors[::-1], method=method))
    )


@pytest.mark.parametrize(
    "method,params",
    [("task_vector", {"scale": 0}), ("ties", {"lambda": 0}), ("ties", {"k": 0}), ("cat", {"weights": [0, 0]})],
)
def test_scale_zero_is_the_base(method, params):
    assert not flat(speechmerge.merge([lora(0), lora(1)], method=method, **params)).any()


def test_weighted_mixes_two_by_lambda_and_many_by_coefficients():
    vectors = [lora(seed) for seed in range(3)]
    first, second, third = map(flat, vectors)
    torch.testing.assert_close(
        flat(speechmerge.merge(vectors[:2], method="weighted", lambda_=0.3)), 0.3 * first + 0.7 * second
    )
    merged = speechmerge.merge(
        vectors, method="weighted_delta_n", coefficients=[0.2, -0.1, 2], allow_negative_coefficients=True
    )
    torch.testing.assert_close(flat(merged), 0.2 * first - 0.1 * second + 2 * third)


def test_a_second_call_with_other_weights_computes_again():
    vectors = [lora(0), lora(1)]
    results = [flat(speechmerge.merge(vectors, method="weighted", lambda_=value)) for value in (0.2, 0.8, 0.2)]
    assert torch.equal(results[0], results[2]) and not torch.allclose(results[0], results[1])


@pytest.mark.parametrize("method", [name for name in sorted(IDENTITY) if name not in ("ties", "dare", "dare_ties")])
def test_linear_methods_stay_in_factor_space(method):
    merged = speechmerge.merge([lora(0), lora(1)], method=method, **identity_params(method, 2))
    assert all(isinstance(delta, LowRank) for delta in merged.deltas.values())


@pytest.mark.parametrize("method,params", [("ties", {"k": 20}), ("uniform", {}), ("dare", {})])
def test_gauge_invariance(method, params):
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)))
    plain = [lora(0), lora(1)]
    turned = [
        TaskVector(
            {name: LowRank(delta.B @ turn, turn.T @ delta.A, delta.scale) for name, delta in vector.deltas.items()},
            BASE,
            details=vector.details,
        )
        for vector in plain
    ]
    torch.testing.assert_close(flat(speechmerge.merge(turned, method=method, **params)),
                               flat(speechmerge.merge(plain, method=method, **params)), atol=2e-5, rtol=1e-4)


def test_dare_keeps_the_expectation_and_has_the_known_variance():
    adapter = TaskVector({"w": Dense(torch.full((400, 500), 2.0))}, BASE, details={"name": "a"})
    values = flat(speechmerge.merge([adapter], method="dare", drop_rate=0.9))
    assert values.mean().item() == pytest.approx(2, abs=0.04)  # standard error 0.0134
    assert values.var().item() == pytest.approx(4 * 0.9 / 0.1, rel=0.02)
    assert values.unique().tolist() == pytest.approx([0, 20])


def test_dare_depends_on_seed_and_names_only():
    pair = [lora(0), lora(1)]
    first = flat(speechmerge.merge(pair, method="dare", seed=1))
    assert torch.equal(first, flat(speechmerge.merge(pair, method="dare", seed=1)))
    assert not torch.equal(first, flat(speechmerge.merge(pair, method="dare", seed=2)))
    twins = flat(speechmerge.merge([lora(0, name="a"), lora(0, name="a")], method="dare"))
    assert not torch.allclose(twins, flat(speechmerge.merge([lora(0, name="a")], method="dare")))  # masks of their own


@pytest.mark.parametrize("method,params,message", [
    ("ties", {"densty": 0.2}, "unknown parameter 'densty'.*known: k, lambda, trim"),
    ("ties", {"lamda": 1}, "did you mean 'lambda'"),
    ("ties", {"k": 101}, "k: found 101, expected number, 0 <= k <= 100"),
    ("ties", {"k": "many"}, "k: found 'many'"),
    ("ties", {"k": float("nan")}, "k: found nan"),
    ("ties", {"trim": "rows"}, "expected all | tensor"),
    ("tise", {}, "unknown method 'tise'; did you mean 'ties'"),
    ("dare", {"drop_rate": 1}, "drop_rate: found 1"),
    ("dare", {"seed": 1.5}, "seed: found 1.5, expected integer"),
    ("weighted", {}, "give either lambda"),
    ("weighted", {"lambda": 0.5, "coefficients": [1, 2]}, "give either lambda"),
    ("weighted", {"lambda": 1.5}, "lambda: found 1.5"),
    ("weighted", {"coefficients": [1]}, "coefficients has 1 numbers, expected 2"),
    ("weighted", {"coefficients": [1, -1]}, "-1 is negative; set allow_negative_coefficients"),
    ("weighted_delta_n", {}, "'coefficients' is required"),
    ("weighted_delta_n", {"coefficients": [1, 2, 3]}, "has 3 numbers, expected 2"),
    ("cat", {"weights": [1.0]}, "weights has 1 numbers, expected 2"),
    ("uniform", {"scale": 1}, "unknown parameter 'scale'; known: lambda, mode"),
])
def test_wrong_parameters_are_refused_by_name(method, params, message):
    with pytest.raises(UsageError, match=message.replace("|", r"\|")):
        speechmerge.merge([lora(0), lora(1)], method=method, **params)


def test_lambda_is_for_two():
    with pytest.raises(UsageError, match="lambda is for two adapters, found 3"):
        speechmerge.merge([lora(0), lora(1), lora(2)], method="weighted", lambda_=0.5)
    with pytest.raises(UsageError, match="expected a list"):
        speechmerge.merge([], method="uniform")


def test_parameters_that_not_all_share():
    more = lora(1, shapes=((20, 24), (16, 12), (8, 8)), name="kws")
    merged = speechmerge.merge([lora(0), more], method="uniform")
    assert sorted(merged.deltas) == ["x.weight", "y.weight"] and merged.details["left_out"] == {"kws": ["z.weight"]}
    with pytest.raises(SpeechMergeError, match="strict.*kws has 1 more: z.weight"):
        speechmerge.merge([lora(0), more], method="uniform", merge_mode="strict")
    other = TaskVector({"q.weight": more.deltas["z.weight"]}, BASE, details={"name": "q"})
    with pytest.raises(SpeechMergeError, match="no parameter is changed by all of t0, q"):
        speechmerge.merge([lora(0), other])
    with pytest.raises(UsageError, match="merge_mode: found 'loose'"):
        speechmerge.merge([lora(0)], merge_mode="loose")


def test_tags_are_short_safe_and_tell_merges_apart():
    a, b, c = (lora(seed, name=name) for seed, name in enumerate(("asr", "emotion", "speaker ver/2")))
    tag = lambda *vectors, **params: speechmerge.merge(list(vectors), **params).details["tag"]
    assert tag(a, b, method="ties") == "ties_k20_l1_asr-emotion"
    tags = [
        tag(a, b, method="ties"),
        tag(a, b, method="ties", k=10),
        tag(a, b, method="ties", trim="tensor"),
        tag(a, c, method="ties"),
        tag(a, b, method="weighted", lambda_=0.5),
        tag(b, a, method="weighted", lambda_=0.5),
        tag(a, b, method="weighted", lambda_=0.50000001),
        tag(a, b, method="dare"),
        tag(a, b, method="dare", seed=1),
        tag(*[a, b, c] * 6, method="uniform"),
        tag(a, a, method="uniform"),
    ]
    assert len(set(tags)) == len(tags)
    assert all(
        len(tag) <= 80 and not set(tag) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-")
        for tag in tags
    )


def test_a_method_can_come_from_outside():
    @METHODS.register("median_of_test")
    class Median(Elementwise):
        """Element-wise median."""

        def combine(self, block, tensors):
            return torch.stack(tensors).median(0).values

    merged = speechmerge.merge([dense([1.0, 5.0]), dense([2.0, -5.0]), dense([9.0, 0.0])], method="median_of_test")
    assert flat(merged).tolist() == [2.0, 0.0]


def test_importing_and_listing_need_no_torch():
    code = "import sys; from speechmerge.merge import METHODS; METHODS.names(); sys.exit('torch' in sys.modules)"
    assert callable(speechmerge.merge) and subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_coefficients_by_name_of_the_adapter():
    rule = METHODS.get("weighted")
    named = {"coefficients": {"emotion": 0.2, "asr": 0.7, "kws": 0.1}}
    assert rule("weighted", ["asr", "emotion"], named).coefficients("w") == [0.7, 0.2]
    with pytest.raises(UsageError, match="coefficients says nothing of 'emotoin'; did you mean 'emotion'"):
        rule("weighted", ["asr", "emotoin"], named)
