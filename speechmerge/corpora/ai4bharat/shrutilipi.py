"""Shrutilipi: sentences mined from the news of All India Radio, one folder for each bulletin.

    data/<language>/<bulletin>/sent_<n>.wav
    data/<language>/train.tsv        fairseq's manifest: the first line a folder, then `path<TAB>frames`
    data/<language>/train.wrd        the text of each line of train.tsv below the first

The folder in the first line is one of the publisher's machine. Who reads is not published, so a bulletin stands for a
speaker; there is one set, train: `splits=speaker` makes dev and test of it, by bulletins.
"""
from pathlib import Path

from speechmerge.corpora.gather import Gathered, make_utterance, stem
from speechmerge.corpora.lines import read_lines
from speechmerge.corpora.published import Hub, Part
from speechmerge.data.directory import Utterance
from speechmerge.errors import SpeechMergeError

LANGUAGES = {"hi": "hindi", "pa": "punjabi", "te": "telugu"}
LAYOUT = "data/<language>/{train.tsv,train.wrd,<bulletin>/sent_<n>.wav}"
OBTAIN = "Get the fairseq archives that https://ai4bharat.iitm.ac.in/shrutilipi links and unpack them there."


def read_language(root: Path, language: str, options) -> Gathered:
    found = Gathered("shrutilipi", language)
    manifest = find_manifest(root, LANGUAGES[language])
    lines, texts = read_lines(manifest), read_lines(manifest.with_suffix(".wrd"))
    if not lines:
        raise SpeechMergeError(f"{manifest}: is empty, expected a folder and then `path<TAB>frames`; copy it again")
    if len(lines) != len(texts) + 1:
        raise SpeechMergeError(f"{manifest}: has {len(lines) - 1} clips, {manifest.with_suffix('.wrd').name} "
                               f"{len(texts)} texts, expected as many; copy both again")
    clips = [read_clip(manifest, number, line) for number, line in enumerate(lines[1:], 2)]
    base = base_folder(manifest, lines[0], clips)
    for (path, frames), text in zip(clips, texts):
        if frames == 0:
            found.skip("clip of no samples")
        else:
            bulletin = Path(path).parent.name or "unknown"
            found.add("train", speaker=bulletin, name=stem(path), text=text, audio=base / path, group=bulletin)
    return found


def find_manifest(root: Path, language: str) -> Path:
    there = [path for path in (root / "data" / language / "train.tsv", root / language / "train.tsv") if path.is_file()]
    if not there:
        raise SpeechMergeError(f"{root / 'data' / language}: no train.tsv there (shrutilipi). {OBTAIN}")
    return there[0]


def read_clip(manifest: Path, number: int, line: str) -> tuple[str, int]:
    path, tab, frames = line.rpartition("\t")
    if not tab or not path or not frames.strip().isdigit():
        raise SpeechMergeError(f"{manifest}:{number}: found {line[:60]!r}, expected `path<TAB>frames`")
    return path, int(frames)


def base_folder(manifest: Path, first_line: str, clips) -> Path:
    """Where the paths begin: beside the manifest, above it, or where its first line says."""
    folders = [manifest.parent, manifest.parent.parent, Path(first_line.strip())]
    return next((folder for folder in folders if clips and (folder / clips[0][0]).is_file()), manifest.parent)


def hub(language: str) -> Hub:
    return Hub("ai4bharat/Shrutilipi", {"train": [Part(LANGUAGES[language], "train")]}, audio="audio_filepath")


def from_row(row: dict, number: int, language: str, options) -> Utterance | None:
    """Rows tell text and audio alone, and clips of different bulletins have one name: the row's number makes the id."""
    path = (row["audio_filepath"] or {}).get("path") or ""
    bulletin = Path(path).parent.name or f"row{number:07d}"
    utterance = make_utterance("shrutilipi", language, speaker=bulletin, name=f"{number:07d}", text=row["text"],
                               group=bulletin)
    return utterance if utterance.text else None
