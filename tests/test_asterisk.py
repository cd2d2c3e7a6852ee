"""The asterisk corpus: a tiny copy of its layout with every trap of the real lists, G.722 encoded here."""
import builtins
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from speechmerge.corpora import asterisk
from speechmerge.corpora.base import CORPORA
from speechmerge.data.audio import read_audio
from speechmerge.data.directory import DataDir
from speechmerge.errors import SpeechMergeError, UsageError

av = pytest.importorskip("av")
DOWNLOAD = Path(__file__).parents[1] / "egs" / "asterisk" / "local" / "download.sh"

TRAPS = {  # key: (line of the list, what must become of it: a transcript or the reason why it is skipped)
    "beep": ("[this is a beep]", "no words"),
    "confbridge-join": ("<beep ascending>", "no words"),
    "confbridge-leave": ("un suono di beep discendente", "no words"),
    "ring": ("<bell>", "no words"),
    "silence/2": ("(2 seconds of silence)", "no words"),
    "is": ("", "no words"),
    "letters/at": ("chiocciola [@]", "chiocciola"),
    "letters/dash": ("[-] trattino", "trattino"),
    "invalid": ("Spiacente, [quello] non è valido.", "remark in brackets"),
    "spy-mgcp": ("MGCP (in inglese)", "remark in brackets"),
    "cannot": ("La chiamata non pu? essere completata cos? bene.", "lost letters"),
    "sure": ("Siete sicuri? Premere uno.", "Siete sicuri? Premere uno."),
    "keys": ("premere * per uscire", "symbol for a word"),
    "spaced": ("  Due   parole\t strette ", "Due parole strette"),
    "vm-twice": ("vm-twice: Nove lettere", "Nove lettere"),
    "vm-glued": ("Fine del messaggio.vm-twice: Altro testo", "Fine del messaggio."),
    "time": ("Premere: uno, due", "Premere: uno, due"),
    "letters/O": ("o grande", "o grande"),
}


