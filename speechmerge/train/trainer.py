"""transformers' Trainer for speech tasks: the dev set is decoded and scored, and that number chooses the checkpoint."""
import contextlib
import errno
import logging
import sys
import time
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import torch
from accelerate.data_loader import prepare_data_loader
from safetensors import SafetensorError
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import rotate_checkpoints

from speechmerge.data.augment import Augmentation
from speechmerge.data.batching import BucketBatchSampler, DurationBatchSampler, FeatureCache
from speechmerge.decode import Options, answer_scores, by_cosine, compared, hypotheses, plan
from speechmerge.distributed import World, gathered
from speechmerge.errors import SpeechMergeError
from speechmerge.memory import resident_peak
from speechmerge.models.base import Item, SpeechModel
from speechmerge.train.options import TrainOptions
from speechmerge.train.schedule import Freezing, Pull, stable_schedule
from speechmerge.train.unfreeze import Unfreezing

log = logging.getLogger(__name__)
COMPLETE = "complete"  # a file in every checkpoint that was written to its end
DISK_FULL = ("No space left", "os error 28", "PytorchStreamWriter failed")  # how safetensors and torch say it
MISSING = object()
TIE = 1e-6  # weight of the dev loss where the metric is the same: below any step of the metric


@dataclass(frozen=True)
class Share:
    """What one of the processes computes of a batch, and what it must know of the whole: as long as that are its rows."""

    items: list[Item]
    frames: int | None  # of the longest example of the batch, where there are several processes
    utterances: int  # of the batch
    seconds: float
    idle: bool = False  # there are more processes than examples: these count nothing


class TrainingSet(Dataset):
    """Examples as Items; features are computed on first use and kept. `epoch` decides how an example is augmented.

    Batches are those of one process; each of several takes its share of every one, so that what is learnt does not
    depend on their number.
    """

    def __init__(self, model: SpeechModel, examples, cache: FeatureCache, augmentation: Augmentation = Augmentation(),
                 world: World = World()):
        self.model, self.examples, self.cache, self.augmentation = model, examples, cache, augmentation
        self.world = world
        self.seconds = [model.seconds(example) for example in examples]
        self.sampler = None  # whose epoch counts: it is the one that a resumed run is told

    def lengths(self) -> list[int]:
        return [self.model.context_frames(seconds) for seconds in self.seconds]

    def padded_seconds(self) -> list[float]:
        """Of each example, at the slowest speed, as long as it is in a batch of its own."""
        slowest, full = min([1.0, *self.augmentation.speeds]), self.model.full_seconds
        longest = [min(seconds / slowest, max(full, seconds)) for seconds in self.seconds]
        padded = [self.model.context.seconds(seconds, full) for seconds in longest]
        return [seconds if seconds < float("inf") else own for seconds, own in zip(padded, longest)]

    def __len__(self):
        return len(self.examples)

    @property
    def epoch(self) -> int:
        return self.sampler.epoch if self.sampler else 0

    def sound(self, index) -> tuple:
        """(example at its speed, seconds)"""
        example = self.examples[index]
        sound = self.augmentation.at_speed(example, self.epoch, self.seconds[index], self.model.full_seconds)
        return sound, self.seconds[index] if sound is example else self.model.seconds(sound)

    def __getitem__(self, index) -> Item:
        sound, seconds = self.sound(index)
        features = self.augmentation.mask(self.cache.get(sound, self.model.features), self.examples[index], self.epoch)
        return Item(sound, features, seconds)

    def __getitems__(self, indices) -> Share:
        """Of a batch, which torch's loader asks for as a whole."""
        own, lengths = indices[self.world.rank :: self.world.size], [self.sound(index)[1] for index in indices]
        frames = max(map(self.model.context_frames, lengths)) if self.world.size > 1 else None
        items = [self[index] for index in own or indices[:1]]
        return Share(items, frames, len(indices), sum(lengths), idle=not own)


