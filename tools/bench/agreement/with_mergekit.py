"""mergekit: its in-process API `merge_tensors`, in float64."""
from types import SimpleNamespace

import torch

from agreement import cases
from agreement.cases import Finding, difference, given_models, related_models, row


def mergekit(models: cases.Models, method: str, count=None, inputs=None, base=True, each=None, **parameters) -> dict:
    """The merged changes. `each`: parameter -> one value per model; `inputs`: other tensors than the tuned models."""
    from mergekit.merge_methods.api import merge_tensors

    merged, tuned = {}, models.tuned[:count] if inputs is None else inputs
    for name in models.base:
        tensors = [model[name] for model in tuned]
        ids = [f"m{number}" for number in range(len(tensors))]
        if base:
            tensors, ids = [models.base[name], *tensors], ["base", *ids]
        given = {key: dict(zip(ids[-len(values):], values)) for key, values in (each or {}).items()}
        merged[name] = merge_tensors(tensors, method, ids=ids, base_index=0 if base else None, name=name,
                                     parameters={**parameters, **given})
    return merged


def ones(models, value=1.0):
    return [value] * len(models.tuned)


@row("weighted_delta_n", "mergekit linear", "weights .5 .3 .2")
def linear(folder):
    models, weights = related_models(folder), [0.5, 0.3, 0.2]
    theirs = models.changes(mergekit(models, "linear", base=False, each={"weight": weights}))
    return Finding(difference(models.ours("weighted_delta_n", coefficients=weights), theirs))


@row("weighted_delta_n", "mergekit linear", "weights 1 1 1",
     because="mergekit divides by the sum of the weights (normalize: true); here weights are taken as they are, "
             "and `uniform` is the mean")
def linear_normalized(folder):
    models = related_models(folder)
    theirs = models.changes(mergekit(models, "linear", base=False, each={"weight": ones(models)}))
    ours = models.ours("weighted_delta_n", coefficients=[1, 1, 1])
    third = {name: tensor / 3 for name, tensor in ours.items()}
    return Finding(difference(ours, theirs), difference(third, theirs))


@row("task_arithmetic", "mergekit task_arithmetic", "scale .4")
def task_arithmetic(folder):
    models = related_models(folder)
    theirs = models.changes(mergekit(models, "task_arithmetic", each={"weight": ones(models)}, **{"lambda": 0.4}))
    return Finding(difference(models.ours("task_arithmetic", scale=0.4), theirs))


def mergekit_ties(models, density, method="ties", normalize=True, **options) -> dict:
    each = {"weight": ones(models), "density": ones(models, density)}
    return models.changes(mergekit(models, method, each=each, normalize=normalize, **options))


@row("ties, trim=tensor", "mergekit ties", "density .2")
def ties(folder):
    models = related_models(folder)
    return Finding(difference(models.ours("ties", k=20, trim="tensor"), mergekit_ties(models, 0.2)))


@row("ties, trim=tensor, weights", "mergekit ties", "density .5, weights .5 .3 .2")
def ties_weights(folder):
    models, weights = related_models(folder), [0.5, 0.3, 0.2]
    theirs = models.changes(mergekit(models, "ties", each={"weight": weights, "density": ones(models, 0.5)}))
    return Finding(difference(models.ours("ties", k=50, trim="tensor", weights=weights), theirs))


@row("ties, trim=tensor, merge_func=sum", "mergekit ties", "density .5, normalize false, lambda .7")
def ties_sum(folder):
    models = related_models(folder)
    theirs = mergekit_ties(models, 0.5, normalize=False, **{"lambda": 0.7})
    return Finding(difference(models.ours("ties", k=50, trim="tensor", merge_func="sum", lambda_=0.7), theirs))


@row("ties", "mergekit ties", "density .2",
     because="one threshold over all parameters, as in the paper; mergekit trims each tensor alone, which is "
             "`trim=tensor`")
def ties_whole(folder):
    models = related_models(folder)
    ours = models.ours("ties", k=20)
    paper = cases.ties(models.deltas, lambda size: int(0.2 * size), whole=True)
    return Finding(difference(ours, mergekit_ties(models, 0.2)), difference(ours, paper))


@row("ties, trim=tensor", "mergekit ties", "fewer than 1 / density elements",
     because="20 % of 3 elements are none; mergekit keeps at least one of each tensor")
def ties_tiny(folder):
    models = given_models(folder, [0.3, -0.2, 0.1], [0.1, 0.4, 0.2])
    theirs, ours = mergekit_ties(models, 0.2), models.ours("ties", k=20, trim="tensor")
    one = cases.ties(models.deltas, lambda size: 1, whole=False)
    nothing = max(tensor.abs().max().item() for tensor in ours.values())
    return Finding(difference(ours, theirs), max(nothing, difference(one, theirs)))


