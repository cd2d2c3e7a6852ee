"""Spoken-SQuAD: paragraphs of several wavs, stale answers, no dev set; on samples in the published layout."""
import json

import numpy as np
import pytest
import soundfile

from speechmerge.corpora.spoken_squad import SpokenSquad
from speechmerge.corpora.spoken_squad import corpus as module
from speechmerge.corpora.spoken_squad import paragraphs, twin
from speechmerge.corpora.spoken_squad.corpus import count_spans, read_document
from speechmerge.data.directory import DataDir
from speechmerge.data.format import format_dir
from speechmerge.data.validate import validate
from speechmerge.errors import SpeechMergeError, UsageError

CONTEXT = ("the american football conference a f c c champion denver broncos defeated carolina panthers. the game was "
           "played at levis stadium in santa clara california.")
QUESTIONS = [  # as in spoken_test-v1.1.json: written questions, answers as a recogniser heard them
    ("56be4db0acb8001400a502ec", "Which NFL team represented the AFC at Super Bowl 50?", ["denver broncos"] * 3),
    ("56be4db0acb8001400a502ee", "Where did Super Bowl 50 take place?", ["santa clara california", "levis stadium"]),
]


def paragraph(context, questions):
    return {"context": context, "qas": [
        {"answers": [{"answer_start": context.find(text), "text": text} for text in answers], "question": question,
         "id": id} for id, question, answers in questions]}


def document(*titles):
    return {"data": [{"title": title, "paragraphs": paragraphs} for title, paragraphs in titles], "version": "1.1"}


