"""Lambda policies, transforms and the places of parameters: against numbers computed by hand or densely."""
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from adapters import make_adapter, make_base

import speechmerge
from speechmerge.blocks import block_of, depths, indices
from speechmerge.errors import UsageError
from speechmerge.merge.compute import Tensors, computing
from speechmerge.merge.delta import Dense, LowRank
from speechmerge.merge.parameters import Parameter
from speechmerge.merge.policies import make_policy, policy_of
from speechmerge.merge.registry import POLICIES, TRANSFORMS
from speechmerge.merge.task_vector import TaskVector
from speechmerge.merge.transforms import make_transforms

MODULES = ("self_attn.q_proj", "self_attn.v_proj", "fc1", "fc2")
NAMES = [f"model.{part}.layers.{index}.{module}.weight"
         for part, depth in (("encoder", 4), ("decoder", 2)) for index in range(depth) for module in MODULES]
NAMES += ["model.encoder.conv1.weight", "proj_out.weight"]
LAMBDA = Parameter("lambda", float, 1.0, "scale", low=0, high=1)
COEFFICIENTS = Parameter("coefficients", "floats", None, "one per adapter", high=2)


def method(parameter=LAMBDA, own=0.7, labels=("asr", "kws")):
    return SimpleNamespace(name="some", parameters=(parameter,), strength=parameter.name, values={parameter.name: own},
                           labels=list(labels))


def policy(given, names=NAMES, **options):
    return make_policy(given, method(**options), names)


# where parameters lie

@pytest.mark.parametrize("name, place", [
    ("model.encoder.layers.3.self_attn.q_proj.weight", ("encoder", 3)),  # Whisper
    ("model.decoder.layers.11.encoder_attn.out_proj.bias", ("decoder", 11)),
    ("model.encoder.conv1.weight", None),
    ("model.encoder.layer_norm.weight", None),
    ("model.decoder.embed_positions.weight", None),
    ("encoder.blocks.3.attn.query.weight", ("encoder", 3)),  # openai/whisper
    ("hubert.encoder.layers.0.attention.k_proj.weight", ("encoder", 0)),
    ("wavlm.encoder.layers.0.attention.rel_attn_embed.weight", ("encoder", 0)),
    ("wav2vec2.feature_extractor.conv_layers.2.conv.weight", None),
    ("wav2vec2.encoder.pos_conv_embed.conv.weight_g", None),
    ("data2vec_audio.encoder.pos_conv_embed.layers.0.conv.weight", None),
    ("wav2vec2.adapter.layers.0.conv.weight", None),
    ("w2v_encoder.w2v_model.encoder.layers.5.fc1.weight", ("encoder", 5)),  # fairseq
    ("upstream.model.encoder.layers.10.self_attn_layer_norm.bias", ("encoder", 10)),  # s3prl
    ("upstream.model.encoder.pos_conv.0.weight_v", None),
    ("feature_extractor.conv_layers.0.2.weight", None),
    ("encoder.encoders.17.cgmlp.channel_proj1.0.weight", ("encoder", 17)),  # ESPnet
    ("decoder.decoders.2.src_attn.linear_q.weight", ("decoder", 2)),
    ("encoder.embed.conv.0.weight", None),
    ("frontend.upstream.model.encoder.layers.2.fc1.weight", ("frontend", 2)),
    ("audio_tower.layers.31.fc2.bias", ("audio_tower", 31)),  # Qwen2-Audio
    ("audio_tower.conv2.weight", None),
    ("multi_modal_projector.linear.weight", None),
    ("language_model.model.layers.7.mlp.up_proj.weight", ("decoder", 7)),
    ("model.language_model.layers.7.mlp.up_proj.weight", ("decoder", 7)),
    ("thinker.audio_tower.layers.1.fc1.weight", ("audio_tower", 1)),  # Qwen2.5-Omni
    ("thinker.model.layers.9.self_attn.q_proj.weight", ("decoder", 9)),
    ("thinker.visual.blocks.4.attn.q.weight", ("visual", 4)),
    ("talker.model.layers.9.self_attn.q_proj.weight", ("talker", 9)),
    ("model.layers.3.mlp.down_proj.weight", ("", 3)),
    ("base_model.model.model.encoder.layers.3.fc1.lora_A.default.weight", ("encoder", 3)),
    ("bert.encoder.layer.11.output.dense.weight", ("encoder", 11)),
    ("layers.x.weight", None),
    ("model.layers", None),
])
def test_blocks(name, place):
    assert block_of(name) == place