class TaskTrainer(Trainer):
    """`train` and `dev`: lists of Examples (dev may be empty: then the last checkpoint is the result)."""

    def __init__(self, speech: SpeechModel, task, train, dev, labels, options: TrainOptions, folder: Path, reports=()):
        self.speech, self.task, self.dev, self.labels, self.options = speech, task, dev, labels, options
        self.world = World.of_environment()
        self.cache = FeatureCache(options.cache_mb << 20)
        masks = (options.time_masks, options.time_mask_frames, options.frequency_masks, options.frequency_mask_bins)
        dataset = TrainingSet(speech, train, self.cache, Augmentation(options.speeds, *masks, options.seed), self.world)
        super().__init__(model=speech.module, args=arguments(speech, options, folder, bool(dev), reports),
                         train_dataset=dataset, eval_dataset=dev, compute_loss_func=speech.loss,
                         optimizer_cls_and_kwargs=adam(options), callbacks=[Flow(options, bool(dev)), LogLines()])
        self.pull = Pull(speech.core.parameters()) if options.weight_decay_to_base else None
        if "tensorboard" in reports and self.world.first:
            self.add_callback(tensorboard(folder.parent / "tensorboard"))
        if options.freeze_encoder_share:
            self.add_callback(Freezing(speech, options.freeze_encoder_share))
        if options.unfreeze_every:
            self.add_callback(Unfreezing(speech, options.unfreeze_every))
        self.remove_callback(PrinterCallback)
        if self.pop_callback(ProgressCallback):
            self.add_callback(Progress)
        self.seen_utterances, self.seen_seconds, self.evaluating = 0, 0.0, 0.0
        self.mark = (time.monotonic(), 0, 0.0, 0.0)
        if not self.world.first:
            set_seed(options.seed + self.world.rank)  # of dropout; the start of what is trained is the first process's

    def get_train_dataloader(self):
        data, options = self.train_dataset, self.options
        if options.batch_seconds:
            sampler = DurationBatchSampler(data.padded_seconds(), options.batch_seconds, options.seed)
        else:
            sampler = BucketBatchSampler(data.lengths(), options.batch_size, options.seed)
        data.sampler = sampler
        loader = DataLoader(data, batch_sampler=sampler, collate_fn=self._collate)
        # batches are shared out by the data set: accelerate would take whole ones in turn, and drop those that are short
        return prepare_data_loader(loader, self.args.device, num_processes=1, process_index=0, put_on_device=True)

    def _collate(self, share: Share):
        self.seen_utterances += share.utterances
        self.seen_seconds += share.seconds
        batch = self.speech.collate(share.items, self.task, training=True, frames=share.frames)
        return {**batch, "idle": True} if share.idle else batch

    def _get_num_items_in_batch(self, batch_samples, device):
        counted = [{**batch, "labels": torch.full_like(batch["labels"], -100)} if "idle" in batch else batch
                   for batch in batch_samples]
        return super()._get_num_items_in_batch(counted, device)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """Decode and score the dev set: `eval_value` is the metric, `eval_decided` orients it, ties go to the loss."""
        start = time.monotonic()
        training = self.model.training
        self.model.eval()
        scores, loss = self._dev_scores(), self._dev_loss()
        self.model.train(training)
        oriented = scores["value"] if self.task.higher_is_better else -scores["value"]
        metrics = {"eval_value": scores["value"], "eval_loss": loss, "eval_decided": oriented - TIE * min(loss, 100.0)}
        metrics["eval_runtime"] = time.monotonic() - start
        self.evaluating += metrics["eval_runtime"]
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _dev_scores(self) -> dict:
        options = Options(self.options.eval_beams, self.task.kind == "verification", self.options.eval_batch_size)
        mine = plan(self.speech, self.task, self.dev, options)[self.world.rank :: self.world.size]
        if by_cosine(self.task):
            batches = compared(self.speech, self.task, self.dev, options, self.cache, mine)
        else:
            batches = hypotheses(self.speech, self.task, self.dev, self.labels, options, self.cache, mine)
        found = [hypothesis for batch in in_turn(gathered(list(batches))) for hypothesis in batch]
        return self.task.score({example.id: example.target for example in self.dev}, {h.id: h.text for h in found if h.text is not None},
                               languages={example.id: example.language for example in self.dev if example.language},
                               scores=answer_scores(self.task, found), labels=self.labels)

    @torch.no_grad()
    def _dev_loss(self) -> float:
        fitting = [example for example in self.dev if not self.speech.fits(example, self.task)]
        dataset, size = TrainingSet(self.speech, fitting, self.cache), self.options.eval_batch_size
        order, mine = sorted(range(len(dataset)), key=dataset.seconds.__getitem__), []
        for start in range(0, len(order), size)[self.world.rank :: self.world.size]:
            items = [dataset[index] for index in order[start : start + size]]
            batch = self._prepare_inputs(self.speech.collate(items, self.task, training=True))
            labels = batch.pop("labels")
            count = int(labels.ne(-100).sum())
            mine.append((float(self.speech.loss(self.model(**batch), labels)) * count, count))
        found = in_turn(gathered(mine))
        return sum(total for total, _ in found) / max(sum(count for _, count in found), 1)

    def log(self, logs, start_time=None):
        if "loss" in logs:
            logs.update(self._speed())
        super().log(logs, start_time)

    def _speed(self) -> dict:
        """Since the last report, evaluation left out."""
        now = (time.monotonic(), self.seen_utterances, self.seen_seconds, self.evaluating)
        then, self.mark = self.mark, now
        spent = max(now[0] - then[0] - (now[3] - then[3]), 1e-9)
        return {"utterances_per_second": (now[1] - then[1]) / spent,
                "audio_seconds_per_second": (now[2] - then[2]) / spent, "memory_gb": memory_gb()}

    def floating_point_ops(self, inputs):
        """Not counted: the Trainer would walk over all modules at every step."""
        return 0

    def _save_checkpoint(self, model, trial):
        """A checkpoint counts once its COMPLETE file is there; only then do older ones go (best and last stay)."""
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        with disk_errors(folder):
            super()._save_checkpoint(model, trial)
            gathered(None)  # by now everybody has written the state of its random numbers
            if self.world.first:
                (folder / COMPLETE).touch()
        if self.world.first:
            rotate_checkpoints(self.args.output_dir, 1, self.state.best_model_checkpoint)

    def training_step(self, model, inputs, num_items_in_batch=None):
        """With several processes the penalty has its gradient added by hand: torch takes the gradients of a parameter
        from the network's outputs alone, and stops where one that they do not depend on has another."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.pull is None or self.world.size == 1:
            return loss
        factor = self.options.weight_decay_to_base / self.current_gradient_accumulation_steps
        self.pull.add_gradients(factor * (self.accelerator.scaler.get_scale() if self.accelerator.scaler else 1.0))
        return loss + factor * self.pull().detach()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        idle = inputs.pop("idle", False)
        found = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if idle:
            found = 0 * found
        if self.pull is None or return_outputs or self.world.size > 1:
            return found
        return found + self.options.weight_decay_to_base * self.pull() / self.current_gradient_accumulation_steps

    def create_scheduler(self, num_training_steps, optimizer=None):
        if self.lr_scheduler is None and self.options.decay == "stable":
            self.lr_scheduler = stable_schedule(optimizer or self.optimizer, self.options, num_training_steps)
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        if not self.speech.restore(Path(resume_from_checkpoint)):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _save(self, output_dir=None, state_dict=None):
        if self.world.first:
            self.speech.save(output_dir or self.args.output_dir)


def in_turn(shares: list[list]) -> list:
    """What processes took in turn, in its order: [[a, c], [b]] -> [a, b, c]."""
    return [entry for row in zip_longest(*shares, fillvalue=MISSING) for entry in row if entry is not MISSING]


@contextlib.contextmanager
def disk_errors(folder: Path):
    """A full disk in one sentence; torch and safetensors report it as errors of their own."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if not full and not any(words in str(error) for words in DISK_FULL):
            raise
        raise SpeechMergeError(f"{folder}: no space left on the device; free some and run the same command again, "
                               "training goes on from the last whole checkpoint") from error