@row("ties, trim=tensor", "mergekit ties", "values that cancel",
     because="where values cancel the majority of all elected signs decides, as in the authors' code; mergekit "
             "takes +, which is `zero_sum=positive`")
def ties_cancel(folder):
    models = given_models(folder, [0.5, -0.3, -0.2, -0.6], [-0.5, -0.1, -0.4, -0.2])
    ours = models.ours("ties", k=100, trim="tensor")
    positive = models.ours("ties", k=100, trim="tensor", zero_sum="positive")
    majority = cases.ties(models.deltas, lambda size: size, False, zero_sign=-1)
    theirs = mergekit_ties(models, 1.0)
    return Finding(difference(ours, theirs), max(difference(positive, theirs), difference(ours, majority)))


@row("ties, trim=tensor", "mergekit ties", "equal magnitudes at the threshold",
     because="all elements at the threshold are kept, so that no order matters; mergekit keeps int(density N), "
             "and which of the equal ones depends on the sort")
def ties_equal(folder):
    models = given_models(folder, [0.5, 0.25, -0.25, 0.25, 0.125], [0.5, 0.125, 0.0625, 0.25, 0.75])
    ours = models.ours("ties", k=40, trim="tensor")
    all_equal = cases.ties(models.deltas, lambda size: int(0.4 * size), False)
    return Finding(difference(ours, mergekit_ties(models, 0.4)), difference(ours, all_equal))


def thinned(models, drop_rate: float, **params) -> list[dict]:
    """Each model's change after our mask; masks depend on a model's name, not on what it is merged with."""
    return [models.ours("dare", [index], drop_rate=drop_rate, **params) for index in range(len(models.folders))]


def with_changes(models, changes: list[dict]) -> SimpleNamespace:
    """The same base with other fine-tuned models, in memory."""
    tuned = [{name: models.base[name] + change[name] for name in change} for change in changes]
    return SimpleNamespace(base=models.base, changes=models.changes, tuned=tuned)


@row("dare, rescale=l1", "mergekit dare_linear", "density .2, our masks")
def dare_rescale(folder):
    from mergekit.sparsify import RescaleNorm, rescaled_masked_tensor

    models = related_models(folder)
    ours, masked = thinned(models, 0.8, rescale="l1"), thinned(models, 0.8, rescale="none")
    theirs = [{name: rescaled_masked_tensor(delta[name], (mask[name] != 0).double(), RescaleNorm.l1) for name in delta}
              for delta, mask in zip(models.deltas, masked)]
    return Finding(max(map(difference, ours, theirs)))


@row("dare", "mergekit dare_linear", "density .2, our masks",
     because="what stays is divided by its probability, as in the paper; mergekit restores each tensor's sum of "
             "magnitudes, which is `rescale=l1`")
def dare(folder):
    from mergekit.sparsify import RescaleNorm, rescaled_masked_tensor

    models = related_models(folder)
    ours, masked = thinned(models, 0.8), thinned(models, 0.8, rescale="none")
    theirs = [{name: rescaled_masked_tensor(delta[name], (mask[name] != 0).double(), RescaleNorm.l1) for name in delta}
              for delta, mask in zip(models.deltas, masked)]
    fifth = [{name: 5 * (mask[name] != 0) * delta[name] for name in delta}
             for delta, mask in zip(models.deltas, masked)]
    return Finding(max(map(difference, ours, theirs)), max(map(difference, ours, fifth)))


@row("dare_task_arithmetic", "mergekit dare_linear", "density .2, mean over 300 seeds each")
def dare_mean(folder):
    models = related_models(folder, shapes={"encoder.w.weight": (40, 50)})
    total = {name: sum(delta[name] for delta in models.deltas) for name in models.base}
    spread = {name: sum(delta[name].square() for delta in models.deltas).mul(4).sqrt() for name in models.base}
    ours = [models.ours("dare_task_arithmetic", drop_rate=0.8, seed=seed) for seed in range(300)]
    torch.manual_seed(1)
    theirs = [mergekit_ties(models, 0.2, "dare_linear", normalize=False, rescale=False) for _ in range(300)]
    theirs = [{name: 5 * tensor for name, tensor in sample.items()} for sample in theirs]
    errors = [cases.standard_errors(samples, total, spread) for samples in (ours, theirs)]
    return Finding(max(errors), tolerance=6.5, unit="standard errors")


