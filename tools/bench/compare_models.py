#!/usr/bin/env python
"""How far two merged models are from each other, as one line of JSON.

    python tools/bench/compare_models.py BASE ONE OTHER    # folders with model.safetensors

relative: |ONE - OTHER| / |OTHER - BASE| (Frobenius, all tensors); elements that differ by more than 1e-3 of the largest
change of their tensor; keys that only one has.
"""
import argparse
import json
from pathlib import Path


def compare(base: Path, one: Path, other: Path) -> dict:
    from safetensors import safe_open

    files = [safe_open(folder / "model.safetensors", "pt") for folder in (base, one, other)]
    keys = [set(file.keys()) for file in files]
    difference = change = 0.0
    differing = elements = 0
    for key in sorted(set.intersection(*keys)):
        start, first, second = (file.get_tensor(key).double() for file in files)
        apart, moved = (first - second).abs(), (second - start).abs()
        difference, change = difference + apart.square().sum().item(), change + moved.square().sum().item()
        differing += int((apart > 1e-3 * moved.max()).sum())
        elements += apart.numel()
    return {"relative": (difference / change) ** 0.5 if change else difference, "differing": differing,
            "elements": elements, "lost_keys": sorted(set.union(*keys) - set.intersection(*keys))}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs=3, type=Path, metavar="BASE ONE OTHER")
    print(json.dumps(compare(*parser.parse_args().folders)))


if __name__ == "__main__":
    main()
