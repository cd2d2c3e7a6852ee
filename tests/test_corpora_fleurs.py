"""FLEURS: 102 languages and Whisper's names of them, headless tables and odd characters, archives, the miniature."""
import gzip
import hashlib
import io
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechmerge.corpora import CORPORA
from speechmerge.corpora.fleurs import corpus as module
from speechmerge.corpora.fleurs.languages import LANGUAGES, language_code
from speechmerge.data.directory import DataDir
from speechmerge.data.format import format_dir
from speechmerge.data.validate import validate
from speechmerge.errors import SpeechMergeError, UsageError

ROWS = {"hi_in": [("1664", "101.wav", "वो \"अच्छा\" है।", "वो अच्छा है", "व ो | अ च ् छ ा | ह ै |", "1600", "MALE"),
                  ("1664", "102.wav", "वो \"अच्छा\" है।", "वो अच्छा है", "व ो | अ च ् छ ा | ह ै |", "1600", "FEMALE"),
                  ("10", "103.wav", "Odd spaces.", "odd\u2009spaces\u200b here\u200f", "o d d |", "1600", "OTHER")],
        "it_it": [("1664", "101.wav", "L'ha detto.", "l'ha detto", "l ' h a | d e t t o |", "1600", "FEMALE")]}


def digests(path: Path) -> dict[str, str]:
    files = sorted([*path.rglob("*.tsv"), *path.rglob("*.tar.gz")])
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def corpus():
    return CORPORA.get("fleurs")()


def read(root, task="asr", languages=("hi_in", "it_it"), **options):
    return corpus().read(root, task, corpus().options({"languages": languages, **options}))


def wav() -> bytes:
    sound = io.BytesIO()
    soundfile.write(sound, np.zeros(1600), 16000, format="WAV")
    return sound.getvalue()


def archive(path: Path, names, inside: str):
    with gzip.open(path, "wb") as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for name in names:
            info = tarfile.TarInfo(f"{inside}{name}")
            info.size = len(wav())
            tar.addfile(info, io.BytesIO(wav()))


def small(root: Path, rows=ROWS, inside="train/"):
    """Two languages as published; the same rows in all splits."""
    for language, own in rows.items():
        folder = root / "data" / language
        (folder / "audio").mkdir(parents=True)
        for split in ("train", "dev", "test"):
            (folder / f"{split}.tsv").write_text("".join("\t".join(row) + "\n" for row in own), encoding="utf-8")
            names = sorted({row[1] for row in own})
            archive(folder / "audio" / f"{split}.tar.gz", names, inside.replace("train", split))
    return root


def test_there_are_102_languages_in_the_publishers_order():
    assert len(set(LANGUAGES)) == 102 and list(LANGUAGES) == sorted(LANGUAGES)  # its lang_id has a 103rd name, "all"
    assert len(corpus().labels_of("langid", corpus().options({}))) == 102
    assert len({language_code(language) for language in LANGUAGES}) == 102


def test_codes_are_whispers_where_it_has_the_language():
    whisper = pytest.importorskip("transformers.models.whisper.tokenization_whisper").LANGUAGES
    unknown = {language_code(language) for language in LANGUAGES} - whisper.keys()
    assert unknown == set("ast ceb ckb ff ga ig kam kea ky lg luo nso ny om or umb wo xh zu".split())
    named = {"cmn_hans_cn": "chinese", "yue_hant_hk": "cantonese", "nb_no": "norwegian", "fil_ph": "tagalog",
             "jv_id": "javanese", "hi_in": "hindi", "pa_in": "punjabi", "te_in": "telugu", "it_it": "italian",
             "es_419": "spanish", "he_il": "hebrew"}
    assert {language: whisper[language_code(language)] for language in named} == named


