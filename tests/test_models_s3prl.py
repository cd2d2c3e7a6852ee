"""Upstreams with heads: against transformers, PEFT and s3prl themselves, sums over all CTC paths, and other batches."""
import itertools
import math
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import tiny_tones
from tiny_upstream import tiny_upstream
from torch import nn

import speechmerge
from speechmerge.bank import AdapterBank, Coefficients
from speechmerge.blocks import block_of
from speechmerge.data.audio import read_audio
from speechmerge.data.directory import DataDir
from speechmerge.decode import Options, compared, hypotheses
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.files import read_json, write_json
from speechmerge.models import load_model
from speechmerge.models.base import Item
from speechmerge.models.s3prl import ctc, heads, plain
from speechmerge.models.s3prl.network import LengthAwareNorm
from speechmerge.tasks import get_task
from speechmerge.train.options import TrainOptions
from speechmerge.train.run import train

KINDS = [("hubert", False), ("hubert", True), ("wav2vec2", False), ("wav2vec2", True), ("wavlm", False), ("wavlm", True)]
CLASSES = {"hubert": transformers.HubertModel, "wav2vec2": transformers.Wav2Vec2Model, "wavlm": transformers.WavLMModel}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("bases"), {}

    def base(kind="hubert", large=False):
        if (kind, large) not in made:
            made[kind, large] = tiny_upstream(folder / f"{kind}{large}", kind, large)
        return made[kind, large]

    return base


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    tasks = ("kws", "asr", "speaker_ver")
    return {task: DataDir.read(tiny_tones(folder / task, task, n=12)) for task in tasks}


def fitted(base, data, folder, task="kws", **options):
    """Train, and return (a fresh model of the same source, the task, the folder of what was trained)."""
    defaults = {"tuning": "head", "batch_size": 6, "learning_rate": 1e-2, "epochs": 20, "eval_steps": 40, "head_size": 24}
    settings = {"verification": "cosine"} if task == "speaker_ver" else {}
    record = train(load_model(base, device="cpu"), get_task(task).configure(**settings), data[task], data[task],
                   folder / "out", TrainOptions(**{**defaults, **options}), exp_dir=folder / "exp")
    return record, load_model(base, device="cpu"), get_task(task).configure(**settings), folder / "out"


def items(model, task, data, count=12):
    examples = task.examples(data)[:count]
    return [Item(e, model.features(e.audio), model.seconds(e)) for e in examples]


def decoded(model, task, data, folder, **options):
    model.equip(task, folder)
    with model.adapter(folder):
        found = [h for hs in hypotheses(model, task, task.examples(data), task.labels(data), Options(**options)) for h in hs]
    return {h.id: h.text for h in found}, {h.id: h.label for h in found}


# --- the network ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, large", KINDS)
def test_states_are_those_of_transformers(bases, data, kind, large):
    base = bases(kind, large)
    model, plain = load_model(base, device="cpu"), CLASSES[kind].from_pretrained(base).eval()
    assert list(model.core.state_dict()) == list(plain.state_dict())
    path = get_task("kws").examples(data["kws"])[0].audio[0]
    extractor = transformers.AutoFeatureExtractor.from_pretrained(base)
    expected_wave = extractor(read_audio(path, 16000), sampling_rate=16000, return_tensors="pt").input_values
    wave = model.features((path,))
    assert torch.allclose(wave, expected_wave, atol=1e-5)
    with torch.no_grad():
        expected = plain(expected_wave, output_hidden_states=True)
        for weighted in (False, True):
            states, lengths = model.module.body(wave, torch.tensor([wave.shape[1]]), weighted)
            wanted = torch.stack(expected.hidden_states, 1) if weighted else expected.last_hidden_state[:, None]
            assert states.shape == wanted.shape and lengths.tolist() == [wanted.shape[2]]
            assert torch.allclose(states, wanted, atol=1e-5)
    for layer in (-1, 0, 1, 2):
        states, lengths = model.encoder_states({"waves": wave, "lengths": torch.tensor([wave.shape[1]])}, layer)
        wanted = expected.last_hidden_state if layer < 0 else expected.hidden_states[layer]
        assert torch.allclose(states, wanted, atol=1e-5) and lengths.tolist() == [wanted.shape[1]]
    together = {layer: states for layer, states, _ in model.layer_states(
        {"waves": wave, "lengths": torch.tensor([wave.shape[1]])}, [2, -1, 0])}
    assert together.keys() == {2, -1, 0} and all(
        torch.allclose(together[layer], expected.hidden_states[layer] if layer >= 0 else expected.last_hidden_state, atol=1e-5)
        for layer in together)


