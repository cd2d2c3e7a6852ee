"""LibriSpeech: transcripts, readers and genders as published, what is broken, the hub's rows, its twin."""
import pytest
import soundfile

from speechmerge.corpora import CORPORA
from speechmerge.corpora.librispeech import SUBSETS, TWIN
from speechmerge.data.directory import DataDir
from speechmerge.data.format import format_dir
from speechmerge.data.validate import validate
from speechmerge.errors import SpeechMergeError, UsageError

TRANSCRIPTS = """121-121726-0000 ALSO A POPULAR CONTRIVANCE
121-121726-0001 HARANGUE THE TIRESOME PRODUCT OF A TIRELESS TONGUE
121-121726-0002 ANGOR PAIN PAINFUL TO HEAR
"""
SPEAKERS = """; Some pipe(|) separated metadata about all LibriVox readers
;ID  |SEX| SUBSET           |MINUTES| NAME
12   | M | train-clean-100  | 25.19 | Nobody
121  | F | test-clean       | 8.03  | Nikolle | Doolin
1212 | M | test-clean       | 8.03  | Another
"""


def write_chapter(root, subset, name, text):
    reader, chapter = name.split("-")
    folder = root / "LibriSpeech" / subset / reader / chapter
    folder.mkdir(parents=True)
    (folder / f"{name}.trans.txt").write_text(text)
    for line in text.splitlines():
        soundfile.write(folder / f"{line.split()[0]}.flac", [0.1] * 8000, 16000)
    return folder


@pytest.fixture
def corpus(tmp_path):
    for subset, chapter in (("train-clean-5", "12-34"), ("dev-clean-2", "1212-5"), ("test-clean", "121-121726")):
        write_chapter(tmp_path, subset, chapter, TRANSCRIPTS.replace("121-121726", chapter))
    (tmp_path / "LibriSpeech/SPEAKERS.TXT").write_text(SPEAKERS)
    return tmp_path


def prepare(corpus, allow_incomplete=True, **options):
    options = {"train": "train-clean-5", "dev": "dev-clean-2", "test": "test-clean", **options}
    made = CORPORA.get("librispeech")().prepare(corpus / "data", corpus_dir=corpus, allow_incomplete=allow_incomplete, **options)
    return {path.name: DataDir.read(path) for path in made}


def test_transcripts_readers_and_genders(corpus):
    data = prepare(corpus)
    found = data["test"].utterances["121-121726-0001"]
    assert found.text == "harangue the tiresome product of a tireless tongue"
    assert (found.speaker, found.language, found.labels) == ("121", "en", {"gender": "f"})
    assert found.audio.endswith("LibriSpeech/test-clean/121/121726/121-121726-0001.flac")
    assert data["train"].utterances["12-34-0000"].labels == {"gender": "m"}
    assert not validate(corpus / "data/asr/test")


def test_the_text_as_published_and_chapters_as_speakers(corpus):
    found = prepare(corpus, case="published", speaker="chapter")["test"].utterances["121-121726-0002"]
    assert (found.text, found.speaker) == ("ANGOR PAIN PAINFUL TO HEAR", "121-121726")


def test_the_folder_librispeech_itself_and_more_subsets(corpus):
    corpus_dir = corpus / "LibriSpeech"
    write_chapter(corpus, "dev-other", "121-7", "121-7-0000 ONE\n")
    made = CORPORA.get("librispeech")().prepare(corpus / "data", corpus_dir=corpus_dir, allow_incomplete=True, train="train-clean-5",
                                                dev="dev-clean-2,dev-other", test=["test-clean"], more="dev-other")
    assert [(path.name, len(DataDir.read(path).utterances)) for path in made] == [("train", 3), ("dev", 4), ("test", 3), ("dev_other", 1)]


def test_without_speakers_txt_there_are_no_genders(corpus):
    (corpus / "LibriSpeech/SPEAKERS.TXT").unlink()
    assert not any(u.labels for u in prepare(corpus)["test"].utterances.values())


def test_what_is_broken(corpus):
    folder = corpus / "LibriSpeech/test-clean/121/121726"
    transcripts = folder / "121-121726.trans.txt"
    for text, message in ((TRANSCRIPTS + "121-121726-0003\n", "trans.txt:4: found '121-121726-0003', expected `121-121726-<number> TEXT`"),
                          (TRANSCRIPTS + "121-999-0003 OF ANOTHER CHAPTER\n", "trans.txt:4: found '121-999-0003 OF"),
                          (TRANSCRIPTS + TRANSCRIPTS, "trans.txt:4: 121-121726-0000 has two transcripts"),
                          (TRANSCRIPTS.splitlines()[0], "trans.txt: says nothing of 2 audio files, the first is 121-121726-0001.flac")):
        transcripts.write_text(text)
        with pytest.raises(SpeechMergeError, match=message):
            prepare(corpus)
    transcripts.unlink()
    with pytest.raises(SpeechMergeError, match="121-121726.trans.txt: not there"):
        prepare(corpus)
    transcripts.write_text(TRANSCRIPTS)
    (folder / "121-121726-0001.flac").unlink()
    with pytest.raises(SpeechMergeError, match="of 9 audio files 1 are missing|of 3 audio files 1 are missing"):
        prepare(corpus, allow_incomplete=False)
    (corpus / "LibriSpeech/test-clean").rename(corpus / "LibriSpeech/test-other")
    with pytest.raises(SpeechMergeError, match="does not|cannot be fetched|not there"):
        CORPORA.get("librispeech")().read(corpus, "asr", CORPORA.get("librispeech")().options({"train": "train-clean-5"}))