def test_depths_count_blocks_that_are_not_adapted():
    names = ["encoder.layers.2.a", "encoder.layers.5.a", "decoder.layers.0.a", "head.weight"]
    assert indices(names) == {"decoder": [0], "encoder": [2, 5]}
    assert depths(names) == {"decoder": 1, "encoder": 6}


# policies

def test_scalar_and_a_bare_number():
    for given in (0.25, {"type": "scalar", "value": 0.25}):
        found = policy(given)
        assert {found(name) for name in NAMES} == {0.25}


def test_per_layer_encoder_and_decoder_apart():
    found = policy({"type": "per_layer", "default": 0.5,
                    "overrides": {"encoder": {0: 0.2, "1-2": 0.4}, "decoder": {1: 0.8}}})
    expected = {("encoder", 0): 0.2, ("encoder", 1): 0.4, ("encoder", 2): 0.4, ("decoder", 1): 0.8}
    assert {name: found(name) for name in NAMES} == {name: expected.get(block_of(name), 0.5) for name in NAMES}


def test_per_layer_of_all_parts_and_the_methods_own_value():
    found = policy({"type": "per_layer", "overrides": {0: 0.2, "encoder": {"3": 0}}}, own=0.9)
    places = {("encoder", 0): 0.2, ("decoder", 0): 0.2, ("encoder", 3): 0.0}
    assert {name: found(name) for name in NAMES} == {name: places.get(block_of(name), 0.9) for name in NAMES}


def test_per_module():
    found = policy({"type": "per_module", "default": 0.1,
                    "overrides": {"q_proj": 0.8, "fc[12]": 0.2, r"decoder\..*\.v_proj": 0.3}})
    values = {module: {found(name) for name in NAMES if module in name}
              for module in ("q_proj", "fc1", "fc2", "conv1", "proj_out")}
    assert values == {"q_proj": {0.8}, "fc1": {0.2}, "fc2": {0.2}, "conv1": {0.1}, "proj_out": {0.1}}
    assert found("model.decoder.layers.0.self_attn.v_proj.weight") == 0.3
    assert found("model.encoder.layers.0.self_attn.v_proj.weight") == 0.1


def test_per_module_covers_whole_parts_of_the_name():
    with pytest.raises(UsageError, match="proj: matches no merged parameter; .*q_proj"):
        policy({"type": "per_module", "default": 0.1, "overrides": {"proj": 0.8}})


def test_lines_rises_within_each_part():
    found = policy({"type": "lines", "alpha": 0.2, "beta": 0.6})
    expected = {("encoder", 0): 0.2, ("encoder", 1): 0.4, ("encoder", 2): 0.6, ("encoder", 3): 0.8,
                ("decoder", 0): 0.2, ("decoder", 1): 0.8, None: 0.2}
    assert {block_of(name): found(name) for name in NAMES} == pytest.approx(expected)
    assert policy({"type": "lines", "alpha": 0.2, "beta": 0.6},
                  ["encoder.layers.0.x"])("encoder.layers.0.x") == pytest.approx(0.8)


