"""What a merge would do, from headers alone: tensors, ranks, coefficients, bytes, expected memory."""
import math
import os

from speechmerge.merge.compute import UNIT
from speechmerge.merge.delta import BLOCK, LowRank
from speechmerge.merge.method import Linear
from speechmerge.merge.save import check_full, check_lora, check_options
from speechmerge.merge.task_vector import TaskVector
from speechmerge.storage.safetensors_file import BYTES

IDLE = 300_000_000  # bytes of a process that has imported torch and done nothing


def plan(merge, save: str, rank: int | None) -> dict:
    """The plan of a prepared :class:`speechmerge.merge.run.Merge`; refuses what saving would refuse."""
    check_options(save, rank)
    deltas = {name: [vector.deltas[name] for vector in merge.vectors] for name in merge.shared}
    shapes = TaskVector({name: parts[0] for name, parts in deltas.items()}, merge.base)
    if save == "lora":
        check_lora(shapes)
    base = check_full(shapes, merge.base) if save == "full" else None
    ranks = {name: result_rank(merge.rule, name, parts, rank) for name, parts in deltas.items()}
    return {
        "method": merge.rule.name,
        "params": merge.rule.values,
        **merge.settings,
        "adapters": [about_input(vector, merge.shared) for vector in merge.vectors],
        "base": str(merge.base),
        "left_out": {label: len(names) for label, names in merge.left_out.items()},
        "tensors": len(deltas),
        "values": sum(math.prod(parts[0].shape) for parts in deltas.values()),
        "coefficients": coefficients(merge),
        "save": save,
        "ranks": sorted(set(ranks.values())),
        "bytes_read": read_bytes(merge, base),
        "bytes_written": written_bytes(save, deltas, ranks, base),
        "memory": memory(save, deltas, ranks),
    }


def about_input(vector: TaskVector, shared) -> dict:
    details = vector.details
    return {"name": vector.label, "path": vector.origin, "kind": details.get("kind"), "rank": details.get("rank"),
            "scaling": details.get("scaling"), "parameters": len(vector.deltas), "used": len(shared)}


def result_rank(rule, name: str, deltas, rank: int | None) -> int:
    """The largest rank that this parameter can have in the result."""
    shape = deltas[0].shape
    full = min(shape[0], math.prod(shape[1:])) if len(shape) > 1 else 1
    return min(number for number in (full, rule.rank(name, deltas), rank) if number is not None)


def coefficients(merge) -> list[dict]:
    """Of linear methods: each set of coefficients, and how many parameters have it."""
    if not isinstance(merge.rule, Linear):
        return []
    groups = {}
    for name in merge.shared:
        groups.setdefault(tuple(merge.rule.coefficients(name)), []).append(name)
    return [{"coefficients": dict(zip(merge.rule.labels, numbers)), "parameters": len(names), "first": names[0]}
            for numbers, names in groups.items()]


def read_bytes(merge, base) -> int:
    """Of all input files once, and of the base's where it is read."""
    paths = {path for vector in merge.vectors for path in getattr(vector.details.get("sha256"), "paths", ())}
    paths |= set(base.files) if base else set()
    paths |= {found.path for found in merge.rule.statistics}
    return sum(os.path.getsize(path) for path in paths)


def written_bytes(save: str, deltas: dict, ranks: dict, base) -> int:
    if base is not None:
        return sum(entry.stop - entry.start for entry in base.entries.values())
    total = 0
    for name, parts in deltas.items():
        shape = parts[0].shape
        factors = ranks[name] * (shape[0] + math.prod(shape[1:])) if len(shape) > 1 else 0
        low = save == "lora" or all(isinstance(delta, LowRank) for delta in parts)
        total += BYTES["F32"] * (factors if low else math.prod(shape))
    return total


def memory(save: str, deltas: dict, ranks: dict, threads: int | None = None) -> int:
    """Bytes at the peak, estimated: what each thread works on, and results that wait to be written."""
    threads = threads or len(os.sched_getaffinity(0))
    most = 0
    for name, parts in deltas.items():
        shape = parts[0].shape
        rows, columns = (shape[0] if shape else 1), math.prod(shape[1:])
        factors = sum(delta.rank * (rows + columns) for delta in parts if isinstance(delta, LowRank))
        blocks = (len(parts) + 8) * min(BLOCK, rows * columns)
        work, waiting = 4 * (factors + blocks), 4 * min(UNIT * BLOCK, rows * columns)
        if save == "lora":
            dense = ranks[name] * (rows + columns) > factors or not factors
            small = min(rows, columns)
            work += 12 * (rows * columns + 3 * small * small) if dense else 12 * factors
            waiting = 4 * ranks[name] * (rows + columns)
        most = max(most, threads * work + (0 if save == "full" else (2 * threads + 1) * waiting))
    return IDLE + most


def printable(found: dict) -> list[str]:
    """The plan as lines for people."""
    rows = [f"{row['name']}: {row['kind'] or 'delta'}{_rank(row)}, {row['parameters']} parameters ({row['path']})"
            for row in found["adapters"]]
    params = ", ".join(f"{key}={value}" for key, value in found["params"].items() if value is not None)
    lines = [f"method {found['method']}{f' ({params})' if params else ''}", *(f"  input {row}" for row in rows)]
    lines += [f"  base {found['base']}", f"  {found['tensors']} tensors, {found['values'] / 1e6:.4g} M values"]
    lines += [f"  left out: {count} parameters of {label}, which not all inputs change"
              for label, count in found["left_out"].items()]
    for group in found["coefficients"][:8]:
        numbers = ", ".join(f"{label} {number:g}" for label, number in group["coefficients"].items())
        lines.append(f"  coefficients {numbers}: {group['parameters']} tensors from {group['first']} on")
    if len(found["coefficients"]) > 8:
        lines.append(f"  ... and {len(found['coefficients']) - 8} more sets of coefficients")
    span = f"{found['ranks'][0]}" + (f" to {found['ranks'][-1]}" if len(found["ranks"]) > 1 else "")
    lines.append(f"  saves {found['save']}{f', rank at most {span}' if found['save'] == 'lora' else ''}")
    lines.append(f"  reads {_mb(found['bytes_read'])}, writes at most {_mb(found['bytes_written'])}, "
                 f"memory about {_mb(found['memory'])}")
    return lines


def _rank(row: dict) -> str:
    if not row["rank"]:
        return ""
    scaling = ", ".join(f"{number:g}" for number in row["scaling"])
    return f" rank {', '.join(map(str, row['rank']))}, scaling {scaling}"


def _mb(count: float) -> str:
    return f"{count / 1e6:.4g} MB"