@pytest.mark.parametrize("kind, large", KINDS)
@pytest.mark.parametrize("training", [False, True])
def test_padding_changes_nothing(bases, data, kind, large, training):
    """In a padded batch every utterance has the states, and the upstream the gradients, of utterances by themselves."""
    model, task = load_model(bases(kind, large), device="cpu"), get_task("kws")
    for part in model.core.modules():
        part.p = 0.0 if isinstance(part, nn.Dropout) else getattr(part, "p", None)
        part.dropout = 0.0 if isinstance(getattr(part, "dropout", None), float) else getattr(part, "dropout", None)
    chosen = items(model, task, data["kws"], 4)
    model.module.requires_grad_(True)
    model.module.train(training)

    def run(batches):
        model.module.zero_grad()
        found = []
        for batch in batches:
            made = model.collate(batch, task)
            states, lengths = model.module.body(made["waves"], made["lengths"], True)
            found += [row[:, :length] for row, length in zip(states, lengths)]
        sum(row.sin().sum() for row in found).backward()
        return found, {name: p.grad for name, p in model.core.named_parameters() if p.grad is not None}

    together, one_gradient = run([chosen])
    apart, other_gradient = run([[item] for item in chosen])
    assert len({row.shape for row in together}) == 4
    assert all(torch.allclose(a, b, atol=2e-5) for a, b in zip(together, apart))
    assert one_gradient.keys() == other_gradient.keys() and len(one_gradient) > 20
    for name, gradient in one_gradient.items():
        assert (gradient - other_gradient[name]).norm() <= 1e-3 * other_gradient[name].norm() + 1e-4, name


def test_norm_over_the_utterance_alone():
    torch.manual_seed(0)
    plain, aware = nn.GroupNorm(4, 4), LengthAwareNorm(4, 4)
    plain.weight.data.normal_(), plain.bias.data.normal_()
    aware.load_state_dict(plain.state_dict())
    values = torch.randn(2, 4, 9) * 3 + 1
    assert torch.equal(aware(values), plain(values))
    aware.lengths = torch.tensor([9, 5])
    found = aware(values)
    assert torch.allclose(found[1, :, :5], plain(values[1:, :, :5])[0], atol=1e-5) and not found[1, :, 5:].any()
    assert torch.allclose(found[0], plain(values)[0], atol=1e-5)


@pytest.mark.parametrize("kind", list(CLASSES))
def test_layers_to_adapt(bases, kind):
    model = load_model(bases(kind), device="cpu")
    every = model.target_modules("all-linear")
    assert {"q_proj", "v_proj", "intermediate_dense", "output_dense", "projection"} <= set(every)
    assert set(model.target_modules("attention")) == {"q_proj", "k_proj", "v_proj", "out_proj"}
    assert all(name.startswith("encoder.layers.") for name in model.target_modules(["encoder"]))
    assert not any(name.startswith("feature_extractor") for name in model.linear_names())
    assert model.target_modules(["q_proj"]) == ["q_proj"]
    with pytest.raises(UsageError, match="q_porj"):
        model.target_modules(["q_porj"])
    name = "encoder.layers.1.attention.k_proj.weight"
    assert model.block_of(name) == block_of(name) == ("encoder", 1)
    assert model.block_of("feature_extractor.conv_layers.0.conv.weight") is None


