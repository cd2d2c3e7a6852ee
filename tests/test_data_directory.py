"""Data directories: round trips, and every kind of bad table with a message that names file, line, id and fix."""
import shutil

import pytest

from speechmerge.data.directory import DataDir, Trial, Utterance
from speechmerge.data.tables import invisible_characters, read_table, write_table
from speechmerge.data.validate import fix, validate
from speechmerge.errors import SpeechMergeError
from tiny import tiny_tones

HINDI = "हिन्दी में किताबें पढ़ना अच्छा है"


@pytest.fixture
def data(tmp_path):
    """s0-000 ... of the task kws, six utterances of three speakers."""
    return tiny_tones(tmp_path / "kws" / "train", task="kws", n=6)


def edit(path, change):
    path.write_bytes(change(path.read_bytes()))


def message(data) -> str:
    with pytest.raises(SpeechMergeError) as caught:
        DataDir.read(data)
    return str(caught.value)


def test_round_trip_keeps_everything(tmp_path):
    utterances = {
        "a-1": Utterance("a-1", "/audio/a 1.wav", HINDI, "a", "hi", 1.25, {"intent": "lights on"}),
        "a-1b": Utterance("a-1b", "wav/2.flac", "l'è  perché", "a", "it", 0.5, {"intent": "play"}),
        "é-2": Utterance("é-2", "wav/3.flac", "x", "é", "de", 2.0, {"intent": "play"}),
    }
    trials = [Trial("t1", "a-1", "a-1b", True), Trial("t2", "a-1", "é-2", False)]
    DataDir(tmp_path / "d", utterances, ["play", "lights on"], trials).write()
    found = DataDir.read(tmp_path / "d")
    assert found.utterances == utterances and list(found.utterances) == ["a-1", "a-1b", "é-2"]
    assert found.labels == ["play", "lights on"] and found.trials == trials
    assert (tmp_path / "d" / "spk2utt").read_text(encoding="utf-8") == "a a-1 a-1b\né é-2\n"
    assert validate(tmp_path / "d", audio=False) == []


def test_rows_are_sorted_as_by_lc_all_c(tmp_path):
    write_table(tmp_path / "t", {"b": "1", "a-b": "2", "a": "3", "B": "4", "ü": "5"})
    lines = (tmp_path / "t").read_text(encoding="utf-8").splitlines()
    assert [line.split()[0] for line in lines] == ["B", "a", "a-b", "b", "ü"]
    assert read_table(tmp_path / "t")[1] == []


def test_writing_again_removes_tables_that_are_gone(data):
    found = DataDir.read(data)
    DataDir(data, {id: Utterance(id, u.audio) for id, u in found.utterances.items()}).write()
    assert not (data / "text").exists() and not (data / "utt2keyword").exists()
    assert DataDir.read(data).utterances["s0-000"].text is None


@pytest.mark.parametrize("value", ["two\nlines", "carriage\rreturn"])
def test_values_of_several_lines_are_refused(tmp_path, value):
    with pytest.raises(SpeechMergeError, match="more than one line"):
        write_table(tmp_path / "text", {"u": value})


@pytest.mark.parametrize("id", ["", "a b", "a/b", "a\tb"])
def test_ids_that_would_break_tables_or_file_names_are_refused(tmp_path, id):
    with pytest.raises(SpeechMergeError, match="rename the utterance"):
        write_table(tmp_path / "text", {id: "x"})


def test_missing_directory_and_missing_wav_scp(data, tmp_path):
    with pytest.raises(SpeechMergeError, match="no such data directory; run stage 1"):
        DataDir.read(tmp_path / "nowhere")
    (data / "wav.scp").unlink()
    assert "no wav.scp" in message(data)




def swap(old: str | bytes, new: str | bytes):
    """A change of a table's bytes."""
    old, new = (text.encode() if isinstance(text, str) else text for text in (old, new))
    return lambda raw: raw.replace(old, new)


