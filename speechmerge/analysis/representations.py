"""What adapters do to the encoder's states: linear CKA between base and adapters on the same audio, layer by layer.

    linear CKA   ||Y'X||_F^2 / (||X'X||_F ||Y'Y||_F), columns centred (arXiv 1905.00414): biased; independent
                 features of 64 dimensions have 0.56 at 50 examples, so it is not what is reported
    debiased     HSIC_1(K, L) = [tr(K~L~) + 1'K~1 1'L~1 / ((n-1)(n-2)) - 2/(n-2) 1'K~L~1] / (n(n-3)), K~ = XX' with zero
                 diagonal, summed over mini-batches: CKA = sum HSIC_1(K, L) / sqrt(sum HSIC_1(K, K) sum HSIC_1(L, L))
                 (arXiv 2010.15327)

1: equal up to rotation and scale; 0: nothing in common. A mini-batch holds one position of each utterance, because
positions of one utterance are not independent; each round draws others.
"""
from speechmerge.analysis.base import ANALYSES, Analysis, Findings, number, table, words_of
from speechmerge.analysis.weights import matrix
from speechmerge.errors import SpeechMergeError
from speechmerge.merge.parameters import Parameter

FEWEST = 4  # examples of a mini-batch, for which HSIC_1 is defined


@ANALYSES.register("representations")
class Representations(Analysis):
    """Linear CKA (debiased, in mini-batches) of encoder states, of base and adapters, per layer."""

    parameters = (
        Parameter("sets", str, None, "words: the sets that are heard; default: one for each adapter"),
        Parameter("max_samples", int, 64, "utterances of each set, drawn once; 0: all", low=0),
        Parameter("rounds", int, 8, "mini-batches: each one position of every utterance", low=1),
        Parameter("layers", str, None, "numbers of encoder layers, 0: the input of the first block; default: all"),
        Parameter("seed", int, 0, "of the draws"),
    )
    uses_model = True

    def run(self) -> Findings:
        from speechmerge.decode import weights_of
        from speechmerge.systems import BASE, System

        study, values = self.study, self.values
        sounds = [self.sound(name, task) for name, task in study.sets(values["sets"]).items()]
        count = sum(len(examples) for _, examples, _ in sounds)
        if count < FEWEST:
            raise SpeechMergeError(f"{study.args.data}: {count} examples of {study.split}; CKA needs at least {FEWEST}")
        layers, states = encoder_layers(study.model, values["layers"]), {}
        for name, system in [(BASE, System(BASE, "base")), *zip(study.names, study.systems)]:
            with weights_of(study.model, system):
                states[name] = drawn(study.model, sounds, layers, values["rounds"], values["seed"])
        similarity = {layer: minibatch_cka([states[name][layer] for name in states]) for layer in layers}
        data = {"split": study.split, "systems": list(states), "utterances": count,
                "layers": {str(k): matrix(v) for k, v in similarity.items()}}
        return Findings(data, pictures(data, similarity), lines(data))

    def sound(self, name: str, task) -> tuple:
        """(task, examples with audio, their features)"""
        from speechmerge.data.batching import FeatureCache
        from speechmerge.data.directory import DataDir

        root, split = self.study.data(name, task, self.values["max_samples"], self.values["seed"])
        task.adapt(self.study.model)
        return task, task.examples(DataDir.read(root / name / split)), FeatureCache()


def encoder_layers(model, chosen: str | None) -> list[int]:
    """The numbers in `chosen` (words), else all of the encoder."""
    from speechmerge.blocks import depths

    if chosen is not None:
        return [int(word) for word in words_of(chosen)]
    depth = depths(name for name, _ in model.core.named_parameters())
    return list(range(next(depth[part] for part in ("audio_tower", "encoder", *depth) if part in depth) + 1))


