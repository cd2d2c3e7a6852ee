#!/usr/bin/env python3
"""Routing beside the oracle's adapter on the same utterances: what it costs, and how often it is right.

    tools/bench/route.py --exp-dir egs/asterisk/exp --model egs/asterisk/downloads/models/whisper-base \\
        --data egs/asterisk/data --tasks it es fr ru --system languages-hard --utterances 12 --rounds 3

Contenders take turns, round by round: `adapter in place` (each utterance by the adapter of its set, weights merged),
`oracle in the bank` (true label, no classifier), and the system. The time is that of this process on its processors
(one thread), so that others on the machine disturb it less; what is left of them shows in the spread.
"""
import argparse
import statistics
import time
from pathlib import Path

import torch

from speechmerge.data.batching import FeatureCache
from speechmerge.data.directory import DataDir
from speechmerge.decode import Options, hypotheses
from speechmerge.models.base import Context, load_model
from speechmerge.models.loading import Loading
from speechmerge.route.decode import Routed, routed_hypotheses
from speechmerge.systems import find_systems
from speechmerge.tasks import get_task


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exp-dir", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--tasks", nargs="+", required=True, help="sets, whose adapters are called like them")
    parser.add_argument("--system", default="languages-hard", help="routed system")
    parser.add_argument("--split", default="test")
    parser.add_argument("--utterances", type=int, default=16, help="of each set")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--context", nargs=2, type=float, default=[6.0, 3.0], help="dynamic: least seconds and step")
    return parser.parse_args()


def main():
    args = arguments()
    torch.set_num_threads(1)
    model = load_model(args.model, Loading("cpu"), Context("dynamic", *args.context))
    task, options, cache = get_task("asr"), Options(batch_size=args.batch_size), FeatureCache()
    sets = {name: task.examples(DataDir.read(Path(args.data) / name / args.split))[: args.utterances] for name in args.tasks}
    adapters = {system.name: system.path for system in find_systems(["adapters"], args.exp_dir)}
    [system] = find_systems([args.system], args.exp_dir)
    examples = [example for own in sets.values() for example in own]
    truths = [name for name, own in sets.items() for _ in own]
    for example in examples:
        cache.get(example, model.features)

    def in_place():
        found = {}
        for name, own in sets.items():
            with model.adapter(adapters[name]):
                found.update((h.id, h.text) for part in hypotheses(model, task, own, None, options, cache) for h in part)
        return found, 0.0

    def through(routing):
        with Routed(model, routing) as routed:
            found = {h.id: h for part in routed_hypotheses(routed, task, examples, truths, None, options, cache) for h in part}
        through.right = sum(found[e.id].route.split()[0] == truth for e, truth in zip(examples, truths)) / len(examples)
        return {id: h.text for id, h in found.items()}, routed.seconds

    contenders = {"adapter in place": in_place, "oracle in the bank": lambda: through({**system.routing, "strategy": "oracle", "options": {}}),
                  args.system: lambda: through(system.routing)}
    times, texts = compare(contenders, args.rounds, len(examples))
    show(times, texts, len(examples), through.right)
    print(classification(model, system.routing, examples, cache, args))


def compare(contenders, rounds: int, count: int):
    """{name: [ms per utterance]}, {name: {id: text}}"""
    times, texts = {name: [] for name in contenders}, {}
    for number in range(rounds):
        for name, run in contenders.items():
            begun = time.process_time()
            texts[name], _ = run()
            times[name].append(1000 * (time.process_time() - begun) / count)
            print(f"round {number + 1}: {name}: {times[name][-1]:.1f} ms per utterance", flush=True)
    return times, texts


def show(times, texts, count: int, right: float):
    first, bank, system = list(times)
    print(f"\n{count} utterances, {100 * right:.1f} % routed to their own set, "
          f"{sum(texts[first][id] == text for id, text in texts[system].items())} of {count} texts equal to the oracle adapter's")
    print("| system | ms per utterance, median (smallest to largest) | over the adapter in place | over the oracle in the bank |\n|---|---|---|---|")
    for name, values in times.items():
        over = [" / ".join((f"{statistics.median(a - b for a, b in zip(values, times[other])):+.1f} ms",
                            f"{100 * statistics.median(a / b - 1 for a, b in zip(values, times[other])):+.1f} %")) for other in (first, bank)]
        print(f"| {name} | {statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f}) | {over[0]} | {over[1]} |")


def classification(model, routing, examples, cache, args) -> str:
    """The router alone, features ready: what it adds to any decoding."""
    with Routed(model, routing) as routed:
        values = []
        for _ in range(args.rounds):
            begun = time.process_time()
            routed.decide(examples, None, cache, args.batch_size)
            values.append(1000 * (time.process_time() - begun) / len(examples))
    return f"\nclassifier alone: {statistics.median(values):.1f} ms per utterance ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    main()
