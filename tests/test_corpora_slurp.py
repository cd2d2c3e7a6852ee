"""SLURP and Speech-MASSIVE: their traps on samples in the published layout, counts of the releases, the miniatures."""
import json
import shutil

import numpy as np
import pytest
import soundfile

from speechmerge.corpora.slurp import Slurp, SpeechMassive
from speechmerge.corpora.slurp import massive, massive_twin, twin
from speechmerge.corpora.slurp.commands import COMMANDS, TEST_ONLY
from speechmerge.data.directory import DataDir
from speechmerge.data.format import format_dir
from speechmerge.data.validate import validate
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.tasks import get_task


def tokens(*surfaces):
    return [{"surface": surface, "id": id, "lemma": surface.lower(), "pos": "NN"}
            for id, surface in enumerate(surfaces)]


def take(file, wer, ent_wer=None):
    return {"file": file, "wer": wer, "ent_wer": ent_wer, "status": "correct"}


ALARM = {  # as line 11 of devel.jsonl, but for the intent, which other lines have wrong like this
    "slurp_id": 4318, "sentence": "wake me up at ten", "sentence_annotation": "wake me up at [time : ten]",
    "intent": "alarm", "action": "set", "tokens": tokens("wake", "me", "up", "at", "ten"), "scenario": "alarm",
    "recordings": [take("audio-1501756826.flac", 0.0, 0.0), take("audio--1504194842-headset.flac", 0.2, 0.0),
                   take("audio--1504198573-headset.flac", 0.0, 0.0)],
    "entities": [{"span": [4], "type": "time"}]}
EMAIL = {
    "slurp_id": 16421, "sentence": "how many unread emails do i have",
    "sentence_annotation": "how many unread emails do i have", "intent": "email_query", "action": "query",
    "tokens": tokens(*"how many unread emails do i have".split()),
    "scenario": "email", "entities": [],
    "recordings": [take("audio-1501151379-headset.flac", 1.43), take("audio-1501151379.flac", 0.57)]}
PARTY = {  # clitics are tokens of their own, some surfaces of the test have capitals
    "slurp_id": 9054, "sentence": "when is jessica's party on friday", "intent": "calendar_query", "action": "query",
    "sentence_annotation": "when is [person : jessica's] [event_name : party] on [date : friday]",
    "tokens": tokens("when", "is", "jessica", "'s", "party", "on", "Friday"), "scenario": "calendar",
    "recordings": [take("audio-1497872916-headset.flac", 0.0, 0.0)],
    "entities": [{"span": [2, 3], "type": "person"}, {"span": [4], "type": "event_name"},
                 {"span": [6], "type": "date"}]}
MUSIC = {
    "slurp_id": 12, "sentence": "play queen", "sentence_annotation": "play [artist_name : queen]", "intent": "music",
    "action": "music", "tokens": tokens("play", "queen"), "scenario": "play",
    "recordings": [take("audio-1490182015.flac", None), take("audio-1497872916-headset.flac", 0.0, 0.0)],
    "entities": [{"span": [1], "type": "artist_name"}]}
SPOKEN = {"slurp_id": 12, **{key: MUSIC[key] for key in MUSIC if key not in ("slurp_id", "recordings")},
          "recordings": [take("audio-1700000001.flac", 0.0, 0.0)]}
SPEAKERS = {4318: {"audio-1501756826.flac": "FE-141", "audio--1504194842-headset.flac": "UNK-323",
                   "audio--1504198573-headset.flac": "MO-030"}, 9054: {"audio-1497872916-headset.flac": "UNKO-7"},
            16421: {"audio-1501151379-headset.flac": "ME-1", "audio-1501151379.flac": "ME-1"}}
TEXTS = {"train": [MUSIC], "train_synthetic": [SPOKEN], "devel": [ALARM, EMAIL], "test": [PARTY]}


