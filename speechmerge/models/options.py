"""The options of every verb that loads a model. What is not given is as the adapters were trained."""
from speechmerge.errors import UsageError
from speechmerge.models.base import CONTEXTS, Context, load_model
from speechmerge.models.loading import ATTENTIONS, DTYPES, QUANTIZATIONS, Loading

CONTEXT_OPTIONS = {"kind": "audio_context", "min": "audio_context_min", "step": "audio_context_step"}
TASK_OPTIONS = ("prompt", "inputs", "target_format", "verification")
DEFAULTS = {"kind": Context().kind, "min": Context().minimum, "step": Context().step}


def add_model_arguments(parser):
    group = parser.add_argument_group("model")
    group.add_argument("--model", help="folder, hub id or name of the base model; default: the base of the adapters")
    group.add_argument("--device", default="auto", help="auto (a GPU where there is one), cpu, cuda, cuda:N")
    group.add_argument("--dtype", default="float32", choices=DTYPES, help="type of the weights")
    group.add_argument("--quantization", choices=QUANTIZATIONS, help="of the frozen base (bitsandbytes; audio LLMs)")
    group.add_argument("--attention", choices=ATTENTIONS, help="implementation of attention; default: the model's own")
    group.add_argument("--device-map", help="auto: spread a large model over all GPUs")
    group.add_argument("--audio-context", choices=CONTEXTS,
                       help="full: all the encoder holds (Whisper: 30 s); dynamic: as much as an utterance needs; default: "
                            "as the adapters were trained, without adapters full")
    group.add_argument("--audio-context-min", type=float, help="seconds, at least, where it is dynamic; default likewise")
    group.add_argument("--audio-context-step", type=float, help="seconds; rounded up to multiples of it; default likewise")


def model_from(args, records=()):
    """The model that the options name. `records`: speechmerge.json of the adapters that it will carry."""
    source = args.model or agreed("--model", [record["base"].get("source") for record in records if record.get("base")])
    if not source:
        raise UsageError("--model is not given, and no adapter names its base; give a folder or a hub id")
    contexts = [record["audio_context"] for record in records if "audio_context" in record]
    chosen = {}
    for key, option in CONTEXT_OPTIONS.items():
        given = getattr(args, option)
        found = given if given is not None else agreed(f"--{option.replace('_', '-')}", [context[key] for context in contexts])
        chosen[key] = DEFAULTS[key] if found is None else found
    extras = {name: getattr(args, name, None) for name in ("quantization", "attention", "device_map")}
    return load_model(source, Loading(args.device, args.dtype, **extras), Context(chosen["kind"], chosen["min"], chosen["step"]))


def configured(tasks, records, args) -> list:
    """The tasks with the options that were given on the command line, else as the adapters of that task were trained.

    Raises UsageError where adapters of one task disagree.
    """
    tasks = list(tasks)
    for name in TASK_OPTIONS:
        if getattr(args, name, None) is not None and not any(name in task.configurable for task in tasks):
            raise UsageError(f"--{name.replace('_', '-')}: none of the tasks {', '.join(task.name for task in tasks)} has it")
    for task in tasks:
        own = [record["settings"] for record in records if record.get("task") == task.name and "settings" in record]
        for name in task.configurable:
            given = getattr(args, name, None)
            option = f"--{name.replace('_', '-')}"
            values = [settings.get(name, getattr(type(task), name)) for settings in own]
            task.configure(**{name: agreed(option, values) if given is None else given})
    return tasks


def agreed(option: str, values):
    """The value that all adapters were trained with, None where they say nothing. UsageError where they differ."""
    found = sorted({value for value in values if value is not None}, key=str)
    if len(found) > 1:
        raise UsageError(f"{option}: the adapters were trained with {' and '.join(map(str, found))}; choose one with {option}")
    return found[0] if found else None
