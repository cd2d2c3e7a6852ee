#!/usr/bin/env python
"""The adapter bank beside merged weights: memory of learning coefficients, time of a step, time of trying settings.

    tools/bench/.venv/bin/python tools/bench/make_models.py whisper-small
    tools/bench/.venv/bin/python tools/bench/bank.py                       # all three parts
    tools/bench/.venv/bin/python tools/bench/bank.py --parts step --runs 3

On a Whisper-small (random weights) with LoRA adapters of rank 16 on all 192 linear layers, random features of 3 s:
memory    peaks of resident memory of whole processes: decoding with the model alone, with the bank, and updating layer-wise
          coefficients of as many adapters, without and with checkpointing of the layers
step      one update of layer-wise coefficients of --count adapters (8) on the same batch: through the bank (fused_lora_linear); with
          merged weights that torch.func.functional_call is given; with fusion_bench's LayerWiseMergedModel. In one process, in
          turn, in float32 and under autocast to bfloat16. `base alone`: the base's own forward and backward pass without any
          adapter, which no way of learning through it can undercut; on few processors its products are most of a step
settings  12 settings of coefficients of 5 adapters, from nothing to texts: one process with a bank, against 12 merges that are
          saved and decoded by processes that load base and adapter
"""
import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import measure
from measure import Contender, spread

TYPES = ("float32", "bfloat16")
PARTS = ("memory", "step", "settings")
SECONDS, BATCH, TOKENS = 3, 4, 12  # of features, utterances, tokens
SETTINGS = 12


def load(base: Path):
    import torch
    from transformers import WhisperForConditionalGeneration
    from transformers.utils import logging

    from speechmerge.models.whisper_encoder import AnyLengthEncoder

    logging.disable_progress_bar()
    model = WhisperForConditionalGeneration.from_pretrained(base, dtype=torch.float32).eval().requires_grad_(False)
    model.model.encoder.__class__ = AnyLengthEncoder
    return model


def inputs(model, seed=0):
    """Features, targets of a teacher-forced step."""
    import torch

    random = torch.Generator().manual_seed(seed)
    features = torch.randn(BATCH, model.config.num_mel_bins, SECONDS * 100, generator=random)
    return features, torch.randint(0, model.config.vocab_size, (BATCH, TOKENS), generator=random)


def decode(model, features):
    """Greedy decoding without what a tokenizer would say."""
    import torch
    from transformers.modeling_outputs import BaseModelOutput

    with torch.inference_mode():
        hidden = BaseModelOutput(last_hidden_state=model.model.encoder(features)[0])
        ids, cache = torch.full((len(features), 1), model.config.decoder_start_token_id), None
        for _ in range(TOKENS):
            found = model(encoder_outputs=hidden, decoder_input_ids=ids[:, -1:], past_key_values=cache, use_cache=True)
            cache, ids = found.past_key_values, torch.cat([ids, found.logits[:, -1:].argmax(-1)], dim=1)
    return ids


def loss_of(model, features, targets):
    from torch import nn

    logits = model(input_features=features, decoder_input_ids=targets, use_cache=False).logits
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten())


# what is measured as a process of its own

def process(kind: str, base: Path, adapters: list[Path]):
    import torch

    model = load(base)
    features, targets = inputs(model)
    if kind == "decode":
        decode(model, features)
        return
    from speechmerge.bank import AdapterBank, Coefficients
    from speechmerge.learn.loop import checkpointed

    bank = AdapterBank(model, adapters, [path.name for path in adapters], base)
    free = torch.full((len(bank.groups), len(adapters)), 1 / len(adapters), requires_grad=True)
    if kind == "decode, bank":
        with bank.using(Coefficients.per_layer(free.detach())):
            decode(model, features)
        return
    optimizer = torch.optim.Adam([free], lr=1e-2)
    with checkpointed(model) if kind.endswith("checkpointing") else torch.enable_grad():
        for _ in range(2):
            with bank.using(Coefficients.per_layer(free)):
                free.grad = torch.autograd.grad(loss_of(model, features, targets), free)[0]
            optimizer.step()


def memory(args, report):
    adapters = folders(args.work, args.count)
    kinds = ("decode", "decode, bank", "learn", "learn, checkpointing")
    contenders = {kind: Contender([sys.executable, __file__, "--process", kind, "--base", str(base_of(args.work)), *map(str, adapters)])
                  for kind in kinds}
    samples = measure.alternate(contenders, args.runs, args.cpus, args.work)
    report.put({f"memory: {kind}": measure.row(found) for kind, found in samples.items()})


