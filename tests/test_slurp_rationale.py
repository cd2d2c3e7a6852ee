"""Rationale and label: reading the lines, what is learnt, what is read back, the files that are written."""
import json

import pytest
from tiny import tiny_tones
from tiny_qwen import tiny_qwen2_audio

from speechmerge.cli import main
from speechmerge.data.directory import DataDir
from speechmerge.data.validate import validate
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.files import read_json, write_json, write_text
from speechmerge.plain_files import read_json_lines, slurp_predictions
from speechmerge.scoring import score_decoded
from speechmerge.tasks import get_task

FINALS = [{"intent": "alarm_set", "entities": [{"type": "time", "filler": "ten"}]},
          {"scenario": "iot", "action": "hue_lightoff", "entities": [{"house_place": "kitchen"}]},
          '{"scenario": "play", "action": "music", "entities": []}', {"intent": "iot_hue_lightoff", "entities": []}]


@pytest.fixture
def files(tmp_path):
    """Four recordings; JSON lines for train and devel."""
    folder = tiny_tones(tmp_path / "tones", task="asr", n=4)
    names = [line.split()[1].rsplit("/", 1)[1] for line in (folder / "wav.scp").read_text().splitlines()]
    rows = [{"filename": name, "candidates": [f"wake {i}", {"text": "vague"}], "rationale_text": f"they say {i},\nso {{alarm}}",
             "final": final, **({"sentence": "wake"} if i else {})} for i, (name, final) in enumerate(zip(names, FINALS))]
    for split, chosen in (("train", rows), ("devel", rows[1:])):
        write_text(tmp_path / f"cot/ASR_cot_{split}.jsonl", "".join(json.dumps(row) + "\n" for row in chosen))
    return tmp_path


def prepare(files, *params):
    return main(["prepare", "--corpus", "rationale", "--corpus-dir", str(files / "cot"), "--output-dir", str(files / "data"),
                 "--param", f"audio_dir={files / 'tones/wav'}", *params])


def test_reading(files):
    assert prepare(files) == 0
    train, dev = (DataDir.read(files / "data/slu_rationale" / split) for split in ("train", "dev"))
    assert (len(train.utterances), len(dev.utterances)) == (4, 3) and validate(train.path) == []
    first, *others = train.utterances.values()
    assert json.loads(first.labels["slu"]) == {"scenario": "alarm", "action": "set", "entities": FINALS[0]["entities"]}
    assert [json.loads(u.labels["slu"])["action"] for u in others] == ["hue_lightoff", "music", "hue_lightoff"]
    assert json.loads(first.labels["candidates"]) == ["wake 0", "vague"]
    assert first.text is None and next(iter(dev.utterances.values())).text == "wake"  # one line of train has no sentence


@pytest.mark.parametrize("change, message", [
    ({"final": {"entities": []}}, "train.jsonl:5: final is"), ({"final": "none"}, "expected intent"),
    ({"candidates": [1]}, "a list of texts in candidates"), ({"rationale_text": " "}, "expected words in rationale_text"),
    ({"filename": "gone.wav"}, "of 5 recordings 1 are not there, the first is gone.wav")])
def test_lines_that_are_none(files, change, message, capsys):
    path = files / "cot/ASR_cot_train.jsonl"
    row = {**json.loads(path.read_text().splitlines()[0]), "filename": "new.wav", **change}
    (files / "tones/wav/new.wav").write_bytes((next((files / "tones/wav").glob("s*.wav"))).read_bytes())
    write_text(path, path.read_text() + json.dumps(row) + "\n")
    assert prepare(files) == 1
    assert message in capsys.readouterr().err


def test_files_that_are_not_there(files, capsys):
    write_text(files / "cot/other_train.jsonl", "")
    assert prepare(files) == 1 and "could both be train; choose with --param train=" in capsys.readouterr().err
    assert prepare(files, "train=ASR_cot_train.jsonl", "dev=nothing.jsonl") == 1
    assert "nothing.jsonl: not there" in capsys.readouterr().err
    (files / "cot/other_train.jsonl").unlink()
    path = files / "cot/ASR_cot_train.jsonl"
    write_text(path, path.read_text() * 2)
    assert prepare(files) == 1 and "stands there twice" in capsys.readouterr().err


