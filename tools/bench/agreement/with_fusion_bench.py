"""fusion_bench: the functions below its algorithms, on state dicts, in float64 where they allow it."""
import torch

from agreement import cases
from agreement.cases import MATRICES, Finding, difference, given_models, noise, related_models, row


def flat(tensors: dict) -> torch.Tensor:
    return torch.cat([tensors[name].reshape(-1) for name in sorted(tensors)])


def unflat(vector: torch.Tensor, like: dict) -> dict:
    names = sorted(like)
    parts = vector.split([like[name].numel() for name in names])
    return {name: part.reshape(like[name].shape) for name, part in zip(names, parts)}


def fusion_ties(models, percent: float, function="mean") -> dict:
    from fusion_bench.method.ties_merging.ties_merging_utils import ties_merging

    changes = torch.stack([flat(delta) for delta in models.deltas])
    return unflat(ties_merging(changes, reset_thresh=percent, merge_func=function), models.base)


@row("uniform", "fusion_bench simple_average", "three models")
def average(folder):
    from fusion_bench.method.simple_average import simple_average

    models = related_models(folder)
    return Finding(difference(models.ours("uniform"), models.changes(simple_average(models.tuned))))


@row("task_arithmetic", "fusion_bench state_dict_*", "scale .3")
def task_arithmetic(folder):
    from fusion_bench.utils.state_dict_arithmetic import state_dict_add, state_dict_mul, state_dict_sub, state_dict_sum

    models = related_models(folder)
    total = state_dict_sum([state_dict_sub(tuned, models.base) for tuned in models.tuned])
    theirs = models.changes(state_dict_add(models.base, state_dict_mul(total, 0.3)))
    return Finding(difference(models.ours("task_arithmetic", scale=0.3), theirs))


@row("ties", "fusion_bench ties_merging", "threshold 20, mean",
     because="floor(k % of N) elements of each task vector are kept; fusion_bench, as the authors' code, keeps "
             "one more")
def ties(folder):
    models = related_models(folder)
    ours, theirs = models.ours("ties", k=20), fusion_ties(models, 20)
    one_more = cases.ties(models.deltas, lambda size: int(0.2 * size) + 1, whole=True)
    exactly = cases.ties(models.deltas, lambda size: int(0.2 * size), whole=True)
    return Finding(difference(ours, theirs), max(difference(one_more, theirs), difference(ours, exactly)))


@row("ties, merge_func=sum", "fusion_bench ties_merging", "threshold 99.999, sum")
def ties_sum(folder):
    models = related_models(folder)  # int(99.999 %) is all but one, and the one more is that one
    return Finding(difference(models.ours("ties", k=100, merge_func="sum"), fusion_ties(models, 99.999, "sum")))


@row("ties, merge_func=max", "fusion_bench ties_merging", "threshold 99.999, max")
def ties_max(folder):
    models = related_models(folder)
    ours, theirs = models.ours("ties", k=100, merge_func="max"), fusion_ties(models, 99.999, "max")
    return Finding(difference(ours, theirs))


@row("ties", "fusion_bench ties_merging", "values that cancel")
def ties_cancel(folder):
    models = given_models(folder, [0.5, -0.3, -0.2, -0.6], [-0.5, -0.1, -0.4, -0.2])
    return Finding(difference(models.ours("ties", k=100), fusion_ties(models, 75)))  # kthvalue(1): all are kept


@row("slerp, space=weights", "fusion_bench slerp", "t .3")
def slerp(folder):
    from fusion_bench.method.slerp.slerp import slerp_on_state_dicts

    models = related_models(folder, 2)
    theirs = models.changes(slerp_on_state_dicts(0.3, *models.tuned))
    return Finding(difference(models.ours("slerp", t=0.3, space="weights"), theirs))


def fusion_model_stock(models) -> dict:
    """What its class does with more than two models: the mean of the angles, then one ratio per parameter."""
    from fusion_bench.method.model_stock.model_stock import compute_angle, compute_ratio

    pairs = [(a, b) for index, a in enumerate(models.tuned) for b in models.tuned[index + 1:]]
    angles = [compute_angle(a, b, models.base) for a, b in pairs]
    ratio = compute_ratio({name: sum(angle[name] for angle in angles) / len(angles) for name in models.base},
                          len(models.tuned))
    return {name: ratio[name] * sum(delta[name] for delta in models.deltas) / len(models.deltas)
            for name in models.base}


@row("model_stock, average=angle", "fusion_bench ModelStock", "three models")
def model_stock(folder):
    models = related_models(folder)
    return Finding(difference(models.ours("model_stock", average="angle"), fusion_model_stock(models)), tolerance=1e-5)


