"""fusion_bench: singular vectors and task masks. What it does to full-rank matrices, and what to LoRA."""
import torch

from agreement import with_peft
from agreement.cases import SHAPES, Finding, difference, related_models, row, ties
from agreement.with_fusion_bench import flat, unflat

MATRICES = {name: shape for name, shape in SHAPES.items() if len(shape) < 3}  # and vectors, which all average


def lora() -> tuple[list[str], list[dict]]:
    """Folders of three adapters of rank 16, and their products, [64 or 128, 64 or 128]."""
    folders = with_peft.adapters()
    return [str(path) for path in folders], [with_peft.products(path) for path in folders]


def ours_lora(method: str, **params) -> dict:
    import speechmerge

    merged = speechmerge.merge(lora()[0], method, **params)
    return {name.removesuffix(".weight"): delta.dense().double() for name, delta in merged.deltas.items()}


def fusion_tsv(deltas: list[dict]) -> dict:
    from fusion_bench.method.task_singular_vector.utils.TSVM_utils import compute_and_sum_svd_mem_reduction

    return compute_and_sum_svd_mem_reduction(deltas, accelerator="cpu")


@row("tsv_m", "fusion_bench TSVM", "full-rank matrices")
def tsv(folder):
    models = related_models(folder, shapes=MATRICES)
    return Finding(difference(models.ours("tsv_m"), fusion_tsv(models.deltas)))


@row("tsv_m", "fusion_bench TSVM", "kernels",
     because="kernels are unrolled to matrices; fusion_bench averages what has not two dimensions")
def tsv_kernels(folder):
    models = related_models(folder, shapes={"encoder.conv.weight": (16, 6, 5)})
    ours, theirs = models.ours("tsv_m"), fusion_tsv(models.deltas)
    unrolled = fusion_tsv([{name: tensor.reshape(16, 30) for name, tensor in delta.items()} for delta in models.deltas])
    unrolled = {name: tensor.reshape(16, 6, 5) for name, tensor in unrolled.items()}
    return Finding(difference(ours, theirs), difference(ours, unrolled))


def polar(matrix):
    """P Q' of P S Q' over the numerical rank, so that columns which coincide count once."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    rank = int((values > 1e-5 * values[0]).sum())
    return left[:, :rank] @ right[:rank]


def tsv_of_rank(matrices, rank: int):
    parts = [torch.linalg.svd(matrix, full_matrices=False) for matrix in matrices]
    left, right = torch.cat([U[:, :rank] for U, _, _ in parts], 1), torch.cat([V[:rank] for _, _, V in parts])
    return polar(left) * torch.cat([S[:rank] for _, S, _ in parts]) @ polar(right)


@row("tsv_m", "fusion_bench TSVM", "LoRA of rank 16, 21 vectors each",
     because="no vectors beyond the numerical rank, of each task and of all together; fusion_bench takes min(m, "
             "n) / T of each, arbitrary ones of zero singular values among them, which push the others about")
def tsv_lora(folder):
    deltas = lora()[1]
    ours, theirs = ours_lora("tsv_m"), fusion_tsv(deltas)
    by_rank = {name: tsv_of_rank([delta[name] for delta in deltas], 16) for name in ours}
    return Finding(difference(ours, theirs), difference(ours, by_rank), tolerance=5e-6)


@row("iso_c", "fusion_bench iso_c", "full-rank matrices")
def iso_c(folder):
    from fusion_bench.method.isotropic_merging.iso_utils import iso_c as fusion_iso_c

    models = related_models(folder, shapes=MATRICES)
    return Finding(difference(models.ours("iso_c"), fusion_iso_c(models.deltas, accelerator="cpu")))


@row("iso_c", "fusion_bench iso_c", "LoRA of rank 16",
     because="the mean over the numerical rank, and only directions of that rank; fusion_bench gives null "
             "directions the same weight as all others")
def iso_c_lora(folder):
    from fusion_bench.method.isotropic_merging.iso_utils import iso_c as fusion_iso_c

    deltas, by_rank = lora()[1], {}
    ours, theirs = ours_lora("iso_c"), fusion_iso_c(deltas, accelerator="cpu")
    for name in ours:
        U, S, V = torch.linalg.svd(sum(delta[name] for delta in deltas), full_matrices=False)
        rank = int((S > 1e-7 * S[0]).sum())
        by_rank[name] = S[:rank].mean() * U[:, :rank] @ V[:rank]
    return Finding(difference(ours, theirs), difference(ours, by_rank), tolerance=5e-6)


@row("iso_cts", "fusion_bench iso_cts", "full-rank matrices, common .8")
def iso_cts(folder):
    from fusion_bench.method.isotropic_merging.iso_utils import iso_cts as fusion_iso_cts

    models = related_models(folder, shapes=MATRICES)
    return Finding(difference(models.ours("iso_cts"), fusion_iso_cts(models.deltas, 0.8, accelerator="cpu")))


def interference(merged, deltas: list) -> float:
    """WUDI's loss of one matrix."""
    return sum((((merged - delta) @ delta.T).square().sum() / delta.square().sum()).item() for delta in deltas)


