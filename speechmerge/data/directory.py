"""A Kaldi-style data directory: what the corpora write and everything else reads.

    data = DataDir.read("data/intent/test")
    data.utterances["spk1-0003"].labels["intent"]
    DataDir("data/new", data.utterances, data.labels, data.trials).write()

Tables keyed by utterance id: `wav.scp`, `text`, `utt2spk`, `utt2lang`, `utt2dur`, label tables `utt2<name>`. Others:
`spk2utt`; `labels` (the closed label set, one per line); `trials` (`id enrol test target|nontarget`); `segments`
(`utt recording start end`): then `wav.scp` is keyed by recording.
"""
import hashlib
import os
import shutil
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from speechmerge.data.segments import ark_entry, check_json, is_pipe, parse_segments, segment_tables
from speechmerge.data.tables import Finding, fix_command, invisible_characters, read_lines, read_table, write_table
from speechmerge.errors import SpeechMergeError
from speechmerge.files import write_text

# utt2<name> tables that are not label tables; the last three are Kaldi's and ESPnet's and are ignored
KNOWN_TABLES = {"utt2spk": "speaker", "utt2lang": "language", "utt2dur": "duration"}
IGNORED_TABLES = {"utt2uniq", "utt2num_frames", "utt2num_samples"}
# utt2<name> tables beside the label table: their values are text, JSON or origin, never out of `labels`
FREE_TABLES = {"utt2corpus", "utt2gender", "utt2group", "utt2slu", "utt2question", "utt2answers", "utt2translation",
               "utt2target_lang", "utt2phones", "utt2slurp_id", "utt2candidates", "utt2rationale"}
TARGET_WORDS = {"target": True, "nontarget": False}
NO_AUDIO = "-"  # in wav.scp: of a data directory of transcripts alone
UNFILTERED = ".unfiltered"  # the tables as stage 1 wrote them, where `format` has filtered in place
SAMPLE_BYTES = 1 << 16  # the audio's fingerprint reads this much of its beginning and of its end: 4 s of 16 kHz wav


@dataclass(frozen=True)
class Utterance:
    id: str
    audio: str  # path, absolute or relative to the recipe directory; `x.ark:123`: an entry of an ark
    text: str | None = None
    speaker: str | None = None
    language: str | None = None  # Whisper code: en, it, hi, ...
    duration: float | None = None  # seconds
    labels: dict[str, str] = field(default_factory=dict)  # {"intent": "lights_on"} from utt2intent
    segment: tuple[float, float] | None = None  # start and end in seconds inside `audio`; None: all of it

    def own_file(self, directory="its data directory") -> str:
        """The path of its audio; SpeechMergeError where the utterance has none or is a stretch of a longer recording."""
        if self.audio == NO_AUDIO:
            raise SpeechMergeError(f"{directory}/wav.scp:{self.id}: has no audio, only a transcript; give --inputs text, or "
                                   "prepare the data with its audio")
        if self.segment:
            raise SpeechMergeError(f"{directory}/segments:{self.id}: a stretch of a recording, expected a file of its own; "
                                   f"run stage 2 (`speechmerge format --data {directory}`), which cuts it out")
        return self.audio


@dataclass(frozen=True)
class Trial:
    id: str
    enrol: str  # utterance id
    test: str  # utterance id
    target: bool  # same speaker


