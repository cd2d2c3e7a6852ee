"""IEMOCAP: the folds as s3prl and SUPERB count them, the traps of the release's files, the miniature end to end."""
import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechmerge.corpora import CORPORA
from speechmerge.corpora.published import Request
from speechmerge.data.directory import DataDir
from speechmerge.data.format import format_dir
from speechmerge.data.validate import validate
from speechmerge.errors import SpeechMergeError, UsageError

# Session: neutral, happy with excited, angry, sad; counted in s3prl/downstream/emotion/meta_data
FOLDS = {1: (384, 278, 229, 194), 2: (362, 327, 137, 197), 3: (320, 286, 240, 305), 4: (258, 303, 327, 143),
         5: (384, 442, 170, 245)}
SIZES = {1: 1085, 2: 1023, 3: 1151, 4: 1031, 5: 1241}
SESSION_1 = "IEMOCAP_full_release/Session1"
HEADER = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"


def digests(path: Path) -> dict[str, str]:
    files = [file for file in sorted(path.rglob("Ses0*")) if file.is_file()]
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def corpus():
    return CORPORA.get("iemocap")()


def evaluation(rows) -> str:
    """Blocks as the release has them: the summary line, then every evaluator's."""
    blocks = [f"[6.2901 - 8.2357]\t{id}\t{code}\t[2.5000, 2.5000, 2.5000]\nC-E2:\tNeutral;\t()\n"
              "C-F1:\tNeutral;\t(curious)\nA-E3:\tval 3; act 2; dom  2;\t()\n" for id, code in rows]
    return HEADER + "\n".join(blocks)


def put(path: Path, text: str, encoding="latin-1"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))


def session(root: Path, number: int, rows, transcripts=None):
    """One dialogue of a session; a transcript for every turn unless they are given."""
    dialog = f"Ses0{number}F_impro01"
    folder = root / "IEMOCAP_full_release" / f"Session{number}" / "dialog"
    put(folder / "EmoEvaluation" / f"{dialog}.txt", evaluation(rows))
    lines = transcripts or "".join(f"{id} [006.2901-008.2357]: Excuse me.\n" for id, _ in rows)
    put(folder / "transcriptions" / f"{dialog}.txt", lines)
    return folder


def small(root: Path):
    """Ten turns in each session, by its two speakers."""
    for number in range(1, 6):
        codes = ["neu", "hap", "ang", "sad", "exc"]
        rows = [(f"Ses0{number}F_impro01_{letter}{i:03d}", code) for letter in "FM" for i, code in enumerate(codes)]
        session(root, number, rows)
    return root


def read(root, **options):
    return corpus().read(root, "emotion", corpus().options(options))


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """The evaluations of the whole release, by the table above, with turns of other emotions among them."""
    root = tmp_path_factory.mktemp("release")
    for number, counts in FOLDS.items():
        codes = [code for code, count in zip(("neu", "hap", "ang", "sad"), counts) for _ in range(count)]
        excited = [i for i, code in enumerate(codes) if code == "hap"][::2]
        for i in excited:
            codes[i] = "exc"
        codes += ["fru"] * 30 + ["xxx"] * 20 + ["oth"]
        ids = [f"Ses0{number}F_impro01_{'FM'[i % 2]}{i // 2:03d}" for i in range(len(codes))]
        session(root, number, list(zip(ids, codes)))
    return root


@pytest.mark.parametrize("fold", FOLDS)
def test_folds_are_those_of_s3prl(release, fold):
    reading = read(release, fold=fold)
    labels = Counter(utterance.labels["emotion"] for utterance in reading.splits["test"].utterances.values())
    assert tuple(labels[name] for name in ("neutral", "happy", "angry", "sad")) == FOLDS[fold]
    sizes = {name: split.size() for name, split in reading.splits.items()}
    training = 5531 - SIZES[fold]
    assert sizes == {"test": SIZES[fold], "train": int(0.8 * training), "dev": training - int(0.8 * training)}
    assert sizes == corpus().expected("emotion", corpus().options({"fold": fold}))
    assert reading.skipped == {"frustrated": 150, "no agreement": 100, "other": 5}


