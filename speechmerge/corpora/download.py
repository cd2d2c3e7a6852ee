"""Archives of a corpus: fetched with resume, checked, unpacked; each step is done once.

    fetch_all([Archive("https://.../dev-clean.tar.gz", makes="LibriSpeech/dev-clean", md5="...")], Path("downloads"))

A download goes to `<file>.part` and goes on there after an interruption; unpacking goes to a hidden folder and is
renamed into place, so that what an archive makes is there as a whole or not at all.
"""
import hashlib
import http.client
import logging
import os
import shutil
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from speechmerge.errors import SpeechMergeError

log = logging.getLogger(__name__)
CHUNK = 1 << 20
AGAIN = "run the same command again"


@dataclass(frozen=True)
class Archive:
    """One file to fetch. `makes`: the path below the corpus folder that is there when it is unpacked."""

    url: str
    makes: str
    md5: str | None = None
    sha256: str | None = None
    into: str = "."  # where it is unpacked, below the corpus folder; for archives without a top folder of their own
    unpack: bool = True  # False: the file itself is what is wanted, at `makes`

    @property
    def file(self) -> str:
        return self.url.rsplit("/", 1)[-1]


def fetch_all(archives: list[Archive], root: Path):
    """What is not there yet. SpeechMergeError names the address, what went wrong and what to do by hand."""
    for archive in archives:
        if not (root / archive.makes).exists():
            fetch(archive, root)


def fetch(archive: Archive, root: Path):
    root.mkdir(parents=True, exist_ok=True)
    file = root / (archive.makes if not archive.unpack else archive.file)
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        download(archive.url, file)
    check(archive, file)
    if archive.unpack:
        unpack(file, root / archive.into, root / archive.makes)


def download(url: str, file: Path):
    """To `file`, through `file.part`, from where the last attempt ended."""
    part = file.with_name(file.name + ".part")
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            if have and answer.status != 206:  # this server starts again from the beginning
                have = 0
            total = have + int(answer.headers.get("Content-Length") or 0)
            bar = tqdm(total=total or None, initial=have, unit="B", unit_scale=True, desc=file.name, disable=None)
            with open(part, "ab" if have else "wb") as out, bar:
                while chunk := answer.read(CHUNK):
                    out.write(chunk)
                    bar.update(len(chunk))
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: nothing is left to fetch
            raise failed(url, file, error) from error
        whole = error.headers.get("Content-Range", "").rpartition("/")[2]
        total = int(whole) if whole.isdigit() else have
    except (http.client.HTTPException, OSError) as error:
        raise failed(url, file, error) from error
    size = part.stat().st_size
    if total and size > total:
        part.unlink()
        raise SpeechMergeError(f"{part}: {size} bytes, but {url} has {total}: another file; it is deleted, {AGAIN}")
    if total and size < total:
        raise SpeechMergeError(f"{url}: the connection ended after {size} of {total} bytes; {AGAIN}, it goes on")
    os.replace(part, file)


def failed(url: str, file: Path, error) -> SpeechMergeError:
    return SpeechMergeError(f"{url}: cannot be fetched ({error}); check the network (a proxy: HTTPS_PROXY), or "
                            f"fetch it by hand to {file} and {AGAIN}")


def check(archive: Archive, file: Path):
    for kind in ("md5", "sha256"):
        expected = getattr(archive, kind)
        if expected:
            with open(file, "rb") as opened:
                found = digest(opened, kind)
            if found != expected:
                raise SpeechMergeError(f"{file}: its {kind} is {found}, expected {expected}; delete it and {AGAIN}")


def digest(opened, kind: str) -> str:
    """hashlib.file_digest, which Python 3.10 does not have."""
    found = hashlib.new(kind)
    while chunk := opened.read(CHUNK):
        found.update(chunk)
    return found.hexdigest()


def unpack(file: Path, into: Path, makes: Path):
    """tar (any compression) or zip; members that would leave the folder are refused."""
    into.mkdir(parents=True, exist_ok=True)
    beside = into / f".{file.name}.unpacking"
    shutil.rmtree(beside, ignore_errors=True)
    log.info("unpacking %s", file)
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as opened:
                opened.extractall(beside)  # drops drive letters and `..`
        else:
            with tarfile.open(file) as opened:
                extract(opened, beside)
        move_into(beside, into)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, OSError) as error:
        raise SpeechMergeError(f"{file}: cannot be unpacked ({error}); delete it and {AGAIN}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    if not makes.exists():
        raise SpeechMergeError(f"{file}: does not hold {makes.name}; is it the archive of another release?")


def extract(opened: tarfile.TarFile, into: Path):
    """As Python's own filter `data`, which Pythons before 3.10.12 and 3.11.4 lack (Debian 12 has 3.11.2)."""
    if hasattr(tarfile, "data_filter"):
        opened.extractall(into, filter="data")
        return
    for member in opened:
        member.name = member.name.lstrip("/")
        places = [into / member.name]
        if member.issym() or member.islnk():
            places.append((places[0].parent if member.issym() else into) / member.linkname)
        elif not (member.isreg() or member.isdir()):
            raise tarfile.TarError(f"{member.name} is neither file nor folder nor link")
        for place in places:  # as the disk has it: an earlier member may be a link
            if not Path(os.path.realpath(place)).is_relative_to(os.path.realpath(into)):
                raise tarfile.TarError(f"{member.name} would leave the folder")
        member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
        member.uid, member.gid = os.getuid(), os.getgid()
        opened.extract(member, into, numeric_owner=True)


def move_into(source: Path, target: Path):
    """Everything of `source` to `target`; folders that are there on both sides are joined."""
    for entry in sorted(source.iterdir()):
        place = target / entry.name
        if entry.is_dir() and not entry.is_symlink() and place.is_dir():
            move_into(entry, place)
        else:
            os.replace(entry, place)
