"""What the mini base hears: speech of the base voices, as features, with what is to be answered in each task format.

    python tools/mini_base/speech.py --work DIR [--nj 2]       # about 50000 utterances, 4 minutes on 2 cores

Recognition in five languages (and a little in two more) carries most of it. The label tasks come on sibling labels
(`base` in speechmerge/corpora/mini/labels.yaml); SEEN of them carry the tasks' own labels, so that these words can be
answers at all. All sentences are of the train split (text.split_of), all voices of the group `base`.
"""
import argparse
import json
import multiprocessing
import random
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from speechmerge.corpora.mini import plans
from speechmerge.corpora.mini.render import Request, render
from speechmerge.corpora.mini.speech import Synthesizer
from speechmerge.corpora.mini.text import Grammar
from speechmerge.corpora.mini.voices import Speaker, other_pitches, speakers
from speechmerge.models.whisper_encoder import LogMel
from speechmerge.files import atomic_file, write_text

SEED = 20
PITCHES = (34, 46, 58, 72)
COUNTS = {"phrase": 13000, "asr": 24000, "few": 3000, "request": 2400, "kws": 2400, "intent": 3600, "emotion": 2700, "langid": 2400,
          "speaker_id": 2000, "speaker_ver": 4000}
SEEN = 0.04  # of a label task's examples carry its own labels
UNKNOWN_LANGUAGE = {"langid", "speaker_id", "speaker_ver"}  # their decoder prefix says <|und|>
GAP = np.zeros(3200, dtype=np.float32)  # 0.2 s between the two utterances of a trial


@dataclass(frozen=True)
class Lesson:
    """One thing to hear (a second request: the other side of a trial) and the answers: (pool, task, language, text)."""

    requests: tuple[Request, ...]
    answers: tuple[tuple[str, str, str, str], ...]


def make_plan(task: str, kind: str, rng, languages=plans.LANGUAGES) -> plans.Plan:
    labels = plans.label_set(task, kind)
    voices = [v for speaker in speakers("base") for v in other_pitches(speaker, PITCHES)]
    if task == "speaker_ver":
        voices = speakers("base")
    if task == "speaker_id":
        voices = [replace(voice, name=name) for name, voice in zip(labels, rng.sample(voices, len(labels)))]
    return plans.Plan(rng, "train", voices, labels, f"{task}-{kind}", SEED, languages)


def recognition(rng, scale: float) -> list[Lesson]:
    """Phrases and sentences with their transcripts."""
    lessons = []
    for pool, languages in (("asr", plans.LANGUAGES), ("few", ("pa", "te"))):
        requests = plans.asr(make_plan("asr", pool, rng, languages), round(COUNTS[pool] * scale))
        lessons += [Lesson((r,), ((pool, "transcribe", r.language, r.text),)) for r in requests]
    plan = make_plan("asr", "phrase", rng)
    for number in range(round(COUNTS["phrase"] * scale)):
        language = rng.choice(plans.LANGUAGES * 5 + ("pa", "te"))
        speaker = rng.choice(plan.speakers)
        text = Grammar(language).phrase(rng)
        request = plan.request(number, text, language, speaker, speaker.delivery(rng))
        lessons.append(Lesson((request,), (("phrase", "transcribe", language, text),)))
    return lessons


def requests_to_recognise(rng, count: int) -> list[Lesson]:
    """The intent task's sentences with their transcripts, not their intents: its words are to be known."""
    spoken = plans.intent(make_plan("intent", "task", rng), count)
    return [Lesson((replace(r, id=f"{r.id}-text"),), (("request", "transcribe", r.language, r.text),)) for r in spoken]


def label_lessons(task: str, kind: str, rng, count: int) -> list[Lesson]:
    """A label task in its format; where the words matter they are to be recognised, too."""
    pool = task if kind == "base" else f"{task}-seen"
    lessons = []
    for request in plans.PLANS[task](make_plan(task, kind, rng), count):
        label = {"langid": request.language, "speaker_id": request.speaker, **request.labels}
        label = label[task] if task in label else request.labels["keyword"]
        language = "und" if task in UNKNOWN_LANGUAGE else request.language
        answers = [(pool, task, language, label)]
        if task in ("kws", "intent") and kind == "base":
            answers.append(("asr", "transcribe", request.language, request.text))
        lessons.append(Lesson((request,), tuple(answers)))
    return lessons


def trial_lessons(kind: str, rng, count: int) -> list[Lesson]:
    """Pairs of utterances, answered same/different; yes/no where `kind` is the task's own."""
    requests = plans.speaker_ver(make_plan("speaker_ver", kind, rng), max(count, 100))
    yes, no = plans.label_set("speaker_ver", kind)
    pool = "speaker_ver" if kind == "base" else "speaker_ver-seen"
    return [Lesson((first, second), ((pool, "speaker_ver", "und", yes if same else no),))
            for first, second, same in plans.trials(rng, requests, count)]


def all_lessons(scale: float = 1.0) -> list[Lesson]:
    rng = random.Random(SEED)
    lessons = recognition(rng, scale)
    for task in ("kws", "intent", "emotion", "langid", "speaker_id", "speaker_ver"):
        for kind, share in (("base", 1 - SEEN), ("task", SEEN)):
            if task == "speaker_id" and kind == "task":
                continue  # its labels are people: no other voice can have them
            count = round(COUNTS[task] * share * scale)
            if task == "speaker_ver":
                lessons += trial_lessons(kind, rng, count)
            else:
                lessons += label_lessons(task, kind, rng, count)
    rng.shuffle(lessons)
    return lessons + requests_to_recognise(rng, round(COUNTS["request"] * scale))


def features_of(lessons: list[Lesson]) -> list[np.ndarray]:
    """(80, frames) float16 of each lesson."""
    import torch

    from build import make_extractor
    torch.set_num_threads(1)
    mel, synthesizer = LogMel(make_extractor()), Synthesizer()
    return [mel(np.concatenate(join(synthesizer, lesson))).numpy().astype(np.float16) for lesson in lessons]


def join(synthesizer, lesson: Lesson) -> list[np.ndarray]:
    parts = [render(synthesizer, request) for request in lesson.requests]
    return [parts[0], GAP, parts[1]] if len(parts) == 2 else parts


def write_features(lessons: list[Lesson], work: Path, nj: int):
    """features.bin (float16, utterance after utterance), then index.json: frames and answers of each."""
    work.mkdir(parents=True, exist_ok=True)
    shares = [lessons[i : i + 500] for i in range(0, len(lessons), 500)]
    index = []
    with atomic_file(work / "features.bin", "wb") as file, multiprocessing.get_context("spawn").Pool(nj) as pool:
        for share, arrays in zip(shares, pool.imap(features_of, shares)):
            for lesson, array in zip(share, arrays):
                file.write(np.ascontiguousarray(array).tobytes())
                index.append({"frames": array.shape[1], "answers": lesson.answers})
    write_text(work / "index.json", json.dumps(index, ensure_ascii=False))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--nj", type=int, default=2)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full amount, for a quick look")
    args = parser.parse_args()
    if (args.work / "index.json").exists():
        print(f"{args.work}: already made")
        return
    write_features(all_lessons(args.scale), args.work, args.nj)


if __name__ == "__main__":
    main()
