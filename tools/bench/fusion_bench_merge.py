#!/usr/bin/env python
"""One merge by fusion_bench as a whole process, from model folders to a saved model; full_models.py runs it.

    python tools/bench/fusion_bench_merge.py ties OUT BASE TUNED TUNED ...

Its algorithms are called directly, which spares it the start of its own command line (hydra); models are loaded when an
algorithm asks for them. `threshold` is TIES' percentage that is kept, taken over the whole flattened model.
"""
import argparse
import json
from pathlib import Path


def algorithm(method: str):
    from fusion_bench import method as methods
    from fusion_bench.method.dare.ties_merging import DareTiesMerging

    ties = {"scaling_factor": 1.0, "remove_keys": [], "merge_func": "mean"}
    return {"linear": lambda: methods.SimpleAverageAlgorithm(),
            "task_arithmetic": lambda: methods.TaskArithmeticAlgorithm(scaling_factor=0.4),
            "ties": lambda: methods.TiesMergingAlgorithm(threshold=20, **ties),
            "dare_ties": lambda: DareTiesMerging(sparsity_ratio=0.8, only_on_linear_weights=False, rescale=True,
                                                 threshold=20, **ties),
            "slerp": lambda: methods.SlerpMergeAlgorithm(t=0.3)}[method]()


def pool(method: str, base: Path, tuned: list[Path]):
    from fusion_bench.modelpool import BaseModelPool

    config = json.loads((base / "config.json").read_text())
    folders = {path.name: path for path in tuned}
    if method in ("task_arithmetic", "ties", "dare_ties"):
        folders = {"_pretrained_": base, **folders}
    load = f"transformers.{config['architectures'][0]}.from_pretrained"
    return BaseModelPool({name: {"_target_": load, "pretrained_model_name_or_path": str(path), "dtype": config["dtype"]}
                          for name, path in folders.items()})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=("linear", "task_arithmetic", "ties", "dare_ties", "slerp"))
    parser.add_argument("out", type=Path)
    parser.add_argument("base", type=Path)
    parser.add_argument("tuned", nargs="+", type=Path)
    args = parser.parse_args()
    algorithm(args.method).run(pool(args.method, args.base, args.tuned)).save_pretrained(args.out)


if __name__ == "__main__":
    main()
