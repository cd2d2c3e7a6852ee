"""Speech Commands: splits by list and by hash, twelve classes and all, silence, the test archive, its twin."""
import hashlib
import io
import re

import numpy as np
import pytest
import soundfile

from speechmerge.corpora import CORPORA
from speechmerge.corpora.speech_commands import KEYWORDS, NOISES, WORDS, hash_split
from speechmerge.data.directory import DataDir
from speechmerge.data.format import format_dir
from speechmerge.data.validate import validate
from speechmerge.errors import SpeechMergeError, UsageError

DEV, TEST = "right/bb05582b_nohash_3.wav", "bed/0ab3b47d_nohash_0.wav"


def write_wav(path, seconds=0.5, value=0.1):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(round(seconds * 16000), value, np.float32), 16000, subtype="PCM_16")


def write_corpus(root, version="v2"):
    """One utterance of every word in train, one word in dev, one in test; six noise recordings; what does not belong there."""
    folder = root / f"speech_commands_v0.0{version[1]}"
    for word in WORDS[version]:
        write_wav(folder / word / "00176480_nohash_0.wav")
    for name in (DEV, TEST):
        write_wav(folder / name)
    (folder / "validation_list.txt").write_text(DEV + "\n")
    (folder / "testing_list.txt").write_text(TEST + "\n")
    for name in NOISES:
        write_wav(folder / f"_background_noise_/{name}.wav", 20)
    write_wav(folder / "_background_noise_/processed/pink_noise_1.wav")  # made by others
    write_wav(folder / "yes/processed/00176480_nohash_7.wav")
    write_wav(folder / "yes/augmented.wav")
    (folder / "_background_noise_/README.md").write_text("noise")
    archive = root / f"speech_commands_test_set_v0.0{version[1]}"
    for word in KEYWORDS:
        write_wav(archive / word / "0a196374_nohash_0.wav")
    write_wav(archive / "_unknown_/bed_0a196374_nohash_1.wav")
    write_wav(archive / "_silence_/17.wav")


def prepare(tmp_path, **options):
    made = CORPORA.get("speech_commands")().prepare(tmp_path / "data", corpus_dir=tmp_path / "c", allow_incomplete=True, **options)
    return {path.name: DataDir.read(path) for path in made}


def keywords(data):
    return {id: utterance.labels["keyword"] for id, utterance in data.utterances.items()}


def test_twelve_classes(tmp_path):
    write_corpus(tmp_path / "c")
    data = prepare(tmp_path, silence=60, unknown=30)
    assert data["train"].labels == "yes no up down left right on off stop go _unknown_ _silence_".split()
    train = keywords(data["train"])
    assert [sum(label == wanted for label in train.values()) for wanted in ("yes", "_unknown_", "_silence_")] == [1, 3, 6]
    assert keywords(data["dev"]) == {"bb05582b-right-3": "right", "silence-doing_the_dishes-dev-0000": "_silence_"}
    test = keywords(data["test"])
    assert len(test) == 12 and test["test-unknown-bed_0a196374_nohash_1"] == "_unknown_" and test["test-silence-17"] == "_silence_"
    speakers = {u.speaker for u in data["test"].utterances.values()}
    assert speakers == {"0a196374", "noise"} and data["dev"].utterances["bb05582b-right-3"].speaker == "bb05582b"


def test_unknown_words_all_and_none(tmp_path):
    write_corpus(tmp_path / "c")
    assert sum(label == "_unknown_" for label in keywords(prepare(tmp_path, unknown="all")["train"]).values()) == 25
    found = keywords(prepare(tmp_path, unknown=0, silence=0)["train"])
    assert sorted(found.values()) == sorted(KEYWORDS)


@pytest.mark.parametrize("version,count", [("v1", 30), ("v2", 35)])
def test_all_words_have_no_silence_and_test_on_the_list(version, count, tmp_path):
    write_corpus(tmp_path / "c", version)
    data = prepare(tmp_path, version=version, classes=count)
    assert len(data["train"].labels) == count and set(keywords(data["train"]).values()) == set(data["train"].labels)
    assert keywords(data["test"]) == {"0ab3b47d-bed-0": "bed"} and keywords(data["dev"]) == {"bb05582b-right-3": "right"}


