"""Speech Commands 0.01 and 0.02: single English words of at most a second, by thousands of people.

    speechmerge prepare --corpus speech_commands --corpus-dir /corpora                       # 0.02, twelve classes
    speechmerge prepare --corpus speech_commands --param version=v1 unknown=all              # SUPERB's keyword spotting
    speechmerge prepare --corpus speech_commands --param classes=35                          # all words (v1: 30)

Of twelve classes, ten are words, `_unknown_` stands for the other words, `_silence_` for stretches of the noise
recordings (`segments`, which stage 2 cuts out; those of train, dev and test do not overlap). Which words are dev and
test say `validation_list.txt` and `testing_list.txt`, or the hash of the speaker from which these lists were made; the
test set of twelve classes is an archive of its own.
"""
import hashlib
import io
import math
import random
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from speechmerge.corpora.base import CORPORA
from speechmerge.corpora.lines import numbered_lines
from speechmerge.corpora.published import Archive, Hub, Part, PublishedCorpus, Reading, Split
from speechmerge.corpora.twins import Spoken, speak, voices, write_lines
from speechmerge.data.directory import Utterance
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.registry import nearest

KEYWORDS = "yes no up down left right on off stop go".split()
WORDS = {"v1": [*KEYWORDS, *("bed bird cat dog eight five four happy house marvin nine one seven sheila six "
                             "three tree two wow zero").split()]}
WORDS["v2"] = WORDS["v1"] + "backward forward follow learn visual".split()
NUMBERS = {"v1": "0.01", "v2": "0.02"}
UNKNOWN, SILENCE, NOISE = "_unknown_", "_silence_", "_background_noise_"
# Words (without noise recordings) of the release by its lists, and of the test set that is an archive of its own
RELEASE = {"v1": {"train": 51088, "dev": 6798, "test": 6835, "archive": 3081},
           "v2": {"train": 84843, "dev": 9981, "test": 11005, "archive": 4890}}
SHARES = {"train": (0, 0.8), "dev": (0.8, 0.9), "test": (0.9, 1)}  # of each noise recording
CLIP = 1.0  # seconds of silence
CHOICES = {"version": tuple(NUMBERS), "split": ("lists", "hash"), "test": ("auto", "archive", "list")}
NAME = re.compile(r"([0-9a-f]+)_nohash_(\d+)")
HASHES = 2**27  # of the publisher's split function
URL = "http://download.tensorflow.org/data"


