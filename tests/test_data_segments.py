"""Segments, commands, arks and JSON in data directories: read, written, checked, repaired, cut by `format`."""
import json
import wave
from dataclasses import replace

import kaldiio
import numpy as np
import pytest
import soundfile

from speechmerge.cli import main
from speechmerge.data.audio import read_audio
from speechmerge.data.directory import DataDir, Utterance
from speechmerge.data.segments import recording_ids
from speechmerge.data.validate import fix, validate
from speechmerge.errors import SpeechMergeError
from tiny import tiny_tones

RATE = 16000


def ramp(seconds, rate=RATE):
    """The value tells the time: -0.5 to 0.5."""
    return np.linspace(-0.5, 0.5, int(seconds * rate), dtype=np.float32)


@pytest.fixture
def data(tmp_path):
    """Two talks of 10 s; three utterances in one, one in the other, of which one is the whole of it."""
    talks = [tmp_path / "talks" / name / "audio.wav" for name in ("a", "b")]
    for talk in talks:
        talk.parent.mkdir(parents=True)
        soundfile.write(talk, ramp(10), RATE, subtype="PCM_16")
    where = {"a-1": (talks[0], (0.5, 1.25)), "a-2": (talks[0], (1.25, 4.125)), "a-3": (talks[0], (9.0, 10.25)),
             "b-1": (talks[1], None)}
    utterances = {id: Utterance(id, str(path), f"words of {id}", id[0], "en", None, {}, segment)
                  for id, (path, segment) in where.items()}
    made = DataDir(tmp_path / "data" / "train", utterances)
    made.write()
    return made


def test_round_trip_in_kaldis_form(data):
    assert DataDir.read(data.path).utterances == data.utterances
    recordings = dict(line.split(" ", 1) for line in (data.path / "wav.scp").read_text().splitlines())
    rows = [line.split() for line in (data.path / "segments").read_text().splitlines()]
    assert [row[0] for row in rows] == ["a-1", "a-2", "a-3", "b-1"] and len(recordings) == 2
    assert all(recordings[row[1]] == data.utterances[row[0]].audio for row in rows)
    assert [row[2:] for row in rows] == [["0.5", "1.25"], ["1.25", "4.125"], ["9", "10.25"], ["0", "-1"]]
    assert validate(data.path) == []


def test_kaldis_own_reader_finds_the_same_samples(data):
    """kaldiio reads wav.scp and segments by itself. The third ends after the recording, which kaldiio cuts too."""
    found = kaldiio.load_scp(str(data.path / "wav.scp"), segments=str(data.path / "segments"))
    for id in ("a-1", "a-2", "a-3"):
        rate, samples = found[id]
        start, end = data.utterances[id].segment
        ours = read_audio(data.utterances[id].audio, start=start, end=end)
        np.testing.assert_allclose(ours, samples / 32768, atol=1e-6)


def test_format_cuts(data):
    assert main(["format", "--data", str(data.path)]) == 0
    found = DataDir.read(data.path, formatted=True)
    assert [u.duration for u in found.utterances.values()] == [0.75, 2.875, 1.0, 10.0]
    assert not (data.path / "segments").exists() and all(u.segment is None for u in found.utterances.values())
    cut = read_audio(found.utterances["a-2"].audio)
    np.testing.assert_allclose(cut, ramp(10)[20000:66000], atol=1e-4)
    assert found.utterances["b-1"].audio == data.utterances["b-1"].audio and validate(data.path) == []


def test_changed_times_make_the_file_anew(data):
    main(["format", "--data", str(data.path)])
    moved = Utterance("a-1", data.utterances["a-1"].audio, "words", "a", "en", None, {}, (2.0, 2.5))
    DataDir(data.path, {**data.utterances, "a-1": moved}).write()
    main(["format", "--data", str(data.path)])
    found = read_audio(DataDir.read(data.path).utterances["a-1"].audio)
    np.testing.assert_allclose(found, ramp(10)[32000:40000], atol=1e-4)


