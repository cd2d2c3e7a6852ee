"""The archives of VoxCeleb1: the dev set comes in four parts that are joined, checked and unpacked."""
import hashlib
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from speechmerge.corpora.download import Archive, check, unpack
from speechmerge.errors import SpeechMergeError

log = logging.getLogger(__name__)
TOP = "VoxCeleb1"
MIRROR = "https://huggingface.co/datasets/ProgramComputer/voxceleb/resolve/main/vox1"
SPEAKER = re.compile(r"id1[0-9]{4}")
CHUNK = 1 << 22


@dataclass(frozen=True)
class Folder:
    """VoxCeleb1/<name>/wav, and what it is unpacked from."""

    name: str
    archive: str
    md5: str  # of the whole archive
    parts: tuple[str, ...] = ()

    def places(self) -> list[str]:
        """What shows that it is there in one form or another, below the corpus folder."""
        places = [f"{self.name}/wav", "wav", self.archive, *self.parts]
        return [*places, *(f"{TOP}/{place}" for place in places)]


FOLDERS = (
    Folder("dev", "vox1_dev_wav.zip", "ae63e55b951748cc486645f532ba230b",
           tuple(f"vox1_dev_wav_parta{letter}" for letter in "abcd")),
    Folder("test", "vox1_test_wav.zip", "185fdc63c3c739954633d50379a3d102"),
)
AUDIO = [Archive(f"{MIRROR}/{file}", makes=file, unpack=False)
         for folder in FOLDERS for file in (folder.parts or (folder.archive,))]


def provide_folders(root: Path) -> dict[str, list[Path]]:
    """{speaker: the wav folders that hold him or her}; archives that lie there are unpacked first."""
    tops = [path for path in (root / TOP, root) if path.is_dir()]
    merged = [top / "wav" for top in tops if (top / "wav").is_dir()]  # dev and test in one
    places = merged[:1] or [provide(root, tops, folder) for folder in FOLDERS]
    found: dict[str, list[Path]] = {}
    for place in places:
        for entry in sorted(os.scandir(place), key=lambda entry: entry.name):
            if entry.is_dir() and not entry.name.startswith("."):
                found.setdefault(speaker_of(place, entry.name), []).append(place)
    return found


def speaker_of(place: Path, name: str) -> str:
    if SPEAKER.fullmatch(name):
        return name
    if re.fullmatch(r"id0[0-9]{4}", name):
        raise SpeechMergeError(f"{place / name}: a speaker of VoxCeleb2, expected VoxCeleb1's id10001 to id11251; "
                               "give the folder of VoxCeleb1 as --corpus-dir")
    raise SpeechMergeError(f"{place / name}: found a name, expected an id such as id10270: this is an older release, "
                           "with other files and numbers; fetch the one with ids (vox1_dev_wav, vox1_test_wav)")


def provide(root: Path, tops: list[Path], folder: Folder) -> Path:
    """The wav folder of dev or test, unpacked if need be."""
    for top in tops:
        if (top / folder.name / "wav").is_dir():
            return top / folder.name / "wav"
    target = root / TOP / folder.name
    archive = next((top / folder.archive for top in tops if (top / folder.archive).is_file()), None)
    joined = None if archive else join(tops, folder)
    if archive:
        check(Archive("", "", md5=folder.md5), archive)
    if not archive and not joined:
        raise SpeechMergeError(f"{target / 'wav'}: not there, and no {folder.archive} in {root}; the lists "
                               "name files of dev and of test: complete the download, or give --param fetch=true")
    target.parent.mkdir(parents=True, exist_ok=True)
    unpack(archive or joined, target, target / "wav")
    if joined:
        joined.unlink()  # 30 GB; the parts stay
    return target / "wav"


def join(tops: list[Path], folder: Folder) -> Path | None:
    """The parts as one file, which has the publisher's md5; None where there are no parts."""
    for top in tops:
        there = [part for part in folder.parts if (top / part).is_file()]
        if there and len(there) < len(folder.parts):
            absent = ", ".join(part for part in folder.parts if part not in there)
            raise SpeechMergeError(f"{top}: of the parts of {folder.archive}, {absent} missing; complete the download")
        if there:
            return write_joined(top, folder)
    return None


def write_joined(top: Path, folder: Folder) -> Path:
    digest, joined = hashlib.md5(), top / f".{folder.archive}.part"
    log.info("joining %s", folder.archive)
    with open(joined, "wb") as out, tqdm(desc=folder.archive, unit="B", unit_scale=True, disable=None) as bar:
        for part in folder.parts:
            with open(top / part, "rb") as file:
                while chunk := file.read(CHUNK):
                    out.write(chunk)
                    digest.update(chunk)
                    bar.update(len(chunk))
    if digest.hexdigest() != folder.md5:
        joined.unlink()
        raise SpeechMergeError(f"{top}: the md5 of {' + '.join(folder.parts)} is {digest.hexdigest()}, expected "
                               f"{folder.md5}; delete the part that has the wrong size and fetch it again")
    return joined