# --- adapters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(CLASSES))
def test_lora_learns_and_plain_peft_loads_it(bases, data, tmp_path, kind):
    """Every adapted layer was trained, and merged weights compute what the adapter in training did."""
    record, model, task, folder = fitted(bases(kind), data, tmp_path, tuning="lora", rank=4)
    assert record["dev"]["accuracy"] == 1.0
    weights = load_file(folder / "adapter_model.safetensors")
    assert all(tensor.any() for name, tensor in weights.items() if "lora_B" in name), "an adapted layer did not learn"
    assert not any("head" in name for name in weights)
    texts, labels = decoded(model, task, data["kws"], folder)
    assert texts == labels == {u.id: u.labels["keyword"] for u in data["kws"].utterances.values()}
    plain = PeftModel.from_pretrained(CLASSES[kind].from_pretrained(bases(kind)), folder).merge_and_unload().eval()
    wave = items(model, task, data["kws"], 1)[0].features
    model.equip(task, folder)
    with model.adapter(folder), torch.no_grad():
        ours = model.module.eval().body(wave, torch.tensor([wave.shape[1]]), False)[0][:, 0]
        assert torch.allclose(ours, plain(wave).last_hidden_state, atol=1e-5)


def test_wavlm_adapters_are_heard_before_they_are_merged(bases, data):
    """transformers computes WavLM's attention past its linear modules, and so past a LoRA around them."""
    model = load_model(bases("wavlm"), device="cpu")
    config = LoraConfig(r=2, target_modules=["q_proj", "k_proj", "v_proj", "out_proj"], init_lora_weights=False)
    wave = items(model, get_task("kws"), data["kws"], 1)[0].features
    plain = get_peft_model(CLASSES["wavlm"].from_pretrained(bases("wavlm")), config).eval()
    before = CLASSES["wavlm"].from_pretrained(bases("wavlm")).eval()
    model.wrap(config)
    body = model.module.eval().body
    with torch.no_grad():
        assert torch.equal(plain(wave).last_hidden_state, before(wave).last_hidden_state)  # the trap
        ours = body(wave, torch.tensor([wave.shape[1]]), False)[0]
        body.upstream = body.upstream.merge_and_unload()
        merged = body(wave, torch.tensor([wave.shape[1]]), False)[0]
        assert torch.allclose(ours, merged, atol=1e-5)
        assert (ours[:, 0] - before(wave).last_hidden_state).norm() > 0.01 * ours.norm()


@pytest.mark.parametrize("kind", ["hubert", "wavlm"])
def test_bank_is_the_merged_model(bases, data, tmp_path, kind):
    """A mix of two adapters on the bank equals PEFT's merged weights, mixed."""
    base, folders = bases(kind), [tmp_path / "a", tmp_path / "b"]
    for seed, folder in enumerate(folders):
        torch.manual_seed(seed)
        targets = ["q_proj", "out_proj", "output_dense", "projection"]
        made = get_peft_model(CLASSES[kind].from_pretrained(base),
                              LoraConfig(r=2, lora_alpha=4, target_modules=targets, init_lora_weights=False))
        made.peft_config["default"].base_model_name_or_path = str(base)
        made.save_pretrained(folder)
    model = load_model(base, device="cpu")
    wave = items(model, get_task("kws"), data["kws"], 1)[0].features
    start = CLASSES[kind].from_pretrained(base).state_dict()
    mixed = {name: tensor.clone() for name, tensor in start.items()}
    for weight, folder in zip((0.7, -0.4), folders):
        tuned = PeftModel.from_pretrained(CLASSES[kind].from_pretrained(base), folder).merge_and_unload().state_dict()
        for name in mixed:
            mixed[name] += weight * (tuned[name] - start[name])
    plain = CLASSES[kind].from_pretrained(base).eval()
    plain.load_state_dict(mixed)
    bank = AdapterBank(model.core, folders, ["a", "b"])
    with torch.no_grad():
        expected = plain(wave).last_hidden_state
        with bank.using(Coefficients.per_task([0.7, -0.4])):
            found = model.module.eval().body(wave, torch.tensor([wave.shape[1]]), False)[0][:, 0]
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(found, CLASSES[kind].from_pretrained(base).eval()(wave).last_hidden_state, atol=1e-2)


