"""What is wrong with a data directory, and the repair of what can be repaired.

    for finding in validate("data/asr/train"):
        print(finding)               # data/asr/train/text:12:utt7: empty transcript; run `speechmerge validate ...`
    print(fix("data/asr/train"))     # the changed tables are kept in data/asr/train/.backup
"""
import shutil
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from speechmerge.data.audio import RATE, AudioError, Sound, audio_info, read_audio
from speechmerge.data.decoders import OVERSHOOT
from speechmerge.data.directory import NO_AUDIO, UNFILTERED, DataDir, Utterance, owned_tables, read_tables
from speechmerge.data.segments import is_pipe
from speechmerge.data.tables import (NO_BREAK_SPACES, Finding, fix_command, invisible_characters, read_lines,
                                     read_table, split_row)
from speechmerge.errors import SpeechMergeError
from speechmerge.files import write_text

BACKUP = ".backup"
DURATION_TOLERANCE = 0.02  # s between utt2dur and the audio


def validate(path, audio: bool = True, jobs: int = 1, rate: int = RATE, allow_pipes: bool = False) -> list[Finding]:
    """Everything that is wrong with the tables and, with `audio`, with the decoded audio (which takes its time).

    Commands in wav.scp are findings unless `allow_pipes`; they are never run here. Raises SpeechMergeError where there
    is no data directory at all.
    """
    path = Path(path)
    data, findings = read_tables(path, allow_pipes)
    if audio:
        findings += validate_audio(data, jobs, rate)
    return findings


def validate_audio(data: DataDir, jobs: int, rate: int) -> list[Finding]:
    """Each file is decoded once, whatever number of utterances lies in it. Commands are left out."""
    keyed = data.path / ("segments" if (data.path / "segments").is_file() else "wav.scp")
    lines = {id: line for id, (_, line) in read_table(keyed)[0].items()}
    by_audio = defaultdict(list)
    for utterance in data.utterances.values():
        if not is_pipe(utterance.audio) and utterance.audio != NO_AUDIO:
            by_audio[utterance.audio].append(utterance)

    def check(utterances: list[Utterance]) -> list[Finding]:
        file, repair = str(keyed), fix_command(data.path)
        first = utterances[0]
        try:
            whole = len(read_audio(first.audio, rate)) / rate
        except AudioError as error:
            if error.convertible and (seconds := audio_info(first.audio)[0]):
                problem = f"{first.audio}: {error.problem}"
                return [Finding(file, lines[first.id], first.id, problem, format_command(data.path)),
                        *check_times(data, utterances, seconds, lines)]
            return [Finding(file, lines[u.id], u.id, f"{u.audio}: {error.problem}", repair) for u in utterances]
        return check_times(data, utterances, whole, lines)

    with ThreadPoolExecutor(jobs) as pool:  # libsndfile decodes outside the interpreter's lock
        return [finding for found in pool.map(check, by_audio.values()) for finding in found]


def check_times(data: DataDir, utterances: list[Utterance], whole: float, lines: dict[str, int]) -> list[Finding]:
    """Segments beyond a recording of `whole` seconds, and utt2dur that differs from what is there."""
    findings, repair = [], fix_command(data.path)
    for utterance in utterances:
        start, end = utterance.segment or (0.0, whole)
        if start >= whole or end > whole + OVERSHOOT:
            problem = f"the segment from {start:g} to {end:g} s lies beyond {utterance.audio}, which has {whole:.3f} s"
            findings.append(Finding(str(data.path / "segments"), lines[utterance.id], utterance.id, problem, repair))
            continue
        seconds = min(end, whole) - start
        if utterance.duration is not None and abs(utterance.duration - seconds) > DURATION_TOLERANCE:
            problem = f"found {utterance.duration:.3f} s, but {utterance.audio} has {seconds:.3f} s"
            findings.append(Finding(str(data.path / "utt2dur"), None, utterance.id, problem, repair))
    return findings


def format_command(path: Path) -> str:
    return f"run `speechmerge format --data {path}`"


