"""TSV-M (arXiv 2412.00081): the tasks' leading singular vectors, made orthonormal across tasks.

    D_t = U_t S_t V_t', the first d of each;  merged = polar([U_1 | U_2 | ...]) diag(S_1, S_2, ...) polar([V_1 | ...])'

polar(X) = P Q' for X = P S Q'. Orthogonal tasks are summed exactly; the more two tasks share directions, the more
these are pushed apart. The released code keeps d = floor(min(m, n) / T) of each task even where that exceeds the rank
of a LoRA, so that arbitrary vectors of zero singular values push the others about (47 % error on orthogonal tasks);
here d is at most the numerical rank. Equal tasks count once, their polar factor being that of the numerical rank.
Vectors and scalars are averaged.

BoostedTSV-M (arXiv 2603.05354) first raises each task's small singular values to the one with which the sum of the
larger ones reaches the part beta of the sum of all (as Subspace Boosting, arXiv 2506.16506, does). It orthonormalises
by five Newton-Schulz steps, which approximate the exact polar factor that is used here.
"""
from speechmerge.merge.core_space import Spectral, sizes
from speechmerge.merge.parameters import LAMBDA, Parameter
from speechmerge.merge.registry import METHODS

PART = Parameter("k", float, None, "part of the min(m, n) singular vectors of each task; 1 / number of tasks where not "
                 "given", low=0, high=1)


@METHODS.register("tsv_m")
class TaskSingularVectors(Spectral):
    """Leading singular vectors of each task, orthonormal across tasks, with their singular values."""

    parameters = (LAMBDA, PART)

    def survey(self, tensors):
        self.counts = {name: self.count(tensors.shape(name)) for name in tensors.names if len(tensors.shape(name)) > 1}

    def count(self, shape) -> int:
        """How many singular vectors of each task."""
        size = min(sizes(shape))
        part = self.values["k"]
        return max(1, size // len(self.labels) if part is None else int(part * size))

    def core(self, name, matrices):
        from speechmerge.merge.kernels.spectral import tsv

        return tsv(matrices, self.counts[name], self.values.get("beta"))

    def rank(self, name, deltas):
        whole = super().rank(name, deltas)
        if whole is None:
            return None
        count = self.count(deltas[0].shape)
        return min(whole, sum(min(delta.rank, count) for delta in deltas))


@METHODS.register("boosted_tsv_m")
class BoostedTaskSingularVectors(TaskSingularVectors):
    """TSV-M after each task's small singular values were raised."""

    parameters = (
        *TaskSingularVectors.parameters,
        Parameter("beta", float, 0.3, "part of the sum of singular values with which raising begins; 1 raises none",
                  low=0, high=1),
    )
