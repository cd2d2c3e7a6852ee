"""The mini corpus: the same bytes for the same seed, nothing of dev and test in training, valid data directories."""
import hashlib
import random
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechmerge.corpora import CORPORA
from speechmerge.corpora.mini import plans
from speechmerge.corpora.mini.corpus import SPLITS, plan_split, task_speakers
from speechmerge.corpora.mini.render import RATE, through
from speechmerge.corpora.mini.text import Grammar, read_words, split_of
from speechmerge.corpora.mini.voices import GROUPS
from speechmerge.data.directory import DataDir
from speechmerge.data.validate import validate
from speechmerge.errors import SpeechMergeError, UsageError

SCALE = 0.05


def prepare(path, **options):
    return CORPORA.get("mini")().prepare(output_dir=path, **{"seed": 3, "nj": 1, "scale": SCALE, **options})


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("mini") / "data"
    prepare(path)
    return path


def digests(path: Path) -> dict[str, str]:
    files = sorted(path.rglob("*.wav"))
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_every_split_of_every_task_is_a_valid_data_directory(corpus):
    for task in plans.TASKS:
        for split in SPLITS:
            data = DataDir.read(corpus / task / split)
            assert len(data.utterances) >= 8
            assert not validate(corpus / task / split), (task, split)
            for name in ("wav.scp", "text", "utt2spk", "utt2lang"):
                ids = [line.split(b" ")[0] for line in (corpus / task / split / name).read_bytes().splitlines()]
                assert ids == sorted(ids)


def test_audio_is_16_khz_mono_16_bit_and_short_enough(corpus):
    for task in plans.TASKS:
        for utterance in DataDir.read(corpus / task / "dev").utterances.values():
            info = soundfile.info(utterance.audio)
            assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
            assert 0.2 < info.duration <= (plans.PAIR_SECONDS if task == "speaker_ver" else 3.9)
            assert utterance.duration == pytest.approx(info.duration, abs=1e-4)


def test_same_seed_same_bytes_with_any_number_of_processes(corpus, tmp_path):
    prepare(tmp_path / "data", tasks=["asr", "emotion", "speaker_ver"], nj=2)
    made = digests(tmp_path / "data")
    assert made and made == {name: digest for name, digest in digests(corpus).items() if name in made}


def test_other_seed_other_speech(corpus, tmp_path):
    prepare(tmp_path / "data", tasks=["asr"], seed=4)
    first, second = (DataDir.read(path / "asr/train").utterances for path in (corpus, tmp_path / "data"))
    assert [u.text for u in first.values()] != [u.text for u in second.values()]


def test_an_utterance_does_not_depend_on_those_before_it():
    from speechmerge.corpora.mini.render import render
    from speechmerge.corpora.mini.speech import Synthesizer

    requests = plan_split("asr", "test", 3, SCALE)[0][:6]
    forward, backward = Synthesizer(), Synthesizer()
    first = {r.id: render(forward, r).tobytes() for r in requests}
    second = {r.id: render(backward, r).tobytes() for r in reversed(requests)}
    assert first == second


def test_a_killed_run_is_completed(corpus, tmp_path):
    prepare(tmp_path / "data", tasks=["asr"])
    whole = digests(tmp_path / "data")
    audio = tmp_path / "data/asr/train/audio"
    for wav in sorted(audio.glob("*.wav"))[::2]:
        wav.unlink()
    (audio / ".half.wav").write_bytes(b"RIFF")
    (tmp_path / "data/asr/train/wav.scp").unlink()
    prepare(tmp_path / "data", tasks=["asr"])
    assert {name: digest for name, digest in digests(tmp_path / "data").items() if "half" not in name} == whole
    assert DataDir.read(tmp_path / "data/asr/train").utterances


def test_audio_of_another_seed_does_not_stay(tmp_path):
    prepare(tmp_path / "data", tasks=["kws"], seed=1)
    prepare(tmp_path / "data", tasks=["kws"], seed=2)
    for split in SPLITS:
        data = DataDir.read(tmp_path / "data/kws" / split)
        wavs = {path.name for path in (data.path / "audio").glob("*.wav")}
        assert {Path(u.audio).name for u in data.utterances.values()} == wavs