def fix(path, audio: bool = True, jobs: int = 1, allow_pipes: bool = False) -> list[str]:
    """Repair a data directory in place and say what was done; the tables as they were are copied to `.backup`.

    Sorts; removes BOMs, CRLF, invisible characters, blank and repeated lines; keeps only utterances that have an entry
    in every table, a transcript and, with `audio`, audio that can be decoded; makes spk2utt and utt2dur again.
    Raises SpeechMergeError, before anything is changed, where a human has to decide.
    """
    path = Path(path)
    findings = validate(path, audio, jobs, allow_pipes=allow_pipes)
    by_hand = [finding for finding in findings if finding.fix not in (fix_command(path), format_command(path))]
    if by_hand:
        raise SpeechMergeError(f"{by_hand[0]} (cannot be repaired automatically; nothing was changed)")
    if all(finding.fix == format_command(path) for finding in findings):
        return []
    back_up(path)
    files = [path / name for name in [*owned_tables(path), "labels"]]
    done = [f"{file}: lines cleaned and sorted" for file in files if clean_table(file)]
    data, _ = read_tables(path)
    done += lost_segments(data)
    suspects = {finding.id for finding in findings
                if audio and finding.file in (str(path / "wav.scp"), str(path / "segments"))}
    kept, dropped = complete_utterances(data, suspects)
    done += [f"{path}: dropped {count} utterances: {reason}" for reason, count in sorted(dropped.items())]
    if not kept:
        raise SpeechMergeError(f"{path}: no utterance would be left ({'; '.join(done)}); "
                               f"the tables as they were are in {path / BACKUP}")
    trials = data.trials and [trial for trial in data.trials if trial.enrol in kept and trial.test in kept]
    if trials != data.trials:
        done.append(f"{path}: dropped {len(data.trials) - len(trials)} trials of dropped utterances")
    if (path / UNFILTERED).is_dir():
        done.append(f"{path}: the tables before `format` were forgotten; run stage 1 again to get them back")
    DataDir(path, kept, data.labels, trials).write()
    return done or [f"{path}: spk2utt and utt2dur made again"]


def lost_segments(data: DataDir) -> list[str]:
    """What there is to say about utterances whose line in segments cannot be used; reading left them out."""
    table = data.path / "segments"
    lost = read_table(table)[0].keys() - data.utterances.keys() if table.is_file() else ()
    return [f"{data.path}: dropped {len(lost)} utterances: no usable line in segments"] if lost else []


def back_up(path: Path):
    """Copy the tables to `.backup`, unless an earlier repair has already saved the original ones there."""
    for name in [*owned_tables(path), "labels"]:
        if (path / name).is_file() and not (path / BACKUP / name).exists():
            (path / BACKUP).mkdir(exist_ok=True)
            shutil.copy2(path / name, path / BACKUP / name)


def clean_table(file: Path) -> bool:
    """Rewrite a table without what nobody sees, sorted (labels keep their order), each id once. True if it changed."""
    if not file.is_file():
        return False
    rows = {}
    for line in read_lines(file)[0]:
        line = clean_text(line)
        if line:
            rows.setdefault(line if file.name == "labels" else split_row(line)[0], line)
    lines = list(rows.values()) if file.name == "labels" else [rows[id] for id in sorted(rows)]
    text = "".join(f"{line}\n" for line in lines)
    changed = text.encode() != file.read_bytes()
    if changed:
        write_text(file, text)
    return changed


def clean_text(line: str) -> str:
    """No-break spaces and line separators become spaces, other invisible characters vanish."""
    hidden = set(invisible_characters(line))
    spaces = NO_BREAK_SPACES + "\u2028\u2029\u0085"
    return "".join(" " if c in spaces else "" if c in hidden else c for c in line).strip()


def complete_utterances(data: DataDir, suspects: set[str]) -> tuple[dict[str, Utterance], Counter]:
    """The utterances to keep, with durations of the audio where utt2dur exists, and the reasons of the others."""
    tables = {name: rows for name, rows in data.tables().items() if name not in ("spk2utt", "trials", "wav.scp")}
    kept, dropped = {}, Counter()
    for id, utterance in data.utterances.items():
        absent = [name for name, rows in tables.items() if name != "utt2dur" and not rows.get(id)]
        problem = f"no entry in {absent[0]}" if absent else audio_problem(utterance) if id in suspects else None
        if problem:
            dropped[problem] += 1
            continue
        kept[id] = utterance
        if "utt2dur" in tables and not is_pipe(utterance.audio):
            kept[id] = replace(utterance, duration=audio_info(sound_of(utterance))[0])
    return kept, dropped


def audio_problem(utterance: Utterance) -> str | None:
    """Why the audio cannot be used at all; another rate or several channels are left to `format`."""
    try:
        read_audio(sound_of(utterance), resample=True, downmix=True)
    except AudioError as error:
        return error.problem
    return None


def sound_of(utterance: Utterance) -> Sound:
    return Sound(utterance.audio, *(utterance.segment or (None, None)))
