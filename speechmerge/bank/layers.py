"""What the bank adds to the output of one module of the base.

Every module that it reaches is linear in its own parameters (linear layers, convolutions, embeddings, norms), so

    y(base + sum_t c_t delta_t) = y(base) + sum_t c_t f(x; delta_t)

holds exactly for any coefficients, those of single utterances and frames included. For low-rank deltas of linear layers
the sum is one product with the stacked factors, B ((A x) * c); for all others f is the module itself with the deltas
in place of its parameters. No merged weight is ever made.
"""
import torch
from torch import nn
from torch.func import functional_call

from speechmerge.errors import SpeechMergeError

LINEAR_IN_PARAMETERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Embedding, nn.LayerNorm, nn.GroupNorm)
SCALES = ("Qwen2RMSNorm", "Qwen2_5OmniRMSNorm")  # weight times normalised input, in classes of transformers' own


class Stack:
    """Low-rank deltas of one linear layer's weight: factors of all adapters side by side.

    A: [R, in], B: [out, R], R the sum of all ranks; owner: [R], the adapter each row of A belongs to.
    """

    def __init__(self, pairs: dict[int, tuple[torch.Tensor, torch.Tensor]], device, dtype):
        """`pairs`: adapter index -> (B with its scale, A)."""
        self.B = torch.cat([B for B, _ in pairs.values()], dim=1).to(device, dtype)
        self.A = torch.cat([A for _, A in pairs.values()], dim=0).to(device, dtype)
        ranks = torch.tensor([A.shape[0] for _, A in pairs.values()])
        self.owner = torch.repeat_interleave(torch.tensor(list(pairs)), ranks).to(device)

    def __call__(self, x: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
        """x: [rows, positions, in]; coefficients: [T] or [rows, 1 or positions, T]."""
        hidden = nn.functional.linear(x, self.A)
        return nn.functional.linear(hidden * self.shares(x, coefficients).to(hidden.dtype), self.B)

    def shares(self, x: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
        """The coefficient of every row of A, [R] or [rows, 1 or positions, R], as it multiplies A x."""
        if x.dim() == 2 and coefficients.dim() == 3:
            coefficients = coefficients[:, 0]
        return coefficients.index_select(-1, self.owner)

    def linear(self, x: torch.Tensor, weight, bias, coefficients: torch.Tensor) -> torch.Tensor:
        """Base and change in one: W x + b + B ((A x) * c) for a frozen base; the same types as autocast would choose."""
        kind = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        x, weight, A, B = (tensor.to(kind) for tensor in (x, weight, self.A, self.B))
        bias = None if bias is None else bias.to(kind)
        return Mixed.apply(x, self.shares(x, coefficients), weight, bias, A, B)

    def bytes(self) -> int:
        return (self.A.numel() + self.B.numel()) * self.A.element_size()


class Mixed(torch.autograd.Function):
    """y = W x + b + B ((A x) * c) with gradients to x and c alone.

    The change is added in place by the same product that computes it, forwards and backwards, so that nothing as large as
    y or x is made beside them, and of a forward pass A x alone is kept.
    x: [..., in]; c: [R] or what [..., R] can be multiplied by; W: [out, in]; A: [R, in]; B: [out, R]; of one type but c.
    """

    @staticmethod
    def forward(ctx, x, c, weight, bias, A, B):
        flat = x.reshape(-1, x.shape[-1])
        hidden = (flat @ A.T).view(*x.shape[:-1], -1)
        y = flat.new_empty(*x.shape[:-1], len(weight))  # itself, no view: some attentions scale their queries in place
        rows = y.view(len(flat), -1)
        torch.mm(flat, weight.T, out=rows) if bias is None else torch.addmm(bias, flat, weight.T, out=rows)
        rows.addmm_((hidden * c.to(x.dtype)).view(len(flat), -1), B.T)
        ctx.save_for_backward(hidden if ctx.needs_input_grad[1] else None, c, weight, A, B)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        hidden, c, weight, A, B = ctx.saved_tensors
        into_x = into_c = None
        flat = gradient.reshape(-1, gradient.shape[-1])
        inner = (flat @ B).view(*gradient.shape[:-1], -1)
        if ctx.needs_input_grad[0]:
            into_x = (flat @ weight).addmm_((inner * c.to(inner.dtype)).view(len(flat), -1), A).view(*gradient.shape[:-1], -1)
        if ctx.needs_input_grad[1]:
            into_c = (inner.to(c.dtype) * hidden).sum_to_size(c.shape)
        return into_x, into_c, None, None, None, None


class Changes:
    """Dense deltas of a module's parameters, read from their files when they are needed.

    `deltas`: adapter index -> {parameter's own name: Delta}. `keep`: hold what was read in memory.
    """

    def __init__(self, deltas: dict, device, dtype, keep: bool):
        self.deltas, self.device, self.dtype, self.keep, self.kept = deltas, device, dtype, keep, {}

    def __call__(self, module: nn.Module, inputs, options, coefficients: torch.Tensor) -> torch.Tensor:
        if coefficients.dim() == 1:  # one set of parameters for the whole batch: their sum first
            mixed = {}
            for index in self.deltas:
                for name, tensor in self.read(index).items():
                    part = tensor * coefficients[index].to(tensor.dtype)
                    mixed[name] = part if name not in mixed else mixed[name] + part
            return self.apply(module, mixed, inputs, options)
        total = None
        for index in self.deltas:
            part = self.apply(module, self.read(index), inputs, options)
            weight = coefficients[..., index : index + 1].to(part.dtype)
            if isinstance(module, (nn.Conv1d, nn.Conv2d)):  # [rows, channels, positions]
                weight = weight.reshape(weight.shape[0], *[1] * (part.dim() - 1)) if weight.shape[1] == 1 else None
            if weight is None:
                raise SpeechMergeError("coefficients per frame: an adapter changes a convolution, which sees other positions "
                                       "than the encoder's output; use per-utterance coefficients")
            total = part * weight if total is None else total + part * weight
        return total

    def read(self, index: int) -> dict[str, torch.Tensor]:
        if index in self.kept:
            return self.kept[index]
        found = {name: delta.dense().to(self.device, self.dtype) for name, delta in self.deltas[index].items()}
        if self.keep:
            self.kept[index] = found
        return found

    @staticmethod
    def apply(module: nn.Module, parameters: dict[str, torch.Tensor], inputs, options) -> torch.Tensor:
        """The module with these parameters; those that no delta has are 0, so that only the change comes out."""
        own = {name: parameters.get(name, torch.zeros(1, dtype=value.dtype, device=value.device).expand_as(value))
               for name, value in module.named_parameters(recurse=False)}
        return functional_call(module, own, inputs, options)


def check_module(name: str, module: nn.Module):
    """SpeechMergeError where a module's output is not known to be linear in its parameters."""
    if not isinstance(module, LINEAR_IN_PARAMETERS) and type(module).__name__ not in SCALES:
        raise SpeechMergeError(f"adapter bank: {name} lies in a {type(module).__name__}; deltas are mixed at run time in "
                               f"{', '.join(kind.__name__ for kind in LINEAR_IN_PARAMETERS)}; merge these adapters instead")
