"""PEFT: `add_weighted_adapter` on a small Whisper; both results are read from the saved adapters, alpha / r * B A."""
import functools
import json
import shutil
import tempfile
from pathlib import Path

import torch

import make_models
import reference
from agreement.cases import Finding, difference, row


@functools.lru_cache(maxsize=None)
def folder_of_models() -> Path:
    """A small Whisper and five adapters of rank 16 and alpha 32, made once."""
    keeper = tempfile.TemporaryDirectory()
    folder_of_models.keeper = keeper  # removed when the process ends
    make_models.make_whisper_base(Path(keeper.name), "tiny")
    make_models.make_adapters(Path(keeper.name), "tiny", 5, 16, 32)
    return Path(keeper.name) / "whisper-tiny"


def adapters(count: int = 3) -> list[Path]:
    return sorted((folder_of_models() / "lora_r16").iterdir())[:count]


def products(folder: Path) -> dict:
    """module -> alpha / r * B A."""
    adapter = reference.Adapter(folder)
    return {module: torch.from_numpy(adapter.delta(module)) for module in adapter.modules}


def peft(folder: Path, kind: str, weights, sources=None, **options) -> Path:
    """The folder of the merged adapter."""
    from peft import PeftModel
    from transformers import WhisperForConditionalGeneration

    sources = sources or adapters(len(weights))
    names = [f"a{number}" for number in range(len(sources))]
    base = WhisperForConditionalGeneration.from_pretrained(folder_of_models() / "base")
    model = PeftModel.from_pretrained(base, sources[0], names[0])
    for name, source in list(zip(names, sources))[1:]:
        model.load_adapter(source, name)
    model.add_weighted_adapter(names, weights, "merged", combination_type=kind, **options)
    model.save_pretrained(folder / "peft", selected_adapters=["merged"])
    return folder / "peft" / "merged"


def ours(folder: Path, method: str, rank=None, sources=None, count=3, **params) -> dict:
    import speechmerge

    merged = speechmerge.merge([str(path) for path in sources or adapters(count)], method, **params)
    merged.save(folder / "ours", as_="lora", rank=rank)
    return products(folder / "ours")


def exact(weights, sources=None) -> dict:
    read = [products(path) for path in sources or adapters(len(weights))]
    return {module: sum(weight * delta[module] for weight, delta in zip(weights, read)) for module in read[0]}


WEIGHTS = [0.5, 0.3, 0.2]


@row("cat", "peft cat", "weights .5 .3 .2")
def cat(folder):
    return Finding(difference(ours(folder, "cat", weights=WEIGHTS), products(peft(folder, "cat", WEIGHTS))))


@row("weighted_delta_n, rank 8", "peft svd", "rank 8")
def svd(folder):
    theirs = products(peft(folder, "svd", WEIGHTS, svd_rank=8))
    # PEFT decomposes in float32
    return Finding(difference(ours(folder, "weighted_delta_n", 8, coefficients=WEIGHTS), theirs), tolerance=5e-6)


@row("svd", "peft svd", "rank of the adapters")
def svd_method(folder):
    theirs = products(peft(folder, "svd", WEIGHTS))
    return Finding(difference(ours(folder, "svd", weights=WEIGHTS), theirs), tolerance=5e-6)


@row("weighted_delta_n, mode=factors", "peft linear", "weights .5 .3 .2")
def linear_factors(folder):
    theirs = products(peft(folder, "linear", WEIGHTS))
    mine = ours(folder, "weighted_delta_n", coefficients=WEIGHTS, mode="factors")
    return Finding(difference(mine, theirs), tolerance=5e-6)


@row("weighted_delta_n", "peft linear", "weights .5 .3 .2",
     because="the sum of the products B A; PEFT adds A and B apart, which adds products of different adapters, "
             "and is `mode=factors`")
def linear(folder):
    mine, theirs = ours(folder, "weighted_delta_n", coefficients=WEIGHTS), products(peft(folder, "linear", WEIGHTS))
    return Finding(difference(mine, theirs), difference(mine, exact(WEIGHTS)))


