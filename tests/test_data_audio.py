"""Audio: what is refused and how it is said, what `format` converts, and that resampling keeps the signal."""
import os

import numpy as np
import pytest
import soundfile

from speechmerge.cli import main
from speechmerge.data.audio import AudioError, audio_info, read_audio, write_audio
from speechmerge.data.directory import DataDir
from speechmerge.data.format import format_dir
from speechmerge.data.validate import fix, validate
from speechmerge.errors import SpeechMergeError
from speechmerge.files import read_json
from tiny import tiny_tones

RATE = 16000


def sine(rate=RATE, seconds=0.5, frequency=1000):
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def missing(path):
    path.unlink()


def empty(path):
    path.write_bytes(b"")


def truncated(path):
    os.truncate(path, os.path.getsize(path) // 2)


def cut_header(path):
    os.truncate(path, 20)


def header_only(path):
    soundfile.write(path, np.zeros(0, np.float32), RATE)


def text(path):
    path.write_text("this is a web page")


def nan(path):
    samples = sine()
    samples[800] = np.nan
    soundfile.write(path, samples, RATE, subtype="FLOAT")


def infinite(path):
    samples = sine()
    samples[8] = -np.inf
    soundfile.write(path, samples, RATE, subtype="FLOAT")


def stereo(path):
    soundfile.write(path, np.stack([sine(), -0.5 * sine()], axis=1), RATE)


def rate(path):
    soundfile.write(path, sine(22050), 22050)


UNUSABLE = {missing: "no such audio file", empty: "empty (0 bytes)", truncated: "truncated, the last",
            cut_header: "cannot be decoded", header_only: "the audio has no samples", text: "cannot be decoded",
            nan: "NaN or infinite sample at 0.050 s", infinite: "NaN or infinite sample at 0.001 s"}
CONVERTIBLE = {stereo: "found 2 channels, expected mono", rate: "found 22050 Hz, expected 16000 Hz"}
BAD = {**UNUSABLE, **CONVERTIBLE}


@pytest.fixture
def data(tmp_path):
    return tiny_tones(tmp_path / "kws" / "train", task="kws", n=6)


@pytest.mark.parametrize("damage", BAD, ids=lambda damage: damage.__name__)
def test_reading_refuses(data, damage):
    path = data / "wav" / "s0-003.wav"
    damage(path)
    with pytest.raises(AudioError) as caught:
        read_audio(path, utterance="s0-003")
    assert str(caught.value).startswith(f"utterance s0-003: {path}: ") and BAD[damage] in str(caught.value)
    assert ("speechmerge format" if damage in CONVERTIBLE else "--fix true") in str(caught.value)


@pytest.mark.parametrize("damage", BAD, ids=lambda damage: damage.__name__)
def test_validate_names_line_and_utterance(data, damage):
    damage(data / "wav" / "s0-003.wav")
    finding = next(finding for finding in validate(data) if finding.file.endswith("wav.scp"))
    assert (finding.line, finding.id) == (2, "s0-003") and BAD[damage] in finding.problem
    assert ("speechmerge format" if damage in CONVERTIBLE else "--fix true") in finding.fix


@pytest.mark.parametrize("damage", UNUSABLE, ids=lambda damage: damage.__name__)
def test_fix_and_format_drop_unusable_audio(data, damage):
    damage(data / "wav" / "s0-003.wav")
    with pytest.raises(SpeechMergeError, match="wav.scp:s0-003: .*1 such utterances.*--drop-bad true"):
        format_dir(data)
    dropped = format_dir(data, data.parent / "formatted", drop_bad=True)["dropped"]
    assert dropped == {"too short": 0, "too long": 0, "unusable audio": 1}
    assert any("dropped 1 utterances" in line for line in fix(data))
    assert validate(data) == [] and "s0-003" not in DataDir.read(data).utterances


def test_truncated_flac(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, RATE), RATE)
    truncated(path)
    with pytest.raises(AudioError, match="truncated"):
        read_audio(path)