def test_headless_tables_with_ids_that_repeat(tmp_path):
    reading = read(small(tmp_path))
    train = reading.splits["train"].utterances
    assert sorted(train) == ["hi_in-101", "hi_in-102", "hi_in-103", "it_it-101"]
    assert train["hi_in-101"].labels == {"gender": "m", "group": "1664"}
    assert train["hi_in-102"].labels == {"gender": "f", "group": "1664"}
    assert train["hi_in-103"].labels["gender"] == "other" and train["hi_in-101"].speaker is None
    assert (train["it_it-101"].text, train["it_it-101"].language) == ("l'ha detto", "it")
    for split in reading.splits.values():
        assert all(Path(utterance.audio).read_bytes() == wav() for utterance in split.utterances.values())


def test_transcription_or_raw_transcription(tmp_path):
    small(tmp_path)
    texts = [read(tmp_path, text=text).splits["test"].utterances["hi_in-102"].text
             for text in ("transcription", "raw_transcription")]
    assert texts == ["वो अच्छा है", 'वो "अच्छा" है।']


@pytest.mark.parametrize("text, cleaned", [
    ("a\u2002b\u200ac\u2028d\u202fe\u00a0f", "a b c d e f"), ("คำ\u200bคำ", "คำ คำ"),
    ("a\u200f \u202ab\u00ad\ufeff", "a b"),
    ("می\u200cخواهم", "می\u200cخواهم"), ("क्\u200dष", "क्\u200dष"), ("  a \t b ", "a b")])
def test_odd_spaces_go_and_the_joiners_of_spelling_stay(text, cleaned):
    assert module.clean(text) == cleaned


def test_sentence_10_can_be_left_out(tmp_path):
    small(tmp_path)
    assert read(tmp_path).splits["train"].utterances["hi_in-103"].text == "odd spaces here"
    reading = read(tmp_path, drop_ids=("10",))
    assert "hi_in-103" not in reading.splits["train"].utterances and reading.skipped["sentences of drop_ids"] == 3


def test_empty_transcripts_are_left_out_and_counted(tmp_path):
    rows = {"it_it": [*ROWS["it_it"], ("7", "102.wav", "", "\u200b", "|", "1600", "MALE")]}
    reading = read(small(tmp_path, rows), languages=("it_it",))
    assert reading.splits["dev"].size() == 1 and reading.skipped["empty transcripts"] == 3


def test_of_two_rows_of_a_file_the_last_counts(tmp_path):
    rows = {"it_it": [*ROWS["it_it"], ("1700", "101.wav", "No.", "no", "n o |", "1600", "MALE")]}
    utterances = read(small(tmp_path, rows), languages=("it_it",)).splits["train"].utterances
    assert (utterances["it_it-101"].text, utterances["it_it-101"].labels["group"]) == ("no", "1700")


@pytest.mark.parametrize("row", [
    ("id", "file_name", "raw_transcription", "transcription", "chars", "num_samples", "gender"), ROWS["it_it"][0][:6],
    (*ROWS["it_it"][0], "it_it"), (*ROWS["it_it"][0][:6], "DIVERSE")])
def test_lines_that_cannot_be_meant_are_named(tmp_path, row):
    small(tmp_path)
    (tmp_path / "data/it_it/dev.tsv").write_text("\t".join(ROWS["it_it"][0]) + "\n" + "\t".join(row) + "\n")
    with pytest.raises(SpeechMergeError, match=r"it_it/dev.tsv:2: .*expected 7, separated by tabs: id, file"):
        read(tmp_path)


@pytest.mark.parametrize("inside", ["train/", "", "home/someone/FLEURS/it_it/audio/train/"])
def test_archives_with_other_folders_inside(tmp_path, inside):
    utterances = read(small(tmp_path, inside=inside)).splits["train"].utterances
    assert Path(utterances["it_it-101"].audio).read_bytes() == wav()


def test_unpacked_audio_is_read_without_its_archive(tmp_path):
    read(small(tmp_path))
    for path in tmp_path.rglob("*.tar.gz"):
        path.unlink()
    assert read(tmp_path).splits["train"].size() == 4