def test_counts_of_the_release(corpus):
    reader = CORPORA.get("librispeech")()
    assert reader.expected("asr", reader.options({})) == {"train": 28539, "dev": 2703, "test": 2620}
    every = reader.options({"train": "train-clean-100,train-clean-360,train-other-500", "more": "dev-other,test-other"})
    assert reader.expected("asr", every) == {"train": 281241, "dev": 2703, "test": 2620, "dev_other": 2864, "test_other": 2939}
    with pytest.raises(SpeechMergeError, match="test: found 3, expected 2620"):
        prepare(corpus, allow_incomplete=False)


def test_archives(corpus):
    reader = CORPORA.get("librispeech")()
    found = reader.archives(reader.options({"train": "train-clean-5", "dev": "dev-clean-2", "test": "test-clean,dev-clean-2"}))
    assert [archive.url for archive in found] == [
        "https://www.openslr.org/resources/31/train-clean-5.tar.gz", "https://www.openslr.org/resources/31/dev-clean-2.tar.gz",
        "https://www.openslr.org/resources/12/test-clean.tar.gz"]
    assert found[2].makes == "LibriSpeech/test-clean" and all(len(s.sha256) == 64 for s in SUBSETS.values() if s.resource == 12)


@pytest.mark.parametrize("options,message", [
    ({"train": "train-clean-1000"}, "no subset 'train-clean-1000'; did you mean 'train-clean-100'"), ({"case": "upper"}, "case 'upper'"),
    ({"speaker": "book"}, "speaker 'book'"), ({"source": "hf"}, "train-clean-5, dev-clean-2 is not on Hugging Face")])
def test_wrong_options(options, message, corpus):
    with pytest.raises(UsageError, match=message):
        prepare(corpus, **options)


def test_rows_of_the_hub():
    reader = CORPORA.get("librispeech")()
    options = reader.options({"more": "test-other"})
    row = {"file": "x", "text": "ALSO A POPULAR CONTRIVANCE", "speaker_id": 121, "chapter_id": 121726, "id": "121-121726-0000"}
    found = reader.from_row(row, "test", "asr", options)
    assert (found.id, found.text, found.speaker) == ("121-121726-0000", "also a popular contrivance", "121")
    parts = {split: [(part.config, part.split) for part in parts] for split, parts in reader.hub("asr", options).parts.items()}
    assert parts == {"train": [("clean", "train.100")], "dev": [("clean", "validation")], "test": [("clean", "test")],
                     "test_other": [("other", "test")]}


def test_the_hubs_parquet(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "hub/clean").mkdir(parents=True)
    soundfile.write(tmp_path / "a.flac", [0.1] * 8000, 16000)
    audio, places = {"bytes": (tmp_path / "a.flac").read_bytes(), "path": "a.flac"}, []
    for number, split in enumerate(("train.100", "validation", "test")):
        row = {"file": "a.flac", "audio": audio, "text": "ALSO A", "speaker_id": 121 + number, "id": f"{121 + number}-1-0000"}
        rows = datasets.Dataset.from_list([row]).cast_column("audio", datasets.Audio(sampling_rate=16000))
        rows.to_parquet(tmp_path / f"hub/clean/{split}-0.parquet")
        places.append(f"  - split: {split}\n    path: clean/{split}-*\n")
    (tmp_path / "hub/README.md").write_text("---\nconfigs:\n- config_name: clean\n  data_files:\n" + "".join(places) + "---\n")
    for streaming in (False, True):
        made = CORPORA.get("librispeech")().prepare(tmp_path / f"data{streaming}", source="hf", hub_id=str(tmp_path / "hub"),
                                                    streaming=streaming, allow_incomplete=True)
        found = [next(iter(DataDir.read(path).utterances.values())) for path in made]
        assert [(path.name, u.id, u.text) for path, u in zip(made, found)] == [
            ("train", "121-1-0000", "also a"), ("dev", "122-1-0000", "also a"), ("test", "123-1-0000", "also a")]
        assert all(soundfile.info(u.audio).frames == 8000 for u in found)
    with pytest.raises(SpeechMergeError, match="train: found 1, expected 28539"):
        CORPORA.get("librispeech")().prepare(tmp_path / "data", source="hf", hub_id=str(tmp_path / "hub"))


def test_the_twin(tmp_path):
    reader = CORPORA.get("librispeech")()
    made = [reader.prepare(tmp_path / name, corpus_dir=tmp_path / f"corpus_{name}", mini=True, seed=3, more="test-other") for name in "ab"][0]
    files = [path for path in (tmp_path / "corpus_a").rglob("*.*") if path.is_file()]
    assert len(files) > sum(TWIN.values())
    assert all(path.read_bytes() == (tmp_path / "corpus_b" / path.relative_to(tmp_path / "corpus_a")).read_bytes() for path in files)
    data = {path.name: DataDir.read(path) for path in made}
    assert {name: len(split.utterances) for name, split in data.items()} == {
        "train": TWIN["train-clean-100"], "dev": TWIN["dev-clean"], "test": TWIN["test-clean"], "test_other": TWIN["test-other"]}
    speakers = [{u.speaker for u in split.utterances.values()} for split in data.values()]
    assert not any(a & b for i, a in enumerate(speakers) for b in speakers[i + 1 :])
    texts = {name: {u.text for u in split.utterances.values()} for name, split in data.items()}
    assert not texts["train"] & (texts["dev"] | texts["test"])
    for path in made:
        assert not validate(path)
        assert {u.labels["gender"] for u in DataDir.read(path).utterances.values()} == {"f", "m"}
    assert format_dir(made[1])["seconds"]["max"] <= 3.9
    assert not validate(made[1])
