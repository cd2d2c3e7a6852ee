"""The common part of all classifiers: sequences of encoder states to one row of logits."""
import torch
from torch import nn

from speechmerge.errors import UsageError
from speechmerge.registry import nearest


class Classifier(nn.Module):
    """`forward(states [b, t, d], lengths [b]) -> logits [b, labels]`; what lies beyond a length changes nothing.

    Subclasses declare `parameters_of` (option -> default) and implement `build` and `scores`. States are standardised by
    the mean and deviation of the training data, which are saved with the weights.
    """

    parameters_of: dict = {}
    only_mean = False  # does nothing but the mean over time count? Then training needs no more than that

    def __init__(self, dimension: int, labels: int, dropout: float = 0.2, **options):
        super().__init__()
        for name in options:
            if name not in self.parameters_of:
                raise UsageError(f"router classifier: unknown option {name!r}; {nearest(name, [*self.parameters_of, 'dropout'])}")
        self.options = {**self.parameters_of, **options, "dropout": dropout}
        self.dimension, self.dropout = dimension, nn.Dropout(dropout)
        self.register_buffer("mean", torch.zeros(dimension))
        self.register_buffer("deviation", torch.ones(dimension))
        self.build(labels, **{**self.parameters_of, **options})

    @classmethod
    def declared(cls) -> list[str]:
        """For `speechmerge list classifiers`."""
        return [f"{name} = {value}" for name, value in {**cls.parameters_of, "dropout": 0.2}.items()]

    def standardise(self, states: list[torch.Tensor]):
        """Take mean and deviation of these sequences [t, d]."""
        count = sum(map(len, states))
        mean = sum(rows.double().sum(0) for rows in states) / count
        variance = sum((rows.double() - mean).square().sum(0) for rows in states) / max(count - 1, 1)
        self.mean.copy_(mean)
        self.deviation.copy_(variance.sqrt().clamp(min=1e-4))

    def forward(self, states, lengths):
        heard = (torch.arange(states.shape[1], device=states.device) < lengths[:, None])[..., None]
        return self.scores((states - self.mean) / self.deviation * heard, heard)

    def build(self, labels: int, **options):
        raise NotImplementedError

    def scores(self, states, heard):
        """states: [b, t, d], zero where nothing is heard; heard: bool [b, t, 1]."""
        raise NotImplementedError


def mean_of(states, heard):
    """[b, t, d] -> [b, d], over what is heard."""
    return (states * heard).sum(1) / heard.sum(1)


def perceptron(width: int, hidden, labels: int, dropout: nn.Module) -> nn.Sequential:
    """`hidden`: widths of the layers between, may be empty."""
    layers = []
    for next_width in hidden:
        layers += [nn.Linear(width, next_width), nn.ReLU(), dropout]
        width = next_width
    return nn.Sequential(*layers, nn.Linear(width, labels))
