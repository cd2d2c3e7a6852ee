"""Hindi, Punjabi and Telugu from AI4Bharat's corpora and Common Voice, Italian from MLS and Common Voice.

    speechmerge prepare --corpus ai4bharat --corpus-dir /corpora --languages hi pa te it
    speechmerge prepare --corpus ai4bharat --languages hi --param sources=kathbath kathbath_dir=/data/kathbath
    speechmerge prepare --corpus ai4bharat --param splits=speaker text=plain

Each source lies as published in a folder of its name below --corpus-dir, or where `<source>_dir` says. Written are
data/<language>/{train,dev,test} of all sources together, with the table utt2corpus, by which `format --mix
kathbath=0.8,common_voice=0.2` mixes; speakers and utterances have ids that are unique across sources.
"""
import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path

from speechmerge.corpora.ai4bharat import hub, indicvoices, kathbath, twin
from speechmerge.corpora.ai4bharat.sources import SOURCES, sources_of
from speechmerge.corpora.ai4bharat.splits import MAIN, by_speaker, keep_groups_apart, shared_speakers
from speechmerge.corpora.base import CORPORA
from speechmerge.corpora.common_voice_asr import TEXT
from speechmerge.corpora.common_voice_asr import TRAIN as COMMON_VOICE_TRAIN
from speechmerge.corpora.gather import Gathered, in_script, plain
from speechmerge.corpora.mls import HUB_SPLITS as MLS_SUBSETS
from speechmerge.corpora.mls import SIZES as MLS_SIZES
from speechmerge.corpora.published import PublishedCorpus, Reading, Request, Split
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.registry import nearest

log = logging.getLogger(__name__)
LANGUAGES = ("hi", "pa", "te", "it")
CHOICES = {"splits": ("published", "speaker"), "text": TEXT, "other_script": ("keep", "skip"),
           "indicvoices_text": indicvoices.TEXTS, "latin": indicvoices.LATIN,
           "common_voice_train": COMMON_VOICE_TRAIN, "mls_subset": tuple(MLS_SUBSETS)}
LISTS = {"languages": LANGUAGES, "sources": tuple(SOURCES), "kathbath_sets": tuple(kathbath.SETS)}


