"""SLURP: commands to a home assistant with scenario, action and entities (text CC BY 4.0, audio CC BY-NC 4.0).

    speechmerge prepare --corpus slurp --corpus-dir /corpora/slurp --tasks intent slu
    speechmerge prepare --corpus slurp --param recordings=best train=train,train_synthetic
    speechmerge prepare --corpus slurp --tasks slu --param audio=none     # transcripts alone: one utterance per prompt

Below --corpus-dir as in the publisher's repository, `dataset/slurp/{train,train_synthetic,devel,test}.jsonl` and
`metadata.json`, and `audio/slurp_real`, `audio/slurp_synth`. A line is a prompt with all its recordings:

    {"slurp_id": 4318, "sentence": "wake me up at ten", "intent": "alarm_set", "action": "set", "scenario": "alarm",
     "tokens": [{"surface": "wake", ...}, ...], "recordings": [{"file": "audio--1504194842.flac", "wer": 0.0, ...}],
     "entities": [{"span": [4], "type": "time"}], ...}

The intent is scenario_action, as the official evaluator makes it; the field `intent` says something else for every
seventieth prompt and is not read. A filler is the lower-cased surfaces of the span's tokens ("jessica 's").
"""
import json
import logging
from dataclasses import dataclass
from pathlib import Path

from speechmerge.corpora.base import CORPORA
from speechmerge.corpora.lines import numbered_lines
from speechmerge.corpora.published import Archive, PublishedCorpus, Reading, Split
from speechmerge.corpora.slurp.frames import TASKS, intents_of, label
from speechmerge.data.directory import NO_AUDIO, Utterance
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.files import read_json
from speechmerge.registry import nearest

log = logging.getLogger(__name__)
COMMIT = "8eb16545762be97ace75334109d73824217311f1"  # of the publisher's repository
TEXT = f"https://raw.githubusercontent.com/pswietojanski/slurp/{COMMIT}"
AUDIO = "https://zenodo.org/record/4274930/files"
FOLDERS = {"train": "slurp_real", "train_synthetic": "slurp_synth", "devel": "slurp_real", "test": "slurp_real"}
RECORDINGS = ("all", "best", "headset")
# Recordings of the release by the option `recordings`; those of the training sets are not known
EXPECTED = {"all": {"dev": 8690, "test": 13078}, "best": {"dev": 2033, "test": 2974},
            "headset": {"dev": 4173, "test": 6281}}
AUDIO_KINDS = ("files", "none")
SYNTHETIC = "synthetic"  # the speaker of train_synthetic
UNKNOWN = "unknown"  # the speaker of recordings that metadata.json does not name


@CORPORA.register("slurp")
class Slurp(PublishedCorpus):
    """SLURP: commands to a home assistant, real and synthetic (Zenodo 4274930, text CC BY 4.0, audio CC BY-NC 4.0)"""

    tasks = TASKS
    licence = "text CC BY 4.0, audio CC BY-NC 4.0"
    homepage = "https://github.com/pswietojanski/slurp"
    layout = "dataset/slurp/*.jsonl, dataset/slurp/metadata.json and audio/{slurp_real,slurp_synth}/*.flac"

    @dataclass(frozen=True)
    class Options:
        """train: `train`, `train_synthetic` or both. recordings: `all`, each prompt's `best` by WER, or `headset`.

        audio: `files`, or `none`: prompts as written, for models that read. download=false: what is there is unpacked
        where it must be, nothing is fetched.
        """

        train: tuple[str, ...] = ("train",)
        recordings: str = "all"
        audio: str = "files"
        download: bool = True

        def __post_init__(self):
            for name in self.train:
                if name not in ("train", "train_synthetic"):
                    raise UsageError(f"slurp: train={name}; {nearest(name, ('train', 'train_synthetic'))}")
            if not self.train:
                raise UsageError("slurp: train is empty, expected train, train_synthetic or both")
            if self.recordings not in RECORDINGS:
                raise UsageError(f"slurp: recordings={self.recordings}; {nearest(self.recordings, RECORDINGS)}")

            if self.audio not in AUDIO_KINDS:
                raise UsageError(f"slurp: audio={self.audio}; {nearest(self.audio, AUDIO_KINDS)}")

        def sources(self) -> dict[str, tuple[str, ...]]:
            """Our split -> the publisher's. The held-out ones come first: what they have is not for training."""
            return {"test": ("test",), "dev": ("devel",), "train": self.train}

    def archives(self, options) -> list[Archive]:
        names = [name for sources in options.sources().values() for name in sources]
        if options.audio == "none":
            return [Archive(f"{TEXT}/dataset/slurp/{name}.jsonl", makes=f"dataset/slurp/{name}.jsonl", unpack=False)
                    for name in names]
        texts = [f"dataset/slurp/{name}" for name in [*(f"{name}.jsonl" for name in names), "metadata.json"]]
        folders = sorted({FOLDERS[name] for name in names})
        return [*(Archive(f"{TEXT}/{text}", makes=text, unpack=False) for text in texts),
                *(Archive(f"{AUDIO}/{name}.tar.gz", makes=f"audio/{name}", into="audio") for name in folders)]

    def provide(self, request, options):
        archives = [] if options.download or request.mini else self.archives(options)
        for archive in archives:
            if not (request.root / archive.makes).exists() and not (request.root / archive.file).is_file():
                raise SpeechMergeError(f"{request.root / archive.makes}: not there, nor {archive.file}, and download=false; "
                                       f"copy it from {archive.url}, or leave download=false out")
        super().provide(request, options)

    def expected(self, task, options) -> dict[str, int]:
        return EXPECTED["best" if options.audio == "none" else options.recordings]

    def read(self, root: Path, task: str, options) -> Reading:
        spoken = options.audio == "files"
        speakers = read_speakers(root / "dataset/slurp/metadata.json") if spoken else {}
        reading, seen = Reading({}), set()
        for split, sources in options.sources().items():
            found = {}
            for source in sources:
                for prompt in read_prompts(root / "dataset/slurp" / f"{source}.jsonl"):
                    folder = root / "audio" / FOLDERS[source]
                    add_prompt(found, seen, prompt, folder if spoken else None, task, options, speakers, reading.skipped)
            seen |= found.keys()
            reading.splits[split] = Split(found)
        for split in reading.splits.values():
            split.labels = intents_of(reading.splits, task)
        if spoken:
            warn_of_unknown(reading)
        return reading

    def twin_expected(self, task, options) -> dict[str, int]:
        from speechmerge.corpora.slurp.twin import expected

        return expected(options)

    def write_twin(self, root: Path, seed: int, nj: int):
        from speechmerge.corpora.slurp.twin import write_twin

        write_twin(root, seed, nj)


