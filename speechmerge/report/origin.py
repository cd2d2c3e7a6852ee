"""Where the numbers come from: commands, versions and configs stored beside adapters, merges, hypotheses and scores."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from speechmerge.files import read_json
from speechmerge.report.tables import Results
from speechmerge.report.wording import natural

PROVENANCE = ("command", "date", "commit", "speechmerge", "python", "platform", "versions")


@dataclass(frozen=True)
class Step:
    """One command that was run. `makes`: the systems, or the step's name; `record`: everything else that was stored."""
    stage: str
    makes: str
    command: str
    date: str
    commit: str
    record: dict

    def pretty(self) -> str:
        return json.dumps(shorten(self.record), indent=1, ensure_ascii=False, sort_keys=True)


def shorten(value, most: int = 30):
    """A record without its long tables, such as one number per tensor; these stay in the file it was read from."""
    if isinstance(value, (dict, list)) and len(value) > most:
        return f"({len(value)} entries, see the file)"
    if isinstance(value, dict):
        return {key: shorten(item) for key, item in value.items()}
    return [shorten(item) for item in value] if isinstance(value, list) else value


def steps(results: Results) -> list[Step]:
    """All steps that left a record, in the order of the recipe; equal commands once."""
    found = []
    for system in results.of_kind("adapter"):
        found.append(_step("train", system.name, system.path, "speechmerge.json"))
    for system in results.of_kind("merged"):
        found.append(_step("merge", system.name, system.path, "merge_metadata.json"))
    for system in results.systems:
        for task in results.tasks:
            found.append(_step("decode", system.name, results.decode_dir(system.name, task.name), "decode.json"))
    exp_dir = results.exp_dir
    for stage, pattern in (("train-router", "router/**/report.json"), ("analyze", "analysis/**/analysis.json")):
        for path in sorted(exp_dir.glob(pattern), key=lambda path: natural(str(path))):
            found.append(_step(stage, path.parent.name, path.parent, path.name))
    found.append(_from_record("score", results.split, results.record))
    return _join_equal([step for step in found if step])


def _step(stage: str, makes: str, folder, name: str) -> Step | None:
    path = Path(folder or ".") / name
    return _from_record(stage, makes, read_json(path)) if folder and path.is_file() else None


def _from_record(stage: str, makes: str, record: dict) -> Step | None:
    source = record.get("provenance", record)
    if "command" not in source:
        return None
    left_out = {*PROVENANCE, "provenance", "systems", "tasks", "key"}
    rest = {key: value for key, value in {**source, **record}.items() if key not in left_out}
    return Step(stage, makes, source["command"], source.get("date", ""), source.get("commit", ""), rest)


def _join_equal(found: list[Step]) -> list[Step]:
    """One step per stage and command; its `makes` lists all that it made."""
    joined: dict[tuple, list[Step]] = {}
    for step in found:
        joined.setdefault((step.stage, step.command), []).append(step)
    result = []
    for same in joined.values():
        first, names = same[0], list(dict.fromkeys(step.makes for step in same))
        record = first.record if len(same) == 1 else {}
        result.append(Step(first.stage, ", ".join(names), first.command, first.date, first.commit, record))
    return result


def versions(results: Results, own: dict) -> dict[str, str]:
    """Package versions of the scoring step, else of the report's own process."""
    source = results.record.get("provenance", results.record)
    source = source if "versions" in source else own
    return {"speechmerge": source.get("speechmerge", ""), "python": source.get("python", ""), **source["versions"]}


def base_source(results: Results) -> str:
    """Name or folder of the base model; the folder as seen from here, so that a page passed on tells no one's home."""
    source = results.record["base"].get("source") or "unknown"
    if not Path(source).is_absolute():
        return source
    seen = Path(os.path.relpath(source))
    return str(seen) if seen.parts.count("..") <= 2 else seen.name
