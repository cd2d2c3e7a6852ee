"""AdaMerging (arXiv 2310.02575): the entropy of the merged model's predictions on unlabelled inputs is minimised.

    L = sum_t mean H(p(label | x)),    p over the closed label set, from the labels' log-likelihoods

The authors learn on the test inputs; here it is the validation split. Defined for classification alone: a transcript or
a translation has no label set whose entropy could be taken. A confident wrong answer has no entropy either, so look at
the result on labelled data before you believe it.
"""
from speechmerge.errors import UsageError
from speechmerge.learn.base import LEARNERS, Learner


@LEARNERS.register("adamerging")
class AdaMerging(Learner):
    """Entropy over the label set, without labels; classification tasks only."""

    defaults = {"coefficient_parameterization": "clamp", "init": 0.3, "learning_rate": 1e-3, "steps": 500}

    def check_tasks(self, tasks):
        for name, data in tasks.items():
            if not data.labels:
                raise UsageError(f"optimizer.type adamerging: {name} has no closed label set, so the entropy of its answers is "
                                 "not defined; leave it out with --eval-tasks, or learn from labelled examples with "
                                 "supermerge, gradient or regret_smoothmax")

    def loss(self, batch):
        return batch.entropy()

    def combine(self, names, losses, baselines, base=None):
        return sum(losses), [1.0] * len(losses)
