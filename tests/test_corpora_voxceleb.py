"""VoxCeleb1: the publisher's lists as counted, what lies where, training pairs, archives in parts, the miniature."""
import hashlib
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechmerge.corpora import CORPORA
from speechmerge.corpora.published import Request
from speechmerge.corpora.voxceleb import archives
from speechmerge.corpora.voxceleb.corpus import Person, read_table, read_trials
from speechmerge.data.directory import DataDir
from speechmerge.data.format import format_dir
from speechmerge.data.validate import validate
from speechmerge.errors import SpeechMergeError, UsageError

SPEAKERS = [f"id{number}" for number in (*range(10001, 10009), 10270, 10271)]
HEADER = "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet"
TESTED = [f"id{number}" for number in range(10270, 10310)]  # the 40 speakers of the original trials


def digests(path: Path) -> dict[str, str]:
    files = [file for file in sorted(path.rglob("*.*")) if file.suffix in (".wav", ".txt", ".csv")]
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def corpus():
    return CORPORA.get("voxceleb")()


def read(root, task, **options):
    return corpus().read(root, task, corpus().options(options))


def lines(path: Path, rows):
    path.write_text("".join(f"{row}\n" for row in rows))


def folders(root: Path, speakers):
    """Empty folders of speakers: those of the trials in test/, the others in dev/."""
    for part in ("dev", "test"):
        (root / f"VoxCeleb1/{part}/wav").mkdir(parents=True, exist_ok=True)
    for speaker in speakers:
        (root / "VoxCeleb1" / ("test" if speaker in TESTED else "dev") / "wav" / speaker).mkdir()


def small(root: Path):
    """Three videos of three utterances by ten speakers; the lists, trials of the last two, and the table."""
    folders(root, SPEAKERS)
    names = [f"{video}{{0}}/0000{n}.wav" for video in ("-ab_cd", "na8-QE", "_xYz12") for n in (1, 2, 3)]
    wavs = {speaker: [f"{speaker}/{name.format(speaker[2:])}" for name in names] for speaker in SPEAKERS}
    marked = [f"{1 + (i > 5) + (i > 7)} {wav}" for own in wavs.values() for i, wav in enumerate(own)]
    lines(root / "iden_split.txt", marked)
    first, second = wavs["id10270"], wavs["id10271"]
    pairs = [f"1 {first[0]} {first[4]}", f"0 {first[0]} {second[1]}", f"1 {second[8]} {second[2]}"]
    lines(root / "veri_test.txt", pairs)
    table = [f"{speaker}\tA._Name_{i}\t{'mf'[i % 2]}\tUSA\tdev" for i, speaker in enumerate(SPEAKERS)]
    lines(root / "vox1_meta.csv", [HEADER, *table])
    return root


def test_identification_has_the_publishers_counts_and_speakers(tmp_path):
    counts = {"1": 138361, "2": 6904, "3": 8251}
    speakers = [f"id{number}" for number in range(10001, 11252)]
    folders(tmp_path, speakers)
    marks = "".join(mark * count for mark, count in counts.items())
    rows = [f"{mark} {speakers[i % 1251]}/na8-QEFmj44/{i // 1251:05d}.wav" for i, mark in enumerate(marks)]
    lines(tmp_path / "iden_split.txt", rows)
    reading = read(tmp_path, "speaker_id")
    assert reading.sizes() == {"train": 138361, "dev": 6904, "test": 8251}
    assert sum(split.size() for split in reading.splits.values()) == 153516
    labels = reading.splits["test"].labels
    assert [int(label[2:]) - 10001 for label in labels] == list(range(1251))
    assert reading.splits["train"].labels == labels
    options, request = corpus().options({}), Request(tmp_path, 0, 1, False, "files", False)
    corpus().check_counts("speaker_id", reading, options, request)
    reading.splits["dev"].utterances.popitem()
    with pytest.raises(SpeechMergeError, match="dev: found 6903, expected 6904"):
        corpus().check_counts("speaker_id", reading, options, request)