@pytest.fixture
def slurp(tmp_path):
    root = tmp_path / "slurp"
    (root / "dataset/slurp").mkdir(parents=True)
    for name, prompts in TEXTS.items():
        folder = root / "audio" / ("slurp_synth" if name == "train_synthetic" else "slurp_real")
        folder.mkdir(parents=True, exist_ok=True)
        (root / "dataset/slurp" / f"{name}.jsonl").write_text("".join(f"{json.dumps(prompt)}\n" for prompt in prompts))
        for prompt in prompts:
            for recording in prompt["recordings"]:
                soundfile.write(folder / recording["file"], np.sin(np.arange(4800) / 9) / 4, 16000)
    metadata = {str(id): {"recordings": {file: {"ansid": 1, "recid": file[5:-5], "status": 1, "usrid": user}
                                         for file, user in files.items()}} for id, files in SPEAKERS.items()}
    (root / "dataset/slurp/metadata.json").write_text(json.dumps(metadata))
    return root


def read(root, task="intent", **options):
    corpus = Slurp()
    return corpus.read(root, task, corpus.options(options))


def ids(reading, split):
    return sorted(reading.splits[split].utterances)


def test_intent_is_scenario_and_action_never_the_field(slurp):
    reading = read(slurp)
    dev, train = reading.splits["dev"].utterances, reading.splits["train"].utterances
    assert dev["audio-1501756826"].labels == {"intent": "alarm_set"}
    assert train["audio-1490182015"].labels == {"intent": "play_music"}
    labels = {tuple(split.labels) for split in reading.splits.values()}
    assert labels == {("alarm_set", "calendar_query", "email_query", "play_music")}


def test_fillers_are_lower_cased_token_surfaces(slurp):
    frame = read(slurp, "slu").splits["test"].utterances["audio-1497872916-headset"].labels["slu"]
    assert frame == ('{"scenario":"calendar","action":"query","entities":[{"type":"person","filler":"jessica \'s"},'
                     '{"type":"event_name","filler":"party"},{"type":"date","filler":"friday"}]}')


def test_file_names_keep_their_second_dash_and_sentences_their_spelling(slurp):
    reading = read(slurp)
    assert ids(reading, "dev") == ["audio--1504194842-headset", "audio--1504198573-headset", "audio-1501151379",
                                   "audio-1501151379-headset", "audio-1501756826"]
    assert reading.splits["test"].utterances["audio-1497872916-headset"].text == "when is jessica's party on friday"


def test_speakers_are_those_of_metadata(slurp):
    reading = read(slurp, train="train,train_synthetic")
    speakers = {id: found.speaker for split in reading.splits.values() for id, found in split.utterances.items()}
    assert speakers["audio-1501756826"] == "FE-141" and speakers["audio--1504194842-headset"] == "UNK-323"
    assert speakers["audio-1700000001"] == "synthetic" and speakers["audio-1490182015"] == "unknown"


@pytest.mark.parametrize("which, expected", [
    ("best", ["audio--1504198573-headset", "audio-1501151379"]),  # 0.0 twice: the headset's; a WER above 1 is no error
    ("headset", ["audio--1504194842-headset", "audio--1504198573-headset", "audio-1501151379-headset"])])
def test_recordings_can_be_chosen(slurp, which, expected):
    assert ids(read(slurp, recordings=which), "dev") == expected


def test_unknown_wer_is_never_the_best(slurp):
    prompt = {**MUSIC, "recordings": [take("audio-1.flac", None), take("audio-2.flac", 0.9)]}
    (slurp / "dataset/slurp/train.jsonl").write_text(json.dumps(prompt))
    assert ids(read(slurp, recordings="best"), "train") == ["audio-2"]


def test_what_the_test_has_is_not_trained_on(slurp):
    reading = read(slurp)
    assert ids(reading, "train") == ["audio-1490182015"]
    assert reading.skipped == {"recording that dev or test has": 1}


def test_real_and_synthetic(slurp):
    train = read(slurp, train="train_synthetic").splits["train"].utterances
    assert {id: utterance.audio for id, utterance in train.items()} == {
        "audio-1700000001": str(slurp / "audio/slurp_synth/audio-1700000001.flac")}


def test_what_is_wrong_is_named(slurp):
    path = slurp / "dataset/slurp/test.jsonl"
    path.write_text(f"{json.dumps(PARTY)}\n" + json.dumps({**PARTY, "entities": [{"span": [7], "type": "date"}]}))
    with pytest.raises(SpeechMergeError, match=r"test.jsonl:2: entity date spans \[7\], found 7 tokens"):
        read(slurp)
    path.write_text('{"slurp_id": 1}')
    with pytest.raises(SpeechMergeError, match=r"test.jsonl:1: no 'sentence'"):
        read(slurp)
    (slurp / "dataset/slurp/metadata.json").unlink()
    with pytest.raises(SpeechMergeError, match="metadata.json: not there"):
        read(slurp)
    with pytest.raises(UsageError, match="recordings=bset; did you mean 'best'"):
        Slurp().options({"recordings": "bset"})


