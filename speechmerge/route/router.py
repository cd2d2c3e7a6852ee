"""A trained router: exp/router/<name>/{router.json,router.safetensors}.

    router = Router.load("exp/router/languages", model)
    probabilities = router.probabilities(model, examples, cache)      # [utterances, labels], calibrated
"""
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save

from speechmerge.data.batching import FeatureCache
from speechmerge.errors import SpeechMergeError
from speechmerge.files import atomic_file, read_mapping, write_json
from speechmerge.route.classifiers import CLASSIFIERS
from speechmerge.route.fitting import logits_of
from speechmerge.route.hearing import Hearing, beginning, hear
from speechmerge.route.index import RECORD, WEIGHTS
from speechmerge.tasks import get_task

WINDOWS_AT_ONCE = 512


@dataclass
class Router:
    """`languages`: label -> Whisper code of what is spoken there, None where several are; `labels_from`: "set" or a column."""

    name: str
    kind: str
    classifier: torch.nn.Module
    labels: list[str]
    languages: dict[str, str | None]
    hearing: Hearing
    base: dict
    labels_from: str = "set"
    temperature: float = 1.0

    def save(self, folder):
        folder = Path(folder)
        with atomic_file(folder / WEIGHTS, "wb") as file:
            file.write(save({name: value.contiguous() for name, value in self.classifier.state_dict().items()}))
        write_json(folder / RECORD, {
            "name": self.name, "classifier": self.kind, "options": self.classifier.options, "dimension": self.classifier.dimension,
            "labels": self.labels, "languages": self.languages, "labels_from": self.labels_from,
            "hearing": asdict(self.hearing), "temperature": self.temperature, "base": self.base})

    @classmethod
    def load(cls, folder, model=None) -> "Router":
        """Raises SpeechMergeError for a folder that is no router, and for one of another base than `model`."""
        folder = Path(folder)
        if not (folder / RECORD).is_file() or not (folder / WEIGHTS).is_file():
            raise SpeechMergeError(f"{folder}: no router here ({RECORD} and {WEIGHTS}); run speechmerge train-router "
                                   f"--output-dir {folder}")
        record = read_mapping(folder / RECORD)
        try:
            options = dict(record["options"])
            classifier = CLASSIFIERS.get(record["classifier"])(record["dimension"], len(record["labels"]), **options)
            classifier.load_state_dict(load_file(folder / WEIGHTS))
            router = cls(record["name"], record["classifier"], classifier.eval(), record["labels"], record["languages"],
                         Hearing(**record["hearing"]), record["base"], record["labels_from"], record["temperature"])
        except (KeyError, TypeError, RuntimeError) as error:
            raise SpeechMergeError(f"{folder / RECORD}: does not describe {WEIGHTS} ({' '.join(str(error).split())[:200]}); "
                                   "train the router again with --force true") from error
        if model is not None:
            router.check(model, folder)
        return router

    def check(self, model, folder):
        found, expected = self.base["fingerprint"], model.fingerprint()
        if found != expected:
            raise SpeechMergeError(f"{folder}: a router of the base {self.base['source']} ({found[:12]}), but the model here is "
                                   f"{model.source} ({expected[:12]}); train it again on this one")

    def index(self, label: str) -> int:
        if label not in self.labels:
            raise SpeechMergeError(f"router {self.name}: label {label!r} is unknown; it was trained on {', '.join(self.labels)}")
        return self.labels.index(label)

    def calibrated(self, logits: torch.Tensor) -> torch.Tensor:
        return (logits.double() / self.temperature).softmax(-1).float()

    def probabilities(self, model, examples, cache=None, batch_size: int = 32) -> torch.Tensor:
        """[utterances, labels] from the beginning of each utterance."""
        stretches = [beginning(model, example, self.hearing) for example in examples]
        states = hear(model, listening_task(), stretches, self.hearing, cache if cache is not None else FeatureCache(), batch_size)
        return self.calibrated(logits_of(self.classifier, states))

    def frame_probabilities(self, states: torch.Tensor, window: int) -> torch.Tensor:
        """[t, labels] from states [t, d]: of each, the `window` states around it are heard (fewer at both ends)."""
        half = window // 2
        spans = [(max(0, i - half), min(len(states), i + half + 1)) for i in range(len(states))]
        parts = []
        for first in range(0, len(spans), WINDOWS_AT_ONCE):
            parts.append(logits_of(self.classifier, [states[a:b] for a, b in spans[first : first + WINDOWS_AT_ONCE]]))
        return self.calibrated(torch.cat(parts))


def listening_task():
    """What a decoder is told plays no part in what the encoder hears."""
    return get_task("asr")
