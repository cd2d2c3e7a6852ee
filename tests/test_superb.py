"""SUPERB: the score against published numbers, phone recognition, the cross-task table and its resuming."""
import json
from pathlib import Path

import jiwer
import pytest

from speechmerge import cli
from speechmerge.data.directory import DataDir, Utterance
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.files import write_json
from speechmerge.metrics.superb import comparable, references, superb_score
from speechmerge.report.superb import curve_points, write_results
from speechmerge.scoring import ReferenceCache
from speechmerge.stages.superb import named, task_folders
from speechmerge.tasks import get_task
from speechmerge.tasks.phones import Phonemizer, looked_up, phones_of, read_lexicon

FOUR = ("PR", "SID", "ER", "SF")
PUBLISHED = [(model, row) for model in ("HuBERT", "wav2vec 2.0") for row in ("pre-trained", "Stable-FT", "Speech-FT")]


def published(model, row):
    values = dict(references()["published"][model][row])
    return values, values.pop("score")


# The score

@pytest.mark.parametrize("model, row", PUBLISHED)
def test_published_scores_over_four_tasks(model, row):
    values, score = published(model, row)
    assert superb_score({task: values[task] for task in FOUR}) == pytest.approx(score["four"], abs=0.06)


def test_published_scores_over_ten_tasks():
    for row in ("pre-trained", "Stable-FT", "Speech-FT"):
        values, score = published("HuBERT", row)
        assert len(values) == 10
        assert superb_score(values) == pytest.approx(score["ten"], abs=0.6)


def test_the_published_numbers_are_those_of_the_paper():
    """Typed in again: a slip in the yaml would not be seen by the fit alone."""
    assert [published(m, r)[1]["four"] for m, r in PUBLISHED] == [870.20, 870.71, 905.79, 837.08, 824.82, 864.79]
    values, _ = published("HuBERT", "Speech-FT")
    assert [values["PR"]["per"], values["ASR"]["wer"], values["SID"]["accuracy"]] == [3.94, 5.75, 84.11]


def test_references_score_0_and_1000_and_the_middle_500():
    low, high = (references()["rows"][name] for name in ("FBANK", "SOTA"))
    values = {task: low[task] for task in FOUR}
    assert superb_score(values) == 0
    assert superb_score({task: high[task] for task in FOUR}) == pytest.approx(1000)
    middle = {task: {metric: (low[task][metric] + high[task][metric]) / 2 for metric in low[task]} for task in FOUR}
    assert superb_score(middle) == pytest.approx(500)


def test_a_task_of_two_metrics_counts_once():
    low = {"PR": {"per": 50.0}, "SF": {"slot_type_f1": 0.0, "slot_value_cer": 100.0}}
    high = {"PR": {"per": 0.0}, "SF": {"slot_type_f1": 100.0, "slot_value_cer": 0.0}}
    values = {"PR": {"per": 25.0}, "SF": {"slot_type_f1": 100.0, "slot_value_cer": 80.0}}
    assert superb_score(values, low, high) == pytest.approx(1000 * (0.5 + (1.0 + 0.2) / 2) / 2)


def test_score_errors():
    with pytest.raises(SpeechMergeError, match="no task 'KWS'; expected some of PR"):
        superb_score({"KWS": {"accuracy": 90.0}})
    with pytest.raises(SpeechMergeError, match="SF has no slot_value_cer"):
        superb_score({"SF": {"slot_type_f1": 90.0}})
    with pytest.raises(SpeechMergeError, match="two numbers that differ"):
        superb_score({"KS": {"accuracy": 90.0}}, {"KS": {"accuracy": 50.0}}, {"KS": {"accuracy": 50.0}})
    with pytest.raises(SpeechMergeError, match="no task to score"):
        superb_score({})


def test_only_tasks_where_the_high_anchor_is_better_are_comparable():
    low = {"PR": {"per": 80.0}, "SID": {"accuracy": 60.0}, "SF": {"slot_type_f1": 50.0, "slot_value_cer": 40.0}}
    high = {"PR": {"per": 40.0}, "SID": {"accuracy": 50.0}, "SF": {"slot_type_f1": 60.0, "slot_value_cer": 45.0}}
    assert comparable(low, high) == ["PR"]


# Phones

def data_of(path, texts, language="en", **labels):
    utterances = {}
    for number, text in enumerate(texts):
        own = {name: values[number] for name, values in labels.items() if values[number] is not None}
        utterances[f"u{number}"] = Utterance(f"u{number}", f"{path}/u{number}.wav", text, "s", language, 1.0, own)
    return DataDir(path, utterances)


