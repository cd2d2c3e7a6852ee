"""CoVoST 2: the join with Common Voice 4 and the traps of both tables, on samples in the published layout."""
import shutil

import numpy as np
import pytest
import soundfile

from speechmerge.corpora.covost2 import Covost2
from speechmerge.corpora.covost2 import twin
from speechmerge.corpora.covost2.pairs import PAIRS, ROWS
from speechmerge.data.directory import DataDir
from speechmerge.data.format import format_dir
from speechmerge.data.validate import validate
from speechmerge.errors import SpeechMergeError, UsageError

CV4 = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccent"
CLIPS = [  # (path, sentence, translation, split)
    ("common_voice_it_1.mp3", "Il vuoto assoluto?", "The absolute void?", "train"),
    ("common_voice_it_2.mp3", '"Aperto e mai chiuso', 'Open and \\"never\\" closed', "train_covost"),
    ("common_voice_it_3.mp3", "Null", "Null", "train"),
    ("common_voice_it_4.mp3", "Da togliere", "REMOVE", "train"),
    ("common_voice_it_5.mp3", "Vuoto", "Empty", "train"),  # 0 bytes
    ("common_voice_it_6.mp3", "Senza traduzione", "", "dev"),
    ("common_voice_it_7.mp3", "nan", "NA", "dev"),
    ("common_voice_it_8.mp3", "Solo nella prima versione", "Only in the first version", "dev_covost"),
    ("common_voice_it_9.mp3", "l'ultimo\tcampo", "the last", "test"),
    ("common_voice_it_10.mp3", "Anche questo", "REMOVE this one too", "test"),
]


def tone(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.sin(np.arange(24000) / 20) / 4, 48000, format="MP3")


@pytest.fixture
def covost(tmp_path):
    root = tmp_path / "covost"
    folder = root / "cv-corpus-4-2019-12-10/it"
    sentences = {path: sentence.replace("\t", "\\\t") for path, sentence, *_ in CLIPS}
    rows = [f"c{number}\t{path}\t{sentence}\t2\t1" for number, (path, sentence) in enumerate(sentences.items())]
    for path, *_ in CLIPS:
        tone(folder / "clips" / path)
    (folder / "clips/common_voice_it_5.mp3").write_bytes(b"")
    rows.append("c99\tcommon_voice_it_99.mp3\tNon tradotto\t2\t1")
    (folder / "validated.tsv").write_text("\n".join([CV4, *rows]) + "\n")
    lines = [f"{path}\t{translation}\t{split}" for path, _, translation, split in CLIPS]
    lines.append("common_voice_it_404.mp3\tgone\ttest")
    (root / "covost_v2.it_en.tsv").write_text("\n".join(["path\ttranslation\tsplit", *lines]) + "\n")
    return root


def read(root, **options):
    corpus = Covost2()
    return corpus.read(root, "st", corpus.options(options))


def texts(reading, split):
    return {id[-1]: (u.text, u.labels["translation"]) for id, u in reading.splits[split].utterances.items()}


def test_train_is_train_and_train_covost_others_are_exact(covost):
    reading = read(covost)
    assert texts(reading, "train") == {"1": ("Il vuoto assoluto?", "The absolute void?"), "3": ("Null", "Null"),
                                       "2": ('"Aperto e mai chiuso', 'Open and "never" closed')}
    assert texts(reading, "dev") == {"7": ("nan", "NA")}
    assert texts(reading, "test") == {"9": ("l'ultimo campo", "the last"), "0": ("Anche questo", "REMOVE this one too")}


def test_what_is_left_out_is_counted(covost):
    assert read(covost).skipped == {
        "translation marked REMOVE": 1, "clip without audio (0 bytes)": 1, "empty translation": 1,
        "row of split dev_covost": 1, "translation of a clip that is not in validated.tsv": 1}


