"""VoxCeleb1 (VGG): celebrities on YouTube, to be identified, or verified by pairs.

    speechmerge prepare --corpus voxceleb --corpus-dir /corpora --tasks speaker_id,speaker_ver
    speechmerge prepare --corpus voxceleb --corpus-dir /corpora --tasks speaker_ver --param trials=O-cleaned
    speechmerge prepare --corpus voxceleb --corpus-dir /corpora --tasks speaker_id --param speakers=100

speaker_id goes by `iden_split.txt` (`<1 train, 2 dev, 3 test> id10003/na8-QEFmj44/00003.wav`), whose utterances lie in
`dev/` as well as in `test/`. speaker_ver is tested on the publisher's trials (`<1 same, 0 not> <wav> <wav>`) and
trained on pairs that are drawn here, of speakers who are in no trial.
"""
import logging
import random
import re
from dataclasses import dataclass, replace
from pathlib import Path

from speechmerge.corpora.base import CORPORA
from speechmerge.corpora.download import Archive, fetch_all
from speechmerge.corpora.lines import numbered_lines
from speechmerge.corpora.published import TWIN, PublishedCorpus, Reading, Split
from speechmerge.corpora.stretches import beginning
from speechmerge.corpora.voxceleb import twin
from speechmerge.corpora.voxceleb.archives import AUDIO, FOLDERS, provide_folders
from speechmerge.corpora.voxceleb.pairs import draw_pairs
from speechmerge.data.directory import Trial, Utterance
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.registry import nearest

log = logging.getLogger(__name__)
META_URL = "https://www.robots.ox.ac.uk/~vgg/data/voxceleb/meta"
TRIALS = {"O": "veri_test.txt", "O-cleaned": "veri_test2.txt", "E": "list_test_all.txt",
          "E-cleaned": "list_test_all2.txt", "H": "list_test_hard.txt", "H-cleaned": "list_test_hard2.txt"}
IDENTIFICATION = ("iden_split.txt", "veri_test_class.txt")  # the latter is s3prl's name of the same list
SPEAKERS = "vox1_meta.csv"
LABELS = ("auto", "id", "name")
SPLITS = {"1": "train", "2": "dev", "3": "test"}
COUNTS = {"train": 138361, "dev": 6904, "test": 8251}
TRIAL_COUNTS = {"O": 37720}
WAV = re.compile(r"(id1[0-9]{4})/([^/\s]+)/([0-9]{5})\.wav")
# Share of the training speakers whose pairs are the dev set, and at least so many: two of three have the same gender
DEV_SPEAKERS = (0.04, 3)


@CORPORA.register("voxceleb")
class VoxCeleb(PublishedCorpus):
    """VoxCeleb1: 1251 celebrities in interviews, speaker identification and verification (VGG, CC BY 4.0)"""

    tasks = ("speaker_id", "speaker_ver")
    licence = "CC BY 4.0; the publisher gives it to those who register"
    homepage = "https://www.robots.ox.ac.uk/~vgg/data/voxceleb/vox1.html"
    layout = "VoxCeleb1/{dev,test}/wav/id1XXXX/<video>/<number>.wav, or vox1_dev_wav_parta{a..d} and vox1_test_wav.zip"
    obtain = ("Register with the publisher (form on https://mm.kaist.ac.kr/datasets/voxceleb/), fetch "
              "vox1_dev_wav_partaa, -ab, -ac, -ad and vox1_test_wav.zip into the folder that you give as --corpus-dir: "
              "they are joined, checked and unpacked. Or let a copy on Hugging Face be fetched: --param fetch=true.")

    @dataclass(frozen=True)
    class Options:
        """trials: the list to test on: O (the original one of 37720), E, H, O-cleaned and so on. E and H are about all
        speakers of VoxCeleb1, so that none is left to train on: only the test set is made.

        positive_pairs, negative_pairs: training pairs for each speaker, of one speaker and of two. same_gender: two
        speakers are both women or both men. other_video: a speaker's pair comes from two videos, where there are two.
        speakers: only so many, drawn at random (speaker_ver: of those to train on). longest: seconds of a file that
        are used, 0: all. draw: seed of what is drawn. fetch: the audio from ProgramComputer/voxceleb on Hugging Face.

        labels: of speaker_id, `id`, or `name`, as vox1_meta.csv has it, in lower case; auto: ids, but names in the
        miniature, since the mini base writes no numbers.
        """

        trials: str = "O"
        positive_pairs: int = 15
        negative_pairs: int = 15
        same_gender: bool = False
        other_video: bool = True
        speakers: int = 0
        longest: float = 30.0
        draw: int = 1
        labels: str = "auto"
        fetch: bool = False

        def __post_init__(self):
            if self.trials not in TRIALS:
                raise UsageError(f"voxceleb: no trials {self.trials!r}; {nearest(self.trials, TRIALS)}")
            if self.labels not in LABELS:
                raise UsageError(f"voxceleb: labels {self.labels!r}; {nearest(self.labels, LABELS)}")
            if min(self.positive_pairs, self.negative_pairs) < 1 or self.speakers < 0 or self.longest < 0:
                raise UsageError("voxceleb: expected positive_pairs and negative_pairs of 1 or more, speakers and "
                                 "longest of 0 or more")

    def archives(self, options) -> list[Archive]:
        return AUDIO if options.fetch else []

    def present(self, root: Path, options) -> bool:
        return any((root / place).exists() for folder in FOLDERS for place in folder.places())

    def read(self, root: Path, task: str, options) -> Reading:
        finder = Finder(root, options.longest)
        return read_identification(finder, options) if task == "speaker_id" else read_verification(finder, options)

    def expected(self, task, options) -> dict[str, int]:
        if task == "speaker_ver":
            return {"test": TRIAL_COUNTS[options.trials]} if options.trials in TRIAL_COUNTS else {}
        return {} if options.speakers else COUNTS

    def write_twin(self, root: Path, seed: int, nj: int):
        twin.write(root, seed, nj)

    def twin_expected(self, task, options) -> dict[str, int]:
        if task == "speaker_ver":
            return {"test": twin.TRIALS[TRIALS[options.trials]]}
        return {} if options.speakers else {split: count * twin.SPEAKERS for split, count in twin.COUNTS.items()}