# --- heads ----------------------------------------------------------------------------------------------------------


def spec(kind="mean", symbols=("a", "b", "c"), features="last", **more):
    return heads.HeadSpec(kind, "kws", features, 8, 3, symbols, size=6, **more)


@pytest.mark.parametrize("features", ["last", "weighted"])
@pytest.mark.parametrize("kind", list(heads.HEADS))
def test_heads_do_not_hear_padding_and_come_back(tmp_path, kind, features):
    torch.manual_seed(0)
    head = heads.make_head(spec(kind, features=features)).eval()
    for parameter in head.parameters():
        parameter.data = torch.randn_like(parameter)
    states, lengths = torch.randn(2, 3, 20, 8), torch.tensor([20, 11])
    padded = head(states, lengths).scores
    alone = head(states[1:, :, :11], lengths[1:]).scores[0]
    assert torch.allclose(padded[1, :11] if head.ctc else padded[1], alone, atol=1e-4)
    heads.save_head(head, tmp_path)
    back = heads.read_head(tmp_path, 8, 3)
    assert back.spec == head.spec and torch.equal(back(states, lengths).scores, padded)
    uniform = torch.einsum("l,blfd->bfd", head.weights.softmax(0), states) if features == "weighted" else states[:, 2]
    assert torch.allclose(head.project(states), head.projection(uniform), atol=1e-5)


def test_weights_of_layers_start_equal():
    head = heads.make_head(spec(features="weighted")).eval()
    states = torch.randn(1, 3, 5, 8)
    assert torch.allclose(head.project(states), head.projection(states.mean(1)), atol=1e-6)


def test_amsoftmax_by_hand():
    torch.manual_seed(0)
    head = heads.make_head(spec("xvector")).eval()
    states, lengths = torch.randn(2, 1, 20, 8), torch.tensor([20, 15])
    embedding = head.embed(states, lengths)
    cosines = nn.functional.cosine_similarity(embedding[:, None], head.directions[None], dim=-1)
    output = head(states, lengths)
    assert torch.allclose(output.scores, 30 * cosines, atol=1e-4)
    right, wrong = cosines[0, 1].item() - 0.4, [cosines[0, i].item() for i in (0, 2)]
    expected = -math.log(math.exp(30 * right) / (math.exp(30 * right) + sum(math.exp(30 * c) for c in wrong)))
    one = heads.Output(output.scores[:1], lengths[:1])
    assert head.loss_sum(one, torch.tensor([[1]])).item() == pytest.approx(expected, rel=1e-4)


def paths(scores):
    """Every text of CTC with its log-probability, by trying all paths."""
    found = {}
    for path in itertools.product(range(scores.shape[1]), repeat=len(scores)):
        text = tuple(symbol for symbol, _ in itertools.groupby(path) if symbol != ctc.BLANK)
        probability = math.exp(sum(float(row[symbol]) for row, symbol in zip(scores, path)))
        found[text] = found.get(text, 0.0) + probability
    return found


@pytest.mark.parametrize("seed", range(8))
def test_ctc_against_all_paths(seed):
    torch.manual_seed(seed)
    scores = (1.5 * torch.randn(5, 3)).log_softmax(-1)
    every = paths(scores)
    assert sum(every.values()) == pytest.approx(1, rel=1e-5)
    assert tuple(ctc.beam_search(scores, 50)) == max(every, key=every.get)
    texts = [[1], [1, 1], [2, 1], [1, 2, 1], []]
    found = ctc.text_scores(scores[None], torch.tensor([5]), texts)[0]
    assert found.tolist() == pytest.approx([math.log(every[tuple(text)]) for text in texts], abs=1e-4)
    assert ctc.text_scores(scores[None, :2], torch.tensor([2]), [[1, 1]]).item() == -math.inf
    assert ctc.needed_frames([1, 1]) == 3
    assert ctc.greedy(torch.eye(3)[[0, 1, 1, 0, 1, 2]]) == [1, 1, 2]


