"""Kathbath, IndicVoices and Shrutilipi in their layouts with the traps of each, their mixture, splits by speaker."""
import hashlib
import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechmerge.corpora.ai4bharat import indicvoices, kathbath, shrutilipi, twin
from speechmerge.corpora.ai4bharat.news import PEOPLE, SHARE, sentence
from speechmerge.corpora.ai4bharat.splits import by_speaker, keep_groups_apart
from speechmerge.corpora.base import CORPORA
from speechmerge.corpora.gather import Gathered, in_script, plain, tidy
from speechmerge.corpora.mini.text import split_of
from speechmerge.data.directory import DataDir
from speechmerge.data.filters import Filters
from speechmerge.data.format import format_dir
from speechmerge.data.validate import validate
from speechmerge.errors import SpeechMergeError, UsageError

UUID = "0b7a2c1e-5f3d-4c9a-8e21-1234567890ab"


def options(**given):
    return CORPORA.get("ai4bharat")().options(given)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def write_wav(path: Path, seconds: float = 0.5):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.sin(np.arange(int(16000 * seconds)) * 0.05) / 2, 16000)


# text

def test_tidy_text():
    assert tidy("आज\u00a0\u202fबारिश \t है\ufeff\u200b ") == "आज बारिश है"
    assert tidy("क\u094d\u200dष") == "क\u094d\u200dष"  # a joiner belongs to the spelling
    assert tidy("\u0958\u0932\u092e") == "\u0915\u093c\u0932\u092e" == tidy("\u0915\u093c\u0932\u092e")  # one qa


def test_plain_text():
    assert plain("“Dov'è l’acqua?” – chiese.") == "dov'è l'acqua chiese"
    assert plain("क्या, आप यहाँ हैं?।") == "क्या आप यहाँ हैं"  # vowel signs and viramas stay
    assert plain("'ਹਾਂ' ₹ ॥") == "ਹਾਂ"


@pytest.mark.parametrize("text, language, expected", [
    ("यह किताब है", "hi", True), ("yeh kitaab hai", "hi", False), ("मेरा phone", "hi", True), ("ਕਿਤਾਬ", "hi", False),
    ("నా phone బాగుంది", "te", True), ("1947", "hi", True), ("perché", "it", True), ("किताब", "it", False),
    ("книга", "ru", True)])
def test_scripts(text, language, expected):
    assert in_script(text, language) is expected


# Kathbath

def kathbath_set(root, folder, transcripts, suffix=".m4a", language="hindi"):
    """{file name of transcripts: lines}; audio for every clip that is named."""
    for name, lines in transcripts.items():
        write(root / folder / name, "".join(f"{line}\n" for line in lines))
        for line in lines:
            clip = line.split("\t")[0].removesuffix(".m4a")
            write(root / folder / "audio" / f"{clip}{suffix}", "sound")


@pytest.fixture
def kathbath_root(tmp_path):
    root = tmp_path / "kathbath"
    for split, speaker in (("train", 594), ("valid", 595), ("test", 596), ("test_known", 594)):
        lines = [f"8444249315{speaker}-{speaker}-f.m4a\tआज\u00a0दो लोग आए", f"77-8-{speaker}-m.m4a\tएक किताब"]
        kathbath_set(root, f"kb_data_clean_m4a/hindi/{split}", {"transcription_n2w.txt": lines})
    for split in ("test", "test_known", "valid"):
        lines = ["8444249315596-596-f.m4a\tआज दो लोग आए"]
        kathbath_set(root, f"kb_data_noisy_m4a/hindi/{split}", {"transcription_n2w.txt": lines})
    return root


def test_kathbath_as_published(kathbath_root):
    found = kathbath.read_language(kathbath_root, "hi", options())
    assert {split: len(own) for split, own in found.splits.items()} == dict.fromkeys(
        ("train", "dev", "test", "test_known"), 2)
    first = found.splits["train"]["kathbath-hi-594-8444249315594"]
    assert (first.text, first.speaker) == ("आज दो लोग आए", "kathbath-hi-594")
    assert first.labels == {"corpus": "kathbath", "gender": "f", "group": "kathbath-hi-594-8444249315594"}
    assert first.audio == str(kathbath_root / "kb_data_clean_m4a/hindi/train/audio/8444249315594-594-f.m4a")
    assert found.splits["dev"]["kathbath-hi-595-77-8"].labels["gender"] == "m"  # a dash inside the clip's number


