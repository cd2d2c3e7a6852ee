"""RegMean (arXiv 2212.09849) and RegMean++ (arXiv 2508.03121): linear layers that give on each adapter's data nearly
what that adapter's own give.

    merged = (sum_t tau_t G_t) (sum_t G_t)^-1,    G_t = a X_t'X_t / rows + (1 - a) its diagonal

G comes from `speechmerge statistics`: on each adapter's own inputs (RegMean), or block by block on the inputs that a
block has once all blocks before it are merged (RegMean++). The off-diagonal factor a, alpha of the paper, is 0.9 by
default, one of the two values in the authors' configs (the other is 0.1); fusion_bench uses 0.95 for CLIP and 0.6 for
GPT-2. Gram matrices are divided by their number of rows, so that a task with longer utterances has no more weight.
Parameters without one (norms, biases, convolutions) are averaged. A LoRA stays one: its rank is the sum of all.
"""
from speechmerge.errors import SpeechMergeError
from speechmerge.merge.method import Method
from speechmerge.merge.parameters import LAMBDA, Parameter
from speechmerge.merge.registry import METHODS

OFF_DIAGONAL = Parameter("off_diagonal", float, 0.9, "factor on the off-diagonal elements of the Gram matrices, alpha "
                         "of the paper", low=0, high=1)


@METHODS.register("regmean")
class RegMean(Method):
    """Least squares over the inputs of each linear layer; needs `speechmerge statistics --kind gram`."""

    strength = "lambda"
    kind = "gram"  # of the statistics
    parameters = (LAMBDA, OFF_DIAGONAL)

    def prepare(self, vectors):
        from speechmerge.merge.statistics import read_statistics

        self.statistics = read_statistics(vectors, self.kind)

    def known(self, name: str) -> bool:
        return all(name in statistics for statistics in self.statistics)

    def merge(self, name, deltas):
        from speechmerge.merge.delta import Computed, concatenate

        scale = self.strength_at(name)
        if not self.known(name):
            return concatenate(deltas, [scale / len(deltas)] * len(deltas))

        def compute():
            from speechmerge.merge.kernels.regression import regression_mean

            grams = (statistics.tensor(name) for statistics in self.statistics)
            return regression_mean(deltas, grams, self.values["off_diagonal"]).scaled(scale)

        return Computed(deltas[0].shape, compute, self.rank(name, deltas))

    def rank(self, name, deltas):
        ranks = [getattr(delta, "rank", None) for delta in deltas]
        return None if None in ranks else sum(ranks)


@METHODS.register("regmean_plus_plus")
class RegMeanPlusPlus(RegMean):
    """RegMean on the inputs that each block has in the merged model; needs `statistics --kind regmean_plus_plus`."""

    kind = "regmean_plus_plus"

    def prepare(self, vectors):
        from speechmerge.merge.statistics import command

        super().prepare(vectors)
        used, wanted = self.statistics[0].record["off_diagonal"], self.values["off_diagonal"]
        if used != wanted:
            raise SpeechMergeError(f"{self.statistics[0].path}: the blocks were merged with off_diagonal {used:g}, "
                                   f"found {wanted:g}; use off_diagonal={used:g}, or run "
                                   f"`{command(vectors, self.kind)} --off-diagonal {wanted:g}`")
