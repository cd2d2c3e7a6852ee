"""Rationales that somebody has had written about SLURP's recordings, as JSON lines of their own.

    speechmerge prepare --corpus rationale --corpus-dir cot --param audio_dir=slurp/audio/slurp_real
    speechmerge prepare --corpus rationale --corpus-dir . --param train=cot_train.jsonl dev=cot_devel.jsonl audio_dir=...

    {"filename": "audio-1502.flac", "candidates": ["wake me at ten", "wake me it ten"], "rationale_text": "the first ...",
     "final": {"intent": "alarm_set", "entities": [{"type": "time", "filler": "ten"}]}}

`final` may also say scenario and action, be JSON in a string, and have entities as {"time": "ten"}. Optional keys:
`sentence` (what is said), `slurp_id`.
"""
import json
from dataclasses import replace
from pathlib import Path

from speechmerge.corpora.base import CORPORA
from speechmerge.corpora.lines import numbered_lines
from speechmerge.corpora.slurp.frames import label
from speechmerge.data.directory import DataDir, Utterance
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.files import write_json
from speechmerge.tasks.frame import as_frame, decode

KEYS = ("filename", "candidates", "rationale_text", "final")
ENDINGS = {"train": ("train",), "dev": ("devel", "dev"), "test": ("test",)}


@CORPORA.register("rationale")
class Rationale:
    """JSON lines of candidates, rationale and label about recordings, for the task slu_rationale (your own files)"""

    tasks = ("slu_rationale",)

    def prepare(self, output_dir, corpus_dir, audio_dir=None, train=None, dev=None, test=None, language: str = "en",
                tasks=None, allow_incomplete: bool = False) -> list[Path]:
        """train, dev, test: file names below corpus_dir; default `*train.jsonl`, `*devel.jsonl` (or dev), `*test.jsonl`.

        audio_dir: where the recordings lie; default `corpus_dir`/audio. Splits without a file are left out.
        Raises SpeechMergeError with file:line for what is no such line, and for recordings that are not there.
        """
        if tasks and list(tasks) != list(self.tasks):
            raise UsageError(f"rationale: tasks {' '.join(tasks)}; it has {self.tasks[0]} alone")
        root, given = Path(corpus_dir), {"train": train, "dev": dev, "test": test}
        audio, made = Path(audio_dir or root / "audio"), {}
        for split, name in given.items():
            if path := file_of(root, split, name):
                made[split] = read(path, audio, language, allow_incomplete)
        if not made:
            raise SpeechMergeError(f"{root}: no *train.jsonl, *devel.jsonl or *test.jsonl there; name the files with --param "
                                   "train=... dev=... test=...")
        folder = Path(output_dir) / self.tasks[0]
        for split, utterances in made.items():
            DataDir(folder / split, utterances).write()
        write_json(folder / "prepare.json", {"corpus": "rationale", "task": self.tasks[0],
                                             "utterances": {split: len(found) for split, found in made.items()}})
        return [folder / split for split in made]


def file_of(root: Path, split: str, name: str | None) -> Path | None:
    if name:
        path = root / name
        if not path.is_file():
            raise SpeechMergeError(f"{path}: not there; give {split}= a file below --corpus-dir")
        return path
    found = sorted({path for ending in ENDINGS[split] for path in root.glob(f"*{ending}.jsonl")})
    if len(found) > 1:
        raise SpeechMergeError(f"{root}: {found[0].name} and {found[1].name} could both be {split}; choose with "
                               f"--param {split}=...")
    return found[0] if found else None


def read(path: Path, audio: Path, language: str, allow_incomplete: bool) -> dict[str, Utterance]:
    utterances, absent = {}, []
    for number, line in numbered_lines(path):
        place = f"{path}:{number}"
        row = as_row(line, place)
        file = Path(str(row["filename"]))
        if file.stem in utterances:
            raise SpeechMergeError(f"{place}: {file.name} stands there twice; keep one line per recording")
        if not (audio / file).is_file():
            absent.append(file)
            continue
        utterances[file.stem] = utterance_of(row, audio / file, language, place)
    if absent and not (allow_incomplete and utterances):
        raise SpeechMergeError(f"{audio}: of {len(absent) + len(utterances)} recordings {len(absent)} are not there, the "
                               f"first is {absent[0]}; give --param audio_dir=..., or leave them out with allow_incomplete=true")
    return even(dict(sorted(utterances.items())))


def as_row(line: str, place: str) -> dict:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise SpeechMergeError(f"{place}: is not JSON ({error})") from error
    if missing := [key for key in KEYS if not isinstance(row, dict) or key not in row]:
        raise SpeechMergeError(f"{place}: no {missing[0]!r}, expected {', '.join(KEYS)}")
    return row


def even(utterances: dict[str, Utterance]) -> dict[str, Utterance]:
    """Without tables that know some utterances only: transcripts and numbers of prompts are optional in the lines."""
    spoken = all(utterance.text for utterance in utterances.values())
    numbered = all("slurp_id" in utterance.labels for utterance in utterances.values())
    return {id: replace(utterance, text=utterance.text if spoken else None,
                        labels={key: value for key, value in utterance.labels.items() if numbered or key != "slurp_id"})
            for id, utterance in utterances.items()}


def utterance_of(row: dict, audio: Path, language: str, place: str) -> Utterance:
    candidates = [entry.get("text") if isinstance(entry, dict) else entry for entry in row["candidates"]]
    rationale = " ".join(str(row["rationale_text"]).split())
    if not rationale or not all(isinstance(text, str) for text in candidates):
        raise SpeechMergeError(f"{place}: expected words in rationale_text and a list of texts in candidates")
    frame = final_frame(row["final"], place)
    tables = label("slu", frame["scenario"], frame["action"], frame["entities"], row.get("slurp_id"))
    tables.update(rationale=rationale, candidates=json.dumps(candidates, ensure_ascii=False))
    text = " ".join(str(row["sentence"]).split()) if row.get("sentence") else None
    return Utterance(audio.stem, str(audio), text, None, language, None, tables)


def final_frame(final, place: str) -> dict:
    """The gold label: scenario and action, or an intent `scenario_action`."""
    if isinstance(final, dict) and "intent" in final and "scenario" not in final:
        scenario, _, action = str(final["intent"]).partition("_")
        final = {**final, "scenario": scenario, "action": action}
    frame = decode(final, "json") if isinstance(final, str) else as_frame(final)
    if frame is None or not frame["scenario"]:
        raise SpeechMergeError(f"{place}: final is {str(final)[:80]!r}, expected intent (or scenario and action) and "
                               "entities")
    return frame
