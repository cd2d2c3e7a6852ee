"""Example utterances: which ones, what every system made of them with the errors marked, and their audio as data URIs.

Which ones: the utterances of a task fall into groups by how the merge fares against its single adapter and the
base; the groups take turns, and within a group the order is that of a hash of the id, so that nobody picks by taste.
"""

import base64
import hashlib
import io
from dataclasses import dataclass

from speechmerge.errors import SpeechMergeError
from speechmerge.report.tables import Results, System, TaskInfo
from speechmerge.scoring import read_hypotheses

GROUPS = {
    "lost": "lost by merging: the single adapter makes fewer errors than the merge",
    "kept": "kept: the merge makes fewer errors than the base, and no more than the single adapter",
    "synergy": "gained by merging: fewer errors than the single adapter",
    "harmed": "harmed: more errors than the base, and there is no single adapter to compare with",
    "hard": "still wrong: no fewer errors than the base, as many as the single adapter where there is one",
    "easy": "right: the merge makes no error, nor did the base",
}


@dataclass(frozen=True)
class Segment:
    """A piece of a marked hypothesis. kind: ok, sub (note: the reference word), ins, del (reference's text), none."""
    kind: str
    text: str
    note: str = ""


@dataclass(frozen=True)
class Line:
    """What one system made of an utterance; `errors` counts wrong words, or is 0/1 for a label.

    `label`: the one that scores best, where labels were scored; `label_right`: is it the reference?
    """
    system: System
    segments: tuple[Segment, ...]
    errors: int
    label: str | None = None
    label_right: bool = False


