"""Gradient descent on coefficients: one loop for all learners.

Every update takes each task's loss and its gradient, lets the learner combine them, and makes one step of Adam. The
state after every `save_steps` updates is on disk; a killed run goes on from there and ends with the same coefficients.
"""
import contextlib
import functools
import logging
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

from speechmerge.bank import AdapterBank, Coefficients
from speechmerge.errors import SpeechMergeError
from speechmerge.files import atomic_file
from speechmerge.learn.base import Learner
from speechmerge.learn.data import TaskData
from speechmerge.learn.parametrisation import Parametrisation, Stage, stages
from speechmerge.memory import returned_at_once

log = logging.getLogger(__name__)
STATE = "state.pt"


@dataclass
class State:
    """Everything that a run needs to go on: plain numbers and tensors."""

    parameters: torch.Tensor
    stage: int = 0
    step: int = 0  # of the stage
    moments: dict = field(default_factory=dict)  # of Adam
    best: float = float("inf")
    best_parameters: torch.Tensor | None = None
    waited: int = 0  # updates without a better loss
    history: list = field(default_factory=list)  # [stage, step, objective, [task losses]]
    baselines: list | None = None  # losses of the single adapters
    base: list | None = None  # and of the base

    def save(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path, "wb") as file:
            torch.save(vars(self), file)

    @classmethod
    def load(cls, path: Path) -> "State":
        return cls(**torch.load(path, weights_only=True))


