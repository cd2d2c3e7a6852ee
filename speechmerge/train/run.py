"""One training run, from a data directory to exp/<task>/<name>/.

    adapter_model.safetensors, adapter_config.json   the best adapter, as plain PEFT loads it (full tuning: a model)
    speechmerge.json                                 task, language, base, dev result, options, provenance
    train.log, tensorboard/                          what happened
    checkpoints/                                     the last and the best; a killed run goes on from here
"""
import contextlib
import logging
import os
import shutil
from pathlib import Path

from speechmerge.data.directory import DataDir
from speechmerge.distributed import World, gathered
from speechmerge.done import is_done, mark_done
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.files import atomic_dir, read_json, write_json, write_text
from speechmerge.models.base import SpeechModel
from speechmerge.provenance import provenance
from speechmerge.systems import register_adapter
from speechmerge.train.again import RECORD, key_of
from speechmerge.train.options import TrainOptions
from speechmerge.train.start import origin, starting_from

log = logging.getLogger(__name__)


def run_key(model: SpeechModel, task, train: DataDir, dev: DataDir | None, options: TrainOptions) -> str:
    """See train.again.key_of."""
    context = model.context
    return key_of(model.fingerprint(), str(model.dtype), [context.kind, context.minimum, context.step], task,
                  task.settings(), train, dev, options, origin(options))


def train(model: SpeechModel, task, train_data: DataDir, dev_data: DataDir | None, output_dir, options: TrainOptions,
          *, name: str | None = None, exp_dir="exp", reports=(), force=False, keep_checkpoints=False) -> dict:
    """Train one adapter and return its record (speechmerge.json), with "kept" where it was done before with the same inputs.

    A run that was killed goes on from its last checkpoint, with the same steps on the same data. Of several processes
    (see speechmerge.distributed) all call it, and the first one writes.
    """
    output_dir, name, world = Path(output_dir), name or task.name, World.of_environment()
    task.adapt(model)
    key = run_key(model, task, train_data, dev_data, options)
    done = gathered(is_done(output_dir, key) and not force)[0]
    if done and world.first:
        register_adapter(exp_dir, name, output_dir, task.name)
    if done:
        return {**read_json(output_dir / RECORD), "kept": True}
    checkpoints = output_dir / "checkpoints"
    if world.first:
        start_folder(checkpoints, key, force)
    with log_file(output_dir / "train.log") if world.first else silence():
        trainer = make_trainer(model, task, train_data, dev_data, checkpoints, options, reports)
        if options.save_at:
            keep_early(trainer, output_dir, lambda step: make_record(model, task, train_data, trainer, step, options))
        best = run_trainer(trainer, checkpoints)
        step = int(best.name.rsplit("-", 1)[1])
        record = make_record(model, task, train_data, trainer, step, options)
    if world.first:
        finish(output_dir, best, record, key, keep_checkpoints)
        register_adapter(exp_dir, name, output_dir, task.name)
    return record


def start_folder(checkpoints: Path, key: str, force: bool):
    """Make ready for this run's checkpoints; what an earlier run with other inputs left behind is deleted."""
    output_dir, key_file = checkpoints.parent, checkpoints / "key"
    if force or not key_file.is_file() or key_file.read_text().strip() != key:
        for stale in (checkpoints, output_dir / "tensorboard", *output_dir.glob("at_*")):
            shutil.rmtree(stale, ignore_errors=True)
        for file in [*output_dir.glob("*.safetensors"), output_dir / "done.json", output_dir / "train.log"]:
            file.unlink(missing_ok=True)
        write_text(key_file, key + "\n")


