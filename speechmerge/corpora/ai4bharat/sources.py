"""The sources of the mixture: which languages each has, where it lies, how it is read."""
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from speechmerge.corpora import common_voice_asr, mls
from speechmerge.corpora.ai4bharat import indicvoices, kathbath, shrutilipi
from speechmerge.corpora.gather import Gathered
from speechmerge.corpora.published import Hub


@dataclass(frozen=True)
class Source:
    """`read(root, language, options)`; `hub(language, options)`; `from_row(row, number, language, options)`."""

    languages: tuple[str, ...]  # Whisper codes
    layout: str
    obtain: str
    licence: str
    read: Callable[[Path, str, object], Gathered]
    hub: Callable[[str, object], Hub]
    from_row: Callable


def indian(module, licence: str) -> Source:
    return Source(tuple(module.LANGUAGES), module.LAYOUT, module.OBTAIN, licence, module.read_language,
                  lambda language, options: module.hub(language), module.from_row)


SOURCES = {
    "kathbath": indian(kathbath, "CC0 (GitHub), MIT or CC BY 4.0 (two cards on Hugging Face)"),
    "indicvoices": indian(indicvoices, "CC BY 4.0, on request"),
    "shrutilipi": indian(shrutilipi, "CC BY 4.0"),
    "common_voice": Source(
        ("hi", "pa", "te", "it"), common_voice_asr.CommonVoice.layout, common_voice_asr.OBTAIN, "CC0",
        lambda root, language, options: common_voice_asr.read_language(root, language, options.common_voice_train),
        lambda language, options: common_voice_asr.hub(language),
        lambda row, number, language, options: common_voice_asr.from_row(row, language)),
    "mls": Source(
        ("it",), mls.MLS.layout, "Fetch it with `speechmerge prepare --corpus mls --corpus-dir <that folder>`.",
        "CC BY 4.0",
        lambda root, language, options: mls.read_language(root, language, options.mls_subset),
        lambda language, options: mls.hub(language, options.mls_subset),
        lambda row, number, language, options: mls.from_row(row, language)),
}


def sources_of(options, language: str) -> list[str]:
    """Those of `options.sources` that have the language."""
    return [name for name in options.sources if language in SOURCES[name].languages]