def test_noisy_sets_are_two_and_valid_is_none_of_them(kathbath_root):
    found = kathbath.read_language(kathbath_root, "hi", options(kathbath_sets="test,test_noisy,test_known_noisy"))
    assert list(found.splits) == ["test", "test_noisy", "test_known_noisy"]
    assert list(found.splits["test_noisy"]) == ["kathbath-hi-596-8444249315596-noisy"]
    assert "kb_data_noisy_m4a" in found.splits["test_noisy"]["kathbath-hi-596-8444249315596-noisy"].audio
    with pytest.raises(UsageError, match="kathbath_sets 'valid'"):
        options(kathbath_sets="valid")


def test_either_name_of_the_transcripts_either_folder_and_converted_audio(tmp_path):
    for split in ("train", "valid"):
        kathbath_set(tmp_path, f"data/hindi/{split}", {"transcription.txt": ["1-2-f.m4a\tसंख्या 12"]}, suffix=".wav")
    found = kathbath.read_language(tmp_path, "hi", options(kathbath_sets="train,dev"))
    utterance = found.splits["train"]["kathbath-hi-2-1"]
    assert utterance.text == "संख्या 12" and utterance.audio.endswith("train/audio/1-2-f.wav")
    kathbath_set(tmp_path, "data/hindi/train", {"transcription_n2w.txt": ["1-2-f.m4a\tसंख्या बारह"]}, suffix=".wav")
    found = kathbath.read_language(tmp_path, "hi", options(kathbath_sets="train,dev"))
    assert found.splits["train"]["kathbath-hi-2-1"].text == "संख्या बारह"  # numbers in words where there are both


def test_what_kathbath_leaves_out_is_counted(kathbath_root):
    folder = kathbath_root / "kb_data_clean_m4a/hindi/train"
    write(folder / "audio/9-9-f.m4a", "sound")
    with open(folder / "transcription_n2w.txt", "a", encoding="utf-8") as file:
        file.write("nospeaker.m4a\tबात\n5-594-f.m4a\t \u00a0\n77-8-594-m.m4a\tएक किताब\n")
    found = kathbath.read_language(kathbath_root, "hi", options())
    assert found.skipped == Counter({f"kathbath hi: {reason}": 1 for reason in (
        "clip without speaker in its name", "empty transcript", "listed twice", "audio without transcript")})


def test_a_kathbath_set_that_is_not_there(kathbath_root):
    (kathbath_root / "kb_data_clean_m4a/hindi/test_known/transcription_n2w.txt").unlink()
    with pytest.raises(SpeechMergeError, match="hindi/test_known: no transcription_n2w.txt or transcription.txt.*"
                                               "kathbath_sets=train,dev,test"):
        kathbath.read_language(kathbath_root, "hi", options())
    write(kathbath_root / "kb_data_clean_m4a/hindi/test_known/transcription.txt", "1-2-f.m4a बिना टैब\n")
    with pytest.raises(SpeechMergeError, match="transcription.txt:1: found '1-2-f.m4a"):
        kathbath.read_language(kathbath_root, "hi", options())


# IndicVoices

def recording(root, split, name, parts, **more):
    """parts: (start, end, text, speaker_id)."""
    parts = [dict(zip(("start", "end", "text", "speaker_id"), part)) for part in parts]
    told = {"verbatim": [{**part, "text": part["text"] + " [hmm]"} for part in parts], "normalized": parts, **more}
    write(root / "Hindi/v1" / split / f"{name}.json", json.dumps(told))
    write_wav(root / "Hindi/v1" / split / f"{name}.wav", 2)


