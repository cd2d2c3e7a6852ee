"""The sources from Hugging Face, each from its own repository; rows become utterances as those of the files do."""
from pathlib import Path

from speechmerge.corpora.ai4bharat.sources import SOURCES, Source, sources_of
from speechmerge.corpora.gather import Gathered
from speechmerge.corpora.hub import Hub, read_hub
from speechmerge.data.directory import Utterance
from speechmerge.errors import UsageError


class Rows:
    """One source in one language, as `read_hub` reads a corpus."""

    def __init__(self, name: str, source: Source, language: str):
        self.name, self.source, self.language = name, source, language
        self.number = -1  # of the row; what a row says may be too little for an id

    def hub(self, task: str, options) -> Hub:
        return self.source.hub(self.language, options)

    def from_row(self, row: dict, split: str, task: str, options) -> Utterance | None:
        self.number += 1
        return self.source.from_row(row, self.number, self.language, options)


def read_sources(options, output_dir: Path, hub_id, revision, streaming: bool):
    """A Gathered of every source in every language. `hub_id` and `revision` are those of a single source."""
    if (hub_id or revision) and len(options.sources) > 1:
        raise UsageError("ai4bharat: hub_id and revision are of one repository; give one --param sources=... with them")
    if options.common_voice_train != "train":
        raise UsageError("ai4bharat: common_voice_train=validated needs the files; use source=files")
    for language in options.languages:
        for name in sources_of(options, language):
            rows = Rows(name, SOURCES[name], language)
            reading = read_hub(rows, "asr", options, output_dir, hub_id, revision, streaming)
            found = Gathered(name, language)
            found.splits = {split: own.utterances for split, own in reading.splits.items()}
            for reason, count in reading.skipped.items():
                found.skip(reason, count)
            yield found
