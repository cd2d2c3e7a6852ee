"""Speech-MASSIVE in miniature: copies of its two repositories for de-DE, parquet files with the audio inside."""
import random
from pathlib import Path

from speechmerge.corpora.slurp.commands import COMMANDS, annotation, draw, sentence
from speechmerge.corpora.slurp.massive import pyarrow
from speechmerge.corpora.twins import Spoken, speak, voices, write_lines
from speechmerge.files import atomic_file

LOCALE = "de-DE"
ROWS = {"train": 216, "train_115": 24, "validation": 30, "test": 48}
FILES = {"train": 2, "train_115": 1, "validation": 1, "test": 1}
REPOSITORY = {"test": "Speech-MASSIVE-test"}
GROUPS = {"validation": "dev", "test": "test"}


def write_twin(root: Path, seed: int, nj: int):
    """Both repositories below `root`; the spoken files they were made of stay in `spoken/`."""
    rng, seen = random.Random(f"speech_massive:{seed}"), set()
    rows = {split: [make_row(rng, split, number, seen) for number in range(count)] for split, count in ROWS.items()}
    rows["train_115"] = rows["train"][:ROWS["train_115"]]  # a part of the whole training set, as published
    said = [row for split in rows if split != "train_115" for row in rows[split]]
    speak(root, [Spoken(row["path"], row["utt"], "de", row["voice"], seed=seed) for row in said], nj)
    for split, found in rows.items():
        folder = root / REPOSITORY.get(split, "Speech-MASSIVE")
        share = -(-len(found) // FILES[split])
        for number in range(FILES[split]):
            name = f"{split}-{number:05d}-of-{FILES[split]:05d}.parquet"
            write_parquet(folder / LOCALE / name, [as_published(root, row) for row in found[number * share:][:share]])
    for folder in ("Speech-MASSIVE", "Speech-MASSIVE-test"):
        write_card(root / folder, [split for split in ROWS if REPOSITORY.get(split, "Speech-MASSIVE") == folder])


def make_row(rng, split: str, number: int, seen: set) -> dict:
    intents, group = list(COMMANDS["de"]), GROUPS.get(split, "train")
    intent, voice = intents[number % len(intents)], rng.choice(voices(group))
    parts = draw(rng, "de", intent, group, seen)
    labels = [kind or "Other" for text, kind in parts for _ in text.split()]
    return {"id": str(number if group == "train" else 20000 + 7 * number), "locale": LOCALE, "utt": sentence(parts),
            "annot_utt": annotation(parts), "labels": labels, "intent_str": intent, "worker_id": str(rng.randrange(60)),
            "recorder_id": voice.name, "validator_id": str(rng.randrange(60)), "voice": voice,
            "path": f"spoken/{split}/{number:05d}.wav"}


def as_published(root: Path, row: dict) -> dict:
    audio = {"bytes": (root / row["path"]).read_bytes(), "path": Path(row["path"]).name}
    return {"id": row["id"], "locale": row["locale"], "audio": audio,
            **{key: row[key] for key in row if key not in ("id", "locale", "path", "voice")}}


def write_parquet(path: Path, rows: list[dict]):
    arrow = pyarrow()
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path, "wb") as file:
        arrow.parquet.write_table(arrow.Table.from_pylist(rows), file)


def write_card(folder: Path, splits: list[str]):
    """README.md with the configuration that the hub's loader reads."""
    files = [line for split in splits for line in (f"  - split: {split}", f"    path: {LOCALE}/{split}-*")]
    write_lines(folder / "README.md", ["---", "configs:", f"- config_name: {LOCALE}", "  data_files:", *files, "---",
                                       "A spoken miniature of Speech-MASSIVE."])
