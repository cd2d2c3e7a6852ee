"""TED-LIUM: STM lines as published, what is skipped and cleaned, segments of SPHERE recordings, its twin."""
import hashlib

import numpy as np
import pytest
import soundfile

from speechmerge.corpora import CORPORA
from speechmerge.corpora.tedlium import TALKS, plain_text
from speechmerge.data.directory import DataDir
from speechmerge.data.format import format_dir
from speechmerge.data.validate import validate
from speechmerge.errors import SpeechMergeError, UsageError

# The first two as published in release 3, whose times overlap; then what the readers of others have stumbled over
TRAIN = """911Mothers_2010W 1 911Mothers_2010W 14.95 16.19 <NA> <unk> because of
911Mothers_2010W 1 911Mothers_2010W 16.12 25.02 <NA> the fact that we have
911Mothers_2010W\t1\t911Mothers_2010W\t25.10\t26.00\t<NA>\tit 's  the dogs ' bowl
911Mothers_2010W 1 911Mothers_2010W 26 26.5 <NA> <unk>
"""
DEV = """;; CATEGORY "0" "" ""
AlGore_2009 1 inter_segment_gap 0 15.31 <o,,unknown> ignore_time_segment_in_scoring
AlGore_2009 1 AlGore_2009 15.31 16.5 <o,f0,male> last year i read(2) {NOISE} these <sil> slides (AlGore_2009-1)
AlGore_2009 1 Chris 16.5 17 <F0_F> we 're here
AlGore_2009 1 AlGore_2009 17 18.25 no label at all
"""