# one step, three ways

def step(args, report):
    import torch

    torch.set_num_threads(args.cpus)
    base, adapters = base_of(args.work), folders(args.work, args.count)
    ways = {"base alone": base_step, "bank": bank_step, "functional_call": functional_step, "fusion_bench": fusion_step}
    steps = {}
    for name, make in ways.items():
        try:
            steps[name] = make(base, adapters)
        except ImportError as error:
            print(f"  {name}: {error}")
    for kind in args.types:
        times, losses = {name: [] for name in ways}, {}
        for number in range(args.runs + 1):  # the first warms up
            for name, one in steps.items():
                start = time.perf_counter()
                with torch.autocast("cpu", torch.bfloat16, enabled=kind == "bfloat16"):
                    losses[name] = one()
                if number:
                    times[name].append(time.perf_counter() - start)
                    print(f"  {kind}, {number}/{args.runs} {name}: {times[name][-1]:.2f} s, loss {losses[name]:.6f}", flush=True)
        report.put({f"{step_key(kind)}: {name}": {"seconds": found, "loss": losses.get(name)} for name, found in times.items()})


def step_key(kind: str) -> str:
    return "step" if kind == "float32" else f"step, {kind}"


def base_step(base, adapters):
    """Forwards, and backwards to what the first layer of the encoder adds: as far as coefficients need it."""
    import torch

    model = load(base)
    features, targets = inputs(model)
    shift = torch.zeros(model.config.d_model, requires_grad=True)
    model.model.encoder.layers[0].fc2.register_forward_hook(lambda module, inputs, output: output + shift)

    def one():
        loss = loss_of(model, features, targets)
        torch.autograd.grad(loss, shift)
        return loss.item()

    return one


def bank_step(base, adapters):
    import torch

    from speechmerge.bank import AdapterBank, Coefficients

    model = load(base)
    features, targets = inputs(model)
    bank = AdapterBank(model, adapters, [path.name for path in adapters], base)
    free = torch.full((len(bank.groups), len(adapters)), 1 / len(adapters), requires_grad=True)

    def one():
        with bank.using(Coefficients.per_layer(free)):
            loss = loss_of(model, features, targets)
            torch.autograd.grad(loss, free)
        return loss.item()

    return one


def functional_step(base, adapters):
    """The same weights merged anew in every step, with gradients to the coefficients."""
    import torch
    from torch.func import functional_call

    import speechmerge

    model = load(base)
    features, targets = inputs(model)
    vectors = [speechmerge.merge([path], base=base).deltas for path in adapters]
    names = sorted(vectors[0])
    factors = {name: [vector[name].factors() for vector in vectors] for name in names}
    own = dict(model.named_parameters())
    free = torch.full((len(names), len(adapters)), 1 / len(adapters), requires_grad=True)

    def one():
        merged = {name: own[name] + sum(c * (B @ A) for c, (B, A) in zip(free[index], factors[name])) for index, name in enumerate(names)}
        logits = functional_call(model, merged, (), {"input_features": features, "decoder_input_ids": targets, "use_cache": False}).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten())
        torch.autograd.grad(loss, free)
        return loss.item()

    return one


def fusion_step(base, adapters):
    """fusion_bench's layer-wise merging: a coefficient per tensor and model, weights merged in front of each forward pass."""
    import torch
    from fusion_bench.models.wrappers.layer_wise_fusion import LayerWiseMergedModel, get_layer_wise_weights

    import speechmerge

    tuned = []
    for path in adapters:
        model = load(base)
        with speechmerge.merge([path], base=base).applied(model):
            whole = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        model.load_state_dict(whole)
        tuned.append(model.requires_grad_(True))
    model = load(base).requires_grad_(True)
    features, targets = inputs(model)
    count = sum(1 for _ in model.parameters())
    wrapped = LayerWiseMergedModel(layer_wise_weight=get_layer_wise_weights(len(adapters), count), pretrained_model=model, finetuned_models=tuned,
                                   clamp_weights=False, tie_weights=False, strict=False)

    def one():
        wrapped.merge_weights()
        logits = wrapped(input_features=features, decoder_input_ids=targets, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten())
        torch.autograd.grad(loss, wrapped.merge_weight)
        return loss.item()

    return one


# twelve settings

