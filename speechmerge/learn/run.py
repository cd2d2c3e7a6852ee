"""From a merge config with an optimizer to coefficients: a small file that is itself a merge config.

    learned = learn(spec, systems, exp_dir="exp", data="data")
    learned.method_params, learned.lambda_policy            # what `speechmerge merge` goes on with

exp/learned/<learner>/<task_combo>/<key>/ holds coefficients.yaml (`speechmerge merge --coefficients FILE` makes the
adapter again, without a model or data), learned.json (options, losses, provenance) and, while it runs, state.pt.
"""
import logging
from pathlib import Path
from types import SimpleNamespace

import yaml

from speechmerge.done import is_done, mark_done, step_key
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.files import lock, write_json, write_text
from speechmerge.learn.base import LEARNERS
from speechmerge.merge.config.spec import MergeSpec
from speechmerge.merge.delta import LowRank
from speechmerge.merge.tag import task_combo
from speechmerge.provenance import provenance
from speechmerge.systems import adapter_labels, content_files, own_adapter

log = logging.getLogger(__name__)
METHOD = "weighted_delta_n"
FILE, RECORD = "coefficients.yaml", "learned.json"
KEYS = ("adapters", "method", "method_params", "lambda_policy")  # of the file


def learn(spec: MergeSpec, systems, exp_dir, data, device=None, force: bool = False) -> MergeSpec:
    """The spec with coefficients in place of its optimizer. `systems`: [(name, System)] of the adapters.

    Raises UsageError for a method or options that cannot be learned, SpeechMergeError for data that does not fit.
    """
    learner = LEARNERS.get(spec.optimizer["type"])(spec.optimizer["params"])
    check_spec(spec)
    sets = task_sets(spec, systems, exp_dir)
    folder, key = place(spec, systems, learner, sets, exp_dir, data)
    with lock(folder / "learn"):
        if force or not is_done(folder, key):
            if force:
                (folder / "state.pt").unlink(missing_ok=True)
            make(spec, systems, learner, sets, folder, data, device)
            mark_done(folder, key, [FILE, RECORD])
        else:
            log.info("%s: learned before with the same inputs", folder)
    return with_coefficients(spec, folder / FILE)


def with_coefficients(spec: MergeSpec, path) -> MergeSpec:
    """The spec with what a coefficients file says of method and strength."""
    from speechmerge.config import read_yaml

    found = read_yaml(path)
    for key in found:
        if key not in KEYS:
            raise UsageError(f"coefficients {path}: unknown key {key!r}; expected {', '.join(KEYS)}")
    return MergeSpec.of({**spec.values(), **{key: found.get(key) for key in KEYS[1:]}, "optimizer": None,
                         "adapters": spec.adapters or found.get("adapters")})


def check_spec(spec: MergeSpec):
    if spec.method != METHOD:
        raise UsageError(f"method: found {spec.method}; coefficients are learned for {METHOD}, a weighted sum of the adapters")
    if spec.transforms:
        raise UsageError("transforms: not available with learned coefficients; leave them out")
    if "coefficients" in spec.method_params:
        raise UsageError(f"method_params.coefficients: is what {spec.optimizer['type']} learns; leave it out")
    if spec.lambda_policy is not None:
        raise UsageError("lambda_policy: is what the optimizer learns; leave it out")


def task_sets(spec: MergeSpec, systems, exp_dir) -> dict:
    """Set name -> Task of everything that is learned on: those asked for, else the adapters' own."""
    from speechmerge.evaluation import own_sets

    return own_sets([{"name": name or system.name, "task": system.task} for name, system in systems], exp_dir, spec.eval_tasks)


def place(spec: MergeSpec, systems, learner, sets, exp_dir, data) -> tuple[Path, str]:
    """(folder, key) of this run: of adapters' weights, data and options."""
    from speechmerge.data.directory import DataDir

    files = [path for _, system in systems for path in content_files(system)]
    prints = {name: DataDir.read(Path(data) / name / learner.values["split"]).fingerprint() for name in sets}
    key = step_key({"learner": spec.optimizer["type"], "options": learner.values, "data": prints, "base": spec.base,
                    "adapters": [name for name, _ in systems]}, files)
    labels = adapter_labels(systems)
    return Path(exp_dir) / "learned" / spec.optimizer["type"] / task_combo(labels) / key[:12], key