class Model:
    source, family, reads_text, needs_instruction = "model", "model", True, True

    def writes(self, text):
        return True


def test_what_is_learnt_and_read_back(files):
    assert prepare(files) == 0
    data = DataDir.read(files / "data/slu_rationale/train")
    task = get_task("slu_rationale").configure(target_format="compact", prompt="Weigh these: {candidates}")
    task.adapt(Model())
    example = task.examples(data)[0]
    assert example.prompt == "Weigh these: 1. wake 0\n2. vague"
    written = task.written(example.target)
    assert written == 'they say 0, so {alarm} {"scenario":"alarm","action":"set","entities":[{"time":"ten"}]}'
    assert task.answer(written) == ("they say 0, so {alarm}", json.loads(data.utterances[example.id].labels["slu"]))
    tempted = 'not {"scenario":"x","action":"y"} but {"scenario":"a","action":"b","entities":[]} then'
    assert task.answer(tempted)[1]["scenario"] == "a" and task.answer("all reason")[1] is None
    with pytest.raises(UsageError, match="--target-format 'linear'"):
        get_task("slu_rationale").configure(target_format="linear")
    write_text(data.path / "utt2rationale", "")
    with pytest.raises(SpeechMergeError, match="no rationale for utterance"):
        task.examples(DataDir.read(data.path, check=False))


def test_the_three_files(files):
    assert prepare(files) == 0
    data = DataDir.read(files / "data/slu_rationale/train")
    task = get_task("slu_rationale")
    targets = {example.id: task.written(example.target) for example in task.examples(data)}
    first, second, third, fourth = sorted(targets)
    wrong = targets[second].replace("kitchen", "hall")
    folder = files / "exp/decode/train/base/slu_rationale"
    write_text(folder / "hyp", f"{first} {targets[first]}\n{second} {wrong}\n{third} only words\n")
    write_json(folder / "decode.json", {"task": "slu_rationale", "data": str(data.path), "settings": {}, "key": "k",
                                        "system": {"name": "base", "kind": "base"}})
    score_decoded(folder)
    rows = [row for _, row in read_json_lines(folder / "prediction.jsonl")]
    assert [row["filename"] for row in rows] == [f"{id}.flac" for id in sorted(targets)]
    assert (rows[0]["rationale"], rows[0]["candidates"], rows[0]["raw_output"]) == (
        "they say 0, so {alarm}", ["wake 0", "vague"], targets[first]) and rows[2]["rationale"] == "only words"
    labels = [row for _, row in read_json_lines(folder / "prediction_labels_only.jsonl")]
    assert [row["intent"] for row in labels] == ["alarm_set", "iot_hue_lightoff", "", ""] and "raw_output" not in labels[0]
    assert len(slurp_predictions(folder / "prediction_labels_only.jsonl")) == 4
    found = read_json(folder / "metrics_label_only.json")
    assert found["intent_acc"] == found["scenario_acc"] == found["action_acc"] == 0.5
    # two gold entities, two predicted, one of them right
    assert (found["entity_precision"], found["entity_recall"], found["entity_f1"]) == (0.5, 0.5, 0.5)
    assert (found["n"], found["n_unparsed"]) == (4, 2)


@pytest.mark.slow
def test_an_audio_llm_learns_them(files):
    """Through the whole path: prepared, trained, decoded, scored."""
    assert prepare(files) == 0
    common = ["--model", str(tiny_qwen2_audio(files / "qwen")), "--exp-dir", str(files / "exp"), "--device", "cpu"]
    data = files / "data/slu_rationale"
    assert main(["train", "--task", "slu_rationale", "--data", str(data / "train"), *common, "--rank", "16", "--batch-size", "4",
                 "--learning-rate", "1e-2", "--epochs", "80", "--report-to"]) == 0
    assert main(["decode", "--tasks", "slu_rationale", "--systems", "slu_rationale", "--data", str(files / "data"), "--split",
                 "dev", *common]) == 0
    assert main(["score", "--split", "dev", "--exp-dir", str(files / "exp"), "--repetitions", "10"]) == 0
    assert read_json(files / "exp/decode/dev/slu_rationale/slu_rationale/metrics_label_only.json")["intent_acc"] == 1.0