def test_an_interrupted_unpacking_goes_on(tmp_path):
    first = read(small(tmp_path)).splits["train"].utterances["hi_in-102"].audio
    Path(first).unlink()
    assert Path(read(tmp_path).splits["train"].utterances["hi_in-102"].audio).is_file()


def test_audio_without_a_row_is_counted_and_a_row_without_audio_refused(tmp_path):
    archive(small(tmp_path) / "data/it_it/audio/train.tar.gz", ["101.wav", "999.wav"], "train/")
    assert read(tmp_path).skipped["audio files without a row"] == 1
    with open(tmp_path / "data/it_it/train.tsv", "a") as file:
        file.write("\t".join(("5", "555.wav", *ROWS["it_it"][0][2:])) + "\n")
    said = "of 13 audio files 1 are missing and 0 empty, the first is .*it_it/audio/train/555.wav"
    with pytest.raises(SpeechMergeError, match=said):
        corpus().prepare(tmp_path / "out", corpus_dir=tmp_path, tasks="asr", languages="hi_in,it_it")


def test_asr_has_a_set_for_each_language_and_langid_one(tmp_path):
    made = corpus().prepare(tmp_path / "out", corpus_dir=small(tmp_path), tasks="asr,langid", languages="it_it,hi_in")
    assert {str(path.relative_to(tmp_path / "out")) for path in made} == \
        {f"{name}/{split}" for name in ("hi_in", "it_it", "langid") for split in ("train", "dev", "test")}
    langid = DataDir.read(tmp_path / "out/langid/test")
    assert langid.labels == ["hi", "it"]
    assert Counter(u.language for u in langid.utterances.values()) == {"hi": 3, "it": 1}
    assert DataDir.read(tmp_path / "out/hi_in/dev").utterances["hi_in-101"].language == "hi"
    for path in made:
        assert not validate(path)


def test_a_language_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SpeechMergeError, match="te_in not there; found hi_in, it_it"):
        read(small(tmp_path), languages=("hi_in", "te_in"))


@pytest.mark.parametrize("options, said", [
    ({"languages": ("hi",)}, "did you mean 'hi_in'"), ({"languages": ("zh",)}, "did you mean 'cmn_hans_cn'"),
    ({"languages": ("hi_inn",)}, "did you mean 'hi_in'"), ({"languages": ("hi_in", "hi_in")}, "each once"),
    ({"text": "raw"}, "raw_transcription"), ({"drop_ids": ("ten",)}, "numbers")])
def test_options_that_cannot_be_meant(options, said):
    with pytest.raises(UsageError, match=said):
        corpus().options(options)


def test_what_is_fetched(tmp_path, monkeypatch):
    archives = corpus().archives(corpus().options({"languages": "hi_in"}))
    assert archives[1].url == "https://huggingface.co/datasets/google/fleurs/resolve/main/data/hi_in/dev.tsv"
    assert archives[1].makes == "data/hi_in/dev.tsv" and len(corpus().archives(corpus().options({}))) == 306
    small(tmp_path)
    (tmp_path / "data/it_it/audio/test.tar.gz").unlink()
    fetched = []

    def fetch(archives, root):
        fetched.extend(item.url for item in archives)
        archive(root / archives[0].makes, ["101.wav"], "test/")

    monkeypatch.setattr(module, "fetch_all", fetch)
    assert Path(read(tmp_path).splits["test"].utterances["it_it-101"].audio).is_file()
    assert fetched == ["https://huggingface.co/datasets/google/fleurs/resolve/main/data/it_it/audio/test.tar.gz"]