def make(spec: MergeSpec, systems, learner, sets, folder: Path, data, device):
    """Load the model, carry the adapters in a bank, learn, write."""
    from speechmerge.bank import AdapterBank
    from speechmerge.data.directory import DataDir
    from speechmerge.learn.data import TaskData
    from speechmerge.learn.loop import Loop
    from speechmerge.models.options import configured, model_from
    from speechmerge.systems import training_records

    options = learner.values
    records = training_records([system for _, system in systems], folder.parents[3])
    model = model_from(model_options(spec, options, device), records)
    configured(sets.values(), records, SimpleNamespace())
    for task in sets.values():
        task.adapt(model)
    names = adapter_labels(systems)
    bank = AdapterBank(model.core, [system.path for _, system in systems], names, model.path, options["group_by"],
                       options["delta_residency"] == "gpu_cache")
    if options["merge_impl"] == "fused_lora_linear":
        refuse_dense(bank)
    heads = {name: head_of(name, task, systems, folder.parents[3]) for name, task in sets.items()}
    tasks = {name: TaskData(name, task, DataDir.read(Path(data) / name / options["split"]), model, options, heads[name])
             for name, task in sets.items()}
    learner.check_tasks(tasks)
    loop = Loop(bank, tasks, learner, folder)
    state = loop.run()
    write(folder, spec, learner, bank, loop.coefficients(state.parameters).values, state, list(tasks), model)


def head_of(name: str, task, systems, exp_dir) -> str | None:
    """The folder of a task's own adapter: of those that are merged, else the registered one."""
    own = [system.path for label, system in systems if name in (label, system.name) or system.task == task.name]
    return own[0] if own else own_adapter(name, task.name, exp_dir)


def model_options(spec, options, device):
    dtypes = {"auto": "float32", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
    chosen = "cpu" if options["force_cpu"] else device or "auto"
    return SimpleNamespace(model=spec.base, device=chosen, dtype="float32" if options["force_cpu"] else dtypes[options["model_dtype"]],
                           audio_context=None, audio_context_min=None, audio_context_step=None)


def refuse_dense(bank):
    for label, vector in bank.vectors.items():
        dense = [name for name, delta in vector.deltas.items() if not isinstance(delta, LowRank)]
        if dense:
            raise SpeechMergeError(f"merge_impl fused_lora_linear: adapter {label} changes {dense[0]} as a whole ({len(dense)} such "
                                   "parameters); use fused_linear")


def write(folder: Path, spec, learner, bank, values, state, tasks, model):
    """coefficients.yaml, then learned.json."""
    rows = values.detach().double().tolist()
    method_params = {**spec.method_params, "allow_negative_coefficients": True}
    found = {"adapters": spec.adapters, "method": METHOD, "method_params": method_params}
    if values.dim() == 1:
        found["method_params"] = {**method_params, "coefficients": dict(zip(bank.names, rows))}
    else:
        found["lambda_policy"] = {"type": "table", "group_by": bank.group_by,
                                  "values": {group: dict(zip(bank.names, row)) for group, row in zip(bank.groups, rows)}}
    write_text(folder / FILE, yaml.safe_dump(found, sort_keys=False, allow_unicode=True))
    write_json(folder / RECORD, {
        "learner": spec.optimizer["type"], "options": learner.values, "adapters": bank.names, "tasks": tasks,
        "baselines": dict(zip(tasks, state.baselines)) if state.baselines else None,
        "mean_coefficients": dict(zip(bank.names, values.detach().double().reshape(-1, len(bank.names)).mean(0).tolist())),
        "history": [dict(zip(("stage", "step", "objective", "losses"), row)) for row in state.history],
        "base": {"source": model.source, "fingerprint": model.fingerprint()}, **provenance()})
    log.info("%s", folder / FILE)