def test_an_utterance(covost):
    utterance = read(covost).splits["train"].utterances["common_voice_it_1"]
    assert utterance.audio.endswith("cv-corpus-4-2019-12-10/it/clips/common_voice_it_1.mp3")
    assert (utterance.speaker, utterance.language, utterance.labels["target_lang"]) == ("c0", "it", "en")


def test_counts_are_of_rows_since_the_release_has_empty_clips(covost, tmp_path, monkeypatch):
    found = "train: found 5, expected 31698; dev: found 2, expected 8940; test: found 2, expected 8951"
    with pytest.raises(SpeechMergeError, match=found):
        Covost2().prepare(tmp_path / "data", corpus_dir=covost)
    monkeypatch.setitem(ROWS, "it_en", (5, 2, 2))
    made = Covost2().prepare(tmp_path / "data", corpus_dir=covost)
    assert [path.relative_to(tmp_path / "data").as_posix() for path in made] == ["st/train", "st/dev", "st/test"]
    for path in made:
        format_dir(path)
        assert not validate(path)
    assert {soundfile.info(u.audio).samplerate for u in DataDir.read(made[0]).utterances.values()} == {16000}
    (covost / "cv-corpus-4-2019-12-10/it/clips/common_voice_it_1.mp3").unlink()
    with pytest.raises(SpeechMergeError, match="1 are missing"):
        Covost2().prepare(tmp_path / "data", corpus_dir=covost)


@pytest.mark.parametrize("pair, source, language, target", [
    ("zh-CN_en", "zh-CN", "zh", "en"), ("en_sv-SE", "en", "en", "sv")])
def test_names_with_dashes(covost, tmp_path, pair, source, language, target):
    folder = covost / "cv-corpus-4-2019-12-10" / source
    shutil.copytree(covost / "cv-corpus-4-2019-12-10/it", folder)
    shutil.copy(covost / "covost_v2.it_en.tsv", covost / f"covost_v2.{pair}.tsv")
    utterance = read(covost, pair=pair).splits["dev"].utterances["common_voice_it_7"]
    assert (utterance.language, utterance.labels["target_lang"]) == (language, target)


def test_pairs_with_directories_of_their_own(covost, tmp_path, monkeypatch):
    shutil.copytree(covost / "cv-corpus-4-2019-12-10/it", covost / "cv-corpus-4-2019-12-10/en")
    for pair in ("en_de", "en_sv-SE"):  # the same clips
        shutil.copy(covost / "covost_v2.it_en.tsv", covost / f"covost_v2.{pair}.tsv")
        monkeypatch.setitem(ROWS, pair, (5, 2, 2))
    made = Covost2().prepare(tmp_path / "data", corpus_dir=covost, languages="en_de,en_sv-SE")
    assert {path.relative_to(tmp_path / "data").as_posix() for path in made} == {
        f"{pair}/{split}" for pair in ("en_de", "en_sv-SE") for split in ("train", "dev", "test")}
    assert list(DataDir.read(tmp_path / "data/en_sv-SE/dev").utterances) == ["en_sv-SE-common_voice_it_7"]


def test_common_voice_may_lie_elsewhere(covost, tmp_path):
    elsewhere = tmp_path / "cv"
    (covost / "cv-corpus-4-2019-12-10").rename(elsewhere)
    assert texts(read(covost, common_voice=str(elsewhere)), "dev") == {"7": ("nan", "NA")}
    with pytest.raises(SpeechMergeError, match="no Common Voice for 'it'.*common_voice=DIR"):
        read(covost)


def test_what_is_wrong_is_named(covost):
    table = covost / "covost_v2.it_en.tsv"
    table.write_text(table.read_text() + "common_voice_it_1.mp3\ttwice\ttest\n")
    with pytest.raises(SpeechMergeError, match=r"covost_v2.it_en.tsv:13: common_voice_it_1.mp3 is translated twice"):
        read(covost)
    with pytest.raises(UsageError, match="no pair 'en_it'"):  # only into English
        Covost2().options({"pair": "en_it"})
    with pytest.raises(UsageError, match="no pair 'hi_en'"):
        Covost2().options({"languages": "it_en,hi_en"})


