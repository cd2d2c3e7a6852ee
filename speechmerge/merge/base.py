"""What makes two bases the same: the content of their weights, however they are sharded, stored or named on disk.

Hashing reads whole files, so it happens only where two claims must be compared or something is recorded.
"""
import os
from dataclasses import dataclass
from pathlib import Path

from speechmerge.errors import SpeechMergeError
from speechmerge.hashes import ContentHash
from speechmerge.storage.checkpoint import model_fingerprint, resolve_model_dir


def settle(data):
    """`data` with every ContentHash replaced by its value and every Base by what is recorded of it."""
    if isinstance(data, ContentHash):
        return data.value()
    if isinstance(data, Base):
        return {"source": data.source, "fingerprint": data.computed()}
    if isinstance(data, dict):
        return {key: settle(value) for key, value in data.items()}
    return [settle(value) for value in data] if isinstance(data, (list, tuple)) else data


@dataclass(frozen=True)
class Base:
    """The model that a delta belongs to: where it was found, and its fingerprint if that was claimed or computed."""

    source: str | None = None
    fingerprint: str | None = None

    def __str__(self):
        return (
            f"{self.source or 'an unnamed model'} ({self.fingerprint[:12] if self.fingerprint else 'no fingerprint'})"
        )

    def computed(self) -> str | None:
        """The fingerprint, computed where the model can be found and it is not known."""
        return self.fingerprint or (self.source and _fingerprint_if_found(self.source)) or None


def same_base(first: Base, second: Base) -> bool | None:
    """By fingerprint where both have one, else by name, else by hashing what can be found; None: unknown."""
    if first.fingerprint and second.fingerprint:
        return first.fingerprint == second.fingerprint
    if not first.source or not second.source:
        return None
    if first.source == second.source or _same_folder(first.source, second.source):
        return True
    prints = [base.computed() for base in (first, second)]
    return prints[0] == prints[1] if all(prints) else False


def _same_folder(first: str, second: str) -> bool:
    return Path(first).exists() and Path(second).exists() and os.path.samefile(first, second)


def _fingerprint_if_found(source: str) -> str | None:
    try:
        resolve_model_dir(source)
    except SpeechMergeError:
        return None
    return model_fingerprint(source)


def given_base(source, folder, known: Base, owner: str) -> Base:
    """The base that someone named, checked against `known`, which `owner` was trained on.

    Where `owner` only has a name that cannot be looked up (a hub id, another machine's folder), whoever gives the base
    is believed; shapes are still compared.
    """
    if known.fingerprint is None:
        opened = Base(str(source))
        if not known.source or same_base(opened, known) is True or not _fingerprint_if_found(known.source):
            return opened
    return common_base([Base(str(source), model_fingerprint(folder)), known], [str(folder), owner])


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
