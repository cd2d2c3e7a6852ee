"""Whisper against transformers itself, naive loops and closed forms."""
import shutil

import numpy as np
import pytest
import torch
from tiny import tiny_tones, tiny_whisper, tone
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

from speechmerge.data.batching import BucketBatchSampler, batches_by_length
from speechmerge.data.directory import DataDir
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.models import load_model
from speechmerge.models.base import Context, Item
from speechmerge.models.whisper_encoder import AnyLengthEncoder, LogMel
from speechmerge.tasks import get_task


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_whisper(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def model(base):
    return load_model(base, device="cpu", audio_context="dynamic", audio_context_min=0.5)


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    return get_task("kws").examples(DataDir.read(tiny_tones(tmp_path_factory.mktemp("data"), n=12)))


def items_of(model, examples):
    return [Item(example, model.features(example.audio), model.seconds(example)) for example in examples]


@pytest.mark.parametrize("options", [{"chunk_length": 4, "hop_length": 320}, {}, {"feature_size": 128}])
def test_features_are_those_of_the_extractor(options):
    extractor = WhisperFeatureExtractor(**options)
    mel = LogMel(extractor)
    full = extractor.n_samples
    for samples in (700, 16000, 31999, full - 321, full - 200, full - 1, full, full + 5000):
        wave = np.random.default_rng(samples).normal(0, 0.1, samples).astype(np.float32)
        expected = torch.tensor(extractor(wave, sampling_rate=16000).input_features[0])
        assert torch.allclose(mel.pad(mel(wave), mel.full), expected, atol=1e-5), samples


def test_features_of_silence():
    extractor = WhisperFeatureExtractor(chunk_length=4, hop_length=320)
    mel, wave = LogMel(extractor), np.zeros(8000, dtype=np.float32)
    expected = torch.tensor(extractor(wave, sampling_rate=16000).input_features[0])
    assert torch.allclose(mel.pad(mel(wave), mel.full), expected, atol=1e-5)


def test_encoder_equals_transformers_at_full_length(base, model):
    reference = WhisperForConditionalGeneration.from_pretrained(base).eval()
    assert isinstance(model.core.model.encoder, AnyLengthEncoder)
    x = torch.randn(3, 80, 200)
    with torch.no_grad():
        expected = reference.model.encoder(x, output_hidden_states=True)
        found = model.core.model.encoder(x, output_hidden_states=True)
    assert torch.equal(expected.last_hidden_state, found.last_hidden_state)
    assert all(torch.equal(a, b) for a, b in zip(expected.hidden_states, found.hidden_states))


def test_encoder_of_a_short_input_is_that_of_a_smaller_whisper(base, model):
    """A Whisper whose position table holds only the first rows is what a cut context means."""
    config = WhisperForConditionalGeneration.from_pretrained(base).config
    config.max_source_positions = 30
    small = WhisperForConditionalGeneration(config).eval()
    weights = model.core.state_dict()
    positions = "model.encoder.embed_positions.weight"
    small.load_state_dict({**weights, positions: weights[positions][:30]})
    x = torch.randn(2, 80, 60)
    with torch.no_grad():
        assert torch.equal(small.model.encoder(x)[0], model.core.model.encoder(x)[0])
        with pytest.raises(SpeechMergeError, match="at most 100"):
            model.core.model.encoder(torch.randn(1, 80, 204))


def test_contexts():
    context = Context("dynamic", 1.0, 0.1)
    expected = {0.2: 1, 1.0: 1, 1.1: 1.1, 1.11: 1.2, 0.3 + 0.9: 1.2, 3.99: 4, 9.0: 4}
    assert {s: round(context.seconds(s, 4.0), 6) for s in expected} == expected
    assert Context("full").seconds(0.2, 4.0) == 4.0
    with pytest.raises(UsageError, match="did you mean 'dynamic'"):
        Context("dynamik")


def test_generation_does_not_depend_on_the_batch(model, examples):
    task, items = get_task("kws"), items_of(model, examples)
    frames = max(model.context_frames(item.seconds) for item in items)
    for beams in (1, 3):
        together = model.generate(model.collate(items, task, frames=frames), task, num_beams=beams)
        alone = [model.generate(model.collate([item], task, frames=frames), task, num_beams=beams)[0] for item in items]
        assert together == alone and any(together)


def test_greedy_generation_equals_a_naive_loop(model, examples):
    task, items = get_task("kws"), items_of(model, examples)[:4]
    batch = model.collate(items, task, frames=100)
    for row, text in enumerate(model.generate(dict(batch), task)):
        ids = batch["decoder_input_ids"][row].tolist()
        start = len(ids)
        while len(ids) < start + task.max_new_tokens:
            with torch.no_grad():
                logits = model.core(batch["input_features"][row, None], decoder_input_ids=torch.tensor([ids])).logits
            ids.append(int(logits[0, -1].argmax()))
            if ids[-1] == model.tokenizer.eos_token_id:
                break
        assert model.tokenizer.decode(ids[start:], skip_special_tokens=True).strip() == text


@pytest.mark.parametrize("beams", [1, 4])
def test_search_equals_that_of_transformers(base, model, examples, beams):
    """Its own classes and encoder, given the same features and the same beginning; `language` by the prefix."""
    from transformers import GenerationMixin

    task, items = get_task("asr"), items_of(model, examples)[:5]
    batch = model.collate(items, task, frames=200)
    reference = WhisperForConditionalGeneration.from_pretrained(base).eval()
    prefix = batch["decoder_input_ids"]
    ids = GenerationMixin.generate(reference, batch["input_features"], decoder_input_ids=prefix, num_beams=beams,
                                   do_sample=False, max_new_tokens=min(task.max_new_tokens, 64 - prefix.shape[1]))
    expected = model.tokenizer.batch_decode(ids[:, prefix.shape[1] :], skip_special_tokens=True)
    assert model.generate(dict(batch), task, num_beams=beams) == [text.strip() for text in expected]


def test_label_scores_equal_a_teacher_forced_loop(model, examples, monkeypatch):
    task, items = get_task("kws"), items_of(model, examples)[:5]
    labels = ["yes", "light on", "stop it now", "a"]
    batch = model.collate(items, task, frames=100)
    found = model.score_labels(dict(batch), labels)
    for row in range(len(items)):
        for column, label in enumerate(labels):
            prefix, target = batch["decoder_input_ids"][row].tolist(), model.target_ids(label)
            inputs = torch.tensor([prefix + target[:-1]])
            with torch.no_grad():
                logits = model.core(batch["input_features"][row, None], decoder_input_ids=inputs).logits
            steps = logits[0, len(prefix) - 1 :].log_softmax(-1)
            expected = np.mean([float(steps[i, token]) for i, token in enumerate(target)])
            assert float(found[row, column]) == pytest.approx(expected, abs=1e-5)
    monkeypatch.setattr("speechmerge.models.whisper.CACHE_BYTES", 1)  # one label at a time
    assert torch.allclose(model.score_labels(dict(batch), labels), found, atol=1e-5)


def test_training_batch_and_loss(model, examples):
    task, items = get_task("kws"), items_of(model, examples)[:3]
    batch = model.collate(items, task, training=True)
    labels = batch.pop("labels")
    prefix = model.prefix(task, "en")
    words = model.tokenizer.convert_ids_to_tokens(prefix)
    assert words == ["<|startoftranscript|>", "<|en|>", "<|kws|>", "<|notimestamps|>"]
    for row, item in enumerate(items):
        assert labels[row][labels[row] != -100].tolist() == model.target_ids(item.example.target)
        assert (labels[row] != -100).nonzero()[0] == len(prefix) - 1
    with torch.no_grad():
        outputs = model.core(**batch)
        expected = model.core(**batch, labels=labels).loss
    assert model.loss(outputs, labels) == pytest.approx(float(expected), abs=1e-6)
    assert model.loss(outputs, labels, 7) == pytest.approx(float(expected) * int((labels != -100).sum()) / 7, rel=1e-5)


def test_language_is_only_told_where_the_task_may_use_it(model):
    assert "<|it|>" in model.tokenizer.convert_ids_to_tokens(model.prefix(get_task("asr"), "it"))
    assert "<|und|>" in model.tokenizer.convert_ids_to_tokens(model.prefix(get_task("langid"), "it"))
    assert "<|und|>" in model.tokenizer.convert_ids_to_tokens(model.prefix(get_task("asr"), "xx"))


def test_pairs_are_joined_by_silence(model, tmp_path):
    import soundfile

    paths = [tmp_path / "a.wav", tmp_path / "b.wav"]
    waves = [tone(300, 0.5), tone(500, 0.75)]
    for path, wave in zip(paths, waves):
        soundfile.write(path, wave, 16000, subtype="FLOAT")
    joined = np.concatenate([waves[0], np.zeros(3200, dtype=np.float32), waves[1]])
    assert torch.equal(model.features(tuple(map(str, paths))), model.mel(joined))


def test_targets_and_blocks(model):
    assert model.target_modules() == ["fc1", "fc2", "k_proj", "out_proj", "q_proj", "v_proj"]
    assert "fc1" not in model.target_modules("attention")
    decoder = model.target_modules("decoder")
    assert all(".decoder." in name for name in decoder) and len(decoder) == 20
    assert model.target_modules(["q_proj", "encoder.layers.0.fc1"]) == ["q_proj", "encoder.layers.0.fc1"]
    with pytest.raises(UsageError, match="'q_prog': no such layer"):
        model.target_modules(["q_prog"])
    assert model.block_of("model.encoder.layers.1.fc1.weight") == ("encoder", 1)
    assert model.block_of("model.encoder.conv1.weight") is None


def broken(base, tmp_path):
    return shutil.copytree(base, tmp_path / "broken")


def test_missing_folder_and_files(base, tmp_path):
    with pytest.raises(SpeechMergeError, match="no such folder"):
        load_model(tmp_path / "none")
    with pytest.raises(SpeechMergeError, match="no config.json"):
        load_model(tmp_path)
    for file, what in (("tokenizer.json", "no tokenizer"), ("preprocessor_config.json", "no feature extractor"),
                       ("model.safetensors", "no weights as safetensors")):
        folder = broken(base, tmp_path / file)
        (folder / file).unlink()
        with pytest.raises(SpeechMergeError, match=what):
            load_model(folder)


def test_other_families_vocabularies_and_code(base, tmp_path):
    from speechmerge.files import read_json, write_json

    changes = {"a": ({"model_type": "whisperr"}, "did you mean 'whisper'"),
               "b": ({"auto_map": {"AutoModel": "x.Y"}}, "not run"),
               "c": ({"eos_token_id": 3}, "tokenizer has <|endoftext|> at")}
    for name, (change, message) in changes.items():
        folder = broken(base, tmp_path / name)
        write_json(folder / "config.json", {**read_json(folder / "config.json"), **change})
        with pytest.raises(SpeechMergeError, match=message):
            load_model(folder)


def test_tokenizer_of_another_model(base, tmp_path):
    from transformers import AutoTokenizer

    folder = broken(base, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"word{i}" for i in range(50)])
    tokenizer.save_pretrained(folder)
    with pytest.raises(SpeechMergeError, match="do not belong together"):
        load_model(folder)