def test_a_beam_finds_what_the_best_path_does_not():
    """P(blank) > P(a) in each frame, but most paths spell "a"."""
    scores = torch.tensor([[0.6, 0.4], [0.6, 0.4]]).log()
    assert ctc.greedy(scores) == [] and ctc.beam_search(scores, 1) in ([], [1]) and ctc.beam_search(scores, 4) == [1]


@pytest.mark.parametrize("head", ["mean", "attention", "xvector", "ctc-linear"])
def test_every_head_learns_labels(bases, data, tmp_path, head):
    epochs = 150 if head.startswith("ctc") else 20
    record, model, task, folder = fitted(bases(), data, tmp_path, head=head, features="weighted", epochs=epochs,
                                         eval_steps=2 * epochs)
    right = {u.id: u.labels["keyword"] for u in data["kws"].utterances.values()}
    results = [decoded(model, task, data["kws"], folder, batch_size=size) for size in (1, 5)]
    assert results[0] == results[1] and results[0][1] == right
    if not head.startswith("ctc"):
        assert record["dev"]["accuracy"] == 1.0 and results[0][0] == right
        assert read_json(folder / "head.json")["symbols"] == ["no", "stop", "yes"]


@pytest.mark.slow
@pytest.mark.parametrize("head", ["ctc-linear", "ctc-blstm"])
def test_ctc_learns_to_write(bases, data, tmp_path, head):
    rate = 3e-2 if head == "ctc-linear" else 1e-2
    record, model, task, folder = fitted(bases(), data, tmp_path, "asr", head=head, features="weighted", epochs=150,
                                         eval_steps=300, learning_rate=rate)
    assert record["dev"]["wer"] <= 0.1
    results = [decoded(model, task, data["asr"], folder, num_beams=beams, batch_size=size)[0] for beams, size in
               ((1, 1), (1, 6), (4, 6))]
    assert results[0] == results[1]
    right = {u.id: u.text for u in data["asr"].utterances.values()}
    assert sum(results[2][id] == text for id, text in right.items()) >= 11


def test_words_as_units(bases, data, tmp_path):
    """A phone is a word of the target: `ctc_units` of the task decides."""
    model, task = load_model(bases(), device="cpu"), get_task("asr")
    task.ctc_units = "word"
    examples = task.examples(data["asr"])
    model.build(task, examples, None, TrainOptions(head_size=8))
    assert model.head.spec.symbols == ("no", "stop", "yes") and model.head.spec.units == "word"
    assert model.target_ids("stop  yes no") == [2, 3, 1] and model.text_of([2, 3, 1]) == "stop yes no"


def test_speakers_are_verified_by_their_embedding(bases, data, tmp_path):
    record, model, task, folder = fitted(bases(), data, tmp_path, "speaker_ver", epochs=60, eval_steps=120)
    assert read_json(folder / "head.json")["symbols"] == ["s0", "s1", "s2"] and record["dev"]["eer"] <= 0.1
    model.equip(task, folder)
    examples = task.examples(data["speaker_ver"])
    runs = [[h.score for hs in compared(model, task, examples, Options(batch_size=size)) for h in hs] for size in (1, 7)]
    assert runs[0] == pytest.approx(runs[1], abs=1e-4)
    with pytest.raises(UsageError, match="--verification cosine"):
        model.equip(get_task("speaker_ver"), folder)