def test_dev_of_a_session_is_counted_too(release):
    reading = read(release, fold=5, dev="session")
    assert {name: split.size() for name, split in reading.splits.items()} == \
        {"test": 1241, "dev": 1085, "train": 5531 - 1241 - 1085} == \
        corpus().expected("emotion", corpus().options({"fold": 5, "dev": "session"}))


def test_a_release_that_lacks_a_dialogue_is_refused(release):
    options, request = corpus().options({}), Request(release, 0, 1, False, "files", False)
    reading = read(release)
    corpus().check_counts("emotion", reading, options, request)
    reading.splits["train"].utterances.popitem()
    with pytest.raises(SpeechMergeError, match="train: found 3555, expected 3556"):
        corpus().check_counts("emotion", reading, options, request)


def test_speaker_is_the_session_and_the_letter_of_the_last_token(tmp_path):
    utterance = read(small(tmp_path))
    turn = utterance.splits["test"].utterances["Ses01F_impro01_M003"]
    assert (turn.speaker, turn.labels, turn.language) == ("Ses01M", {"emotion": "sad", "gender": "m"}, "en")
    assert turn.audio == str(tmp_path / SESSION_1 / "sentences/wav/Ses01F_impro01/Ses01F_impro01_M003.wav")
    assert turn.text == "Excuse me."


def test_wav_folder_of_scripted_dialogues(tmp_path):
    small(tmp_path)
    text = evaluation([("Ses01M_script01_3_F000", "neu")])
    put(tmp_path / SESSION_1 / "dialog/EmoEvaluation/Ses01M_script01_3.txt", text)
    found = read(tmp_path).splits["test"].utterances["Ses01M_script01_3_F000"]
    assert found.audio.endswith("Session1/sentences/wav/Ses01M_script01_3/Ses01M_script01_3_F000.wav")
    assert found.speaker == "Ses01F"


def test_only_the_top_level_of_emoevaluation_is_read(tmp_path):
    folder = small(tmp_path) / "IEMOCAP_full_release/Session1/dialog/EmoEvaluation"
    for name in ("Categorical/Ses01F_impro01_e2_cat.txt", "Attribute/Ses01F_impro01_e3_atr.txt",
                 "Self-evaluation/Ses01F_impro01_f1_cat.txt"):
        put(folder / name, evaluation([("Ses01F_impro01_F999", "ang")]))
    (folder / "._Ses01F_impro01.txt").write_bytes(b"\x00\x05\x16\x07[1 - 2]\tSes01F_impro01_F998\tang\t[1, 1, 1]\n")
    assert read(tmp_path).splits["test"].size() == 10


def test_latin_1_in_evaluations_and_transcripts(tmp_path):
    folder = small(tmp_path) / "IEMOCAP_full_release/Session1/dialog"
    with open(folder / "EmoEvaluation/Ses01F_impro01.txt", "ab") as file:
        file.write(b"C-E4:\tOther;\t(d\xe9\xe7u)\n")
    transcripts = folder / "transcriptions/Ses01F_impro01.txt"
    text = transcripts.read_text().replace("Excuse me.", " Un café,\tplease. ", 1)
    put(transcripts, text + "M: [BREATHING]\nSes01F_impro01_MXX0 \n")
    utterances = read(tmp_path).splits["test"].utterances
    assert utterances["Ses01F_impro01_F000"].text == "Un café, please."


def test_missing_transcripts_leave_the_text_of_the_split_out_and_are_counted(tmp_path):
    rows = [(f"Ses01F_impro01_F{i:03d}", "neu") for i in range(3)]
    small(tmp_path)
    stamp = "[006.2901-008.2357]:"
    session(tmp_path, 1, rows, f"Ses01F_impro01_F000 {stamp} Hello.\nSes01F_impro01_F001 {stamp}\n")
    reading = read(tmp_path)
    assert {utterance.text for utterance in reading.splits["test"].utterances.values()} == {None}
    assert reading.skipped["transcripts of a split, 2 of them being empty or missing"] == 3
    assert all(utterance.text for utterance in reading.splits["train"].utterances.values())