@row("uniform", "peft linear", "five times the same adapter",
     because="the mean of equal adapters is that adapter; PEFT's linear gives 5 times it")
def identical(folder):
    sources = [adapters(1)[0]] * 5
    mine, theirs = ours(folder, "uniform", sources=sources), products(peft(folder, "linear", [0.2] * 5, sources))
    one = products(sources[0])
    five = {module: delta / 5 for module, delta in theirs.items()}
    return Finding(difference(mine, theirs), max(difference(mine, one), difference(five, one)))


@row("ties, trim=tensor, zero_sum=positive, rank 16", "peft ties_svd", "density .2, rank 16")
def ties_svd(folder):
    theirs = products(peft(folder, "ties_svd", [1.0] * 3, svd_rank=16, density=0.2))
    mine = ours(folder, "ties", 16, k=20, trim="tensor", zero_sum="positive")
    return Finding(difference(mine, theirs), tolerance=2e-5)  # the vectors of close singular values, in float32


@row("ties, trim=tensor", "peft ties", "density .2",
     because="trims the change of the weights; PEFT trims A and B, each alone, and multiplies what is left")
def ties(folder):
    theirs = peft(folder, "ties", [1.0] * 3, density=0.2)
    mine = ours(folder, "ties", k=20, trim="tensor")
    apart = factors_apart([1.0] * 3, 0.2)
    return Finding(difference(mine, products(theirs)), difference(apart, products(theirs)), tolerance=5e-6)


def factors_apart(weights, density: float) -> dict:
    """TIES on A and on B, each times the root of its scale; the product is then far from TIES of the products."""
    read = [reference.Adapter(path) for path in adapters(len(weights))]
    merged = {}
    for module in read[0].modules:
        sides = []
        for side in ("lora_B", "lora_A"):
            key = f"{reference.PREFIX}{module}.{side}.weight"
            factors = [torch.from_numpy(adapter.file.get_tensor(key)).double() for adapter in read]
            limits = [factor.abs().reshape(-1).sort(descending=True).values[int(density * factor.numel()) - 1]
                      for factor in factors]
            stack = torch.stack([torch.where(factor.abs() >= limit, factor, 0)
                                 for factor, limit in zip(factors, limits)])
            sign = torch.where(stack.sum(0) >= 0, 1.0, -1.0)
            agrees = stack.sign() == sign
            scale = [(weight * adapter.config["lora_alpha"] / adapter.config["r"]) ** 0.5
                     for weight, adapter in zip(weights, read)]
            weighted = stack * torch.tensor(scale).double()[:, None, None]
            sides.append((weighted * agrees).sum(0) / agrees.sum(0).clamp_min(1))
        merged[module] = sides[0] @ sides[1]
    return merged


@row("cat", "peft cat", "rsLoRA",
     because="the saved adapter has scale 1; PEFT's keeps use_rslora and is too large by the root of its rank")
def rslora(folder):
    sources = [Path(shutil.copytree(path, folder / path.name)) for path in adapters(2)]
    for path in sources:
        config = json.loads((path / "adapter_config.json").read_text())
        (path / "adapter_config.json").write_text(json.dumps({**config, "use_rslora": True}))
    target = peft(folder, "cat", [0.5, 0.5], sources)
    config = json.loads((target / "adapter_config.json").read_text())
    scale = config["lora_alpha"] / config["r"] ** 0.5 if config["use_rslora"] else 1.0
    (target / "adapter_config.json").write_text(json.dumps({**config, "use_rslora": False, "lora_alpha": config["r"]}))
    factors = products(target)
    theirs = {module: scale * delta for module, delta in factors.items()}  # what PEFT makes of its own file
    mine = ours(folder, "cat", sources=sources, weights=[0.5, 0.5])
    assert abs(scale - config["r"] ** 0.5) < 1e-9, f"PEFT's scale is {scale}"
    return Finding(difference(mine, theirs), difference(mine, factors))