def reverse(raw):
    return b"".join(sorted(raw.splitlines(True))[::-1])


BAD_TABLES = {  # name: (table, change, what is said, can `fix` repair it)
    "crlf": ("text", swap("\n", "\r\n"), "text:1:s0-000: CRLF", True),
    "bom": ("text", lambda raw: b"\xef\xbb\xbf" + raw, "text:1: the file begins with a byte order mark", True),
    "not utf-8": ("text", swap("s0-003 ", b"s0-003 perch\xe9 "), "text:2:s0-003: not UTF-8 (byte 0xe9", False),
    "empty transcript": ("text", swap("s0-003 yes", "s0-003"), "text:2:s0-003: empty transcript", True),
    "blank transcript": ("text", swap("s0-003 yes", "s0-003   "), "text:2:s0-003: empty transcript", True),
    "empty line": ("text", swap("s0-003", "\ns0-003"), "text:2: empty line", True),
    "leading space": ("text", lambda raw: b" " + raw, "text:1:", True),
    "same line twice": ("text", lambda raw: raw[:raw.index(b"\n") + 1] + raw, "text:2:s0-000: duplicate id", True),
    "duplicate id": ("text", lambda raw: b"s0-000 other\n" + raw,
                     "text:2:s0-000: duplicate id, first on line 1 with another value", False),
    "unsorted": ("utt2spk", reverse, "utt2spk:2:s2-002: not sorted", True),
    "one column": ("utt2spk", swap("s0-003 s0", "s0-003"), "utt2spk:2:s0-003: the second column is missing", True),
    "id missing": ("text", lambda raw: raw[raw.index(b"\n") + 1:], "wav.scp:1:s0-000: 1 id(s) not in text", True),
    "id too many": ("text", lambda raw: raw + b"zz no\n", "text:7:zz: 1 id(s) not in wav.scp", True),
    "spk2utt": ("spk2utt", swap(" s0-003", ""), "spk2utt:1:s0: does not agree with utt2spk", True),
    "pipe": ("wav.scp", swap("003.wav\n", "003.wav cat |\n"), "wav.scp:2:s0-003: command pipe", False),
    "zero-width space": ("text", swap("s0-003 yes", "s0-003 y\u200bes"), "text:2:s0-003: invisible", True),
    "no-break space": ("text", swap("s0-003 yes", "s0-003 oh\u00a0yes"), "U+00A0", True),
    "duration": ("utt2dur", swap("s0-003 ", "s0-003 x"), "utt2dur:2:s0-003: found 'x", True),
    "unknown label": ("utt2keyword", swap("s0-003 yes", "s0-003 jes"), "label 'jes' is not in", False),
    "slash in id": ("text", swap("s0-003", "s0/003"), "text:2:s0/003: the id contains '/'", False),
    "empty file": ("wav.scp", lambda raw: b"", "wav.scp: no utterances", False),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_bad_table(data, name):
    """Reading refuses with file, line and id; `fix` repairs what can be repaired and changes nothing otherwise."""
    table, change, expected, repairable = BAD_TABLES[name]
    edit(data / table, change)
    assert expected in message(data)
    findings = validate(data, audio=False)
    assert any(expected in str(finding) for finding in findings)
    before = {path.name: path.read_bytes() for path in data.iterdir() if path.is_file()}
    if not repairable:
        with pytest.raises(SpeechMergeError, match="nothing was changed"):
            fix(data)
        assert before == {path.name: path.read_bytes() for path in data.iterdir() if path.is_file()}
        return
    assert fix(data)
    assert validate(data) == []
    assert (data / ".backup" / table).read_bytes() == before[table]


def test_fix_drops_only_what_is_incomplete(data):
    edit(data / "text", lambda raw: raw.replace(b"s0-003 yes", b"s0-003"))
    assert any("dropped 1 utterances: no entry in text" in line for line in fix(data))
    assert sorted(DataDir.read(data).utterances) == ["s0-000", "s1-001", "s1-004", "s2-002", "s2-005"]


def test_fix_cleans_text_and_keeps_the_first_backup(data):
    edit(data / "text", lambda raw: raw.replace(b"s0-003 yes", "s0-003 oh\u00a0y\u200bes\u00ad".encode()))
    original = (data / "text").read_bytes()
    fix(data)
    assert DataDir.read(data).utterances["s0-003"].text == "oh yes"
    edit(data / "text", lambda raw: raw.replace(b"\n", b"\r\n"))
    fix(data)
    assert (data / ".backup" / "text").read_bytes() == original


def test_a_valid_directory_is_left_alone(data):
    before = {path.name: path.read_bytes() for path in data.iterdir() if path.is_file()}
    assert fix(data) == [] and not (data / ".backup").exists()
    assert before == {path.name: path.read_bytes() for path in data.iterdir() if path.is_file()}


def test_trials(tmp_path):
    data = tiny_tones(tmp_path / "speaker_ver", task="speaker_ver", n=6)
    edit(data / "trials", lambda raw: raw + b"zz s0-000 s0-003 maybe\n")
    assert "zz: found 's0-000 s0-003 maybe', expected `enrol_utt test_utt target|nontarget`" in message(data)
    edit(data / "trials", lambda raw: raw.replace(b"s0-003 maybe", b"nobody target"))
    assert "zz: utterance 'nobody' is not in wav.scp" in message(data)


def test_joiners_of_indic_scripts_are_visible():
    assert invisible_characters("क्\u200dष " + HINDI) == []
    assert invisible_characters("a\u200b\ufeff\u202e\x07") == ["\u200b", "\ufeff", "\u202e", "\x07"]


def test_line_separators_do_not_split_lines(tmp_path):
    (tmp_path / "text").write_bytes("u1 a\u2028b\nu2 c\u0085d\n".encode())
    rows, findings = read_table(tmp_path / "text")
    assert list(rows) == ["u1", "u2"] and ["invisible" in finding.problem for finding in findings] == [True, True]


def test_fingerprint_follows_content_not_place_or_time(data, tmp_path):
    first = DataDir.read(data).fingerprint()
    assert DataDir.read(data).fingerprint() == first
    moved = tmp_path / "moved"
    shutil.copytree(data, moved)
    edit(moved / "wav.scp", lambda raw: raw.replace(str(data).encode(), str(moved).encode()))
    assert str(moved) in (moved / "wav.scp").read_text()
    assert DataDir.read(moved).fingerprint() == first
    edit(moved / "wav" / "s0-000.wav", lambda raw: raw[:-1] + b"\x55")
    changed_audio = DataDir.read(moved).fingerprint()
    edit(moved / "text", lambda raw: raw.replace(b"s0-003 yes", b"s0-003 no"))
    assert len({first, changed_audio, DataDir.read(moved).fingerprint()}) == 3


def test_fingerprint_names_missing_audio(data):
    (data / "wav" / "s0-003.wav").unlink()
    with pytest.raises(SpeechMergeError, match="wav.scp:s0-003: cannot read .*s0-003.wav"):
        DataDir.read(data).fingerprint()


def test_tables_that_are_no_labels_stand_beside_the_closed_set(data):
    """utt2corpus and others are not compared with `labels`; the label table beside them still is."""
    edit(data / "utt2keyword", lambda raw: raw.replace(b"s0-003 yes", b"s0-003 jes"))
    shutil.copy(data / "utt2spk", data / "utt2corpus")
    assert "label 'jes' is not in" in message(data)
    (data / "utt2keyword").unlink()
    assert DataDir.read(data).utterances["s0-003"].labels == {"corpus": "s0"}


def test_writing_without_labels_removes_them(data):
    found = DataDir.read(data)
    DataDir(data, found.utterances, None).write()
    assert DataDir.read(data).labels is None