def tone(path, seconds, rate=24000, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.sin(np.arange(round(seconds * rate)) / 20) / 4
    soundfile.write(path, np.stack([samples] * channels, 1), rate)


@pytest.fixture
def squad(tmp_path):
    """Two titles to train on, one test: the second paragraph of its title has no questions, but audio."""
    root = tmp_path / "squad"
    train = [("Rome", [paragraph("anna lives in rome.", [("a1", "Where does Anna live?", ["rome"])])]),
             ("Tea", [paragraph("peter likes tea.", [("b1", "Who likes tea?", ["peter"]),
                                                     ("b2", "What does Peter like?", ["tea"])])])]
    test = [("Super_Bowl_50", [paragraph("nobody asks.", []), paragraph(CONTEXT, QUESTIONS)])]
    stale = paragraph("the game was won by the wrong words.", [])
    stale["qas"] = [
        {"answers": [{"answer_start": 403, "text": "Levi's Stadium"}], "question": "Where?", "id": QUESTIONS[0][0]},
        {"answers": [{"answer_start": 3, "text": "Denver Broncos"}], "question": "Who?", "id": QUESTIONS[1][0]}]
    noisy = [("Super_Bowl_50", [paragraph("no body ask.", []), stale])]
    root.mkdir()
    for name, titles in (("train", train), ("test", test)):
        (root / f"spoken_{name}-v1.1.json").write_text(json.dumps(document(*titles)))
    (root / "spoken_test-v1.1_WER44.json").write_text(json.dumps(document(*noisy)))
    for name, seconds in (("train/0_0_0", 0.5), ("train/1_0_0", 0.4), ("test/0_0_0", 0.3), ("test/0_1_0", 0.5),
                          ("test/0_1_1", 0.25)):
        tone(root / "wav" / f"{name}.wav", seconds)
    return root


def read(root, **options):
    corpus = SpokenSquad()
    return corpus.read(root, "speech_qa", corpus.options(options))


def test_questions_answers_and_one_file_for_the_paragraph(squad):
    test = read(squad).splits["test"].utterances
    first, second = (test[id] for id, _, _ in QUESTIONS)
    assert first.labels["question"] == "Which NFL team represented the AFC at Super Bowl 50?"
    assert json.loads(first.labels["answers"]) == ["denver broncos"]
    assert json.loads(second.labels["answers"]) == ["santa clara california", "levis stadium"]
    assert first.audio == second.audio == str(squad / "paragraphs/test/0_1.flac") and first.text == CONTEXT
    info = soundfile.info(first.audio)
    assert (info.samplerate, info.channels, info.duration) == (16000, 1, 0.75)


def test_paragraphs_without_questions_are_neither_joined_nor_lost(squad):
    reading = read(squad)
    assert reading.skipped["paragraph without questions"] == 1
    assert [path.name for path in (squad / "paragraphs/test").iterdir()] == ["0_1.flac"]


def test_joining_goes_on_where_it_was(squad, monkeypatch):
    read(squad)
    joined = squad / "paragraphs/test/0_1.flac"
    before = joined.stat().st_mtime_ns
    read(squad)
    assert joined.stat().st_mtime_ns == before
    tone(squad / "wav/test/0_1_2.wav", 0.3)  # the download goes on: a third sentence
    read(squad)
    assert soundfile.info(joined).duration == pytest.approx(1.05)


def test_sentences_stand_in_their_order_not_in_that_of_names(tmp_path):
    for number in (0, 1, 2, 9, 10):
        tone(tmp_path / f"wav/sub/3_12_{number}.wav", 0.1)
    found = paragraphs.find_sentences(tmp_path / "wav")
    assert [path.stem for path in found[3, 12]] == [f"3_12_{number}" for number in range(11)]  # 3 to 8 are missing


def test_copies_that_count_from_one(tmp_path):
    tone(tmp_path / "1_1_1.wav", 0.1)
    tone(tmp_path / "1_2_1.wav", 0.1)
    assert set(paragraphs.find_sentences(tmp_path)) == {(0, 0), (0, 1)}
    tone(tmp_path / "0_3_1.wav", 0.1)
    assert set(paragraphs.find_sentences(tmp_path)) == {(1, 1), (1, 2), (0, 3)}


def test_sentences_of_other_rates_and_channels_are_joined(tmp_path):
    tone(tmp_path / "a.wav", 0.5, 24000)
    tone(tmp_path / "b.wav", 0.5, 44100, channels=2)
    assert paragraphs.join(tmp_path / "joined.flac", [tmp_path / "a.wav", tmp_path / "b.wav"])
    assert soundfile.info(tmp_path / "joined.flac").frames == 16000


@pytest.mark.parametrize("gone", ["0_1_0", "0_1_1"])
def test_missing_sentences_are_an_error_not_a_shorter_paragraph(squad, tmp_path, gone):
    (squad / f"wav/test/{gone}.wav").write_bytes(b"")
    with pytest.raises(SpeechMergeError, match=f"1 empty, the first is .*{gone}.wav"):
        SpokenSquad().prepare(tmp_path / "data", corpus_dir=squad)
    if gone == "0_1_0":
        (squad / f"wav/test/{gone}.wav").unlink()
        with pytest.raises(SpeechMergeError, match=f"1 are missing .*{gone}.wav"):
            SpokenSquad().prepare(tmp_path / "data", corpus_dir=squad)


def test_dev_is_whole_titles_of_train(squad):
    splits = read(squad, dev_share=0.5).splits
    groups = {name: {u.labels["group"] for u in splits[name].utterances.values()} for name in ("train", "dev")}
    assert groups["train"] | groups["dev"] == {"Rome", "Tea"} and not groups["train"] & groups["dev"]
    assert len(splits["train"].utterances) + len(splits["dev"].utterances) == 3


def test_noisy_variants_keep_their_stale_answers_as_texts(squad):
    reading = read(squad, variants="wer44")
    noisy, clean = reading.splits["test_wer44"].utterances, reading.splits["test"].utterances
    assert [json.loads(u.labels["answers"]) for u in noisy.values()] == [["Levi's Stadium"], ["Denver Broncos"]]
    assert {u.audio for u in noisy.values()} == {u.audio for u in clean.values()}  # the noisy audio is not published
    assert noisy.keys() == clean.keys() and noisy[QUESTIONS[0][0]].text == "the game was won by the wrong words."


def test_spans_are_counted_as_the_facts_count_them(squad):
    """In the release 15,875 of 15,875 answers of the test stand there, 579 and 322 of 17,841 of the variants."""
    assert count_spans(read_document(squad / "spoken_test-v1.1.json")) == (5, 5, None)
    assert count_spans(read_document(squad / "spoken_test-v1.1_WER44.json")) == (0, 2, QUESTIONS[0][0])
    (squad / "spoken_test-v1.1_WER44.json").rename(squad / "spoken_test-v1.1.json")
    with pytest.raises(SpeechMergeError, match="2 of 2 answers are not at their answer_start .*is it a noisy variant"):
        read(squad)


def test_counts_of_the_release_are_of_train_and_dev_together(squad, tmp_path, monkeypatch):
    corpus = SpokenSquad()
    assert corpus.expected("speech_qa", corpus.options({"variants": "wer44,wer54"})) == {
        "train": 37111, "test": 5351, "test_wer44": 5351, "test_wer54": 5351}
    with pytest.raises(SpeechMergeError, match="train: found 3, expected 37111; test: found 2, expected 5351"):
        corpus.prepare(tmp_path / "data", corpus_dir=squad)
    monkeypatch.setattr(module, "QUESTIONS", {"train": 3, "test": 2})
    made = corpus.prepare(tmp_path / "data", corpus_dir=squad)
    assert sorted(path.name for path in made) == ["dev", "test", "train"]


def test_what_is_wrong_is_named(squad, tmp_path):
    with pytest.raises(UsageError, match="no variant 'wer45'; did you mean"):
        SpokenSquad().options({"variants": "wer45"})
    with pytest.raises(UsageError, match="dev_share=1.0"):
        SpokenSquad().options({"dev_share": 1})
    (squad / "spoken_train-v1.1.json").write_text('{"data": [{"title": "A", "paragraphs": [{"qas": []}]}]}')
    with pytest.raises(SpeechMergeError, match="spoken_train-v1.1.json: is not in the format of SQuAD v1.1"):
        read(squad)
    with pytest.raises(SpeechMergeError, match="git clone .* below wav/train"):
        SpokenSquad().prepare(tmp_path / "data", corpus_dir=tmp_path / "none")
    with pytest.raises(SpeechMergeError, match="no files <topic>_<paragraph>_<sentence>.wav"):
        paragraphs.find_sentences(tmp_path / "none")


@pytest.fixture(scope="module")
def twin_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("squad_twin")
    SpokenSquad().prepare(root / "data", corpus_dir=root / "corpus", mini=True, variants=("wer44", "wer54"))
    return root


@pytest.mark.parametrize("split, count", [("train", 252), ("dev", 28), ("test", 64), ("test_wer44", 64)])
def test_twin_goes_through_prepare_format_and_validate(twin_root, split, count):
    path = twin_root / "data/speech_qa" / split
    assert format_dir(path)["dropped"] == {"too short": 0, "too long": 0, "unusable audio": 0}
    found = DataDir.read(path).utterances
    assert not validate(path) and len(found) == count
    assert max(utterance.duration for utterance in found.values()) <= 3.9


def test_twin_has_what_is_awkward(twin_root):
    titles = read_document(twin_root / "corpus/spoken_test-v1.1.json")
    right, total, _ = count_spans(titles)
    assert right == total == sum(len(q["answers"]) for t in titles for p in t["paragraphs"] for q in p["qas"])
    assert sum(not p["qas"] for t in titles for p in t["paragraphs"]) == 8
    noisy = read_document(twin_root / "corpus/spoken_test-v1.1_WER54.json")
    assert count_spans(noisy)[0] < total / 10
    assert any(answer["answer_start"] >= len(paragraph["context"]) for title in noisy
               for paragraph in title["paragraphs"] for entry in paragraph["qas"] for answer in entry["answers"])
    train = read_document(twin_root / "corpus/spoken_train-v1.1.json")
    contexts = [" ".join(p["context"] for t in side for p in t["paragraphs"]) for side in (train, titles)]
    assert not set.intersection(*({s.strip() for s in text.split(".")} - {""} for text in contexts))


def test_twin_is_the_same_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr(twin, "TITLES", {"train": 1, "test": 1})
    trees = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        SpokenSquad().write_twin(tmp_path / name, seed, 1)
        files = [path for path in sorted((tmp_path / name).rglob("*")) if path.is_file()]
        trees.append({path.relative_to(tmp_path / name): path.read_bytes() for path in files})
    assert trees[0] == trees[1] != trees[2]
