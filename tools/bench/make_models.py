#!/usr/bin/env python
"""Models and adapters to measure on: the shapes and key names of real ones, random values, no network.

    tools/bench/.venv/bin/python tools/bench/make_models.py hubert wav2vec2 whisper-small     # 6 GB, a minute
    tools/bench/.venv/bin/python tools/bench/make_models.py whisper-large-v3 --adapters 32    # 15 GB more

hubert            HuBERT-base (HubertModel, 94 M parameters, 378 MB), base and three fine-tuned, float32 and bfloat16
wav2vec2          a CTC model of 14 layers and 1,900 units (Wav2Vec2ForCTC, 110 M, 440 MB), likewise; mergekit-yaml
                  reads it, too
whisper-small     base and eight LoRA of rank 16, alpha 32, on all 192 linear layers (folders that PEFT loads)
whisper-large-v3  LoRA of rank 64 on all 512 linear layers, written module by module, without a base
tiny              all of the above with a few layers, to try the scripts

Every tensor has a stream of random numbers of its own, from its name, so that the files are the same on every machine
with the same torch. Fine-tuned models are the base plus changes with heavy tails, part of them common to all three,
30 % of the elements unchanged. Adapters share half of their directions and have decaying singular values, as those
of related tasks do. What is there is not made again.
"""
import argparse
import hashlib
import json
import math
import os
import shutil
import struct
from pathlib import Path

import torch

HERE = Path(__file__).parent
LINEAR = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
TUNED = ("asr", "emotion", "keywords")
TYPES = {torch.float32: "F32", torch.bfloat16: "BF16"}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
WHISPER = {"small": (768, 12, 3072), "large-v3": (1280, 32, 5120), "tiny": (64, 2, 128)}  # width, layers, feed-forward