@row("dare_ties, zero_sum=positive", "mergekit dare_ties", "normalize true, our masks")
def dare_ties(folder):
    models = related_models(folder)
    theirs = mergekit_ties(with_changes(models, thinned(models, 0.6)), 1.0, "dare_ties")
    return Finding(difference(models.ours("dare_ties", drop_rate=0.6, zero_sum="positive"), theirs))


@row("dare_ties, zero_sum=positive", "mergekit dare_ties", "its default, our masks",
     because="the mean of the values that agree, as in TIES; mergekit's dare_ties adds them (normalize: false), "
             "which is `merge_func=sum`")
def dare_ties_default(folder):
    models = related_models(folder)
    theirs = mergekit_ties(with_changes(models, thinned(models, 0.6)), 1.0, "dare_ties", normalize=False)
    added = models.ours("dare_ties", drop_rate=0.6, zero_sum="positive", merge_func="sum")
    return Finding(difference(models.ours("dare_ties", drop_rate=0.6, zero_sum="positive"), theirs),
                   difference(added, theirs))


def mergekit_bands(models, method: str, normalize=False) -> dict:
    each = {"weight": ones(models), "density": ones(models, 0.25), "gamma": ones(models, 0.125)}
    return models.changes(mergekit(models, method, each=each, normalize=normalize))


BAND = {"beta": 0.25, "gamma": 0.125, "lambda_": 1.0}


@row("breadcrumbs, scope=tensor", "mergekit breadcrumbs", "density .25, gamma .125")
def breadcrumbs(folder):
    models = related_models(folder)
    ours = models.ours("breadcrumbs", scope="tensor", **BAND)
    return Finding(difference(ours, mergekit_bands(models, "breadcrumbs")))


@row("breadcrumbs", "mergekit breadcrumbs", "density .25, gamma .125",
     because="parts of each row, as in the authors' code; mergekit takes parts of each tensor, which is "
             "`scope=tensor`")
def breadcrumbs_rows(folder):
    models = related_models(folder)
    ours, theirs = models.ours("breadcrumbs", **BAND), mergekit_bands(models, "breadcrumbs")
    by_row = {name: sum(band_of_rows(delta[name], 0.25, 0.125) for delta in models.deltas) for name in models.base}
    return Finding(difference(ours, theirs), difference(ours, by_row))


def band_of_rows(tensor, beta: float, gamma: float):
    """Kernels unrolled, vectors as one row: the floor(gamma n) largest left out, the next floor(beta n) kept."""
    rows = tensor.reshape(1, -1) if tensor.dim() == 1 else tensor.reshape(len(tensor), -1)
    length = rows.shape[1]
    order = rows.abs().argsort(dim=1, descending=True)[:, int(gamma * length):int(gamma * length) + int(beta * length)]
    return (rows * torch.zeros_like(rows).scatter_(1, order, 1.0)).reshape(tensor.shape)


@row("breadcrumbs_ties, scope=tensor, zero_sum=positive", "mergekit breadcrumbs_ties", "normalize true")
def breadcrumbs_ties(folder):
    models = related_models(folder)
    ours = models.ours("breadcrumbs_ties", scope="tensor", zero_sum="positive", **BAND)
    return Finding(difference(ours, mergekit_bands(models, "breadcrumbs_ties", normalize=True)))


DELLA = {"density": 0.5, "epsilon": 0.25, "lambda_": 1.0}


def ranked_probabilities(tensor, dim: int):
    """Probability to stay by rank of the magnitude along one dimension."""
    ranks = tensor.abs().argsort(dim=dim).argsort(dim=dim).double()
    return 0.25 + 0.5 * ranks / (tensor.shape[dim] - 1)


def kept_deviation(delta, probabilities) -> tuple[dict, dict]:
    """Mean and standard deviation of a value that stays with this probability, unscaled."""
    return ({name: delta[name] * probabilities[name] for name in delta},
            {name: delta[name].abs() * (probabilities[name] * (1 - probabilities[name])).sqrt() for name in delta})


@row("della_linear, rescale=none", "mergekit della_linear", "how often a value stays, 300 seeds each")
def della_masks(folder):
    models = related_models(folder, 1, {"encoder.w.weight": (40, 50)})
    probabilities = {name: ranked_probabilities(tensor, 1) for name, tensor in models.deltas[0].items()}
    expected = kept_deviation(models.deltas[0], probabilities)
    ours = [models.ours("della_linear", rescale="none", seed=seed, **DELLA) for seed in range(300)]
    torch.manual_seed(1)
    each = {"weight": [1.0], "density": [0.5], "epsilon": [0.25]}
    theirs = [models.changes(mergekit(models, "della_linear", each=each, rescale=False)) for _ in range(300)]
    errors = [cases.standard_errors(samples, *expected) for samples in (ours, theirs)]
    return Finding(max(errors), tolerance=6.5, unit="standard errors")