def test_slots_are_filled_by_ctc_over_marked_text(bases, tmp_path):
    folder = tiny_tones(tmp_path / "slu", "asr", n=6)
    rows = [f'{line.split()[0]} {{"scenario":"light","action":"{line.split()[1]}","entities":[{{"type":"room",'
            f'"filler":"hall"}}]}}' for line in (folder / "text").read_text().splitlines()]
    (folder / "utt2slu").write_text("\n".join(rows) + "\n")
    data = DataDir.read(folder)
    model, task = load_model(bases(), device="cpu"), get_task("slu")
    task.adapt(model)
    examples = task.examples(data)
    model.build(task, examples, None, TrainOptions(head_size=8))
    written = task.written(examples[0].target)
    assert task.target_format != "json" and not set('{"').intersection(model.head.spec.symbols)
    assert task.parse(model.text_of(model.target_ids(written))) == task.parse(written) == examples[0].target


# --- what goes wrong ------------------------------------------------------------------------------------------------


def test_heads_that_do_not_belong(bases, data, tmp_path):
    _, model, task, folder = fitted(bases(), data, tmp_path, features="weighted", epochs=1)
    other = load_model(tiny_upstream(tmp_path / "wide", width=48), device="cpu")
    with pytest.raises(SpeechMergeError, match="hears 32 channels, this upstream has 48"):
        other.equip(task, folder)
    deep = load_model(tiny_upstream(tmp_path / "deep", layers=3), device="cpu")
    with pytest.raises(SpeechMergeError, match="weights 3 layers, this upstream has 4"):
        deep.equip(task, folder)
    with pytest.raises(SpeechMergeError, match="a head of the task kws, expected intent"):
        model.equip(get_task("intent"), folder)
    model.equip(task, folder)
    batch = model.collate(items(model, task, data["kws"], 2), task)
    with pytest.raises(SpeechMergeError, match="no label 'maybe'"):
        model.score_labels(batch, ["yes", "maybe"])
    model.equip(task, None)
    with pytest.raises(SpeechMergeError, match="no head for this task"):
        model.generate(batch, task)
    with pytest.raises(SpeechMergeError, match="no head.json"):
        model.equip(task, bases())
    weights = load_file(folder / "head.safetensors")
    save_file({**weights, "out.bias": torch.zeros(4)}, folder / "head.safetensors")
    with pytest.raises(SpeechMergeError, match=r"out.bias: found shape \(4,\), head.json asks for \(3,\)"):
        model.equip(task, folder)
    write_json(folder / "head.json", {**read_json(folder / "head.json"), "kind": "meen"})
    with pytest.raises(SpeechMergeError, match="did you mean 'mean'"):
        model.equip(task, folder)


def test_wrong_options(bases, data):
    model, task = load_model(bases(), device="cpu"), get_task("asr")
    for options, words in (({"head": "mean"}, "writes texts"), ({"head": "ctc"}, "ctc-linear")):
        with pytest.raises(UsageError, match=words):
            model.build(task, task.examples(data["asr"]), None, TrainOptions(**options))
    example = task.examples(data["asr"])[0]
    assert model.fits(example, task) is None
    assert "CTC cannot write" in model.fits(replace(example, target="x" * 500), task)
    assert "pair" in model.fits(replace(example, audio=example.audio * 2), task)


def test_a_head_alone_is_nothing_to_merge(bases, data, tmp_path):
    _, _, _, folder = fitted(bases(), data, tmp_path, epochs=1)
    with pytest.raises(SpeechMergeError, match="no weights found"):
        speechmerge.merge([folder], method="interpolate", base=bases())