def test_silence_of_the_splits_does_not_overlap_and_is_cut(tmp_path):
    write_corpus(tmp_path / "c")
    for split in ("train", "dev", "test"):
        for name in KEYWORDS:
            for number in range(2, 12):
                write_wav(tmp_path / f"c/speech_commands_v0.02/{name}/{hash_name(split)}_nohash_{number}.wav")
    data = prepare(tmp_path, split="hash", test="list", silence=50)
    spans = {split: {} for split in data}
    for split, directory in data.items():
        for utterance in directory.utterances.values():
            if utterance.segment:
                assert utterance.segment[1] - utterance.segment[0] == pytest.approx(1)
                spans[split].setdefault(utterance.audio, []).append(utterance.segment)
    for noise in spans["train"]:
        last = {split: max(end for _, end in spans[split][noise]) for split in spans}
        first = {split: min(start for start, _ in spans[split][noise]) for split in spans}
        assert last["train"] <= first["dev"] < last["dev"] <= first["test"] and last["test"] <= 20
    assert sum(map(len, spans["dev"].values())) == 50
    assert {re.sub(r".*/", "", noise) for noise in spans["train"]} == {f"{name}.wav" for name in NOISES}
    format_dir(tmp_path / "data/kws/dev")
    clips = [u for u in DataDir.read(tmp_path / "data/kws/dev", formatted=True).utterances.values() if u.labels["keyword"] == "_silence_"]
    assert len(clips) == 50 and all(soundfile.info(u.audio).frames == 16000 for u in clips)


def hash_name(split):
    return next(f"{n:08x}" for n in range(10000) if hash_split(f"{n:08x}") == split)


def test_the_hash_is_the_publishers():
    def which_set(name):  # as the README of the release says it
        most = 2**27 - 1
        percentage = (int(hashlib.sha1(re.sub(r"_nohash_.*$", "", name).encode()).hexdigest(), 16) % (most + 1)) * (100.0 / most)
        return "dev" if percentage < 10 else "test" if percentage < 20 else "train"

    names = [f"{n * 7919:08x}" for n in range(2000)]
    assert [hash_split(name) for name in names] == [which_set(f"{name}_nohash_3.wav") for name in names]
    assert 0.07 < sum(hash_split(name) == "dev" for name in names) / 2000 < 0.13
    assert hash_split("bb05582b") == "test"  # as testing_list.txt has right/bb05582b_nohash_3.wav


def test_names_are_not_stripped_of_letters(tmp_path):
    write_corpus(tmp_path / "c")
    write_wav(tmp_path / "c/speech_commands_v0.02/_background_noise_/aviary_wav.wav", 20)  # "aviary_wav.wav".rstrip(".wav") is "aviary_"
    found = keywords(prepare(tmp_path, silence=70)["train"])
    assert "silence-aviary_wav-train-0000" in found


def test_counts_of_the_releases():
    corpus = CORPORA.get("speech_commands")()
    for options, counts in (({}, {"train": 84843, "dev": 9981, "test": 4890}), ({"version": "v1"}, {"train": 51088, "dev": 6798, "test": 3081}),
                            ({"classes": 35}, {"train": 84843, "dev": 9981, "test": 11005}), ({"split": "hash"}, {"test": 4890}),
                            ({"version": "v1", "classes": 30}, {"train": 51088, "dev": 6798, "test": 6835})):
        assert corpus.expected("kws", corpus.options(options)) == counts
    assert 84843 + 9981 + 11005 == 105829 and 51088 + 6798 + 6835 + 6 == 64727  # files of v2; of v1 with its six noise recordings
    urls = [archive.url.rsplit("/")[-1] for archive in corpus.archives(corpus.options({"version": "v1"}))]
    assert urls == ["speech_commands_v0.01.tar.gz", "speech_commands_test_set_v0.01.tar.gz"]
    assert len(corpus.archives(corpus.options({"classes": 35}))) == 1


