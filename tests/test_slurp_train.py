"""Training as the audio LLM on SLURP is trained: text and speech mixed, a curriculum, samples while it learns."""
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_tones, tiny_whisper
from tiny_qwen import tiny_qwen2_audio

from speechmerge.cli import main, parse, verb_module
from speechmerge.data.directory import NO_AUDIO, DataDir
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.files import read_json, write_text
from speechmerge.models import load_model
from speechmerge.plain_files import read_json_lines
from speechmerge.tasks import get_task
from speechmerge.tasks.frame import encode
from speechmerge.train.mix import check_mix, training_examples
from speechmerge.train.options import TrainOptions
from speechmerge.train.run import train
from speechmerge.train.samples import Samples

READER = SimpleNamespace(source="reader", family="reader", reads_text=True, needs_instruction=True, writes=lambda text: True,
                         training_examples=lambda task, data: task.examples(data))


def slu_data(folder, n=12, prompts=4):
    """`n` recordings of `prompts` prompts."""
    tiny_tones(folder, task="asr", n=n)
    ids = [line.split()[0] for line in (folder / "wav.scp").read_text().splitlines()]
    frames = [{"scenario": "alarm", "action": "set", "entities": [{"type": "time", "filler": f"at {i % prompts}"}]}
              for i in range(n)]
    write_text(folder / "utt2slu", "".join(f"{id} {encode(frame, 'json')}\n" for id, frame in zip(ids, frames)))
    write_text(folder / "text", "".join(f"{id} wake me at {i % prompts}\n" for i, id in enumerate(ids)))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return DataDir.read(slu_data(tmp_path_factory.mktemp("data") / "slu/train"))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_whisper(tmp_path_factory.mktemp("base"))


# --- mixing

def chosen(data, **options):
    return training_examples(READER, get_task("slu"), data, TrainOptions(**options))


def test_mixing_by_share(data):
    found = chosen(data, mix=(("text", 1.0), ("audio", 0.25)))
    read, heard = ([example for example in found if bool(example.audio) == kind] for kind in (False, True))
    assert len(heard) == 3 and len(read) == 4  # a quarter of 12 recordings; prompts, each once
    assert all(example.id.endswith("@text") and "Transcript: wake me" in example.prompt for example in read)
    assert len({example.target for example in read}) == 4 and all("wake me" not in example.prompt for example in heard)
    assert found == sorted(found, key=lambda example: example.id) == chosen(data, mix=(("text", 1.0), ("audio", 0.25)))
    more = chosen(data, mix=(("audio", 0.5),))
    assert {example.id for example in heard} < {example.id for example in more} and len(more) == 6
    assert chosen(data, mix=(("audio", 0.25),), seed=1) != heard
    both = chosen(data, mix=(("audio+text", 1.0),))
    assert len(both) == 12 and all(example.audio and "Transcript: " in example.prompt for example in both)


def test_fewer_examples(data):
    assert len(chosen(data)) == 12 and len(chosen(data, max_train_samples=20)) == 12
    few, more = chosen(data, max_train_samples=4), chosen(data, max_train_samples=5)
    assert len(few) == 4 and {example.id for example in few} < {example.id for example in more}


@pytest.mark.parametrize("mix, message", [
    ((("txet", 1.0),), "did you mean 'text'"), ((("text", 0.0),), "above 0 and at most 1"),
    ((("text", 1.5),), "at most 1"), ((("text", 1.0), ("text", 0.5)), "named twice")])
def test_wrong_mixes(mix, message):
    with pytest.raises(UsageError, match=message):
        check_mix(mix)


def test_a_family_that_hears_only_cannot_mix(base, data, tmp_path):
    with pytest.raises(UsageError, match="--inputs text: models of the family whisper hear only"):
        train(load_model(base, device="cpu"), get_task("slu"), data, None, tmp_path / "x", TrainOptions(mix=(("text", 1.0),)))


# --- starting from another training

def run(base, folder, tuning="lora", **options):
    data = DataDir.read(tiny_tones(folder.parent / "kws", task="kws", n=6))
    model = load_model(base, device="cpu", audio_context="dynamic", audio_context_min=0.5)
    defaults = {"rank": 4, "batch_size": 6, "learning_rate": 1e-2, "max_steps": 3, "tuning": tuning}
    record = train(model, get_task("kws"), data, None, folder, TrainOptions(**{**defaults, **options}), exp_dir=folder.parent)
    weights = load_file(folder / ("adapter_model.safetensors" if tuning == "lora" else "model.safetensors"))
    return weights, record


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_start_from_what_was_trained(base, tmp_path, tuning):
    """A step of no size leaves the weights as they were given; without, they would be the base's or random."""
    first, record = run(base, tmp_path / "first", tuning)
    assert "init" not in record
    again, record = run(base, tmp_path / "again", tuning, init_adapter=str(tmp_path / "first"), learning_rate=1e-12)
    assert record["init_adapter"] == str(tmp_path / "first") and any("safetensors" in name for name in record["init"])
    assert again.keys() == first.keys()
    assert all(torch.allclose(again[name], first[name], atol=1e-6) for name in first)
    without, _ = run(base, tmp_path / "without", tuning, learning_rate=1e-12)
    assert not all(torch.allclose(without[name], first[name], atol=1e-6) for name in first)