@pytest.fixture
def indicvoices_root(tmp_path):
    root = tmp_path / "indicvoices"
    recording(root, "train", "281474", [
        (0, 0.5, "आज [laugh] मौसम (noise) अच्छा है|", 0), (0.5, 1, "क्या आप ठीक हैं", 1), (1, 1.02, "हाँ", 0),
        (1, 32, "लंबा", 0), (1.25, 2, "मेरा phone", 0)], speaker_id="S42", gender="Female")
    recording(root, "train", f"{UUID}_1", [(0, 1, "नमस्ते\u200c जी", 0)])
    recording(root, "valid", f"{UUID}_2", [(0, 1, "जी हाँ", 0)])
    recording(root, "valid", "281475", [(0, 1, "“ठीक” है", 0)])
    return root


def test_indicvoices_as_published(indicvoices_root):
    found = indicvoices.read_language(indicvoices_root, "hi", options())
    train = found.splits["train"]
    assert {u.id: (u.text, u.segment) for u in train.values()} == {
        "indicvoices-hi-S42-281474_chunk_0": ("आज मौसम अच्छा है।", (0, 0.5)),
        "indicvoices-hi-S42-281474_chunk_4": ("मेरा phone", (1.25, 2)),
        f"indicvoices-hi-{UUID}_1-{UUID}_1_chunk_0": ("नमस्ते जी", (0, 1))}
    assert train["indicvoices-hi-S42-281474_chunk_0"].labels["gender"] == "f"
    assert found.skipped == Counter({f"indicvoices hi: {reason}": 1 for reason in (
        "of the one who asks", "shorter than 0.05 s", "longer than 30 s")})
    assert {u.text for u in found.splits["dev"].values()} == {"जी हाँ", '"ठीक" है'}


@pytest.mark.parametrize("latin, texts, skipped", [
    ("keep", ["आज मौसम अच्छा है।", "मेरा phone"], 0), ("delete", ["आज मौसम अच्छा है।", "मेरा"], 0),
    ("skip", ["आज मौसम अच्छा है।"], 1)])
def test_latin_letters_go_only_where_asked_and_never_in_silence(indicvoices_root, latin, texts, skipped):
    found = indicvoices.read_language(indicvoices_root, "hi", options(latin=latin))
    assert [u.text for u in found.splits["train"].values() if "S42" in u.id] == texts
    assert found.remarks == {f"lines with Latin letters (latin={latin})": ["281474_chunk_4"]}
    assert found.skipped["indicvoices hi: with Latin letters"] == skipped


def test_verbatim_text_has_no_tags_either(indicvoices_root):
    found = indicvoices.read_language(indicvoices_root, "hi", options(indicvoices_text="verbatim"))
    assert found.splits["train"]["indicvoices-hi-S42-281474_chunk_0"].text == "आज मौसम अच्छा है।"


def test_a_conversation_never_lies_in_two_splits(indicvoices_root):
    found = indicvoices.read_language(indicvoices_root, "hi", options())
    assert sum(f"{UUID}" in u.labels["group"] for own in found.splits.values() for u in own.values()) == 2
    keep_groups_apart(found)
    assert not any(UUID in id for id in found.splits["train"]) and any(UUID in id for id in found.splits["dev"])
    assert found.skipped["indicvoices hi: in train, its recording also in a later set"] == 1


@pytest.mark.parametrize("told, message", [("[1]", "no list 'normalized'"), ("{", "is not JSON"), (
    '{"normalized": [{"start": 0, "text": "हाँ"}]}', "stretch 0: found .*expected start, end, text")])
def test_a_broken_transcript_is_named(indicvoices_root, told, message):
    write(indicvoices_root / "Hindi/v1/train/281474.json", told)
    with pytest.raises(SpeechMergeError, match=f"281474.json: {message}"):
        indicvoices.read_language(indicvoices_root, "hi", options())


# Shrutilipi

@pytest.fixture
def shrutilipi_root(tmp_path):
    root = tmp_path / "shrutilipi"
    clips = ["NSD-2021-01-02-0700/sent_1.wav", "NSD-2021-01-02-0700/sent_2.wav", "NSD-2021-03-04-1400/sent_1.wav"]
    for clip in clips:
        write_wav(root / "data/hindi" / clip)
    lines = ["/nlsasfs/home/x/shrutilipi/hindi", *(f"{clip}\t8000" for clip in clips)]
    write(root / "data/hindi/train.tsv", "\n".join(lines) + "\n")
    write(root / "data/hindi/train.wrd", "यह आकाशवाणी है\nअब समाचार\nमौसम का हाल\n")
    return root


