"""Common Voice as a corpus: locales, columns of several releases, quotation marks, empty clips, validated, the miniature's layout."""
from collections import Counter

import pytest

from speechmerge.corpora.base import CORPORA
from speechmerge.corpora.common_voice import read_tsv
from speechmerge.corpora.common_voice_asr import COLUMNS, TWIN, read_language, twin
from speechmerge.data.directory import DataDir
from speechmerge.data.format import format_dir
from speechmerge.data.validate import validate
from speechmerge.errors import SpeechMergeError, UsageError

ANNA, BINA, CARO = "a" * 128, "b" * 128, "c" * 128
HEADERS = {  # version: columns in the order of that release
    "4": "client_id path sentence up_votes down_votes age gender accent",
    "17": "client_id path sentence_id sentence sentence_domain up_votes down_votes age gender accents variant locale segment"}


def write_tables(folder, header, **tables):
    """{table: [(client, clip, sentence, gender or None for a line that ends after the votes)]} with audio for every clip."""
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    columns = header.split()
    for table, rows in tables.items():
        lines = ["\t".join(columns)]
        for client, clip, sentence, gender in rows:
            values = {"client_id": client, "path": clip, "sentence": sentence, "up_votes": "2", "down_votes": "1",
                      "gender": gender or ""}
            end = len(columns) if gender else columns.index("down_votes") + 1
            lines.append("\t".join(values.get(column, "") for column in columns[:end]))
            (folder / "clips" / clip).write_bytes(b"ID3 sound")
        (folder / f"{table}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def italian(root, version="17", **more):
    folder = root / f"cv-corpus-{version}.0" / "it"
    write_tables(folder, HEADERS[version], **{
        "train": [(ANNA, "common_voice_it_1.mp3", 'Il vuoto "assoluto?', "female_feminine"),
                  (ANNA, "common_voice_it_2.mp3", "Non c'è due senza tre.", "female"),
                  (ANNA, "common_voice_it_3.mp3", '"Buongiorno', None)],
        "dev": [(BINA, "common_voice_it_4.mp3", "nan", "male_masculine")],
        "test": [(CARO, "common_voice_it_5.mp3", "È vero!", "other")], **more})
    return folder


def prepare(root, output, **options):
    return CORPORA.get("common_voice")().prepare(output, corpus_dir=root, languages="it", **options)


@pytest.mark.parametrize("version", HEADERS)
def test_columns_go_by_the_header_of_the_release(tmp_path, version):
    italian(tmp_path / "corpus", version)
    made = prepare(tmp_path / "corpus", tmp_path / "data")
    assert [path.relative_to(tmp_path / "data").as_posix() for path in made] == ["it/train", "it/dev", "it/test"]
    train = DataDir.read(made[0]).utterances
    assert [(u.text, u.labels["gender"]) for u in train.values()] == [
        ('Il vuoto "assoluto?', "f"), ("Non c'è due senza tre.", "f"), ('"Buongiorno', "u")]
    assert set(train) == {f"common_voice-it-{'a' * 16}-common_voice_it_{n}" for n in (1, 2, 3)}
    assert [u.text for u in DataDir.read(made[1]).utterances.values()] == ["nan"]  # a word, not a missing value
    assert [u.labels["gender"] for u in DataDir.read(made[2]).utterances.values()] == ["u"]


def test_plain_text(tmp_path):
    italian(tmp_path / "corpus")
    made = prepare(tmp_path / "corpus", tmp_path / "data", text="plain")
    assert [u.text for u in DataDir.read(made[0]).utterances.values()] == ["il vuoto assoluto", "non c'è due senza tre", "buongiorno"]
    assert [u.text for u in DataDir.read(made[2]).utterances.values()] == ["è vero"]


def test_clips_without_bytes_are_left_out_and_missing_ones_are_an_error(tmp_path):
    clips = italian(tmp_path / "corpus") / "clips"
    (clips / "common_voice_it_2.mp3").write_bytes(b"")
    assert read_language(tmp_path / "corpus", "it").skipped == Counter({"common_voice it: empty clip": 1})
    (clips / "common_voice_it_1.mp3").unlink()
    with pytest.raises(SpeechMergeError, match="1 are missing and 0 empty.*common_voice_it_1.mp3.*allow_incomplete"):
        prepare(tmp_path / "corpus", tmp_path / "data")


def test_validated_has_no_speaker_and_no_sentence_of_dev_and_test(tmp_path):
    other = "d" * 128
    italian(tmp_path / "corpus", validated=[
        (ANNA, "common_voice_it_1.mp3", 'Il vuoto "assoluto?', "female"), (other, "common_voice_it_6.mp3", "Altra frase", "male"),
        (BINA, "common_voice_it_7.mp3", "Sua altra frase", "male"), (other, "common_voice_it_8.mp3", "È vero!", "male")])
    made = prepare(tmp_path / "corpus", tmp_path / "data", train="validated")
    assert [u.text for u in DataDir.read(made[0]).utterances.values()] == ['Il vuoto "assoluto?', "Altra frase"]
    assert "dev or test" in (tmp_path / "data/it/prepare.json").read_text()


def test_a_row_without_speaker_is_named(tmp_path):
    folder = italian(tmp_path / "corpus")
    with open(folder / "dev.tsv", "a") as file:
        file.write("\tcommon_voice_it_9.mp3\t\tsenza\n")
    with pytest.raises(SpeechMergeError, match=r"dev.tsv:3: found no client_id or no path"):
        prepare(tmp_path / "corpus", tmp_path / "data")


def test_punjabi_has_a_locale(tmp_path):
    write_tables(tmp_path / "cv-corpus-17.0" / "pa-IN", HEADERS["17"], **{
        split: [(split * 40, f"common_voice_pa-IN_{n}.mp3", "ਕਿਤਾਬ ਕਿੱਥੇ ਹੈ।", None)] for n, split in enumerate(("train", "dev", "test"))})
    found = read_language(tmp_path, "pa")
    assert [u.text for u in found.splits["test"].values()] == ["ਕਿਤਾਬ ਕਿੱਥੇ ਹੈ।"]
    assert {u.language for own in found.splits.values() for u in own.values()} == {"pa"}


def test_several_releases_are_ambiguous_and_none_says_what_to_obtain(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpeechMergeError, match="datacollective.mozillafoundation.org"):
        prepare(tmp_path / "empty", tmp_path / "data")
    for version in HEADERS:
        italian(tmp_path / "corpus", version)
    with pytest.raises(SpeechMergeError, match="several releases of Common Voice"):
        prepare(tmp_path / "corpus", tmp_path / "data")


def test_the_hub(tmp_path):
    corpus = CORPORA.get("common_voice")()
    options = corpus.options({"languages": "pa", "text": "plain"})
    parts = corpus.hub("asr", options).parts
    assert [(p.config, p.split) for own in parts.values() for p in own] == [("pa-IN", "train"), ("pa-IN", "validation"), ("pa-IN", "test")]
    row = {"client_id": ANNA, "path": "pa_train_0/common_voice_pa-IN_1.mp3", "sentence": "ਹਾਂ।", "gender": "male", "audio": {}}
    utterance = corpus.from_row(row, "train", "asr", options)
    assert (utterance.id, utterance.text) == (f"common_voice-pa-{'a' * 16}-common_voice_pa-IN_1", "ਹਾਂ")
    for wrong in ({}, {"languages": "it", "train": "validated"}):
        with pytest.raises(UsageError):
            corpus.hub("asr", corpus.options(wrong))


@pytest.mark.parametrize("language", TWIN)
def test_the_miniature_has_the_traps_of_the_release(tmp_path, language):
    spoken = twin(tmp_path, "", language, seed=3)
    again = twin(tmp_path / "again", "", language, seed=3)
    assert spoken == again and len({item.path for item in spoken}) == len(spoken) == sum(TWIN[language])
    folder = next(tmp_path.glob("cv-corpus-*/*"))
    tables = {split: list(read_tsv(folder / f"{split}.tsv", COLUMNS)) for split in ("train", "dev", "test")}
    assert [len(rows) for rows in tables.values()] == list(TWIN[language])
    lines = (folder / "train.tsv").read_text(encoding="utf-8").splitlines()
    assert min(line.count("\t") for line in lines) < len(COLUMNS) - 1  # short rows
    assert any(line.count('"') % 2 for line in lines)  # a quotation mark that never closes
    speakers = [{row["client_id"] for row in rows} for rows in tables.values()]
    texts = [{row["sentence"].strip('".।').lower() for row in rows} for rows in tables.values()]
    for sets in (speakers, texts):
        assert not (sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2])


def test_the_miniature_through_prepare_format_and_validate(tmp_path):
    made = CORPORA.get("common_voice")().prepare(tmp_path / "data", corpus_dir=tmp_path / "twin", mini=True, languages="pa,it",
                                                 train="validated", nj=2)
    sizes = {}
    for directory in made:
        format_dir(directory)
        assert [str(finding) for finding in validate(directory)] == []
        sizes[f"{directory.parent.name}/{directory.name}"] = len(DataDir.read(directory).utterances)
    assert sizes == {"pa/train": 16, "pa/dev": 4, "pa/test": 8, "it/train": 32, "it/dev": 6, "it/test": 8}
