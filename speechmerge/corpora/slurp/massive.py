"""Speech-MASSIVE: SLURP's commands in twelve other languages, read by crowd workers (CC BY-NC-SA 4.0).

    speechmerge prepare --corpus speech_massive --tasks intent slu --param source=hf locale=fr-FR
    speechmerge prepare --corpus speech_massive --corpus-dir /corpora/massive --param locale=es-ES train=train_115

The test set is a repository of its own on Hugging Face, and only de-DE and fr-FR have the whole training set; the other
languages have 115 utterances to train on. Without source=hf, copies of both repositories lie below --corpus-dir:
`Speech-MASSIVE/<locale>/{train,train_115,validation}-*.parquet` and `Speech-MASSIVE-test/<locale>/test-*.parquet`.
Entities are neighbouring tokens with the same label, as the publisher's scorer has them.
"""
import re
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from speechmerge.corpora.base import CORPORA
from speechmerge.corpora.hub import write_audio
from speechmerge.corpora.published import Hub, Part, PublishedCorpus, Reading, Split
from speechmerge.corpora.slurp.frames import TASKS, label
from speechmerge.data.directory import Utterance
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.registry import nearest

LOCALES = ("ar-SA", "de-DE", "es-ES", "fr-FR", "hu-HU", "ko-KR", "nl-NL", "pl-PL", "pt-PT", "ru-RU", "tr-TR", "vi-VN")
WHOLE = ("de-DE", "fr-FR")  # with the whole training set
TRAIN = {"train": 11514, "train_115": 115}
EXPECTED = {"dev": 2033, "test": 2974}
TEST_ID = "FBK-MT/Speech-MASSIVE-test"
OUTSIDE = "Other"  # the label of tokens that belong to no entity
MARKED = re.compile(r"\[\w+ : ([^\]]*)\]")
ROWS = 32  # read at once, audio included
INTENTS = (
    "alarm_query alarm_remove alarm_set audio_volume_down audio_volume_mute audio_volume_other audio_volume_up "
    "calendar_query calendar_remove calendar_set cooking_query cooking_recipe datetime_convert datetime_query "
    "email_addcontact email_query email_querycontact email_sendemail general_greet general_joke general_quirky "
    "iot_cleaning iot_coffee iot_hue_lightchange iot_hue_lightdim iot_hue_lightoff iot_hue_lighton iot_hue_lightup "
    "iot_wemo_off iot_wemo_on lists_createoradd lists_query lists_remove music_dislikeness music_likeness music_query "
    "music_settings news_query play_audiobook play_game play_music play_podcasts play_radio qa_currency qa_definition "
    "qa_factoid qa_maths qa_stock recommendation_events recommendation_locations recommendation_movies social_post "
    "social_query takeaway_order takeaway_query transport_query transport_taxi transport_ticket transport_traffic "
    "weather_query"
).split()