def read_prompts(path: Path):
    """(place, prompt) of each line. SpeechMergeError with file:line for one that is no prompt."""
    for number, line in numbered_lines(path):
        place = f"{path}:{number}"
        try:
            prompt = json.loads(line)
        except ValueError as error:
            raise SpeechMergeError(f"{place}: is not JSON ({error}); fetch the file again") from error
        missing = [key for key in ("slurp_id", "sentence", "scenario", "action", "tokens", "recordings", "entities")
                   if not isinstance(prompt, dict) or key not in prompt]
        if missing:
            raise SpeechMergeError(f"{place}: no {missing[0]!r}, expected a prompt of SLURP; fetch the file again")
        yield place, prompt


def add_prompt(found: dict, seen: set, prompt, folder: Path | None, task: str, options, speakers: dict, skipped):
    """The chosen recordings of a prompt; without a folder of audio the prompt itself, under its slurp_id. Of what is in
    two splits the held-out ones keep it."""
    place, prompt = prompt
    labels = label(task, prompt["scenario"], prompt["action"], entities_of(prompt, place), prompt["slurp_id"])
    text, id = " ".join(prompt["sentence"].split()), str(prompt["slurp_id"])
    if folder is None:
        takes = {Path(recording["file"]).stem for recording in prompt["recordings"]}
        if id in found or id in seen or takes <= seen:
            skipped["prompt that is there already"] += 1
        else:
            seen |= takes
            found[id] = Utterance(id, NO_AUDIO, text, None, "en", None, labels)
        return
    kind = SYNTHETIC if folder.name == FOLDERS["train_synthetic"] else UNKNOWN
    for recording in choose(prompt["recordings"], options.recordings if kind != SYNTHETIC else "all"):
        id = Path(recording["file"]).stem
        if id in found or id in seen:
            skipped["recording in a split twice" if id in found else "recording that dev or test has"] += 1
            continue
        speaker = speakers.get(recording["file"], kind)
        found[id] = Utterance(id, str(folder / recording["file"]), text, speaker, "en", None, labels)


def entities_of(prompt: dict, place: str) -> list[dict]:
    """[{type, filler}] as the official evaluator has them. SpeechMergeError for a span outside the sentence."""
    surfaces = [token["surface"] for token in prompt["tokens"]]
    entities = []
    for entity in prompt["entities"]:
        if not entity["span"] or not all(0 <= index < len(surfaces) for index in entity["span"]):
            raise SpeechMergeError(f"{place}: entity {entity['type']} spans {entity['span']}, found {len(surfaces)} "
                                   "tokens; fetch the file again")
        filler = " ".join(surfaces[index] for index in entity["span"]).lower()
        entities.append({"type": entity["type"], "filler": filler})
    return entities


def choose(recordings: list[dict], which: str) -> list[dict]:
    """`best`: the lowest WER of the publisher's recogniser; of equals the headset's, then the first by name."""
    if which == "headset":
        return [recording for recording in recordings if is_headset(recording)]
    if which == "best":
        return sorted(recordings, key=badness)[:1]
    return recordings


def is_headset(recording: dict) -> bool:
    return recording["file"].endswith("-headset.flac")


def badness(recording: dict) -> tuple:
    wer = recording.get("wer")
    return float("inf") if wer is None else wer, not is_headset(recording), recording["file"]


def read_speakers(path: Path) -> dict[str, str]:
    """{file: usrid} of metadata.json, {slurp_id: {"recordings": {file: {"usrid": "FE-141", ...}}}}."""
    if not path.is_file():
        raise SpeechMergeError(f"{path}: not there; it says who speaks. Complete the folder {path.parent.name}")
    try:
        prompts = read_json(path).values()
        return {file: about["usrid"] for prompt in prompts for file, about in prompt["recordings"].items()}
    except (KeyError, AttributeError, TypeError) as error:
        raise SpeechMergeError(f"{path}: found no recordings with a usrid ({error!r}); fetch the file again") from error


def warn_of_unknown(reading: Reading):
    for name, split in reading.splits.items():
        unknown = [id for id, utterance in split.utterances.items() if utterance.speaker == UNKNOWN]
        if unknown:
            log.warning("slurp %s: metadata.json does not say who speaks in %d recordings, such as %s", name,
                        len(unknown), unknown[0])
