"""The mini corpus: seven tasks as Kaldi-style data directories, spoken by espeak-ng in less than half a minute.

    CORPORA.get("mini")().prepare(output_dir="data", seed=1, nj=2, tasks=["kws", "asr"], scale=1.0)

Unseen in training are, in dev and test: every sentence (text.split_of) and every voice (voices.GROUPS), except that
speaker_id must know its speakers and kws its words. The base model's voices are others again. The asr task is
heard through a noisy telephone line, the base model never was.
"""
import itertools
import json
import random
from pathlib import Path

from speechmerge.corpora.base import CORPORA
from speechmerge.corpora.mini import plans
from speechmerge.corpora.mini.render import Request, audio_path, begin, render_all, seconds_of
from speechmerge.corpora.mini.voices import Speaker, speakers
from speechmerge.data.directory import DataDir, Trial, Utterance
from speechmerge.errors import UsageError
from speechmerge.registry import nearest

SPLITS = ("train", "dev", "test")
COUNTS = {"train": 360, "dev": 48, "test": 84}  # utterances of a task; trials of speaker_ver
MORE = {"intent": 1.5}  # times as much to train on: each intent has words in five languages
SIDES = {"train": 240, "dev": 48, "test": 60}  # utterances that the trials pair


@CORPORA.register("mini")
class MiniCorpus:
    """Seven tasks in seven languages, spoken by espeak-ng: offline, the same bytes for the same seed."""

    tasks = plans.TASKS

    def prepare(self, output_dir, seed: int = 0, nj: int = 2, tasks=None, scale: float = 1.0) -> list[Path]:
        """Write output_dir/<task>/<split> with its audio beneath it; returns these directories.

        `scale` multiplies the amounts; the same seed and scale give the same bytes, with any `nj`. A split that is
        there is left alone, a half-written one is completed. Raises UsageError for an unknown task or a bad number.
        """
        tasks = self._checked(tasks or self.tasks, nj, scale)
        splits, missing = [], []
        for task, split in itertools.product(tasks, SPLITS):
            directory = Path(output_dir) / task / split
            requests, trials = plan_split(task, split, seed, scale)
            missing += begin(requests, directory / "audio")
            splits.append((directory, task, requests, trials))
        render_all(missing, nj)
        for split in splits:
            write_split(*split)
        return [directory for directory, *_ in splits]

    def _checked(self, tasks, nj, scale):
        for task in tasks:
            if task not in self.tasks:
                raise UsageError(f"mini corpus: unknown task {task!r}; {nearest(task, self.tasks)}")
        if nj < 1 or scale <= 0:
            raise UsageError(f"mini corpus: nj {nj}, scale {scale}; expected nj of at least 1 and scale above 0")
        return tasks


def write_split(directory: Path, task: str, requests: list[Request], trials: list[Trial] | None):
    """The tables of one data directory whose audio is there."""
    audio = directory / "audio"
    utterances = {}
    for r in requests:
        path, seconds = str(audio_path(audio, r)), seconds_of(audio, r)
        utterances[r.id] = Utterance(r.id, path, r.text, r.speaker, r.language, seconds, r.labels)
    labels = plans.label_set(task)
    data = DataDir(directory, dict(sorted(utterances.items())), sorted(labels) if labels else None, trials)
    if not unchanged(data):
        data.write()


def unchanged(data: DataDir) -> bool:
    """Whether the directory on disk already says this."""
    if not (data.path / "wav.scp").is_file():
        return False
    found = DataDir.read(data.path, check=False)
    return json.dumps([found.tables(), found.labels]) == json.dumps([data.tables(), data.labels])


def plan_split(task: str, split: str, seed: int, scale: float) -> tuple[list[Request], list[Trial] | None]:
    """What is said in one split of one task, and for speaker_ver which pairs are compared."""
    rng = random.Random(f"{seed}:{task}:{split}")
    count = max(8, round(COUNTS[split] * scale * (MORE.get(task, 1) if split == "train" else 1)))
    voices = task_speakers(task, split)
    plan = plans.Plan(rng, split, voices, plans.label_set(task), split, seed,
                      channel="telephone" if task == "asr" else "near")
    if task != "speaker_ver":
        return plans.PLANS[task](plan, count), None
    requests = plans.speaker_ver(plan, max(2 * len(plan.speakers), round(SIDES[split] * scale)))
    trials = [Trial(f"{a.id}--{b.id}", a.id, b.id, same) for a, b, same in plans.trials(rng, requests, count)]
    return requests, sorted(trials, key=lambda trial: trial.id)


def task_speakers(task: str, split: str) -> list[Speaker]:
    """The voices of a split; for speaker_id the named speakers, the same in all."""
    if task != "speaker_id":
        return speakers(split)
    known = {speaker.variant: speaker for speaker in speakers("train")}
    return [Speaker(name, known[variant].variant, known[variant].pitch, known[variant].rate)
            for name, variant in plans.label_set("speaker_id").items()]
