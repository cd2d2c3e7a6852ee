"""What the layers of a model see and how sensitive its loss is, summed over the examples of a task.

Every example goes through the model alone: no position is padded to the length of another utterance, and a gradient is
that of one example. What the model itself hears as silence (the rest of its audio context) does count.
"""
import contextlib
from collections import Counter

import torch
from torch import nn

from speechmerge.data.batching import FeatureCache
from speechmerge.models.base import Item, SpeechModel


class Batches:
    """(inputs, labels) of one example after the other, as in training, on the model's device; at every iteration anew.

    Features are computed once, up to the limit of the cache.
    """

    def __init__(self, model: SpeechModel, task, examples, head=None):
        """head: folder of the task's own adapter, see SpeechModel.equip."""
        self.model, self.task, self.examples, self.head, self.cache = model, task, examples, head, FeatureCache()

    def __len__(self):
        return len(self.examples)

    def __iter__(self):
        self.model.equip(self.task, self.head)
        for example in self.examples:
            item = Item(example, self.cache.get(example, self.model.features), self.model.seconds(example))
            batch = self.model.collate([item], self.task, training=True)
            inputs = self.model.to_device(batch)
            yield inputs, inputs.pop("labels")


class Finished(Exception):
    """Everything that was asked for has been seen: the rest of the forward pass is not needed."""


def linear_parameters(model: SpeechModel, names) -> list[str]:
    """Those of the parameters `names` that are weights of linear layers."""
    layers = {f"{name}.weight" for name, part in model.core.named_modules() if isinstance(part, nn.Linear)}
    return [name for name in names if name in layers]


@contextlib.contextmanager
def listening(model: SpeechModel, names, see):
    """Within the block `see(parameter, input)` is called before each call of the linear layers with these weights."""
    layers = [(name, model.core.get_submodule(name.removesuffix(".weight"))) for name in names]
    hooks = [layer.register_forward_pre_hook(lambda _, args, name=name: see(name, args[0])) for name, layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def call_order(model: SpeechModel, batches, names) -> list[str]:
    """The linear layers among `names` that the first example reaches, in that order."""
    order = {}
    with torch.no_grad(), listening(model, names, lambda name, _: order.setdefault(name)):
        inputs, _ = next(iter(batches))
        model.module(**inputs)
    return list(order)


class GramSums:
    """X'X of the inputs of linear layers: products of one example in float32, their sums in float64."""

    def __init__(self):
        self.sums, self.rows = {}, Counter()
        self._last = None, None

    def add(self, name: str, x):
        """x [..., n], each row counts. Layers that share an input (query, key, value) share the product."""
        if self._last[0] is not x:
            flat = x.reshape(-1, x.shape[-1]).float()
            self._last = x, flat.T @ flat
        if name not in self.sums:
            self.sums[name] = torch.zeros_like(self._last[1], dtype=torch.float64)
        self.sums[name] += self._last[1]
        self.rows[name] += x.numel() // x.shape[-1]

    def means(self) -> dict:
        """Parameter -> float32 [n, n] on the CPU, X'X divided by the number of rows. The sums are used up."""
        return {name: self.sums.pop(name).div_(self.rows[name]).float().cpu() for name in sorted(self.sums)}


@torch.no_grad()
def grams(model: SpeechModel, batches, names, until: str | None = None) -> tuple[dict, dict]:
    """(parameter -> X'X / rows, parameter -> rows) of the linear layers with the weights `names`.

    until: a linear layer that comes after all of them: where it is reached, the forward pass is given up.
    """
    found = GramSums()

    def see(name, x):
        if name == until:
            raise Finished
        found.add(name, x)

    with listening(model, [*names, *([until] if until else [])], see):
        for inputs, _ in batches:
            with contextlib.suppress(Finished):
                model.module(**inputs)
    return found.means(), dict(found.rows)


def fishers(model: SpeechModel, batches, names) -> dict:
    """Parameter -> mean over the examples of the squared gradient of log p(target | audio), float32 on the CPU.

    The empirical Fisher information (diagonal): the log-likelihood of an example is the sum over its target tokens.
    """
    parameters = [model.core.get_parameter(name) for name in names]
    sums = [torch.zeros_like(parameter, dtype=torch.float64, requires_grad=False) for parameter in parameters]
    with differentiable(parameters):
        for inputs, labels in batches:
            loss = model.loss(model.module(**inputs), labels, num_items_in_batch=1)
            for total, gradient in zip(sums, torch.autograd.grad(loss, parameters, allow_unused=True)):
                if gradient is not None:
                    total += gradient.double().square_()
    return {name: (total / len(batches)).float().cpu() for name, total in zip(names, sums)}


@contextlib.contextmanager
def differentiable(parameters):
    """Gradients with respect to exactly these parameters are possible within the block."""
    before = [parameter.requires_grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter, flag in zip(parameters, before):
            parameter.requires_grad_(flag)