def test_folders_that_are_not_whole(bases, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(bases(), folder)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(SpeechMergeError, match="no feature extractor .expected preprocessor_config.json"):
        load_model(folder)
    shutil.copy(bases() / "preprocessor_config.json", folder)
    weights = load_file(folder / "model.safetensors")
    weights.pop("encoder.layers.1.attention.q_proj.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SpeechMergeError, match="1 weights are missing, such as encoder.layers.1.attention.q_proj.weight"):
        load_model(folder)


def published(base, folder, form):
    """The same network as other folders have it."""
    plain = transformers.HubertModel.from_pretrained(base)
    if form == "ctc":
        network = transformers.HubertForCTC(transformers.HubertConfig.from_pretrained(base, vocab_size=5))
        network.hubert.load_state_dict(plain.state_dict())
        network.save_pretrained(folder)
    else:
        plain.save_pretrained(folder)
        weights = load_file(folder / "model.safetensors")
        old = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
        for new, name in old.items():
            weights[f"encoder.pos_conv_embed.conv.{name}"] = weights.pop(f"encoder.pos_conv_embed.conv.{new}")
        if form == "pickled":
            torch.save(weights, folder / "pytorch_model.bin")
            (folder / "model.safetensors").unlink()
        else:
            save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    transformers.AutoFeatureExtractor.from_pretrained(base).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("form", ["ctc", "old names", "pickled"])
def test_published_folders_get_a_plain_copy(bases, tmp_path, monkeypatch, form):
    """So that what is fine-tuned has the names of its base, and merging finds them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = published(bases(), tmp_path / "published", form)
    model = load_model(folder, device="cpu")
    assert Path(model.source) == model.path and (tmp_path / "cache") in model.path.parents
    original = transformers.HubertModel.from_pretrained(bases()).state_dict()
    assert all(torch.equal(tensor, original[name]) for name, tensor in model.core.state_dict().items())
    assert set(load_file(model.path / "model.safetensors")) == set(original)
    before = (model.path / "model.safetensors").stat().st_mtime_ns
    again = load_model(folder, device="cpu")
    assert again.path == model.path and (again.path / "model.safetensors").stat().st_mtime_ns == before
    assert load_model(bases(), device="cpu").path == Path(bases())


@pytest.mark.parametrize("has", ["safetensors", "pickled"])
def test_pickled_weights_are_fetched_where_there_are_no_others(tmp_path, monkeypatch, has):
    asked = []

    def from_hub(name, files=("*.safetensors",)):
        asked.append(files)
        wanted = "model.safetensors" if has == "safetensors" else "pytorch_model.bin"
        if has == "safetensors" or "pytorch_model.bin" in files:
            (tmp_path / wanted).touch()
        return tmp_path

    monkeypatch.setattr(plain, "_from_hub", from_hub)
    assert plain.fetched("facebook/hubert-base-ls960") == tmp_path and len(asked) == (1 if has == "safetensors" else 2)
    assert plain.fetched("openai/whisper-base") is None and plain.fetched("s3prl:hubert") is None


# --- upstreams of s3prl ---------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_filterbanks_with_a_head(data, tmp_path):
    """SUPERB's baseline has no weights; its states are those that s3prl computes for one utterance."""
    pytest.importorskip("s3prl")
    record, model, task, folder = fitted("s3prl:fbank", data, tmp_path, epochs=30, eval_steps=60)
    assert record["dev"]["accuracy"] == 1.0 and record["base"]["source"] == "s3prl:fbank"
    results = [decoded(model, task, data["kws"], folder, batch_size=size) for size in (1, 5)]
    assert results[0] == results[1]
    from s3prl.nn import S3PRLUpstream

    item = items(model, task, data["kws"], 1)[0]
    expected, lengths = S3PRLUpstream("fbank").eval()(item.features, torch.tensor([item.features.shape[1]]))
    states, found = model.encode(model.collate([item], task))
    assert torch.allclose(states[:, 0], expected[0]) and found.tolist() == lengths[0].tolist()
    with pytest.raises(UsageError, match="no layers to adapt"):
        model.target_modules()
    with pytest.raises(UsageError, match="--tuning full"):
        model.unfreeze()


def fairseq_checkpoint(path):
    """A tiny HuBERT as s3prl's converted checkpoints are."""
    hubert_model = pytest.importorskip("s3prl.upstream.hubert.hubert_model")
    config = hubert_model.HubertConfig(
        label_rate=50, encoder_layers=2, encoder_embed_dim=16, encoder_ffn_embed_dim=32, encoder_attention_heads=2,
        final_dim=8, conv_feature_layers="[(8,10,5)] + [(8,3,2)]*4 + [(8,2,2)]*2", conv_pos=8, conv_pos_groups=2)
    task, symbols = hubert_model.HubertPretrainingConfig(), [["<s>", "<pad>", "</s>", "<unk>", "0", "1"]]
    torch.manual_seed(0)
    torch.save({"task_cfg": asdict(task), "model_cfg": asdict(config), "dictionaries_symbols": symbols,
                "model_weight": hubert_model.HubertModel(config, task, symbols).state_dict()}, path)
    return path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_of_fairseq(data, tmp_path):
    """fairseq's attention hands on its weights, so that only layers that are called can be adapted; they learn."""
    source = f"s3prl:hubert_custom@{fairseq_checkpoint(tmp_path / 'hubert.pt')}"
    record, model, task, folder = fitted(source, data, tmp_path, tuning="lora", features="weighted", rank=4,
                                         epochs=40, eval_steps=80)
    assert record["dev"]["accuracy"] == 1.0
    assert {name.rsplit(".", 1)[1] for name in model.linear_names()} == {"post_extract_proj", "fc1", "fc2"}
    weights = load_file(folder / "adapter_model.safetensors")
    assert sum("lora_B" in name for name in weights) == 5
    assert all(tensor.any() for name, tensor in weights.items() if "lora_B" in name and "layers" in name)
    texts, _ = decoded(model, task, data["kws"], folder, batch_size=3)
    assert texts == {u.id: u.labels["keyword"] for u in data["kws"].utterances.values()}
    other = load_model(f"s3prl:hubert_custom@{fairseq_checkpoint(tmp_path / 'copy.pt')}", device="cpu")
    assert other.fingerprint() == model.fingerprint()  # equal weights, elsewhere


@pytest.mark.filterwarnings("ignore")
def test_a_folder_of_transformers_through_s3prl(bases, data):
    model = load_model(f"s3prl:hf_hubert_custom@{bases()}", device="cpu")
    own, task = load_model(bases(), device="cpu"), get_task("kws")
    theirs = model.embed(model.collate(items(model, task, data["kws"], 2), task))
    ours = own.embed(own.collate(items(own, task, data["kws"], 2), task))
    assert nn.functional.cosine_similarity(theirs, ours).min() > 0.99  # s3prl repeats a last frame


@pytest.mark.parametrize("name, words", [
    ("s3prl:hubert_bse", "no upstream 'hubert_bse'; did you mean 'hubert_base'"),
    ("s3prl:hubert_custom", "expected s3prl:hubert_custom@/path"),
    ("s3prl:hubert@/x.pt", "use s3prl:hubert_custom@/x.pt"),
    ("s3prl:hubert_custom@/x.pt", "/x.pt: no such file"),
])
def test_names_of_s3prl(name, words):
    pytest.importorskip("s3prl")
    with pytest.raises((UsageError, SpeechMergeError), match=words):
        load_model(name)


def test_without_s3prl(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3prl.hub", None)
    with pytest.raises(SpeechMergeError, match="pip install espnet-s3prl"):
        load_model("s3prl:fbank")


def test_features_are_those_of_short_audio_too(bases, tmp_path):
    """A click of 5 ms is one frame of the network."""
    soundfile.write(tmp_path / "click.wav", np.ones(80, dtype=np.float32) * 0.1, 16000)
    model = load_model(bases(), device="cpu")
    wave = model.features((str(tmp_path / "click.wav"),))
    assert wave.shape == (1, 400) and not wave[0, 80:].any() and torch.isfinite(wave).all()
    assert model.context_frames(0.005) == model.context_frames(0.4) == 25 and model.context_frames(0.6) == 50
