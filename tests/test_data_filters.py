"""Filters of `format`: what each keeps, that all follow from the seed, and that none loses a table of stage 1."""
import shutil
from collections import Counter, defaultdict

import pytest

from speechmerge.cli import main
from speechmerge.data.directory import UNFILTERED, DataDir, Trial, Utterance
from speechmerge.data.filters import Filters, apply
from speechmerge.data.format import format_dir
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.files import read_json
from tiny import tiny_tones


def many(n=240, speakers=6):
    """Utterances of 2 to 5 s; the first speaker has half of them. Labels, languages and corpora go round."""
    utterances = {}
    for i in range(n):
        speaker = "s0" if i % 2 else f"s{1 + i // 2 % (speakers - 1)}"
        labels = {"keyword": ("yes", "no", "stop")[i % 3], "tone": "high", "corpus": "big" if i % 4 else "small"}
        id = f"{speaker}-{i:03d}"
        utterances[id] = Utterance(id, f"{id}.wav", "" if i % 10 == 0 else "words", speaker, ("en", "hi")[i % 2],
                                   2.0 + i % 4, labels)
    return DataDir("data", dict(sorted(utterances.items())), ["yes", "no", "stop", "other"])


def kept(**options):
    return apply(many(), Filters(**{"label_table": "keyword", **options}))[0]


def hours(data, **where):
    chosen = [u for u in data.utterances.values() if all(u.labels[k] == v for k, v in where.items())]
    return sum(u.duration for u in chosen) / 3600


def test_hours_are_filled_whole_and_nested():
    five, ten = kept(hours=0.05), kept(hours=0.1)
    assert 0.05 - 5 / 3600 < hours(five) <= 0.05 and 0.1 - 5 / 3600 < hours(ten) <= 0.1
    assert five.utterances.keys() < ten.utterances.keys()
    assert kept(hours=0.05).utterances == five.utterances
    assert kept(hours=0.05, seed=1).utterances.keys() != five.utterances.keys()
    assert list(five.utterances) == sorted(five.utterances)


def test_speakers_take_turns():
    counts = Counter(u.speaker for u in kept(max_utterances=60).utterances.values())
    assert set(counts.values()) == {10} and len(counts) == 6


def test_more_hours_than_there_are():
    data, [step] = apply(many(), Filters(hours=1.0))
    assert len(data.utterances) == 240 and "there is no more" in str(step)


def test_text_languages_labels():
    assert all(u.text for u in kept(remove_empty_text=True).utterances.values())
    assert {u.language for u in kept(languages=("hi",)).utterances.values()} == {"hi"}
    found = kept(labels=("no", "yes"))
    assert {u.labels["keyword"] for u in found.utterances.values()} == {"yes", "no"} and found.labels == ["yes", "no"]
    with pytest.raises(SpeechMergeError, match="label of utt2keyword 'yess' does not occur; did you mean 'yes'"):
        kept(labels=("yess",))
    with pytest.raises(SpeechMergeError, match="language 'pa' does not occur"):
        kept(languages=("pa",))


def test_the_label_table_must_be_clear():
    with pytest.raises(UsageError, match=r"2 label tables \(keyword, tone\); name one with --label-table"):
        kept(labels=("yes",), label_table=None)
    with pytest.raises(UsageError, match="has no utt2intent"):
        kept(labels=("yes",), label_table="intent")


def test_limits_per_label_and_speaker():
    per_label = Counter(u.labels["keyword"] for u in kept(max_per_label=7).utterances.values())
    assert per_label == {"yes": 7, "no": 7, "stop": 7}
    per_speaker = Counter(u.speaker for u in kept(max_per_speaker=5).utterances.values())
    assert per_speaker == {f"s{i}": 5 for i in range(6)}


def test_speakers():
    frequent = {u.speaker for u in kept(speakers=2).utterances.values()}
    assert "s0" in frequent and len(frequent) == 2
    found = [kept(speakers=2, speaker_choice="random", seed=seed) for seed in range(8)]
    drawn = {tuple(sorted({u.speaker for u in data.utterances.values()})) for data in found}
    assert len(drawn) > 1 and all(len(pair) == 2 for pair in drawn)


