"""What a training takes of its data: how many examples, and which share of them as sound, as text or as both.

    --mix text=1 audio=0.05        all prompts as text, 5 % of the recordings as sound (an audio LLM)
    --max-train-samples 4          a dry run

Examples are drawn by a hash of their ids and the seed: the same in every run, and 2 % are among the 5 %.
"""
import copy
import hashlib
from dataclasses import replace

from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.registry import nearest
from speechmerge.tasks.templates import INPUTS


def share(text: str) -> tuple[str, float]:
    """`audio=0.05` -> ("audio", 0.05). ValueError for what is none; checked by check_mix."""
    kind, _, value = str(text).partition("=")
    return kind, float(value)


def check_mix(mix):
    """Raises UsageError for a kind of input that is unknown or named twice, or a share outside (0, 1]."""
    kinds = [kind for kind, _ in mix]
    for kind, value in mix:
        if kind not in INPUTS or kinds.count(kind) > 1:
            raise UsageError(f"--mix {kind}={value:g}: " + (nearest(kind, INPUTS) if kind not in INPUTS else "named twice"))
        if not 0 < value <= 1:
            raise UsageError(f"--mix {kind}={value:g}: expected a share of the examples above 0 and at most 1")


def training_examples(model, task, data, options) -> list:
    """The examples of a data directory that options.mix and options.max_train_samples choose, sorted by id."""
    found = mixed(model, task, data, options) if options.mix else model.training_examples(task, data)
    if options.max_train_samples and options.max_train_samples < len(found):
        return drawn(found, options.max_train_samples, options.seed)
    return found


def mixed(model, task, data, options) -> list:
    """Each kind of input with its share. An example that is read only, written the same of several recordings of one
    prompt, counts once. Ids of what is not heard alone end in the kind: `utt7@text`."""
    found = []
    for kind, value in options.mix:
        own = copy.copy(task).configure(inputs=kind)
        own.adapt(model)
        examples = model.training_examples(own, data)
        if kind == "text":
            examples = list({(example.prompt, example.target): example for example in reversed(examples)}.values())
        chosen = drawn(examples, max(1, round(value * len(examples))), f"{options.seed}/{kind}")
        found += chosen if kind == "audio" else [replace(example, id=f"{example.id}@{kind}") for example in chosen]
    if not found:
        raise SpeechMergeError(f"{data.path}: no examples to mix; is the data directory the right one?")
    return sorted(found, key=lambda example: example.id)


def drawn(examples, count: int, seed) -> list:
    """`count` of the examples, in the order of their ids."""
    def place(example) -> str:
        return hashlib.sha256(f"{seed}/{example.id}".encode()).hexdigest()

    return sorted(sorted(examples, key=place)[:count], key=lambda example: example.id)