def batches(model, task, examples, cache):
    """(indices, batch) of the examples, as they are decoded."""
    from speechmerge.decode import Options, plan
    from speechmerge.models.base import Item

    for indices in plan(model, task, examples, Options()):
        items = [Item(examples[i], cache.get(examples[i], model.features), model.seconds(examples[i])) for i in indices]
        yield indices, model.collate(items, task)


def drawn(model, sounds, layers: list[int], rounds: int, seed: int) -> dict:
    """Layer -> [rounds, utterances, d] float32: in round r a position in the r-th part of each utterance's sound."""
    import random

    import torch

    found = {layer: [] for layer in layers}
    for task, examples, cache in sounds:
        rows = {layer: [None] * len(examples) for layer in layers}
        for indices, batch in batches(model, task, examples, cache):
            for layer, states, lengths in model.layer_states(batch, layers):
                for index, own, length in zip(indices, states.float().cpu(), lengths.tolist()):
                    draw = random.Random(f"{seed}/{examples[index].id}")
                    places = [int((turn + draw.random()) / rounds * length) for turn in range(rounds)]
                    rows[layer][index] = own[places]
        for layer in layers:
            found[layer] += rows[layer]
    return {layer: torch.stack(rows, dim=1) for layer, rows in found.items()}


def hsic(kernels):
    """HSIC_1 of all pairs [systems, systems] of kernels [systems, n, n], float64; their diagonals are left out."""
    import torch

    n = kernels.shape[-1]
    if n < FEWEST:
        raise SpeechMergeError(f"HSIC_1 of {n} examples is not defined; expected at least {FEWEST}")
    kernels = kernels * (1 - torch.eye(n, dtype=kernels.dtype))
    flat, rows = kernels.flatten(1), kernels.sum(2)
    sums = rows.sum(1)
    all_sums = torch.outer(sums, sums) / ((n - 1) * (n - 2))
    return (flat @ flat.T + all_sums - 2 / (n - 2) * (rows @ rows.T)) / (n * (n - 3))


def minibatch_cka(states):
    """[systems, systems] from one tensor [rounds, n, d] for each, of the same utterances; NaN where nothing varies."""
    import torch

    total = 0
    for turn in range(len(states[0])):
        rows = [part[turn].double() for part in states]
        rows = [part - part.mean(0) for part in rows]  # changes nothing but the rounding
        total = total + hsic(torch.stack([part @ part.T for part in rows]))
    own = total.diagonal()
    scale = torch.outer(own, own).clamp(min=0).sqrt()
    return torch.where(scale > 0, total / scale, torch.nan).numpy()


def linear_cka(first, second) -> float:
    """The biased one, of [n, d] and [n, e]: for comparison with published numbers alone."""
    first, second = (part.double() - part.double().mean(0) for part in (first, second))
    return float((second.T @ first).square().sum() / ((first.T @ first).norm() * (second.T @ second).norm()))


def pictures(data: dict, similarity: dict) -> list:
    from speechmerge.analysis.charts import heat_map

    names, layers = data["systems"], list(data["layers"])
    to_base = [[data["layers"][layer][0][place] for layer in layers] for place in range(1, len(names))]
    last = data["layers"][layers[-1]]
    mean = matrix(sum(similarity.values()) / len(similarity))
    return [heat_map("cka_base", "CKA of each adapter with the base, by encoder layer", names[1:], layers, to_base,
                     limit=1.0),
            heat_map("cka_last", f"CKA at layer {layers[-1]}", names, names, last, limit=1.0),
            heat_map("cka_mean", "CKA, mean of the layers", names, names, mean, limit=1.0)]


def lines(data: dict) -> list[str]:
    layers = list(data["layers"])
    rows = [[name, *(number(data["layers"][layer][0][place] or float("nan")) for layer in layers)]
            for place, name in enumerate(data["systems"]) if place]
    return [f"CKA with the base by encoder layer, {data['utterances']} utterances",
            *table(["adapter", *layers], rows, 7)]