@dataclass
class DataDir:
    path: Path
    utterances: dict[str, Utterance]  # sorted by id
    labels: list[str] | None = None
    trials: list[Trial] | None = None

    def __post_init__(self):
        self.path = Path(self.path)

    @classmethod
    def read(cls, path, check: bool = True, allow_pipes: bool = False, formatted: bool = False) -> "DataDir":
        """Read a data directory.

        With `check`, anything wrong raises SpeechMergeError naming file:line:id, the problem and the command that fixes
        it; without, what can be read is returned (of duplicate ids the first; ids without audio are dropped). Audio is
        not opened. Commands in wav.scp are wrong unless `allow_pipes`; with `formatted`, segments are refused too: who
        trains and decodes reads whole files.
        """
        data, findings = read_tables(Path(path), allow_pipes)
        if check and findings:
            more = f" ({len(findings) - 1} more: `speechmerge validate --data {path}` lists them)"
            raise SpeechMergeError(f"{findings[0]}{more if len(findings) > 1 else ''}")
        for utterance in data.utterances.values() if formatted else ():
            if utterance.audio != NO_AUDIO:
                utterance.own_file(path)
        return data

    def write(self, path=None, keep_unfiltered: bool = False):
        """Write every table atomically, wav.scp last, so that a directory with a wav.scp is complete.

        What `format` kept of an earlier directory there (see data/format.py) goes, unless `keep_unfiltered`.
        """
        path = Path(path or self.path)
        path.mkdir(parents=True, exist_ok=True)
        if not keep_unfiltered:
            shutil.rmtree(path / UNFILTERED, ignore_errors=True)
        tables = self.tables()
        for stale in owned_tables(path):
            if stale not in tables:
                (path / stale).unlink()
        for name in sorted(tables, key=lambda name: (name == "wav.scp", name)):
            write_table(path / name, tables[name])
        if self.labels is None:
            (path / "labels").unlink(missing_ok=True)
        else:
            write_text(path / "labels", "".join(f"{label}\n" for label in self.labels))

    def tables(self) -> dict[str, dict[str, str]]:
        """{file name: {id: value}} of all id-keyed tables."""
        tables = defaultdict(dict)
        speakers = defaultdict(list)
        cut = any(utterance.segment for utterance in self.utterances.values())
        if cut:
            tables.update(segment_tables(self.utterances))
        for id, utterance in sorted(self.utterances.items()):
            columns = {"wav.scp": None if cut else utterance.audio, "text": utterance.text,
                       "utt2spk": utterance.speaker, "utt2lang": utterance.language}
            columns.update((f"utt2{name}", value) for name, value in utterance.labels.items())
            if utterance.duration is not None:
                columns["utt2dur"] = f"{utterance.duration:.4f}"
            for name, value in columns.items():
                if value is not None:
                    tables[name][id] = value
            if utterance.speaker is not None:
                speakers[utterance.speaker].append(id)
        if speakers:
            tables["spk2utt"] = {speaker: " ".join(ids) for speaker, ids in speakers.items()}
        if self.trials is not None:
            words = {target: word for word, target in TARGET_WORDS.items()}
            tables["trials"] = {trial.id: f"{trial.enrol} {trial.test} {words[trial.target]}" for trial in self.trials}
        return dict(tables)

    def fingerprint(self) -> str:
        """sha256 over tables and audio contents, not over paths and times, so that a copied recipe keeps its results.

        Of each audio file the size, the first and the last 64 KiB count. Raises SpeechMergeError for missing audio.
        """
        digest = hashlib.sha256()
        for name, rows in sorted(self.tables().items()):
            if name not in ("wav.scp", "segments"):
                digest.update(repr((name, sorted(rows.items()))).encode())
        digest.update(repr(self.labels).encode())
        samples = {}  # a recording may have hundreds of segments
        for id, utterance in sorted(self.utterances.items()):
            if utterance.audio not in samples:
                samples[utterance.audio] = audio_sample(self.path, id, utterance.audio)
            digest.update(id.encode() + samples[utterance.audio])
            if utterance.segment:
                digest.update(repr(utterance.segment).encode())
        return digest.hexdigest()


def audio_sample(directory: Path, id: str, audio: str) -> bytes:
    """Size and a digest of both ends of an audio file; of an ark, one from the entry on; of a command, of its text."""
    if is_pipe(audio) or audio == NO_AUDIO:
        return hashlib.sha256(audio.encode()).digest()
    path, offset = ark_entry(audio) or (audio, None)
    try:
        with open(path, "rb") as file:
            if offset is not None:
                file.seek(offset)
                return hashlib.sha256(file.read(SAMPLE_BYTES)).digest()
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.sha256(file.read(SAMPLE_BYTES))
            if size > SAMPLE_BYTES:
                file.seek(max(SAMPLE_BYTES, size - SAMPLE_BYTES))
                digest.update(file.read())
    except OSError as error:
        raise SpeechMergeError(f"{directory / 'wav.scp'}:{id}: cannot read {audio} ({error.strerror}); "
                               f"make the audio again or {fix_command(directory)}") from error
    return str(size).encode() + digest.digest()


