"""Small inputs, our side of the comparison, and what a row of the table says.

A row is a function that gives a `Finding`. Without a reason both sides must agree; with one they must differ, and what
is left once the reason is taken into account (`explained`) must agree.
"""
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import torch
from safetensors.torch import save_file

TOLERANCE = 1e-6  # of the largest change of a tensor: we compute in float32, peers are given float64 where they take it
SHAPES = {  # a piece of a speech model
    "feature_extractor.conv_layers.0.conv.weight": (16, 6, 5),
    "encoder.layers.0.attention.q_proj.weight": (48, 48),
    "encoder.layers.0.feed_forward.intermediate_dense.weight": (96, 48),
    "encoder.layers.1.attention.q_proj.weight": (48, 48),
    "encoder.layers.1.feed_forward.output_dense.weight": (48, 96),
    "encoder.layers.1.feed_forward.output_dense.bias": (48,),
    "encoder.layer_norm.weight": (48,),
}
MATRICES = [name for name, shape in SHAPES.items() if len(shape) == 2]
ROWS = []


@dataclass
class Finding:
    difference: float  # max |ours - theirs| / max |theirs| of a tensor, the largest over all
    explained: float | None = None  # of a row with a reason: the difference that is left when it is taken into account
    tolerance: float = TOLERANCE
    unit: str = ""  # "standard errors" where masks are random and only their means can agree


@dataclass
class Row:
    ours: str
    theirs: str
    setting: str
    because: str  # why they differ where they should
    function: Callable[[Path], Finding]

    def verdict(self, finding: Finding) -> tuple[str, bool]:
        """(what the table says, whether it is as it should be)."""
        same = finding.difference <= finding.tolerance
        if not self.because:
            return ("same" if same else "DIFFERS"), same
        if same:
            return "SAME, though it should differ", False
        explained = finding.explained <= finding.tolerance
        return ("differs as intended" if explained else "DIFFERS, NOT EXPLAINED"), explained


def row(ours: str, theirs: str, setting: str, because: str = ""):
    """Registers a function as one row: our method, the peer's function, the setting, why they differ."""
    def register(function):
        ROWS.append(Row(ours, theirs, setting, because, function))
        return function

    return register


class Models:
    """A base and fine-tuned models as folders, and as float64 tensors: `base`, `tuned`, `deltas`."""

    def __init__(self, folder: Path, base: dict, deltas: list[dict]):
        self.base_folder, self.folders = folder / "base", [folder / f"m{number}" for number in range(len(deltas))]
        self.base = {name: tensor.float().double() for name, tensor in base.items()}
        self.tuned = [{name: (self.base[name] + delta[name]).float().double() for name in base} for delta in deltas]
        self.deltas = [{name: tensor - self.base[name] for name, tensor in tuned.items()} for tuned in self.tuned]
        for path, tensors in zip((self.base_folder, *self.folders), (self.base, *self.tuned)):
            path.mkdir(parents=True)
            (path / "config.json").write_text("{}")
            save_file({name: tensor.float() for name, tensor in tensors.items()}, path / "model.safetensors")

    def ours(self, method: str, which=None, **params) -> dict:
        """The merged changes, float64. `which`: indices of models, default all."""
        import speechmerge

        folders = [str(self.folders[index]) for index in (range(len(self.folders)) if which is None else which)]
        merged = speechmerge.merge(folders, method, base=str(self.base_folder), **params)
        return {name: delta.dense().double() for name, delta in merged.deltas.items()}

    def changes(self, merged: dict) -> dict:
        """A merged model as its difference from the base."""
        return {name: tensor - self.base[name] for name, tensor in merged.items()}

    def statistics(self, kind: str, values: list[dict]):
        """Files as `speechmerge statistics` leaves them beside each model."""
        from speechmerge.merge.read import read

        for folder, tensors in zip(self.folders, values):
            weights = read(str(folder), str(self.base_folder)).details["sha256"].value()
            (folder / "statistics").mkdir(exist_ok=True)
            save_file({name: tensor.float().contiguous() for name, tensor in tensors.items()},
                      folder / "statistics" / f"{kind}.safetensors")
            (folder / "statistics" / f"{kind}.json").write_text(json.dumps({"weights": weights}))


def noise(*names, shape) -> torch.Tensor:
    """Normal float64 values, the same for the same names."""
    seed = int.from_bytes(hashlib.sha256("/".join(map(str, names)).encode()).digest()[:7], "big")
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def related_models(folder: Path, count: int = 3, shapes=None) -> Models:
    """Changes with heavy tails, of which a part is common to all."""
    shapes = SHAPES if shapes is None else shapes
    base = {name: 0.1 * noise("base", name, shape=shape) for name, shape in shapes.items()}
    deltas = [{name: 0.01 * (0.5 * noise("shared", name, shape=shape) + noise(number, name, shape=shape))
               * torch.exp(0.5 * noise("tail", number, name, shape=shape)) for name, shape in shapes.items()}
              for number in range(count)]
    return Models(folder, base, deltas)


def standard_errors(samples: list[dict], expected: dict, deviation: dict) -> float:
    """The largest |mean of the samples - expected| / (deviation / sqrt(number of samples)) of all elements."""
    worst = 0.0
    for name, wanted in expected.items():
        mean = torch.stack([sample[name] for sample in samples]).mean(0)
        error = deviation[name] / math.sqrt(len(samples))
        worst = max(worst, ((mean - wanted).abs() / error.clamp_min(1e-30))[error > 0].max().item())
    return worst


def given_models(folder: Path, *rows) -> Models:
    """One parameter on a base of zeros; each row is a model."""
    return Models(folder, {"encoder.w.weight": torch.zeros(1, len(rows[0]))},
                  [{"encoder.w.weight": torch.tensor([row], dtype=torch.float64)} for row in rows])


def difference(found: dict, wanted: dict) -> float:
    """The largest difference of any element, relative to the largest element of its tensor; inf for other keys."""
    if set(found) != set(wanted):
        return math.inf
    return max(((found[name] - wanted[name]).abs().max() / wanted[name].abs().max().clamp_min(1e-30)).item()
               for name in wanted)


# TIES written down anew, float64

def ties(deltas: list[dict], count, whole: bool, zero_sign: int = 0) -> dict:
    """count(N): how many of N elements are kept, more where magnitudes at the threshold are equal; whole: one threshold
    for all parameters; zero_sign: the sign where values cancel."""
    trimmed = []
    for delta in deltas:
        flat = torch.cat([tensor.abs().reshape(-1) for tensor in delta.values()])
        limits = {name: kth_largest(flat if whole else tensor.abs().reshape(-1), count)
                  for name, tensor in delta.items()}
        trimmed.append({name: torch.where(tensor.abs() >= limits[name], tensor, 0) for name, tensor in delta.items()})
    return {name: disjoint_mean(torch.stack([delta[name] for delta in trimmed]), zero_sign) for name in deltas[0]}


def kth_largest(magnitudes: torch.Tensor, count) -> float:
    keep = count(len(magnitudes))
    return magnitudes.sort(descending=True).values[keep - 1].item() if keep else math.inf


def disjoint_mean(values: torch.Tensor, zero_sign: int) -> torch.Tensor:
    sign = values.sum(0).sign()
    sign = torch.where(sign == 0, torch.full_like(sign, zero_sign), sign)
    agrees = (values.sign() == sign) & (values != 0)
    return (values * agrees).sum(0) / agrees.sum(0).clamp_min(1)
