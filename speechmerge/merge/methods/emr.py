"""EMR merging (arXiv 2405.17461): one unified task vector, and for each task a bit mask and a number.

    gamma     = sign(sum_t tau_t)
    unified   = gamma * max_t |tau_t| over the tasks whose sign is gamma
    mask_t    = tau_t * gamma > 0
    rescale_t = sum |tau_t| / sum |mask_t * unified|,  both over the whole vector
    task t gets rescale_t * mask_t * unified

It needs to know the task, so it is for a router: T adapters cost one vector and T bits per value. Without `task` the
result is the unified vector, and saving writes `masks.safetensors` beside it; `vector_of_task` gives a task's vector
back. With `task` the result is that task's vector at once. The authors' code adds up means per parameter for rescale,
by which a bias counts as much as a matrix, and takes gamma = -1 where the sum is 0; here it is the formulas' sum, and
gamma = 0. """
import itertools
from dataclasses import replace

from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.merge.method import Elementwise
from speechmerge.merge.parameters import LAMBDA, Parameter
from speechmerge.merge.registry import METHODS
from speechmerge.registry import nearest

MASKS = "masks.safetensors"


TASK = Parameter("task", str, None, "the adapter whose vector is wanted; without it the unified vector, with all masks")


class TaskMasks(Elementwise):
    """Shared by the methods for routers: one vector for all tasks, and what a task takes of it."""

    strength = "lambda"
    rescales = False  # whether a task's vector gets its norm back by a number
    rescale = 1.0  # of the wanted task

    def check(self):
        super().check()
        self.tasks = [label if self.labels.index(label) == place else f"{label}#{self.labels[:place].count(label) + 1}"
                      for place, label in enumerate(self.labels)]
        task = self.values["task"]
        if task is not None and task not in self.tasks:
            raise UsageError(f"method {self.name}: task: no adapter {task!r}; {nearest(task, self.tasks)}")
        self.wanted = [] if task is None else [self.tasks.index(task)]

    def unified_and_masks(self, tensors, indices):
        """(the vector for all tasks, [mask as 0.0 and 1.0 for each of `indices`])."""
        raise NotImplementedError

    def combine(self, block, tensors):
        unified, masks = self.unified_and_masks(tensors, self.wanted)
        for mask in masks:
            unified.mul_(mask).mul_(self.rescale)
        return unified.mul_(self.strength_at(block.name))

    def side_file(self, tensors) -> dict:
        """What `vector_of_task` needs, nothing where a task was given: "mask/TASK/PARAMETER" -> uint8, a bit for each
        value, and "rescale/TASK" -> one float64.
        """
        if self.wanted:
            return {}
        import numpy as np

        from speechmerge.merge.kernels.masks import pack

        everyone, norms = range(len(self.tasks)), Norms(self.tasks)
        arrays = {f"mask/{task}/{name}": np.zeros(0, np.uint8) for task in self.tasks for name in tensors.names}
        looks = tensors.map_blocks(lambda block, inputs: (block.name, *self.look(inputs, everyone)))
        for name, blocks in itertools.groupby(looks, key=lambda look: look[0]):
            parts = []
            for _, masks, sizes in blocks:
                parts.append([mask.cpu().numpy().astype(bool).reshape(-1) for mask in masks])
                norms.add(sizes)
            for task, part in zip(self.tasks, zip(*parts)):
                arrays[f"mask/{task}/{name}"] = pack(np.concatenate(part))
        scales = norms.ratios() if self.rescales else [1.0] * len(self.tasks)
        return {**arrays, **{f"rescale/{task}": np.array([scale]) for task, scale in zip(self.tasks, scales)}}

    def look(self, tensors, indices):
        """Of a block and for each of `indices`: the mask, and (sum |tau_t|, sum |mask_t * unified|)."""
        from torch import float64
        from torch.linalg import vector_norm

        def size(tensor):
            return vector_norm(tensor, 1, dtype=float64).item() if self.rescales else 0.0

        own = [size(tensors[index]) for index in indices]
        unified, masks = self.unified_and_masks(tensors, indices)
        return masks, [(before, size(mask * unified)) for before, mask in zip(own, masks)]


class Norms:
    """Sums over blocks of (sum |tau_t|, sum |mask_t * unified|) for each task."""

    def __init__(self, tasks):
        self.sums = [[0.0, 0.0] for _ in tasks]

    def add(self, sizes):
        for total, (own, unified) in zip(self.sums, sizes):
            total[0] += own
            total[1] += unified

    def ratios(self) -> list[float]:
        return [own / unified if unified else 1.0 for own, unified in self.sums]


@METHODS.register("emr")
class Emr(TaskMasks):
    """The largest values of the elected signs for all tasks, and a bit mask and a scale for each task."""

    parameters = (TASK, LAMBDA)
    rescales = True

    def survey(self, tensors):
        if self.wanted:
            norms = Norms(self.wanted)
            for _, sizes in tensors.map_blocks(lambda block, inputs: self.look(inputs, self.wanted)):
                norms.add(sizes)
            self.rescale, = norms.ratios()

    def unified_and_masks(self, tensors, indices):
        from speechmerge.merge.kernels.signs import disjoint_merge

        unified = disjoint_merge(tensors, zero_sign=lambda: 0, rule="max")
        return unified, [tensors[index].sign_().mul_(unified).gt_(0) for index in indices]


def vector_of_task(vector, task: str, masks=None, base=None):
    """The TaskVector of one task, from a merge by `emr` or `tall_mask` without `task`.

    vector: the folder of the merge, or what was read of it. masks: the file, where it is not in that folder. base: as
    for any other folder. Raises SpeechMergeError for a task that was not merged. Values are made when they are asked
    for. """
    from pathlib import Path

    from speechmerge.merge.kernels.masks import Masked
    from speechmerge.merge.read import read
    from speechmerge.storage.safetensors_file import read_header, read_tensor

    vector = read(vector, base)
    path = Path(masks or Path(vector.origin) / MASKS)
    entries = read_header(path)
    if f"rescale/{task}" not in entries:
        tasks = [key.removeprefix("rescale/") for key in entries if key.startswith("rescale/")]
        raise SpeechMergeError(f"{path}: no task {task!r}; {nearest(task, tasks)}")
    scale = read_tensor(entries[f"rescale/{task}"]).item()
    deltas = {name: Masked(delta, entries[f"mask/{task}/{name}"], scale) for name, delta in vector.deltas.items()}
    return replace(vector, deltas=deltas, task=task, details={"name": task, "of_merge": vector.label})