@dataclass(frozen=True)
class Person:
    """A speaker; names without blanks, in lower case."""

    name: str
    gender: str  # f or m


class Finder:
    """Where the files of a corpus folder are: audio by speaker, lists by name."""

    def __init__(self, root: Path, longest: float):
        self.root, self.longest = root, longest
        self.folders = provide_folders(root)

    def audio(self, wav: str) -> Path:
        """The path of `id10003/na8-QEFmj44/00003.wav`, below dev or test; where it would be if it is missing."""
        places = self.folders.get(wav.split("/")[0], [self.root / "VoxCeleb1" / "dev" / "wav"])
        return next((place / wav for place in places[:-1] if (place / wav).is_file()), places[-1] / wav)

    def utterance(self, wav: str, labels: dict) -> Utterance:
        speaker, path = wav.split("/")[0], self.audio(wav)
        segment = beginning(path, self.longest)
        return Utterance(utterance_id(wav), str(path), None, speaker, labels=labels, segment=segment)

    def list(self, *names: str) -> Path:
        """A list of the publisher under one of its names; the first is fetched where none is there."""
        path = self.optional(*names)
        if path is None:
            path = self.root / names[0]
            fetch_all([Archive(f"{META_URL}/{names[0]}", makes=names[0], unpack=False)], self.root)
        return path

    def optional(self, *names: str) -> Path | None:
        places = (self.root, self.root / "VoxCeleb1", self.root / "meta", self.root / "vox1")
        return next((place / name for name in names for place in places if (place / name).is_file()), None)

    def table(self, needed: bool) -> dict[str, Person]:
        """The speakers of vox1_meta.csv; nothing where it is not there and not needed."""
        path = self.list(SPEAKERS) if needed else self.optional(SPEAKERS)
        return read_table(path) if path else {}


def utterance_id(wav: str) -> str:
    return wav.removesuffix(".wav").replace("/", "-")


def read_table(path: Path) -> dict[str, Person]:
    """{id: speaker} of vox1_meta.csv, which is separated by tabs: id, name, gender, nationality, set."""
    people = {}
    for number, line in numbered_lines(path):
        fields = [field.strip() for field in line.split("\t")]
        if number > 1:
            if len(fields) != 5 or fields[2].lower() not in ("f", "m"):
                raise SpeechMergeError(f"{path}:{number}: found {line[:60]!r}, expected id, name, m or f, nationality, "
                                       "set, separated by tabs (vox2_meta.csv, with commas, is another file)")
            people[fields[0]] = Person("_".join(fields[1].lower().split()), fields[2].lower())
    return people


def read_list(path: Path, wavs: int, marks: str) -> list[tuple[int, str, list[str]]]:
    """(line number, mark, wavs) of a list of the publisher, such as `1 id10003/na8-QEFmj44/00003.wav`."""
    rows = []
    for number, line in numbered_lines(path):
        mark, *found = line.split()
        if mark not in marks or len(found) != wavs or not all(map(WAV.fullmatch, found)):
            named = " (an older release's, with names)" if len(found) == wavs and "/" in line else ""
            raise SpeechMergeError(f"{path}:{number}: found {line[:80]!r}{named}, expected {' or '.join(marks)} and "
                                   f"{wavs} of id1XXXX/<video>/<number>.wav; fetch it from {META_URL}")
        rows.append((number, mark, found))
    return rows


def labels_of(wav: str, people: dict[str, Person]) -> dict[str, str]:
    """utt2group, the video, and utt2gender where vox1_meta.csv is there."""
    speaker, video, _ = wav.split("/")
    gender = {"gender": people[speaker].gender} if people else {}
    return {"group": f"{speaker}/{video}", **gender}