def test_pairs_and_counts_of_the_release():
    assert len(PAIRS) == 36 and sum(pair.endswith("_en") for pair in PAIRS) == 21
    corpus = Covost2()
    counts = {"fr_en": (207374, 14760, 14760), "de_en": (127834, 13511, 13511), "es_en": (79015, 13221, 13221),
              "ca_en": (95854, 12730, 12730), "it_en": (31698, 8940, 8951), "en_zh-CN": (289430, 15531, 15531)}
    for pair, counts in counts.items():
        assert tuple(corpus.expected("st", corpus.options({"pair": pair})).values()) == counts
    both = corpus.expected("st", corpus.options({"languages": "it_en,de_en"}))
    assert both == {"train": 31698 + 127834, "dev": 8940 + 13511, "test": 8951 + 13511}
    urls = [archive.url for archive in corpus.archives(corpus.options({"pair": "zh-CN_en"}))]
    assert urls == ["https://dl.fbaipublicfiles.com/covost/covost_v2.zh-CN_en.tsv.tar.gz"]


def test_rows_of_the_hub():
    corpus, options = Covost2(), Covost2.Options(pair="en_de")
    row = {"client_id": "c", "file": "common_voice_en_7.mp3", "id": "common_voice_en_7", "sentence": "Null",
           "translation": "Null", "audio": {"path": "common_voice_en_7.mp3", "bytes": b""}}
    utterance = corpus.from_row(row, "train", "st", options)
    assert (utterance.id, utterance.text, utterance.speaker) == ("common_voice_en_7", "Null", "c")
    least = {column: row[column] for column in ("audio", "sentence", "translation")}
    assert corpus.from_row(least, "test", "st", options).id == "common_voice_en_7"
    assert corpus.from_row({**row, "translation": "REMOVE"}, "train", "st", options) is None
    assert corpus.hub("st", options).parts["dev"][0].split == "validation"
    with pytest.raises(UsageError, match="one pair at a time"):
        corpus.hub("st", Covost2.Options(languages=("it_en", "de_en")))


@pytest.fixture(scope="module")
def twin_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("covost_twin")
    Covost2().prepare(root / "data", corpus_dir=root / "corpus", mini=True)
    return root


@pytest.mark.parametrize("split, count", [("train", 198), ("dev", 30), ("test", 48)])
def test_twin_goes_through_prepare_format_and_validate(twin_root, split, count):
    path = twin_root / "data/st" / split
    assert {soundfile.info(u.audio).samplerate for u in DataDir.read(path).utterances.values()} == {48000}
    format_dir(path)
    found = DataDir.read(path).utterances
    assert not validate(path) and len(found) == count and max(u.duration for u in found.values()) <= 4


def test_twin_has_several_pairs(twin_root, tmp_path):
    made = Covost2().prepare(tmp_path, corpus_dir=twin_root / "corpus", mini=True, languages=("de_en", "en_de"))
    assert len(made) == 6
    assert {u.labels["target_lang"] for u in DataDir.read(tmp_path / "en_de/test").utterances.values()} == {"de"}
    with pytest.raises(SpeechMergeError):
        Covost2().prepare(tmp_path, corpus_dir=twin_root / "corpus", mini=True, pair="fr_en")


def test_twin_is_the_same_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr(twin, "COUNTS", {"it_en": (7, 2, 2)})
    trees = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        Covost2().write_twin(tmp_path / name, seed, 1)
        files = [path for path in sorted((tmp_path / name).rglob("*")) if path.is_file()]
        trees.append({path.relative_to(tmp_path / name): path.read_bytes() for path in files})
    assert trees[0] == trees[1] != trees[2]