def test_shrutilipi_as_published(shrutilipi_root):
    found = shrutilipi.read_language(shrutilipi_root, "hi", options())
    assert [(u.id, u.text) for u in found.splits["train"].values()] == [
        ("shrutilipi-hi-NSD-2021-01-02-0700-sent_1", "यह आकाशवाणी है"),
        ("shrutilipi-hi-NSD-2021-01-02-0700-sent_2", "अब समाचार"),
        ("shrutilipi-hi-NSD-2021-03-04-1400-sent_1", "मौसम का हाल")]
    assert all(Path(u.audio).is_file() for u in found.splits["train"].values())  # not where the first line says


def test_paths_of_shrutilipi_may_begin_above_the_manifest(shrutilipi_root):
    manifest = shrutilipi_root / "data/hindi/train.tsv"
    lines = manifest.read_text().splitlines()
    write(manifest, "\n".join(["/elsewhere", *(f"hindi/{line}" for line in lines[1:])]) + "\n")
    found = shrutilipi.read_language(shrutilipi_root, "hi", options())
    assert all(Path(u.audio).is_file() for u in found.splits["train"].values())


@pytest.mark.parametrize("name, text, message", [
    ("train.wrd", "एक\nदो\n", "train.tsv: has 3 clips, train.wrd 2 texts"), ("train.tsv", "", "train.tsv: is empty"),
    ("train.tsv", "/x\na.wav\t8000\nb.wav\nc.wav\t8000\n", "train.tsv:3: found 'b.wav'")])
def test_a_broken_manifest_is_named(shrutilipi_root, name, text, message):
    write(shrutilipi_root / "data/hindi" / name, text)
    with pytest.raises(SpeechMergeError, match=message):
        shrutilipi.read_language(shrutilipi_root, "hi", options())


# splits by speaker

def random_source(seed: int) -> Gathered:
    """Speakers with several recordings, recordings with several speakers, the publisher's sets drawn at random."""
    rng, found = random.Random(seed), Gathered("indicvoices", "hi")
    for number in range(rng.randint(40, 300)):
        speaker = rng.randint(0, 30)
        found.add(rng.choice(("train", "train", "dev", "test")), speaker=str(speaker), name=str(number), text="हाँ",
                  group=f"talk{speaker // 2}" if rng.random() < 0.3 else f"own{speaker}-{rng.randint(0, 3)}")
    return found


@pytest.mark.parametrize("seed", range(20))
def test_no_speaker_and_no_group_in_two_splits(seed):
    found, before = random_source(seed), {u.id for own in random_source(seed).splits.values() for u in own.values()}
    by_speaker(found, 0.1, 0.2)
    assert list(found.splits) == ["train", "dev", "test"] and all(found.splits.values())
    for key in (lambda u: u.speaker, lambda u: u.labels["group"]):
        train, dev, test = ({key(u) for u in own.values()} for own in found.splits.values())
        assert not (train & dev or train & test or dev & test)
    assert sorted(id for own in found.splits.values() for id in own) == sorted(before)
    assert len(found.splits["test"]) >= 0.2 * len(before)
    again = random_source(seed)
    by_speaker(again, 0.1, 0.2)
    assert again.splits == found.splits
    by_speaker(again := random_source(seed), 0.1, 0.2, seed=1)
    assert again.splits != found.splits


def test_noisy_versions_follow_their_speakers(kathbath_root):
    lines = [f"{n}-{600 + n}-f.m4a\tएक किताब" for n in range(9)]
    kathbath_set(kathbath_root, "kb_data_clean_m4a/hindi/train", {"transcription_n2w.txt": lines})
    kathbath_set(kathbath_root, "kb_data_noisy_m4a/hindi/test", {"transcription_n2w.txt": lines})
    found = kathbath.read_language(kathbath_root, "hi", options(kathbath_sets="train,dev,test,test_noisy"))
    by_speaker(found, 0.1, 0.5)
    test = {u.speaker for u in found.splits["test"].values()}
    assert {u.speaker for u in found.splits["test_noisy"].values()} == {s for s in test if s >= "kathbath-hi-600"}
    assert found.skipped["kathbath hi: noisy, its speaker not in test"] == 9 - len(found.splits["test_noisy"]) > 0