@row("della_linear, rescale=none", "mergekit della_linear", "kernels, how often a value stays",
     because="a row is all that one output sees; mergekit ranks along dimension 1 alone, across input channels")
def della_kernels(folder):
    models = related_models(folder, 1, {"encoder.conv.weight": (20, 10, 5)})
    ours = [models.ours("della_linear", rescale="none", seed=seed, **DELLA) for seed in range(300)]
    [(name, delta)] = models.deltas[0].items()
    theirs = kept_deviation({name: delta}, {name: ranked_probabilities(delta, 1)})
    rows = {name: ranked_probabilities(delta.reshape(20, 50), 1).reshape(delta.shape)}
    errors = [cases.standard_errors(ours, *expected) for expected in (theirs, kept_deviation({name: delta}, rows))]
    return Finding(errors[0], errors[1], tolerance=6.5, unit="standard errors")


@row("della_linear, rescale=l1", "mergekit della_linear", "our masks")
def della_rescale(folder):
    from mergekit.sparsify import RescaleNorm, rescaled_masked_tensor

    models = related_models(folder)
    ours, mask = (models.ours("della_linear", [1], rescale=rescale, **DELLA) for rescale in ("l1", "none"))
    theirs = {name: rescaled_masked_tensor(delta, (mask[name] != 0).double(), RescaleNorm.l1)
              for name, delta in models.deltas[1].items()}
    return Finding(difference(ours, theirs))


@row("della, zero_sum=positive", "mergekit della", "our masks")
def della(folder):
    models = related_models(folder)
    thin = [models.ours("della_linear", [index], **DELLA) for index in range(3)]
    each = {"weight": ones(models), "density": ones(models), "epsilon": ones(models, 0.0)}
    theirs = models.changes(mergekit(with_changes(models, thin), "della", each=each))
    return Finding(difference(models.ours("della", zero_sum="positive", **DELLA), theirs))


@row("slerp, space=weights", "mergekit slerp", "t .3")
def slerp(folder):
    models = related_models(folder, 2)
    theirs = models.changes(mergekit(first_as_base(models), "slerp", t=0.3))
    return Finding(difference(models.ours("slerp", t=0.3, space="weights"), theirs))


def first_as_base(models) -> SimpleNamespace:
    return SimpleNamespace(base=models.tuned[0], tuned=models.tuned[1:])


@row("slerp", "mergekit slerp", "t .3",
     because="between task vectors, as mergekit's nuslerp with a base; whole weights, which its slerp takes, are"
             " `space=weights`")
def slerp_deltas(folder):
    models = related_models(folder, 2)
    ours, theirs = models.ours("slerp", t=0.3), models.changes(mergekit(first_as_base(models), "slerp", t=0.3))
    on_deltas = models.changes(mergekit(models, "nuslerp", each={"weight": [0.7, 0.3]}))
    return Finding(difference(ours, theirs), difference(ours, on_deltas))


@row("karcher", "mergekit karcher", "on task vectors")
def karcher(folder):
    models = related_models(folder)
    theirs = mergekit(models, "karcher", inputs=models.deltas, base=False, tol=1e-12, max_iter=100)
    return Finding(difference(models.ours("karcher"), theirs))


@row("karcher", "mergekit karcher", "on whole weights, as it is used",
     because="the mean direction of task vectors; mergekit takes that of whole weights, which all point nearly "
             "the same way")
def karcher_weights(folder):
    models = related_models(folder)
    theirs = models.changes(mergekit(models, "karcher", base=False, tol=1e-12, max_iter=100))
    on_deltas = mergekit(models, "karcher", inputs=models.deltas, base=False, tol=1e-12, max_iter=100)
    ours = models.ours("karcher")
    return Finding(difference(ours, theirs), difference(ours, on_deltas))


@row("model_stock", "mergekit model_stock", "three models")
def model_stock(folder):
    models = related_models(folder)
    return Finding(difference(models.ours("model_stock"), models.changes(mergekit(models, "model_stock"))))


@row("model_stock", "mergekit model_stock", "task vectors that oppose each other",
     because="a mean cosine below 0 counts as 0, which gives the base; mergekit goes beyond the base, away from "
             "the mean")
def model_stock_opposed(folder):
    models = given_models(folder, [1.0, 0.1, 0.0], [-1.0, 0.1, 0.2])
    ours, theirs = models.ours("model_stock"), models.changes(mergekit(models, "model_stock"))
    return Finding(difference(ours, theirs), max(tensor.abs().max().item() for tensor in ours.values()))
