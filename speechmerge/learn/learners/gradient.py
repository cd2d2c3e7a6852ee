"""Supervised: a weighted sum of the tasks' cross-entropies on a few labelled validation examples.

    L = sum_t w_t CE_t,    w_t = 1 / max(CE_t of the single adapter, floor) | 1 | given

Divided by what the task's own adapter reaches, a task with long targets does not outweigh the others.
"""
from speechmerge.errors import UsageError
from speechmerge.learn.base import LEARNERS, Learner
from speechmerge.merge.parameters import Parameter
from speechmerge.registry import nearest


@LEARNERS.register("gradient")
class Gradient(Learner):
    """Weighted sum of the tasks' cross-entropies."""

    defaults = {"variant": "task_wise"}
    own = (
        Parameter("ce_task_weighting", ("baseline_normalized", "equal", "manual"), "baseline_normalized", "what a task weighs"),
        Parameter("ce_baseline_source", ("single_task_eval",), "single_task_eval", "the single adapter on its own task"),
        Parameter("ce_baseline_floor", float, 1e-6, "smallest divisor", low=1e-12),
        Parameter("ce_baseline_batches", int, 32, "batches of each task that the baseline is measured on", low=1),
        Parameter("ce_manual_task_weights", dict, {}, "{task: weight}, where the weighting is manual"),
    )

    @property
    def needs_baselines(self):
        return self.values["ce_task_weighting"] == "baseline_normalized"

    @property
    def baseline_batches(self):
        return self.values["ce_baseline_batches"]

    def check_tasks(self, tasks):
        given = self.values["ce_manual_task_weights"]
        for name in tasks if self.values["ce_task_weighting"] == "manual" else ():
            if name not in given:
                raise UsageError(f"{self.where}.ce_manual_task_weights: says nothing of {name!r}; {nearest(name, map(str, given))}")

    def combine(self, names, losses, baselines, base=None):
        weights = [float(self.values["ce_manual_task_weights"].get(name, 1)) for name in names]
        if self.needs_baselines:
            weights = [1 / max(baseline, self.values["ce_baseline_floor"]) for baseline in baselines]
        return sum(weight * loss for weight, loss in zip(weights, losses)), weights
