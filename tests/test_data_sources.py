"""Where audio comes from: every container, stretches, arks, commands, SPHERE; and loudness by BS.1770."""
import builtins
import math
import os
import sys
from fractions import Fraction

import kaldiio
import numpy as np
import pytest
import soundfile

from speechmerge.data.audio import AudioError, Sound, audio_info, read_audio
from speechmerge.data.loudness import integrated_loudness, k_weighting, normalise_loudness, trim_silence
from speechmerge.errors import SpeechMergeError

RATE = 16000


def chirp(rate=RATE, seconds=2.0):
    """Every instant sounds different, so that a shifted stretch is seen."""
    time = np.arange(int(rate * seconds)) / rate
    return (0.4 * np.sin(2 * np.pi * (200 * time + 300 * time ** 2))).astype(np.float32)


def write_sphere(path, samples, coding="pcm", rate=RATE):
    """A NIST SPHERE file by its definition: 1024 bytes of `name -type value` lines, then little-endian samples."""
    data = (samples * 32767).astype("<i2").tobytes()
    head = (f"NIST_1A\n   1024\nsample_count -i {len(samples)}\nsample_n_bytes -i 2\nchannel_count -i 1\n"
            f"sample_byte_format -s2 01\nsample_rate -i {rate}\nsample_coding -s{len(coding)} {coding}\nend_head\n")
    path.write_bytes(head.encode().ljust(1024) + data)


def write_av(path, samples, rate=RATE, codec="aac", format=None):
    av = pytest.importorskip("av")
    with av.open(str(path), "w", format=format) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray((samples * 32767).astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        converter = av.AudioResampler(stream.format, "mono", rate, frame_size=stream.frame_size or 960)
        for part in [*converter.resample(frame), *converter.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))


SUFFIXES = {"wav": 2e-4, "flac": 2e-4, "sph": 2e-4, "ogg": 0.05, "mp3": 0.05, "m4a": 0.05, "mp4": 0.05, "webm": 0.05}


def written(path, samples):
    if path.suffix == ".sph":
        write_sphere(path, samples)
    elif path.suffix in (".m4a", ".mp4"):
        write_av(path, samples)
    elif path.suffix == ".webm":
        write_av(path, samples, codec="libopus")
    else:
        soundfile.write(path, samples, RATE)
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_containers_and_stretches(tmp_path, suffix):
    """The same signal comes out of each, at the same place; a stretch is that part of the whole."""
    path, signal = written(tmp_path / f"a.{suffix}", chirp()), chirp()
    found = read_audio(path, resample=True)
    assert abs(len(found) - len(signal)) <= 0.15 * RATE
    np.testing.assert_allclose(found[1000:30000], signal[1000:30000], atol=SUFFIXES[suffix])
    part = read_audio(path, resample=True, start=0.5, end=1.25)
    assert len(part) == 12000
    np.testing.assert_allclose(part[100:-100], signal[8100:19900], atol=SUFFIXES[suffix])
    seconds, rate, channels = audio_info(path)
    assert seconds == pytest.approx(2.0, abs=0.15) and channels == 1 and rate in (16000, 48000)
    assert audio_info(Sound(str(path), 0.5, 1.25))[0] == pytest.approx(0.75)


@pytest.mark.parametrize("start, end, expected", [
    (1.0, 1.0, "expected 0 <= start < end"), (-1.0, 1.0, "expected 0 <= start < end"),
    (2.5, 3.0, "lies beyond the audio, which has 2.000 s"), (1.0, 2.6, "lies beyond the audio")])
def test_wrong_stretches(tmp_path, start, end, expected):
    with pytest.raises(AudioError, match=expected):
        read_audio(written(tmp_path / "a.wav", chirp()), start=start, end=end)


def test_a_stretch_may_end_a_little_late(tmp_path):
    assert len(read_audio(written(tmp_path / "a.wav", chirp()), start=1.5, end=2.4)) == 8000


def test_shorten_is_said(tmp_path):
    write_sphere(tmp_path / "a.sph", chirp(), coding="pcm,embedded-shorten-v2.00")
    with pytest.raises(AudioError, match="compressed as 'pcm,embedded-shorten-v2.00'; uncompress it with `sph2pipe"):
        read_audio(tmp_path / "a.sph")


@pytest.mark.parametrize("suffix", ["sph", "m4a"])
def test_truncated(tmp_path, suffix):
    path = written(tmp_path / f"a.{suffix}", chirp())
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(AudioError, match="truncated"):
        read_audio(path, resample=True)


def test_without_pyav(tmp_path, monkeypatch):
    path = written(tmp_path / "a.m4a", chirp())
    original = builtins.__import__

    def absent(name, *args, **kwargs):
        if name == "av":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "av")
    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(SpeechMergeError, match=r"PyAV, which decodes .m4a, is missing; run: pip install"):
        read_audio(path, resample=True)


@pytest.mark.parametrize("options", [{}, {"write_function": "soundfile", "write_kwargs": {"format": "flac"}}])
def test_arks(tmp_path, options):
    """Entries of audio as kaldiio writes them; the second one starts somewhere in the middle."""
    signals = {"one": chirp(), "two": chirp(seconds=1.0)[::-1]}
    entries = {name: (RATE, (signal * 32767).astype(np.int16)) for name, signal in signals.items()}
    kaldiio.save_ark(f"{tmp_path}/a.ark", entries, scp=f"{tmp_path}/a.scp", **options)
    for line in (tmp_path / "a.scp").read_text().splitlines():
        name, entry = line.split()
        np.testing.assert_allclose(read_audio(entry), signals[name], atol=2e-4)
        assert audio_info(entry) == (len(signals[name]) / RATE, RATE, 1)
    np.testing.assert_allclose(read_audio(entry, start=0.25, end=0.5), signals["two"][4000:8000], atol=2e-4)