@pytest.mark.parametrize("line, found", [
    ("[6.2901 - 8.2357] Ses01F_impro01_F000 neu [2.5, 2.5, 2.5]", "separated by tabs"),  # blanks
    ("[6.2901 - 8.2357]\tSes01F_impro01_F000\tmad\t[2.5, 2.5, 2.5]", "mad"),
    ("[6.2901 - 8.2357]\tSes01F_impro01\tneu\t[2.5, 2.5, 2.5]", "Ses01F_impro01"),
])
def test_lines_that_cannot_be_read_are_named(tmp_path, line, found):
    small(tmp_path)
    put(tmp_path / "IEMOCAP_full_release/Session3/dialog/EmoEvaluation/Ses03F_impro02.txt", f"{HEADER}{line}\n")
    with pytest.raises(SpeechMergeError, match=rf"Ses03F_impro02.txt:3: .*{found}"):
        read(tmp_path)


def test_long_turns_are_cut_not_dropped(tmp_path):
    small(tmp_path)
    folder = tmp_path / "IEMOCAP_full_release/Session1/sentences/wav/Ses01F_impro01"
    folder.mkdir(parents=True)
    for name, seconds in (("Ses01F_impro01_F000", 34), ("Ses01F_impro01_F001", 30)):
        soundfile.write(folder / f"{name}.wav", np.zeros(16000 * seconds), 16000, subtype="PCM_16")
    turns = read(tmp_path).splits["test"].utterances
    assert turns["Ses01F_impro01_F000"].segment == (0.0, 30.0) and turns["Ses01F_impro01_F001"].segment is None
    assert read(tmp_path, longest=0.0).splits["test"].utterances["Ses01F_impro01_F000"].segment is None


def test_two_labels_of_a_turn_are_refused(tmp_path):
    small(tmp_path)
    put(tmp_path / SESSION_1 / "dialog/EmoEvaluation/Ses01F_impro09.txt", evaluation([("Ses01F_impro01_F000", "ang")]))
    with pytest.raises(SpeechMergeError, match="Ses01F_impro09.txt:3: Ses01F_impro01_F000 is ang here, neu before"):
        read(tmp_path)


def test_a_missing_session_is_named(tmp_path):
    for path in sorted((small(tmp_path) / "IEMOCAP_full_release/Session4/dialog/EmoEvaluation").iterdir()):
        path.unlink()
    with pytest.raises(SpeechMergeError, match="Session4/dialog/EmoEvaluation: .*five sessions"):
        read(tmp_path)


def test_sessions_may_lie_in_the_corpus_folder_itself(tmp_path):
    assert read(small(tmp_path) / "IEMOCAP_full_release").splits["test"].size() == 10


def test_dev_of_a_session_shares_no_speaker_with_train_and_a_random_one_does(tmp_path):
    def speakers(reading, split):
        return {utterance.speaker for utterance in reading.splits[split].utterances.values()}

    small(tmp_path)
    own, drawn = read(tmp_path, fold=4, dev="session"), read(tmp_path, fold=4)
    assert speakers(own, "dev") == {"Ses05F", "Ses05M"} and not speakers(own, "dev") & speakers(own, "train")
    assert speakers(drawn, "dev") <= speakers(drawn, "train")
    for reading in (own, drawn):
        assert speakers(reading, "test") == {"Ses04F", "Ses04M"}
        assert not speakers(reading, "test") & speakers(reading, "train")


def test_classes_can_be_chosen(tmp_path):
    small(tmp_path)
    apart = read(tmp_path, classes=("happy", "excited"), excited_as_happy=False)
    assert {u.labels["emotion"] for s in apart.splits.values() for u in s.utterances.values()} == {"happy", "excited"}
    assert apart.skipped == {"neutral": 10, "angry": 10, "sad": 10}
    only = read(tmp_path, excited_as_happy=False)
    assert only.skipped["excited"] == 10
    assert corpus().labels_of("emotion", corpus().options({})) == ["neutral", "happy", "angry", "sad"]