class Flow(TrainerCallback):
    """Evaluation after the very last step too, and an end when the dev metric no longer improves."""

    def __init__(self, options: TrainOptions, has_dev: bool):
        self.options, self.has_dev = options, has_dev

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= state.max_steps and self.options.eval_steps:
            control.should_save, control.should_evaluate = True, self.has_dev
        return control

    def on_evaluate(self, args, state, control, **kwargs):
        if stopped_early(state.log_history, self.options.patience):
            log.info("nothing better in %d evaluations: the end, at step %d", self.options.patience, state.global_step)
            control.should_training_stop = True
        return control


def stopped_early(history: list[dict], patience: int) -> bool:
    """Whether the last `patience` evaluations brought nothing better; from the history, so a resumed run agrees."""
    values = [entry["eval_decided"] for entry in history if "eval_decided" in entry]
    return bool(patience and values and len(values) - 1 - values.index(max(values)) >= patience)


class LogLines(TrainerCallback):
    """One readable line per report, for train.log and the terminal."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "eval_value" in logs:
            log.info("step %d  dev %.4f  dev loss %.4f  (%.1f s)", state.global_step,
                     *(logs[key] for key in ("eval_value", "eval_loss", "eval_runtime")))
        elif logs and "loss" in logs:
            log.info("step %d/%d  epoch %.2f  loss %.4f  lr %.2e  %.1f utterances/s  %.1f audio s/s  %.2f GB",
                     state.global_step, state.max_steps, state.epoch, logs["loss"], logs["learning_rate"],
                     logs["utterances_per_second"], logs["audio_seconds_per_second"], logs["memory_gb"])


class Progress(ProgressCallback):
    """The bar alone: the numbers are in the log lines."""

    def on_log(self, args, state, control, **kwargs):
        return control


def tensorboard(folder: Path):
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    return TensorBoardCallback(SummaryWriter(str(folder)))


def memory_gb() -> float:
    """Peak: of the GPU where one is used, else of this process."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**30
    return resident_peak() / 2**30