def owned_tables(path: Path) -> list[str]:
    """The tables in a directory that this module reads or writes."""
    named = {"wav.scp", "segments", "text", "spk2utt", "trials"}
    return sorted(file.name for file in path.iterdir() if file.is_file() and file.name not in IGNORED_TABLES
                  and (file.name in named or (file.name.startswith("utt2") and file.name[4:].isidentifier())))


def read_tables(path: Path, allow_pipes: bool = False) -> tuple[DataDir, list[Finding]]:
    """A data directory and everything that is wrong with its tables. Raises only where there is nothing to read."""
    if not (path / "wav.scp").is_file():
        problem = "no wav.scp in this data directory" if path.is_dir() else "no such data directory"
        raise SpeechMergeError(f"{path}: {problem}; run stage 1 (`speechmerge prepare`) or give another --data")
    findings, tables = [], {}
    for name in owned_tables(path):
        tables[name], found = read_table(path / name)
        findings += found
    findings += check_wav_scp(path, tables["wav.scp"], allow_pipes)
    findings += check_id_sets(path, tables)
    findings += check_spk2utt(path, tables)
    findings += check_json(path, tables)
    durations, found = parse_durations(path, tables.pop("utt2dur", None))
    sources, segment_findings = find_sources(path, tables)
    findings += segment_findings
    utterances = make_utterances(tables, durations, sources)
    trials, trial_findings = parse_trials(path, tables.get("trials"), utterances)
    labels, label_findings = read_labels(path / "labels")
    label_findings += check_labels(path, tables, labels)
    return DataDir(path, utterances, labels, trials), findings + found + trial_findings + label_findings


def find_sources(path: Path, tables):
    """{utterance: (audio, segment or None)}, and what is wrong with `segments`."""
    recordings = located(path, {id: value for id, (value, _) in tables["wav.scp"].items()})
    if "segments" not in tables:
        return {id: (audio, None) for id, audio in recordings.items()}, []
    segments, findings = parse_segments(path, tables["segments"], recordings)
    return {id: (recordings[recording], times) for id, (recording, times) in segments.items()}, findings


def located(path: Path, recordings: dict[str, str]) -> dict[str, str]:
    """Relative paths are as seen from the recipe's folder; read from elsewhere, they begin at the folder above the data
    directory where the first of them is there."""
    first = next((audio for audio in recordings.values() if audio != NO_AUDIO and not is_pipe(audio)), "/")
    file = (ark_entry(first) or (first, None))[0]
    if os.path.isabs(file) or os.path.exists(file):
        return recordings
    for folder in path.resolve().parents:
        if (folder / file).exists():
            return {id: audio if os.path.isabs(audio) or is_pipe(audio) or audio == NO_AUDIO else os.path.join(folder, audio)
                    for id, audio in recordings.items()}
    return recordings


def make_utterances(tables, durations, sources) -> dict[str, Utterance]:
    label_tables = [n for n in tables if n.startswith("utt2") and n not in KNOWN_TABLES]

    def value(table, id):
        return tables[table][id][0] if id in tables.get(table, {}) else None

    utterances = {}
    for id, (audio, segment) in sorted(sources.items()):
        labels = {name[4:]: tables[name][id][0] for name in label_tables if id in tables[name]}
        columns = [value(table, id) for table in ("text", "utt2spk", "utt2lang")]
        utterances[id] = Utterance(id, audio, *columns, durations.get(id), labels, segment)
    return utterances


def check_wav_scp(path: Path, rows, allow_pipes: bool) -> list[Finding]:
    file, findings = str(path / "wav.scp"), []
    if not rows:
        findings.append(Finding(file, None, None, "no utterances", "run stage 1 (`speechmerge prepare`) again"))
    for id, (value, line) in rows.items():
        if is_pipe(value) and not allow_pipes:
            findings.append(Finding(file, line, id, f"command pipe {value[:60]!r}: commands are not run",
                                    "where you trust their author, `speechmerge format --allow-pipes true` runs them "
                                    "once; else put the path of the audio file here"))
    return findings