@pytest.mark.parametrize("options, said", [
    ({"fold": 6}, "1 to 5"), ({"classes": ("neutral", "hapy")}, "happy"), ({"dev": "sessions"}, "session"),
    ({"classes": ("happy",)}, "two or more"), ({"classes": ("happy", "excited")}, "excited_as_happy=false")])
def test_options_that_cannot_be_meant(options, said):
    with pytest.raises(UsageError, match=said):
        corpus().options(options)


def test_what_to_obtain_is_said(tmp_path):
    with pytest.raises(SpeechMergeError, match="release form.*IEMOCAP_full_release.*--mini true"):
        corpus().prepare(tmp_path / "data", corpus_dir=tmp_path / "nothing")


def test_the_hubs_version(tmp_path):
    datasets = pytest.importorskip("datasets")
    import io

    sound = io.BytesIO()
    soundfile.write(sound, np.zeros(1600), 16000, format="WAV")
    emotions = ["neutral", "excited", "angry", "sad", "frustrated"] * 3
    rows = [{"file": f"Ses0{n}F_impro01_{letter}{i:03d}.wav", "major_emotion": emotion,
             "transcription": " Excuse  me. ", "audio": {"bytes": sound.getvalue(), "path": None}}
            for n in range(1, 6) for letter in "FM" for i, emotion in enumerate(emotions)]
    (tmp_path / "hub").mkdir()
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "hub" / "train.parquet")
    corpus().prepare(tmp_path / "data", source="hf", hub_id=str(tmp_path / "hub"), fold=2)
    test = DataDir.read(tmp_path / "data/emotion/test")
    assert {u.speaker for u in test.utterances.values()} == {"Ses02F", "Ses02M"} and len(test.utterances) == 24
    labels = Counter(u.labels["emotion"] for u in test.utterances.values())
    assert labels == dict.fromkeys(("neutral", "happy", "angry", "sad"), 6)
    assert test.utterances["Ses02F_impro01_F000"].text == "Excuse me."
    train, dev = (DataDir.read(tmp_path / f"data/emotion/{split}").utterances for split in ("train", "dev"))
    assert len(train) + len(dev) == 96 and not train.keys() & dev.keys() and 8 <= len(dev) <= 32


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    path = tmp_path_factory.mktemp("twin")
    corpus().prepare(path / "data", corpus_dir=path / "corpus", mini=True, seed=3, nj=1)
    return path


def test_the_miniature_goes_through_prepare_format_and_validate(twin):
    texts = {}
    for split in ("train", "dev", "test"):
        statistics = format_dir(twin / "data/emotion" / split)
        assert statistics["seconds"]["max"] <= 3.9
        assert not validate(twin / "data/emotion" / split)
        data = DataDir.read(twin / "data/emotion" / split)
        assert data.labels == ["neutral", "happy", "angry", "sad"]
        texts[split] = {utterance.text for utterance in data.utterances.values()}
    assert not texts["test"] & (texts["train"] | texts["dev"])
    assert len(DataDir.read(twin / "data/emotion/test").utterances) == 60


def test_the_miniature_has_the_awkward_files_of_the_release(twin):
    folder = twin / "corpus/IEMOCAP_full_release/Session1/dialog/EmoEvaluation"
    first = (folder / "Ses01F_impro01.txt").read_bytes()
    assert first.startswith(b"% [START_TIME") and b"\xe9" in first
    assert b"\n[0.5000 - 3.0000]\tSes01F_impro01_F000\t" in first
    assert (folder / "._Ses01F_impro01.txt").is_file() and (folder / "Categorical/Ses01F_impro01_e2_cat.txt").is_file()


def test_the_miniature_is_the_same_for_the_same_seed(twin, tmp_path):
    corpus().prepare(tmp_path / "data", corpus_dir=tmp_path / "corpus", mini=True, seed=3, nj=2)
    first, second = (digests(path / "corpus") for path in (twin, tmp_path))
    assert len(first) > 300 and first == second