def encode_g722(path, seconds, frequency=300, amplitude=8000):
    """A tone as a headerless G.722 file, through FFmpeg's encoder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(int(seconds * 16000)) / 16000
    samples = (amplitude * np.sin(2 * np.pi * frequency * time)).astype(np.int16)
    with av.open(str(path), "w", format="g722") as container:
        stream = container.add_stream("g722", rate=16000)
        stream.layout = "mono"
        for start in range(0, len(samples), 320):
            frame = av.AudioFrame.from_ndarray(samples[None, start:start + 320], format="s16", layout="mono")
            frame.sample_rate, frame.pts = 16000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return samples


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("asterisk") / "it"
    lines = ["\ufeff; Core Asterisk Sounds in Italian", "", "; a comment"]
    for key, (text, _) in TRAPS.items():
        lines.append(f"{key}: {text}")
        encode_g722(folder / f"{'letters/o' if key == 'letters/O' else key}.g722", 0.5)
    for i in range(60):
        lines.append(f"p{i:02d}: Frase numero {i}.")
        lines.append(f"q{i:02d}: FRASE, numéro {i}!")
        encode_g722(folder / f"p{i:02d}.g722", 0.3)
        encode_g722(folder / f"q{i:02d}.g722", 0.3)
    lines += ["digits/0: zero", "digits/0: dieci", "tiny: mezzo", "quiet: niente suono", "endless: troppo lungo",
              "nothing: file vuoto", "absent: senza audio", "no colon here"]
    encode_g722(folder / "digits/0.g722", 0.5)
    encode_g722(folder / "tiny.g722", 0.1)
    encode_g722(folder / "quiet.g722", 0.5, amplitude=0)
    encode_g722(folder / "endless.g722", 31)
    encode_g722(folder / "letters/ascii42.g722", 0.5)
    (folder / "nothing.g722").touch()
    (folder / "core-sounds-it.txt").write_text("\r\n".join(lines) + "\r\n", encoding="utf-8")
    return folder


@pytest.fixture
def corpus(template, tmp_path):
    return shutil.copytree(template, tmp_path / "corpus" / "it").parent


def prepare(corpus, output, **options):
    directories = CORPORA.get("asterisk")().prepare(output, corpus, ["it"], **options)
    assert directories == [output / "it" / name for name in ("train", "dev", "test")]
    return {directory.name: DataDir.read(directory) for directory in directories}


def test_traps(corpus, tmp_path):
    splits = prepare(corpus, tmp_path / "data")
    texts = {id: utterance.text for split in splits.values() for id, utterance in split.utterances.items()}
    for key, (_, expected) in TRAPS.items():
        id = f"it-{key.replace('/', '.')}"
        if expected in ("no words", "remark in brackets", "lost letters", "symbol for a word"):
            assert id not in texts, key
            assert asterisk.spoken_text(key, TRAPS[key][0], TRAPS)[1] == expected
        else:
            assert texts[id] == expected
    assert len(texts) == 120 + 8
    from speechmerge.files import read_json

    assert read_json(tmp_path / "data/it/prepare.json")["skipped"] == {
        "no words": 6, "remark in brackets": 2, "lost letters": 1, "symbol for a word": 1, "two texts for one key": 1,
        "shorter than 0.2 s": 2, "silence": 1, "longer than 30 s": 1, "transcript without audio": 1,
        "audio without transcript": 2, "line without key": 1}


def test_data_directories(corpus, tmp_path):
    splits = prepare(corpus, tmp_path / "data")
    for split in splits.values():
        for utterance in split.utterances.values():
            assert (utterance.speaker, utterance.language) == ("it_carlo", "it")
            samples = read_audio(utterance.audio)
            assert utterance.duration == pytest.approx(len(samples) / 16000, abs=1e-3)


def test_decoded_tone_is_the_encoded_one(tmp_path):
    truth = encode_g722(tmp_path / "tone.g722", 1.0).astype(float)
    decoded = asterisk.decode_g722(tmp_path / "tone.g722").astype(float)
    assert len(decoded) == pytest.approx(len(truth), abs=320)
    delays = range(0, 64)  # the two-band filters delay by 22 samples
    correlations = [np.corrcoef(truth[2000:12000], decoded[2000 + d:12000 + d])[0, 1] for d in delays]
    assert max(correlations) > 0.99


def test_no_text_in_two_sets(corpus, tmp_path):
    splits = prepare(corpus, tmp_path / "data")
    letters = {name: {"".join(c for c in utterance.text.lower().replace("é", "e") if c.isalnum())
                      for utterance in split.utterances.values()} for name, split in splits.items()}
    assert not letters["train"] & letters["test"] and not letters["train"] & letters["dev"]
    assert not letters["dev"] & letters["test"] and all(letters.values())


def test_split_depends_on_seed_and_text_only(corpus, tmp_path):
    first = prepare(corpus, tmp_path / "a")
    again = prepare(corpus, tmp_path / "b")
    other = prepare(corpus, tmp_path / "c", seed=1)
    assert list(first["test"].utterances) == list(again["test"].utterances) != list(other["test"].utterances)
    assert first["test"].fingerprint() == again["test"].fingerprint()
    assert asterisk.split_of("Contraseña incorrecta.", 0) == asterisk.split_of("contrasena  Incorrecta", 0)


def test_shares_of_the_splits():
    splits = [asterisk.split_of(f"text {i}", 3) for i in range(4000)]
    assert splits.count("test") / 4000 == pytest.approx(0.16, abs=0.02)
    assert splits.count("dev") / 4000 == pytest.approx(0.08, abs=0.015)


def test_missing_and_partial_corpora(corpus, tmp_path):
    with pytest.raises(UsageError, match="language 'de'; there are en, es, fr, it, ru"):
        CORPORA.get("asterisk")().prepare(tmp_path / "data", corpus, ["de"])
    with pytest.raises(SpeechMergeError, match="core-sounds-en.txt: not there.*download.sh --languages en"):
        CORPORA.get("asterisk")().prepare(tmp_path / "data", corpus, ["en"])
    for path in list((corpus / "it").glob("p*.g722"))[:20]:
        path.unlink()
    with pytest.raises(SpeechMergeError, match=r"incomplete, 21 of 1\d\d transcripts have no audio.*download.sh"):
        prepare(corpus, tmp_path / "data")
    for path in (corpus / "it").rglob("*.g722"):
        path.unlink()
    with pytest.raises(SpeechMergeError, match=r"no \*.g722 files.*asterisk-core-sounds-it-g722"):
        prepare(corpus, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_list_in_another_encoding(corpus, tmp_path):
    path = corpus / "it" / "core-sounds-it.txt"
    path.write_bytes(path.read_text(encoding="utf-8-sig").encode("latin-1"))
    with pytest.raises(SpeechMergeError, match="core-sounds-it.txt: is not UTF-8"):
        prepare(corpus, tmp_path / "data")


def test_missing_decoder(corpus, tmp_path, monkeypatch):
    real = builtins.__import__

    def without_av(name, *args, **kwargs):
        if name == "av":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "av")
    monkeypatch.setattr(builtins, "__import__", without_av)
    with pytest.raises(SpeechMergeError, match=r"PyAV.*pip install 'speechmerge\[av\]'"):
        prepare(corpus, tmp_path / "data")


def download(tmp_path, *arguments, tools=()):
    """Run download.sh with a PATH of the usual commands and these fake ones."""
    bin = tmp_path / "bin"
    bin.mkdir(exist_ok=True)
    for name in ("bash", "sed", "mkdir", "mktemp", "mv", "rm", "find", "wc", "gzip", "cp", "chmod", "tar", "cat"):
        if not (bin / name).exists():
            (bin / name).symlink_to(shutil.which(name))
    for name, script in tools:
        (bin / name).write_text("#!/bin/bash\n" + script)
        (bin / name).chmod(0o755)
    return subprocess.run([DOWNLOAD, "--model", "false", *arguments], cwd=tmp_path, env={"PATH": str(bin)},
                          capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("arguments, message", [
    (["--langs", "it"], "unexpected '--langs'"), (["--languages"], "needs a value"),
    (["--languages", "de"], "there are en es"), (["a", "b"], "unexpected 'b'"), (["--model", "yes"], "true or false")])
def test_download_wrong_usage(tmp_path, arguments, message):
    result = download(tmp_path, *arguments)
    assert result.returncode == 2 and message in result.stderr and not (tmp_path / "downloads").exists()


def test_download_without_any_source_says_what_to_do(tmp_path):
    result = download(tmp_path, "--languages", "it")
    assert result.returncode == 1
    assert "apt-get update" in result.stderr and "asterisk-core-sounds-it-g722-current.tar.gz" in result.stderr
    assert not (tmp_path / "downloads/asterisk").exists()  # only what is whole has the name
    assert not list((tmp_path / "downloads/asterisk.part").glob(".it*"))


def test_download_from_debian_and_resumed(tmp_path, template):
    package = tmp_path / "package"  # what the package unpacks to
    shutil.copytree(template, package / "usr/share/asterisk/sounds/it_IT_m_Carlo")
    (package / "usr/share/asterisk/sounds/it_IT_m_Carlo/core-sounds-it.txt").unlink()
    doc = package / "usr/share/doc/asterisk-core-sounds-it"
    doc.mkdir(parents=True)
    shutil.copy(template / "core-sounds-it.txt", doc)
    subprocess.run(["gzip", doc / "core-sounds-it.txt"], check=True)
    (doc / "copyright").write_text("CC BY")
    fakes = [("apt-get", ': > "$3_1.6.1-1_all.deb"\n'), ("dpkg-deb", f'mkdir -p "$3"; cp -r {package}/* "$3"\n')]
    result = download(tmp_path, "--languages", "it", tools=fakes)
    assert result.returncode == 0, result.stderr
    assert "Debian's packages" in result.stdout
    assert (tmp_path / "downloads/asterisk/it/LICENSE").read_text() == "CC BY"
    assert len(prepare(tmp_path / "downloads/asterisk", tmp_path / "data")["train"].utterances) > 60
    again = download(tmp_path, "--languages", "it", tools=[("apt-get", "exit 1"), ("dpkg-deb", "exit 1")])
    assert again.returncode == 0 and again.stdout == ""  # complete: nothing is fetched


def test_download_from_tarball_where_apt_fails(tmp_path, template):
    subprocess.run(["tar", "-czf", tmp_path / "sounds.tar.gz", "-C", template, "."], check=True)
    fakes = [("apt-get", "exit 100"), ("dpkg-deb", "exit 1"),
             ("curl", f'while [ "$1" != -o ]; do shift; done; cp {tmp_path}/sounds.tar.gz "$2"\n')]
    result = download(tmp_path, "--languages", "it", tools=fakes)
    assert result.returncode == 0, result.stderr
    assert "downloads.asterisk.org" in result.stdout
    assert (tmp_path / "downloads/asterisk/it/core-sounds-it.txt").exists()
