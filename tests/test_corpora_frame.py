"""The frame of published corpora: options, missing and incomplete corpora, downloads, the hub, own readers."""
import hashlib
import http.server
import io
import json
import os
import tarfile
import threading
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechmerge.corpora.base import find_corpus
from speechmerge.corpora.download import Archive, fetch_all
from speechmerge.corpora.lines import numbered_lines, read_lines
from speechmerge.corpora.published import Hub, Part, PublishedCorpus, Reading, Split
from speechmerge.corpora.twins import Spoken, speak, voices
from speechmerge.data.directory import DataDir, Trial, Utterance
from speechmerge.data.validate import validate
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.stages import prepare


class Tiny(PublishedCorpus):
    """Four words in two folders"""

    tasks = ("kws", "speaker_ver")
    registered = top = "tiny"
    layout = "tiny/<split>/<word>.wav"
    obtain = "Ask tiny@example.org and unpack it there."
    release = {"train": 2, "test": 2}
    genders = {}

    @dataclass(frozen=True)
    class Options:
        words: tuple[str, ...] = ()
        share: float = 1.0
        seed_text: str = "a"
        loud: bool = False
        count: int = 3

    def read(self, root, task, options):
        splits = {}
        for split in self.release:
            found = [path.stem for path in (root / "tiny" / split).glob("*.wav")] or ["yes", "no"]
            utterances = {id: Utterance(id, str(root / "tiny" / split / f"{id}.wav"), id, "s", "en", None,
                                        {"keyword": id} | self.genders.get(id, {})) for id in {*found, *options.words}}
            trials = [Trial(f"{a}--{b}", a, b, a == b) for a in utterances for b in utterances]
            splits[split] = Split(utterances, None, trials if task == "speaker_ver" else None)
        return Reading(splits)

    def expected(self, task, options):
        return {split: count**2 if task == "speaker_ver" else count for split, count in self.release.items()}

    def labels_of(self, task, options):
        return ["yes", "no"] if task == "kws" else None


def write_wav(path, seconds=0.2, value=0.1):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(int(seconds * 16000), value, np.float32), 16000)


@pytest.fixture
def corpus(tmp_path):
    for split in ("train", "test"):
        for word in ("yes", "no"):
            write_wav(tmp_path / "c/tiny" / split / f"{word}.wav")
    return tmp_path / "c"


# options

def test_options_take_the_type_of_their_default():
    options = Tiny().options({"words": "a, b", "share": 1, "seed_text": 7, "loud": True, "count": 4})
    assert options == Tiny.Options(("a", "b"), 1.0, "7", True, 4)
    assert Tiny().options({"words": ["x"]}).words == ("x",)


@pytest.mark.parametrize("given,message", [
    ({"wrods": "a"}, "no option 'wrods'; did you mean 'words'"), ({"count": "many"}, "count: found 'many', expected int"),
    ({"count": True}, "count: found True"), ({"loud": "yes"}, "loud: found 'yes', expected bool"), ({"share": "x"}, "share")])