def test_an_incomplete_corpus_is_an_error(slurp, tmp_path):
    with pytest.raises(SpeechMergeError, match="dev: found 5, expected 8690; test: found 1, expected 13078"):
        Slurp().prepare(tmp_path / "data", corpus_dir=slurp)
    (slurp / "audio/slurp_real/audio-1501151379.flac").write_bytes(b"")
    with pytest.raises(SpeechMergeError, match="0 are missing and 1 empty, the first is .*audio-1501151379.flac"):
        Slurp().prepare(tmp_path / "data", corpus_dir=slurp)


def test_counts_of_the_release():
    """Prompts and recordings of devel and test; those of the training sets are not known."""
    corpus = Slurp()
    for which, counts in (("all", (8690, 13078)), ("best", (2033, 2974)), ("headset", (4173, 6281))):
        assert corpus.expected("slu", corpus.options({"recordings": which})) == dict(zip(("dev", "test"), counts))


def test_what_is_fetched():
    corpus = Slurp()
    made = [archive.makes for archive in corpus.archives(corpus.options({}))]
    assert made == ["dataset/slurp/test.jsonl", "dataset/slurp/devel.jsonl", "dataset/slurp/train.jsonl",
                    "dataset/slurp/metadata.json", "audio/slurp_real"]
    assert "audio/slurp_synth" in [a.makes for a in corpus.archives(corpus.options({"train": "train_synthetic"}))]


@pytest.fixture(scope="module")
def slurp_twin(tmp_path_factory):
    root = tmp_path_factory.mktemp("slurp_twin")
    made = Slurp().prepare(root / "data", corpus_dir=root / "corpus", mini=True, tasks="intent,slu")
    return root, made


def test_twin_goes_through_prepare_format_and_validate(slurp_twin):
    root, made = slurp_twin
    assert [path.relative_to(root / "data").as_posix() for path in made] == [
        f"{task}/{split}" for task in ("intent", "slu") for split in ("test", "dev", "train")]
    for path in made:
        assert format_dir(path)["dropped"] == {"too short": 0, "too long": 0, "unusable audio": 0}
        assert not validate(path)
    durations = [utterance.duration for path in made for utterance in DataDir.read(path).utterances.values()]
    assert 0.5 < min(durations) and max(durations) <= 3.9


def test_twin_has_what_is_awkward(slurp_twin):
    root, _ = slurp_twin
    files = {name: root / "corpus/dataset/slurp" / f"{name}.jsonl" for name in twin.PROMPTS}
    prompts = {name: [json.loads(line) for line in file.read_text().splitlines()] for name, file in files.items()}
    everything = sum(prompts.values(), [])
    assert any(prompt["intent"] != f"{prompt['scenario']}_{prompt['action']}" for prompt in everything)
    assert any(take["file"].startswith("audio--") for prompt in everything for take in prompt["recordings"])
    assert {type(take["ent_wer"]) for prompt in everything for take in prompt["recordings"]} == {float, type(None)}
    assert any(token["surface"] == "'s" for prompt in everything for token in prompt["tokens"])
    assert any(token["surface"][0].isupper() for prompt in prompts["test"] for token in prompt["tokens"])
    data = {split: DataDir.read(root / "data/intent" / split) for split in ("train", "dev", "test")}
    intents = {split: {u.labels["intent"] for u in found.utterances.values()} for split, found in data.items()}
    only = intents["test"] - intents["train"]
    assert only == set(TEST_ONLY["en"]) and only < set(data["train"].labels)
    texts = [{u.text for u in found.utterances.values()} for found in data.values()]
    assert len(set().union(*texts)) == sum(map(len, texts))  # no sentence is in two splits


def test_twin_counts_follow_the_options(slurp_twin, tmp_path):
    root, _ = slurp_twin
    for options in ({"recordings": "best"}, {"recordings": "headset"}, {"train": ("train", "train_synthetic")},
                    {"train": ("train_synthetic",)}):  # the frame compares the counts
        Slurp().prepare(tmp_path / "data", corpus_dir=root / "corpus", mini=True, **options)