@pytest.mark.parametrize("value, expected", [
    (0.5, [0.5, 0.5]), ([0.1, -0.3], [0.1, -0.3]), ({"kws": 0.1, "asr": 1}, [1, 0.1]),
    ({"kws": 0.1, "asr": 1, "other": 9}, [1, 0.1]),  # what is not merged is left out
])
def test_strengths_with_one_number_per_adapter(value, expected):
    given = {"type": "per_layer", "default": value, "overrides": {"encoder": {0: {"asr": 0, "kws": 1}}}}
    found = policy(given, parameter=COEFFICIENTS, own=None)
    assert found(NAMES[-1]) == expected and found(NAMES[0]) == [0, 1]


def test_lines_of_coefficients_is_the_same_for_all_adapters():
    found = policy({"type": "lines", "alpha": 0.1, "beta": 0.3}, parameter=COEFFICIENTS, own=None)
    assert found("model.encoder.layers.3.fc1.weight") == pytest.approx([0.4, 0.4])


PER_LAYER = {"type": "per_layer", "default": 0.5}


@pytest.mark.parametrize("given, message", [
    ({}, r"lambda_policy.type: missing; known: lines, per_layer"),
    ({"type": "per_laier"}, r"lambda_policy.type: unknown lambda policy 'per_laier'; did you mean 'per_layer'"),
    ({"type": "scalar"}, r"lambda_policy.value: missing"),
    ({"type": "scalar", "valeu": 1}, r"lambda_policy.valeu: unknown key; did you mean 'value'"),
    ({"type": "scalar", "value": 2}, r"lambda_policy.value: found 2, expected number, 0 <= lambda <= 1"),
    ({"type": "scalar", "value": [1, 2]}, r"lambda_policy.value: found \[1, 2\], expected number"),
    ({**PER_LAYER, "overrides": 3}, r"lambda_policy.overrides: found 3, expected a mapping"),
    ({**PER_LAYER, "overrides": {"encoder": 3}}, r"lambda_policy.overrides.encoder: found 3, expected a mapping"),
    ({**PER_LAYER, "overrides": {"encoder": {"x": 1}}},
     r"lambda_policy.overrides.encoder.x: found 'x', expected a block"),
    ({**PER_LAYER, "overrides": {"3-1": 0.2}}, r"lambda_policy.overrides.3-1: the range 3-1 is empty"),
    ({**PER_LAYER, "overrides": {"0-2": 0.2, 2: 0.3}},
     r"lambda_policy.overrides.2: overlaps with lambda_policy.overrides.0-2 in block 2"),
    ({**PER_LAYER, "overrides": {"encoder": {1: 0.2}, 1: 0.3}},
     r"overrides.1: overlaps with lambda_policy.overrides.encoder.1 in block 1"),
    ({**PER_LAYER, "overrides": {"encoder": {0: "a"}}},
     r"lambda_policy.overrides.encoder.0: found 'a', expected number"),
    ({**PER_LAYER, "overrides": {"encoder": {"2-4": 0.1}}},
     r"encoder.2-4: no merged parameter lies in block 4 of 'encoder'; there are "
                                                           r"decoder 0-1; encoder 0-3"),
    ({**PER_LAYER, "overrides": {"audio_tower": {0: 0.1}}},
     r"overrides.audio_tower.0: no merged parameter lies in block 0"),
    ({**PER_LAYER, "overrides": {4: 0.1}}, r"overrides.4: no merged parameter lies in block 4 of any part"),
    ({"type": "per_module", "default": 0.1, "overrides": {"fc[": 1}},
     r"lambda_policy.overrides.fc\[: no regular expression"),
    ({"type": "per_module", "default": 0.1, "overrides": {"fc1": 1, "fc.": 1}},
     r"overrides.fc.: overlaps with lambda_policy.overrides.fc1, both match model"),
    ({"type": "lines", "alpha": 0.1}, r"lambda_policy.beta: missing"),
    ({"type": "lines", "alpha": 0.1, "beta": "x"}, r"lambda_policy.beta: found 'x', expected number"),
    ({"type": "lines", "alpha": 0.5, "beta": 0.7},
     r"lambda_policy at block 1 of decoder: found 1.2, expected number, 0 <= lambda <= 1"),
])
def test_policies_that_cannot_be_meant(given, message):
    with pytest.raises(UsageError, match=message):
        policy(given)


