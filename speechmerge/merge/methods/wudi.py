"""WUDI merging (arXiv 2503.08099): the task vector that differs least from each task's where that task has its
inputs.

    min over X of    sum_t ||(X - D_t) D_t'||^2 / ||D_t||^2

The rows of D_t are sums of the layer's inputs during training, hence stand for them. The paper starts from the sum
and takes 300 steps of Adam with a rate of 1e-5, whose success depends on the scale of the weights. The loss is
quadratic; its minimum of smallest norm, which is what gradient descent from the sum tends to, has the closed form

    X = (sum_t D_t G_t) (sum_t G_t)^+,    G_t = D_t' D_t / ||D_t||^2

that is RegMean with the task vectors in place of data. For LoRA whose rows are independent the loss becomes zero: X
does to every input of task t what D_t does. Where rows nearly coincide, as after a short training from the same
initial A, the exact solution has to tell them apart by tiny differences and grows large; `ridge` (1e-3 to 1e-2)
bounds that. Vectors and scalars are averaged.
"""
from speechmerge.merge.core_space import Spectral
from speechmerge.merge.parameters import LAMBDA, Parameter
from speechmerge.merge.registry import METHODS


@METHODS.register("wudi")
class Wudi(Spectral):
    """Least interference with any task on the inputs that its own task vector stands for, in closed form."""

    parameters = (
        LAMBDA,
        Parameter("ridge", float, 0.0, "added to the Gram matrices' sum, relative to its largest eigenvalue", low=0),
    )

    def core(self, name, matrices):
        from speechmerge.merge.kernels.spectral import least_interference

        return least_interference(matrices, self.values["ridge"])