@CORPORA.register("speech_commands")
class SpeechCommands(PublishedCorpus):
    """Speech Commands 0.01 and 0.02: 30 or 35 English words, keyword spotting with 12 or all (CC BY 4.0)"""

    tasks = ("kws",)
    licence = "CC BY 4.0"
    homepage = "https://arxiv.org/abs/1804.03209"
    layout = "speech_commands_v0.02/<word>/<speaker>_nohash_<number>.wav"
    top = tuple(f"speech_commands_{kind}v{number}" for kind in ("", "test_set_") for number in NUMBERS.values())

    @dataclass(frozen=True)
    class Options:
        """version: v1 (0.01) or v2 (0.02). classes: 12, or all words: 30 of v1, 35 of v2.

        split: by the `lists` of the release or by `hash` of the speaker. test: the `archive` of twelve classes, the
        testing `list`, or `auto`: archive for 12 classes, else list. unknown, silence: how many of these in train and
        dev, in percent of the ten words together (10: as many as of one word); unknown=all takes all, as SUPERB does.
        """

        version: str = "v2"
        classes: int = 12
        split: str = "lists"
        test: str = "auto"
        unknown: str = "10"
        silence: float = 10.0

        def __post_init__(self):
            for name, known in CHOICES.items():
                value = getattr(self, name)
                if value not in known:
                    raise UsageError(f"speech_commands: {name} {value!r}; {nearest(value, known)}")
            most = len(WORDS[self.version])
            if self.classes not in (12, most):
                raise UsageError(f"speech_commands: classes {self.classes}; {self.version} has 12 or {most}")
            if self.classes != 12 and self.test == "archive":
                raise UsageError("speech_commands: the test archive has 12 classes; use test=list")
            if self.unknown != "all" and not re.fullmatch(r"\d+(\.\d+)?", self.unknown):
                raise UsageError(f"speech_commands: unknown {self.unknown!r}; expected a percentage or all")
            if self.silence < 0:
                raise UsageError(f"speech_commands: silence {self.silence}; expected a percentage")

        @property
        def archive(self) -> bool:
            """Whether the test set is the archive of its own."""
            return self.test == "archive" or self.test == "auto" and self.classes == 12

    def archives(self, options) -> list[Archive]:
        names = [f"speech_commands_v{NUMBERS[options.version]}"]
        names += [f"speech_commands_test_set_v{NUMBERS[options.version]}"] * options.archive
        last = ("zero", "yes")  # of the folders of each, so that it is there when all are
        return [Archive(f"{URL}/{name}.tar.gz", f"{name}/{last[number]}", into=name,
                        md5={"speech_commands_v0.01": "3cd23799cb2bbdec517f1cc028f8d43c",
                             "speech_commands_v0.02": "6b74f3901214cb2c2934e98196829835"}.get(name))
                for number, name in enumerate(names)]

    def expected(self, task, options) -> dict[str, int]:
        """Words before sampling, without silence. The hash leaves some files elsewhere than the lists do."""
        release = RELEASE[options.version]
        by_list = {} if options.split == "hash" else {split: release[split] for split in ("train", "dev", "test")}
        return by_list | ({"test": release["archive"]} if options.archive else {})

    def labels_of(self, task, options) -> list[str]:
        return KEYWORDS + [UNKNOWN, SILENCE] if options.classes == 12 else WORDS[options.version]

    def read(self, root: Path, task: str, options) -> Reading:
        folder, skipped = root / f"speech_commands_v{NUMBERS[options.version]}", Counter()
        words = read_words(folder, options, skipped)
        counted = {split: len(found) for split, found in words.items()}
        if options.archive:
            words["test"] = read_archive(root / f"speech_commands_test_set_v{NUMBERS[options.version]}")
            counted["test"] = len(words["test"])
        if options.classes == 12:
            for split in ("train", "dev") if options.archive else words:
                words[split] = twelve_classes(words[split], split, folder / NOISE, options)
        splits = {split: Split({u.id: u for u in found}) for split, found in words.items()}
        return Reading(splits, skipped, counted)

    def hub(self, task, options) -> Hub:
        if options.split == "hash" or options.archive != (options.classes == 12):
            raise UsageError("speech_commands: on Hugging Face there are the splits of the lists, with the test "
                             "archive for 12 classes; use source=files")
        config = f"v{NUMBERS[options.version]}"
        parts = {"train": "train", "dev": "validation", "test": "test"}
        parts = {split: [Part(config, part)] for split, part in parts.items()}
        return Hub("google/speech_commands", parts, names=("label",))

    def from_row(self, row, split, task, options) -> Utterance | list[Utterance] | None:
        """Noise recordings give as many clips as they have whole seconds; nothing is sampled."""
        stem = Path(row["file"]).stem
        if row["label"] == SILENCE:
            if options.classes != 12:
                return None
            if split == "test":
                return utterance(f"test-silence-{stem}", "", SILENCE)
            seconds = int(soundfile.info(io.BytesIO(row["audio"]["bytes"])).duration)
            return [utterance(f"silence-{stem}-{n:04d}", "", SILENCE, (float(n), n + CLIP)) for n in range(seconds)]
        word = row["label"]
        if options.classes == 12 and (row["is_unknown"] or word not in KEYWORDS):
            word = UNKNOWN
        return utterance(f"{row['speaker_id']}-{row['label']}-{row['utterance_id']}", "", word, None, row["speaker_id"])

    def twin_expected(self, task, options) -> dict[str, int]:
        found = {split: 10 * many + 25 * few for split, (many, few) in TWIN.items()}
        return found | ({"test": 12 * TWIN["test"][0]} if options.archive else {})

    def write_twin(self, root: Path, seed: int, nj: int):
        write_twin(root, seed, nj)