def test_an_incomplete_release(tmp_path):
    write_corpus(tmp_path / "c")
    corpus, folder = CORPORA.get("speech_commands")(), tmp_path / "c/speech_commands_v0.02"
    with pytest.raises(SpeechMergeError, match="train: found 35, expected 84843; dev: found 1, expected 9981; test: found 12, expected 4890"):
        corpus.prepare(tmp_path / "data", corpus_dir=tmp_path / "c")
    (folder / DEV).unlink()
    with pytest.raises(SpeechMergeError, match=f"1 files of validation_list.txt and testing_list.txt are missing, the first is {DEV}"):
        prepare(tmp_path)
    (folder / "visual").rename(folder / "other")
    with pytest.raises(SpeechMergeError, match="no folder 'visual' .1 of 35 words are not there"):
        prepare(tmp_path)


@pytest.mark.parametrize("options,message", [
    ({"classes": 30}, "v2 has 12 or 35"), ({"version": "v3"}, "version 'v3'"), ({"split": "list"}, "mean 'lists'"), ({"unknown": "some"}, "or all"),
    ({"classes": 35, "test": "archive"}, "12 classes"), ({"silence": -1}, "silence -1")])
def test_wrong_options(options, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        prepare(tmp_path, **options)


def test_rows_of_the_hub():
    corpus, noise = CORPORA.get("speech_commands")(), io.BytesIO()
    soundfile.write(noise, np.zeros(3 * 16000 + 5), 16000, format="WAV")
    row = {"file": "bed/0ab3b47d_nohash_0.wav", "label": "bed", "is_unknown": True, "speaker_id": "0ab3b47d", "utterance_id": 0}
    silent = {**row, "file": "_background_noise_/pink_noise.wav", "label": "_silence_", "speaker_id": None, "audio": {"bytes": noise.getvalue()}}
    twelve, all_words = corpus.options({}), corpus.options({"classes": 35})
    assert corpus.from_row(row, "train", "kws", twelve).labels == {"keyword": "_unknown_"}
    assert corpus.from_row(row, "train", "kws", all_words).labels == {"keyword": "bed"}
    assert corpus.from_row({**row, "label": "yes", "is_unknown": False}, "train", "kws", twelve).labels == {"keyword": "yes"}
    clips = corpus.from_row(silent, "train", "kws", twelve)
    assert [clip.segment for clip in clips] == [(0, 1), (1, 2), (2, 3)] and {clip.labels["keyword"] for clip in clips} == {"_silence_"}
    assert corpus.from_row(silent, "train", "kws", all_words) is None
    assert [part.config for part in corpus.hub("kws", twelve).parts["dev"]] == ["v0.02"]
    with pytest.raises(UsageError, match="source=files"):
        corpus.hub("kws", corpus.options({"split": "hash"}))


def test_the_twin(tmp_path):
    corpus = CORPORA.get("speech_commands")()
    made = corpus.prepare(tmp_path / "data", corpus_dir=tmp_path / "a", mini=True, seed=3)
    corpus.prepare(tmp_path / "more", corpus_dir=tmp_path / "a", mini=True, seed=3, classes=35, split="hash")
    by_list = corpus.prepare(tmp_path / "list", corpus_dir=tmp_path / "b", mini=True, seed=3, classes=35)
    files = [path for path in (tmp_path / "a").rglob("*.*") if path.is_file()]
    assert len(files) > 400 and all(path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes() for path in files)
    for path in by_list:  # lists and hash agree, as in the release
        assert DataDir.read(path).utterances.keys() == DataDir.read(tmp_path / "more/kws" / path.name).utterances.keys()
    for path in made:
        assert not validate(path)
        format_dir(path)
        assert not validate(path)
        data = DataDir.read(path)
        assert set(keywords(data).values()) == set(data.labels)
        assert max(u.duration for u in data.utterances.values()) <= 1.0
    assert {u.speaker for u in DataDir.read(made[0]).utterances.values()} & {u.speaker for u in DataDir.read(made[2]).utterances.values()} == {"noise"}
