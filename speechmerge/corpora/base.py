"""What a corpus is, and the registry of all corpora.

    from speechmerge.corpora import CORPORA
    CORPORA.get("mini")().prepare(output_dir="data", seed=1, nj=2, tasks=["kws", "asr"])

A new corpus is one module (or package) of `speechmerge.corpora` with a class under `@CORPORA.register("name")`, or a
file of one's own with such a class: `find_corpus("local/corpus.py")`.
"""
import importlib.util
from pathlib import Path
from typing import Protocol

from speechmerge.errors import UsageError
from speechmerge.registry import Registry

CORPORA = Registry("corpus", package="speechmerge.corpora")


class Corpus(Protocol):
    """From the corpus as published, or from nothing, to `output_dir/<task>/<split>` data directories."""

    tasks: tuple[str, ...]  # what it can write

    def prepare(self, output_dir, **options) -> list[Path]:
        """Write the data directories and return them.

        Can be killed and run again; raises SpeechMergeError for what the user can mend.
        """


def find_corpus(name: str):
    """The class registered under `name`, or by the Python file of that path. UsageError where there is none."""
    if not str(name).endswith(".py"):
        return CORPORA.get(name)
    path = Path(name)
    if not path.is_file():
        raise UsageError(f"corpus {name}: there is no such file")
    known = set(CORPORA.names())
    spec = importlib.util.spec_from_file_location(path.stem, path)
    try:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    except (ImportError, SyntaxError, NameError, ValueError) as error:  # ValueError: a name that is taken
        raise UsageError(f"corpus {name}: cannot be loaded ({type(error).__name__}: {error})") from error
    own = [entry for entry in CORPORA.names() if entry not in known]
    if len(own) != 1:
        raise UsageError(f"corpus {name}: expected one class under @CORPORA.register(\"<a name of its own>\"), found "
                         f"{', '.join(own) or 'none'}")
    corpus = CORPORA.get(own[0])
    corpus.registered = own[0]
    return corpus