def utterance(id: str, audio: str, label: str, segment=None, speaker: str = "noise") -> Utterance:
    return Utterance(id, audio, None, speaker, "en", None, {"keyword": label}, segment)


def read_words(folder: Path, options, skipped: Counter) -> dict[str, list[Utterance]]:
    """{split: words}, labelled with the word itself. Only the release's own files, not what others put beside them."""
    words = WORDS[options.version]
    missing = [word for word in words if not (folder / word).is_dir()]
    if missing:
        raise SpeechMergeError(f"{folder}: no folder {missing[0]!r} ({len(missing)} of {len(words)} words are not "
                               "there); unpack the archive again, or give another --param version")
    listed = {"dev": read_list(folder / "validation_list.txt"), "test": read_list(folder / "testing_list.txt")}
    splits, seen = {"train": [], "dev": [], "test": []}, set()
    for word in words:
        for path in sorted((folder / word).glob("*.wav")):
            match, name = NAME.fullmatch(path.stem), f"{word}/{path.name}"
            if not match:
                skipped["file with another name"] += not path.name.startswith(".")
                continue
            seen.add(name)
            by_list = next((split for split, names in listed.items() if name in names), "train")
            split = hash_split(match[1]) if options.split == "hash" else by_list
            splits[split].append(utterance(f"{match[1]}-{word}-{match[2]}", str(path), word, None, match[1]))
    absent = sorted((listed["dev"] | listed["test"]) - seen)
    if absent:
        raise SpeechMergeError(f"{folder}: {len(absent)} files of validation_list.txt and testing_list.txt are "
                               f"missing, the first is {absent[0]}; unpack the archive again")
    return splits


def read_list(path: Path) -> set[str]:
    """`<word>/<file>` lines."""
    return {line.strip() for _, line in numbered_lines(path)}


def hash_split(speaker: str) -> str:
    """The publisher's rule: all words of a speaker are in one split, whatever else is in the corpus."""
    percent = int(hashlib.sha1(speaker.encode()).hexdigest(), 16) % HASHES * (100 / (HASHES - 1))
    return "dev" if percent < 10 else "test" if percent < 20 else "train"


def read_archive(folder: Path) -> list[Utterance]:
    """The test set of twelve classes: a folder per class, unknown files are `<word>_<speaker>_nohash_<number>.wav`."""
    found = []
    for label in KEYWORDS + [UNKNOWN, SILENCE]:
        paths = sorted(path for path in (folder / label).glob("*.wav") if not path.name.startswith("."))
        if not paths:
            raise SpeechMergeError(f"{folder / label}: no *.wav there; expected the twelve folders of "
                                   f"{folder.name}.tar.gz, or give test=list")
        for path in paths:
            match = NAME.search(path.stem)
            id, speaker = f"test-{label.strip('_')}-{path.stem}", match[1] if match else "noise"
            found.append(utterance(id, str(path), label, None, speaker))
    return found


def twelve_classes(words: list[Utterance], split: str, noise: Path, options) -> list[Utterance]:
    """Ten words, a sample of the others as unknown, and stretches of noise as silence."""
    known = [u for u in words if u.labels["keyword"] in KEYWORDS]
    others = [u for u in words if u.labels["keyword"] not in KEYWORDS]  # word by word, as they were read
    if options.unknown != "all":
        others = every(others, math.ceil(len(known) * float(options.unknown) / 100))
    unknown = [utterance(u.id, u.audio, UNKNOWN, None, u.speaker) for u in others]
    return known + unknown + silence(noise, split, math.ceil(len(known) * options.silence / 100))


