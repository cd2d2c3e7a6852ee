"""Corpora from Hugging Face: the `datasets` library reads the rows, audio is written out as it came.

    Hub("openslr/librispeech_asr", {"train": [Part("clean", "train.100")], "dev": [Part("clean", "validation")]})

Cached by `datasets` (or streamed, row by row); the audio files of the rows lie below the data directories in
`hub_audio/<task>/<split>/`, what is there from an earlier run is kept.
"""
import io
import logging
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import soundfile
from tqdm import tqdm

from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.files import atomic_file

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """One split of one configuration on the hub."""

    config: str | None
    split: str
    id: str | None = None  # where it lies in a repository of its own


@dataclass(frozen=True)
class Hub:
    """Which repository, and which of its parts make up our splits. `audio`: the column with the audio."""

    id: str
    parts: dict[str, list[Part]]
    revision: str | None = None  # a commit or tag that the reader was written for
    audio: str = "audio"
    names: tuple[str, ...] = ()  # columns of class numbers that are to be given as their names


def read_hub(corpus, task: str, options, output_dir: Path, hub_id, revision, streaming: bool):
    """A Reading of the hub's version of a corpus. `hub_id` may also be a local copy of the repository."""
    from speechmerge.corpora.published import Reading, Split

    hub = corpus.hub(task, options)
    if hub is None:
        raise UsageError(f"{corpus.name} {task}: there is no version on Hugging Face to read; use source=files")
    reading = Reading({})
    for split, parts in hub.parts.items():
        utterances = {}
        for part in parts:
            own = revision or (None if hub_id else hub.revision)
            rows = load(part.id or hub_id or hub.id, part, None if part.id else own, streaming, hub)
            for number, row in enumerate(tqdm(rows, f"{task} {split} {part.config or ''}", unit="utt", disable=None)):
                add_row(corpus, row, number, (split, task, options), output_dir, hub, utterances, reading.skipped)
        reading.splits[split] = Split(utterances)
    return reading


def load(name: str, part: Part, revision, streaming: bool, hub: Hub):
    """Rows of one part, audio undecoded, classes by their names."""
    try:
        from datasets import Audio, load_dataset
        from datasets.exceptions import DatasetNotFoundError
    except ImportError as error:
        raise SpeechMergeError("source=hf: the package datasets is missing; "
                               "run: pip install 'speechmerge[hf]'") from error
    try:
        rows = load_dataset(name, part.config, split=part.split, revision=revision, streaming=streaming)
    except (DatasetNotFoundError, ValueError, OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        advice = ("the hub's own conversion is --param revision=refs/convert/parquet" if "script" in reason else
                  "a gated one needs `hf auth login`, another copy goes in as --param hub_id=...")
        config = part.config or "no configuration"
        raise SpeechMergeError(f"{name} ({config}, split {part.split}): cannot be read ({reason}); {advice}") from error
    columns = rows.column_names
    if columns is not None and hub.audio not in columns:
        raise SpeechMergeError(f"{name}: no column {hub.audio!r}, found {', '.join(columns)}; "
                               "is this the right revision?")
    known = {column: (rows.features or {}).get(column) for column in hub.names}
    classes = {column: feature for column, feature in known.items() if hasattr(feature, "int2str")}
    return (named(row, classes) for row in rows.cast_column(hub.audio, Audio(decode=False)))


def named(row: dict, classes: dict) -> dict:
    """A row with the names of its classes; without a class (None, -1) it stays as it is."""
    known = {column: row[column] for column in classes if row[column] is not None and row[column] >= 0}
    return row | {column: classes[column].int2str(number) for column, number in known.items()}


def add_row(corpus, row: dict, number: int, place, output_dir: Path, hub: Hub, utterances: dict, skipped: Counter):
    split, task, options = place
    try:
        utterance = corpus.from_row(row, split, task, options)
    except KeyError as error:
        raise SpeechMergeError(f"{corpus.name}: row {number} of {split} has no column {error}, found "
                               f"{', '.join(row)}; pin a revision with --param revision=...") from error
    found = utterance if isinstance(utterance, list) else [utterance] if utterance else []
    for item in found:
        if item.id in utterances:
            raise SpeechMergeError(f"{corpus.name}: row {number} of {split}: id {item.id} occurs twice")
    skipped["rows left out"] += not found
    if found:
        path = write_audio(row[hub.audio], output_dir / "hub_audio" / task / split, found[0].id)
        utterances |= {item.id: replace(item, audio=str(path)) for item in found}


def write_audio(audio: dict, folder: Path, id: str) -> Path:
    """The bytes of a row as a file, with the suffix of their format."""
    data = audio.get("bytes")
    if data is None:
        if not audio.get("path") or not Path(audio["path"]).is_file():
            raise SpeechMergeError(f"utterance {id}: the row has neither audio bytes nor a file ({audio.get('path')})")
        return Path(audio["path"])
    suffix = Path(audio.get("path") or "").suffix or "." + container(data, id)
    path = folder / f"{id.replace('/', '_')}{suffix}"
    if not path.is_file() or path.read_bytes() != data:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(path, "wb") as file:
            file.write(data)
    return path


def container(data: bytes, id: str) -> str:
    try:
        return soundfile.info(io.BytesIO(data)).format.lower()
    except soundfile.LibsndfileError as error:
        raise SpeechMergeError(f"utterance {id}: the row's audio is in no known format ({error})") from error