def test_two_speakers_cannot_make_three_splits():
    found = Gathered("shrutilipi", "hi")
    for speaker in "ab":
        found.add("train", speaker=speaker, name=speaker, text="हाँ")
    with pytest.raises(SpeechMergeError, match="2 independent groups of speakers, expected at least three"):
        by_speaker(found, 0.1, 0.1)


# the mixture

def test_a_source_that_is_not_there_says_what_to_do(kathbath_root, tmp_path):
    corpus = CORPORA.get("ai4bharat")()
    with pytest.raises(SpeechMergeError, match="indicvoices is not there, expected .*ai4bharat/IndicVoices.*"
                                               "--param sources=kathbath,shrutilipi,common_voice,mls"):
        corpus.prepare(tmp_path / "data", corpus_dir=tmp_path, languages="hi")
    with pytest.raises(SpeechMergeError, match="ai4bharat is not there .*egs/ai4bharat/README.md"):
        corpus.prepare(tmp_path / "data", corpus_dir=tmp_path / "nowhere", languages="hi")


def test_a_language_without_a_test_set_is_refused(indicvoices_root, tmp_path):
    with pytest.raises(SpeechMergeError, match="hi: nothing for test in indicvoices; .*splits=speaker"):
        CORPORA.get("ai4bharat")().prepare(tmp_path, corpus_dir=tmp_path, languages="hi", sources="indicvoices")


def test_options_are_checked():
    for given, message in (({"languages": "ta"}, "languages 'ta'"), ({"sources": "kathbat"}, "did you mean 'kathbath'"),
                           ({"languages": "it", "sources": "kathbath"}, "none of the sources kathbath has 'it'"),
                           ({"splits": "random"}, "splits 'random'"), ({"latin": "drop"}, "latin 'drop'"),
                           ({"dev_share": 0.6, "test_share": 0.5}, "their sum below 1")):
        with pytest.raises(UsageError, match=message):
            options(**given)


def test_counts_are_known_where_mls_is_all_there_is():
    corpus = CORPORA.get("ai4bharat")()
    assert corpus.expected("asr", options(languages="it", sources="mls")) == {"train": 59623, "dev": 1248, "test": 1262}
    assert corpus.expected("asr", options(languages="it")) == {}


def test_a_line_in_another_script_is_counted_and_named(kathbath_root, tmp_path, caplog):
    kathbath_set(kathbath_root, "kb_data_clean_m4a/hindi/train", {"transcription_n2w.txt": [
        "1-594-f.m4a\tyeh ek kitaab hai", "2-594-f.m4a\tयह एक किताब है"]})
    prepare = CORPORA.get("ai4bharat")().prepare
    given = {"corpus_dir": tmp_path / "none", "kathbath_dir": str(kathbath_root), "languages": "hi",
             "sources": "kathbath"}
    made = prepare(tmp_path / "data", **given)
    assert len(DataDir.read(made[0]).utterances) == 2
    assert "1 lines in another script (other_script=keep), the first is kathbath-hi-594-1" in caplog.text
    assert "1 speakers of train also in dev or test" not in caplog.text  # test_known is meant to share them
    made = prepare(tmp_path / "data", other_script="skip", **given)
    assert list(DataDir.read(made[0]).utterances) == ["kathbath-hi-594-2"]
    left_out = json.loads((tmp_path / "data/hi/prepare.json").read_text())["left_out"]
    assert left_out["kathbath hi: in another script"] == 1


def hub_repository(root, config, splits):
    """{split: columns}; audio as parquet has it."""
    datasets = pytest.importorskip("datasets")
    write_wav(root / "x.wav", 0.2)
    sound, configs = (root / "x.wav").read_bytes(), []
    for split, columns in splits.items():
        columns = dict(columns)
        columns["audio_filepath"] = [{"bytes": sound, "path": path} for path in columns["audio_filepath"]]
        (root / config).mkdir(exist_ok=True)
        datasets.Dataset.from_dict(columns).to_parquet(root / config / f"{split}-0.parquet")
        configs.append(f"  - split: {split}\n    path: {config}/{split}-*\n")
    write(root / "README.md", f"---\nconfigs:\n- config_name: {config}\n  data_files:\n{''.join(configs)}---\n")