def test_mel_bins_of_another_model(base, tmp_path):
    folder = broken(base, tmp_path)
    WhisperFeatureExtractor(128, hop_length=320, chunk_length=4).save_pretrained(folder)
    with pytest.raises(SpeechMergeError, match="makes 128 mel bins, the network takes 80"):
        load_model(folder)


def test_tokenizer_without_the_merge_of_t(base, tmp_path, caplog):
    """As the hub had them before February 2024: " t" is two tokens, so every word that begins with t is cut wrongly."""
    from speechmerge.files import read_json, write_json

    folder = broken(base, tmp_path)
    tokenizer = read_json(folder / "tokenizer.json")
    vocabulary = tokenizer["model"]["vocab"]
    del vocabulary["ß"], vocabulary["ñ"]  # the network has no room for more tokens
    vocabulary |= {"Ġ": 56, "Ġt": 55}
    tokenizer["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    for merges, said in (([], True), ([["Ġ", "t"]], False)):
        tokenizer["model"]["merges"] = merges
        write_json(folder / "tokenizer.json", tokenizer)
        caplog.clear()
        load_model(folder, device="cpu")
        assert ("lacks a merge" in caplog.text) == said


# What the published sizes differ in


def variant(base, folder, generation=None, **sizes):
    """The tiny Whisper with another network: sizes as of WhisperConfig, and entries of generation_config.json."""
    from transformers import WhisperConfig

    shutil.copytree(base, folder)
    torch.manual_seed(1)
    network = WhisperForConditionalGeneration(WhisperConfig.from_pretrained(base, **sizes))
    network.generation_config = WhisperForConditionalGeneration.from_pretrained(base).generation_config
    network.generation_config.update(**(generation or {}))
    network.generation_config._from_model_config = False
    for name, value in (generation or {}).items():
        setattr(network.generation_config, name, value)
    network.save_pretrained(folder)
    mels = network.config.num_mel_bins
    WhisperFeatureExtractor(mels, hop_length=320, chunk_length=4).save_pretrained(folder)
    return folder


VARIANTS = {"large-v3": {"num_mel_bins": 128}, "distil": {"decoder_layers": 1},
            "turbo": {"num_mel_bins": 128, "encoder_layers": 3}, "base.en": {"generation": {"is_multilingual": False}}}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_go_the_whole_way(base, examples, tmp_path, name):
    """Batches, loss and its gradient, greedy and beam search, label scores, at the network's own sizes."""
    model = load_model(variant(base, tmp_path / name, **VARIANTS[name]), device="cpu", audio_context="dynamic")
    task, items = get_task("asr"), items_of(model, examples)[:3]
    told = ["<|en|>", "<|transcribe|>"] if name != "base.en" else []
    assert model.tokenizer.convert_ids_to_tokens(model.prefix(task, "en")) == \
        ["<|startoftranscript|>", *told, "<|notimestamps|>"]
    batch = model.collate(items, task, training=True)
    assert batch["input_features"].shape[1] == model.core.config.num_mel_bins
    labels = batch.pop("labels")
    model.unfreeze()
    model.loss(model.module(**batch), labels).backward()
    fixed = {"model.encoder.embed_positions.weight"}
    silent = {n for n, p in model.core.named_parameters() if p.grad is None or not p.grad.abs().sum()}
    assert {n for n in silent if not n.endswith("layer_norm.bias")} <= fixed
    batch = model.collate(items, task, frames=200)
    reference = WhisperForConditionalGeneration.from_pretrained(tmp_path / name).eval()
    with torch.no_grad():
        expected = reference(batch["input_features"], decoder_input_ids=batch["decoder_input_ids"]).logits
        assert torch.allclose(model.core.eval()(**{n: batch[n] for n in ("input_features", "decoder_input_ids")}).logits,
                              expected, atol=1e-5)
    assert len(model.generate(dict(batch), task)) == len(model.generate(dict(batch), task, num_beams=2)) == 3
    assert model.score_labels(dict(batch), ["yes", "no"]).shape == (3, 2)


def test_english_only_by_its_size_or_its_own_word(base, model, tmp_path):
    """51864 tokens are openai's English models; generation_config.json is believed before the size."""
    from speechmerge.models.whisper import ENGLISH_ONLY

    assert model.multilingual
    english = load_model(variant(base, tmp_path / "a", vocab_size=ENGLISH_ONLY), device="cpu")
    assert not english.multilingual
    own = variant(base, tmp_path / "b", {"is_multilingual": True}, vocab_size=ENGLISH_ONLY)
    assert load_model(own, device="cpu").multilingual
    with pytest.raises(SpeechMergeError, match="for English only cannot translate"):
        english.prefix(get_task("st"), "de", None, "en")


def test_bucket_batches_depend_on_seed_and_epoch_only():
    lengths = [100 + 20 * (i % 7) for i in range(101)]
    sampler = BucketBatchSampler(lengths, 8, seed=3)
    first = list(sampler)
    assert first == list(BucketBatchSampler(lengths, 8, seed=3)) and len(first) == len(sampler) == 13
    assert sorted(index for batch in first for index in batch) == list(range(101))
    sampler.set_epoch(1)
    assert list(sampler) != first
    spread = np.mean([np.ptp([lengths[i] for i in batch]) for batch in first])
    assert spread < 60  # of 120 in the whole set


def test_decoding_batches_have_one_length():
    batches = batches_by_length([3, 1, 3, 1, 1, 2], 2)
    assert batches == [[1, 3], [4], [5], [0, 2]]