def generator(*names) -> torch.Generator:
    """A stream of random numbers for these names."""
    digest = hashlib.sha256("/".join(map(str, names)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def write_safetensors(path: Path, layout: dict, make):
    """`layout`: name -> (dtype, shape); `make(name)` gives the tensors, one at a time, in that order."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape) in layout.items():
        size = math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": TYPES[dtype], "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, (dtype, _) in layout.items():
            file.write(make(name).to(dtype).contiguous().view(torch.uint8).numpy().data)


def finished(folder: Path, make):
    """Let `make(folder beside)` fill a folder that appears only when it is whole."""
    if folder.is_dir():
        return
    beside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    make(beside)
    os.replace(beside, folder)
    print(f"made {folder}", flush=True)


# full models

def speech_model(kind: str, tiny: bool):
    """The model without its weights."""
    from transformers import HubertConfig, HubertModel, Wav2Vec2Config, Wav2Vec2ForCTC

    small = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "conv_dim": [32] * 7,
             "num_conv_pos_embedding_groups": 4, "num_hidden_layers": 2, "vocab_size": 32} if tiny else {}
    with torch.device("meta"):
        if kind == "hubert":
            return HubertModel(HubertConfig(**small))
        return Wav2Vec2ForCTC(Wav2Vec2Config(**{"num_hidden_layers": 14, "vocab_size": 1900, **small}))


def base_tensor(kind: str, name: str, shape) -> torch.Tensor:
    """float32 values as large as in trained models: norms near one, biases small, matrices of deviation 0.03."""
    noise = torch.randn(shape, generator=generator(kind, "base", name))
    if "norm" in name and name.endswith("weight") or name.endswith("original0"):
        return 1 + 0.1 * noise
    return noise * (0.01 if name.endswith("bias") else 0.03)


def tuned_tensor(kind: str, which: str, name: str, base: torch.Tensor) -> torch.Tensor:
    """`base` plus log-normally scaled Gaussian changes of about 3 % of the weights' size, 30 % of them zero."""
    shared = torch.randn(base.shape, generator=generator(kind, "shared", name))
    source = generator(kind, which, name)
    own, tail = (torch.randn(base.shape, generator=source) for _ in range(2))
    moved = torch.rand(base.shape, generator=source) >= 0.3
    return base + 1e-3 * (0.4 * shared + own) * torch.exp(0.5 * tail) * moved


def make_full(work: Path, kind: str, tiny: bool = False):
    """work/<kind>/<dtype>/{base,asr,emotion,keywords}/"""
    model = speech_model(kind, tiny)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}

    def write(folder: Path, which: str, dtype):
        def make(name):
            base = base_tensor(kind, name, shapes[name])
            return base if which == "base" else tuned_tensor(kind, which, name, base)

        model.config.dtype = dtype
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(folder)
        write_safetensors(folder / "model.safetensors", {name: (dtype, shape) for name, shape in shapes.items()}, make)

    for dtype, torch_dtype in DTYPES.items():
        for which in ("base", *TUNED):
            finished(work / kind / dtype / which, lambda folder: write(folder, which, torch_dtype))


# adapters

def whisper_config(size: str):
    from transformers import WhisperConfig

    width, layers, inner = WHISPER[size]
    heads = width // 64
    return WhisperConfig(d_model=width, encoder_layers=layers, decoder_layers=layers, encoder_ffn_dim=inner,
                         decoder_ffn_dim=inner, encoder_attention_heads=heads, decoder_attention_heads=heads)


def linear_modules(size: str) -> dict[str, tuple[int, int]]:
    """Module -> (out, in) of all linear layers of encoder and decoder, as transformers names them."""
    width, layers, inner = WHISPER[size]
    shapes = {"fc1": (inner, width), "fc2": (width, inner)}
    attention = {"encoder": ("self_attn",), "decoder": ("self_attn", "encoder_attn")}
    return {f"model.{part}.layers.{layer}.{module}": shapes.get(module, (width, width))
            for part, blocks in attention.items() for layer in range(layers)
            for module in (*(f"{block}.{name}" for block in blocks for name in LINEAR[:4]), "fc1", "fc2")}


def make_whisper_base(work: Path, size: str):
    """work/whisper-<size>/base/: what PEFT must load before it can merge adapters of it."""
    from transformers import WhisperForConditionalGeneration

    def make(folder):
        with torch.device("meta"):
            model = WhisperForConditionalGeneration(whisper_config(size))
        model.config.save_pretrained(folder)
        layout = {name: (torch.float32, tuple(tensor.shape)) for name, tensor in model.state_dict().items()
                  if name != "proj_out.weight"}  # tied to the embedding
        write_safetensors(folder / "model.safetensors", layout,
                          lambda name: base_tensor("whisper", name, layout[name][1]))

    finished(work / f"whisper-{size}" / "base", make)


def factor(which, module: str, side: str, rank: int, length: int) -> torch.Tensor:
    """[rank, length]: the first half of the directions common to all adapters, lengths that decay by 20 % each."""
    shared = torch.randn(rank, length, generator=generator("shared", module, side))
    own = torch.randn(rank, length, generator=generator(which, module, side))
    own[: rank // 2] = shared[: rank // 2]
    decay = 0.8 ** (torch.arange(rank) % (rank // 2)).float()
    return own * decay.sqrt()[:, None] / math.sqrt(length)


def make_adapters(work: Path, size: str, count: int, rank: int, alpha: int, modules: int | None = None):
    """work/whisper-<size>/lora_r<rank>/<number>/, folders as PEFT saves them. `modules`: only so many modules."""
    shapes = dict(list(linear_modules(size).items())[:modules])
    layout = {}
    for module, (rows, columns) in shapes.items():
        layout[f"base_model.model.{module}.lora_A.weight"] = (torch.float32, (rank, columns))
        layout[f"base_model.model.{module}.lora_B.weight"] = (torch.float32, (rows, rank))
    name = f"lora_r{rank}" + (f"_m{modules}" if modules else "")
    for number in range(count):
        def make(folder):
            def tensor(key):
                module, side = key.removeprefix("base_model.model.").removesuffix(".weight").rsplit(".", 1)
                values = factor(number, module, side, rank, max(layout[key][1]))
                return values if side == "lora_A" else values.T

            write_safetensors(folder / "adapter_model.safetensors", layout, tensor)
            (folder / "adapter_config.json").write_text(json.dumps(adapter_config(work, size, rank, alpha), indent=1))

        finished(work / f"whisper-{size}" / name / f"{number:02d}", make)
    return [work / f"whisper-{size}" / name / f"{number:02d}" for number in range(count)]


def adapter_config(work: Path, size: str, rank: int, alpha: int) -> dict:
    base = work.resolve() / f"whisper-{size}" / "base" if size != "large-v3" else "openai/whisper-large-v3"
    return {"peft_type": "LORA", "task_type": None, "r": rank, "lora_alpha": alpha, "target_modules": LINEAR,
            "bias": "none", "lora_dropout": 0.0, "fan_in_fan_out": False, "use_rslora": False, "use_dora": False,
            "inference_mode": True, "base_model_name_or_path": str(base)}


def make_tiny(work: Path):
    """Everything small, in folders of the same structure."""
    make_full(work, "hubert", tiny=True)
    make_full(work, "wav2vec2", tiny=True)
    make_whisper_base(work, "tiny")
    make_adapters(work, "tiny", 5, 16, 32)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=("hubert", "wav2vec2", "whisper-small", "whisper-large-v3", "tiny"))
    parser.add_argument("--adapters", type=int, default=32, help="of whisper-large-v3 (default: 32)")
    parser.add_argument("--modules", type=int, help="of whisper-large-v3: only its first modules")
    parser.add_argument("--work", type=Path, default=HERE / "work", help="folder (default: tools/bench/work)")
    args = parser.parse_args()
    for what in args.what:
        if what in ("hubert", "wav2vec2"):
            make_full(args.work, what)
        elif what == "whisper-small":
            make_whisper_base(args.work, "small")
            make_adapters(args.work, "small", 8, 16, 32)
        elif what == "whisper-large-v3":
            make_adapters(args.work, "large-v3", args.adapters, 64, 64, args.modules)
        else:
            make_tiny(args.work / "tiny")


if __name__ == "__main__":
    main()