def write_corpus(root, train=TRAIN, dev=DEV):
    for split, talk, text in (("train", "911Mothers_2010W", train), ("dev", "AlGore_2009", dev), ("test", "Ann_2001", DEV)):
        folder = root / "TEDLIUM_release-3/legacy" / split
        for kind in ("stm", "sph"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        (folder / "stm" / f"{talk}.stm").write_text(text.replace("AlGore_2009", talk), encoding="utf-8")
        (folder / "stm" / f"._{talk}.stm").write_bytes(b"\x00\x05\x16\x07")  # what a Mac leaves beside a file
        noise = np.random.default_rng(0).uniform(-0.1, 0.1, 30 * 16000)
        soundfile.write(folder / "sph" / f"{talk}.sph", noise, 16000, format="NIST", subtype="PCM_16")


def prepare(tmp_path, **options):
    made = CORPORA.get("tedlium")().prepare(tmp_path / "data", corpus_dir=tmp_path / "c", allow_incomplete=True, **options)
    return {path.name: DataDir.read(path) for path in made}


def test_lines_of_stm(tmp_path):
    write_corpus(tmp_path / "c")
    data = prepare(tmp_path)
    train, dev = (list(data[split].utterances.values()) for split in ("train", "dev"))
    assert [(u.id, u.text, u.segment) for u in train] == [
        ("911Mothers_2010W-0001495-0001619", "because of", (14.95, 16.19)),
        ("911Mothers_2010W-0001612-0002502", "the fact that we have", (16.12, 25.02)),
        ("911Mothers_2010W-0002510-0002600", "it's the dogs' bowl", (25.1, 26.0))]
    assert [(u.text, u.segment) for u in dev] == [
        ("last year i read these slides", (15.31, 16.5)), ("we're here", (16.5, 17.0)), ("no label at all", (17.0, 18.25))]
    assert {u.speaker for u in train + dev} == {"911Mothers_2010W", "AlGore_2009"}
    assert all(u.language == "en" and u.audio.endswith(f"sph/{u.speaker}.sph") for u in train + dev)
    assert '"not scored": 2' in (tmp_path / "data/asr/prepare.json").read_text()


def test_what_becomes_of_unknown_words_and_speakers(tmp_path):
    write_corpus(tmp_path / "c")
    assert [u.text for u in prepare(tmp_path, unknown="keep")["train"].utterances.values()][::3] == ["<unk> because of", "<unk>"]
    assert len(prepare(tmp_path, unknown="skip")["train"].utterances) == 2
    speakers = [u.speaker for u in prepare(tmp_path, speaker="stm")["dev"].utterances.values()]
    assert speakers == ["AlGore_2009", "Chris", "AlGore_2009"]


def test_genders_where_all_are_known(tmp_path):
    write_corpus(tmp_path / "c", dev=DEV.replace("no label at all", "<o,f4,female> with a label"))
    data = prepare(tmp_path)
    assert [u.labels for u in data["dev"].utterances.values()] == [{"gender": "m"}, {"gender": "f"}, {"gender": "f"}]
    assert not any(u.labels for u in data["train"].utterances.values())


@pytest.mark.parametrize("text,plain", [
    ("ignore_time_segment_in_scoring", ""), ("IGNORE_TIME_SEGMENT_IN_SCORING", ""), ("'til we 've won", "'til we've won"),
    ("a [laughter] b", "a b"), ("read(2) it(12)", "read it"), ("what ( is ) this", "what ( is ) this"), ("<sil>", "")])
def test_plain_text(text, plain):
    assert plain_text(text) == plain


def test_format_cuts_the_stretches_out(tmp_path):
    write_corpus(tmp_path / "c")
    prepare(tmp_path)
    talk, rate = soundfile.read(tmp_path / "c/TEDLIUM_release-3/legacy/dev/sph/AlGore_2009.sph")
    format_dir(tmp_path / "data/asr/dev")
    data = DataDir.read(tmp_path / "data/asr/dev", formatted=True)
    for utterance, (start, end) in zip(data.utterances.values(), ((15.31, 16.5), (16.5, 17.0), (17.0, 18.25))):
        samples, _ = soundfile.read(utterance.audio)
        assert np.allclose(samples, talk[round(start * rate) : round(end * rate)], atol=1e-4)
        assert utterance.duration == pytest.approx(end - start, abs=1e-3)


def test_release_2_and_recordings_in_the_common_folder(tmp_path):
    write_corpus(tmp_path / "c")
    legacy = tmp_path / "c/TEDLIUM_release-3/legacy"
    (tmp_path / "c/TEDLIUM_release-3/data").mkdir()
    (legacy / "dev/sph").rename(tmp_path / "c/TEDLIUM_release-3/data/sph")
    assert prepare(tmp_path)["dev"].utterances["AlGore_2009-0001531-0001650"].audio.endswith("data/sph/AlGore_2009.sph")
    (tmp_path / "c/TEDLIUM_release-3/data/sph").rename(legacy / "dev/sph")
    legacy.rename(tmp_path / "c/TEDLIUM_release2")
    assert len(prepare(tmp_path, release=2)["dev"].utterances) == 3


@pytest.mark.parametrize("line,message", [
    ("Ann 1 Ann 1.0", "dev.*stm:1: found 'Ann 1 Ann 1.0', expected `talk channel"), ("Ann 1 Ann one 2 <NA> x", "expected `talk channel"),
    ("Ann 2 Ann 1 2 <NA> x", "channel '2', expected 1"), ("Ann 1 A 1 2 <NA> x\nAnn 1 B 1 2 <NA> y", "stm:2: Ann-0000100-0000200 occurs twice")])
def test_broken_lines(tmp_path, line, message):
    write_corpus(tmp_path / "c", dev=line)
    with pytest.raises(SpeechMergeError, match=message):
        prepare(tmp_path)


def test_incomplete_and_wrong(tmp_path):
    write_corpus(tmp_path / "c")
    corpus = CORPORA.get("tedlium")()
    with pytest.raises(SpeechMergeError, match="not the whole release: dev: found 3, expected 507; test: found 3, expected 1155"):
        corpus.prepare(tmp_path / "data", corpus_dir=tmp_path / "c")
    for options in ({"release": "2"}, {"partition": "legacy"}, {}):
        assert corpus.expected("asr", corpus.options(options)) == {"dev": 507, "test": 1155}
    assert corpus.expected("asr", corpus.options({"partition": "speaker-adaptation"})) == {}
    with pytest.raises(SpeechMergeError, match="speaker-adaptation/train/stm: no .*stm there"):
        prepare(tmp_path, partition="speaker-adaptation")
    for options, message in (({"release": 1}, "release '1'"), ({"unknown": "drop"}, "unknown 'drop'"), ({"speaker": "talks"}, "mean 'talk'")):
        with pytest.raises(UsageError, match=message):
            prepare(tmp_path, **options)
    assert [a.url for a in corpus.archives(corpus.options({}))] == ["https://www.openslr.org/resources/51/TEDLIUM_release-3.tgz"]


def test_rows_of_the_hub():
    corpus = CORPORA.get("tedlium")()
    options = corpus.options({})
    row = {"text": "we 're <unk> here", "speaker_id": "AlGore", "gender": "male", "file": "/x/AlGore_2009.sph", "id": "AlGore_2009-15.31-16.50-<o>"}
    found = corpus.from_row(row, "dev", "asr", options)
    assert (found.text, found.speaker, found.labels) == ("we're here", "AlGore_2009", {"gender": "m"})
    assert corpus.from_row({**row, "text": "ignore_time_segment_in_scoring"}, "dev", "asr", options) is None
    assert corpus.from_row({**row, "gender": "N/A"}, "dev", "asr", options).labels == {}
    assert [part.config for part in corpus.hub("asr", options).parts["dev"]] == ["release3"]
    with pytest.raises(UsageError, match="partition=legacy"):
        corpus.hub("asr", corpus.options({"speaker": "stm"}))


def test_the_twin(tmp_path):
    made = [CORPORA.get("tedlium")().prepare(tmp_path / "data", corpus_dir=tmp_path / name, mini=True, seed=3) for name in ("a", "b")][0]
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*") if path.is_file())
    assert len(files) > 60
    for path in files:
        assert hashlib.sha256((tmp_path / "a" / path).read_bytes()).digest() == hashlib.sha256((tmp_path / "b" / path).read_bytes()).digest()
    texts = {}
    for path in made:
        assert not validate(path)
        talks, each = TALKS[path.name]
        data = DataDir.read(path)
        assert (len(data.utterances), len({u.speaker for u in data.utterances.values()})) == (talks * each, talks)
        texts[path.name] = {u.text for u in data.utterances.values()}
        assert not any(mark in text for text in texts[path.name] for mark in ("<", "(", "{", " '"))
        assert max(u.segment[1] - u.segment[0] for u in data.utterances.values()) < 3.9
    assert not texts["train"] & texts["test"] and not texts["train"] & texts["dev"]
    format_dir(made[1])
    assert not validate(made[1])