def adam(options: TrainOptions):
    """Class and arguments of the optimizer where it is not the AdamW that TrainingArguments make."""
    if options.optimizer == "adam":
        return torch.optim.Adam, {"lr": options.learning_rate, "betas": (0.9, 0.999), "eps": 1e-8}
    return None


def arguments(speech: SpeechModel, options: TrainOptions, folder: Path, has_dev: bool, reports=()) -> TrainingArguments:
    strategy = "steps" if options.eval_steps else "epoch"
    every = options.eval_steps or None
    made = TrainingArguments(
        output_dir=str(folder), seed=options.seed, per_device_train_batch_size=options.batch_size,
        gradient_accumulation_steps=options.accumulation, num_train_epochs=options.epochs, max_steps=options.max_steps,
        optim="adamw_torch", learning_rate=options.learning_rate, warmup_steps=options.warmup,
        lr_scheduler_type={"constant": "constant_with_warmup", "stable": "linear"}.get(options.decay, options.decay),
        weight_decay=options.weight_decay, max_grad_norm=options.max_grad_norm,
        bf16=options.precision == "bf16", fp16=options.precision == "fp16", use_cpu=speech.device.type == "cpu",
        eval_strategy=strategy if has_dev else "no", eval_steps=every, save_strategy=strategy, save_steps=every or 500,
        metric_for_best_model="eval_decided" if has_dev else None, greater_is_better=True if has_dev else None,
        logging_steps=options.logging_steps, report_to=[name for name in reports if name != "tensorboard"] or "none",
        disable_tqdm=not sys.stderr.isatty(), remove_unused_columns=False, label_names=["labels"],
        dataloader_num_workers=0, dataloader_pin_memory=speech.device.type == "cuda",
        ddp_find_unused_parameters=True,  # a step may be without audio, without masks, or with a part frozen
    )
    if made.n_gpu > 1:
        made._n_gpu = 1  # the Trainer would split batches over all visible GPUs by itself
    return made
