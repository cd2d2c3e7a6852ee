"""The adapter bank: a base model that carries any number of adapters, mixed by coefficients while it runs.

    bank = AdapterBank(model.core, ["exp/asr/lora", "exp/kws/lora"], base=model.path)
    with bank.using(Coefficients.per_utterance([[1, 0], [0.2, 0.8]])):       # a batch of two utterances
        model.generate(batch, task)
    bank.merged(Coefficients.per_task([0.5, 0.5])).save("exp/mine")          # the same mix as an adapter

Adapters of different ranks, scalings and target modules live in one bank; what is no low-rank change of a linear layer
(DoRA, whole modules, full fine-tuned models) is mixed densely, module by module. The base's weights are never changed.
"""
import contextlib
import functools
from collections import OrderedDict

from torch import nn

from speechmerge.bank.coefficients import Coefficients
from speechmerge.bank.layers import Changes, Stack, check_module
from speechmerge.blocks import GROUPINGS, block_of, group_of
from speechmerge.errors import SpeechMergeError
from speechmerge.merge.base import common_base
from speechmerge.merge.delta import LowRank, concatenate
from speechmerge.merge.read import read
from speechmerge.merge.task_vector import TaskVector, check_shapes
from speechmerge.registry import nearest


class AdapterBank:
    """`names` are the adapters in the order of the coefficients' last axis, `groups` the layers in that of theirs."""

    def __init__(self, module: nn.Module, adapters=(), names=None, base=None, group_by: str = "module",
                 keep_dense: bool = True):
        """module: the base network, as its family made it. adapters: folders or TaskVectors; names: what to call them.

        base: the base's folder, where adapters need it (full models, DoRA) and to check that they belong to it.
        group_by: what one layer of per-layer coefficients is: each adapted "module", or each "block" (everything outside
        blocks is one more). keep_dense: hold dense deltas in memory, else read them from disk whenever used.
        """
        if group_by not in GROUPINGS:
            raise SpeechMergeError(f"adapter bank: group_by {group_by!r}; {nearest(group_by, GROUPINGS)}")
        self.module, self.base, self.group_by, self.keep_dense = module, base, group_by, keep_dense
        self.vectors: OrderedDict[str, TaskVector] = OrderedDict()
        self.coefficients: Coefficients | None = None
        self.hooks, self.replaced = [], []
        names = names or [None] * len(adapters)
        for adapter, name in zip(adapters, names, strict=True):
            self._take(adapter, name)
        self._build()

    @property
    def names(self) -> list[str]:
        return list(self.vectors)

    def add(self, adapter, name: str | None = None) -> str:
        """One more adapter, the last of `names`; returns its name. SpeechMergeError for another base or a taken name."""
        name = self._take(adapter, name)
        self._build()
        return name

    def drop(self, name: str):
        """Without this adapter; those after it move up."""
        if name not in self.vectors:
            raise SpeechMergeError(f"adapter bank: no adapter {name!r}; {nearest(name, self.vectors)}")
        del self.vectors[name]
        self._build()

    def remove(self):
        """The module as it was before there was a bank."""
        for hook in self.hooks:
            hook.remove()
        for module in self.replaced:
            del module.forward  # the class's own shows again
        self.hooks, self.replaced = [], []

    @contextlib.contextmanager
    def using(self, coefficients: Coefficients | None):
        """Within the block the module computes base + this mix; None: the base alone."""
        if coefficients is not None:
            coefficients.check(len(self.vectors), len(self.groups))
        before, self.coefficients = self.coefficients, coefficients
        try:
            yield self
        finally:
            self.coefficients = before

    def one(self, name: str) -> Coefficients:
        """This adapter alone, as it is."""
        if name not in self.vectors:
            raise SpeechMergeError(f"adapter bank: no adapter {name!r}; {nearest(name, self.vectors)}")
        return Coefficients.per_task([float(name == other) for other in self.vectors])

    def merged(self, coefficients: Coefficients) -> TaskVector:
        """The task vector of a mix per task or per layer, to be saved like any merge."""
        coefficients.check(len(self.vectors), len(self.groups))
        if coefficients.kind not in ("task", "layer"):
            raise SpeechMergeError(f"coefficients {coefficients.kind}: there is no one model of them; expected task or layer")
        values, deltas = coefficients.values.detach().double(), {}
        for name in self.parameters:
            weights = values if values.dim() == 1 else values[self.group_of[name]]
            pairs = [(vector.deltas[name], weights[index].item()) for index, vector in enumerate(self.vectors.values())
                     if name in vector.deltas]
            deltas[name] = concatenate(*zip(*pairs))
        vectors = list(self.vectors.values())
        return TaskVector(deltas, common_base([v.base for v in vectors], self.names),
                          details={"coefficients": values.tolist(), "groups": self.groups if values.dim() == 2 else None,
                                   "sum_of": self.names})

    def bytes(self) -> int:
        """Memory of the low-rank factors on the device."""
        return sum(stack.bytes() for stack in self.stacks.values())

    # How it is built

    def _take(self, adapter, name) -> str:
        vector = read(adapter, self.base, name)
        if vector.label in self.vectors:
            raise SpeechMergeError(f"adapter bank: two adapters are called {vector.label!r} ({self.vectors[vector.label].origin} "
                                   f"and {vector.origin}); give them names")
        together = [*self.vectors.values(), vector]
        common_base([other.base for other in together], [other.origin or other.label for other in together])
        check_shapes(together)
        self.vectors[vector.label] = vector
        return vector.label

    def _build(self):
        self.remove()
        self.parameters = sorted({name for vector in self.vectors.values() for name in vector.deltas})
        keys = [group_of(name, self.group_by) for name in self.parameters]
        self.groups = list(dict.fromkeys(keys))
        self.group_of = {name: self.groups.index(key) for name, key in zip(self.parameters, keys)}
        self.stacks, self.group_at, changes = {}, {}, {}  # by name of the module
        holders = self._holders()
        for name in self.parameters:
            for owner, module, own in self._owners(name, holders):
                self.group_at[owner] = self.group_of[name]
                self._place(name, owner, module, own, changes)
        modules = dict(self.module.named_modules())
        for owner, group in self.group_at.items():
            module = modules[owner]
            if owner not in changes and type(module) is nn.Linear and "forward" not in vars(module):
                module.forward = functools.partial(self._forward(owner, group, self.stacks[owner]), module)
                self.replaced.append(module)
            else:  # anything beside a plain linear layer, and layers that another bank or a wrapper has taken already
                hook = self._hook(owner, group, self.stacks.get(owner), changes.get(owner))
                self.hooks.append(module.register_forward_hook(hook, with_kwargs=True))

    def _holders(self) -> dict:
        """id of a parameter -> (module's name, module, the parameter's own name) of every module that holds it."""
        found: dict[int, list] = {}
        for owner, module in self.module.named_modules():
            for own, value in module.named_parameters(recurse=False, remove_duplicate=False):
                found.setdefault(id(value), []).append((owner, module, own))
        return found

    def _owners(self, name: str, holders: dict) -> list:
        """The holders of a parameter by its name: of tied ones all. SpeechMergeError where it does not fit the adapters."""
        try:
            parameter = self.module.get_parameter(name)
        except AttributeError as error:
            raise SpeechMergeError(f"adapter bank: the model has no parameter {name}; are these adapters of another "
                                   "architecture?") from error
        shape = next(vector.deltas[name].shape for vector in self.vectors.values() if name in vector.deltas)
        if tuple(parameter.shape) != shape:
            raise SpeechMergeError(f"adapter bank: {name} has shape {list(parameter.shape)} in the model, {list(shape)} in the adapters")
        return holders[id(parameter)]

    def _place(self, name, owner, module, own, changes):
        parameter = module.get_parameter(own)
        present = {index: vector.deltas[name] for index, vector in enumerate(self.vectors.values()) if name in vector.deltas}
        low = {index: delta for index, delta in present.items() if isinstance(delta, LowRank)}
        if not (isinstance(module, nn.Linear) and own == "weight"):
            low = {}
        if low:
            self.stacks[owner] = Stack({index: delta.factors() for index, delta in low.items()}, parameter.device, parameter.dtype)
        for index in present.keys() - low.keys():
            check_module(name, module)
            kept = changes.setdefault(owner, Changes({}, parameter.device, parameter.dtype, self.keep_dense))
            kept.deltas.setdefault(index, {})[own] = present[index]

    def _values(self, owner: str, group: int, in_encoder: bool, x):
        """The coefficients for an input of this module, on its device: see Coefficients.of."""
        coefficients = self.coefficients
        if coefficients.kind == "token":
            return coefficients.at(owner, x).to(x.device)
        rows = x.shape[0] if x.dim() > 1 else coefficients.rows or 1  # positions alone, the same for all utterances
        positions = x.shape[1] if in_encoder and x.dim() == 3 else None
        return coefficients.of(group, rows, positions).to(x.device)

    def _forward(self, owner: str, group: int, stack: Stack):
        """What a linear layer computes in place of its class's `forward`."""
        in_encoder = self._hears_frames(owner)

        def forward(module, input):
            if self.coefficients is None:
                return nn.Linear.forward(module, input)
            values = self._values(owner, group, in_encoder, input)
            if module.weight.requires_grad:
                return nn.Linear.forward(module, input) + stack(input, values)
            return stack.linear(input, module.weight, module.bias, values)

        return forward

    def _hook(self, owner: str, group: int, stack: Stack | None, changes: Changes | None):
        in_encoder = self._hears_frames(owner)

        def add(module, inputs, options, output):
            coefficients = self.coefficients
            if coefficients is None:
                return output
            values = self._values(owner, group, in_encoder, inputs[0])
            if stack is not None:
                output = output + stack(inputs[0], values)
            if changes is not None:
                self.coefficients = None  # the module is called again, with the deltas as its parameters
                try:
                    output = output + changes(module, inputs, options, values)
                finally:
                    self.coefficients = coefficients
            return output

        return add

    @staticmethod
    def _hears_frames(owner: str) -> bool:
        """Does the module's input run over the encoder's positions? In the encoder, and where the decoder attends to it."""
        block = block_of(owner + ".weight")
        words = owner.split(".")
        return bool(block) and (block[0] != "decoder" or
                                any(word in ("encoder_attn", "src_attn") for word in words) and words[-1] in
                                ("k_proj", "v_proj", "linear_k", "linear_v"))