def test_the_hubs_version(tmp_path):
    datasets = pytest.importorskip("datasets")
    configs = []
    for language, own in ROWS.items():
        rows = [{"id": int(id), "num_samples": 1600, "path": f"/x/{name}", "audio": {"bytes": wav(), "path": name},
                 "transcription": text, "raw_transcription": raw, "gender": i % 3,
                 "lang_id": LANGUAGES.index(language), "language": "x", "lang_group_id": 1}
                for i, (id, name, raw, text, *_) in enumerate(own)]
        (tmp_path / "hub" / language).mkdir(parents=True)
        splits = ("train", "validation", "test")
        for split in splits:
            datasets.Dataset.from_list(rows).to_parquet(tmp_path / "hub" / language / f"{split}.parquet")
        files = "".join(f"  - split: {split}\n    path: {language}/{split}.parquet\n" for split in splits)
        configs.append(f"- config_name: {language}\n  data_files:\n{files}")
    (tmp_path / "hub/README.md").write_text("---\nconfigs:\n" + "".join(configs) + "---\n")
    corpus().prepare(tmp_path / "data", source="hf", hub_id=str(tmp_path / "hub"), tasks="asr",
                     languages="hi_in,it_it", drop_ids=10)
    hindi = DataDir.read(tmp_path / "data/hi_in/dev").utterances
    assert sorted(hindi) == ["hi_in-101", "hi_in-102"] and hindi["hi_in-102"].labels == {"gender": "f", "group": "1664"}
    assert DataDir.read(tmp_path / "data/it_it/test").utterances["it_it-101"].text == "l'ha detto"
    hub = corpus().hub("asr", corpus().options({"languages": "hi_in"}))
    assert (hub.id, hub.revision, hub.parts["dev"][0].split) == ("google/fleurs", "refs/convert/parquet", "validation")


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    path = tmp_path_factory.mktemp("twin")
    corpus().prepare(path / "data", corpus_dir=path / "corpus", mini=True, seed=3, nj=1, tasks="langid,asr")
    return path


def test_the_miniature_goes_through_prepare_format_and_validate(twin):
    texts = {}
    for name in ("langid", "hi_in", "te_in"):
        for split in ("train", "dev", "test"):
            assert format_dir(twin / "data" / name / split)["seconds"]["max"] <= 3.9
            assert not validate(twin / "data" / name / split)
            utterances = DataDir.read(twin / "data" / name / split).utterances.values()
            texts.setdefault(split, set()).update(utterance.text for utterance in utterances)
    data = DataDir.read(twin / "data/langid/train")
    assert data.labels == ["de", "en", "es", "hi", "it", "pa", "te"] and len(data.utterances) == 238
    groups = Counter(utterance.labels["group"] for utterance in data.utterances.values())
    assert set(groups.values()) == {14}  # two readers, seven languages
    assert not texts["train"] & (texts["dev"] | texts["test"])


def test_the_miniature_has_the_awkward_parts(twin):
    table = (twin / "corpus/data/hi_in/train.tsv").read_text(encoding="utf-8")
    assert "\u2009" in table and "\u00a0" in table and "।\t" in table and not table.startswith("id\t")
    assert len({line.split("\t")[0] for line in table.splitlines()}) == len(table.splitlines()) / 2
    with tarfile.open(twin / "corpus/data/hi_in/audio/dev.tar.gz") as tar:
        assert any(name.endswith("9999999999999999999.wav") for name in tar.getnames())


def test_a_part_of_the_miniature(twin, tmp_path):
    made = corpus().prepare(tmp_path / "data", corpus_dir=twin / "corpus", mini=True, seed=3, tasks="asr",
                            languages="pa_in", drop_ids=10)
    assert [path.parent.name for path in made] == ["pa_in"] * 3
    assert len(DataDir.read(tmp_path / "data/pa_in/train").utterances) == 32


def test_the_miniature_is_the_same_for_the_same_seed(twin, tmp_path):
    corpus().prepare(tmp_path / "data", corpus_dir=tmp_path / "corpus", mini=True, seed=3, nj=2)
    first, second = (digests(path / "corpus") for path in (twin, tmp_path))
    assert len(first) == 42 and first == second