def test_an_adapter_becomes_the_start_of_full_training(base, tmp_path):
    run(base, tmp_path / "first")
    full, _ = run(base, tmp_path / "full", "full", init_adapter=str(tmp_path / "first"), learning_rate=1e-12)
    model = load_model(base, device="cpu")
    with model.adapter(tmp_path / "first"):
        expected = {name: value.clone() for name, value in model.core.state_dict().items()}
    assert all(torch.allclose(value, expected[name], atol=1e-6) for name, value in full.items())


def test_another_start_is_another_training(base, tmp_path):
    run(base, tmp_path / "first")
    _, record = run(base, tmp_path / "again", init_adapter=str(tmp_path / "first"))
    assert run(base, tmp_path / "again", init_adapter=str(tmp_path / "first"))[1]["kept"]
    shutil.copytree(tmp_path / "first", tmp_path / "moved")
    assert run(base, tmp_path / "again", init_adapter=str(tmp_path / "moved"))[1]["kept"]  # the content counts
    run(base, tmp_path / "first", seed=1)
    assert "kept" not in run(base, tmp_path / "again", init_adapter=str(tmp_path / "first"))[1]


def test_starts_that_do_not_fit(base, tmp_path):
    run(base, tmp_path / "first")
    for options, message in (({"rank": 8}, "its r is 4, here it is 8; give --rank 4"),
                             ({"use_dora": True}, "use_dora is False, here it is True; give --use-dora false"),
                             ({"targets": ("q_proj",)}, "adapts other layers than this training")):
        with pytest.raises(UsageError, match=message):
            run(base, tmp_path / "x", init_adapter=str(tmp_path / "first"), **options)
    with pytest.raises(UsageError, match="no such folder"):
        run(base, tmp_path / "x", init_adapter=str(tmp_path / "nowhere"))
    run(base, tmp_path / "full", "full")
    with pytest.raises(UsageError, match="--tuning lora cannot go on from it; use --tuning full"):
        run(base, tmp_path / "x", init_adapter=str(tmp_path / "full"))
    other = tiny_whisper(tmp_path / "other", seed=3)
    with pytest.raises(SpeechMergeError, match="belongs to the base"):
        run(other, tmp_path / "x", init_adapter=str(tmp_path / "first"))


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_curriculum_that_was_stopped_goes_on(base, tmp_path, monkeypatch, tuning):
    """The weights come from the checkpoint then, not from the start; samples of the lost steps are written once."""
    run(base, tmp_path / "first", tuning)
    options = {"init_adapter": str(tmp_path / "first"), "max_steps": 4, "eval_steps": 1, "sample_steps": 1, "learning_rate": 1e-3}
    whole, _ = run(base, tmp_path / "whole", tuning, **options)
    decoded = Samples.decoded
    monkeypatch.setattr(Samples, "decoded", lambda self, step: decoded(self, step) if step < 3 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(base, tmp_path / "again", tuning, **options)
    monkeypatch.undo()
    again, _ = run(base, tmp_path / "again", tuning, **options)
    assert "going on from step 2" in (tmp_path / "again/train.log").read_text()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    steps = [row["step"] for _, row in read_json_lines(tmp_path / "again/samples.jsonl")]
    assert steps == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]


# --- samples

def test_samples_are_logged_and_change_nothing(base, tmp_path):
    plain, _ = run(base, tmp_path / "plain", max_steps=4, dropout=0.1)
    seen, _ = run(base, tmp_path / "seen", max_steps=4, dropout=0.1, sample_steps=2)
    assert all(torch.equal(plain[name], seen[name]) for name in plain)
    rows = [row for _, row in read_json_lines(tmp_path / "seen/samples.jsonl")]
    assert [row["step"] for row in rows] == [2, 2, 2, 4, 4, 4] and {row["reference"] for row in rows} <= {"yes", "no", "stop"}
    assert (tmp_path / "seen/train.log").read_text().count("hypothesis:") == 6
    run(base, tmp_path / "seen", max_steps=2, dropout=0.1, sample_steps=1)  # another training in this folder
    assert [row["step"] for _, row in read_json_lines(tmp_path / "seen/samples.jsonl")] == [1, 1, 1, 2, 2, 2]


def test_samples_of_a_run_that_goes_on(tmp_path):
    write_text(tmp_path / "samples.jsonl", '{"step": 2, "id": "a"}\n{"step": 4, "id": "a"}\n')
    callback = Samples(SimpleNamespace(dev=[], train_dataset=SimpleNamespace(examples=[])), tmp_path)
    assert [row["step"] for row in callback.keep(3)] == [2] and callback.keep(0) == []
    assert not (tmp_path / "samples.jsonl").exists()


# --- an audio LLM: text alone, then a little speech

