"""The hyper-parameters of a training run; stages/train.py makes command line options of these fields."""
from dataclasses import asdict, dataclass

from speechmerge.errors import UsageError
from speechmerge.options import check_speeds

TUNINGS = ("lora", "full", "head")
DECAYS = ("linear", "cosine", "constant", "stable")
OPTIMIZERS = ("adamw", "adam")
FEATURES = ("last", "weighted")
PRECISIONS = ("fp32", "bf16", "fp16")
# left out of a run's key where they are as by default: what was trained before there were any is not trained again
LATER = ("hold", "optimizer", "weight_decay_to_base", "freeze_encoder_share", "freeze_front_end", "head", "features",
         "head_size", "head_layers", "head_dropout", "mask_time_prob", "save_at", "mix", "max_train_samples",
         "unfreeze_every")


@dataclass(frozen=True)
class TrainOptions:
    tuning: str = "lora"
    rank: int = 8
    alpha: float | None = None  # default: the rank, so that the scaling alpha / rank is 1
    dropout: float = 0.0  # on the input of the adapter
    targets: tuple[str, ...] = ("all-linear",)
    use_rslora: bool = False
    use_dora: bool = False
    epochs: float = 3.0
    max_steps: int = -1  # above 0: instead of epochs
    batch_size: int = 16
    accumulation: int = 1
    learning_rate: float = 1e-3
    warmup: float = 0.1  # share of all steps; 1 and above: steps
    decay: str = "linear"
    hold: float = 0.4  # of "stable": share of all steps at the peak after the warm-up
    optimizer: str = "adamw"
    weight_decay: float = 0.0
    weight_decay_to_base: float = 0.0  # lambda of the penalty lambda * |theta - theta_0|^2 in the loss
    max_grad_norm: float = 1.0
    precision: str = "fp32"
    gradient_checkpointing: bool = False
    eval_steps: int = 0  # evaluate and save every so many steps; 0: after every epoch
    eval_batch_size: int = 32
    eval_beams: int = 1
    dev_limit: int = 200  # utterances of the dev set that decide, evenly spread; 0: all
    patience: int = 0  # evaluations without a better one before training stops; 0: never
    logging_steps: int = 10
    seed: int = 0
    cache_mb: int = 2048  # features kept in memory
    batch_seconds: float = 0.0  # above 0: padded seconds of audio per batch, instead of batch_size
    speeds: tuple[float, ...] = ()  # of which each utterance gets one in each epoch
    time_masks: int = 0
    time_mask_frames: int = 100
    frequency_masks: int = 0
    frequency_mask_bins: int = 27
    freeze_encoder_share: float = 0.0  # of all steps, in which the head alone is trained
    freeze_front_end: bool = True  # full tuning: the convolutions in front of the transformer stay
    unfreeze_every: float = 0.0  # share of all steps (1 and above: steps) per block, top first; 0: not
    head: str | None = None  # default: that of the task's kind
    features: str | None = None  # that the head hears, one of FEATURES; default: last
    head_size: int = 256
    head_layers: int = 2  # recurrent ones
    head_dropout: float = 0.0
    mask_time_prob: float = 0.0  # of a frame of an upstream to lie in a masked stretch, as in its pre-training
    save_at: tuple[float, ...] = ()  # shares of all steps after which the model is kept too

    mix: tuple[tuple[str, float], ...] = ()  # (kind of input, share of its examples), see train/mix.py
    max_train_samples: int = 0  # 0: all
    init_adapter: str | None = None  # folder of the training that this one goes on from; the key has its content
    sample_steps: int = 0  # decode some utterances every so many steps; 0: never

    def __post_init__(self):
        for name, known in (("tuning", TUNINGS), ("decay", DECAYS), ("precision", PRECISIONS), ("optimizer", OPTIMIZERS),
                            ("features", (None, *FEATURES))):
            if getattr(self, name) not in known:
                raise UsageError(f"--{name}: found {getattr(self, name)!r}, expected one of "
                                 f"{', '.join(filter(None, known))}")
        for name in ("head_size", "head_layers", "rank", "batch_size", "accumulation", "eval_batch_size", "logging_steps"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')}: found {getattr(self, name)}, expected at least 1")
        for name in ("epochs", "learning_rate"):
            if not getattr(self, name) > 0:
                raise UsageError(f"--{name.replace('_', '-')}: found {getattr(self, name)}, expected a number above 0")

        for name in ("batch_seconds", "time_masks", "time_mask_frames", "frequency_masks", "frequency_mask_bins"):
            if getattr(self, name) < 0:
                raise UsageError(f"--{name.replace('_', '-')}: found {getattr(self, name)}, expected at least 0")
        for name in ("hold", "freeze_encoder_share", "head_dropout", "mask_time_prob"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')}: found {getattr(self, name):g}, expected a share from 0 to 1")
        if any(not 0 < share < 1 for share in self.save_at):
            raise UsageError(f"--save-at: found {' '.join(map(str, self.save_at))}, expected shares between 0 and 1")
        if self.weight_decay_to_base < 0 or self.weight_decay_to_base and self.tuning != "full":
            raise UsageError(f"--weight-decay-to-base: found {self.weight_decay_to_base:g} with --tuning {self.tuning}, "
                             "expected at least 0, and --tuning full")
        if self.unfreeze_every < 0 or self.unfreeze_every and (self.freeze_encoder_share or self.tuning == "head"):
            other = "--freeze-encoder-share" if self.freeze_encoder_share else f"--tuning {self.tuning}"
            raise UsageError(f"--unfreeze-every: found {self.unfreeze_every:g} with {other}, expected a share "
                             "of all steps, or steps, and nothing else that says which blocks learn")
        check_speeds(self.speeds)

    def deciding(self) -> dict:
        """What changes the result; of batches, augmentation, head and Stable-FT only what is in use."""
        unused = {"batch_seconds"} if not self.batch_seconds else {"batch_size"}
        unused |= {"speeds"} if not self.speeds else set()
        unused |= {"time_masks", "time_mask_frames"} if not self.time_masks else set()
        unused |= {"frequency_masks", "frequency_mask_bins"} if not self.frequency_masks else set()
        unused |= {"logging_steps", "cache_mb", "init_adapter", "sample_steps"}
        defaults = TrainOptions.__dataclass_fields__
        unused |= {name for name in LATER if getattr(self, name) == defaults[name].default}
        return {name: value for name, value in asdict(self).items() if name not in unused}