def known_people(people: dict[str, Person], speakers) -> dict[str, Person]:
    unknown = sorted(set(speakers) - people.keys()) if people else []
    if unknown:
        raise SpeechMergeError(f"{SPEAKERS}: says nothing of {len(unknown)} speakers, the first is {unknown[0]}; "
                               f"fetch it from {META_URL}")
    return people


def some_speakers(speakers, options) -> list[str]:
    """All, or as many as the option says, sorted."""
    speakers = sorted(speakers)
    if options.speakers > len(speakers):
        raise UsageError(f"voxceleb: speakers={options.speakers}, but there are {len(speakers)}")
    if not options.speakers:
        return speakers
    return sorted(random.Random(f"speakers:{options.draw}").sample(speakers, options.speakers))


def read_identification(finder: Finder, options) -> Reading:
    path = finder.list(*IDENTIFICATION)
    rows = [(SPLITS[mark], wav) for _, mark, (wav,) in read_list(path, 1, "123")]
    chosen = some_speakers({wav.split("/")[0] for _, wav in rows}, options)
    named = options.labels == "name" or options.labels == "auto" and (finder.root / TWIN).is_file()
    people = known_people(finder.table(needed=named), chosen)
    labels = {id: people[id].name if named else id for id in chosen}
    reading = Reading({split: Split({}, list(labels.values())) for split in SPLITS.values()})
    for split, wav in rows:
        if wav.split("/")[0] not in labels:
            reading.skipped["utterances of other speakers"] += 1
            continue
        utterance = replace(finder.utterance(wav, labels_of(wav, people)), speaker=labels[wav.split("/")[0]])
        if reading.splits[split].utterances.setdefault(utterance.id, utterance) is not utterance:
            raise SpeechMergeError(f"{path}: {wav} stands there twice; fetch it from {META_URL}")
    return reading


def read_verification(finder: Finder, options) -> Reading:
    trials, wavs = read_trials(finder.list(TRIALS[options.trials]))
    tested = {wav.split("/")[0] for wav in wavs.values()}
    own = untested(finder, tested) if options.trials in ("O", "O-cleaned") else {}
    speakers = some_speakers(own, options) if own else []
    people = known_people(finder.table(options.same_gender), {*speakers, *tested})
    utterances = {id: finder.utterance(wav, labels_of(wav, people)) for id, wav in wavs.items()}
    splits = {"test": Split(utterances, trials=trials)}
    if not speakers:
        log.warning("voxceleb: trials %s are about all speakers: train and dev are not made, the test set is for a "
                    "model that is trained elsewhere", options.trials)
        return Reading(splits)
    for split, names in dev_speakers(speakers, options).items():
        splits[split] = pair_split(finder, {name: sorted(own[name]) for name in names}, people, options)
    return Reading(splits)


def untested(finder: Finder, tested: set[str]) -> dict[str, list[str]]:
    """{speaker: wavs} of all utterances by speakers who are in no trial."""
    own: dict[str, list[str]] = {}
    for _, _, (wav,) in read_list(finder.list(*IDENTIFICATION), 1, "123"):
        if wav.split("/")[0] not in tested:
            own.setdefault(wav.split("/")[0], []).append(wav)
    return own


def read_trials(path: Path) -> tuple[list[Trial], dict[str, str]]:
    """The trials in the order of the list, and {utterance: wav} of all that they compare."""
    trials, wavs = [], {}
    for number, mark, pair in read_list(path, 2, "01"):
        same = pair[0].split("/")[0] == pair[1].split("/")[0]
        if same != (mark == "1"):
            raise SpeechMergeError(f"{path}:{number}: says {mark} of {pair[0]} and {pair[1]}; expected {int(same)}")
        wavs.update((utterance_id(wav), wav) for wav in pair)
        trials.append(Trial(f"{number:06d}", utterance_id(pair[0]), utterance_id(pair[1]), same))
    return trials, wavs


def dev_speakers(speakers: list[str], options) -> dict[str, list[str]]:
    """{train, dev: speakers}: no speaker is in both."""
    share, least = DEV_SPEAKERS
    count = max(least, round(share * len(speakers)))
    if len(speakers) < count + 2:
        raise SpeechMergeError(f"voxceleb: {len(speakers)} speakers to train on, expected {count + 2} or more, of whom "
                               f"{count} are dev's")
    dev = set(random.Random(f"dev:{options.draw}").sample(speakers, count))
    return {"train": [name for name in speakers if name not in dev], "dev": sorted(dev)}


def pair_split(finder: Finder, own: dict[str, list[str]], people: dict[str, Person], options) -> Split:
    """Pairs of the utterances of these speakers, and the utterances that are in a pair."""
    genders = {id: person.gender for id, person in people.items()} if options.same_gender else {}
    pairs = draw_pairs(own, genders, options)
    used = sorted({wav for first, second, _ in pairs for wav in (first, second)})
    utterances = {utterance_id(wav): finder.utterance(wav, labels_of(wav, people)) for wav in used}
    trials = []
    for *pair, same in pairs:
        first, second = map(utterance_id, pair)
        trials.append(Trial(f"{first}--{second}", first, second, same))
    return Split(utterances, trials=sorted(trials, key=lambda trial: trial.id))
