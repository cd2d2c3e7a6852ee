"""The largest regret over the tasks, smoothly: what the worst task loses against its own adapter.

    regret_t = (CE_t - CE_t of the single adapter) / max(d_t, regret_eps)
    L = tau log mean_t exp(regret_t / tau)

d_t is CE_t of the single adapter, or with `regret_divisor: gain` what that adapter gains, CE_t of the base - CE_t of the
single adapter: then 0 keeps the gain, 1 is no better than the base, and L is a smooth form of the worst interference_delta.
Relative to its own loss a task whose adapter is nearly certain weighs far more than transcription, whatever is lost.

tau to 0 gives the maximum, to infinity the mean; max - tau log T <= L <= max. The nearest published form is smooth
Tchebycheff scalarisation (TARA-Merging, arXiv 2603.26299). Softmax weights cannot sum to anything but `scale`.
"""
import math

from speechmerge.learn.base import LEARNERS, Learner
from speechmerge.merge.parameters import Parameter


@LEARNERS.register("regret_smoothmax")
class RegretSmoothMax(Learner):
    """Smooth maximum of the tasks' regrets; softmax coefficients."""

    defaults = {"coefficient_parameterization": "softmax", "variant": "task_wise"}
    own = (
        Parameter("tau", float, 0.1, "0: maximum, large: mean", low=1e-6),
        Parameter("regret_eps", float, 1e-6, "smallest divisor", low=1e-12),
        Parameter("regret_divisor", ("single", "gain"), "single", "the single adapter's loss, or what it gains over the base"),
        Parameter("baseline_batches", int, 32, "batches of each task that the baseline is measured on", low=1),
    )
    needs_baselines = True

    @property
    def baseline_batches(self):
        return self.values["baseline_batches"]

    @property
    def needs_base(self):
        return self.values["regret_divisor"] == "gain"

    def combine(self, names, losses, baselines, base=None):
        gains = [ours - own for ours, own in zip(base, baselines)] if self.needs_base else baselines
        divisors = [max(gain, self.values["regret_eps"]) for gain in gains]
        regrets = [(loss - baseline) / divisor for loss, baseline, divisor in zip(losses, baselines, divisors)]
        value, shares = smooth_max(regrets, self.values["tau"])
        return value, [share / divisor for share, divisor in zip(shares, divisors)]


def smooth_max(numbers, tau: float) -> tuple[float, list[float]]:
    """tau log mean exp(x / tau), and its derivatives, which are softmax(x / tau)."""
    largest = max(numbers)
    powers = [math.exp((number - largest) / tau) for number in numbers]
    total = sum(powers)
    return largest + tau * math.log(total / len(numbers)), [power / total for power in powers]
