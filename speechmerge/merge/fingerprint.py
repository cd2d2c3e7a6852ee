"""What makes two bases the same: the content of their weights, however they are sharded, stored or named on disk."""
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from speechmerge.errors import SpeechMergeError
from speechmerge.files import update_json
from speechmerge.merge.checkpoint import Checkpoint, resolve_model_dir
from speechmerge.merge.safetensors_file import read_bytes


def model_fingerprint(source) -> str:
    """sha256 over name, type, shape and bytes of every tensor of a model (folder or cached hub id), sorted by name.

    Hashing reads the whole model once; the result is remembered per (path, size, mtime) of its files.
    """
    checkpoint = Checkpoint(source)
    stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in checkpoint.files]
    key = hashlib.sha256(json.dumps(stats).encode()).hexdigest()
    return _remembered(key) or _remember(key, _hash(checkpoint))


def _hash(checkpoint: Checkpoint) -> str:
    digest = hashlib.sha256()
    for name, entry in sorted(checkpoint.entries.items()):
        digest.update(json.dumps([name, entry.dtype, entry.shape]).encode())
        for block in read_bytes(entry):
            digest.update(block)
    return digest.hexdigest()


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "speechmerge" / "fingerprints.json"


def _remembered(key: str) -> str | None:
    try:
        return json.loads(_cache().read_text()).get(key)
    except (OSError, ValueError):
        return None  # no cache, or a damaged one: the fingerprint is computed


def _remember(key: str, value: str) -> str:
    try:
        update_json(_cache(), key, value)
    except (OSError, SpeechMergeError):
        return value  # a home that cannot be written costs time, not correctness
    return value


@dataclass(frozen=True)
class Base:
    """The model that a delta belongs to: where it was found, and its fingerprint if that is known."""

    source: str | None = None
    fingerprint: str | None = None

    def __str__(self):
        return (
            f"{self.source or 'an unnamed model'} ({self.fingerprint[:12] if self.fingerprint else 'no fingerprint'})"
        )


def same_base(first: Base, second: Base) -> bool | None:
    """By fingerprint where both have one, else by name, else by hashing what can be found; None: unknown."""
    if first.fingerprint and second.fingerprint:
        return first.fingerprint == second.fingerprint
    if not first.source or not second.source:
        return None
    if first.source == second.source:
        return True
    prints = [base.fingerprint or _fingerprint_if_found(base.source) for base in (first, second)]
    return prints[0] == prints[1] if all(prints) else False


def _fingerprint_if_found(source: str) -> str | None:
    try:
        resolve_model_dir(source)
    except SpeechMergeError:
        return None
    return model_fingerprint(source)


def given_base(source, folder, known: Base, owner: str) -> Base:
    """The base that someone named, with its fingerprint, checked against `known`, which `owner` was trained on.

    Where `owner` only has a name that cannot be looked up (a hub id, another machine's folder), whoever gives the base
    is believed; shapes are still compared.
    """
    opened = Base(str(source), model_fingerprint(folder))
    if (
        known.fingerprint is None
        and known.source
        and known.source != opened.source
        and not _fingerprint_if_found(known.source)
    ):
        return opened
    return common_base([opened, known], [str(folder), owner])


def common_base(bases, owners) -> Base:
    """The one base of all, with everything known about it. Raises SpeechMergeError naming two owners that disagree."""
    known = Base()
    for base, owner in zip(bases, owners):
        for other, other_owner in zip(bases, owners):
            if same_base(base, other) is False:
                raise SpeechMergeError(
                    f"{other_owner} belongs to base {other}, {owner} to base {base}: only changes of the same "
                    "base can be combined"
                )
        known = Base(known.source or base.source, known.fingerprint or base.fingerprint)
    return known