def test_espeak_says_phones_without_stress():
    phones = Phonemizer()
    assert phones("the red car", "en") == "ð ə ɹ ɛ d k ɑː"
    assert phones("hello, world", "en").split() == ["h", "ə", "l", "əʊ", "w", "ɜː", "l", "d"]  # two clauses
    assert "(" not in phones("der computer is broken", "de")  # a change of language leaves no mark
    assert phones("लड़का", "hi")
    with pytest.raises(SpeechMergeError, match="no voice for the language 'xq'"):
        phones("a", "xq")


def test_phones_do_not_disturb_the_synthesis_of_the_mini_corpora():
    from speechmerge.corpora.mini.speech import Synthesizer

    engine = Synthesizer()
    before = engine.speak("a small house", "en", "f2")
    Phonemizer()("der kleine Hund", "de")
    assert (engine.speak("a small house", "en", "f2") == before).all()


def test_targets_are_phones_made_from_text_or_given(tmp_path):
    task = get_task("phones")
    made = task.examples(data_of(tmp_path, ["the red car"]))
    assert [e.target for e in made] == ["ð ə ɹ ɛ d k ɑː"] and task.ctc_units == "word"
    given = task.examples(data_of(tmp_path, ["the red car"], phones=["DH AH0"]))
    assert [e.target for e in given] == ["DH AH0"]
    with pytest.raises(SpeechMergeError, match="utt2phones: no phones for utterance u1"):
        phones_of(data_of(tmp_path, ["a", "b"], phones=["AH0", None]))
    with pytest.raises(SpeechMergeError, match="no transcript for utterance u0"):
        phones_of(data_of(tmp_path, [None]))


def test_phone_error_rate_counts_phones_as_they_stand():
    """Against jiwer on the raw tokens; the `basic` normaliser would drop length marks and digits' signs."""
    task = get_task("phones")
    refs = {"a": "ð ə k ɑː", "b": "h ɔː s i z", "c": "t"}
    hyps = {"a": "ð ə k ɑ", "b": "h ɔː s z z", "c": ""}
    expected = jiwer.wer(list(refs.values()), list(hyps.values()))
    found = task.score(refs, hyps)
    assert found["per"] == found["value"] == pytest.approx(expected) == pytest.approx(3 / 10)
    assert found["metric"] == "per" and found["phones"] == 10 and "wer" not in found
    errors, tokens = task.parts(refs, hyps)
    assert errors.tolist() == [1, 1, 1] and tokens.tolist() == [4, 5, 1]


def write_data(folder: Path, texts) -> Path:
    folder.mkdir(parents=True)
    rows = {f"u{number}": text for number, text in enumerate(texts)}
    for id in rows:
        (folder / f"{id}.wav").write_bytes(b"")
    for name, values in {"wav.scp": {id: folder / f"{id}.wav" for id in rows}, "text": rows,
                         "utt2spk": dict.fromkeys(rows, "s"), "spk2utt": {"s": " ".join(rows)},
                         "utt2lang": dict.fromkeys(rows, "en")}.items():
        (folder / name).write_text("".join(f"{key} {value}\n" for key, value in values.items()), encoding="utf-8")
    return folder


def test_scoring_asks_for_no_normaliser_even_if_another_is_chosen(tmp_path):
    folder = write_data(tmp_path / "test", ["the red car"])
    found = ReferenceCache("english").get("phones", str(folder))
    target = found.targets["u0"]
    score = found.task.score(found.targets, {"u0": target.replace("ɑː", "ɑ")})
    assert score["normaliser"] == "none" and score["per"] == pytest.approx(1 / 7)


def test_the_verb_writes_phones_of_a_lexicon(tmp_path):
    folder = write_data(tmp_path / "train", ["the red car", "red the"])
    lexicon = tmp_path / "lexicon.txt"
    lexicon.write_text("THE  DH AH0\nTHE(2)  DH IY0\nRED  R EH1 D\nCAR  K AA1 R\n")
    assert cli.main(["phones", "--data", str(folder), "--lexicon", str(lexicon)]) == 0
    assert (folder / "utt2phones").read_text() == "u0 DH AH0 R EH1 D K AA1 R\nu1 R EH1 D DH AH0\n"
    assert [e.target for e in get_task("phones").examples(DataDir.read(folder))][1] == "R EH1 D DH AH0"