def test_kathbath_from_the_hub_in_splits_by_speaker(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = {split: {"fname": [f"8{n}-{n}-m.m4a" for n in numbers], "text": ["एक\u00a0किताब"] * 4, "lang": ["hi"] * 4,
                    "audio_filepath": [f"8{n}-{n}-m.m4a" for n in numbers], "duration": [0.2] * 4,
                    "gender": ["male"] * 4, "speaker_id": list(numbers)} for split, numbers in (("train", range(1, 5)), ("valid", range(5, 9)))}
    hub_repository(tmp_path, "hindi", rows)
    corpus = CORPORA.get("ai4bharat")()
    given = {"source": "hf", "hub_id": str(tmp_path), "languages": "hi"}
    made = corpus.prepare(tmp_path / "data", sources="kathbath", splits="speaker", test_share=0.25, **given)
    found = {path.name: DataDir.read(path).utterances for path in made}
    assert {name: len(own) for name, own in found.items()} == {"train": 5, "dev": 1, "test": 2}
    utterance = next(iter(found["train"].values()))
    assert utterance.id == f"{utterance.speaker}-8{utterance.speaker.split('-')[-1]}" and utterance.text == "एक किताब"
    assert soundfile.info(utterance.audio).duration == pytest.approx(0.2)
    with pytest.raises(UsageError, match="one repository"):
        corpus.prepare(tmp_path / "data", sources="kathbath,shrutilipi", **given)
    with pytest.raises(SpeechMergeError, match="hi: nothing for test in kathbath"):
        corpus.prepare(tmp_path / "data", sources="kathbath", **given)


def test_rows_of_indicvoices_and_shrutilipi():
    chosen = options(indicvoices_text="verbatim")
    row = {"audio_filepath": {"bytes": b"", "path": f"{UUID}_1_chunk_7.flac"}, "text": "x", "verbatim": "हाँ [laugh] जी",
           "normalized": "y", "duration": 1.5, "speaker_id": "S1", "gender": "Male", "lang": "hi"}
    utterance = indicvoices.from_row(row, 0, "hi", chosen)
    assert (utterance.id, utterance.text) == (f"indicvoices-hi-S1-{UUID}_1_chunk_7", "हाँ जी")
    assert utterance.labels["group"] == f"indicvoices-hi-{UUID}"
    assert indicvoices.from_row({**row, "duration": 31.0}, 0, "hi", chosen) is None
    rows = [{"text": "अब समाचार", "audio_filepath": {"bytes": b"", "path": "sent_1.wav"}}] * 2
    ids = {shrutilipi.from_row(row, number, "hi", chosen).id for number, row in enumerate(rows)}
    assert len(ids) == 2  # clips of two bulletins have one name


# the miniature

# A third of it, which is as much to test on and faster; tests/test_recipes.py makes the whole one
SMALL = {"KATHBATH": {"train": 24, "dev": 4, "test": 6, "test_known": 4, "test_noisy": 6, "test_known_noisy": 4},
         "COMMON_VOICE": {"hi": (16, 4, 8), "pa": (16, 4, 8), "te": (16, 4, 8), "it": (32, 6, 8)},
         "MLS": {"train": 40, "dev": 6, "test": 8}, "BULLETINS": 3, "SENTENCES": 4, "ALONE": {"train": 6, "dev": 1},
         "STRETCHES": {"train": 3, "dev": 4}}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The data directories of the miniature, and its folder."""
    root = tmp_path_factory.mktemp("ai4bharat")
    with pytest.MonkeyPatch.context() as patch:
        for name, size in SMALL.items():
            patch.setattr(twin, name, size)
        make(root)
    return root


def make(root):
    CORPORA.get("ai4bharat")().prepare(root / "data", corpus_dir=root / "twin", mini=True, nj=2, test_by_source=True,
                                       kathbath_sets="train,dev,test,test_known,test_noisy")


def test_the_miniature_through_prepare_format_and_validate(made):
    counts = Counter()
    for language in ("hi", "pa", "te", "it"):
        for split in ("train", "dev", "test"):
            directory = made / "data" / language / split
            format_dir(directory)
            assert [str(finding) for finding in validate(directory)] == []
            data = DataDir.read(directory)
            counts[split] += len(data.utterances)
            assert all(u.language == language and 0.2 < u.duration <= 3.95 for u in data.utterances.values())
            assert all(in_script(u.text, language) for u in data.utterances.values())
    assert counts == {"train": 300, "dev": 48, "test": 58}
    assert sum(file.stat().st_size for file in (made / "twin").rglob("*") if file.is_file()) < 60e6


def test_sources_of_the_miniature(made):
    data = {language: DataDir.read(made / "data" / language / "train") for language in ("te", "it")}
    train = {language: Counter(u.labels["corpus"] for u in own.utterances.values()) for language, own in data.items()}
    assert train == {"te": {"kathbath": 24, "indicvoices": 24, "shrutilipi": 12, "common_voice": 16},
                     "it": {"mls": 40, "common_voice": 32}}
    assert sorted(path.name for path in (made / "data/te").iterdir() if path.is_dir()) == [
        "dev", "test", "test_common_voice", "test_kathbath", "test_known", "test_noisy", "train"]
    assert not list((made / "twin").glob("kathbath/kb_data_noisy_m4a/*/valid/audio"))  # and yet prepare went through


def test_speakers_and_sentences_of_the_miniature(made):
    for language in ("hi", "pa", "te", "it"):
        sets = {split: DataDir.read(made / "data" / language / split).utterances.values()
                for split in ("train", "dev", "test")}
        speakers = {split: {u.speaker for u in own} for split, own in sets.items()}
        texts = {split: {plain(u.text) for u in own} for split, own in sets.items()}
        for a, b in (("train", "dev"), ("train", "test"), ("dev", "test")):
            assert not speakers[a] & speakers[b] and not texts[a] & texts[b]
    known = {u.speaker for u in DataDir.read(made / "data/te/test_known").utterances.values()}
    assert known <= {u.speaker for u in DataDir.read(made / "data/te/train").utterances.values()}


def test_ratios_of_sources_by_stage_2(made, tmp_path):
    mix = Filters(mix={"kathbath": 0.5, "common_voice": 0.5})
    format_dir(made / "data/te/train", tmp_path / "mixed", filters=mix)
    seconds = Counter()
    for utterance in DataDir.read(tmp_path / "mixed").utterances.values():
        seconds[utterance.labels["corpus"]] += utterance.duration
    assert set(seconds) == {"kathbath", "common_voice"}
    assert seconds["kathbath"] / sum(seconds.values()) == pytest.approx(0.5, abs=0.05)


def test_the_miniature_is_the_same_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr(twin, "INDIAN", ("te",))
    monkeypatch.setattr(twin, "COMMON_VOICE", {"te": (2, 1, 1), "it": (2, 1, 1)})
    monkeypatch.setattr(twin, "KATHBATH", SMALL["KATHBATH"])
    monkeypatch.setattr(twin, "MLS", {"train": 40, "dev": 1, "test": 1})
    hashes = []
    for place, nj in (("a", 1), ("b", 2)):
        twin.write(tmp_path / place, 5, nj)
        hashes.append({str(file.relative_to(tmp_path / place)): hashlib.sha256(file.read_bytes()).hexdigest()
                       for file in (tmp_path / place).rglob("*") if file.is_file()})
    assert hashes[0] == hashes[1]
    assert {Path(name).suffix for name in hashes[0]} >= {".m4a", ".mp3", ".wav", ".flac", ".json"}


@pytest.mark.parametrize("language", PEOPLE)
def test_sentences_belong_to_one_split(language):
    rng, seen = random.Random(0), {}
    for split in ("train", "dev", "test"):
        seen[split] = [sentence(language, split, rng) for _ in range(60)]
        assert all(split_of(text) == split and in_script(text, language) for text in seen[split])
    news = sum(any(word in text for word in PEOPLE[language]) for own in seen.values() for text in own)
    assert news / 180 == pytest.approx(SHARE, abs=0.15)