def test_arks_of_features_and_pickles_are_refused(tmp_path):
    kaldiio.save_ark(str(tmp_path / "f.ark"), {"u": np.ones((3, 2), np.float32)})
    with pytest.raises(AudioError, match="found a Kaldi matrix at byte 2, expected an entry of audio"):
        read_audio(f"{tmp_path}/f.ark:2")
    (tmp_path / "p.ark").write_bytes(b"u PKLcos\nsystem\n(S'touch " + str(tmp_path / "owned").encode() + b"'\ntR.")
    with pytest.raises(AudioError, match="expected an entry of audio"):
        read_audio(f"{tmp_path}/p.ark:2")
    assert not (tmp_path / "owned").exists()
    with pytest.raises(AudioError, match="no such audio file"):
        read_audio(f"{tmp_path}/none.ark:2")


def test_commands_run_only_where_allowed(tmp_path):
    path, proof = written(tmp_path / "a.wav", chirp()), tmp_path / "ran"
    command = f"touch {proof}; cat {path} |"
    with pytest.raises(AudioError, match="no such audio file"):
        read_audio(command)
    assert not proof.exists()
    np.testing.assert_array_equal(read_audio(command, allow_pipes=True), read_audio(path))
    assert proof.exists()
    with pytest.raises(AudioError, match="the command ended with status 1: cat: .*No such file"):
        read_audio(f"cat {tmp_path}/none.wav | cat |", allow_pipes=True)
    with pytest.raises(AudioError, match="empty"):
        read_audio("true |", allow_pipes=True)


def test_speed_changes_length_and_pitch(tmp_path):
    """A tone of 1000 Hz at 1.25 times the speed: 4/5 of the samples, 1250 Hz."""
    time = np.arange(RATE) / RATE
    soundfile.write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 1000 * time), RATE, subtype="FLOAT")
    found = read_audio(Sound(str(tmp_path / "a.wav"), speed=1.25))
    assert len(found) == 12800
    expected = 0.5 * np.sin(2 * np.pi * 1250 * time[:12800])
    np.testing.assert_allclose(found[800:-800], expected[800:-800], atol=1e-3)


# Loudness


def sine(rate, frequency=997, seconds=5.0, amplitude=1.0):
    return amplitude * np.sin(2 * np.pi * frequency * np.arange(int(rate * seconds)) / rate)


def test_k_weighting_is_that_of_the_standard():
    """ITU-R BS.1770-4, tables 1 and 2 (48 kHz)."""
    (b1, a1), (b2, a2) = k_weighting(48000)
    np.testing.assert_allclose(b1, [1.53512485958697, -2.69169618940638, 1.19839281085285], rtol=1e-9)
    np.testing.assert_allclose(a1, [1.0, -1.69065929318241, 0.73248077421585], rtol=1e-9)
    np.testing.assert_allclose(b2, [1.0, -2.0, 1.0])
    np.testing.assert_allclose(a2, [1.0, -1.99004745483398, 0.99007225036621], rtol=1e-9)


@pytest.mark.parametrize("rate, tolerance", [(48000, 0.001), (44100, 0.005), (16000, 0.05)])
def test_full_scale_sine_has_minus_3_01(rate, tolerance):
    """BS.1770: 997 Hz at 0 dBFS in one channel reads -3.01 LKFS, 10 log10(1/2); 20 dB less are 20 LU less."""
    expected = 10 * math.log10(0.5)
    assert integrated_loudness(sine(rate), rate) == pytest.approx(expected, abs=tolerance)
    assert integrated_loudness(sine(rate, amplitude=0.1), rate) == pytest.approx(expected - 20, abs=tolerance)


def test_gates():
    """EBU Tech 3341, case 3: -36, -23, -36 dBFS stereo reads -23; the quiet parts do not count. In one channel here."""
    parts = [sine(48000, 1000, seconds, 10 ** (level / 20)) for level, seconds in ((-36, 10), (-23, 60), (-36, 10))]
    loud = integrated_loudness(parts[1], 48000)
    assert integrated_loudness(np.concatenate(parts), 48000) == pytest.approx(loud, abs=0.1)
    silence = np.zeros(48000 * 20)
    assert integrated_loudness(np.concatenate([parts[1], silence]), 48000) == pytest.approx(loud, abs=0.1)
    assert integrated_loudness(silence, 48000) == -math.inf


def test_normalising():
    quiet = (0.01 * chirp()).astype(np.float32)
    found, limited = normalise_loudness(quiet, RATE, -23.0)
    assert not limited and integrated_loudness(found, RATE) == pytest.approx(-23.0, abs=0.01)
    click = quiet.copy()
    click[5000] = 0.5
    found, limited = normalise_loudness(click, RATE, -10.0)
    assert limited and np.abs(found).max() == pytest.approx(0.99)
    assert np.array_equal(normalise_loudness(np.zeros(RATE, np.float32), RATE, -23.0)[0], np.zeros(RATE))


def test_trimming_keeps_the_margin():
    noise = np.random.default_rng(0).normal(0, 1e-4, 3 * RATE).astype(np.float32)
    noise[RATE : 2 * RATE] += sine(RATE, 440, 1.0, 0.3).astype(np.float32)
    found = trim_silence(noise, RATE, threshold=40, margin=0.1)
    assert len(found) / RATE == pytest.approx(1.2, abs=0.05)
    assert np.abs(found[: RATE // 20]).max() < 1e-3 < np.abs(found[RATE // 5 : -RATE // 5]).max()
    assert len(trim_silence(np.zeros(RATE, np.float32), RATE, 40)) == RATE