@dataclass(frozen=True)
class Shown:
    id: str
    group: str
    reference: str
    language: str | None
    audio: tuple[str, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class TaskExamples:
    """`counts`: utterances per group in the whole set; `against`: the merge that the groups speak of."""
    task: str
    counts: dict[str, int]
    against: str
    shown: tuple[Shown, ...]


def align(reference: str, hypothesis: str, normalise) -> tuple[tuple[Segment, ...], int]:
    """Word alignment of the normalised texts (as WER counts them) and the number of errors."""
    import jiwer

    ref, hyp = normalise(reference).split(), normalise(hypothesis).split()
    if not ref or not hyp:
        kind = "del" if ref else "ins"
        return tuple(Segment(kind, word) for word in ref or hyp), len(ref or hyp)
    segments, errors = [], 0
    for chunk in jiwer.process_words(" ".join(ref), " ".join(hyp)).alignments[0]:
        left, right = ref[chunk.ref_start_idx:chunk.ref_end_idx], hyp[chunk.hyp_start_idx:chunk.hyp_end_idx]
        errors += 0 if chunk.type == "equal" else max(len(left), len(right))
        if chunk.type == "equal":
            segments.append(Segment("ok", " ".join(right)))
        elif chunk.type == "substitute":
            segments += [Segment("sub", wrong, right_word) for right_word, wrong in zip(left, right)]
        else:
            segments += [Segment("ins", word) for word in right] or [Segment("del", word) for word in left]
    return tuple(segments), errors


def judge(task, reference: str, hypothesis: str, labels, language=None) -> tuple[tuple[Segment, ...], int]:
    """Marked hypothesis and its errors, as the task reads it. `labels`: the label set, None for free text."""
    from speechmerge.metrics.wer import normaliser_by_name

    if labels is None:
        normaliser = getattr(task, "normaliser", "basic")
        return align(task.written(reference), hypothesis, normaliser_by_name(normaliser, language))
    read = task.parse(hypothesis)
    if read not in {task.parse(label) for label in labels}:
        return (Segment("none", hypothesis or "(nothing)", "read as no label"),), 1
    wrong = read != task.parse(reference)
    return (Segment("sub" if wrong else "ok", hypothesis),), int(wrong)


def group_of(base: int | None, single: int | None, merged: int) -> str:
    """Name of the group from the errors of base, single adapter and merge (None: that system was not decoded)."""
    if single is not None and merged != single:
        return "lost" if merged > single else "synergy"
    if base is not None and merged < base:
        return "kept"
    if single is None and base is not None and merged > base:
        return "harmed"
    return "hard" if merged else "easy"


class Audio:
    """Encodes utterances as data URIs until `budget` bytes are used; MP3 where libsndfile can, otherwise FLAC."""

    def __init__(self, budget: int):
        self.budget, self.used, self.left_out = budget, 0, 0

    def uri(self, path: str) -> str | None:
        """None when the budget is used up. Raises SpeechMergeError for audio that cannot be read."""
        import soundfile

        from speechmerge.data.audio import RATE, read_audio

        format_ = "MP3" if "MP3" in soundfile.available_formats() else "FLAC"
        buffer = io.BytesIO()
        soundfile.write(buffer, read_audio(path, RATE, resample=True, downmix=True), RATE, format=format_)
        kind = {"MP3": "audio/mpeg", "FLAC": "audio/flac"}[format_]
        uri = f"data:{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
        if self.used + len(uri) > self.budget:
            self.left_out += 1
            return None
        self.used += len(uri)
        return uri


def pick(groups: dict[str, str], count: int) -> list[str]:
    """`count` ids of `id -> group`, the groups taking turns in the order of GROUPS."""
    queues = {name: [] for name in GROUPS}
    for id_ in sorted(groups, key=lambda id_: hashlib.sha256(id_.encode()).digest(), reverse=True):
        queues[groups[id_]].append(id_)
    picked = []
    while len(picked) < min(count, len(groups)):
        picked += [queue.pop() for queue in queues.values() if queue]
    return picked[:count]


def task_examples(
    results: Results, info: TaskInfo, data_dir, merge: System | None, count: int, audio: Audio
) -> TaskExamples:
    """Examples of one task. `merge`: the system that the groups speak of, or None for the last one."""
    from speechmerge.data.directory import DataDir
    from speechmerge.tasks import get_task

    systems = [system for system in results.systems if results.cell("generation", system.name, info.name)]
    task, data = get_task(info.task).configure(**decoded_with(results, systems, info)), DataDir.read(data_dir)
    if task.kind == "transcription":
        task.normaliser = results.record.get("normaliser", "basic")
    labels, examples = task.labels(data), {example.id: example for example in task.examples(data)}
    base = next((system for system in systems if system.kind == "base"), None)
    single = next((system for system in systems if system == results.adapter_of(info.name)), None)
    merge = merge if merge in systems else systems[-1]
    order = list(dict.fromkeys([system for system in (base, single, merge) if system] + systems))
    lines = {
        system: _lines(results.decode_dir(system.name, info.name), system, task, examples, labels) for system in order
    }

    def errors(system, id_):
        return lines[system][id_].errors if system else None

    groups = {id_: group_of(errors(base, id_), errors(single, id_), errors(merge, id_)) for id_ in examples}
    shown = tuple(
        _show(examples[id_], task.written(examples[id_].target), groups[id_], [lines[s][id_] for s in order], audio)
        for id_ in pick(groups, count)
    )
    counts = {name: sum(group == name for group in groups.values()) for name in GROUPS}
    return TaskExamples(info.name, counts, merge.label, shown)


def _show(example, reference: str, group: str, lines: list[Line], audio: Audio) -> Shown:
    uris = tuple(uri for path in example.audio if (uri := audio.uri(path)))
    return Shown(example.id, group, reference, example.language, uris, tuple(lines))


def decoded_with(results: Results, systems, info: TaskInfo) -> dict:
    """The task's settings (target format, inputs) with which the first system was decoded; the others agree with it."""
    found = results.decoding(systems[0].name, info.name) if systems else None
    return (found or {}).get("settings", {})


def _lines(folder, system: System, task, examples: dict, labels) -> dict[str, Line]:
    """id -> what the system made of it. A missing hypothesis is an empty one, as in the scores."""
    hyps = read_hypotheses(folder / "hyp")
    scored = read_hypotheses(folder / "hyp_labels") if (folder / "hyp_labels").is_file() else {}
    if unknown := sorted(set(hyps) - set(examples)):
        raise SpeechMergeError(f"{folder / 'hyp'}: {unknown[0]!r} is not in the data ({len(unknown)} such ids); "
                               "run speechmerge decode, then speechmerge score")

    def line(id_, example):
        label = scored.get(id_)
        right = label is not None and task.parse(label) == task.parse(example.target)
        return Line(system, *judge(task, example.target, hyps.get(id_, ""), labels, example.language), label, right)

    return {id_: line(id_, example) for id_, example in examples.items()}
