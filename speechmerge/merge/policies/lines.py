"""LiNeS (arXiv 2410.17146): shallow blocks, which carry what all tasks share, are changed less than deep ones.

    strength of block l = alpha + beta * l / (L - 1),  l = 0 .. L-1, for encoder and decoder apart; outside blocks alpha

One adapter: beta = 1 - alpha keeps the last block as it is. Several: alpha = (||sum_t tau_t||_1 / ||tau_merged||_1) /
T in the paper, beta chosen on validation. L is the highest block index that is merged, + 1; a single block is the last
one.
"""
from speechmerge.blocks import block_of, depths
from speechmerge.merge.config.checks import leaf
from speechmerge.merge.parameters import Parameter
from speechmerge.merge.policies import Key, Policy
from speechmerge.merge.registry import POLICIES

NUMBERS = (Parameter("alpha", float, 0.0, "strength of the first block and outside blocks"),
           Parameter("beta", float, 0.0, "what the last block gets more than the first"))


@POLICIES.register("lines")
class Lines(Policy):
    """LiNeS: alpha + beta * l / (L - 1) at block l of L, encoder and decoder apart; alpha outside blocks."""

    parameters = tuple(Key(number.name, number.help, required=True) for number in NUMBERS)

    def check(self):
        self.alpha, self.beta = (leaf(f"{self.where}.{number.name}", number, self.given[number.name])
                                 for number in NUMBERS)

    def strengths(self):
        return {"alpha": self.alpha}

    def survey(self, names):
        last = {part: depth - 1 for part, depth in depths(names).items()}
        for block in sorted({block for block in map(block_of, names) if block}):
            part, index = block
            value = self.alpha + self.beta * (index / last[part] if last[part] else 1.0)
            self.values[block] = self.read(f"{self.where} at block {index} of {part or 'the model'}", value)

    def __call__(self, name):
        return self.values[block_of(name) or "alpha"]
