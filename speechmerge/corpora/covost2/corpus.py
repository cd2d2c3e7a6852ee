"""CoVoST 2: Common Voice 4 with translations, 21 languages into English and English into 15 (CC0).

    speechmerge prepare --corpus covost2 --corpus-dir /corpora/covost --param pair=it_en
    speechmerge prepare --corpus covost2 --param pair=en_zh-CN common_voice=/corpora/cv-corpus-4-2019-12-10
    speechmerge prepare --corpus covost2 --languages it_en de_en          # data/it_en, data/de_en
    speechmerge prepare --corpus covost2 --param source=hf streaming=true pair=it_en

Below --corpus-dir: `covost_v2.<pair>.tsv` (fetched) and Common Voice 4, that is
`cv-corpus-4-2019-12-10/<language>/validated.tsv` with `clips/*.mp3`. As in the publisher's script: rows are joined on
`path`, `train` is train and train_covost, dev and test are the rows of that name, tabs separate, nothing is quoted,
a backslash escapes, and `Null` is a word.
"""
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from speechmerge.corpora.base import CORPORA
from speechmerge.corpora.common_voice import language_folder, read_tsv
from speechmerge.corpora.covost2.pairs import PAIRS, ROWS, code
from speechmerge.corpora.published import Archive, Hub, Part, PublishedCorpus, Reading, Split
from speechmerge.data.directory import Utterance
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.registry import nearest

URL = "https://dl.fbaipublicfiles.com/covost"
SPLITS = {"train": "train", "train_covost": "train", "dev": "dev", "test": "test"}  # the publisher's -> ours
ESCAPE = "\\"
WITHDRAWN = re.compile(r"\bREMOVE\b")  # translators marked sentences that should not be there


@CORPORA.register("covost2")
class Covost2(PublishedCorpus):
    """CoVoST 2: speech translation, 21 languages to English, English to 15 (with Common Voice 4, CC0)"""

    tasks = ("st",)
    licence = "CC0"
    homepage = "https://github.com/facebookresearch/covost"
    layout = "covost_v2.<pair>.tsv and cv-corpus-4-2019-12-10/<language>/{validated.tsv,clips/*.mp3}"
    obtain = ("Common Voice Corpus 4 of the source language comes from https://commonvoice.mozilla.org/datasets (there "
              "is no public address): unpack it to <corpus-dir>/cv-corpus-4-2019-12-10/<language>, or name its folder "
              "with --param common_voice=DIR. Other versions do not fit.")

    @dataclass(frozen=True)
    class Options:
        """pair: `it_en`, `zh-CN_en`, `en_sv-SE` ... to data/st. languages: pairs with data directories of their own.
        common_voice: the folder of Common Voice 4, where it is not below --corpus-dir."""

        pair: str = "it_en"
        languages: tuple[str, ...] = ()
        common_voice: str = ""

        def __post_init__(self):
            for pair in self.pairs():
                if pair not in PAIRS:
                    raise UsageError(f"covost2: no pair {pair!r}; {nearest(pair, PAIRS)}")

        def pairs(self) -> tuple[str, ...]:
            return self.languages or (self.pair,)

    def archives(self, options) -> list[Archive]:
        tables = [f"covost_v2.{pair}.tsv" for pair in options.pairs()]
        return [Archive(f"{URL}/{table}.tar.gz", makes=table) for table in tables]

    def expected(self, task, options) -> dict[str, int]:
        counts = [ROWS[pair] for pair in options.pairs()]
        return {split: sum(count[place] for count in counts) for place, split in enumerate(("train", "dev", "test"))}

    def set_of(self, task, utterance) -> str:
        pair = PAIRS_BY_CODES[utterance.language, utterance.labels["target_lang"]]
        return pair if utterance.id.startswith(f"{pair}-") else task

    def read(self, root: Path, task: str, options) -> Reading:
        """Rows are counted before what cannot be used is left out: the release itself has empty clips."""
        reading = Reading({split: Split({}) for split in dict.fromkeys(SPLITS.values())}, counted=Counter())
        for pair in options.pairs():
            clips = Path(options.common_voice) if options.common_voice else root
            try:
                folder = language_folder(clips, pair.split("_")[0])
            except SpeechMergeError as error:
                raise SpeechMergeError(f"{error}. {self.obtain}") from error
            read_pair(root / f"covost_v2.{pair}.tsv", folder, pair, bool(options.languages), reading)
        return reading

    def hub(self, task, options) -> Hub:
        if len(options.pairs()) > 1:
            raise UsageError(f"covost2: from Hugging Face one pair at a time, found {', '.join(options.pairs())}")
        splits = {"train": "train", "dev": "validation", "test": "test"}
        return Hub("fixie-ai/covost2", {split: [Part(options.pairs()[0], name)] for split, name in splits.items()})

    def from_row(self, row, split, task, options) -> Utterance | None:
        name = row.get("id") or Path(row.get("file") or (row["audio"] or {}).get("path") or "").stem
        if not name:
            raise SpeechMergeError(f"covost2: a row of {split} has neither id nor file, found {', '.join(row)}")
        pair, texts = options.pairs()[0], (single(row["sentence"]), single(row["translation"]))
        if problem(texts, split):
            return None
        return make_utterance(pair, bool(options.languages), name, "", row.get("client_id"), texts)

    def twin_expected(self, task, options) -> dict[str, int]:
        from speechmerge.corpora.covost2.twin import expected

        return expected(options.pairs())

    def write_twin(self, root: Path, seed: int, nj: int):
        from speechmerge.corpora.covost2.twin import write_twin

        write_twin(root, seed, nj)