@row("model_stock", "fusion_bench ModelStock", "three models",
     because="the mean of the cosines, as mergekit; fusion_bench takes the mean of the angles, which is "
             "`average=angle`")
def model_stock_angle(folder):
    models = given_models(folder, [1.0, 0.1, 0.3], [0.8, 0.4, -0.2], [0.1, 0.9, 0.2])
    theirs = fusion_model_stock(models)
    return Finding(difference(models.ours("model_stock"), theirs),
                   difference(models.ours("model_stock", average="angle"), theirs), tolerance=1e-5)


def fishers(models) -> list[dict]:
    """Fisher information far above the floor, of another size for each model."""
    return [{name: 10.0 ** (number - 2) * (0.5 + noise("fisher", number, name, shape=tensor.shape).square())
             for name, tensor in models.base.items()} for number in range(len(models.tuned))]


def fusion_fisher(models, values, **options) -> dict:
    from fusion_bench.method.fisher_merging.fisher_merging import merging_with_fisher_weights

    params = {name: [tuned[name] for tuned in models.tuned] for name in models.base}
    equal = torch.ones(len(models.tuned), dtype=torch.float64) / len(models.tuned)
    return models.changes(merging_with_fisher_weights(params, values, equal, **options))


def given_fisher(folder):
    models = related_models(folder)
    values = [{name: tensor.float().double() for name, tensor in fisher.items()} for fisher in fishers(models)]
    models.statistics("fisher", values)
    return models, values


@row("fisher", "fusion_bench merging_with_fisher_weights", "normalised")
def fisher(folder):
    models, values = given_fisher(folder)
    return Finding(difference(models.ours("fisher"), fusion_fisher(models, values, minimal_fisher_weight=1e-15)))


@row("fisher, normalize=false", "fusion_bench merging_with_fisher_weights", "not normalised")
def fisher_plain(folder):
    models, values = given_fisher(folder)
    theirs = fusion_fisher(models, values, minimal_fisher_weight=1e-15, normalize_fisher_weight=False)
    return Finding(difference(models.ours("fisher", normalize=False), theirs))


@row("fisher, normalize=false", "fusion_bench merging_with_fisher_weights", "floor .1",
     because="smaller values are raised to the floor, as in the paper; fusion_bench adds it to all values (and "
             "to their norms)")
def fisher_floor(folder):
    models, values = given_fisher(folder)
    theirs = fusion_fisher(models, values, minimal_fisher_weight=0.1, normalize_fisher_weight=False)
    ours, paper = models.ours("fisher", normalize=False, floor=0.1), {}
    for name in models.base:
        weights = torch.stack([value[name] for value in values]).clamp_min(0.1)
        paper[name] = (weights * torch.stack([delta[name] for delta in models.deltas])).sum(0) / weights.sum(0)
    return Finding(difference(ours, theirs), difference(ours, paper))


@row("regmean", "fusion_bench merging_with_regmean_weights", "off-diagonal .9")
def regmean(folder):
    from fusion_bench.method.regmean.regmean import merging_with_regmean_weights

    models, grams = related_models(folder), []
    for number in range(len(models.tuned)):
        inputs = {name: noise("inputs", number, name, shape=(400, models.base[name].shape[1])) for name in MATRICES}
        grams.append({name: (rows.T @ rows / len(rows)).float().double() for name, rows in inputs.items()})
    models.statistics("gram", grams)
    params = {name: [tuned[name] for tuned in models.tuned] for name in models.base}
    modules = [{name.removesuffix(".weight"): tensor for name, tensor in gram.items()} for gram in grams]
    theirs = models.changes(merging_with_regmean_weights(params, modules, reduce_non_diagonal_ratio=0.9))
    return Finding(difference(models.ours("regmean", off_diagonal=0.9), theirs))


@row("dare", "fusion_bench param_random_drop_", "sparsity .8, mean over 300 seeds each")
def dare(folder):
    from fusion_bench.method.dare.utils import param_random_drop_

    models = related_models(folder, shapes={"encoder.w.weight": (40, 50)})
    total = {name: sum(delta[name] for delta in models.deltas) for name in models.base}
    spread = {name: sum(delta[name].square() for delta in models.deltas).mul(4).sqrt() for name in models.base}
    torch.manual_seed(1)

    def dropped(tensor):
        tensor = tensor.clone()
        param_random_drop_(tensor, 0.8, rescale=True)
        return tensor

    theirs = [{name: sum(dropped(delta[name]) for delta in models.deltas) for name in models.base} for _ in range(300)]
    ours = [models.ours("dare_task_arithmetic", drop_rate=0.8, seed=seed) for seed in range(300)]
    errors = [cases.standard_errors(samples, total, spread) for samples in (ours, theirs)]
    return Finding(max(errors), tolerance=6.5, unit="standard errors")
