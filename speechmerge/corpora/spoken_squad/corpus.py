"""Spoken-SQuAD: written questions about spoken paragraphs, answers are spans (Lee et al. 2018, Interspeech).

    speechmerge prepare --corpus spoken_squad --corpus-dir /corpora/Spoken-SQuAD
    speechmerge prepare --corpus spoken_squad --param variants=wer44,wer54 dev_share=0.05

Below --corpus-dir: spoken_train-v1.1.json, spoken_test-v1.1.json (SQuAD v1.1's format, `context` is what a recogniser
heard) and the sentences `wav/{train,test}/<topic>_<paragraph>_<sentence>.wav`. Written there: `paragraphs/`, one flac
per paragraph. The release has no dev set: a share of the titles of train becomes one.

The variants of the test are transcripts of noisier audio that is not published: same questions and audio, other `text`.
They keep SQuAD's written answers with `answer_start`s of another text, and a third to a half of their questions has
no answer in the context: so answers are texts here, never positions.
"""
import hashlib
import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path

from speechmerge.corpora.base import CORPORA
from speechmerge.corpora.published import PublishedCorpus, Reading, Split
from speechmerge.corpora.spoken_squad.paragraphs import find_sentences, join_all
from speechmerge.data.directory import Utterance
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.files import read_mapping
from speechmerge.registry import nearest

log = logging.getLogger(__name__)
FILES = {"train": "spoken_train-v1.1.json", "test": "spoken_test-v1.1.json",
         "test_wer44": "spoken_test-v1.1_WER44.json", "test_wer54": "spoken_test-v1.1_WER54.json"}
VARIANTS = ("wer44", "wer54")
QUESTIONS = {"train": 37111, "test": 5351}  # train: before a share of it becomes dev


@CORPORA.register("spoken_squad")
class SpokenSquad(PublishedCorpus):
    """Spoken-SQuAD: written questions about paragraphs read by a synthesiser (texts of SQuAD v1.1, CC BY-SA 4.0)"""

    tasks = ("speech_qa",)
    licence = "none stated; the texts are SQuAD v1.1's (CC BY-SA 4.0)"
    homepage = "https://github.com/Chia-Hsuan-Lee/Spoken-SQuAD"
    layout = "spoken_{train,test}-v1.1.json and wav/{train,test}/<topic>_<paragraph>_<sentence>.wav"
    obtain = ("git clone https://github.com/Chia-Hsuan-Lee/Spoken-SQuAD to that folder, fetch its audio (50 GB, "
              "http://speech.ee.ntu.edu.tw/~chiahsuan/Spoken-SQuAD/Spoken-SQuAD_audio.zip) and put the wav files of "
              "the training set below wav/train, those of the other below wav/test.")

    @dataclass(frozen=True)
    class Options:
        """dev_share: of train's titles. variants: noisy tests `wer44`, `wer54` as test_wer44, test_wer54. train_audio,
        test_audio: folders below --corpus-dir, or absolute. joined: of the paragraphs, else <corpus-dir>/paragraphs."""

        dev_share: float = 0.1
        variants: tuple[str, ...] = ()
        train_audio: str = "wav/train"
        test_audio: str = "wav/test"
        joined: str = ""

        def __post_init__(self):
            if not 0 < self.dev_share < 1:
                raise UsageError(f"spoken_squad: dev_share={self.dev_share}, expected more than 0 and less than 1")
            for variant in self.variants:
                if variant not in VARIANTS:
                    raise UsageError(f"spoken_squad: no variant {variant!r}; {nearest(variant, VARIANTS)}")

        def splits(self) -> tuple[str, ...]:
            """Of the publisher."""
            return ("train", "test", *(f"test_{variant}" for variant in self.variants))

        def audio(self, split: str) -> str:
            return self.train_audio if split == "train" else self.test_audio

    def present(self, root: Path, options) -> bool:
        return any((root / FILES[split]).is_file() for split in options.splits())

    def expected(self, task, options) -> dict[str, int]:
        return {split: QUESTIONS[split.split("_")[0]] for split in options.splits()}

    def read(self, root: Path, task: str, options) -> Reading:
        reading, folders = Reading({}), {}
        for split in options.splits():
            titles = read_document(root / FILES[split])
            check_spans(root / FILES[split], titles, strict=split == "test")
            folder = root / options.audio(split)
            sentences = folders[folder] = folders.get(folder) or find_sentences(folder)
            joined = (Path(options.joined) if options.joined else root / "paragraphs") / split.split("_")[0]
            reading.splits[split] = Split(read_split(titles, sentences, folder, joined, split, reading.skipped))
        return carve_dev(reading, options.dev_share)

    def twin_expected(self, task, options) -> dict[str, int]:
        from speechmerge.corpora.spoken_squad.twin import QUESTIONS as twin_questions

        return {split: twin_questions[split.split("_")[0]] for split in options.splits()}

    def write_twin(self, root: Path, seed: int, nj: int):
        from speechmerge.corpora.spoken_squad.twin import write_twin

        write_twin(root, seed, nj)