@pytest.mark.slow
def test_curriculum_on_an_audio_llm(tmp_path):
    """First prompts without any audio file, then speech mixed in; decoded from text and from speech, and scored."""
    qwen = str(tiny_qwen2_audio(tmp_path / "qwen"))
    spoken = slu_data(tmp_path / "data/slu/test", n=4, prompts=2)
    written = tmp_path / "text/slu/train"
    shutil.copytree(spoken, written, ignore=shutil.ignore_patterns("wav", "wav.scp"))
    write_text(written / "wav.scp", "".join(f"{line.split()[0]} {NO_AUDIO}\n" for line in (spoken / "wav.scp").read_text().splitlines()))
    common = ["train", "--task", "slu", "--model", qwen, "--exp-dir", str(tmp_path / "exp"), "--device", "cpu", "--rank", "16",
              "--batch-size", "4", "--learning-rate", "1e-2", "--report-to", "--target-format", "compact"]
    assert main([*common, "--name", "text", "--data", str(written), "--inputs", "text", "--epochs", "60"]) == 0
    assert main([*common, "--name", "slu", "--data", str(spoken), "--init-adapter", str(tmp_path / "exp/slu/text"),
                 "--mix", "text=1", "audio=0.5", "--epochs", "4", "--learning-rate", "1e-3"]) == 0
    record = read_json(tmp_path / "exp/slu/slu/speechmerge.json")
    assert record["utterances"] == 4 and record["settings"] == {"target_format": "compact"}
    decode = ["decode", "--model", qwen, "--systems", "text", "--tasks", "slu", "--exp-dir", str(tmp_path / "exp"), "--device", "cpu"]
    shutil.copytree(written, tmp_path / "text/slu/test")
    assert main([*decode, "--data", str(tmp_path / "text")]) == 0
    assert main(["score", "--exp-dir", str(tmp_path / "exp")]) == 0
    folder = tmp_path / "exp/decode/test/text/slu"
    assert read_json(folder / "score.json")["generation"]["slu_f1"] == 1.0
    assert len((folder / "predictions.jsonl").read_text().splitlines()) == 4
    assert main([*decode, "--data", str(tmp_path / "data"), "--inputs", "audio"]) == 0
    assert main(["score", "--exp-dir", str(tmp_path / "exp")]) == 0


# --- the configurations of the recipe

CONF = Path(__file__).resolve().parent.parent / "egs/slurp/conf"


def options_of(*names, more=()):
    module = verb_module("train")
    configs = [word for name in names for word in ("--config", str(CONF / f"{name}.yaml"))]
    return parse("train", module, [*configs, "--task", "slu", "--data", "x", *more])


@pytest.mark.parametrize("name", ["text_only", "audio", "mix", "curriculum"])
def test_the_settings_of_the_paper(name):
    args = options_of(f"qwen2_audio_{name}")
    assert (args.tuning, args.epochs, args.learning_rate, args.decay, args.warmup) == ("full", 3, 5e-6, "cosine", 0.04)
    assert args.batch_size * args.accumulation == 128 and (args.precision, args.dtype) == ("bf16", "float32")
    assert args.target_format == "compact" and args.model == "Qwen/Qwen2-Audio-7B-Instruct" and args.gradient_checkpointing
    given = {"text_only": ("text", []), "audio": ("audio", []), "mix": (None, [("text", 1.0), ("audio", 0.05)]),
             "curriculum": (None, [("audio", 0.05)])}
    assert (args.inputs, args.mix) == given[name]
    assert args.init_adapter == ("exp/slu/text_only" if name == "curriculum" else None)


def test_the_lora_variant():
    args = options_of("qwen2_audio_audio", "qwen2_audio_lora")
    assert (args.tuning, args.targets, args.learning_rate, args.decay) == ("lora", ["decoder"], 1e-4, "cosine")


@pytest.mark.slow
def test_a_dry_run_on_text(tmp_path):
    """The recipe's own configuration on a tiny network of the same class, four samples, one step; the encoder stays."""
    qwen, data = tiny_qwen2_audio(tmp_path / "qwen"), slu_data(tmp_path / "slu", n=6)
    write_text(data / "wav.scp", "".join(f"{line.split()[0]} -\n" for line in (data / "wav.scp").read_text().splitlines()))
    shutil.rmtree(data / "wav")
    assert main(["train", "--config", str(CONF / "qwen2_audio_text_only.yaml"), "--task", "slu", "--model", str(qwen), "--data",
                 str(data), "--max-train-samples", "4", "--max-steps", "1", "--accumulation", "1", "--device", "cpu",
                 "--learning-rate", "1e-2", "--warmup", "0", "--sample-steps", "1", "--exp-dir", str(tmp_path / "exp"),
                 "--output-dir", str(tmp_path / "dry"), "--report-to"]) == 0
    record = read_json(tmp_path / "dry/speechmerge.json")
    assert (record["utterances"], record["step"], record["settings"]["inputs"]) == (4, 1, "text")
    before, after = (load_model(folder, device="cpu").core.state_dict() for folder in (qwen, tmp_path / "dry"))
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed and not any("audio_tower" in name or "multi_modal_projector" in name for name in changed)
    assert "Transcript: wake me at" in (tmp_path / "dry/samples.jsonl").read_text()