def test_speakers_that_are_labels_are_the_same_in_all_splits():
    """In dev another speaker is the most frequent; the counts of train decide."""
    def split(counts):
        names = [(name, i) for name, count in counts.items() for i in range(count)]
        utterances = {f"{name}-{i}": Utterance(f"{name}-{i}", "x.wav", None, name, "en", 1.0) for name, i in names}
        return DataDir("data", utterances, ["a", "b", "c"])

    train, dev = split({"a": 9, "b": 5, "c": 1}), split({"a": 1, "b": 2, "c": 8})
    for data in (train, dev):
        found, _ = apply(data, Filters(speakers=2), train)
        assert {u.speaker for u in found.utterances.values()} == {"a", "b"} and found.labels == ["a", "b"]
    lots = [apply(data, Filters(speakers=2, speaker_choice="random", seed=3), train)[0] for data in (train, dev)]
    lots = [{u.speaker for u in data.utterances.values()} for data in lots]
    assert lots[0] == lots[1]


def test_mix_takes_as_much_as_the_ratio_allows():
    """small has a quarter of the utterances: of two equal halves it is all, of the other as much."""
    small = hours(many(), corpus="small")
    found = kept(mix={"big": 0.5, "small": 0.5})
    assert hours(found, corpus="small") == pytest.approx(small)
    assert hours(found, corpus="big") == pytest.approx(small, abs=5 / 3600)
    found = kept(mix={"big": 3, "small": 1}, hours=0.1)
    assert hours(found, corpus="small") == pytest.approx(0.025, abs=5 / 3600)
    assert hours(found, corpus="big") == pytest.approx(0.075, abs=5 / 3600)
    with pytest.raises(SpeechMergeError, match="corpus 'smal' of --mix is not in utt2corpus; did you mean 'small'"):
        kept(mix={"smal": 1})


def test_pairs():
    data = many()
    ids = list(data.utterances)
    data.trials = [Trial(f"t{i:02d}", ids[i], ids[i + 1], i % 2 == 0) for i in range(40)]
    found, steps = apply(data, Filters(positive_pairs=5, negative_pairs=100, languages=("en", "hi")))
    assert Counter(trial.target for trial in found.trials) == {True: 5, False: 20}
    assert "there are only 20" in str(steps[-1]) and set(found.trials) < set(data.trials)
    few, _ = apply(data, Filters(max_utterances=100))
    assert all(t.enrol in few.utterances and t.test in few.utterances for t in few.trials)
    with pytest.raises(UsageError, match="has no trials"):
        apply(many(), Filters(positive_pairs=5))


@pytest.mark.parametrize("options", [{"hours": 0.0}, {"max_utterances": -1}, {"speaker_choice": "best"},
                                     {"mix": {"a": 0.0}}])
def test_wrong_values(options):
    with pytest.raises(UsageError):
        Filters(**options)


def test_nothing_left():
    with pytest.raises(SpeechMergeError, match="hours .* leaves none of 240 utterances"):
        kept(hours=1e-5)


# In a data directory


@pytest.fixture
def data(tmp_path):
    return tiny_tones(tmp_path / "kws" / "train", task="kws", n=12)


def ids(path):
    return set(DataDir.read(path).utterances)


def run(data, *words):
    assert main(["format", "--data", str(data), *words]) == 0


def test_filters_in_place_can_be_taken_back(data, capsys):
    before = ids(data)
    run(data, "--labels", "yes,no")
    assert len(ids(data)) == 8 and (data / "labels").read_text() == "no\nyes\n"
    assert "labels yes,no: kept 8 of 12 utterances" in capsys.readouterr().out
    assert read_json(data / "stats.json")["filters"][0]["kept"] == 8
    run(data, "--labels", "yes,no")
    assert "already done 8 utterances" in capsys.readouterr().out
    run(data, "--labels", "stop")
    assert len(ids(data)) == 4 and ids(data) < before
    run(data)
    assert ids(data) == before and (data / "labels").read_text() == "no\nstop\nyes\n"


def test_stage_1_wins(data):
    """Written anew, even with just what a filter had left, the directory is what stage 1 wrote."""
    first = DataDir.read(data)
    run(data, "--max-utterances", "5")
    left = DataDir.read(data)
    DataDir(data, left.utterances, left.labels).write()
    assert not (data / UNFILTERED).exists()
    run(data)
    assert ids(data) == set(left.utterances)
    first.write()
    run(data, "--max-utterances", "3")
    assert len(ids(data)) == 3
    run(data)
    assert ids(data) == set(first.utterances)


def test_tables_changed_by_hand_are_the_new_ones(data, caplog):
    run(data, "--labels", "yes,no")
    changed = (data / "text").read_text().replace(" yes", " oui")
    (data / "text").write_text(changed)
    run(data)
    assert len(ids(data)) == 8 and "changed after the last `format`" in caplog.text


