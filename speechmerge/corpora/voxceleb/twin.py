"""VoxCeleb1 in miniature: 14 voices as speakers, three videos of each, the publisher's lists and table."""
import random
import string
from pathlib import Path

from speechmerge.corpora.twins import Spoken, gender, sentences, speak, voices, write_lines

TOP = "VoxCeleb1"
VOICES = {"dev": (10001, "f1 m2 f3 ed steph m4 grandma Marco victor Storm".split()),
          "test": (10270, "f2 m3 Andrea Alex".split())}  # folder: first id, espeak's variants
SPEAKERS = sum(len(variants) for _, variants in VOICES.values())
COUNTS = {"train": 18, "dev": 3, "test": 5}  # utterances of each speaker, in the order of the videos
VIDEOS = (9, 9, 8)  # utterances of each: dev and test of speaker_id share the third
TRIALS = {"veri_test.txt": 60, "veri_test2.txt": 56, "list_test_all.txt": 80, "list_test_all2.txt": 76,
          "list_test_hard.txt": 40, "list_test_hard2.txt": 36}  # even: half of them are of one speaker
SECONDS = 1.9  # two of them and a pause fit the mini base
LANGUAGES = ("en", "es", "de", "it")
HEADER = "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet"
NAMES = "Anna Boris Clara David Elena Felix Greta Hugo Martin Peter Laura John Sofia Emil".split()


def write(root: Path, seed: int, nj: int):
    rng, spoken, rows, table, wavs = random.Random(f"voxceleb:{seed}"), [], [], [], {}
    names = iter(NAMES)
    known = {voice.variant: voice for group in ("train", "test") for voice in voices(group)}
    for folder, (first, variants) in VOICES.items():
        for place, voice in enumerate(known[variant] for variant in variants):
            id = f"id{first + place}"
            own = wavs_of(id, rng)
            wavs[id] = (folder, gender(voice), [wav for _, wav in own])
            rows += own
            table.append(f"{id}\t{next(names)}\t{gender(voice).lower()}\tUSA\t{folder}")
            for split, wav in own:
                language = rng.choice(LANGUAGES)
                text = sentences(language, {"1": "train", "2": "dev", "3": "test"}[split], rng, 24)
                spoken.append(Spoken(f"{TOP}/{folder}/wav/{wav}", text, language, voice, longest=SECONDS, seed=seed))
    speak(root, spoken, nj)
    write_lines(root / "iden_split.txt", [f"{split} {wav}" for split, wav in sorted(rows, key=lambda row: row[1])])
    write_lines(root / "vox1_meta.csv", [HEADER, *table])
    write_trials(root, wavs, rng)


def wavs_of(id: str, rng) -> list[tuple[str, str]]:
    """(mark of iden_split.txt, wav) of one speaker. Names of videos have eleven characters, also - and _."""
    marks = iter("1" * COUNTS["train"] + "2" * COUNTS["dev"] + "3" * COUNTS["test"])
    rows = []
    for size in VIDEOS:
        video = "".join(rng.choices(string.ascii_letters + string.digits + "-_", k=11))
        rows += [(next(marks), f"{id}/{video}/{number:05d}.wav") for number in range(1, size + 1)]
    return rows


def write_trials(root: Path, wavs: dict, rng):
    """O is about the speakers of test/, E about all, H about pairs of the same gender; the cleaned ones are shorter."""
    tested = {id: own for id, own in wavs.items() if own[0] == "test"}
    lists = (("veri_test", tested, False), ("list_test_all", wavs, False), ("list_test_hard", wavs, True))
    for name, speakers, hard in lists:
        lines = trial_lines(speakers, TRIALS[f"{name}.txt"], hard, rng)
        write_lines(root / f"{name}.txt", lines)
        write_lines(root / f"{name}2.txt", lines[: TRIALS[f"{name}2.txt"]])


def trial_lines(speakers: dict, count: int, hard: bool, rng) -> list[str]:
    """Pairs of one speaker and of two in turn, as in the publisher's lists; none twice."""
    lines = []
    while len(lines) < count:
        first = rng.choice(sorted(speakers))
        if len(lines) % 2 == 0:
            pair, mark = rng.sample(speakers[first][2], 2), "1"
        else:
            gender_of = {id: own[1] for id, own in speakers.items() if id != first}
            others = [id for id in sorted(gender_of) if not hard or gender_of[id] == speakers[first][1]]
            pair, mark = [rng.choice(speakers[first][2]), rng.choice(speakers[rng.choice(others)][2])], "0"
        line = f"{mark} {pair[0]} {pair[1]}"
        if line not in lines:
            lines.append(line)
    return lines
