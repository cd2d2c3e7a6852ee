"""Training that goes on from the weights of another one: a curriculum (text first, then speech), or a better start.

    speechmerge train ... --init-adapter exp/slu/text     # an adapter of the same shape; with --tuning full any trained folder
"""
import contextlib
from pathlib import Path

from speechmerge.errors import UsageError
from speechmerge.files import read_json
from speechmerge.hashes import file_hash
from speechmerge.models.adapters import LORA_CONFIG, LORA_WEIGHTS, check_base, place, read_all
from speechmerge.systems import System, content_files

PLAIN = (LORA_CONFIG, "config.json", "delta.json")  # what `place` and PEFT read
SHAPE = {"r": "rank", "lora_alpha": "alpha", "use_rslora": "use-rslora", "use_dora": "use-dora"}


class Forgetful(dict):
    """Where replaced weights would be kept: they are not needed again."""

    def __setitem__(self, key, value):
        pass


@contextlib.contextmanager
def starting_from(model, options):
    """Around the preparation of a training: the weights of options.init_adapter are in place at its end.

    Raises UsageError for an adapter of another shape or a kind of training that cannot go on from it, SpeechMergeError
    for one of another base.
    """
    if not options.init_adapter:
        yield
        return
    folder = Path(options.init_adapter)
    if not folder.is_dir():
        raise UsageError(f"--init-adapter {folder}: there is no such folder")
    check_base(model, folder)
    adapter, plain = (folder / LORA_CONFIG).is_file(), any((folder / name).is_file() for name in PLAIN)
    own = bool(model.equipment(folder)) or not plain  # with a head, or in the family's own form
    if adapter and options.tuning == "full" and not own:
        place(model, folder, Forgetful())
        yield
    elif adapter != (options.tuning == "lora"):
        raise UsageError(f"--init-adapter {folder}: " + ("is an adapter" if adapter else f"no {LORA_CONFIG} there") +
                         f", so that --tuning {options.tuning} cannot go on from it; use --tuning "
                         + ("lora" if adapter else "full, or give it as --model"))
    elif own:
        yield
        restore(model, folder)
    elif adapter:
        yield
        load_adapter(model, folder)
    else:
        place(model, folder, Forgetful())
        yield


def restore(model, folder: Path):
    """Weights with a head, or in the family's own form."""
    try:
        found = model.restore(folder)
    except (RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"--init-adapter {folder}: of another shape than this training ({reason})") from error
    if not found:
        raise UsageError(f"--init-adapter {folder}: no weights there that models of the family {model.family} can start from")


def load_adapter(model, folder: Path):
    from peft import PeftModel, set_peft_model_state_dict

    wrapped = next(part for part in model.module.modules() if isinstance(part, PeftModel))
    here, there = wrapped.peft_config["default"].to_dict(), read_json(folder / LORA_CONFIG)
    for name, option in SHAPE.items():
        if here[name] != there.get(name, here[name]):
            raise UsageError(f"--init-adapter {folder}: its {name} is {there[name]}, here it is {here[name]}; give --{option} "
                             f"{str(there[name]).lower()}")
    try:
        result = set_peft_model_state_dict(wrapped, read_all(folder / LORA_WEIGHTS))
        problem = [name for name in result.missing_keys if "lora_" in name] + list(result.unexpected_keys)
    except RuntimeError as error:
        problem = [" ".join(str(error).split())[:200]]
    if problem:
        raise UsageError(f"--init-adapter {folder}: adapts other layers than this training ({problem[0]}); give the same "
                         "--targets")


def origin(options) -> dict:
    """What a run's record and key keep of where it started; {} where it starts from the base."""
    if not options.init_adapter:
        return {}
    files = content_files(System("init", "adapter", options.init_adapter))
    return {"init": {file.name: file_hash(file) for file in files if file.is_file()}}
