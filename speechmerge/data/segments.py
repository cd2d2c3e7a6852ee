"""What an entry of wav.scp may be; Kaldi's `segments` (`utt rec start end`) beside it; JSON in label tables.

    segments, findings = parse_segments(path, rows, recordings)     # {utt: (recording, (start, end) | None)}

An end of -1 means the end of the recording, as in Kaldi; `0 -1`, the whole recording, is an utterance without segment.
"""
import hashlib
import json
import re
from pathlib import Path

from speechmerge.data.tables import Finding, fix_command

ARK = re.compile(r"(.+):(\d+)")  # `x.ark:123`: the byte at which the entry begins
TO_THE_END = -1.0
# Label tables whose values are JSON: {table: (type, what is expected)}
JSON_TABLES = {"utt2slu": (dict, 'an object {"scenario": .., "action": .., "entities": [..]}'),
               "utt2answers": (list, "a list of strings that is not empty")}


def ark_entry(audio) -> tuple[Path, int] | None:
    """(ark, offset) of an entry such as `audio.ark:123`; None for other files, also those with such a name."""
    match = ARK.fullmatch(str(audio))
    return (Path(match[1]), int(match[2])) if match and not Path(audio).is_file() else None


def is_pipe(audio: str) -> bool:
    """Whether an entry of wav.scp is a command that is to be run, as Kaldi allows it."""
    return audio.startswith("|") or audio.endswith("|")


def parse_segments(path: Path, rows, recordings):
    """{utterance: (recording, (start, end) or None)} of what is right, and what is wrong with the rest."""
    found, findings, file = {}, [], str(path / "segments")
    for id, (value, line) in rows.items():
        problem, fix = None, fix_command(path)
        columns = value.split()
        times = seconds(columns[1:]) if len(columns) == 3 else None
        if times is None:
            problem, fix = f"found {value!r}, expected `recording start end` in seconds", "correct the line"
        elif columns[0] not in recordings:
            problem = f"recording {columns[0]!r} is not in wav.scp"
        elif times[1] == TO_THE_END and times[0] == 0:
            found[id] = (columns[0], None)
        elif not 0 <= times[0] < times[1]:
            problem = f"found a segment from {times[0]:g} to {times[1]:g} s, expected 0 <= start < end"
        else:
            found[id] = (columns[0], times)
        if problem:
            findings.append(Finding(file, line, id, problem, fix))
    return found, findings


def seconds(columns: list[str]) -> tuple[float, float] | None:
    try:
        start, end = map(float, columns)
    except ValueError:
        return None
    return (start, end) if abs(start) < float("inf") and abs(end) < float("inf") else None


def recording_ids(paths) -> dict[str, str]:
    """{path: recording id}: the file's name without suffix, with a hash of the path where two files share it."""
    names, taken = {}, {}
    for path in sorted(set(paths)):
        name = "_".join(Path(path).stem.split()) or "audio"
        taken.setdefault(name, []).append(path)
    for name, sharing in taken.items():
        for path in sharing:
            names[path] = name if len(sharing) == 1 else f"{name}-{hashlib.sha256(path.encode()).hexdigest()[:8]}"
    return names


def segment_tables(utterances) -> dict[str, dict[str, str]]:
    """wav.scp and segments of utterances of which some are stretches of recordings."""
    names = recording_ids(utterance.audio for utterance in utterances.values())
    tables = {"wav.scp": {name: path for path, name in names.items()}, "segments": {}}
    for id, utterance in utterances.items():
        start, end = utterance.segment or (0, TO_THE_END)
        tables["segments"][id] = f"{names[utterance.audio]} {number(start)} {number(end)}"
    return tables


def number(value: float) -> str:
    """The shortest decimal number that reads back as the same."""
    return repr(float(value)).removesuffix(".0")


def check_json(path: Path, tables) -> list[Finding]:
    """Values of JSON_TABLES that are not what they must be."""
    return [Finding(str(path / name), line, id, problem, "correct the line, or run stage 1 again")
            for name in JSON_TABLES if name in tables
            for id, (value, line) in tables[name].items() if value and (problem := json_problem(name, value))]


def json_problem(name: str, value: str) -> str | None:
    kind, expected = JSON_TABLES[name]
    try:
        data = json.loads(value)
    except ValueError as error:
        return f"not JSON ({error}), expected {expected}"
    if not isinstance(data, kind):
        return f"found a JSON {type(data).__name__}, expected {expected}"
    if kind is list and not (data and all(isinstance(item, str) for item in data)):
        return f"found {value[:60]!r}, expected {expected}"
    if kind is dict and not ({"scenario", "action"} <= data.keys() and isinstance(data.get("entities"), list)):
        return f"found the keys {', '.join(sorted(data)) or 'none'}, expected {expected}"
    return None