def read_document(path: Path) -> list[dict]:
    """The titles of a file in SQuAD v1.1's format. SpeechMergeError names what is missing."""
    document = read_mapping(path)
    try:
        for title in document["data"]:
            for paragraph in title["paragraphs"]:
                assert_texts(path, title["title"], [paragraph["context"]])
                for question in paragraph["qas"]:
                    answers = [answer["text"] for answer in question["answers"]]
                    assert_texts(path, question["id"], [question["question"], *answers])
    except (KeyError, TypeError) as error:
        raise SpeechMergeError(f"{path}: is not in the format of SQuAD v1.1 ({error!r}); fetch it again") from error
    return document["data"]


def assert_texts(path: Path, where: str, texts: list):
    if not all(isinstance(text, str) for text in texts):
        raise SpeechMergeError(f"{path}: {where}: found {texts!r:.80}, expected texts; fetch the file again")


def count_spans(titles: list[dict]) -> tuple[int, int, str | None]:
    """(answers that stand where `answer_start` says, all answers, the first question where one does not)."""
    right = total = 0
    first = None
    for title in titles:
        for paragraph in title["paragraphs"]:
            for question in paragraph["qas"]:
                for answer in question["answers"]:
                    start, total = answer.get("answer_start", -1), total + 1
                    if start >= 0 and paragraph["context"][start:start + len(answer["text"])] == answer["text"]:
                        right += 1
                    else:
                        first = first or question["id"]
    return right, total, first


def check_spans(path: Path, titles: list[dict], strict: bool):
    """All 15,875 answers of the test stand where they should; in its noisy variants 579 and 322 of 17,841 do."""
    right, total, first = count_spans(titles)
    if strict and right < total:
        raise SpeechMergeError(f"{path}: {total - right} of {total} answers are not at their answer_start (first: "
                               f"question {first}), expected none; is it a noisy variant by this name? Fetch it again")
    log.info("spoken_squad: %s: %d of %d answers stand at their answer_start", path.name, right, total)


def read_split(titles: list[dict], sentences, folder: Path, joined: Path, split: str, skipped) -> dict[str, Utterance]:
    """One utterance per question; the paragraphs that have audio are joined."""
    utterances, parts = {}, {}
    for topic, title in enumerate(titles):
        for number, paragraph in enumerate(title["paragraphs"]):
            if not paragraph["qas"]:
                skipped["paragraph without questions"] += 1
                continue
            audio = joined / f"{topic}_{number}.flac"
            spoken = sentences.get((topic, number), [folder / f"{topic}_{number}_0.wav"])
            absent = [path for path in spoken if not path.is_file() or not path.stat().st_size]
            if absent:
                audio = absent[0]  # the frame reports it
            else:
                parts[audio] = spoken
            add_questions(utterances, title["title"], paragraph, str(audio), skipped)
    join_all(parts, split)
    return utterances


def add_questions(utterances: dict, title: str, paragraph: dict, audio: str, skipped):
    text = " ".join(paragraph["context"].split())
    for question in paragraph["qas"]:
        answers = list(dict.fromkeys(" ".join(answer["text"].split()) for answer in question["answers"]))
        if not any(answers):
            skipped["question without answer"] += 1
        elif question["id"] in utterances:
            skipped["question id that occurs twice"] += 1
        else:
            labels = {"question": " ".join(question["question"].split()), "group": "_".join(title.split()),
                      "answers": json.dumps([answer for answer in answers if answer], ensure_ascii=False)}
            utterances[question["id"]] = Utterance(question["id"], audio, text, None, "en", None, labels)


def carve_dev(reading: Reading, share: float) -> Reading:
    """Whole titles of train as dev, chosen by a hash of the title: the same ones in every run and every release."""
    train = reading.splits["train"].utterances
    titles = {utterance.labels["group"] for utterance in train.values()}
    titles = sorted(titles, key=lambda title: hashlib.sha256(title.encode()).digest())
    held_out = set(titles[:math.ceil(share * len(titles))])
    parts = {True: {}, False: {}}
    for id, utterance in train.items():
        parts[utterance.labels["group"] in held_out][id] = utterance
    splits = {**reading.splits, "train": Split(parts[False]), "dev": Split(parts[True])}
    return Reading(splits, reading.skipped, counted={"train": len(train)})  # the release's training set is both