class Loop:
    """`data`: adapter's name -> TaskData, in the order of the bank's adapters or fewer."""

    def __init__(self, bank: AdapterBank, data: dict[str, TaskData], learner: Learner, folder):
        self.bank, self.data, self.learner, self.options = bank, data, learner, learner.values
        self.path = Path(folder) / STATE
        layers = None if self.options["variant"] == "task_wise" else len(bank.groups)
        tree = learner.tree(bank.names)
        self.stages = stages(tree)
        self.parametrisation = Parametrisation(self.options["coefficient_parameterization"], bank.names, tree, layers,
                                               self.options["scale"], self.options["normalize_coefficients"])
        for parameter in bank.module.parameters():
            parameter.requires_grad_(False)
        bank.module.eval()

    def run(self) -> State:
        """The state at the end; its `parameters` give the coefficients."""
        with checkpointed(self.bank.module) if self.options["gradient_checkpointing"] else contextlib.nullcontext():
            return self.all_stages()

    def all_stages(self) -> State:
        state = self.begun()
        if state.baselines is None and self.learner.needs_baselines:
            state.baselines = [self.baseline(name) for name in self.data]
            log.info("single adapters: %s", listed(self.data, state.baselines))
            if self.learner.needs_base:
                nothing = Coefficients.per_task([0.0] * len(self.bank.names))
                state.base = [self.mean_loss(name, nothing) for name in self.data]
                log.info("base: %s", listed(self.data, state.base))
                refuse_useless(self.data, state)
            state.save(self.path)
        while state.stage < len(self.stages):
            self.learn(state, self.stages[state.stage])
            state.stage, state.step, state.moments = state.stage + 1, 0, {}
            state.best, state.best_parameters, state.waited = float("inf"), None, 0
            state.save(self.path)
        self.choose(self.stages[-1])
        return state

    def begun(self) -> State:
        if self.path.is_file():
            state = State.load(self.path)
            log.info("%s: going on from stage %d, update %d", self.path, state.stage, state.step)
            return state
        init = self.options["init"]
        return State(self.parametrisation.start(1 / len(self.bank.names) if init is None else init))

    def choose(self, stage: Stage):
        """Mix the adapters of this stage, by the edges that are learned by then."""
        self.parametrisation.active, self.parametrisation.used = set(stage.names), set(stage.used)

    def coefficients(self, parameters) -> Coefficients:
        values = self.parametrisation(parameters)
        return Coefficients(values, "task" if values.dim() == 1 else "layer")

    def baseline(self, name: str) -> float:
        """Mean loss of a task's own adapter."""
        if name not in self.bank.names:
            raise SpeechMergeError(f"{name}: no adapter of its own among {', '.join(self.bank.names)}, so there is no baseline")
        return self.mean_loss(name, self.bank.one(name))

    def mean_loss(self, name: str, coefficients: Coefficients) -> float:
        with torch.no_grad(), self.bank.using(coefficients):
            rounds = min(self.learner.baseline_batches, self.data[name].rounds())
            losses = [self.learner.loss(self.data[name].batch(number)).item() for number in range(rounds)]
        return sum(losses) / len(losses)

    def learn(self, state: State, stage: Stage):
        """All updates of one stage."""
        self.choose(stage)
        free = state.parameters.detach().clone().requires_grad_()
        optimizer = torch.optim.Adam([free], lr=self.options["learning_rate"])
        if state.moments:
            optimizer.load_state_dict(state.moments)
        names = [name for name in self.data if name in stage.names] or list(self.data)
        trained = torch.zeros_like(free)
        trained[..., stage.trained] = 1
        hidden = None if self.options["progress_bar"] else True
        for step in tqdm(range(state.step, self.options["steps"]), f"coefficients, stage {state.stage + 1} of {len(self.stages)}",
                         self.options["steps"], initial=state.step, disable=hidden):
            before = free.detach().clone()
            value, losses, gradient = self.gradient(free, names, step, state)
            self.note(state, step, value, losses, names, before)
            free.grad = gradient * trained
            optimizer.step()
            if not torch.isfinite(free).all():
                raise SpeechMergeError(f"coefficients: NaN or infinite after update {step + 1}; use a smaller learning_rate than "
                                       f"{self.options['learning_rate']:g}")
            state.parameters, state.step = free.detach().clone(), step + 1
            if self.enough(state):
                log.info("stopped after %d updates: %d without a better loss", step + 1, state.waited)
                break
            if state.step % self.options["save_steps"] == 0:
                state.moments = optimizer.state_dict()
                state.save(self.path)
        if self.options["restore_best_checkpoint"] and state.best_parameters is not None:
            state.parameters = state.best_parameters

    def gradient(self, free, names, step: int, state: State):
        """(objective, {task: loss}, gradient) over the update's batches: one task in memory at a time."""
        rounds = self.options["gradient_accumulation_steps"]
        losses, gradients = [], []
        for name in names:
            total, gradient = 0.0, torch.zeros_like(free)
            for turn in range(rounds):
                coefficients = self.coefficients(free)
                with self.bank.using(coefficients):  # backwards too: what was not kept is computed again
                    with self.precision():
                        loss = self.learner.loss(self.data[name].batch(step * rounds + turn)) / rounds
                    gradient += torch.autograd.grad(loss, free)[0]
                total += loss.item()
            losses.append(total)
            gradients.append(gradient)
        order = [list(self.data).index(name) for name in names]
        references = [known and [known[place] for place in order] for known in (state.baselines, state.base)]
        value, weights = self.learner.combine(names, losses, *references)
        return value, losses, sum(weight * gradient for weight, gradient in zip(weights, gradients))

    def precision(self):
        kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.options["dtype_compute"])
        device = next(self.bank.module.parameters()).device.type
        return torch.autocast(device, kind) if kind else contextlib.nullcontext()

    def note(self, state: State, step: int, value: float, losses, names, parameters):
        """The objective belongs to the parameters before the update."""
        state.history.append([state.stage, step, value, losses])
        better = value < state.best - self.options["early_stopping_threshold"]
        if better:
            state.best, state.best_parameters = value, parameters
        if step >= self.options["early_stopping_warmup_steps"]:
            state.waited = 0 if better else state.waited + 1
        every = self.options["logging_steps"]
        if every and step % every == 0:
            log.info("update %d: %.5f (%s)", step, value, listed(names, losses))

    def enough(self, state: State) -> bool:
        patience = self.options["early_stopping_patience"]
        return bool(patience) and state.waited >= patience and state.step >= self.options["min_optimizer_steps_before_early_stop"]


def listed(names, losses) -> str:
    return ", ".join(f"{name} {loss:.4f}" for name, loss in zip(names, losses))


def refuse_useless(names, state: State):
    for name, own, base in zip(names, state.baselines, state.base):
        if own >= base:
            raise SpeechMergeError(f"{name}: its own adapter has a loss of {own:.4f}, the base {base:.4f}: there is no gain to "
                                   "compare with; leave it out of eval_tasks, or use regret_divisor: single")


@contextlib.contextmanager
def checkpointed(module):
    """Within the block, the transformer layers of `module` keep their inputs alone for the backward pass and compute the
    rest again, and what is freed goes back to the system: half as much more time, a fraction of the memory. (transformers
    does it for models in training mode only.)"""
    from torch.utils.checkpoint import checkpoint

    layers = [layer for parent in module.modules() if isinstance(parent, torch.nn.ModuleList) for layer in parent if block_like(layer)]
    for layer in layers:
        layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        with returned_at_once():
            yield
    finally:
        for layer in layers:
            del layer.forward  # the class's own shows again


def block_like(layer) -> bool:
    """A transformer layer, not a convolution or one of a handful of heads."""
    return any(isinstance(part, torch.nn.Linear) for part in layer.modules()) and not isinstance(layer, torch.nn.Linear)
