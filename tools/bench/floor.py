#!/usr/bin/env python
"""What any merge of these files costs at least: read all, write one.

    python tools/bench/floor.py tensors OUT FILE FILE ...  # safetensors and torch: load each, touch its pages, save one
    python tools/bench/floor.py bytes OUT FILE FILE ...    # no torch: read the bytes of all, write those of one

--fsync true waits until what was written is on the disk, as speechmerge does before it renames its result into place.
"""
import argparse
import os
from pathlib import Path

PAGE = 4096


def tensors(files, target: Path):
    from safetensors.torch import load_file, save_file

    models = [load_file(path) for path in files]
    for model in models:
        for tensor in model.values():
            tensor.reshape(-1)[:: PAGE // tensor.element_size()].sum()  # loading maps the file, reading makes it real
    save_file(models[0], target)


def plain_bytes(files, target: Path):
    buffer = bytearray(1 << 24)
    for path in files[1:]:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    with open(files[0], "rb", buffering=0) as file, open(target, "wb", buffering=0) as output:
        while count := file.readinto(buffer):
            output.write(memoryview(buffer)[:count])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("how", choices=("tensors", "bytes"))
    parser.add_argument("out", type=Path, help="folder for model.safetensors")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--fsync", choices=("true", "false"), default="false")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    target = args.out / "model.safetensors"
    {"tensors": tensors, "bytes": plain_bytes}[args.how](args.files, target)
    if args.fsync == "true":
        with open(target, "rb+") as file:
            os.fsync(file.fileno())


if __name__ == "__main__":
    main()
