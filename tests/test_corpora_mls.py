"""Multilingual LibriSpeech: layout-true samples, the release's counts, limited supervision, opus, the hub, the miniature."""
import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechmerge.corpora.base import CORPORA
from speechmerge.data.audio import read_audio
from speechmerge.data.directory import DataDir
from speechmerge.data.format import format_dir
from speechmerge.data.validate import validate
from speechmerge.errors import SpeechMergeError, UsageError

LINES = {"train": ["1595_1595_000000\tnel mezzo del cammin di nostra vita", "1595_1595_000001\tmi ritrovai per una selva oscura",
                   "280_1234_000007\tche la diritta via era smarrita", "280_1234_000008\tahi quanto a dir qual era è cosa dura"],
         "dev": ["2019_1500_000000\testa selva selvaggia e aspra e forte"], "test": ["643_529_000012\tche nel pensier rinova la paura"]}


@pytest.fixture
def mls(tmp_path):
    return write_release(tmp_path / "corpus", "mls_italian", "flac")


def write_release(root: Path, top: str, suffix: str) -> Path:
    """One language as in mls_italian.tar.gz."""
    for split, lines in LINES.items():
        for line in lines:
            speaker, book, _ = line.split("\t")[0].split("_")
            folder = root / top / split / "audio" / speaker / book
            folder.mkdir(parents=True, exist_ok=True)
            write_audio(folder / f"{line.split(chr(9))[0]}.{suffix}")
        (root / top / split / "transcripts.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (root / top / split / "segments.txt").write_text("".join(f"{line.split(chr(9))[0]}\thttp://x/y.mp3\t0\t9\n" for line in lines))
    limited = root / top / "train" / "limited_supervision"
    for part, ids in {"9hr": ["1595_1595_000000", "280_1234_000007"], "1hr/0": ["280_1234_000008"],
                      **{f"1hr/{n}": [] for n in range(1, 6)}}.items():
        (limited / part).mkdir(parents=True)
        (limited / part / "handles.txt").write_text("".join(f"{id}\n" for id in ids))
    (root / top / "metainfo.txt").write_text("SPEAKER | GENDER | PARTITION | MINUTES | BOOK\n 1595 | M | train | 10 | 1595\n"
                                             "  280 | F | train | 9 | 1234\n")
    return root


def write_audio(path):
    samples = np.sin(np.arange(16000) * 0.05).astype(np.float32) / 2
    if str(path).endswith("opus"):
        soundfile.write(path, samples, 16000, format="OGG", subtype="OPUS")
    else:
        soundfile.write(path, samples, 16000)


def prepare(root, output, **options):
    return CORPORA.get("mls")().prepare(output, corpus_dir=root, allow_incomplete=True, **options)


def test_the_release_as_published(mls, tmp_path):
    made = prepare(mls, tmp_path / "data")
    assert [path.relative_to(tmp_path / "data").as_posix() for path in made] == ["it/train", "it/dev", "it/test"]
    train = DataDir.read(made[0])
    assert len(train.utterances) == 4
    first = train.utterances["mls-it-280-1234-000008"]
    assert (first.text, first.speaker, first.language) == ("ahi quanto a dir qual era è cosa dura", "mls-it-280", "it")
    assert first.labels == {"corpus": "mls", "gender": "f", "group": "mls-it-280-1234"}
    assert first.audio.endswith("mls_italian/train/audio/280/1234/280_1234_000008.flac")
    assert DataDir.read(made[1]).utterances["mls-it-2019-1500-000000"].labels["gender"] == "u"  # not in metainfo


@pytest.mark.parametrize("subset, size", [("all", 59623), ("9h", 2173), ("1h", 240), ("10h", 2413)])
def test_counts_of_the_italian_release(subset, size):
    corpus = CORPORA.get("mls")()
    assert corpus.expected("asr", corpus.options({"subset": subset})) == {"train": size, "dev": 1248, "test": 1262}
    assert corpus.expected("asr", corpus.options({"languages": ("it", "pl")})) == {}  # Polish is not known


def test_a_release_that_is_not_whole_is_refused(mls, tmp_path):
    with pytest.raises(SpeechMergeError, match="train: found 4, expected 59623.*allow_incomplete"):
        CORPORA.get("mls")().prepare(tmp_path / "data", corpus_dir=mls)


@pytest.mark.parametrize("subset, ids", [("9h", ["1595-1595-000000", "280-1234-000007"]), ("1h", ["280-1234-000008"]),
                                         ("10h", ["1595-1595-000000", "280-1234-000007", "280-1234-000008"])])
def test_limited_supervision(mls, tmp_path, subset, ids):
    made = prepare(mls, tmp_path / "data", subset=subset)
    assert list(DataDir.read(made[0]).utterances) == [f"mls-it-{id}" for id in ids]
    assert len(DataDir.read(made[2]).utterances) == 1  # dev and test stay whole


def test_a_handle_without_transcript_is_an_error(mls, tmp_path):
    handles = mls / "mls_italian/train/limited_supervision/9hr/handles.txt"
    handles.write_text(handles.read_text() + "999_999_000000\n")
    with pytest.raises(SpeechMergeError, match="3 handles of subset 9h, of which train/transcripts.txt has 2"):
        prepare(mls, tmp_path / "data", subset="9h")


@pytest.mark.parametrize("line", ["1_2_000001\tdue\tcolonne", "1_2_000001 senza tabulatore", "1-2-3\ttesto"])
def test_lines_have_two_columns(mls, tmp_path, line):
    (mls / "mls_italian/dev/transcripts.txt").write_text(f"{LINES['dev'][0]}\n{line}\n")
    with pytest.raises(SpeechMergeError, match=r"dev/transcripts.txt:2: found '.*expected <speaker>_<book>_<segment><TAB>text"):
        prepare(mls, tmp_path / "data")


def test_opus_files_go_through_stage_2(tmp_path):
    root = write_release(tmp_path / "corpus", "mls_italian_opus", "opus")
    made = prepare(root, tmp_path / "data", audio="opus")
    format_dir(made[1])
    data = DataDir.read(made[1]).utterances["mls-it-2019-1500-000000"]
    assert data.duration == pytest.approx(1, abs=0.03)
    middle = read_audio(data.audio)[2000:14000]  # the codec overshoots where the tone sets in
    assert np.abs(middle).max() == pytest.approx(0.5, abs=0.05)


def test_options_are_checked():
    for options, message in (({"languages": ("hi",)}, "no language 'hi'"), ({"subset": "5h"}, "subset '5h'"),
                             ({"audio": "mp3"}, "audio 'mp3'"), ({"langauges": "it"}, "did you mean 'languages'")):
        with pytest.raises(UsageError, match=message):
            CORPORA.get("mls")().options(options)


def test_what_is_fetched():
    corpus = CORPORA.get("mls")()
    urls = [a.url for a in corpus.archives(corpus.options({"languages": ("it", "de"), "audio": "opus"}))]
    assert urls == [f"https://dl.fbaipublicfiles.com/mls/mls_{name}_opus.tar.gz" for name in ("italian", "german")]


def sound_column(datasets):
    """As audio is stored in parquet; the Audio feature itself needs torchcodec to write."""
    return {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}


def test_the_hub_in_one_language(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "repository" / "italian"
    folder.mkdir(parents=True)
    sound = io.BytesIO()
    soundfile.write(sound, np.full(1600, 0.1, np.float32), 16000, format="FLAC")
    names = ("train", "dev", "test", "9_hours", "1_hours")
    for number, name in enumerate(names):
        rows = {"audio": [{"bytes": sound.getvalue(), "path": f"{number}_11_000000.flac"}], "transcript": [f"frase {name}"],
                "speaker_id": [str(number)], "id": [f"{number}_11_000000"]}
        features = datasets.Features({"audio": sound_column(datasets), **{k: datasets.Value("string") for k in list(rows)[1:]}})
        datasets.Dataset.from_dict(rows, features).to_parquet(folder / f"{name}-00000-of-00001.parquet")
    (folder.parent / "README.md").write_text("---\nconfigs:\n- config_name: italian\n  data_files:\n" + "".join(
        f"  - split: {name}\n    path: italian/{name}-*\n" for name in names) + "---\n")
    made = CORPORA.get("mls")().prepare(tmp_path / "data", source="hf", hub_id=str(folder.parent), allow_incomplete=True)
    train = DataDir.read(made[0]).utterances
    assert [(u.id, u.text) for u in train.values()] == [("mls-it-0-11-000000", "frase train")]
    corpus = CORPORA.get("mls")()
    made = corpus.prepare(tmp_path / "10h", source="hf", hub_id=str(folder.parent), allow_incomplete=True, subset="10h")
    assert [u.text for u in DataDir.read(made[0]).utterances.values()] == ["frase 9_hours", "frase 1_hours"]
    with pytest.raises(UsageError, match="one language at a time"):
        corpus.hub("asr", corpus.options({"languages": ("it", "de")}))


def test_the_miniature_through_prepare_format_and_validate(tmp_path):
    made = CORPORA.get("mls")().prepare(tmp_path / "data", corpus_dir=tmp_path / "twin", mini=True)
    sizes = []
    for directory in made:
        format_dir(directory)
        assert [str(finding) for finding in validate(directory)] == []
        sizes.append(len(DataDir.read(directory).utterances))
    assert sizes == [40, 6, 8]
    made = CORPORA.get("mls")().prepare(tmp_path / "10h", corpus_dir=tmp_path / "twin", mini=True, subset="10h")
    assert len(DataDir.read(made[0]).utterances) == 24
    with pytest.raises(SpeechMergeError, match="spoken miniature of mls"):
        prepare(tmp_path / "twin", tmp_path / "data")