def tree(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("corpus", [Slurp, SpeechMassive])
def test_twins_are_the_same_each_time(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(twin, "PROMPTS", {"train": 6, "train_synthetic": 3, "devel": 3, "test": 3})
    monkeypatch.setattr(massive_twin, "ROWS", {"train": 6, "train_115": 3, "validation": 3, "test": 3})
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        corpus().write_twin(tmp_path / name, seed, 1)
    assert tree(tmp_path / "a") == tree(tmp_path / "b") != tree(tmp_path / "c")


# --- Speech-MASSIVE ---

ROW = {"id": "1", "locale": "fr-FR", "utt": "réveille moi à neuf heures vendredi",
       "annot_utt": "réveille moi à [time : neuf heures] [date : vendredi]",
       "labels": ["Other", "Other", "Other", "time", "time", "date"],
       "intent_str": "iot_hue_lightchange", "recorder_id": "60", "worker_id": "8", "validator_id": "9"}


def test_labels_of_tokens_become_entities():
    utterance = SpeechMassive().from_row(ROW, "train", "slu", SpeechMassive.Options("fr-FR"))
    assert json.loads(utterance.labels["slu"]) == {"scenario": "iot", "action": "hue_lightchange", "entities": [
        {"type": "time", "filler": "neuf heures"}, {"type": "date", "filler": "vendredi"}]}
    assert (utterance.id, utterance.language, utterance.speaker) == ("fr-FR-1", "fr", "60")
    assert SpeechMassive().from_row(ROW, "train", "intent", None).labels == {"intent": "iot_hue_lightchange"}


def test_neighbours_with_one_label_are_one_entity_and_others_are_not():
    labels = ["date", "date", "Other", "date", "time", "Other"]
    assert massive.entities_of({**ROW, "labels": labels}) == [
        {"type": "date", "filler": "réveille moi"}, {"type": "date", "filler": "neuf"},
        {"type": "time", "filler": "heures"}]


def test_tokens_and_labels_must_agree():
    assert massive.entities_of({**ROW, "utt": "réveille-moi à neuf heures vendredi"}) == [
        {"type": "time", "filler": "neuf heures"}, {"type": "date", "filler": "vendredi"}]
    with pytest.raises(SpeechMergeError, match="fr-FR id 1: 6 tokens .* but 2 labels"):
        massive.entities_of({**ROW, "labels": ["Other", "time"]})


def test_locales_and_their_training_sets():
    corpus = SpeechMassive()
    assert corpus.expected("slu", corpus.options({"locale": "fr-FR"})) == {"train": 11514, "dev": 2033, "test": 2974}
    assert corpus.expected("slu", corpus.options({"locale": "es-ES", "train": "train_115"}))["train"] == 115
    with pytest.raises(UsageError, match="es-ES has no whole training set, only de-DE and fr-FR have; .*train_115"):
        corpus.options({"locale": "es-ES"})
    with pytest.raises(UsageError, match="no locale 'it-IT'"):
        corpus.options({"locale": "it-IT"})
    hub = corpus.hub("slu", corpus.options({"locale": "fr-FR"}))
    assert hub.id == "FBK-MT/Speech-MASSIVE" and hub.parts["train"][0].id is None
    assert hub.parts["test"][0].id == "FBK-MT/Speech-MASSIVE-test"


def test_sixty_intents_of_eighteen_scenarios():
    assert len(set(massive.INTENTS)) == len(massive.INTENTS) == 60 and massive.INTENTS == sorted(massive.INTENTS)
    assert len({intent.partition("_")[0] for intent in massive.INTENTS}) == 18
    assert "audio_volume_other" in massive.INTENTS
    own = {*COMMANDS["en"], *TEST_ONLY["en"], *COMMANDS["de"]}
    assert own <= set(massive.INTENTS)  # the miniatures' labels are the corpora's


def test_without_a_copy_the_error_says_how_to_get_one(tmp_path):
    with pytest.raises(SpeechMergeError, match="speech_massive is not there .*--source hf.*hf download"):
        SpeechMassive().prepare(tmp_path / "data", corpus_dir=tmp_path / "none")
    (tmp_path / "some/Speech-MASSIVE").mkdir(parents=True)
    with pytest.raises(SpeechMergeError, match=r"no train-\*.parquet"):
        SpeechMassive().prepare(tmp_path / "data", corpus_dir=tmp_path / "some")


@pytest.fixture(scope="module")
def massive_twin_root(tmp_path_factory):
    pytest.importorskip("pyarrow")
    root = tmp_path_factory.mktemp("massive")
    SpeechMassive().prepare(root / "data", corpus_dir=root / "corpus", mini=True, tasks="slu,intent")
    return root


def test_damaged_parquet_is_named(massive_twin_root, tmp_path):
    file = tmp_path / "train-00000-of-00001.parquet"
    whole = (massive_twin_root / "corpus/Speech-MASSIVE/de-DE/train_115-00000-of-00001.parquet").read_bytes()
    file.write_bytes(whole[:-100])
    with pytest.raises(SpeechMergeError, match="train-00000-of-00001.parquet: cannot be read"):
        list(massive.read_rows(tmp_path, "train"))
    file.write_bytes(whole)
    assert len(list(massive.read_rows(tmp_path, "train"))) == massive_twin.ROWS["train_115"]


def test_massive_twin_goes_through_prepare_format_and_validate(massive_twin_root):
    for task, split, count in (("slu", "train", 216), ("intent", "dev", 30), ("intent", "test", 48)):
        path = massive_twin_root / "data" / task / split
        format_dir(path)
        assert not validate(path) and len(DataDir.read(path).utterances) == count


def test_the_hub_gives_what_the_files_give(massive_twin_root, tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    corpus = massive_twin_root / "corpus"
    SpeechMassive().prepare(tmp_path / "data", source="hf", tasks="slu", streaming=True, allow_incomplete=True,
                            train="train_115", hub_id=str(corpus / "Speech-MASSIVE"),
                            test_id=str(corpus / "Speech-MASSIVE-test"))
    for split, count in (("train", 24), ("dev", 30), ("test", 48)):
        found = DataDir.read(tmp_path / "data/slu" / split).utterances
        assert len(found) == count
        if split != "train":
            files = DataDir.read(massive_twin_root / "data/slu" / split).utterances
            assert {id: (u.text, u.speaker, u.labels) for id, u in found.items()} == {
                id: (u.text, u.speaker, u.labels) for id, u in files.items()}


# --- transcripts alone ---

def test_without_audio_a_prompt_is_an_utterance(slurp, tmp_path):
    """No audio and no metadata.json is needed; of prompts in two splits the held-out one is kept."""
    shutil.rmtree(slurp / "audio")
    (slurp / "dataset/slurp/metadata.json").unlink()
    again = {**PARTY, "slurp_id": 77}  # all its recordings are the test's
    (slurp / "dataset/slurp/train.jsonl").write_text("".join(f"{json.dumps(p)}\n" for p in (MUSIC, again)))
    Slurp().prepare(tmp_path / "data", corpus_dir=slurp, tasks=["slu"], audio="none", download=False,
                    train="train,train_synthetic", allow_incomplete=True)
    found = {split: DataDir.read(tmp_path / "data/slu" / split) for split in ("train", "dev", "test")}
    assert {split: sorted(data.utterances) for split, data in found.items()} == {
        "train": ["12"], "dev": ["16421", "4318"], "test": ["9054"]}
    utterance = found["dev"].utterances["4318"]
    assert (utterance.text, utterance.audio, utterance.labels["slurp_id"]) == ("wake me up at ten", "-", "4318")
    assert validate(tmp_path / "data/slu/dev") == [] and len(found["dev"].fingerprint()) == 64
    assert format_dir(tmp_path / "data/slu/dev")["utterances"] == 2 and validate(tmp_path / "data/slu/dev") == []
    with pytest.raises(SpeechMergeError, match="wav.scp:16421: has no audio, only a transcript; give --inputs text"):
        get_task("slu").examples(found["dev"])
    example, _ = get_task("slu").configure(inputs="text").examples(found["dev"])[::-1]
    assert example.audio == () and example.prompt.endswith("\nTranscript: wake me up at ten")


def test_what_may_not_be_fetched_is_named(slurp):
    (slurp / "dataset/slurp/test.jsonl").unlink()
    with pytest.raises(SpeechMergeError, match="dataset/slurp/test.jsonl: not there, .*download=false; copy it from https"):
        Slurp().prepare(slurp, corpus_dir=slurp, download=False)
