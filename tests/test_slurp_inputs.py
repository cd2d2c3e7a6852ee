"""What a model is given of an utterance (sound, transcript, both), instructions, and what scoring writes for others."""
import json

import pytest
from tiny import tiny_tones
from types import SimpleNamespace

from speechmerge.cli import main
from speechmerge.data.directory import DataDir
from speechmerge.errors import UsageError
from speechmerge.files import read_json, write_json, write_text
from speechmerge.plain_files import slurp_predictions
from speechmerge.scoring import score_decoded
from speechmerge.tasks import TASKS, get_task
from speechmerge.tasks.frame import decode, encode

READER = SimpleNamespace(source="reader", family="reader", reads_text=True, needs_instruction=True, writes=lambda text: True)
FRAMES = [{"scenario": "alarm", "action": "set", "entities": [{"type": "time", "filler": f"at {i}"}]} for i in range(3)]


@pytest.fixture
def data(tmp_path):
    """Three recordings, the first two of one prompt."""
    folder = tiny_tones(tmp_path / "data/slu/test", task="asr", n=3)
    ids = [line.split()[0] for line in (folder / "wav.scp").read_text().splitlines()]
    tables = {"slu": [encode(frame, "json") for frame in FRAMES], "slurp_id": ["7", "7", "8"],
              "question": ["what is it"] * 3, "answers": ['["x"]'] * 3, "translation": ["ja"] * 3, "target_lang": ["de"] * 3,
              "emotion": ["sad"] * 3, "intent": ["on"] * 3, "keyword": ["yes"] * 3,
              "candidates": ['["a","b"]'] * 3, "rationale": ["because"] * 3}
    for name, values in tables.items():
        write_text(folder / f"utt2{name}", "".join(f"{id} {value}\n" for id, value in zip(ids, values)))
    return folder


def reading(name="slu", **options):
    task = get_task(name).configure(**options)
    task.adapt(READER)
    return task


def test_inputs(data):
    data = DataDir.read(data)
    hears, reads, both = (reading(inputs=inputs).examples(data)[0] for inputs in ("audio", "text", "audio+text"))
    assert hears.audio == both.audio != () and reads.audio == () and reads.duration == 0 and both.duration > 0
    assert "yes" not in hears.prompt and reads.prompt == both.prompt == f"{hears.prompt}\nTranscript: yes"
    placed = reading(inputs="text", prompt="Parse {transcript}!").examples(data)[0]
    assert placed.prompt == "Parse yes!"
    assert reading(inputs="text").settings() == {"inputs": "text", "target_format": "json"}


@pytest.mark.parametrize("name, inputs, message", [
    ("slu", "txet", "did you mean 'text'"), ("asr", "text", "the transcript is what is to be written"),
    ("asr", "audio+text", "is what is to be written"), ("speaker_ver", "text", "does not tell voices apart")])
def test_inputs_that_make_no_sense(name, inputs, message):
    with pytest.raises(UsageError, match=message):
        get_task(name).configure(inputs=inputs)


def test_families_that_hear_only_say_so():
    deaf = SimpleNamespace(**{**vars(READER), "reads_text": False})
    with pytest.raises(UsageError, match="--inputs text: models of the family reader hear only"):
        get_task("slu").configure(inputs="text").adapt(deaf)
    get_task("slu").adapt(deaf)


@pytest.mark.parametrize("name", TASKS.names())
def test_every_task_has_an_instruction(name, data):
    if name not in ("asr", "st", "speech_qa", "slu", "slu_rationale", "emotion", "intent", "kws", "langid", "speaker_id"):
        assert name in ("speaker_ver", "phones")  # pairs; letters of sounds
        return
    data = DataDir.read(data)
    task, plain = reading(name), get_task(name)
    told = task.examples(data)[0].prompt
    assert told and told != plain.examples(data)[0].prompt and "{" not in told.replace('{"', "").replace("[{", "")
    if name == "st":
        assert "German" in told
    if name in ("emotion", "intent", "kws", "langid"):
        assert told.endswith(f"{', '.join(task.labels(data))}.")
    own = reading(name, prompt="Do it.")
    assert own.examples(data)[0].prompt == "Do it."


def test_the_instruction_shows_the_target_format(data):
    data = DataDir.read(data)
    for format in ("json", "compact", "linear"):
        task = reading(target_format=format)
        shown = task.examples(data)[0].prompt.split("form: ")[1]
        assert decode(shown, format)["entities"] == [{"type": "time", "filler": "eight o'clock"}]
        task.adapt(READER)  # a second model of the same run
        assert task.examples(data)[0].prompt.endswith(shown)


def test_predictions_for_the_official_evaluator(data, tmp_path):
    """Every recording has a line, also those that were not decoded or cannot be read; raw output is kept."""
    first, second, third = sorted(DataDir.read(data).utterances)
    folder = tmp_path / "exp/decode/test/base/slu"
    answer = 'Here: {"scenario":"alarm","action":"set","entities":[{"time":"at 0"}]}'
    write_text(folder / "hyp", f"{first} {answer}\n{third} no frame\n")
    write_json(folder / "decode.json", {"task": "slu", "data": str(data), "settings": {"target_format": "compact"}, "key": "k",
                                        "system": {"name": "base", "kind": "base"}})
    score_decoded(folder)
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    empty = {"scenario": "", "action": "", "entities": []}
    assert rows == [{"file": f"{first}.flac", "slurp_id": "7", **FRAMES[0], "raw_output": answer},
                    {"file": f"{second}.flac", "slurp_id": "7", **empty, "raw_output": ""},
                    {"file": f"{third}.flac", "slurp_id": "8", **empty, "raw_output": "no frame"}]
    assert slurp_predictions(folder / "predictions.jsonl").keys() == {row["file"] for row in rows}
    assert slurp_predictions(folder / "predictions.jsonl", by_prompt=True).keys() == {"7", "8"}
    score = read_json(folder / "score.json")["generation"]
    assert (score["n"], score["n_missing"], score["intent_f1"]) == (3, 1, pytest.approx(1 / 3))


def test_the_report_reads_answers_about_transcripts(data, tmp_path):
    """Data without audio, answers in another format than the default: the example is right, and shown as it was written."""
    ids = sorted(DataDir.read(data).utterances)
    write_text(data / "wav.scp", "".join(f"{id} -\n" for id in ids))
    (data / "utt2dur").unlink()
    folder = tmp_path / "exp/decode/test/base/slu"
    write_text(folder / "hyp", "".join(f"{id} {encode(frame, 'compact')}\n" for id, frame in zip(ids, FRAMES)))
    write_json(folder / "decode.json", {"task": "slu", "data": str(data), "key": "k", "system": {"name": "base", "kind": "base"},
                                        "settings": {"target_format": "compact", "inputs": "text"}, "model": {}, "split": "test"})
    exp, root = str(tmp_path / "exp"), str(tmp_path / "data")
    assert main(["score", "--exp-dir", exp, "--repetitions", "10"]) == 0
    assert main(["report", "--exp-dir", exp, "--data", root, "--split", "test", "--dev-split", "test", "--output-dir",
                 str(tmp_path / "report")]) == 0
    page = next((tmp_path / "report").glob("*.html")).read_text()
    assert "at 0" in page and "{&#34;time&#34;:&#34;at 0&#34;}" in page
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert rows[0] == {"slurp_id": "7", **FRAMES[0], "raw_output": encode(FRAMES[0], "compact")}