def test_lexicon_errors(tmp_path):
    with pytest.raises(SpeechMergeError, match="text:u0: the word 'blue' is not in the lexicon"):
        looked_up("the blue", {"the": "DH AH0"}, "text:u0")
    path = tmp_path / "lexicon"
    path.write_text("THE  DH AH0\nCAR\n")
    with pytest.raises(SpeechMergeError, match="lexicon:2: found 'CAR', expected"):
        read_lexicon(path)


# The table

CELLS = {"fbank": (0.9, 0.4, 0.5), "alpha0": (0.5, 0.8, 0.4), "alpha0.25": (0.4, 0.85, 0.6), "alpha1": (0.6, 0.7, 0.5)}


def fake_cells(folder: Path):
    for upstream, (per, accuracy, emotion) in CELLS.items():
        for task, metric, value in (("phones", "per", per), ("kws", "accuracy", accuracy), ("emotion", "accuracy", emotion)):
            reading = {metric: value, "value": value, "ci": [value - 0.05, value + 0.05], "ci_unit": "utterance"}
            (folder / upstream / task).mkdir(parents=True)
            write_json(folder / upstream / task / "scores.json",
                       {"task": task, "metric": metric, "n": 20, "generation": reading, "labels": None})


def test_table_scores_and_curve(tmp_path):
    fake_cells(tmp_path)
    upstreams = {name: f"models/{name}" for name in CELLS}
    text = write_results(tmp_path, upstreams, ["phones", "kws", "emotion"], low="fbank", high="alpha0")
    results = json.loads((tmp_path / "superb.json").read_text())
    assert results["superb_s"]["alpha0.25"] == pytest.approx(superb_score(
        {"PR": {"per": 40.0}, "KS": {"accuracy": 85.0}, "ER": {"accuracy": 60.0}}))
    anchors = results["anchored"]
    assert anchors["tasks"] == ["PR", "KS"] and anchors["left_out"] == ["ER"]  # alpha0 is worse than fbank on ER
    assert anchors["scores"]["fbank"] == 0 and anchors["scores"]["alpha0"] == pytest.approx(1000)
    assert anchors["scores"]["alpha0.25"] == pytest.approx(1000 * (0.5 / 0.4 + 0.45 / 0.4) / 2)
    assert "| alpha0.25 | 40.0 [35.0, 45.0] | 85.0 [80.0, 90.0] |" in text and "PR PER ↓" in text
    assert "its size means nothing" in text and "Not in the last column" in text
    assert text == (tmp_path / "superb.md").read_text()
    assert (tmp_path / "superb.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert curve_points(upstreams) == [(0.0, "alpha0"), (0.25, "alpha0.25"), (1.0, "alpha1")]


def test_gains_within_chance_are_no_anchors(tmp_path):
    fake_cells(tmp_path)
    upstreams = {name: f"models/{name}" for name in CELLS}
    noisy = json.loads((tmp_path / "alpha0/kws/scores.json").read_text())
    noisy["generation"]["ci"] = [0.39, 0.9]  # fbank's 0.4 lies in it: their difference may be chance
    write_json(tmp_path / "alpha0/kws/scores.json", noisy)
    write_results(tmp_path, upstreams, ["phones", "kws", "emotion"], low="fbank", high="alpha0")
    assert json.loads((tmp_path / "superb.json").read_text())["anchored"]["left_out"] == ["ER", "KS"]


def test_a_missing_cell_is_named(tmp_path):
    fake_cells(tmp_path)
    (tmp_path / "alpha1" / "kws" / "scores.json").unlink()
    with pytest.raises(SpeechMergeError, match="alpha1/kws: not done yet"):
        write_results(tmp_path, dict.fromkeys(CELLS, "m"), ["phones", "kws"])


def test_options_of_the_verb():
    assert named(["alpha0=egs/mini/upstream", "models/hubert"], "--upstreams") == {
        "alpha0": "egs/mini/upstream", "hubert": "models/hubert"}
    assert task_folders(["phones=data/asr", "kws"], "data/mini") == {"phones": "data/asr", "kws": "data/mini/kws"}
    for words, message in ((["a=x", "a=y"], "stands there twice"), (["=x"], "expected NAME=MODEL"),
                           (["s3prl:fbank"], "expected NAME=MODEL")):
        with pytest.raises(UsageError, match=message):
            named(words, "--upstreams")
    with pytest.raises(UsageError, match="did you mean 'kws'"):
        task_folders(["kvs"], "data")
    with pytest.raises(UsageError, match="asks a question"):
        task_folders(["speech_qa"], "data")