def test_original_trials_have_the_publishers_counts(tmp_path):
    rows = []
    for i in range(18860):
        speaker, other = TESTED[i % 40], TESTED[(i + 1 + i // 40 % 39) % 40]
        rows += [f"1 {speaker}/x6uYqmx31kE/{i:05d}.wav {speaker}/8jEAjG6SegY/00008.wav",
                 f"0 {speaker}/x6uYqmx31kE/{i:05d}.wav {other}/8jEAjG6SegY/00008.wav"]
    lines(tmp_path / "veri_test.txt", rows)
    trials, wavs = read_trials(tmp_path / "veri_test.txt")
    assert len(trials) == corpus().expected("speaker_ver", corpus().options({}))["test"] == 37720
    assert Counter(trial.target for trial in trials) == {True: 18860, False: 18860}
    ids = [trial.id for trial in trials]
    assert len(set(ids)) == 37720 and ids == sorted(ids)
    assert {wav.split("/")[0] for wav in wavs.values()} == set(TESTED)
    assert corpus().expected("speaker_ver", corpus().options({"trials": "O-cleaned"})) == {}


def test_utterances_lie_in_dev_and_in_test(tmp_path):
    reading = read(small(tmp_path), "speaker_id")
    train = reading.splits["train"].utterances
    assert train["id10001--ab_cd10001-00002"].audio == str(tmp_path / "VoxCeleb1/dev/wav/id10001/-ab_cd10001/00002.wav")
    other = train["id10271-na8-QE10271-00001"].audio
    assert other == str(tmp_path / "VoxCeleb1/test/wav/id10271/na8-QE10271/00001.wav")
    assert train["id10271-na8-QE10271-00001"].speaker == "id10271"
    assert train["id10002--ab_cd10002-00001"].labels == {"gender": "f", "group": "id10002/-ab_cd10002"}
    assert [reading.splits[split].size() for split in ("train", "dev", "test")] == [60, 20, 10]


def test_labels_are_ids_or_names(tmp_path):
    small(tmp_path)
    ids, names = (read(tmp_path, "speaker_id", labels=labels).splits["test"] for labels in ("auto", "name"))
    assert ids.labels[1] == "id10002" and names.labels[1] == "a._name_1"
    assert names.utterances["id10002-_xYz1210002-00003"].speaker == "a._name_1"
    assert len(set(names.labels)) == len(ids.labels) == 10
    (tmp_path / "vox1_meta.csv").unlink()
    assert read(tmp_path, "speaker_id").splits["test"].utterances["id10002-_xYz1210002-00003"].labels == \
        {"group": "id10002/_xYz1210002"}


def test_dev_and_test_merged_in_one_folder_are_read_too(tmp_path):
    small(tmp_path)
    (tmp_path / "VoxCeleb1/wav").mkdir()
    for folder in sorted(tmp_path.glob("VoxCeleb1/*/wav/id*")):
        folder.rename(tmp_path / "VoxCeleb1/wav" / folder.name)
    audio = read(tmp_path, "speaker_id").splits["test"].utterances["id10270-_xYz1210270-00003"].audio
    assert audio == str(tmp_path / "VoxCeleb1/wav/id10270/_xYz1210270/00003.wav")


def test_a_part_of_the_speakers(tmp_path):
    reading = read(small(tmp_path), "speaker_id", speakers=4)
    labels = reading.splits["train"].labels
    assert len(labels) == 4 and {u.speaker for u in reading.splits["train"].utterances.values()} == set(labels)
    assert reading.skipped == {"utterances of other speakers": 54}
    assert labels == read(tmp_path, "speaker_id", speakers=4).splits["train"].labels
    assert labels != read(tmp_path, "speaker_id", speakers=4, draw=2).splits["train"].labels
    with pytest.raises(UsageError, match="speakers=11, but there are 10"):
        read(tmp_path, "speaker_id", speakers=11)


def test_names_instead_of_ids_are_refused(tmp_path):
    small(tmp_path)
    (tmp_path / "VoxCeleb1/dev/wav/A.J._Buckley").mkdir()
    with pytest.raises(SpeechMergeError, match="A.J._Buckley: found a name, expected an id"):
        read(tmp_path, "speaker_id")


def test_voxceleb2_is_refused(tmp_path):
    small(tmp_path)
    (tmp_path / "VoxCeleb1/dev/wav/id00012").mkdir()
    with pytest.raises(SpeechMergeError, match="id00012: a speaker of VoxCeleb2"):
        read(tmp_path, "speaker_id")


@pytest.mark.parametrize("row, said", [
    ("1 A.J._Buckley/Y8hIVOBuels_0000001.wav", "older release's, with names"),
    ("4 id10001/na8-QEFmj44/00001.wav", "expected 1 or 2 or 3"),
    ("1 id10001/na8-QEFmj44/00001.wav id10001/x/00001.wav", "expected 1 or 2 or 3 and 1 of")])
def test_lines_of_iden_split_that_cannot_be_meant(tmp_path, row, said):
    small(tmp_path)
    lines(tmp_path / "iden_split.txt", ["1 id10001/na8-QEFmj44/00001.wav", row])
    with pytest.raises(SpeechMergeError, match=f"iden_split.txt:2: .*{said}"):
        read(tmp_path, "speaker_id")


@pytest.mark.parametrize("row, said", [
    ("1 id10270/x6uYqmx31kE/00001.wav id10271/8jEAjG6SegY/00008.wav", "expected 0"),
    ("1 Eartha_Kitt/x6uYqmx31kE_0000001.wav Eartha_Kitt/8jEAjG6SegY_0000008.wav", "with names"),
    ("2 id10270/x6uYqmx31kE/00001.wav id10271/8jEAjG6SegY/00008.wav", "expected 0 or 1 and 2 of")])
def test_trials_that_cannot_be_meant(tmp_path, row, said):
    lines(tmp_path / "veri_test.txt", [row])
    with pytest.raises(SpeechMergeError, match=f"veri_test.txt:1: .*{said}"):
        read_trials(tmp_path / "veri_test.txt")


def test_the_speakers_table_is_separated_by_tabs(tmp_path):
    lines(tmp_path / "vox1_meta.csv", [HEADER, "id10001\tA.J._Buckley\tm\tIreland\tdev",
                                       "id10003\tAaron_Tveit, Jr\tm\tUSA\tdev"])
    assert read_table(tmp_path / "vox1_meta.csv") == {"id10001": Person("a.j._buckley", "m"),
                                                      "id10003": Person("aaron_tveit,_jr", "m")}
    lines(tmp_path / "vox2_meta.csv", ["VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set ", "id00012 ,n000012 ,m ,dev "])
    with pytest.raises(SpeechMergeError, match="vox2_meta.csv:2: .*separated by tabs"):
        read_table(tmp_path / "vox2_meta.csv")


def test_training_pairs_are_of_speakers_in_no_trial(tmp_path):
    reading = read(small(tmp_path), "speaker_ver", positive_pairs=3, negative_pairs=5)
    speakers = {name: {u.speaker for u in split.utterances.values()} for name, split in reading.splits.items()}
    assert speakers["test"] == {"id10270", "id10271"}
    assert not speakers["train"] & speakers["dev"] and not (speakers["train"] | speakers["dev"]) & speakers["test"]
    assert [(t.enrol, t.test, t.target) for t in reading.splits["test"].trials][1] == \
        ("id10270--ab_cd10270-00001", "id10271--ab_cd10271-00002", False)
    for name in ("train", "dev"):
        split = reading.splits[name]
        count = len(speakers[name])
        assert Counter(trial.target for trial in split.trials) == {True: 3 * count, False: 5 * count}
        assert split.utterances.keys() == {id for trial in split.trials for id in (trial.enrol, trial.test)}
        assert len({frozenset((trial.enrol, trial.test)) for trial in split.trials}) == len(split.trials)
        for trial in split.trials:
            pair = [split.utterances[id] for id in (trial.enrol, trial.test)]
            assert (pair[0].speaker == pair[1].speaker) == trial.target
            assert not trial.target or pair[0].labels["group"] != pair[1].labels["group"]


def test_positive_pairs_of_one_video_on_demand(tmp_path):
    split = read(small(tmp_path), "speaker_ver", positive_pairs=20, other_video=False).splits["train"]
    groups = [[split.utterances[id].labels["group"] for id in (t.enrol, t.test)] for t in split.trials if t.target]
    assert any(first == second for first, second in groups)


def test_negative_pairs_of_one_gender_on_demand(tmp_path):
    def mixed(**options):
        split = read(tmp_path, "speaker_ver", **options).splits["train"]
        genders = {id: utterance.labels["gender"] for id, utterance in split.utterances.items()}
        return sum(genders[trial.enrol] != genders[trial.test] for trial in split.trials)

    small(tmp_path)
    assert mixed() > 0 and mixed(same_gender=True) == 0
    lines(tmp_path / "vox1_meta.csv", [HEADER, "id10001\tA\tm\tUSA\tdev"])
    with pytest.raises(SpeechMergeError, match="says nothing of 9 speakers, the first is id10002"):
        mixed(same_gender=True)


def test_pairs_follow_from_the_draw(tmp_path):
    small(tmp_path)
    first, again, other = (read(tmp_path, "speaker_ver", draw=draw).splits["train"].trials for draw in (1, 1, 2))
    assert first == again != other


def test_trials_about_all_speakers_leave_none_to_train_on(tmp_path):
    small(tmp_path)
    lines(tmp_path / "list_test_hard2.txt", ["1 id10001/-ab_cd10001/00001.wav id10001/-ab_cd10001/00002.wav",
                                             "0 id10001/-ab_cd10001/00001.wav id10270/-ab_cd10270/00002.wav"])
    reading = read(tmp_path, "speaker_ver", trials="H-cleaned")
    assert list(reading.splits) == ["test"] and len(reading.splits["test"].trials) == 2
    first = reading.splits["test"].utterances["id10001--ab_cd10001-00001"]
    assert first.audio.startswith(str(tmp_path / "VoxCeleb1/dev"))


def test_long_files_are_cut_not_dropped(tmp_path):
    small(tmp_path)
    for wav, seconds in (("id10001/-ab_cd10001/00001.wav", 3.0), ("id10001/-ab_cd10001/00002.wav", 2.0)):
        path = tmp_path / "VoxCeleb1/dev/wav" / wav
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, np.zeros(int(16000 * seconds)), 16000, subtype="PCM_16")
    found = read(tmp_path, "speaker_id", longest=2.0).splits["train"].utterances
    segments = [found[f"id10001--ab_cd10001-0000{number}"].segment for number in (1, 2)]
    assert segments == [(0.0, 2.0), None]
    whole = read(tmp_path, "speaker_id", longest=0.0).splits["train"].utterances
    assert {utterance.segment for utterance in whole.values()} == {None}


@pytest.mark.parametrize("options, said", [({"trials": "0"}, "known: E, "), ({"trials": "O-clean"}, "O-cleaned"),
                                           ({"negative_pairs": 0}, "1 or more"), ({"speakers": -1}, "0 or more")])
def test_options_that_cannot_be_meant(options, said):
    with pytest.raises(UsageError, match=said):
        corpus().options(options)


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """The two archives of a tiny release, dev in four parts; returns the corpus folder."""
    small(tmp_path)
    made = []
    for folder in archives.FOLDERS:
        packed = tmp_path / folder.archive
        with zipfile.ZipFile(packed, "w") as file:
            for speaker in sorted((tmp_path / "VoxCeleb1" / folder.name / "wav").iterdir()):
                file.writestr(f"wav/{speaker.name}/na8-QE{speaker.name[2:]}/00001.wav", b"RIFF" + speaker.name.encode())
                speaker.rmdir()
        (tmp_path / "VoxCeleb1" / folder.name / "wav").rmdir()
        (tmp_path / "VoxCeleb1" / folder.name).rmdir()
        data = packed.read_bytes()
        made.append(replace(folder, md5=hashlib.md5(data).hexdigest()))
        for i, part in enumerate(folder.parts):
            (tmp_path / part).write_bytes(data[i * len(data) // 4 : (i + 1) * len(data) // 4])
            packed.unlink(missing_ok=True)
    monkeypatch.setattr(archives, "FOLDERS", tuple(made))
    return tmp_path


def test_parts_are_joined_checked_and_unpacked(parts):
    audio = Path(read(parts, "speaker_id").splits["train"].utterances["id10003-na8-QE10003-00001"].audio)
    assert audio.read_bytes() == b"RIFFid10003" and audio == parts / "VoxCeleb1/dev/wav/id10003/na8-QE10003/00001.wav"
    assert (parts / "VoxCeleb1/test/wav/id10270").is_dir()
    assert not list(parts.glob(".vox1*")) and (parts / "vox1_dev_wav_partaa").is_file()


def test_a_damaged_part_is_refused(parts):
    (parts / "vox1_dev_wav_partac").write_bytes(b"no")
    with pytest.raises(SpeechMergeError, match="the md5 of vox1_dev_wav_partaa .* expected"):
        read(parts, "speaker_id")
    assert not (parts / "VoxCeleb1/dev/wav").exists() and not list(parts.glob(".vox1*"))


def test_a_missing_part_is_named(parts):
    (parts / "vox1_dev_wav_partab").unlink()
    with pytest.raises(SpeechMergeError, match="of the parts of vox1_dev_wav.zip, vox1_dev_wav_partab missing"):
        read(parts, "speaker_id")


def test_what_to_obtain_is_said(tmp_path):
    with pytest.raises(SpeechMergeError, match="Register.*vox1_dev_wav_partaa.*--mini true"):
        corpus().prepare(tmp_path / "data", corpus_dir=tmp_path / "nothing")
    assert [archive.file for archive in corpus().archives(corpus().options({"fetch": True}))] == \
        [f"vox1_dev_wav_parta{letter}" for letter in "abcd"] + ["vox1_test_wav.zip"]


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    path = tmp_path_factory.mktemp("twin")
    corpus().prepare(path / "data", corpus_dir=path / "corpus", mini=True, seed=3, nj=1, tasks="speaker_id,speaker_ver")
    return path


def test_the_miniature_goes_through_prepare_format_and_validate(twin):
    for task in ("speaker_id", "speaker_ver"):
        for split in ("train", "dev", "test"):
            statistics = format_dir(twin / "data" / task / split)
            assert statistics["seconds"]["max"] <= 1.9 and statistics["dropped"]["too long"] == 0
            assert not validate(twin / "data" / task / split)
    test = DataDir.read(twin / "data/speaker_id/test")
    assert {u.speaker for u in test.utterances.values()} == set(test.labels) and len(test.labels) == 14
    assert test.labels[:2] == ["anna", "boris"]
    trials = DataDir.read(twin / "data/speaker_ver/test").trials
    assert Counter(trial.target for trial in trials) == {True: 30, False: 30}


@pytest.mark.parametrize("trials", ["O-cleaned", "E", "E-cleaned", "H", "H-cleaned"])
def test_the_miniature_has_all_lists(twin, tmp_path, trials):
    made = corpus().prepare(tmp_path / "data", corpus_dir=twin / "corpus", mini=True, seed=3, tasks="speaker_ver",
                            trials=trials)
    people = read_table(twin / "corpus/vox1_meta.csv")
    data = DataDir.read(tmp_path / "data/speaker_ver/test")
    assert len(made) == (3 if trials.startswith("O") else 1)
    same = [people[data.utterances[t.enrol].speaker].gender == people[data.utterances[t.test].speaker].gender
            for t in data.trials if not t.target]
    assert all(same) == trials.startswith("H")


def test_the_miniature_is_the_same_for_the_same_seed(twin, tmp_path):
    corpus().prepare(tmp_path / "data", corpus_dir=tmp_path / "corpus", mini=True, seed=3, nj=2)
    first, second = (digests(path / "corpus") for path in (twin, tmp_path))
    assert len(first) > 350 and first == second
