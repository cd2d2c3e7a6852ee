"""Whether a training is there already, told from files and options alone: before torch is imported and a model loaded.

Both need seconds, which a recipe would pay for every adapter that it has. Where the model has to be asked (its base is no
local folder, the run started from another adapter), nothing is told here, and `train.run` decides.
"""
from pathlib import Path

from speechmerge.done import NAME, is_done
from speechmerge.files import fingerprint, read_json

RECORD = "speechmerge.json"


def key_of(base: str, dtype: str, context: list, task, settings: dict, train, dev, options, start=None) -> str:
    """Of everything that decides the result of a run.

    base: the fingerprint of the weights; dtype: as torch writes it; context: kind, least and step; settings: of the task,
    after it was adapted to the model; start: what a run keeps of the adapter it started from.
    """
    return fingerprint({"base": base, "task": task.name, "train": train.fingerprint(),
                        "dev": dev.fingerprint() if dev else None, "options": options.deciding(), "dtype": dtype,
                        "context": context, **({"settings": settings} if settings else {}), **(start or {})})


def kept(args, task, train, dev, output_dir: Path, options) -> dict | None:
    """The record of the same training in `output_dir`; None where there is none, or where only the model can tell."""
    from speechmerge.models.options import CONTEXT_OPTIONS, DEFAULTS
    from speechmerge.storage.checkpoint import model_fingerprint

    if args.force or not args.model or options.init_adapter:
        return None
    base, files = Path(args.model).expanduser(), (output_dir / NAME, output_dir / RECORD)
    if not base.is_dir() or not all(file.is_file() for file in files):
        return None
    record, given = read_json(output_dir / RECORD), [getattr(args, option) for option in CONTEXT_OPTIONS.values()]
    context = [default if value is None else value for value, default in zip(given, DEFAULTS.values())]
    key = key_of(model_fingerprint(base), f"torch.{args.dtype}", context, task, settled(task, record), train, dev, options)
    return record if is_done(output_dir, key) else None


def settled(task, record: dict) -> dict:
    """The task's settings; what is left to the model as it was chosen then, with the same base."""
    chosen = record.get("settings", {})
    left = {name: chosen[name] for name in task.configurable if name in chosen and getattr(task, name) is None}
    return {**task.settings(), **left}