def test_a_copied_directory_keeps_its_unfiltered_tables(data, tmp_path):
    run(data, "--labels", "yes,no")
    shutil.copytree(data, tmp_path / "copy")
    run(tmp_path / "copy")
    assert len(ids(tmp_path / "copy")) == 12


def test_killed_while_it_writes(data, monkeypatch):
    """The tables are half those of the filter: the next run starts from all."""
    from speechmerge.data import directory

    def killed(path, rows):
        if path.name == "utt2spk":
            raise KeyboardInterrupt
        original(path, rows)

    original = directory.write_table
    monkeypatch.setattr(directory, "write_table", killed)
    with pytest.raises(KeyboardInterrupt):
        format_dir(data, filters=Filters(labels=("yes",)))
    monkeypatch.undo()
    with pytest.raises(SpeechMergeError):
        DataDir.read(data)
    run(data)
    assert len(ids(data)) == 12


def test_limits_per_split(tmp_path, capsys):
    for split in ("train", "dev"):
        tiny_tones(tmp_path / split, n=12)
    words = [str(tmp_path / "train"), str(tmp_path / "dev")]
    assert main(["format", "--data", *words, "--max-utterances", "train=6,validation=3"]) == 0
    assert (len(ids(tmp_path / "train")), len(ids(tmp_path / "dev"))) == (6, 3)
    assert main(["format", "--data", *words, "--hours", "dev=0.001"]) == 0
    assert len(ids(tmp_path / "train")) == 12 and 0 < len(ids(tmp_path / "dev")) < 12
    (tmp_path / "format.yaml").write_text("max_utterances: train=4,dev=2\nlabels: ['yes', 'no']\n")
    assert main(["format", "--config", str(tmp_path / "format.yaml"), "--data", *words]) == 0
    assert {u.labels["keyword"] for u in DataDir.read(words[0]).utterances.values()} == {"yes", "no"}
    assert (len(ids(tmp_path / "train")), len(ids(tmp_path / "dev"))) == (4, 2)
    capsys.readouterr()
    (tmp_path / "format.yaml").write_text("labels: [yes, no]\n")
    assert main(["format", "--config", str(tmp_path / "format.yaml"), "--data", *words]) == 1
    assert "quote them" in capsys.readouterr().err
    for wrong in ("tset=3", "train=x", "train=1,train=2"):
        assert main(["format", "--data", *words, "--max-utterances", wrong]) == 2
        assert "--max-utterances" in capsys.readouterr().err


def test_settings_of_the_sound_make_files_anew_and_back(data):
    from speechmerge.data.audio import RATE, read_audio
    from speechmerge.data.loudness import integrated_loudness

    run(data, "--loudness", "-30", "--trim-silence", "40", "--trim-margin", "0")
    loud = DataDir.read(data)
    for utterance in loud.utterances.values():
        assert utterance.audio == str(data / "audio" / f"{utterance.id}.flac")
        assert integrated_loudness(read_audio(utterance.audio), RATE) == pytest.approx(-30, abs=0.1)
    made = {u.id: (data / "audio" / f"{u.id}.flac").stat().st_mtime_ns for u in loud.utterances.values()}
    run(data, "--loudness", "-30", "--trim-silence", "40", "--trim-margin", "0", "--max-utterances", "4")
    assert all((data / "audio" / f"{id}.flac").stat().st_mtime_ns == time for id, time in made.items())
    run(data, "--loudness", "-20")
    assert all((data / "audio" / f"{id}.flac").stat().st_mtime_ns != time for id, time in made.items())
    run(data)
    assert {u.audio for u in DataDir.read(data).utterances.values()} == {str(p) for p in (data / "wav").glob("*.wav")}


def test_questions_about_one_file_share_what_is_made_of_it(data):
    found = DataDir.read(data)
    one = next(iter(found.utterances.values()))
    shared = {f"q{i}": Utterance(f"q{i}", one.audio, None, "s", "en", None, {"question": f"why {i}"}) for i in range(3)}
    DataDir(data, shared).write()
    run(data, "--loudness", "-25")
    assert len({u.audio for u in DataDir.read(data).utterances.values()}) == 1
    by_corpus = defaultdict(int)
    for path in (data / "audio").glob("*.flac"):
        by_corpus[path.name] += 1
    assert by_corpus == {"q0.flac": 1}
