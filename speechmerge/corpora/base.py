"""What a corpus is, and the registry of all corpora.

    from speechmerge.corpora import CORPORA
    CORPORA.get("mini")().prepare(output_dir="data", seed=1, nj=2, tasks=["kws", "asr"])

A new corpus is one module (or package) of `speechmerge.corpora` with a class under `@CORPORA.register("name")`.
"""
from pathlib import Path
from typing import Protocol

from speechmerge.registry import Registry

CORPORA = Registry("corpus", package="speechmerge.corpora")


class Corpus(Protocol):
    """From the corpus as published, or from nothing, to `output_dir/<task>/<split>` data directories."""

    tasks: tuple[str, ...]  # what it can write

    def prepare(self, output_dir, **options) -> list[Path]:
        """Write the data directories and return them.

        Can be killed and run again; raises SpeechMergeError for what the user can mend.
        """
