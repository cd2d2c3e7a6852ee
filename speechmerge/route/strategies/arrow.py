import torch

from speechmerge.errors import SpeechMergeError
from speechmerge.merge.delta import LowRank
from speechmerge.route.strategies import STRATEGIES
from speechmerge.route.strategies.base import Strategy


@STRATEGIES.register("arrow")
class Arrow(Strategy):
    """No classifier: in every layer each token goes to the adapters whose main direction it points in (2405.11157).

    The prototype of an adapter in a layer is the top right singular vector v of its BA; logits are |v.h|, then a softmax
    over the k largest. The router only says which language the decoder is told.
    """

    declared_parameters = {"k": 2, "temperature": 1.0}
    per_token = True

    def check(self):
        self.need("k", isinstance(self.k, int) and self.k >= 1, "a whole number from 1")
        self.need("temperature", self.temperature > 0, "a number above 0")

    def weights(self, probabilities, truth=None):
        return probabilities

    def coefficients(self, bank) -> "TokenCoefficients":
        return TokenCoefficients(bank, self.k, self.temperature)


class TokenCoefficients:
    """What AdapterBank.using takes in the place of Coefficients: weights from the input of each layer."""

    kind, rows = "token", None

    def __init__(self, bank, k: int, temperature: float):
        self.k, self.temperature, self.prototypes = k, temperature, {}
        for owner in bank.group_at:
            deltas = [vector.deltas.get(owner + ".weight") for vector in bank.vectors.values()]
            if owner not in bank.stacks or any(delta is not None and not isinstance(delta, LowRank) for delta in deltas):
                raise SpeechMergeError(f"routing strategy arrow: an adapter changes {owner} by more than a low-rank product; "
                                       "use another strategy")
            self.prototypes[owner] = torch.stack([direction(*delta.factors()) if delta is not None else
                                                  torch.full((bank.stacks[owner].A.shape[1],), float("nan")) for delta in deltas])

    def check(self, adapters: int, groups: int):
        """It was made for this bank."""

    def at(self, owner: str, x: torch.Tensor) -> torch.Tensor:
        """x: [..., in] -> weights [..., adapters]; adapters that do not change this layer get none."""
        logits = (x.float() @ self.prototypes[owner].to(x.device).T).abs() / self.temperature
        logits = logits.masked_fill(logits.isnan(), float("-inf"))
        kept = logits.topk(min(self.k, logits.shape[-1]), dim=-1)
        return torch.full_like(logits, float("-inf")).scatter(-1, kept.indices, kept.values).softmax(-1)


def direction(B: torch.Tensor, A: torch.Tensor) -> torch.Tensor:
    """The top right singular vector of BA, from the r x r product of the triangular factors of both."""
    basis, right = torch.linalg.qr(A.double().T)
    left = torch.linalg.qr(B.double()).R
    return (basis @ torch.linalg.svd(left @ right.T).Vh[0]).float()