@pytest.mark.parametrize("value, message", [
    ([0.1], r"default: found 1 numbers, expected 2, one for each of asr, kws"),
    ({"asr": 1, "ksw": 1}, r"default: says nothing of 'kws'; did you mean 'ksw'"),
    (5, r"default: found 5, expected one number per adapter"),
    (None, r"default: missing, and the method has no value of its own"),
])
def test_counts_of_strengths(value, message):
    given = {"type": "per_layer", "overrides": {0: 1}, **({} if value is None else {"default": value})}
    with pytest.raises(UsageError, match=message):
        policy(given, parameter=COEFFICIENTS, own=None)


def test_a_method_without_strength():
    with pytest.raises(UsageError, match="method plain has no strength"):
        make_policy(0.5, SimpleNamespace(name="plain", parameters=(), strength=None, values={}, labels=[]), NAMES)


def test_keys_are_texts_so_that_metadata_can_be_sorted():
    from speechmerge.merge.policies import normalised

    assert normalised({**PER_LAYER, "overrides": {0: 0.2, "1-2": 0.4}})["overrides"] == {"0": 0.2, "1-2": 0.4}


def test_every_policy_and_transform_says_what_it_is():
    assert set(POLICIES.names()) == {"scalar", "per_layer", "per_module", "lines", "table"}
    assert set(TRANSFORMS.names()) == {"identity", "layer_l2_normalize", "trim", "truncate"}
    for registry in (POLICIES, TRANSFORMS):
        assert all(registry.get(name).__doc__ for name in registry.names())
    assert policy_of({"type": "per_layer", "overrides": {}}).strengths() == {}


# transforms, against dense computations in numpy