@CORPORA.register("speech_massive")
class SpeechMassive(PublishedCorpus):
    """Speech-MASSIVE: commands to an assistant in 12 languages, as SLURP's (FBK-MT/Speech-MASSIVE, CC BY-NC-SA 4.0)"""

    registered = "speech_massive"
    tasks = TASKS
    licence = "CC BY-NC-SA 4.0"
    homepage = "https://huggingface.co/datasets/FBK-MT/Speech-MASSIVE"
    layout = "Speech-MASSIVE/<locale>/*.parquet and Speech-MASSIVE-test/<locale>/*.parquet"
    obtain = ("Read it from Hugging Face with --source hf, or copy both repositories: hf download FBK-MT/Speech-MASSIVE"
              " --repo-type dataset --include '<locale>/*' --local-dir <corpus-dir>/Speech-MASSIVE; the same for "
              f"{TEST_ID} to <corpus-dir>/Speech-MASSIVE-test.")

    @dataclass(frozen=True)
    class Options:
        """train: `train`, or `train_115` (all locales have it). test_id: the test set's repository, or a copy of it."""

        locale: str = "de-DE"
        train: str = "train"
        test_id: str = TEST_ID

        def __post_init__(self):
            if self.locale not in LOCALES:
                raise UsageError(f"speech_massive: no locale {self.locale!r}; {nearest(self.locale, LOCALES)}")
            if self.train not in TRAIN:
                raise UsageError(f"speech_massive: train={self.train}; {nearest(self.train, TRAIN)}")
            if self.train == "train" and self.locale not in WHOLE:
                raise UsageError(f"speech_massive: {self.locale} has no whole training set, only {' and '.join(WHOLE)} "
                                 "have; give --param train=train_115")

        def sources(self) -> dict[str, tuple[str, str]]:
            """Our split -> (folder of the repository, the publisher's split)."""
            return {"train": ("Speech-MASSIVE", self.train), "dev": ("Speech-MASSIVE", "validation"),
                    "test": ("Speech-MASSIVE-test", "test")}

    def expected(self, task, options) -> dict[str, int]:
        return {**EXPECTED, "train": TRAIN[options.train]}

    def labels_of(self, task, options) -> list[str] | None:
        return list(INTENTS) if task == "intent" else None

    def hub(self, task, options) -> Hub:
        ids = {"Speech-MASSIVE": None, "Speech-MASSIVE-test": options.test_id}
        return Hub("FBK-MT/Speech-MASSIVE", {split: [Part(options.locale, name, ids[folder])]
                                             for split, (folder, name) in options.sources().items()})

    def from_row(self, row, split, task, options) -> Utterance:
        scenario, _, action = row["intent_str"].partition("_")
        labels = label(task, scenario, action, entities_of(row))
        id, text = f"{row['locale']}-{row['id']}", " ".join(row["utt"].split())
        return Utterance(id, "", text, str(row["recorder_id"]), row["locale"].split("-")[0], None, labels)

    def read(self, root: Path, task: str, options) -> Reading:
        """Audio of the rows is written below `root`/audio, what is there is kept."""
        splits = {}
        for split, (folder, name) in options.sources().items():
            utterances = {}
            for row in read_rows(root / folder / options.locale, name):
                utterance = self.from_row(row, split, task, options)
                if utterance.id in utterances:
                    raise SpeechMergeError(f"{root / folder / options.locale}: id {row['id']} occurs twice in {name}")
                audio = write_audio(row["audio"], root / "audio" / options.locale / name, utterance.id)
                utterances[utterance.id] = replace(utterance, audio=str(audio))
            splits[split] = Split(utterances)
        return Reading(splits)

    def twin_expected(self, task, options) -> dict[str, int]:
        from speechmerge.corpora.slurp.massive_twin import ROWS

        return {split: ROWS[name] for split, (_, name) in options.sources().items()}

    def write_twin(self, root: Path, seed: int, nj: int):
        from speechmerge.corpora.slurp.massive_twin import write_twin

        write_twin(root, seed, nj)


def read_rows(folder: Path, split: str):
    """The rows of a split's parquet files in their order. SpeechMergeError where there are none or they are damaged."""
    arrow = pyarrow()
    files = sorted(folder.glob(f"{split}-*.parquet"))
    if not files:
        raise SpeechMergeError(f"{folder}: no {split}-*.parquet. {SpeechMassive.obtain}")
    for file in files:
        try:
            batches = arrow.parquet.ParquetFile(file).iter_batches(ROWS)
            for batch in tqdm(batches, file.name, unit=f"x{ROWS}", disable=None):
                yield from batch.to_pylist()
        except (arrow.ArrowException, OSError) as error:
            raise SpeechMergeError(f"{file}: cannot be read ({str(error).splitlines()[0]}); fetch it again") from error


def pyarrow():
    """The library that reads parquet, an optional one."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise SpeechMergeError("speech_massive: pyarrow, which reads parquet, is missing; "
                               "run: pip install 'speechmerge[hf]'") from error
    return pyarrow


def entities_of(row: dict) -> list[dict]:
    """[{type, filler}] from one label per token. SpeechMergeError where tokens and labels differ in number."""
    tokens = row["utt"].split()
    if len(tokens) != len(row["labels"]):  # the publisher counts the tokens of the annotation
        tokens = MARKED.sub(r"\1", row["annot_utt"]).split()
    if len(tokens) != len(row["labels"]):
        raise SpeechMergeError(f"speech_massive {row['locale']} id {row['id']}: {len(tokens)} tokens in "
                               f"{row['utt']!r}, but {len(row['labels'])} labels; is this the right revision?")
    entities, before = [], OUTSIDE
    for token, kind in zip(tokens, row["labels"]):
        if kind != OUTSIDE and kind == before:
            entities[-1]["filler"] += f" {token}"
        elif kind != OUTSIDE:
            entities.append({"type": kind, "filler": token})
        before = kind
    return entities