def test_voices_of_dev_and_test_are_unseen():
    groups = list(GROUPS.values())
    assert sum(map(len, groups)) == len(set(sum(groups, [])))
    for task in set(plans.TASKS) - {"speaker_id"}:
        variants = [{s.variant for s in task_speakers(task, split)} for split in SPLITS]
        assert not variants[0] & (variants[1] | variants[2])


def test_speakers_to_be_identified_are_the_same_and_unknown_to_the_base():
    known = [task_speakers("speaker_id", split) for split in SPLITS]
    assert known[0] == known[1] == known[2]
    assert not {s.variant for s in known[0]} & set(GROUPS["base"])


def test_sentences_of_dev_and_test_are_unseen():
    for task in set(plans.TASKS) - {"kws"}:
        texts = {split: {r.text for r in plan_split(task, split, 3, 0.3)[0]} for split in SPLITS}
        assert all(split_of(text) == split for split in SPLITS for text in texts[split])
        assert not texts["train"] & (texts["dev"] | texts["test"])


def test_languages_are_all_there():
    assert {r.language for r in plan_split("asr", "test", 1, 1.0)[0]} == {"en", "es", "de", "it", "hi"}
    assert {r.language for r in plan_split("langid", "test", 1, 1.0)[0]} == {"en", "es", "de", "it", "hi", "pa", "te"}


@pytest.mark.parametrize("task", ["kws", "intent", "emotion"])
def test_labels_are_balanced(task):
    counts = Counter(next(iter(r.labels.values())) for r in plan_split(task, "train", 1, 1.0)[0])
    assert set(counts) == set(plans.label_set(task)) and max(counts.values()) - min(counts.values()) <= 1


def test_trials_are_balanced_and_of_unseen_speakers(corpus):
    data = DataDir.read(corpus / "speaker_ver/test")
    targets = [trial.target for trial in data.trials]
    assert abs(sum(targets) - len(targets) / 2) <= 1
    for trial in data.trials:
        assert (data.utterances[trial.enrol].speaker == data.utterances[trial.test].speaker) == trial.target
        assert trial.enrol != trial.test


def test_emotion_is_in_the_delivery_alone():
    requests = plan_split("emotion", "train", 1, 1.0)[0]
    rates = {}
    for request in requests:
        rates.setdefault(request.labels["emotion"], []).append(request.delivery.rate)
    means = {label: sum(values) / len(values) for label, values in rates.items()}
    assert means["sad"] < means["neutral"] < means["angry"]


def test_only_the_asr_task_is_heard_through_a_telephone():
    assert {r.channel for r in plan_split("asr", "train", 1, 1.0)[0]} == {"telephone"}
    others = {r.channel for task in ("kws", "intent", "emotion", "langid") for r in plan_split(task, "train", 1, 1.0)[0]}
    assert others == {"near"}


def test_a_telephone_line_passes_its_band_alone():
    time = np.arange(RATE) / RATE
    gain = {hertz: through("telephone", np.sin(2 * np.pi * hertz * time))[4000:].std() * 2 ** 0.5 for hertz in (100, 1000, 6000)}
    assert gain[1000] == pytest.approx(1, abs=0.05) and gain[100] < 0.05 and gain[6000] < 0.05


def test_siblings_share_nothing_with_the_tasks():
    for task, sets in read_words("labels").items():
        assert not set(sets["task"]) & set(sets["base"]), task


def test_grammar_gives_the_wanted_split_and_length():
    rng = random.Random(1)
    for language in plans.LANGUAGES + ("pa", "te", "fr"):
        for split in SPLITS:
            text = Grammar(language).sentence(rng, split, 40)
            assert split_of(text) == split and len(text) <= 40


def test_unknown_task_and_bad_numbers_are_named(tmp_path):
    with pytest.raises(UsageError, match="emotoin.*emotion"):
        prepare(tmp_path, tasks=["emotoin"])
    with pytest.raises(UsageError, match="nj 0"):
        prepare(tmp_path, nj=0)


def test_missing_engine_names_the_command(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(SpeechMergeError, match="tools/setup.sh"):
        prepare(tmp_path, tasks=["kws"])


def test_unknown_voice_is_named():
    from speechmerge.corpora.mini.speech import Synthesizer

    with pytest.raises(SpeechMergeError, match="no voice"):
        Synthesizer().speak("hello", "xx-none", "f1")
