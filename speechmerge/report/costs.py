"""What a system costs: parameters beside the base, time and memory of decoding, as the decodings recorded them."""
from pathlib import Path

from speechmerge.errors import SpeechMergeError
from speechmerge.report.listing import Listing, Shown
from speechmerge.report.tables import Results
from speechmerge.systems import located

MB = 1e6
NOTE = ("Parameters beside the base: of an adapter what was trained, of a merge what it is saved as, of a routed system its "
        "router and all adapters that it chooses from. Seconds are wall time on the machine that decoded, shared or not, "
        "with hearing and routing, writing and label scoring, loading adapters too; sets that were decoded once are not "
        "decoded again, so compare them only where nothing else ran. Real-time factor: seconds per second of audio. Peak "
        "memory: resident memory of the decoding process with the base in it, the largest over the tasks.")


def cost_table(results: Results) -> Listing | None:
    """One row for each system that was decoded; columns that nothing is known of are left out."""
    records = {system: decodings(results, system.name) for system in results.systems}
    base = base_parameters(results)
    rows = [cost_row(system, found, base, results.exp_dir) for system, found in records.items() if found]
    head = ["system", "kind", "parameters beside the base", "% of the base", "on disk, MB", "utterances", "audio, s",
            "seconds", "ms per utterance", "real-time factor", "peak memory, MB", "peak GPU memory, MB"]
    kept = [place for place in range(len(head)) if any(row[place] is not None for row in rows)]
    if not rows:
        return None
    machines = sorted({record.get("platform", "unknown") for found in records.values() for record in found})
    note = f"{NOTE} Decoded on: {'; '.join(machines)}."
    return Listing("costs", "What each system costs", [head[place] for place in kept],
                   [[row[place] for place in kept] for row in rows], note)


def decodings(results: Results, system: str) -> list[dict]:
    return [found for task in results.tasks if (found := results.decoding(system, task.name))]


def cost_row(system, records: list[dict], base: int | None, exp_dir) -> list:
    parameters, size = beside_base(system, records[0].get("system", {}), exp_dir)
    n, seconds, audio = (total(records, key) for key in ("n", "seconds", "audio_seconds"))
    share = 100 * parameters / base if parameters is not None and base else None
    return [system.label, system.kind, parameters, shown(share, 2), shown(None if size is None else size / MB, 1), n,
            shown(audio, 0), shown(seconds, 1), shown(1000 * seconds / n if seconds and n else None, 0),
            shown(seconds / audio if seconds and audio else None, 3), shown(largest(records, "peak_mb"), 0),
            shown(largest(records, "peak_gpu_mb"), 0)]


def shown(value: float | None, digits: int) -> Shown | None:
    return None if value is None else Shown(value, f"{value:,.{digits}f}")


def total(records: list[dict], key: str):
    """None where a decoding does not say it: a sum over some would mean nothing."""
    values = [record.get(key) for record in records]
    return None if None in values else sum(values)


def largest(records: list[dict], key: str) -> float | None:
    values = [record[key] for record in records if record.get(key) is not None]
    return max(values, default=None)


def beside_base(system, record: dict, exp_dir) -> tuple[int | None, int | None]:
    """(parameters, bytes) of what a system adds to the base or has in its stead; None where its files are not here."""
    if system.kind == "base":
        return 0, 0
    routing = record.get("routing") or {}
    paths = [routing["router"], *routing["adapters"].values()] if routing else [system.path]
    found = [weights(Path(located(path, exp_dir))) for path in dict.fromkeys(paths) if path]
    if not found or None in found:
        return None, None
    return sum(numbers for numbers, _ in found), sum(size for _, size in found)


def weights(folder: Path) -> tuple[int, int] | None:
    """(parameters, bytes) of a folder's or file's weights, from the headers alone."""
    from speechmerge.route.index import WEIGHTS as ROUTER
    from speechmerge.storage.checkpoint import weight_files
    from speechmerge.storage.safetensors_file import read_header

    own = [folder / name for name in ("adapter_model.safetensors", "delta.safetensors", ROUTER)]
    try:
        files = [path for path in own if path.is_file()] or weight_files(folder)
        if not files or any(path.suffix != ".safetensors" for path in files):
            return None
        return sum(entry.numel for path in files for entry in read_header(path).values()), sum(
            path.stat().st_size for path in files)
    except SpeechMergeError:  # weights that are gone or not finished: their size is not known
        return None


def base_parameters(results: Results) -> int | None:
    from speechmerge.storage.checkpoint import resolve_model_dir

    source = results.record.get("base", {}).get("source")
    try:
        found = weights(resolve_model_dir(located(source, results.exp_dir))) if source else None
    except SpeechMergeError:  # the model is not on this machine
        return None
    return found and found[0]
