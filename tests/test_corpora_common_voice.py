"""Common Voice's TSV files: the traps of the published ones, on samples in their layout."""
import pytest

from speechmerge.corpora.common_voice import language_folder, read_tsv
from speechmerge.errors import SpeechMergeError

V4 = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccent"
V17 = ("client_id\tpath\tsentence_id\tsentence\tsentence_domain\tup_votes\tdown_votes\tage\tgender\taccents\tvariant"
       "\tlocale\tsegment")
LINE = "05e9d52b\tcommon_voice_it_17544185.mp3\tIl vuoto assoluto?\t2\t1"


def write(tmp_path, *lines, end="\n", encoding="utf-8"):
    path = tmp_path / "validated.tsv"
    path.write_bytes((end.join(lines) + end).encode(encoding))
    return path


def rows(*args, **kwargs):
    return list(read_tsv(*args, **kwargs))


def test_short_rows_are_filled(tmp_path):
    [row] = rows(write(tmp_path, V4, LINE))
    assert row["sentence"] == "Il vuoto assoluto?" and (row["up_votes"], row["down_votes"]) == ("2", "1")
    assert row["accent"] == row["age"] == "" and len(row) == 8
    assert row.place.endswith("validated.tsv:2")


def test_columns_go_by_the_header(tmp_path):
    [row] = rows(write(tmp_path, V17, "c1\tx.mp3\ts17\tCiao a tutti\t\t3\t0\tteens\tmale\t\t\tit\t"))
    assert (row["sentence"], row["gender"], row["locale"], row["segment"]) == ("Ciao a tutti", "male", "it", "")


@pytest.mark.parametrize("end, encoding", [("\n", "utf-8"), ("\r\n", "utf-8"), ("\n", "utf-8-sig")])
def test_first_and_last_column_keep_their_names(tmp_path, end, encoding):
    [row] = rows(write(tmp_path, "client_id\tpath\tsentence", "c1\tx.mp3\tperché no", end=end, encoding=encoding))
    assert row == {"client_id": "c1", "path": "x.mp3", "sentence": "perché no"}


def test_quotation_marks_swallow_nothing(tmp_path):
    sentences = ['"Open at the start', 'it said "no"', "l'ultimo", '"', "Null", "nan", "NA"]
    path = write(tmp_path, "path\tsentence", *(f"{i}.mp3\t{s}" for i, s in enumerate(sentences)))
    assert [row["sentence"] for row in rows(path)] == sentences


def test_only_a_newline_ends_a_line(tmp_path):
    path = write(tmp_path, "path\tsentence", "1.mp3\tone\u2028two\rthree", "2.mp3\tfour\x85five")
    assert [row["sentence"] for row in rows(path)] == ["one\u2028two\rthree", "four\x85five"]


def test_escapes_as_covost_reads_them(tmp_path):
    """CoVoST's own script: sep=tab, quoting=QUOTE_NONE, escapechar=backslash, na_filter=False."""
    path = write(tmp_path, "path\tsentence\ttranslation", 'a.mp3\tsay \\"yes\\"\tone\\\ttwo', "b.mp3\ta \\\\ b\tNull")
    assert [list(row.values()) for row in rows(path, escape="\\")] == [
        ["a.mp3", 'say "yes"', "one\ttwo"], ["b.mp3", "a \\ b", "Null"]]
    with pytest.raises(SpeechMergeError, match=r"validated.tsv:2: found 4 fields, expected at most the 3"):
        rows(path)


def test_what_is_wrong_is_named_with_its_line(tmp_path):
    with pytest.raises(SpeechMergeError, match=r"validated.tsv:1: no column 'sentence', found path, text"):
        rows(write(tmp_path, "path\ttext"), required=("path", "sentence"))
    path = write(tmp_path, "path\tsentence", "a.mp3\tok")
    path.write_bytes(path.read_bytes() + b"b.mp3\t\xff\n")
    with pytest.raises(SpeechMergeError, match=r"validated.tsv:3: is not UTF-8"):
        rows(path)
    path.write_bytes(b"")
    with pytest.raises(SpeechMergeError, match="is empty"):
        rows(path)
    with pytest.raises(SpeechMergeError, match="cannot be read"):
        rows(tmp_path / "none.tsv")


def test_language_folder(tmp_path):
    made = tmp_path / "cv-corpus-4-2019-12-10" / "it"
    made.mkdir(parents=True)
    write(made, V4)
    assert language_folder(tmp_path, "it") == language_folder(tmp_path / "cv-corpus-4-2019-12-10", "it") == made
    assert language_folder(made, "it") == made
    with pytest.raises(SpeechMergeError, match="no Common Voice for 'hi'"):
        language_folder(tmp_path, "hi")
    other = tmp_path / "cv-corpus-7.0-2021-07-21" / "it"
    other.mkdir(parents=True)
    write(other, V4)
    with pytest.raises(SpeechMergeError, match="several releases"):
        language_folder(tmp_path, "it")
