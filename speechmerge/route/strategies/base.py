"""The common part of all strategies."""
import torch
from torch import nn

from speechmerge.errors import UsageError
from speechmerge.registry import nearest


class Strategy:
    """`weights(probabilities [..., labels], truth [...]) -> [..., labels]`, for utterances and for frames alike.

    labels: the classifier's, in its order; adapted: those that have an adapter (default all; the others mean the base).
    """

    declared_parameters: dict = {}  # option -> default
    needs_truth = False  # is the true label of every utterance asked for?
    ensemble = False  # are the decoders' distributions averaged, instead of the adapters' weights?
    per_token = False  # is there no classifier, and every layer decides for every token?

    def __init__(self, labels, adapted=None, **options):
        for name in options:
            if name not in self.declared_parameters:
                raise UsageError(f"routing strategy {self.name()}: unknown option {name!r}; "
                                 f"{nearest(name, self.declared_parameters)}")
        self.labels, self.adapted = list(labels), set(labels if adapted is None else adapted)
        self.options = {**self.declared_parameters, **options}
        for name, value in self.options.items():
            setattr(self, name, value)
        self.check()

    @classmethod
    def name(cls) -> str:
        return cls.__module__.rpartition(".")[2]

    @classmethod
    def declared(cls) -> list[str]:
        """For `speechmerge list strategies`."""
        return [f"{name} = {value}" for name, value in cls.declared_parameters.items()]

    def check(self):
        """Raises UsageError for an option that makes no sense."""

    def weights(self, probabilities: torch.Tensor, truth: torch.Tensor | None = None) -> torch.Tensor:
        raise NotImplementedError

    def need(self, name: str, fine: bool, expected: str):
        if not fine:
            raise UsageError(f"routing strategy {self.name()}: {name} is {getattr(self, name)!r}, expected {expected}")


def one_hot(index: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return nn.functional.one_hot(index, like.shape[-1]).to(like.dtype)


def best(probabilities: torch.Tensor) -> torch.Tensor:
    """1 at the most probable label."""
    return one_hot(probabilities.argmax(-1), probabilities)


def largest(probabilities: torch.Tensor, k: int) -> torch.Tensor:
    """The k most probable, renormalised to a sum of 1; the others 0."""
    values, places = probabilities.topk(min(k, probabilities.shape[-1]), dim=-1)
    kept = torch.zeros_like(probabilities).scatter(-1, places, values)
    return kept / kept.sum(-1, keepdim=True)