def settings(args, report):
    base, adapters, out = base_of(args.work), folders(args.work, 5), args.work / "out" / "settings"
    own = [sys.executable, __file__, "--process", "settings", "--base", str(base), *map(str, adapters)]
    merged = [sys.executable, __file__, "--process", "merged settings", "--base", str(base), "--out", str(out), *map(str, adapters)]
    samples = measure.alternate({"bank": Contender(own), "merged and loaded": Contender(merged, out)}, args.runs, args.cpus, args.work)
    report.put({f"settings: {name}": measure.row(found) for name, found in samples.items()})


def coefficients(number: int, count: int) -> list[float]:
    return [round(((number * 7 + index * 3) % 11) / 10, 1) for index in range(count)]


def through_bank(base, adapters):
    from speechmerge.bank import AdapterBank, Coefficients

    model = load(base)
    bank = AdapterBank(model, adapters, [path.name for path in adapters], base)
    for number in range(SETTINGS):
        with bank.using(Coefficients.per_task(coefficients(number, len(adapters)))):
            decode(model, inputs(model)[0])


def through_files(base, adapters, out: Path):
    """As one does without a bank: merge, save, and a process that loads base and adapter and decodes."""
    import speechmerge

    for number in range(SETTINGS):
        merged = speechmerge.merge(adapters, "weighted_delta_n", coefficients=coefficients(number, len(adapters)))
        merged.save(out / str(number), as_="lora")
        subprocess.run([sys.executable, __file__, "--process", "decode adapter", "--base", str(base), str(out / str(number))], check=True)


def decode_adapter(base, folder):
    from peft import PeftModel

    model = load(base)
    merged = PeftModel.from_pretrained(model, folder).merge_and_unload()
    decode(merged, inputs(merged)[0])


# tables

def table(rows: dict) -> str:
    cells = []
    for key, record in rows.items():
        if "samples" in record:
            samples = measure.samples_of(record)
            memory = spread((sample.rss for sample in samples), 0) if key.startswith("memory") else "-"
            cells.append([key, spread(sample.wall for sample in samples), memory])
        else:
            cells.append([key, spread(record["seconds"]) if record["seconds"] else "-", "-"])
    text = [measure.markdown(["", "seconds, median (range)", "resident memory, MB"], cells), "", *ratios(rows)]
    return "\n".join(text)


def ratios(rows: dict) -> list[str]:
    lines = []
    if "memory: decode" in rows:
        alone = statistics.median(sample.rss for sample in measure.samples_of(rows["memory: decode"]))
        for kind in ("learn", "learn, checkpointing"):
            found = statistics.median(sample.rss for sample in measure.samples_of(rows[f"memory: {kind}"]))
            lines.append(f"- memory of {kind} / decoding with the model alone: {found / alone:.2f}")
    for key in map(step_key, TYPES):
        for name in ("base alone", "functional_call", "fusion_bench"):
            if rows.get(f"{key}: {name}", {}).get("seconds"):
                pairs = zip(rows[f"{key}: {name}"]["seconds"], rows[f"{key}: bank"]["seconds"])
                lines.append(f"- {key}, {name} / bank: {spread(other / own for other, own in pairs)}")
    if "settings: bank" in rows:
        others, own = (measure.samples_of(rows[f"settings: {name}"]) for name in ("merged and loaded", "bank"))
        lines.append(f"- {SETTINGS} settings, merged and loaded / bank: {spread(measure.ratios(others, own))}")
    return lines


def base_of(work: Path) -> Path:
    return work / "whisper-small" / "base"


def folders(work: Path, count: int) -> list[Path]:
    found = sorted((work / "whisper-small" / "lora_r16").glob("[0-9]*"))[:count]
    if len(found) < count:
        sys.exit(f"{work}/whisper-small: found {len(found)} adapters, expected {count}; run make_models.py whisper-small")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    measure.add_options(parser)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--types", nargs="+", choices=TYPES, default=TYPES, help="of the products in `step`")
    parser.add_argument("--count", type=int, default=8, help="adapters of `memory` and `step`")
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--process", help=argparse.SUPPRESS)
    parser.add_argument("--base", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("adapters", nargs="*", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.process == "settings":
        return through_bank(args.base, args.adapters)
    if args.process == "merged settings":
        return through_files(args.base, args.adapters, args.out)
    if args.process == "decode adapter":
        return decode_adapter(args.base, args.adapters[0])
    if args.process:
        return process(args.process, args.base, args.adapters)
    measure.alone(args.work)
    report = measure.Report(args.results, "bank", "Learning, trying and mixing through the adapter bank", table)
    for part in args.parts:
        {"memory": memory, "step": step, "settings": settings}[part](args, report)
    report.show()


if __name__ == "__main__":
    main()