def check_id_sets(path: Path, tables) -> list[Finding]:
    """Every utterance table must have exactly the ids of wav.scp, or of segments where there are some."""
    main = "segments" if "segments" in tables else "wav.scp"
    findings, audio = [], tables[main]
    for name, rows in tables.items():
        if name in ("wav.scp", "segments", "spk2utt", "trials"):
            continue
        for here, there, there_name in (((name, rows), audio, main), ((main, audio), rows, name)):
            extra = sorted(here[1].keys() - there.keys())
            if extra:
                problem = f"{len(extra)} id(s) not in {there_name}, this is the first"
                line = here[1][extra[0]][1]
                findings.append(Finding(str(path / here[0]), line, extra[0], problem, fix_command(path)))
    return findings


def check_spk2utt(path: Path, tables) -> list[Finding]:
    if "spk2utt" not in tables or "utt2spk" not in tables:
        return []
    expected = defaultdict(set)
    for id, (speaker, _) in tables["utt2spk"].items():
        expected[speaker].add(id)
    for speaker in sorted(expected.keys() | tables["spk2utt"].keys()):
        value, line = tables["spk2utt"].get(speaker, ("", None))
        if set(value.split()) != expected.get(speaker, set()):
            return [Finding(str(path / "spk2utt"), line, speaker, "does not agree with utt2spk", fix_command(path))]
    return []


def parse_durations(path: Path, rows) -> tuple[dict[str, float], list[Finding]]:
    durations, findings = {}, []
    for id, (value, line) in (rows or {}).items():
        try:
            durations[id] = float(value)
        except ValueError:
            durations[id] = -1.0
        if not 0 < durations[id] < float("inf"):
            del durations[id]
            findings.append(Finding(str(path / "utt2dur"), line, id, f"found {value!r}, expected a duration in seconds",
                                    fix_command(path)))
    return durations, findings


def parse_trials(path: Path, rows, utterances) -> tuple[list[Trial] | None, list[Finding]]:
    if rows is None:
        return None, []
    trials, findings, file = [], [], str(path / "trials")
    for id, (value, line) in rows.items():
        columns = value.split()
        if len(columns) != 3 or columns[2] not in TARGET_WORDS:
            findings.append(Finding(file, line, id, f"found {value!r}, expected `enrol_utt test_utt target|nontarget`",
                                    "correct the line"))
            continue
        unknown = [utterance for utterance in columns[:2] if utterance not in utterances]
        if unknown:
            findings.append(Finding(file, line, id, f"utterance {unknown[0]!r} is not in wav.scp", fix_command(path)))
            continue
        trials.append(Trial(id, columns[0], columns[1], TARGET_WORDS[columns[2]]))
    return sorted(trials, key=lambda trial: trial.id), findings


def read_labels(path: Path) -> tuple[list[str] | None, list[Finding]]:
    """The closed label set, in the order of the file."""
    if not path.is_file():
        return None, []
    lines, findings = read_lines(path)
    labels = []
    for number, line in enumerate(lines, 1):
        problem = ("empty line" if not line.strip() else f"duplicate label {line.strip()!r}" if line.strip() in labels
                   else "invisible character" if invisible_characters(line) else None)
        if problem:
            findings.append(Finding(str(path), number, None, problem, fix_command(path.parent)))
        if line.strip() and line.strip() not in labels:
            labels.append(line.strip())
    return labels, findings


def check_labels(path: Path, tables, labels) -> list[Finding]:
    """Where one label table stands beside `labels`, its values must come from there."""
    names = [name for name in tables if name.startswith("utt2") and name not in {*KNOWN_TABLES, *FREE_TABLES}]
    if labels is None or len(names) != 1:
        return []
    return [Finding(str(path / names[0]), line, id, f"label {value!r} is not in {path / 'labels'}",
                    "add it there in all splits, or correct the line")
            for id, (value, line) in tables[names[0]].items() if value and value not in labels][:1]