@contextlib.contextmanager
def log_file(path: Path):
    """The library's log lines also go to this file, appended."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("speechmerge")
    level = logger.level
    logger.addHandler(handler)
    if not logger.isEnabledFor(logging.INFO):
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()


@contextlib.contextmanager
def silence():
    """Of several processes one logs."""
    logger = logging.getLogger("speechmerge")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def make_trainer(model: SpeechModel, task, train_data, dev_data, checkpoints: Path, options: TrainOptions, reports):
    from speechmerge.train.lora import check_heads, prepare, trained_parameters
    from speechmerge.train.mix import training_examples
    from speechmerge.train.samples import Samples
    from speechmerge.train.trainer import TaskTrainer

    if options.precision == "fp16" and model.device.type == "cpu":
        raise UsageError("--precision fp16 needs a GPU; on this CPU use fp32 or bf16")
    check_heads(model, options)
    examples = usable(model, task, training_examples(model, task, train_data, options), train_data)
    dev = spread(task.examples(dev_data), options.dev_limit) if dev_data else []
    model.build(task, examples, task.labels(train_data), options)
    with starting_from(model, options):
        prepare(model, options)
    log.info("%s: %d utterances, %d of the dev set, %d trained parameters, base %s", task.name, len(examples), len(dev),
             trained_parameters(model), model.source)
    trainer = TaskTrainer(model, task, examples, dev, task.labels(train_data), options, checkpoints, reports)
    if trainer.world.size > 1:
        log.info("%d processes share each batch of %s", trainer.world.size,
                 f"{options.batch_seconds:g} s" if options.batch_seconds else f"{options.batch_size} utterances")
    if options.sample_steps and trainer.world.first:
        trainer.add_callback(Samples(trainer, checkpoints.parent))
    return trainer


def keep_early(trainer, output_dir: Path, record):
    """A whole model (or adapter) with its record in at_<step>/, at each of the shares --save-at."""
    from speechmerge.train.schedule import Early

    def keep(step: int):
        if not trainer.world.first:
            return
        with atomic_dir(output_dir / f"at_{step}") as folder:
            trainer.speech.save(folder)
            write_json(folder / RECORD, record(step))

    trainer.add_callback(Early(trainer.options.save_at, keep))


def usable(model: SpeechModel, task, examples, data: DataDir) -> list:
    """Examples that the model can hold; the others are named in the log."""
    reasons = {example.id: model.fits(example, task) for example in examples}
    left_out = [(id, reason) for id, reason in reasons.items() if reason]
    for id, reason in left_out[:5]:
        log.warning("%s: utterance %s is left out: %s", data.path, id, reason)
    if len(left_out) > 5:
        log.warning("%s: %d more utterances are left out", data.path, len(left_out) - 5)
    kept = [example for example in examples if not reasons[example.id]]
    if not kept:
        reason = left_out[0][1] if left_out else "it is empty"
        raise SpeechMergeError(f"{data.path}: no utterance that can be trained on ({reason})")
    return kept


def spread(examples, limit: int) -> list:
    """`limit` examples in even steps over all of them (0: all)."""
    if not limit or len(examples) <= limit:
        return list(examples)
    return [examples[i * len(examples) // limit] for i in range(limit)]


def run_trainer(trainer, checkpoints: Path) -> Path:
    """Train to the end, from the last whole checkpoint where there is one. Returns the checkpoint that counts."""
    from transformers import TrainerState

    from speechmerge.train.trainer import stopped_early

    last = gathered(last_checkpoint(checkpoints) if trainer.world.first else None)[0]
    if last:
        trainer.state = TrainerState.load_from_json(str(last / "trainer_state.json"))
        log.info("going on from step %d", trainer.state.global_step)
    if not (last and stopped_early(trainer.state.log_history, trainer.options.patience)):
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    best = trainer.state.best_global_step if trainer.dev else None
    return checkpoints / f"checkpoint-{best or trainer.state.global_step}"


def last_checkpoint(checkpoints: Path) -> Path | None:
    """The newest checkpoint that was written to its end; half-written ones are deleted."""
    from speechmerge.train.trainer import COMPLETE

    whole = []
    for folder in checkpoints.glob("checkpoint-*"):
        if (folder / COMPLETE).is_file():
            whole.append(folder)
        else:
            shutil.rmtree(folder)
    return max(whole, key=lambda folder: int(folder.name.rsplit("-", 1)[1]), default=None)


def make_record(model: SpeechModel, task, train_data: DataDir, trainer, step: int, options: TrainOptions) -> dict:
    languages = {utterance.language for utterance in train_data.utterances.values()}
    dev = next((entry for entry in trainer.state.log_history if entry["step"] == step and "eval_value" in entry), None)
    if dev:
        log.info("result: step %d, dev %s %.4f", step, task.metric, dev["eval_value"])
    return {
        "task": task.name, "language": languages.pop() if len(languages) == 1 else None,
        "base": {"source": model.source, "fingerprint": model.fingerprint()},
        "dev": {task.metric: dev["eval_value"], "loss": dev["eval_loss"], "n": len(trainer.dev)} if dev else {},
        "settings": task.settings(), "tuning": options.tuning, "step": step, "steps": trainer.state.global_step,
        "utterances": len(trainer.train_dataset), "data": str(train_data.path), "options": options.deciding(),
        "batch": batch_of(options, trainer.world.size),
        "audio_context": {"kind": model.context.kind, "min": model.context.minimum, "step": model.context.step},
        **({"init_adapter": options.init_adapter} if options.init_adapter else {}), **origin(options), **provenance(),
    }


def batch_of(options: TrainOptions, processes: int) -> dict:
    """What an optimizer step sees, of all processes together, and in how many forward passes each of them."""
    size = {"seconds": options.batch_seconds} if options.batch_seconds else {"utterances": options.batch_size}
    return {**{unit: amount * options.accumulation for unit, amount in size.items()}, "passes": options.accumulation,
            "processes": processes}


def finish(output_dir: Path, best: Path, record: dict, key: str, keep_checkpoints: bool):
    """Weights first, done.json last: a folder is finished when that is there. A kill in between costs nothing."""
    from speechmerge.train.trainer import COMPLETE

    state = {"optimizer.pt", "scheduler.pt", "scaler.pt", "trainer_state.json", COMPLETE}
    outputs = [file.name for file in sorted(best.iterdir()) if file.is_file() and file.name not in state
               and not file.name.startswith("rng_state")]  # of several processes rng_state_<rank>.pth
    for file in outputs:
        beside = output_dir / f".{file}.part"
        shutil.copyfile(best / file, beside)
        os.replace(beside, output_dir / file)
    write_json(output_dir / RECORD, record)
    mark_done(output_dir, key, [*outputs, RECORD])
    if not keep_checkpoints:
        shutil.rmtree(best.parent)