def random_vector(seed=0):
    """Low-rank and dense deltas in two blocks of an encoder, one of a decoder, and outside."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    return TaskVector({
        "encoder.layers.0.fc1.weight": LowRank(draw(24, 3), draw(3, 16), 0.5),
        "encoder.layers.0.fc1.bias": Dense(draw(24)),
        "encoder.layers.1.fc1.weight": LowRank(draw(24, 3), draw(3, 16)), "encoder.conv1.weight": Dense(draw(6, 4, 3)),
        "decoder.layers.1.fc2.weight": Dense(draw(16, 24)), "head.weight": Dense(0.1 * draw(5, 16)),
    }, details={"name": "asr"})


def transformed(vector, *steps):
    with computing(1):
        for transform in make_transforms(list(steps)):
            vector = transform.prepare(vector, Tensors({name: [delta] for name, delta in vector.deltas.items()}))
    return vector


def arrays(vector):
    return {name: delta.dense().double().numpy() for name, delta in vector.deltas.items()}


def assert_equal(found: dict, expected: dict, tolerance=1e-6):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert np.abs(found[name] - array).max() <= tolerance * max(np.abs(array).max(), 1), name


def test_identity():
    vector = random_vector()
    assert transformed(vector, "identity") is vector


@pytest.mark.parametrize("include", [True, False])
def test_layer_l2_normalize(include):
    vector = random_vector()
    step = {"name": "layer_l2_normalize", "params": {"target_norm": 2.5, "include_non_layer_keys": include}}
    before, found = arrays(vector), transformed(vector, step)
    groups = {}
    for name in before:
        groups.setdefault(block_of(name), []).append(name)
    expected = {}
    for block, names in groups.items():
        norm = math.sqrt(sum((before[name] ** 2).sum() for name in names))
        factor = 2.5 / norm if block or include else 1.0
        expected.update({name: before[name] * factor for name in names})
    assert_equal(arrays(found), expected)
    assert isinstance(found.deltas["encoder.layers.0.fc1.weight"], LowRank)
    assert (found.task, found.details, found.base) == (vector.task, vector.details, vector.base)


def test_a_block_that_does_not_change_stays_so():
    vector = TaskVector({"encoder.layers.0.fc1.weight": Dense(torch.zeros(3, 3)),
                         "encoder.layers.1.fc1.weight": Dense(torch.ones(2, 2))})
    found = arrays(transformed(vector, "layer_l2_normalize"))
    assert_equal(found,
                 {"encoder.layers.0.fc1.weight": np.zeros((3, 3)), "encoder.layers.1.fc1.weight": np.full((2, 2), 0.5)})


@pytest.mark.parametrize("scope", ["all", "tensor"])
@pytest.mark.parametrize("k", [0, 7, 30, 100])
def test_trim(k, scope):
    before = {name: array.astype(np.float32) for name, array in arrays(random_vector()).items()}

    def trimmed(names):
        sizes = np.sort(np.concatenate([np.abs(before[name]).reshape(-1) for name in names]))[::-1]
        count = len(sizes) * k // 100
        limit = sizes[count - 1] if count else np.inf
        return {name: np.where(np.abs(before[name]) >= limit, before[name], 0) for name in names}

    groups = [list(before)] if scope == "all" else [[name] for name in before]
    expected = {name: array for group in groups for name, array in trimmed(group).items()}
    found = arrays(transformed(random_vector(), {"name": "trim", "params": {"k": k, "scope": scope}}))
    for name, array in expected.items():
        assert np.array_equal(found[name].astype(np.float32), array), name


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_truncate(rank):
    before, found = arrays(random_vector()), transformed(random_vector(),
                                                         {"name": "truncate", "params": {"rank": rank}})
    expected = {}
    for name, array in before.items():
        U, S, V = np.linalg.svd(array.reshape(array.shape[0], -1), full_matrices=False)
        expected[name] = array if array.ndim == 1 else ((U[:, :rank] * S[:rank]) @ V[:rank]).reshape(array.shape)
    assert_equal(arrays(found), expected, 1e-5)
    low = found.deltas["encoder.layers.0.fc1.weight"]
    assert isinstance(low, LowRank) and low.rank == min(rank, 3) and low.factors()[0].shape == (24, min(rank, 3))
    assert_equal({"x": low.scaled(-2.0).dense().numpy()}, {"x": -2 * expected["encoder.layers.0.fc1.weight"]}, 1e-5)
    assert low.norm() == pytest.approx(np.linalg.norm(expected["encoder.layers.0.fc1.weight"]), rel=1e-5)


def test_a_pipeline_is_applied_in_order():
    trim, normalize = {"name": "trim", "params": {"k": 50}}, "layer_l2_normalize"
    first, second = transformed(random_vector(), trim, normalize), transformed(random_vector(), normalize, trim)
    assert first.norm() == pytest.approx(2.0)  # four groups, three blocks and what lies outside, of norm 1
    assert second.norm() < 1.99
    step_by_step = arrays(transformed(transformed(random_vector(), trim), normalize))
    assert_equal(arrays(first), step_by_step)


@pytest.mark.parametrize("given, message", [
    ("trim", r"transforms: found 'trim', expected a list"),
    ([{"nam": "trim"}], r"transforms\[0\].nam: unknown key; did you mean 'name'"),
    ([{}], r"transforms\[0\].name: missing; known: identity"),
    (["identity", "trimm"], r"transforms\[1\].name: unknown transform 'trimm'; did you mean 'trim'"),
    (["identity", {"name": "layer_l2_normalize", "params": {"target_nrom": 1}}],
     r"transforms\[1\].params.target_nrom: unknown key; did you mean 'target_norm'"),
    ([{"name": "trim", "params": {"k": 101}}], r"transforms\[0\].params.k: found 101, expected number, 0 <= k <= 100"),
    ([{"name": "trim", "params": {"scope": "some"}}],
     r"transforms\[0\].params.scope: found 'some', expected all | tensor"),
    ([{"name": "trim", "params": [1]}], r"transforms\[0\].params: found \[1\], expected a mapping"),
    ([{"name": "truncate"}], r"transforms\[0\].params.rank: missing"),
    ([3], r"transforms\[0\]: found 3, expected a mapping"),
])
def test_transforms_that_cannot_be_meant(given, message):
    with pytest.raises(UsageError, match=message):
        make_transforms(given)


# whole merges of adapters on disk

@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policies")
    base = make_base(folder / "base")
    return [str(make_adapter(base, folder / name, seed=seed)) for seed, name in enumerate(("asr", "kws"))]


def merged(adapters, method, **options):
    return arrays(speechmerge.merge(adapters, method=method, names=["asr", "kws"], **options))


@pytest.fixture(scope="module")
def singles(adapters):
    return [arrays(speechmerge.merge([adapter])) for adapter in adapters]


def test_weighted_per_layer_is_the_weighted_sum_of_each_layer(adapters, singles):
    given = {"type": "per_layer", "default": 0.5, "overrides": {"encoder": {0: 0.2}, "decoder": {1: 1.0}}}
    places = {("encoder", 0): 0.2, ("decoder", 1): 1.0}
    first, second = singles
    expected = {name: (value := places.get(block_of(name), 0.5)) * first[name] + (1 - value) * second[name]
                for name in first}
    assert_equal(merged(adapters, "weighted", lambda_policy=given), expected)


def test_coefficients_per_module(adapters, singles):
    given = {"type": "per_module", "default": [0.5, 0.5],
             "overrides": {"q_proj": {"kws": 0.1, "asr": 0.9}, "fc1": [2, 0]}}
    first, second = singles
    expected = {}
    for name in first:
        one, two = (0.9, 0.1) if "q_proj" in name else (2, 0) if "fc1" in name else (0.5, 0.5)
        expected[name] = one * first[name] + two * second[name]
    assert_equal(merged(adapters, "weighted_delta_n", lambda_policy=given), expected)


def test_ties_with_lines_scales_its_result(adapters):
    plain = merged(adapters, "ties", k=30)
    found = merged(adapters, "ties", k=30, lambda_policy={"type": "lines", "alpha": 0.25, "beta": 0.5})
    assert_equal(found,
                 {name: array * (0.25 + 0.5 * block_of(name)[1]) for name, array in plain.items()})  # two blocks each


def test_a_scalar_policy_is_the_parameter(adapters):
    assert_equal(merged(adapters, "task_vector", lambda_policy=0.3), merged(adapters, "task_vector", scale=0.3), 0)


def test_transforms_before_a_merge(adapters, singles):
    found = merged(adapters, "task_vector",
                   transforms=["layer_l2_normalize", {"name": "truncate", "params": {"rank": 2}}])
    expected = {}
    for single in singles:
        squares = {}
        for name, array in single.items():
            squares[block_of(name)] = squares.get(block_of(name), 0) + (array ** 2).sum()
        for name, array in single.items():
            U, S, V = np.linalg.svd(array / math.sqrt(squares[block_of(name)]), full_matrices=False)
            expected[name] = expected.get(name, 0) + (U[:, :2] * S[:2]) @ V[:2]
    assert_equal(found, expected, 1e-5)


def test_the_saved_merge_has_them_in_its_metadata(adapters, tmp_path):
    given = {"type": "per_layer", "overrides": {"0": 0.2, "1-1": 0.4}, "default": 0.5}
    vector = speechmerge.merge(adapters, method="weighted", lambda_policy=given, transforms=["identity"])
    metadata = vector.save(tmp_path / "merge")
    assert metadata["lambda_policy"] == given and metadata["transforms"] == [{"name": "identity", "params": {}}]
    other = speechmerge.merge(adapters, method="weighted", lambda_policy={**given, "default": 0.4},
                              transforms=["identity"])
    assert metadata["tag"] != other.details["tag"]