@CORPORA.register("ai4bharat")
class AI4Bharat(PublishedCorpus):
    """Kathbath, IndicVoices, Shrutilipi, Common Voice and MLS: recognition of hi, pa, te and it, sources mixed"""

    tasks = ("asr",)
    licence = "; ".join(f"{name}: {source.licence}" for name, source in SOURCES.items())
    homepage = "https://github.com/AI4Bharat"
    layout = "<source>/<as published>, sources " + ", ".join(SOURCES)
    obtain = "Each source has its own terms: see egs/ai4bharat/README.md for what to obtain and where to put it."

    @dataclass(frozen=True)
    class Options:
        """Which sources and languages, how they are split, and what each source is asked for.

        splits: `published`, or `speaker`: no speaker of dev or test in train, sets of dev_share and test_share of each
        source. text: `published`, or `plain`, lower case without punctuation. other_script: what becomes of a line that
        is not in the language's script. latin: of Latin letters in IndicVoices. test_by_source: also test_<source>.
        """

        sources: tuple[str, ...] = tuple(SOURCES)
        languages: tuple[str, ...] = LANGUAGES
        splits: str = "published"
        split_seed: int = 0
        dev_share: float = 0.05
        test_share: float = 0.1
        test_by_source: bool = False
        text: str = "published"
        other_script: str = "keep"
        kathbath_sets: tuple[str, ...] = ("train", "dev", "test", "test_known")
        indicvoices_text: str = "normalized"
        latin: str = "keep"
        common_voice_train: str = "train"
        mls_subset: str = "all"
        kathbath_dir: str = ""
        indicvoices_dir: str = ""
        shrutilipi_dir: str = ""
        common_voice_dir: str = ""
        mls_dir: str = ""

        def __post_init__(self):
            chosen = {name: (getattr(self, name),) for name in CHOICES} | {name: getattr(self, name) for name in LISTS}
            for name, known in (CHOICES | LISTS).items():
                for value in chosen[name]:
                    if value not in known:
                        raise UsageError(f"ai4bharat: {name} {value!r}; {nearest(value, known)}")
            for language in self.languages:
                if not sources_of(self, language):
                    raise UsageError(f"ai4bharat: none of the sources {', '.join(self.sources)} has {language!r}")
            if not (0 < self.dev_share and 0 < self.test_share and self.dev_share + self.test_share < 1):
                raise UsageError(f"ai4bharat: dev_share {self.dev_share:g} and test_share {self.test_share:g}, "
                                 "expected both above 0 and their sum below 1")

        def folder(self, root: Path, source: str) -> Path:
            return Path(getattr(self, f"{source}_dir") or root / source)

    def present(self, root: Path, options) -> bool:
        return super().present(root, options) or any(getattr(options, f"{source}_dir") for source in options.sources)

    def read(self, root: Path, task: str, options) -> Reading:
        reading = Reading({})
        for language in options.languages:
            for source in sources_of(options, language):
                folder = options.folder(root, source)
                if not folder.is_dir():
                    raise SpeechMergeError(f"{folder}: {source} is not there, expected {SOURCES[source].layout}. "
                                           f"{SOURCES[source].obtain} Or leave it out: "
                                           f"--param sources={others(options, source)}")
                self.take(SOURCES[source].read(folder, language, options), options, reading)
        return self.whole(reading, options)

    def take(self, found: Gathered, options, reading: Reading):
        """One source in one language into the whole: its splits, its text, what is to be known of it."""
        if options.splits == "speaker":
            by_speaker(found, options.dev_share, options.test_share, options.split_seed)
        else:
            keep_groups_apart(found)
            found.remarks["speakers of train also in dev or test (splits=speaker keeps them apart)"] += sorted(
                shared_speakers(found.splits))
        for split, utterances in found.splits.items():
            target = reading.splits.setdefault(split, Split({})).utterances
            for utterance in utterances.values():
                self.take_utterance(target, utterance, found, options)
        found.report()
        reading.skipped += found.skipped

    @staticmethod
    def take_utterance(target: dict, utterance, found: Gathered, options):
        if not in_script(utterance.text, found.language):
            found.remarks[f"lines in another script (other_script={options.other_script})"].append(utterance.id)
            if options.other_script == "skip":
                return found.skip("in another script")
        text = plain(utterance.text) if options.text == "plain" else utterance.text
        if text:
            target[utterance.id] = dataclasses.replace(utterance, text=text)
        else:
            found.skip("nothing but punctuation")

    def whole(self, reading: Reading, options) -> Reading:
        """Every language needs train, dev and test. With test_by_source, a source's part of test is also a split."""
        for language in options.languages:
            for split in MAIN:
                own = reading.splits.get(split, Split({})).utterances.values()
                if not any(utterance.language == language for utterance in own):
                    sources = ", ".join(sources_of(options, language))
                    raise SpeechMergeError(f"ai4bharat {language}: nothing for {split} in {sources}; give a source "
                                           "that has it, or --param splits=speaker")
        if options.test_by_source:
            for id, utterance in reading.splits["test"].utterances.items():
                reading.splits.setdefault(f"test_{utterance.labels['corpus']}", Split({})).utterances[id] = utterance
        return reading

    def expected(self, task, options) -> dict[str, int]:
        """Known where MLS is all there is; the others' publishers give hours, not counts."""
        only_mls = all(sources_of(options, language) == ["mls"] for language in options.languages)
        if options.splits != "published" or not only_mls:
            return {}
        return {split: MLS_SIZES["it"][options.mls_subset if split == "train" else split] for split in MAIN}

    def set_of(self, task, utterance) -> str:
        return utterance.language

    def prepare(self, output_dir, corpus_dir=None, mini: bool = False, source: str = "files", tasks=None, seed: int = 0,
                nj: int = 2, allow_incomplete: bool = False, hub_id: str | None = None, revision: str | None = None,
                streaming: bool = False, **options) -> list[Path]:
        """As in PublishedCorpus; with source=hf each source comes from its own repository."""
        if source != "hf" or mini:
            return super().prepare(output_dir, corpus_dir, mini, source, tasks, seed, nj, allow_incomplete, hub_id,
                                   revision, streaming, **options)
        options = self.options(options)
        self.chosen_tasks(tasks)
        reading = Reading({})
        for found in hub.read_sources(options, Path(output_dir), hub_id, revision, streaming):
            self.take(found, options, reading)
        reading = self.whole(reading, options)
        request = Request(Path(output_dir), seed, nj, mini, source, allow_incomplete)
        self.check_counts("asr", reading, options, request)
        return self.write(Path(output_dir), "asr", reading, options)

    def twin_expected(self, task, options) -> dict[str, int]:
        return twin.expected(options)

    def write_twin(self, root: Path, seed: int, nj: int):
        twin.write(root, seed, nj)


def others(options, source: str) -> str:
    return ",".join(name for name in options.sources if name != source) or "<another>"
