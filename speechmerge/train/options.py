"""The hyper-parameters of a training run; stages/train.py makes command line options of these fields."""
from dataclasses import asdict, dataclass

from speechmerge.errors import UsageError

TUNINGS = ("lora", "full")
DECAYS = ("linear", "cosine", "constant")
PRECISIONS = ("fp32", "bf16", "fp16")


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
    weight_decay: float = 0.0
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

    def __post_init__(self):
        for name, known in (("tuning", TUNINGS), ("decay", DECAYS), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise UsageError(f"--{name}: found {getattr(self, name)!r}, expected one of {', '.join(known)}")
        for name in ("rank", "batch_size", "accumulation", "eval_batch_size", "logging_steps"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')}: found {getattr(self, name)}, expected at least 1")
        for name in ("epochs", "learning_rate"):
            if not getattr(self, name) > 0:
                raise UsageError(f"--{name.replace('_', '-')}: found {getattr(self, name)}, expected a number above 0")

        for name in ("batch_seconds", "time_masks", "time_mask_frames", "frequency_masks", "frequency_mask_bins"):
            if getattr(self, name) < 0:
                raise UsageError(f"--{name.replace('_', '-')}: found {getattr(self, name)}, expected at least 0")
        for speed in self.speeds:
            if not 0.5 <= speed <= 2 or round(speed, 2) != speed:
                raise UsageError(f"--speeds: found {speed:g}, expected factors from 0.5 to 2 in hundredths, as 0.9")

    def deciding(self) -> dict:
        """What changes the result; of batches and augmentation only what is in use."""
        unused = {"batch_seconds"} if not self.batch_seconds else {"batch_size"}
        unused |= {"speeds"} if not self.speeds else set()
        unused |= {"time_masks", "time_mask_frames"} if not self.time_masks else set()
        unused |= {"frequency_masks", "frequency_mask_bins"} if not self.frequency_masks else set()
        unused |= {"logging_steps", "cache_mb"}
        return {name: value for name, value in asdict(self).items() if name not in unused}