def test_wrong_options(given, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        Tiny().prepare(tmp_path, corpus_dir=tmp_path, **given)


@pytest.mark.parametrize("more,message", [
    ({"tasks": "asr"}, "no task 'asr'"), ({"source": "hub"}, "source 'hub'"), ({"source": "hf", "mini": True}, "one of them"),
    ({"source": "hf"}, "no version on Hugging Face"), ({"mini": True}, "no spoken miniature")])
def test_what_cannot_be_asked_for(more, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        Tiny().prepare(tmp_path / "data", corpus_dir=tmp_path / "new", **more)


# the corpus on disk

def test_data_directories_of_a_whole_corpus(corpus, tmp_path):
    made = Tiny().prepare(tmp_path / "data", corpus_dir=corpus, tasks=["kws", "speaker_ver"])
    assert made == [tmp_path / "data" / task / split for task in ("kws", "speaker_ver") for split in ("train", "test")]
    assert not [finding for path in made for finding in validate(path)]
    assert DataDir.read(made[0]).labels == ["yes", "no"]
    assert len(DataDir.read(made[3]).trials) == 4
    record = json.loads((tmp_path / "data/kws/prepare.json").read_text())
    assert record["utterances"] == {"kws/train": 2, "kws/test": 2} and record["options"]["count"] == 3


def test_the_folder_of_the_corpus_may_itself_be_named(corpus, tmp_path):
    made = Tiny().prepare(tmp_path / "data", corpus_dir=corpus / "tiny")
    assert len(DataDir.read(made[0]).utterances) == 2


def test_a_missing_corpus_says_what_to_obtain_and_where_to_put_it(tmp_path):
    with pytest.raises(SpeechMergeError, match="nowhere: tiny is not there .expected tiny/<split>.*Ask tiny@example.org"):
        Tiny().prepare(tmp_path / "data", corpus_dir=tmp_path / "nowhere")


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")

    class Fetched(Tiny):
        def archives(self, options):
            return [Archive("http://127.0.0.1:9/tiny.tar", "tiny")]

    for place in ("file", "file/below"):
        with pytest.raises(SpeechMergeError, match=f"{place}.*a part of the path is no folder"):
            Fetched().prepare(tmp_path / "data", corpus_dir=tmp_path / place)


@pytest.mark.parametrize("harm,message", [
    (lambda path: path.unlink(), "of 4 audio files 1 are missing and 0 empty, the first is .*train/no.wav"),
    (lambda path: path.write_bytes(b""), "of 4 audio files 0 are missing and 1 empty, the first is .*train/no.wav")])
def test_missing_and_empty_audio(corpus, tmp_path, harm, message):
    harm(corpus / "tiny/train/no.wav")
    with pytest.raises(SpeechMergeError, match=message):
        Tiny().prepare(tmp_path / "data", corpus_dir=corpus, words="no")
    assert not (tmp_path / "data").exists()
    made = Tiny().prepare(tmp_path / "data", corpus_dir=corpus, words="no", allow_incomplete=True, tasks="speaker_ver")
    data = DataDir.read(made[0])
    assert list(data.utterances) == ["yes"] and [trial.id for trial in data.trials] == ["yes--yes"]
    left_out = json.loads((tmp_path / "data/speaker_ver/prepare.json").read_text())["left_out"]
    assert sum(left_out.values()) == 4 and left_out["trial without audio"] == 3


def test_counts_that_are_not_the_release(corpus, tmp_path, caplog):
    write_wav(corpus / "tiny/test/maybe.wav")
    with pytest.raises(SpeechMergeError, match="not the whole release: test: found 3, expected 2.*allow_incomplete=true"):
        Tiny().prepare(tmp_path / "data", corpus_dir=corpus)
    Tiny().prepare(tmp_path / "data", corpus_dir=corpus, allow_incomplete=True)
    assert "not the release: test: found 3, expected 2" in caplog.text


def test_a_reader_may_count_before_it_samples(corpus, tmp_path):
    class Sampled(Tiny):
        def read(self, root, task, options):
            reading = super().read(root, task, options)
            reading.counted = {name: split.size() for name, split in reading.splits.items()}
            for split in reading.splits.values():
                split.utterances.popitem()
            return reading

    assert len(DataDir.read(Sampled().prepare(tmp_path / "data", corpus_dir=corpus)[0]).utterances) == 1
    write_wav(corpus / "tiny/train/maybe.wav")
    with pytest.raises(SpeechMergeError, match="train: found 3, expected 2"):
        Sampled().prepare(tmp_path / "data", corpus_dir=corpus)


def test_a_split_without_utterances(corpus, tmp_path):
    class Empty(Tiny):
        def read(self, root, task, options):
            return Reading({"train": Split({})})

    with pytest.raises(SpeechMergeError, match="nothing found for train"):
        Empty().prepare(tmp_path / "data", corpus_dir=corpus, allow_incomplete=True)


def test_optional_tables_are_whole_or_not_there(corpus, tmp_path, caplog):
    class Known(Tiny):
        genders = {"yes": {"gender": "f"}}

    made = Known().prepare(tmp_path / "data", corpus_dir=corpus)
    assert not (made[0] / "utt2gender").exists() and "known of 1 of 2" in caplog.text
    Known.genders = {word: {"gender": "f"} for word in ("yes", "no")}
    assert (Known().prepare(tmp_path / "data", corpus_dir=corpus)[0] / "utt2gender").read_text() == "no f\nyes f\n"


# twins

class Twin(Tiny):
    release = {"train": 2}

    def write_twin(self, root, seed, nj):
        with open(root / "calls", "a") as file:
            file.write(f"{seed}\n")
        if seed == 13:
            raise KeyboardInterrupt
        for word in ("yes", "no"):
            write_wav(root / f"tiny/train/{word}.wav", value=seed / 100)

    def twin_expected(self, task, options):
        return {"train": 2}


def test_a_twin_is_made_once_and_again_for_another_seed(tmp_path):
    root = tmp_path / "twin"
    for seed in (1, 1, 2):
        Twin().prepare(tmp_path / "data", corpus_dir=root, mini=True, seed=seed)
    assert (root / "calls").read_text() == "2\n"  # the folder of seed 1 was removed, with its one line
    assert soundfile.read(root / "tiny/train/yes.wav")[0][0] == pytest.approx(0.02, abs=1e-3)


def test_a_killed_twin_goes_on_unless_the_seed_is_another(tmp_path):
    root = tmp_path / "twin"
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            Twin().prepare(tmp_path / "data", corpus_dir=root, mini=True, seed=13)
    assert (root / "calls").read_text() == "13\n13\n"
    Twin().prepare(tmp_path / "data", corpus_dir=root, mini=True, seed=3)
    assert (root / "calls").read_text() == "3\n"


def test_twins_overwrite_nothing_and_are_not_taken_for_the_corpus(corpus, tmp_path):
    with pytest.raises(SpeechMergeError, match="is not empty and no miniature"):
        Twin().prepare(tmp_path / "data", corpus_dir=corpus, mini=True)
    Twin().prepare(tmp_path / "data", corpus_dir=tmp_path / "twin", mini=True)
    with pytest.raises(SpeechMergeError, match="is the spoken miniature of tiny, not the corpus"):
        Twin().prepare(tmp_path / "data", corpus_dir=tmp_path / "twin")


def test_speech_is_the_same_for_the_same_list_in_every_format(tmp_path):
    spoken = [Spoken(f"a{suffix}", "go to the market", "en", voices("dev")[0]) for suffix in (".wav", ".flac", ".sph", ".mp3")]
    spoken.append(Spoken("talk.sph", ("one two", "three"), "en", voices("dev")[0]))
    times = [speak(tmp_path / name, spoken) for name in ("first", "second")]
    for item in spoken:
        assert (tmp_path / "first" / item.path).read_bytes() == (tmp_path / "second" / item.path).read_bytes()
        assert soundfile.info(tmp_path / "first" / item.path).samplerate == 16000
    assert times[0] == times[1] and list(times[0]) == ["talk.sph"]
    (start, end), (later, last) = times[0]["talk.sph"]
    assert 0 == start < end < later < last and later - end == pytest.approx(0.3)
    assert soundfile.info(tmp_path / "first/talk.sph").duration == pytest.approx(last)


# text files

def test_lines_of_publishers(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes("\ufeffone\r\n\r\ntwo\u2028still two\nthree".encode())
    assert read_lines(path) == ["one", "", "two\u2028still two", "three"]
    assert numbered_lines(path) == [(1, "one"), (3, "two\u2028still two"), (4, "three")]
    path.write_bytes(b"one\nna\xefve\n")
    assert read_lines(path, "latin-1") == ["one", "naïve"]
    with pytest.raises(SpeechMergeError, match="list.txt:2: not utf-8 .byte 0xef"):
        read_lines(path)
    with pytest.raises(SpeechMergeError, match="none.txt: not there"):
        read_lines(tmp_path / "none.txt")


# downloads

@pytest.fixture
def server(tmp_path):
    """A web server of `tmp_path/web`: .cut are the bytes after which a connection ends, .asked the ranges asked for."""

    class Handler(http.server.BaseHTTPRequestHandler):
        cut, asked, ranges = None, [], True

        def do_GET(self):
            path = tmp_path / "web" / self.path[1:]
            if not path.is_file():
                return self.send_error(404)
            data, asked = path.read_bytes(), self.headers.get("Range")
            Handler.asked.append(asked)
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and Handler.ranges else 0
            if start >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                return self.end_headers()
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            self.wfile.write(data[start:][: Handler.cut])

        def log_message(self, *args):
            pass

    Handler.asked = []
    (tmp_path / "web").mkdir()
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    Handler.url = f"http://127.0.0.1:{running.server_port}"
    yield Handler
    running.shutdown()


def tar(path, members, **more):
    """A tar.gz of {name: bytes}; `links`: {name: target}."""
    with tarfile.open(path, "w:gz") as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.uid = len(data), 12345
            file.addfile(info, io.BytesIO(data))
        for name, target in more.get("links", {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            file.addfile(info)


def test_a_download_is_checked_unpacked_and_done_once(server, tmp_path):
    tar(tmp_path / "web/a.tar.gz", {"tiny/train/yes.txt": b"yes", "tiny/README": b"1"})
    tar(tmp_path / "web/b.tar.gz", {"tiny/test/no.txt": b"no", "tiny/README": b"2"})
    data = (tmp_path / "web/a.tar.gz").read_bytes()
    sums = {kind: hashlib.new(kind, data).hexdigest() for kind in ("md5", "sha256")}
    archives = [Archive(f"{server.url}/a.tar.gz", "tiny/train", **sums), Archive(f"{server.url}/b.tar.gz", "tiny/test")]
    for _ in range(2):
        fetch_all(archives, tmp_path / "got")
    assert (tmp_path / "got/tiny/train/yes.txt").read_text() == "yes"
    assert (tmp_path / "got/tiny/test/no.txt").read_text() == "no"
    assert server.asked == [None, None]
    assert not list((tmp_path / "got").glob(".*"))


def test_a_download_goes_on_after_a_cut(server, tmp_path):
    data = np.random.default_rng(0).bytes(5000)
    tar(tmp_path / "web/a.tar.gz", {"tiny/x": data})
    archive, size = Archive(f"{server.url}/a.tar.gz", "tiny"), (tmp_path / "web/a.tar.gz").stat().st_size
    server.cut = 2000
    for have in (2000, 4000):
        with pytest.raises(SpeechMergeError, match="run the same command again|cannot be fetched"):
            fetch_all([archive], tmp_path / "got")
        assert (tmp_path / "got/a.tar.gz.part").stat().st_size == have < size
    fetch_all([archive], tmp_path / "got")
    assert (tmp_path / "got/tiny/x").read_bytes() == data
    assert server.asked == [None, "bytes=2000-", "bytes=4000-"]


def test_a_server_that_cannot_go_on_begins_again(server, tmp_path):
    tar(tmp_path / "web/a.tar.gz", {"tiny/x": np.random.default_rng(0).bytes(500)})
    (tmp_path / "got").mkdir()
    (tmp_path / "got/a.tar.gz.part").write_bytes(b"of another attempt")
    server.ranges = False
    fetch_all([Archive(f"{server.url}/a.tar.gz", "tiny")], tmp_path / "got")
    assert (tmp_path / "got/a.tar.gz").read_bytes() == (tmp_path / "web/a.tar.gz").read_bytes()


def test_a_part_that_is_whole_or_too_long(server, tmp_path):
    tar(tmp_path / "web/a.tar.gz", {"tiny/x": b"1"})
    data = (tmp_path / "web/a.tar.gz").read_bytes()
    (tmp_path / "got").mkdir()
    (tmp_path / "got/a.tar.gz.part").write_bytes(data + b"more")
    archive = Archive(f"{server.url}/a.tar.gz", "tiny")
    with pytest.raises(SpeechMergeError, match="another file; it is deleted"):
        fetch_all([archive], tmp_path / "got")
    (tmp_path / "got/a.tar.gz.part").write_bytes(data)
    fetch_all([archive], tmp_path / "got")
    assert (tmp_path / "got/tiny/x").read_bytes() == b"1"


def test_what_goes_wrong_with_a_download(server, tmp_path):
    tar(tmp_path / "web/a.tar.gz", {"other/x": b"1"})
    (tmp_path / "web/broken.tar.gz").write_bytes((tmp_path / "web/a.tar.gz").read_bytes()[:-20])
    for name, more, message in (
            ("none.tar.gz", {}, "none.tar.gz: cannot be fetched .HTTP Error 404.*fetch it by hand to .*got/none.tar.gz"),
            ("a.tar.gz", {"md5": "0" * 32}, "its md5 is .*, expected 0000.*delete it"),
            ("a.tar.gz", {}, "does not hold tiny; is it the archive of another release"),
            ("broken.tar.gz", {}, "cannot be unpacked .*delete it")):
        with pytest.raises(SpeechMergeError, match=message):
            fetch_all([Archive(f"{server.url}/{name}", "tiny", **more)], tmp_path / "got")
    with pytest.raises(SpeechMergeError, match="cannot be fetched"):
        fetch_all([Archive("http://127.0.0.1:9/a.tar", "tiny")], tmp_path / "got")


@pytest.mark.parametrize("members,links", [
    ({"../outside": b"1"}, {}), ({"tiny/../../outside": b"1"}, {}), ({}, {"tiny/link": "/etc"}), ({}, {"tiny/link": "../../up"})])
@pytest.mark.parametrize("python", ["own", "old"])
def test_archives_that_would_leave_their_folder(members, links, python, server, tmp_path, monkeypatch):
    if python == "old":
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
    tar(tmp_path / "web/a.tar.gz", {"tiny/x": b"1", **members}, links=links)
    with pytest.raises(SpeechMergeError, match="cannot be unpacked"):
        fetch_all([Archive(f"{server.url}/a.tar.gz", "tiny")], tmp_path / "deep/got")
    assert not (tmp_path / "deep/outside").exists() and not (tmp_path / "outside").exists()
    assert not (tmp_path / "deep/got/tiny").exists()


def test_what_old_pythons_unpack(server, tmp_path, monkeypatch):
    """The same as others, and nothing through a link that the archive brings itself."""
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    tar(tmp_path / "web/a.tar.gz", {"tiny/x": b"1", "/tiny/deep/y": b"2"}, links={"tiny/link": "x"})
    fetch_all([Archive(f"{server.url}/a.tar.gz", "tiny")], tmp_path / "got")
    tiny = tmp_path / "got/tiny"
    assert (tiny / "link").read_bytes() == (tiny / "x").read_bytes() == b"1" and (tiny / "deep/y").read_bytes() == b"2"
    assert (tiny / "x").stat().st_mode & 0o777 == 0o644 and (tiny / "x").stat().st_uid == os.getuid()
    with tarfile.open(tmp_path / "web/pipe.tar.gz", "w:gz") as file:
        pipe = tarfile.TarInfo("tiny/pipe")
        pipe.type = tarfile.FIFOTYPE
        file.addfile(pipe)
    with pytest.raises(SpeechMergeError, match="neither file nor folder nor link"):
        fetch_all([Archive(f"{server.url}/pipe.tar.gz", "tiny")], tmp_path / "other")


def test_zips_single_files_and_archives_without_a_folder(server, tmp_path):
    with zipfile.ZipFile(tmp_path / "web/a.zip", "w") as file:
        file.writestr("x.txt", "1")
    (tmp_path / "web/list.txt").write_text("a b\n")
    archives = [Archive(f"{server.url}/a.zip", "v1/x.txt", into="v1"),
                Archive(f"{server.url}/list.txt", "v1/meta/list.txt", unpack=False)]
    fetch_all(archives, tmp_path / "got")
    assert (tmp_path / "got/v1/x.txt").read_text() == "1" and (tmp_path / "got/v1/meta/list.txt").read_text() == "a b\n"


def test_a_corpus_that_is_not_there_is_fetched(server, corpus, tmp_path):
    with tarfile.open(tmp_path / "web/tiny.tar.gz", "w:gz") as file:
        file.add(corpus / "tiny", "tiny")

    class Fetched(Tiny):
        def archives(self, options):
            return [Archive(f"{server.url}/tiny.tar.gz", "tiny")]

    made = Fetched().prepare(tmp_path / "data", corpus_dir=tmp_path / "fetched")
    assert len(DataDir.read(made[0]).utterances) == 2


# the hub

class OnHub(Tiny):
    def hub(self, task, options):
        return Hub("nobody/tiny", {"train": [Part("v1", "train")], "test": [Part("v1", "validation")]}, names=("label",))

    def from_row(self, row, split, task, options):
        if row["label"] == "noise":
            spans = [(n / 10, n / 10 + 0.1) for n in range(2)]
            return [Utterance(f"{row['id']}-{n}", "", None, "s", "en", None, {"keyword": "no"}, span)
                    for n, span in enumerate(spans)]
        return None if row["id"] == "skip" else Utterance(row["id"], "", None, "s", "en", None, {"keyword": row["label"]})

    def expected(self, task, options):
        return {}


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A repository as on the hub: parquet with the bytes of the audio, one configuration, two splits."""
    datasets = pytest.importorskip("datasets")
    folder = tmp_path_factory.mktemp("hub")
    features = datasets.Features({"id": datasets.Value("string"), "label": datasets.ClassLabel(names=["yes", "no", "noise"]),
                                  "audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}})
    for split in ("train", "validation"):
        rows = {"id": ["a", "b", "skip", "c"], "label": [0, 1, 0, 2], "audio": []}
        for number in range(4):
            data = io.BytesIO()
            soundfile.write(data, np.full(8000, (number + 1) / 10, np.float32), 16000, format="WAV" if number else "FLAC")
            rows["audio"].append({"bytes": data.getvalue(), "path": "x.wav" if number else None})
        (folder / "v1").mkdir(exist_ok=True)
        rows = datasets.Dataset.from_dict(rows, features).cast_column("audio", datasets.Audio(sampling_rate=16000))
        rows.to_parquet(folder / "v1" / f"{split}-00000-of-00001.parquet")
    (folder / "README.md").write_text("---\nconfigs:\n- config_name: v1\n  data_files:\n  - split: train\n    path: v1/train-*\n"
                                      "  - split: validation\n    path: v1/validation-*\n---\n")
    return folder


@pytest.mark.parametrize("streaming", [False, True])
def test_a_corpus_from_the_hub(streaming, repository, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    made = OnHub().prepare(tmp_path / "data", source="hf", hub_id=str(repository), streaming=streaming)
    data = DataDir.read(made[1])
    assert {id: u.labels["keyword"] for id, u in data.utterances.items()} == {"a": "yes", "b": "no", "c-0": "no", "c-1": "no"}
    assert data.utterances["c-1"].segment == (0.1, 0.2)
    assert Path(data.utterances["a"].audio).suffix == ".flac" and Path(data.utterances["b"].audio).suffix == ".wav"
    assert soundfile.read(data.utterances["b"].audio)[0][5] == pytest.approx(0.2, abs=1e-3)
    assert json.loads((tmp_path / "data/kws/prepare.json").read_text())["left_out"] == {"rows left out": 2}


def test_what_goes_wrong_with_the_hub(repository, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))

    class Other(OnHub):
        def hub(self, task, options):
            return Hub("nobody/tiny", {"train": [Part(self.config, "train")]}, audio=self.audio)

        def from_row(self, row, split, task, options):
            return Utterance(str(row[self.id]), "", None, "s")

    for config, audio, id, message in (
            ("v2", "audio", "id", "v2, split train.: cannot be read .*v2.*hub_id"),
            ("v1", "sound", "id", "no column 'sound', found id, label"),
            ("v1", "audio", "name", "row 0 of train has no column 'name', found id"),
            ("v1", "audio", "label", "id 0 occurs twice")):
        Other.config, Other.audio, Other.id = config, audio, id
        with pytest.raises(SpeechMergeError, match=message):
            Other().prepare(tmp_path / "data", source="hf", hub_id=str(repository), streaming=True)


# a corpus in a file of one's own, and the verb

OWN = '''
from speechmerge.corpora.base import CORPORA
from speechmerge.corpora.published import PublishedCorpus, Reading, Split
from speechmerge.data.directory import Utterance


@CORPORA.register("{name}")
class Own(PublishedCorpus):
    """Mine"""
    tasks = ("asr",)
    layout = "*.wav"

    def read(self, root, task, options):
        found = {{path.stem: Utterance(path.stem, str(path), {text}, "s", "en") for path in sorted(root.glob("*.wav"))}}
        return Reading({{"train": Split(found)}})
'''


def prepare_verb(*words) -> None:
    import argparse

    parser = argparse.ArgumentParser()
    prepare.add_arguments(parser)
    prepare.run(parser.parse_args(list(words)))


def test_a_corpus_in_a_file_of_ones_own(tmp_path, capsys):
    for name in ("a", "b"):
        write_wav(tmp_path / f"c/{name}.wav")
    own = tmp_path / "reader.py"
    own.write_text(OWN.format(name="own_reader", text="'hello'"))
    words = ("--corpus", str(own), "--corpus-dir", str(tmp_path / "c"), "--output-dir", str(tmp_path / "data"))
    prepare_verb(*words)
    assert (tmp_path / "data/asr/train/text").read_text() == "a hello\nb hello\n"
    assert json.loads((tmp_path / "data/asr/prepare.json").read_text())["corpus"] == "own_reader"


def test_own_files_that_cannot_be_used(tmp_path):
    for text, message in (("import nothing_of_that_name", "cannot be loaded .ModuleNotFoundError"),
                          ("def", "SyntaxError"), ("x = 1", "found none"),
                          (OWN.format(name="librispeech", text="1"), "registered twice")):
        (tmp_path / "own.py").write_text(text)
        with pytest.raises(UsageError, match=message):
            find_corpus(str(tmp_path / "own.py"))
    with pytest.raises(UsageError, match="no such file"):
        find_corpus(str(tmp_path / "none.py"))


def test_stage_one_runs_again_when_corpus_options_or_reader_change(corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("speechmerge.corpora.find_corpus", lambda name: Tiny)
    monkeypatch.chdir(tmp_path)
    reader = tmp_path / "tiny.py"
    reader.write_text("1")

    def said(*more):
        prepare_verb("--corpus", str(reader), "--corpus-dir", str(corpus), "--output-dir", "data", *more)
        return "already" if "already" in capsys.readouterr().out else "prepared"

    assert [said(), said(), said("--param", "count=4"), said("--param", "count=4")] == ["prepared", "already"] * 2
    write_wav(corpus / "another/corpus.wav")
    assert said("--param", "count=4") == "already"
    write_wav(corpus / "tiny/test/yes.wav", seconds=0.3)
    assert [said("--param", "count=4"), said("--param", "count=4")] == ["prepared", "already"]
    reader.write_text("2")
    assert [said("--param", "count=4"), said("--param", "count=4", "--force", "true")] == ["prepared", "prepared"]
