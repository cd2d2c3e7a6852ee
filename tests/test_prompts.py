"""Prompts, target formats and ways of verification: from options through training records to decoding and scoring."""
import json
import shutil

import numpy as np
import pytest
import soundfile
import torch
from tiny import tiny_tones, tiny_whisper

from speechmerge.cli import main
from speechmerge.data.directory import DataDir
from speechmerge.decode import Decoder, Options, hypotheses
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.files import read_json, write_json, write_text
from speechmerge.models import load_model
from speechmerge.models.base import Item
from speechmerge.models.whisper import Whisper
from speechmerge.scoring import score_decoded, score_split
from speechmerge.systems import System, register_adapter
from speechmerge.tasks import TASKS, get_task
from speechmerge.tasks.base import LabelTask
from speechmerge.tasks.frame import encode

BASE = System("base", "base")
START, END = "<|startoftranscript|>", "<|notimestamps|>"  # of every prefix


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_whisper(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def model(base):
    return load_model(base, device="cpu", audio_context="dynamic", audio_context_min=0.5)


@pytest.fixture
def published(model):
    """The same network with the special tokens of the published Whisper: prompts, translation, none for label tasks."""
    twin = Whisper(model.module, model.tokenizer, model.feature_extractor, model.source, model.path, model.context)
    own = {token: id for token, id in model.vocabulary.items() if token not in ("<|kws|>", "<|intent|>", "<|und|>")}
    twin.vocabulary = {**own, "<|startofprev|>": 900, "<|translate|>": 901}
    return twin


def words(model, ids):
    names = {id: token for token, id in model.vocabulary.items()}
    return [names[id] for id in ids]


def question_data(folder, n=9):
    data = tiny_tones(folder, task="asr", n=n)
    ids = [line.split()[0] for line in (data / "wav.scp").read_text().splitlines()]
    write_text(data / "utt2question", "".join(f"{id} {'why ' * (i % 3)}is it\n" for i, id in enumerate(ids)))
    write_text(data / "utt2answers", "".join(f'{id} ["yes"]\n' for id in ids))
    return data


# --- templates

def test_fields(tmp_path):
    data = DataDir.read(tiny_tones(tmp_path, task="kws", n=3))
    task = get_task("kws").configure(prompt="Which of {labels} in {language}, {{so}}: {transcript}?")
    assert task.examples(data)[0].prompt == "Which of no, stop, yes in en, {so}: yes?"
    assert task.settings() == {"prompt": task.prompt} and get_task("kws").settings() == {}
    assert get_task("kws").examples(data)[0].prompt == "Which keyword is spoken?"


@pytest.mark.parametrize("template, message", [
    ("{lables}", "unknown field {lables}; did you mean 'labels'"), ("{}", "unknown field {}"),
    ("{labels", "expected '}'"),
    ("{labels!r}", "plain names"), ("{labels:9}", "plain names"), ("{labels.x}", "unknown field {labels.x}"),
    ("{0}", "unknown field {0}")])
def test_wrong_templates(template, message):
    with pytest.raises(UsageError) as found:
        get_task("kws").configure(prompt=template)
    assert message in str(found.value)


def test_options_that_a_task_does_not_have():
    with pytest.raises(UsageError, match="--target-format: the task kws has no such option"):
        get_task("kws").configure(target_format="json")
    with pytest.raises(UsageError, match="did you mean 'cosine'"):
        get_task("speaker_ver").configure(verification="cosin")


# --- prefixes

def test_published_whisper_is_told_the_task_by_a_prompt(published):
    kws = get_task("kws")
    ids = published.prefix(kws, "en", kws.prompt)
    assert ids[0] == 900 and words(published, ids[-4:]) == [START, "<|en|>", "<|transcribe|>", END]
    assert published.tokenizer.decode(ids[1:-4]).strip() == "which keyword is spoken"  # letters that these tokens have
    assert published.prefix(get_task("asr"), "en", None)[0] != 900
    told = get_task("asr").configure(prompt="names: anna")
    assert published.prefix(told, "en", "names: anna")[0] == 900


def test_a_task_with_a_token_needs_no_prompt_unless_it_is_given(model):
    kws = get_task("kws")
    assert words(model, model.prefix(kws, "en", kws.prompt)) == [START, "<|en|>", "<|kws|>", END]
    assert len(model.prefix(kws.configure(prompt="yes or no"), "en", "yes or no")) > 4


def test_questions_stand_before_the_start_where_there_is_no_token_for_them(model):
    ids = model.prefix(get_task("speech_qa"), "en", "who is it")
    assert words(model, ids[-4:]) == [START, "<|en|>", "<|transcribe|>", END]
    assert model.tokenizer.decode(ids[:-4]).strip() == "who is it"


def test_long_prompts_lose_their_beginning(model, caplog):
    ids = model.prefix(get_task("speech_qa"), "en", "a" * 50 + " and so on to the end")
    assert len(ids) == 64 // 2 - 1 + 4 and model.tokenizer.decode(ids[:-4]).endswith("on to the end")
    assert "the decoder takes the last 31" in caplog.text


@pytest.mark.parametrize("source, target, expected", [
    ("de", "en", ["<|de|>", "<|translate|>"]), ("en", "de", ["<|de|>", "<|transcribe|>"])])
def test_translation_tokens(published, source, target, expected):
    assert words(published, published.prefix(get_task("st"), source, None, target))[1:3] == expected


def test_translation_without_a_token_for_it(model):
    assert words(model, model.prefix(get_task("st"), "de", None, "en"))[1:3] == ["<|en|>", "<|transcribe|>"]
    with pytest.raises(SpeechMergeError, match="no token for the target language 'xx'"):
        model.prefix(get_task("st"), "de", None, "xx")


def test_what_a_tokenizer_cannot_write(model):
    assert model.writable("Hello, World_1!") == "hello world_1" and model.writable("hello") == "hello"
    assert model.writable("ÇÀ ñ") == "cà ñ"  # these tokens have à and ñ, but no ç
    assert model.target_ids("Yes!") == model.target_ids("yes")
    assert model.writes("a_b") and not model.writes("{")


# --- batches

def test_questions_of_all_lengths_decode_alike_in_any_batch(model, tmp_path):
    data = DataDir.read(question_data(tmp_path))
    task, results = get_task("speech_qa"), []
    for size in (1, 3, 32):
        batches = list(hypotheses(model, task, task.examples(data), None, Options(batch_size=size)))
        results.append(sorted((h.id, h.text) for batch in batches for h in batch))
    assert results[0] == results[1] == results[2] and len(results[0]) == 9
    assert max(map(len, batches)) > 1


def test_training_rows_have_their_own_prefixes(model, tmp_path):
    task = get_task("speech_qa")
    examples = task.examples(DataDir.read(question_data(tmp_path, 3)))
    items = [Item(example, model.features(example.audio), model.seconds(example)) for example in examples]
    batch = model.collate(items, task, training=True)
    for i, example in enumerate(examples):
        places = (batch["labels"][i] != -100).nonzero()[:, 0].tolist()
        start = model.prefix_length(example, task) - 1
        assert places == list(range(start, start + len(model.target_ids("yes"))))
    assert len({model.prefix_length(example, task) for example in examples}) == 3


def test_frames_may_hold_what_whisper_suppresses(base, monkeypatch):
    from transformers import GenerationMixin

    model, seen = load_model(base, device="cpu"), []
    bracket, special = model.vocabulary["-"], model.vocabulary["<|en|>"]
    model.core.generation_config.suppress_tokens = [bracket, special]
    monkeypatch.setattr(GenerationMixin, "generate", lambda *args, generation_config, decoder_input_ids, **kwargs: (
        seen.append(generation_config.suppress_tokens), decoder_input_ids)[1])
    batch = {"input_features": torch.zeros(1, 80, 200), "decoder_input_ids": torch.tensor([[1, 2]])}
    for name in ("slu", "asr"):
        model.generate(dict(batch), get_task(name))
    assert seen == [[special], [bracket, special]]


# --- from training to decoding

@pytest.fixture
def recipe(tmp_path, base):
    """Data, and an adapter (a full model) whose record says how it was trained."""
    for task in ("kws", "speaker_ver"):
        tiny_tones(tmp_path / "data" / task / "test", task=task, n=6)
    shutil.copytree(tiny_whisper(tmp_path / "other", seed=5), tmp_path / "exp/kws/kws")
    fingerprint = load_model(base, device="cpu").fingerprint()
    write_json(tmp_path / "exp/kws/kws/speechmerge.json", {
        "task": "kws", "base": {"source": str(base), "fingerprint": fingerprint}, "settings": {"prompt": "yes or no"}})
    register_adapter(tmp_path / "exp", "kws", tmp_path / "exp/kws/kws", "kws")
    return tmp_path


def record(recipe, system="base", task="kws"):
    return read_json(recipe / "exp/decode/test" / system / task / "decode.json")


def test_decoding_takes_the_prompt_of_the_adapters(recipe, monkeypatch):
    monkeypatch.chdir(recipe)
    command = ["decode", "--device", "cpu", "--data", "data", "--tasks", "kws", "--systems", "all"]
    assert main(command) == 0
    assert record(recipe)["settings"] == record(recipe, "kws")["settings"] == {"prompt": "yes or no"}
    first = record(recipe)["key"]
    assert main([*command, "--prompt", "which of {labels}"]) == 0
    assert record(recipe)["settings"] == {"prompt": "which of {labels}"} and record(recipe)["key"] != first
    assert main([*command, "--verification", "cosine"]) == 2
    assert score_split("exp", "test")["systems"][0]["scores"]["kws"]["generation"] is not None


@pytest.mark.parametrize("other", [{"prompt": "no or yes"}, {}])
def test_adapters_that_disagree(recipe, monkeypatch, capsys, other):
    monkeypatch.chdir(recipe)
    shutil.copytree("exp/kws/kws", "exp/kws/second")
    write_json(recipe / "exp/kws/second/speechmerge.json",
               {**read_json("exp/kws/kws/speechmerge.json"), "settings": other})
    register_adapter("exp", "second", "exp/kws/second", "kws")
    command = ["decode", "--device", "cpu", "--data", "data", "--tasks", "kws", "--systems", "all"]
    assert main(command) == 2 and "choose one with --prompt" in capsys.readouterr().err


def test_training_keeps_its_settings(base, tmp_path, monkeypatch):
    """slu on a tokenizer of letters: the format is chosen, recorded, and read at scoring."""
    monkeypatch.chdir(tmp_path)
    for split in ("train", "test"):
        data = tiny_tones(tmp_path / "data/slu" / split, task="asr", n=6)
        ids = [line.split()[0] for line in (data / "wav.scp").read_text().splitlines()]
        entities = [{"type": "a_b", "filler": "c d"}]
        frame = encode({"scenario": "tone", "action": "is_high", "entities": entities}, "json")
        write_text(data / "utt2slu", "".join(f"{id} {frame}\n" for id in ids))
    words = ["--model", str(base), "--device", "cpu"]
    assert main(["train", "--task", "slu", *words, "--data", "data/slu/train", "--max-steps", "1", "--rank", "2",
                 "--report-to", "--prompt", "what is it"]) == 0
    assert read_json("exp/slu/slu/speechmerge.json")["settings"] == {"prompt": "what is it", "target_format": "plain"}
    assert main(["decode", "--device", "cpu", "--data", "data", "--tasks", "slu", "--systems", "all"]) == 0
    folder = tmp_path / "exp/decode/test/slu/slu"
    assert record(tmp_path, "slu", "slu")["settings"] == {"prompt": "what is it", "target_format": "plain"}
    lines = [f"{id} tone is'high '' a'b ' c d" for id in ids]
    write_text(folder / "hyp", "\n".join(lines) + "\n")
    found = score_decoded(folder).score["generation"]
    assert (found["value"], found["n_unparsed"]) == (1, 0)
    assert score_decoded(tmp_path / "exp/decode/test/base/slu").score["generation"]["n_unparsed"] == 6


# --- verification by cosine

def test_embeddings_are_means_over_what_is_heard(model, tmp_path):
    data = DataDir.read(tiny_tones(tmp_path, task="kws", n=4))
    task = get_task("kws")
    examples = task.examples(data)
    items = [Item(example, model.features(example.audio), model.seconds(example)) for example in examples]
    batch = model.collate(items, task, frames=200)
    found = model.embed(batch)
    with torch.no_grad():
        states = model.core.model.encoder(batch["input_features"])[0]
    for i, item in enumerate(items):
        positions = (item.features.shape[-1] + 1) // 2
        assert torch.allclose(found[i], states[i, :positions].mean(0), atol=1e-6) and positions < states.shape[1]


def test_trials_by_cosine(model, recipe):
    data = DataDir.read(recipe / "data/speaker_ver/test")
    task = get_task("speaker_ver").configure(verification="cosine")
    tables = []
    for size, shards in ((32, 1), (2, 1), (2, 2)):
        shutil.rmtree(recipe / "exp/decode", ignore_errors=True)
        for shard in range(shards):
            decoder = Decoder(model, task, data, "test", recipe / "exp", Options(batch_size=size), (shard, shards))
            assert decoder.decode(BASE) == ("made" if shard == shards - 1 else "part")
        tables.append((recipe / "exp/decode/test/base/speaker_ver/scores").read_text())
    assert decoder.decode(BASE) == "kept"
    values = [[float(line.split()[1]) for line in table.splitlines()] for table in tables]
    assert np.allclose(values[0], values[1], atol=2e-6) and np.allclose(values[0], values[2], atol=2e-6)
    folder = recipe / "exp/decode/test/base/speaker_ver"
    assert sorted(file.name for file in folder.iterdir()) == ["decode.json", "scores"]
    trial = data.trials[0]
    vectors = [mean_state(model, data.utterances[id].audio) for id in (trial.enrol, trial.test)]
    expected = torch.nn.functional.cosine_similarity(*vectors, dim=0)
    assert values[0][0] == pytest.approx(float(expected), abs=2e-6)
    score = score_decoded(folder).score
    assert score["generation"] is None
    assert score["labels"]["metric"] == "eer" and score["labels"]["n"] == len(data.trials)


def mean_state(model, path):
    features = model.features((path,))
    frames = model.context_frames(soundfile.info(path).duration)
    with torch.no_grad():
        states = model.core.model.encoder(model.mel.pad(features, frames)[None])[0][0]
    return states[: (min(features.shape[-1], frames) + 1) // 2].mean(0)


def test_scores_of_cosines_compare_systems(model, recipe, monkeypatch, capsys):
    monkeypatch.chdir(recipe)
    assert main(["decode", "--device", "cpu", "--data", "data", "--tasks", "speaker_ver", "--systems", "all",
                 "--verification", "cosine"]) == 0
    assert main(["score"]) == 0
    out = capsys.readouterr().out
    assert "label scoring" in out and "free generation" not in out
    base, adapter = json.loads((recipe / "exp/scores_test.json").read_text())["systems"]
    assert 0 <= base["scores"]["speaker_ver"]["labels"] <= 1 and base["scores"]["speaker_ver"]["generation"] is None
    assert adapter["scores"]["speaker_ver"]["labels"] != base["scores"]["speaker_ver"]["labels"]
    assert main(["report", "--exp-dir", "exp"]) == 0 and "EER" in (recipe / "exp/report/RESULTS.md").read_text()


# --- a task of one's own

def test_a_task_from_outside(tmp_path, monkeypatch, capsys):
    TASKS.names()
    monkeypatch.setattr(TASKS, "_entries", dict(TASKS._entries))

    @TASKS.register("gender")
    class Gender(LabelTask):
        """Who speaks, a man or a woman; accuracy decides."""

        name = "gender"
        table = "utt2gender"
        prompt = "Is it one of {labels}?"

    data = tiny_tones(tmp_path / "gender", task="asr", n=4)
    ids = [line.split()[0] for line in (data / "wav.scp").read_text().splitlines()]
    write_text(data / "utt2gender", "".join(f"{id} {'fm'[i % 2]}\n" for i, id in enumerate(ids)))
    task = get_task("gender")
    examples = task.examples(DataDir.read(data))
    assert task.score({e.id: e.target for e in examples}, {e.id: "F" for e in examples})["value"] == 0.5
    assert examples[0].prompt == "Is it one of f, m?"
    assert main(["list", "tasks"]) == 0
    out = capsys.readouterr().out
    assert "gender                 Who speaks" in out
    assert "metric accuracy, higher is better; prompt: 'Is it one of {labels}?'" in out


def test_list_of_tasks(capsys):
    assert main(["list", "tasks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = {lines[i].split()[0]: lines[i + 1].strip() for i in range(0, len(lines), 2)}
    decided = {"asr": "wer, lower", "emotion": "accuracy, higher", "slu": "slu_f1, higher", "speech_qa": "f1, higher",
               "st": "bleu, higher", "speaker_ver": "eer, lower"}
    assert all(found[task].startswith(f"metric {metric} is better") for task, metric in decided.items())
    assert len(found) == 12