def test_wav_written_to_a_pipe_is_not_truncated(tmp_path):
    """Such programs leave 0xffffffff where the sizes belong."""
    path = tmp_path / "a.wav"
    soundfile.write(path, sine(), RATE)
    raw = bytearray(path.read_bytes())
    position = raw.index(b"data") + 4
    raw[4:8] = raw[position:position + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(raw)
    assert len(read_audio(path)) == 8000


def test_downmix_averages_and_resampling_keeps_the_tone(tmp_path):
    stereo(tmp_path / "s.wav")
    np.testing.assert_allclose(read_audio(tmp_path / "s.wav", downmix=True), 0.25 * sine(), atol=1e-4)
    for source in (8000, 22050, 44100, 48000):
        soundfile.write(tmp_path / "r.wav", sine(source, 1.0), source, subtype="FLOAT")
        found = read_audio(tmp_path / "r.wav", resample=True)
        assert found.dtype == np.float32 and found.shape == (RATE,)
        np.testing.assert_allclose(found[800:-800], sine(seconds=1.0)[800:-800], atol=2e-4)


def test_resampling_removes_what_would_alias(tmp_path):
    soundfile.write(tmp_path / "r.wav", sine(48000, 1.0, frequency=10000), 48000, subtype="FLOAT")
    assert np.abs(read_audio(tmp_path / "r.wav", resample=True)[800:-800]).max() < 1e-3


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_written_audio_reads_back(tmp_path, suffix):
    write_audio(tmp_path / f"x.{suffix}", sine())
    np.testing.assert_allclose(read_audio(tmp_path / f"x.{suffix}"), sine(), atol=2 / 32768)
    assert audio_info(tmp_path / f"x.{suffix}") == (0.5, RATE, 1)
    assert soundfile.info(tmp_path / f"x.{suffix}").subtype == "PCM_16"
    write_audio(tmp_path / f"loud.{suffix}", 3 * sine())
    assert 0.99 < np.abs(read_audio(tmp_path / f"loud.{suffix}")).max() <= 1


def test_nan_is_not_written(tmp_path):
    with pytest.raises(SpeechMergeError, match="expected finite mono"):
        write_audio(tmp_path / "x.wav", np.array([0, np.nan]))
    assert not (tmp_path / "x.wav").exists()


def test_format_converts_what_needs_it(data, tmp_path):
    stereo(data / "wav" / "s0-000.wav")
    rate(data / "wav" / "s1-001.wav")
    untouched = (data / "wav" / "s2-002.wav").read_bytes()
    found = format_dir(data, tmp_path / "out", jobs=2)
    formatted = DataDir.read(tmp_path / "out")
    assert found["converted"] == {"resampled": 1, "downmixed": 1} and found["utterances"] == 6
    assert formatted.utterances["s0-000"].audio == str(tmp_path / "out" / "audio" / "s0-000.flac")
    assert formatted.utterances["s2-002"].audio == str(data / "wav" / "s2-002.wav")
    assert (data / "wav" / "s2-002.wav").read_bytes() == untouched
    assert formatted.utterances["s1-001"].duration == pytest.approx(0.5, abs=1e-3)
    assert validate(tmp_path / "out") == [] and read_json(tmp_path / "out" / "stats.json") == found
    assert found["label_counts"] == {"keyword": {"no": 2, "stop": 2, "yes": 2}} and found["speakers"] == 3


def test_format_filters_by_duration_and_counts(data):
    durations = sorted(u.duration for u in DataDir.read(data).utterances.values())
    found = format_dir(data, data.parent / "out", min_duration=durations[1] - 1e-3, max_duration=durations[-2] + 1e-3)
    assert found["dropped"] == {"too short": 1, "too long": 1, "unusable audio": 0} and found["utterances"] == 4
    assert found["seconds"]["min"] == pytest.approx(durations[1], abs=1e-3)
    with pytest.raises(SpeechMergeError, match="none of 6 utterances .* between 20 and 30 s"):
        format_dir(data, data.parent / "none", min_duration=20, max_duration=30)


def test_format_drops_trials_of_dropped_utterances(tmp_path):
    data = tiny_tones(tmp_path / "speaker_ver", task="speaker_ver", n=6)
    before = DataDir.read(data)
    longest = max(before.utterances.values(), key=lambda utterance: utterance.duration)
    found = format_dir(data, max_duration=longest.duration - 0.001)
    left = [trial for trial in before.trials if longest.id not in (trial.enrol, trial.test)]
    assert DataDir.read(data).trials == left and 0 < len(left) < len(before.trials)
    assert found["trials"] == {"kept": len(left), "dropped": len(before.trials) - len(left)}


def test_interrupted_format_goes_on_with_the_files_that_are_there(data, tmp_path):
    rate(data / "wav" / "s0-000.wav")
    format_dir(data, tmp_path / "out")
    made = tmp_path / "out" / "audio" / "s0-000.flac"
    first = made.stat().st_mtime_ns
    format_dir(data, tmp_path / "out")
    assert made.stat().st_mtime_ns == first
    os.utime(data / "wav" / "s0-000.wav", ns=(first + 10**9, first + 10**9))
    format_dir(data, tmp_path / "out")
    assert made.stat().st_mtime_ns != first


def test_format_verb_is_skipped_when_done(data, capsys):
    assert main(["format", "--data", str(data)]) == 0
    assert "already done" not in capsys.readouterr().out
    assert main(["format", "--data", str(data)]) == 0
    assert "already done 6 utterances" in capsys.readouterr().out
    assert main(["format", "--data", str(data), "--max-duration", "1"]) == 0
    assert "already done" not in (out := capsys.readouterr().out) and "too long" in out
    assert main(["format", "--data", str(data), "--max-duration", "1", "--force", "true"]) == 0
    assert "already done" not in capsys.readouterr().out


def test_validate_verb(data, capsys):
    assert main(["validate", "--data", str(data)]) == 0 and "valid" in capsys.readouterr().out
    truncated(data / "wav" / "s0-003.wav")
    assert main(["validate", "--data", str(data)]) == 1
    assert "wav.scp:2:s0-003:" in (out := capsys.readouterr().out) and "--fix true" in out
    assert main(["validate", "--data", str(data), "--audio", "false"]) == 0
    assert main(["validate", "--data", str(data), "--fix", "true"]) == 0
    assert "dropped 1 utterances: truncated" in capsys.readouterr().out


def test_utt2dur_that_disagrees_with_the_audio(data):
    lines = (data / "utt2dur").read_text().replace("s0-003 ", "s0-003 1")
    (data / "utt2dur").write_text(lines)
    assert any("utt2dur:s0-003: found 1" in str(finding) for finding in validate(data))
    fix(data)
    assert validate(data) == []
