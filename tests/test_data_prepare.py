"""The verb prepare: options of a corpus, and when it is skipped."""
from pathlib import Path

import pytest

from speechmerge.cli import main
from speechmerge.corpora import CORPORA
from speechmerge.data.directory import DataDir, Utterance
from speechmerge.files import write_text

CALLS = []


@CORPORA.register("test_prepare")
class Made:
    """Writes one utterance."""

    def prepare(self, output_dir, corpus_dir, seed=0, words="yes"):
        CALLS.append({"corpus_dir": corpus_dir, "seed": seed, "words": words})
        path = Path(output_dir) / "asr" / "train"
        DataDir(path, {"u": Utterance("u", "u.wav", words)}).write()
        return [path]


@pytest.fixture
def prepare(tmp_path):
    CALLS.clear()
    write_text(tmp_path / "corpus" / "a.txt", "a")
    folders = ["--corpus-dir", str(tmp_path / "corpus"), "--output-dir", str(tmp_path / "data")]
    return lambda *words: main(["prepare", "--corpus", "test_prepare", *folders, *words])


def test_options_arrive_and_a_second_run_is_skipped(prepare, tmp_path, capsys):
    assert prepare("--param", "words=a b", "--seed", "3") == 0 and prepare("--param", "words=a b", "--seed", "3") == 0
    assert CALLS == [{"corpus_dir": str(tmp_path / "corpus"), "seed": 3, "words": "a b"}]
    assert "already prepared" in capsys.readouterr().out
    assert DataDir.read(tmp_path / "data" / "asr" / "train").utterances["u"].text == "a b"


@pytest.mark.parametrize("change", ["option", "corpus", "deleted", "force"])
def test_what_makes_it_run_again(prepare, tmp_path, change):
    prepare()
    if change == "corpus":
        write_text(tmp_path / "corpus" / "b.txt", "more")
    if change == "deleted":
        (tmp_path / "data" / "asr" / "train" / "wav.scp").unlink()
    assert prepare(*{"option": ["--param", "words=never"], "force": ["--force", "true"]}.get(change, [])) == 0
    assert len(CALLS) == 2


def test_formatting_in_place_does_not_make_it_run_again(prepare, tmp_path):
    prepare()
    write_text(tmp_path / "data" / "asr" / "train" / "wav.scp", "u audio/u.flac\n")
    prepare()
    assert len(CALLS) == 1


def test_wrong_usage(prepare, tmp_path, capsys):
    assert prepare("--param", "word=x") == 2 and "did you mean 'words'" in capsys.readouterr().err
    assert main(["prepare", "--corpus", "test_prepare"]) == 2 and "--corpus-dir" in capsys.readouterr().err
    assert main(["prepare", "--corpus", "test_prepar"]) == 2 and "'test_prepare'" in capsys.readouterr().err
