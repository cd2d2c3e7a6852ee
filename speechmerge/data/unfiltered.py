"""The tables as stage 1 wrote them, in `<dir>/.unfiltered/`, where `format` works in place.

    data = starting_tables(Path("data/asr/train"))        # what every `format` starts from
    write_formatted(formatted, in_place=True)

So filters can be changed and taken back. Stage 1 wins: `DataDir.write` removes the folder, and tables that are not
those that `format` left behind (edited by hand, made by another program) are taken as new ones.
"""
import hashlib
import logging
import shutil
from pathlib import Path

from speechmerge.data.directory import UNFILTERED, DataDir, owned_tables
from speechmerge.files import read_json, write_json

log = logging.getLogger(__name__)
STATE = "state.json"  # written last into the folder: {"tables": hash of what format left, None while it writes}


def starting_tables(path: Path, allow_pipes: bool = False) -> DataDir:
    """The data directory as stage 1 wrote it. Raises SpeechMergeError for tables that are wrong."""
    if is_current(path):
        data = DataDir.read(path / UNFILTERED, allow_pipes=allow_pipes)
        return DataDir(path, data.utterances, data.labels, data.trials)
    if (path / UNFILTERED / STATE).is_file():
        log.warning("%s: the tables were changed after the last `format`; filters start from them as they are", path)
    return DataDir.read(path, allow_pipes=allow_pipes)


def is_current(path: Path) -> bool:
    """Whether the tables are those that `format` left behind, or half of them, of one that was killed."""
    state = path / UNFILTERED / STATE
    return state.is_file() and read_json(state)["tables"] in (None, tables_hash(path))


def is_half_written(path: Path) -> bool:
    """Whether a `format` was killed while it wrote the tables."""
    state = path / UNFILTERED / STATE
    return state.is_file() and read_json(state)["tables"] is None


def tables_hash(path: Path) -> str:
    digest = hashlib.sha256()
    for name in table_names(path):
        digest.update(repr((name, (path / name).read_bytes())).encode())
    return digest.hexdigest()


def table_names(path: Path) -> list[str]:
    return [name for name in (*owned_tables(path), "labels") if (path / name).is_file()]


def write_formatted(data: DataDir, in_place: bool):
    """Write the tables; in place, those of stage 1 are kept first. Killed at any point, nothing of them is lost."""
    path = data.path
    if not in_place:
        data.write()
        return
    if not is_current(path):
        shutil.rmtree(path / UNFILTERED, ignore_errors=True)
        (path / UNFILTERED).mkdir()
        for name in table_names(path):
            shutil.copy2(path / name, path / UNFILTERED / name)
    write_json(path / UNFILTERED / STATE, {"tables": None})
    data.write(keep_unfiltered=True)
    write_json(path / UNFILTERED / STATE, {"tables": tables_hash(path)})