PAIRS_BY_CODES = {tuple(map(code, pair.split("_"))): pair for pair in PAIRS}


def read_pair(table: Path, folder: Path, pair: str, named: bool, reading: Reading):
    """Joins the translations with Common Voice's validated clips and adds them to the splits."""
    translations = read_translations(table, reading.skipped)
    for clip in read_tsv(folder / "validated.tsv", ("client_id", "path", "sentence"), ESCAPE):
        if clip["path"] not in translations:
            continue
        split, translation = translations.pop(clip["path"])
        reading.counted[split] += 1
        texts, audio = (single(clip["sentence"]), single(translation)), folder / "clips" / clip["path"]
        empty = audio.is_file() and not audio.stat().st_size
        reason = problem(texts, split) or ("clip without audio (0 bytes)" if empty else None)
        if reason:
            reading.skipped[reason] += 1
            continue
        utterance = make_utterance(pair, named, audio.stem, str(audio), clip["client_id"], texts)
        reading.splits[split].utterances[utterance.id] = utterance
    reading.skipped["translation of a clip that is not in validated.tsv"] += len(translations)


def read_translations(table: Path, skipped: Counter) -> dict[str, tuple[str, str]]:
    """{clip: (split, translation)}. SpeechMergeError for a clip that has two."""
    found = {}
    for row in read_tsv(table, ("path", "translation", "split"), ESCAPE):
        split = SPLITS.get(row["split"])
        if split is None:
            skipped[f"row of split {row['split']}"] += 1
        elif row["path"] in found:
            raise SpeechMergeError(f"{row.place}: {row['path']} is translated twice; fetch the file again")
        else:
            found[row["path"]] = split, row["translation"]
    return found


def problem(texts: tuple[str, str], split: str) -> str | None:
    """Why a row cannot be used. What translators marked stays in dev and test, where published scores count it."""
    if not texts[0]:
        return "empty sentence"
    if not texts[1]:
        return "empty translation"
    return "translation marked REMOVE" if split == "train" and WITHDRAWN.search(" ".join(texts)) else None


def make_utterance(pair: str, named: bool, name: str, audio: str, speaker: str | None, texts) -> Utterance:
    """`named`: the pair stands before the id, since one English clip has up to 15 translations."""
    source, target = map(code, pair.split("_"))
    id = f"{pair}-{Path(name).stem}" if named else Path(name).stem
    return Utterance(id, audio, texts[0], speaker, source, None, {"translation": texts[1], "target_lang": target})


def single(text: str) -> str:
    return " ".join(text.split())
