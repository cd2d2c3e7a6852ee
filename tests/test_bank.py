"""The adapter bank against weights that PEFT or the merge itself has merged."""
import pytest
import torch
from adapters import batch, load_base, logits, make_adapter, peft_model
from tiny import tiny_whisper

import speechmerge
from speechmerge.bank import AdapterBank, Coefficients
from speechmerge.bank.layers import Mixed
from speechmerge.errors import SpeechMergeError

KINDS = {  # ranks, scalings and target modules of their own
    "plain": {}, "rank 8, rsLoRA": {"r": 8, "use_rslora": True}, "attention of the encoder": {"target_modules": r".*encoder.*(k|v)_proj"},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_whisper(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapters(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    return [make_adapter(base, folder / str(seed), seed=seed, **config) for seed, config in enumerate(KINDS.values())]


def names(adapters):
    return [path.name for path in adapters]


def close(found, expected, tolerance=1e-5):
    assert (found - expected).norm() <= tolerance * expected.norm()


def merged_logits(base, adapters, weights):
    """A model whose weights are base + sum of weights[i] * adapter i."""
    total = sum((weight * speechmerge.merge([path], base=base) for path, weight in zip(adapters[1:], weights[1:])),
                weights[0] * speechmerge.merge([adapters[0]], base=base))
    model = load_base(base)
    with total.applied(model):
        return logits(model)


def test_one_adapter_is_what_peft_computes(base, adapters):
    model = load_base(base)
    bank = AdapterBank(model, adapters, names(adapters))
    before = logits(load_base(base))
    for path in adapters:
        with bank.using(bank.one(path.name)):
            close(logits(model), logits(peft_model(base, path)))
    assert torch.equal(logits(model), before)
    bank.remove()
    assert torch.equal(logits(model), before)


def test_a_mix_is_the_merged_model(base, adapters, tmp_path):
    weights = [0.7, -0.4, 1.3]
    model = load_base(base)
    bank = AdapterBank(model, adapters, names(adapters))
    expected = merged_logits(base, adapters, weights)
    with bank.using(Coefficients.per_task(weights)):
        close(logits(model), expected)
    bank.merged(Coefficients.per_task(weights)).save(tmp_path / "mix")
    close(logits(peft_model(base, tmp_path / "mix")), expected)


@pytest.mark.parametrize("group_by", ["module", "block"])
def test_layers_have_coefficients_of_their_own(base, adapters, group_by, tmp_path):
    model = load_base(base)
    bank = AdapterBank(model, adapters, names(adapters), group_by=group_by)
    assert len(bank.groups) == (4 if group_by == "block" else len({name.rpartition(".")[0] for name in bank.parameters}))
    mix = Coefficients.per_layer(torch.rand(len(bank.groups), 3, generator=torch.Generator().manual_seed(0)))
    with bank.merged(mix).applied(other := load_base(base)):
        expected = logits(other)
    with bank.using(mix):
        close(logits(model), expected)
    with bank.using(Coefficients.per_utterance_and_layer(mix.values.expand(2, -1, -1))):
        close(logits(model), expected)


def test_every_utterance_its_own_mix(base, adapters):
    model = load_base(base)
    bank = AdapterBank(model, adapters, names(adapters))
    rows = torch.tensor([[1.0, 0, 0], [0.2, 0.5, -0.3]])
    with bank.using(Coefficients.per_utterance(rows)):
        found = logits(model)
    for index, row in enumerate(rows):
        close(found[index], merged_logits(base, adapters, row.tolist())[index])
    with bank.using(Coefficients.per_frame(rows[:, None].expand(2, 100, 3))):  # the same at all frames
        close(logits(model), found)


def test_frames_have_a_mix_of_their_own(base, tmp_path):
    """fc1 of one encoder layer alone: each position then shows its own coefficient."""
    path = make_adapter(base, tmp_path / "a", target_modules=["encoder.layers.0.fc1"])
    model = load_base(base)
    layer, seen = model.model.encoder.layers[0].fc1, {}
    bank = AdapterBank(model, [path], ["a"])
    layer.register_forward_hook(lambda module, inputs, output: seen.update(x=inputs[0], y=output))
    values = torch.rand(2, 100, 1)
    with bank.using(Coefficients.per_frame(values)):
        logits(model)
    delta = next(iter(bank.vectors["a"].deltas.values())).dense()
    expected = torch.nn.functional.linear(seen["x"], layer.weight, layer.bias) + values * (seen["x"] @ delta.T)
    close(seen["y"], expected)


@pytest.mark.parametrize("config", [{"use_dora": True}, {"modules_to_save": ["layer_norm"]}, {"target_modules": ["conv1", "fc1"]},
                                    {"bias": "all"}, {"modules_to_save": ["embed_positions", "embed_tokens"]}],
                         ids=["DoRA", "norms", "convolution", "biases", "embeddings"])
@pytest.mark.parametrize("keep", [True, False])
def test_dense_changes(base, adapters, tmp_path, config, keep):
    path = make_adapter(base, tmp_path / "dense", seed=9, **config)
    both, model = [path, adapters[1]], load_base(base)
    bank = AdapterBank(model, both, base=base, names=["dense", "other"], keep_dense=keep)
    rows = [[1.0, 0.0], [0.4, 0.6]]
    expected = []
    for row in rows:
        with bank.merged(Coefficients.per_task(row)).applied(other := load_base(base)):
            expected.append(logits(other))
        with bank.using(Coefficients.per_task(row)):
            close(logits(model), expected[-1], 2e-5)
    with bank.using(Coefficients.per_utterance(rows)):
        found = logits(model)
    for index in range(2):
        close(found[index], expected[index][index], 2e-5)


def test_full_models(base, tmp_path):
    tuned = load_base(base)
    with torch.no_grad():
        for index, parameter in enumerate(tuned.parameters()):
            parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
    tuned.save_pretrained(tmp_path / "tuned")
    model = load_base(base)
    bank = AdapterBank(model, [tmp_path / "tuned"], ["tuned"], base=base)
    with bank.using(Coefficients.per_task([1.0])):
        close(logits(model), logits(tuned), 2e-5)


def test_beams_carry_their_utterance(base, tmp_path):
    """Generation of a mixed batch equals one by one, token for token."""
    from transformers import GenerationMixin
    adapters = [make_adapter(base, tmp_path / str(seed), seed=seed, size=0.5) for seed in range(2)]
    model = load_base(base)
    bank = AdapterBank(model, adapters, names(adapters))
    rows, features = torch.tensor([[1.0, 0], [0, 1.0]]), batch()[0]

    def generate(features, rows):
        with bank.using(Coefficients.per_utterance(rows)), torch.no_grad():
            encoded = model.model.encoder(features)
            ids = torch.full((len(features), 1), model.config.decoder_start_token_id)
            return GenerationMixin.generate(model, encoder_outputs=encoded, decoder_input_ids=ids, num_beams=3, max_length=12,
                                            attention_mask=torch.ones(encoded[0].shape[:2]))

    together = generate(features, rows)
    for index in range(2):
        alone = generate(features[index : index + 1], rows[index : index + 1])[0]
        assert together[index][: len(alone)].tolist() == alone.tolist()
    assert together[0].tolist() != together[1].tolist()


def test_gradients_against_finite_differences(base, adapters):
    model = load_base(base).double()
    bank = AdapterBank(model, adapters, names(adapters), group_by="block")
    features, ids = batch()

    def loss(values):
        with bank.using(Coefficients.per_layer(values)):
            return model(input_features=features.double(), decoder_input_ids=ids).logits.pow(2).mean()

    values = torch.rand(len(bank.groups), 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (values,), eps=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kind", ["layer", "utterance"])
def test_gradients_are_those_of_merged_weights(base, adapters, kind):
    """Against autograd through base + sum of c B A, made for torch.func.functional_call."""
    from torch.func import functional_call

    model = load_base(base).requires_grad_(False)
    bank = AdapterBank(model, adapters, names(adapters))
    features, ids = batch()
    shape = (len(bank.groups), 3) if kind == "layer" else (2, 3)
    values = torch.rand(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with bank.using(Coefficients(values, kind)):
        loss = model(input_features=features, decoder_input_ids=ids).logits.pow(2).mean()
        [found] = torch.autograd.grad(loss, values)

    def changed(row, name):
        parts = [c * v.deltas[name].dense() for c, v in zip(row, bank.vectors.values()) if name in v.deltas]
        return model.get_parameter(name) + sum(parts)

    def loss_of(utterance):
        weights = {n: changed(values[bank.group_of[n]] if kind == "layer" else values[utterance], n) for n in bank.parameters}
        inputs = {"input_features": features[utterance : utterance + 1], "decoder_input_ids": ids[utterance : utterance + 1]}
        return functional_call(model, weights, (), inputs).logits.pow(2).mean()

    [expected] = torch.autograd.grad((loss_of(0) + loss_of(1)) / 2, values)
    close(found, expected, 2e-5)


def test_a_base_that_learns_beside_gets_its_gradients(base, adapters):
    model, grown = load_base(base), {}
    bank = AdapterBank(model, adapters, names(adapters))
    weight = model.model.encoder.layers[0].fc1.weight
    for frozen in (False, True):
        model.requires_grad_(not frozen)
        weight.requires_grad_(True)
        with bank.using(Coefficients.per_task([0.5, 0.5, 0.5])):
            out = model(input_features=batch()[0], decoder_input_ids=batch()[1]).logits
            [grown[frozen]] = torch.autograd.grad(out.pow(2).mean(), weight)
    close(grown[True], grown[False])


def test_autocast_chooses_the_type(base, adapters):
    model = load_base(base).requires_grad_(False)
    bank = AdapterBank(model, adapters, names(adapters))
    layer = model.model.encoder.layers[0].fc1
    x = torch.randn(2, 5, layer.in_features)
    with bank.using(Coefficients.per_task([1.0, 1.0, 1.0])):
        exact = layer(x)
        with torch.autocast("cpu", torch.bfloat16):
            found = layer(x)
    assert exact.dtype == torch.float32 and found.dtype == torch.bfloat16
    close(found.float(), exact, 2e-2)


def test_two_banks_and_a_copy(base, adapters):
    """The changes of both add up, in whatever order they leave; a copy of the model has its own weights."""
    import copy

    model = load_base(base)
    plain, one = logits(model), speechmerge.merge([adapters[0]], base=base)
    first, second = (AdapterBank(model, [path], ["own"]) for path in adapters[:2])
    with (one + speechmerge.merge([adapters[1]], base=base)).applied(other := load_base(base)):
        both = logits(other)
    with first.using(first.one("own")), second.using(second.one("own")):
        close(logits(model), both)
        copied = copy.deepcopy(model)
        with torch.no_grad():
            copied.model.encoder.layers[0].fc1.weight.zero_()
        assert not torch.allclose(logits(copied), both, rtol=1e-3)
        close(logits(model), both)
    first.remove()
    with second.using(second.one("own")):
        close(logits(model), logits(peft_model(base, adapters[1])))
    second.remove()
    assert torch.equal(logits(model), plain)


def test_adapters_come_and_go(base, adapters):
    model = load_base(base)
    bank = AdapterBank(model, adapters[:1], ["a"])
    assert bank.add(adapters[1], "b") == "b" and bank.names == ["a", "b"]
    with bank.using(Coefficients.per_task([0, 1.0])):
        close(logits(model), logits(peft_model(base, adapters[1])))
    bank.drop("a")
    with bank.using(bank.one("b")):
        close(logits(model), logits(peft_model(base, adapters[1])))
    with pytest.raises(SpeechMergeError, match="no adapter 'a'"):
        bank.drop("a")
    with pytest.raises(SpeechMergeError, match="two adapters are called 'b'"):
        bank.add(adapters[0], "b")


def test_coefficients_that_do_not_fit(base, adapters):
    model = load_base(base)
    bank = AdapterBank(model, adapters, names(adapters))
    for wrong, words in ((Coefficients.per_task([1.0]), "1 in the last axis, the bank has 3"),
                         (Coefficients.per_layer(torch.ones(2, 3)), "2 layers, the bank has")):
        with pytest.raises(SpeechMergeError, match=words), bank.using(wrong):
            pass
    with pytest.raises(SpeechMergeError, match="NaN"):
        Coefficients.per_task([float("nan"), 0, 0])
    with pytest.raises(SpeechMergeError, match="coefficients of 3 utterances, but the batch has 2"), \
            bank.using(Coefficients.per_utterance(torch.ones(3, 3))):
        logits(model)


def test_adapters_of_another_base_or_shape(base, adapters, tmp_path):
    wide = tiny_whisper(tmp_path / "wide", d_model=64)
    with pytest.raises(SpeechMergeError, match="shape"):
        AdapterBank(load_base(base), [make_adapter(wide, tmp_path / "a")], ["a"])


@pytest.mark.parametrize("transposed", [False, True])
def test_the_output_of_a_layer_may_be_changed_in_place(transposed):
    """As fairseq's attentions do with their queries; inputs may be views of any order."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(5, 2, 4, generator=draw, dtype=torch.float64).requires_grad_()
    c = torch.tensor([0.3, -0.2, 0.3], dtype=torch.float64).requires_grad_()
    weight, bias, A, B = (torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in ((6, 4), (6,), (3, 4), (6, 3)))
    seen = x.transpose(0, 1) if transposed else x

    def loss(y):
        y *= 0.5
        return y.pow(2).sum()

    ours = torch.autograd.grad(loss(Mixed.apply(seen, c, weight, bias, A, B)), [x, c])
    theirs = torch.autograd.grad(loss(seen @ (weight + B @ torch.diag(c) @ A).T + bias), [x, c])
    for mine, reference in zip(ours, theirs):
        torch.testing.assert_close(mine, reference)