def test_training_refuses_segments(data):
    with pytest.raises(SpeechMergeError, match="segments:a-1: a stretch of a recording.*run stage 2"):
        DataDir.read(data.path, formatted=True)


BAD = {  # name: (line of a-2, what is said, does `fix` repair it)
    "unknown recording": ("a-2 nowhere 1.25 4.0", "segments:2:a-2: recording 'nowhere' is not in wav.scp", True),
    "end before start": ("a-2 REC 4.0 1.25", "segments:2:a-2: found a segment from 4 to 1.25 s", True),
    "negative": ("a-2 REC -3 1.25", "segments:2:a-2: found a segment from -3 to 1.25 s", True),
    "columns": ("a-2 REC 4.0", "segments:2:a-2: found 'REC 4.0', expected `recording start end`", False),
    "no number": ("a-2 REC one 4.0", "expected `recording start end` in seconds", False),
    "beyond": ("a-2 REC 9 10.75", "segments:2:a-2: the segment from 9 to 10.75 s lies beyond", True),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_segments(data, name):
    line, expected, repairable = BAD[name]
    lines = (data.path / "segments").read_text().splitlines(True)
    recording = lines[1].split()[1]
    (data.path / "segments").write_text(lines[0] + line.replace("REC", recording) + "\n" + "".join(lines[2:]))
    findings = [str(finding) for finding in validate(data.path)]
    assert any(expected.replace("REC", recording) in finding for finding in findings), findings
    if not repairable:
        with pytest.raises(SpeechMergeError, match="nothing was changed"):
            fix(data.path)
        return
    assert any("dropped 1 utterances" in line for line in fix(data.path))
    assert validate(data.path) == [] and sorted(DataDir.read(data.path).utterances) == ["a-1", "a-3", "b-1"]


def test_a_bad_recording_is_named_for_all_its_utterances(data):
    soundfile.write(data.utterances["a-1"].audio, np.zeros(0, np.float32), RATE)
    findings = validate(data.path)
    assert [finding.id for finding in findings] == ["a-1", "a-2", "a-3"] and findings[2].line == 3
    fix(data.path)
    assert validate(data.path) == [] and list(DataDir.read(data.path).utterances) == ["b-1"]


def test_recordings_of_one_name_are_told_apart():
    names = recording_ids(["x/audio.wav", "y/audio.wav", "y/my talk.sph"])
    assert len(set(names.values())) == 3 and names["y/my talk.sph"] == "my_talk"
    assert all(name.startswith("audio-") and len(name.split()) == 1 for path, name in names.items() if "audio" in path)


def test_fingerprint_sees_the_times_but_not_the_place(data, tmp_path):
    first = data.fingerprint()
    moved = {**data.utterances, "a-1": replace(data.utterances["a-1"], segment=(0.5, 1.3))}
    assert DataDir(data.path, moved).fingerprint() != first
    (tmp_path / "talks").rename(tmp_path / "elsewhere")
    there = {id: replace(u, audio=u.audio.replace("/talks/", "/elsewhere/")) for id, u in data.utterances.items()}
    assert DataDir(data.path, there).fingerprint() == first


# Arks and commands in wav.scp


def test_format_takes_audio_out_of_arks(tmp_path):
    folder = tmp_path / "data" / "train"
    folder.mkdir(parents=True)
    with kaldiio.WriteHelper(f"ark,scp:{tmp_path}/a.ark,{folder}/wav.scp") as writer:
        for id in ("u1", "u2"):
            writer(id, (RATE, (ramp(1) * 32767).astype(np.int16)))
    (folder / "text").write_text("u1 one\nu2 two\n")
    assert validate(folder) == []
    assert main(["format", "--data", str(folder)]) == 0
    found = DataDir.read(folder).utterances["u2"]
    np.testing.assert_allclose(read_audio(found.audio), ramp(1), atol=2e-4)
    assert found.duration == 1.0


@pytest.fixture
def piped(tmp_path):
    folder = tiny_tones(tmp_path / "kws" / "train", n=3)
    proof = tmp_path / "ran"
    text = (folder / "wav.scp").read_text()
    wav = folder / "wav" / "s0-000.wav"
    (folder / "wav.scp").write_text(text.replace(str(wav), f"touch {proof}; cat {wav} |"))
    return folder, proof


def test_commands_are_refused_unless_allowed(piped, capsys):
    folder, proof = piped
    assert main(["validate", "--data", str(folder)]) == 1
    assert "wav.scp:1:s0-000: command pipe" in (out := capsys.readouterr().out) and "--allow-pipes true" in out
    assert main(["format", "--data", str(folder)]) == 1 and "command pipe" in capsys.readouterr().err
    assert main(["validate", "--data", str(folder), "--allow-pipes", "true"]) == 0 and not proof.exists()
    with wave.open(str(folder / "wav" / "s0-000.wav")) as file:
        samples = file.getnframes()
    assert main(["format", "--data", str(folder), "--allow-pipes", "true"]) == 0 and proof.exists()
    found = DataDir.read(folder, formatted=True).utterances["s0-000"]
    assert found.audio == str(folder / "audio" / "s0-000.flac")
    assert found.duration == pytest.approx(samples / RATE, abs=1e-4)
    proof.unlink()
    assert main(["format", "--data", str(folder), "--allow-pipes", "true", "--force", "true"]) == 0
    assert not proof.exists()  # what it wrote is there


def test_a_command_that_fails_is_bad_audio(piped, capsys):
    folder, _ = piped
    (folder / "wav.scp").write_text((folder / "wav.scp").read_text().replace("cat ", "cat /nowhere/"))
    assert main(["format", "--data", str(folder), "--allow-pipes", "true"]) == 1
    assert "the command ended with status 1" in capsys.readouterr().err


def test_ids_and_texts_never_reach_a_shell(tmp_path):
    """Only wav.scp's commands are shell; whatever else stands in the tables is text."""
    folder, proof = tiny_tones(tmp_path / "train", n=3), tmp_path / "owned"
    for table in ("text", "utt2spk", "utt2keyword"):
        (folder / table).write_text((folder / table).read_text().replace("s0-000 ", f"s0-000 $(touch {proof});"))
    main(["format", "--data", str(folder), "--allow-pipes", "true"])
    assert not proof.exists()


# JSON


SLU = {"scenario": "alarm", "action": "set", "entities": [{"type": "time", "filler": "five"}]}
JSON = {"utt2slu": [(json.dumps(SLU), None), ("{'scenario': 'alarm'}", "not JSON"), ("[]", "found a JSON list"),
                    ('{"scenario": "alarm"}', "found the keys scenario"),
                    ('{"scenario": "a", "action": "b"}', "entities")],
        "utt2answers": [('["one", "1"]', None), ("one", "not JSON"), ("[]", "expected a list of strings"),
                        ("[1]", "expected a list of strings"), ('{"a": 1}', "found a JSON dict")]}


@pytest.mark.parametrize("table, value, expected", [(table, *case) for table in JSON for case in JSON[table]])
def test_json_tables(tmp_path, table, value, expected):
    folder = tiny_tones(tmp_path / "asr" / "train", task="asr", n=3)
    right = JSON[table][0][0]
    (folder / table).write_text(f"s0-000 {right}\ns1-001 {value}\ns2-002 {right}\n")
    findings = [str(finding) for finding in validate(folder, audio=False)]
    if expected is None:
        assert findings == [] and DataDir.read(folder).utterances["s1-001"].labels[table[4:]] == value
    else:
        assert len(findings) == 1 and f"{table}:2:s1-001: " in findings[0] and expected in findings[0]
