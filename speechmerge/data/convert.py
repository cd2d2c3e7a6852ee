"""One utterance's audio -> `audio/<id>.flac`: cut, 16 kHz, mono, and where wanted trimmed and equally loud.

    converter = Converter(Path("data/asr/train/audio"), Settings(loudness=-23.0))
    converted = converter.convert([utterance])

What was converted is kept: `.origins` in the folder says of each file what it was made of, so that a killed run goes on
and another source, segment or setting makes the file again.
"""
import json
import threading
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path

from speechmerge.data.audio import RATE, AudioError, Sound, audio_info, read_audio, write_audio
from speechmerge.data.directory import Utterance
from speechmerge.data.loudness import normalise_loudness, trim_silence
from speechmerge.data.segments import ark_entry, is_pipe
from speechmerge.errors import UsageError

KEPT_SUFFIXES = (".wav", ".flac")
ORIGINS = ".origins"
LOUDEST, QUIETEST = 0.0, -70.0  # LUFS


@dataclass(frozen=True)
class Settings:
    audio_format: str = "flac"
    loudness: float | None = None  # LUFS
    trim_silence: float | None = None  # dB below the loudest 25 ms
    trim_margin: float = 0.1  # s of silence that stay
    allow_pipes: bool = False

    def __post_init__(self):
        if self.loudness is not None and not QUIETEST < self.loudness < LOUDEST:
            raise UsageError(f"--loudness: found {self.loudness:g}, expected LUFS between {QUIETEST:g} and {LOUDEST:g}")
        if self.trim_silence is not None and not 0 < self.trim_silence <= 120:
            raise UsageError(f"--trim-silence: found {self.trim_silence:g}, expected dB above 0, such as 40")
        if self.trim_margin < 0:
            raise UsageError(f"--trim-margin: found {self.trim_margin:g}, expected seconds, at least 0")

    def changes_sound(self) -> bool:
        return self.loudness is not None or self.trim_silence is not None


@dataclass(frozen=True)
class Converted:
    utterance: Utterance
    changes: tuple[str, ...] = ()  # names as in stats.json
    problem: str | None = None


class Converter:
    def __init__(self, folder: Path, settings: Settings):
        self.folder, self.settings, self.writing = folder, settings, threading.Lock()
        self.origins = read_origins(folder / ORIGINS)

    def convert(self, utterances: list[Utterance]) -> list[Converted]:
        """Utterances of one stretch of one file, which share what is made; with durations and, if converted, paths."""
        first = utterances[0]
        try:
            seconds, rate, channels = self._look(first)
            if self._stays(first, rate, channels):
                seconds = len(read_audio(first.audio)) / RATE
                return [Converted(replace(utterance, duration=seconds)) for utterance in utterances]
            made = self._target(first)
            changes = [("resampled", rate not in (RATE, None)), ("downmixed", (channels or 1) > 1),
                       ("cut", first.segment is not None), ("from commands", is_pipe(first.audio))]
            changes = [name for name, changed in changes if changed]
            if not self._up_to_date(made, first):
                changes += self._make(made, first)
            seconds = audio_info(made)[0]
        except AudioError as error:
            return [Converted(utterance, problem=error.problem) for utterance in utterances]
        return [Converted(replace(utterance, audio=str(made), duration=seconds, segment=None), tuple(changes))
                for utterance in utterances]

    def _look(self, utterance: Utterance):
        """(seconds, rate, channels); of a command nothing is known before it runs."""
        if is_pipe(utterance.audio):
            return None, None, None
        return audio_info(Sound(utterance.audio, *(utterance.segment or (None, None))))

    def _stays(self, utterance: Utterance, rate: int, channels: int) -> bool:
        whole = utterance.segment is None and not self.settings.changes_sound()
        return whole and rate == RATE and channels == 1 and Path(utterance.audio).suffix.lower() in KEPT_SUFFIXES

    def _target(self, utterance: Utterance) -> Path:
        made = self.folder / f"{utterance.id}.{self.settings.audio_format}"
        if made.resolve() == Path(utterance.audio).resolve():  # never the file that it is made of
            return made.with_name(f"{utterance.id}-formatted.{self.settings.audio_format}")
        return made

    def _make(self, made: Path, utterance: Utterance) -> list[str]:
        start, end = utterance.segment or (None, None)
        samples = read_audio(utterance.audio, resample=True, downmix=True, start=start, end=end,
                             allow_pipes=self.settings.allow_pipes)
        changes = []
        if self.settings.trim_silence is not None:
            before = len(samples)
            samples = trim_silence(samples, RATE, self.settings.trim_silence, self.settings.trim_margin)
            changes += ["trimmed"] if len(samples) < before else []
        if self.settings.loudness is not None:
            samples, limited = normalise_loudness(samples, RATE, self.settings.loudness)
            changes += ["made as loud as full scale allows"] if limited else ["normalised"]
        write_audio(made, samples)
        self._remember(made.name, self._origin(utterance))
        return changes

    def _origin(self, utterance: Utterance) -> str:
        settings = {name: value for name, value in asdict(self.settings).items() if name != "allow_pipes"}
        return sha256(json.dumps([utterance.audio, utterance.segment, settings]).encode()).hexdigest()

    def _up_to_date(self, made: Path, utterance: Utterance) -> bool:
        """A converted file is whole (it was renamed when complete); it is old where its source was changed after it."""
        if not made.is_file() or self.origins.get(made.name) != self._origin(utterance):
            return False
        if is_pipe(utterance.audio):
            return True
        source = (ark_entry(utterance.audio) or (Path(utterance.audio),))[0]
        return made.stat().st_mtime >= source.stat().st_mtime

    def _remember(self, name: str, origin: str):
        """One line per file, appended when it is complete."""
        with self.writing, open(self.folder / ORIGINS, "a", encoding="utf-8") as file:
            file.write(f"{name} {origin}\n")
            self.origins[name] = origin


def read_origins(path: Path) -> dict[str, str]:
    """{file name: origin}; the last line of a name counts, half a line of a killed process does not match anything."""
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").split("\n")
    return {name: origin for name, _, origin in (line.rpartition(" ") for line in lines)}