@row("wudi", "fusion_bench wudi_merging", "full-rank matrices",
     because="the minimum of the loss in closed form; fusion_bench takes 300 steps of 1e-5, which do not reach "
             "it (explained to: our loss above the smallest)")
def wudi(folder):
    from fusion_bench.method.wudi.wudi import wudi_merging

    models = related_models(folder, shapes={name: shape for name, shape in MATRICES.items() if len(shape) == 2})
    ours = models.ours("wudi")
    theirs = {name: tensor.detach() for name, tensor in wudi_merging(models.deltas, accelerator="cpu").items()}
    worst = 0.0
    for name in ours:
        deltas = [delta[name] for delta in models.deltas]
        grams = [delta.T @ delta / delta.square().sum() for delta in deltas]
        solved = torch.linalg.lstsq(sum(grams), sum(delta @ gram for delta, gram in zip(deltas, grams)).T).solution.T
        least, own = interference(solved, deltas), interference(ours[name], deltas)
        assert own < interference(theirs[name], deltas), f"{name}: the peer's loss is smaller than ours"
        worst = max(worst, own / least - 1)
    return Finding(difference(ours, theirs), max(worst, 0.0))


@row("knots, inner=ties, trim=tensor", "fusion_bench subspace_alignment", "then TIES of the parts, k 20")
def knots(folder):
    from fusion_bench.method.knots.knots_utils import subspace_alignment

    deltas, theirs = lora()[1], {}
    ours = ours_lora("knots", inner="ties", inner_params={"k": 20, "trim": "tensor"})
    for name in ours:
        U, S, parts = subspace_alignment([delta[name] for delta in deltas])
        merged = ties([{name: S[:, None] * part} for part in parts], lambda size: int(0.2 * size), whole=False)
        theirs[name] = U @ merged[name]
    return Finding(difference(ours, theirs), tolerance=5e-6)


@row("emr", "fusion_bench emr_merge", "the unified vector")
def emr(folder):
    from fusion_bench.method.emr_merging.utils import emr_merge

    models = related_models(folder)
    return Finding(difference(models.ours("emr"), emr_merge(models.deltas)[0]))


@row("emr, task=m1", "fusion_bench emr_merge", "the vector of a task",
     because="the scale is the ratio of sums over the whole vector, as in the paper; fusion_bench adds up means "
             "of tensors, where a bias counts as much as a matrix")
def emr_task(folder):
    from fusion_bench.method.emr_merging.utils import emr_merge

    models = related_models(folder)
    unified, masks, scales = emr_merge(models.deltas)
    masked = {name: unified[name] * masks[name][1] for name in unified}
    scale = flat(models.deltas[1]).abs().sum() / flat(masked).abs().sum()
    ours, theirs = models.ours("emr", task="m1"), {name: scales[1] * tensor for name, tensor in masked.items()}
    paper = {name: scale * tensor for name, tensor in masked.items()}
    return Finding(difference(ours, theirs), difference(ours, paper))


def fusion_masks(models) -> torch.Tensor:
    """[tasks, values]"""
    from fusion_bench.method.tall_mask.utils import generate_task_masks

    changes, tuned = (torch.stack([flat(tensors) for tensors in group]) for group in (models.deltas, models.tuned))
    return generate_task_masks(changes, tuned, flat(models.base), tall_mask_lambda=0.4)


@row("tall_mask, task=m1", "fusion_bench generate_task_masks", "lambda .4")
def tall_mask(folder):
    models = related_models(folder)
    total = sum(flat(delta) for delta in models.deltas)
    theirs = unflat(total * fusion_masks(models)[1], models.base)
    return Finding(difference(models.ours("tall_mask", task="m1"), theirs))


@row("consensus", "fusion_bench generate_task_masks", "lambda .4, needed by 2 of 3 tasks")
def consensus(folder):
    models = related_models(folder)
    total = sum(flat(delta) for delta in models.deltas)
    theirs = unflat(total * (fusion_masks(models).sum(0) >= 2), models.base)
    return Finding(difference(models.ours("consensus", k=2), theirs))