def every(items: list, count: int) -> list:
    """`count` of them, evenly spread."""
    return items if count >= len(items) else [items[i * len(items) // count] for i in range(count)]


def silence(folder: Path, split: str, count: int) -> list[Utterance]:
    """`count` stretches of a second, evenly spread over a split's share of the noise recordings; they may overlap."""
    paths = sorted(path for path in folder.glob("*.wav") if not path.name.startswith("."))
    if count and not paths:
        raise SpeechMergeError(f"{folder}: no noise recordings to cut silence from; unpack the archive again, or give "
                               "silence=0")
    found = []
    for place, path in enumerate(paths):
        number = len(range(place, count, len(paths)))
        first, last = (share * soundfile.info(path).duration for share in SHARES[split])
        if number and last - first < CLIP:
            raise SpeechMergeError(f"{path}: {last - first:.1f} s of it are for {split}, expected at least {CLIP:g}; "
                                   "copy it again")
        starts = [round(first + (last - first - CLIP) * i / max(1, number - 1), 4) for i in range(number)]
        found += [utterance(f"silence-{path.stem}-{split}-{i:04d}", str(path), SILENCE, (start, round(start + CLIP, 4)))
                  for i, start in enumerate(starts)]
    return found


TWIN = {"train": (16, 2), "dev": (3, 1), "test": (5, 1)}  # utterances of each keyword, of each other word
NOISES = "doing_the_dishes dude_miaowing exercise_bike pink_noise running_tap white_noise".split()


def write_twin(root: Path, seed: int, nj: int):
    """Release 0.02: speakers whose hash falls into the split that their voice belongs to."""
    rng, folder, spoken = random.Random(f"speech_commands:{seed}"), "speech_commands_v0.02", []
    lists, ids = {"dev": [], "test": []}, {split: twin_speakers(split, rng) for split in TWIN}
    for split, (many, few) in TWIN.items():
        for word in WORDS["v2"]:
            for number in range(many if word in KEYWORDS else few):
                speaker, voice = ids[split][(len(spoken) + 7 * number) % len(ids[split])]
                name = f"{word}/{speaker}_nohash_{number}.wav"
                spoken.append(Spoken(f"{folder}/{name}", word, "en", voice, longest=0.99, seed=seed))
                lists.get(split, []).append(name)
    write_lines(root / folder / "validation_list.txt", lists["dev"])
    write_lines(root / folder / "testing_list.txt", lists["test"])
    spoken += twin_archive(ids["test"], seed)
    speak(root, spoken, nj)
    for number, name in enumerate(NOISES):
        write_noise(root / folder / NOISE / f"{name}.wav", 20, f"{seed}:{number}", smooth=4 * number + 1)
    for number in range(TWIN["test"][0]):
        path = root / f"speech_commands_test_set_v0.02/{SILENCE}/{number}.wav"
        write_noise(path, 1, f"{seed}:test:{number}", smooth=number + 2)


def twin_speakers(split: str, rng) -> list[tuple[str, object]]:
    """(id, voice) of a split: three ids for each voice."""
    found = []
    for voice in [voice for voice in voices(split) for _ in range(3)]:
        id = f"{rng.getrandbits(32):08x}"
        while hash_split(id) != split:
            id = f"{rng.getrandbits(32):08x}"
        found.append((id, voice))
    return found


def twin_archive(speakers, seed: int) -> list[Spoken]:
    folder, spoken = "speech_commands_test_set_v0.02", []
    others = [word for word in WORDS["v2"] if word not in KEYWORDS]
    for number in range(TWIN["test"][0]):
        for place, label in enumerate([*KEYWORDS, UNKNOWN]):
            speaker, voice = speakers[(11 * number + place) % len(speakers)]
            word = others[number * 5 % 25] if label == UNKNOWN else label
            name = f"{word}_{speaker}_nohash_{number}" if label == UNKNOWN else f"{speaker}_nohash_{number}"
            spoken.append(Spoken(f"{folder}/{label}/{name}.wav", word, "en", voice, longest=0.99, seed=seed))
    return spoken


def write_noise(path: Path, seconds: int, key: str, smooth: int):
    """White noise, averaged over `smooth` samples."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big"))
    noise = np.convolve(rng.standard_normal(seconds * 16000), np.ones(smooth) / smooth, "same")
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, (0.1 * noise).astype(np.float32), 16000, subtype="PCM_16")
