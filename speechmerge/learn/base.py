"""What a learner is: its options, and three decisions the loop leaves to it.

A new learner is one file in speechmerge/learn/learners with a class under `@LEARNERS.register("name")`. Files import
torch only inside functions, so that configs can be checked at once.
"""
from dataclasses import replace

from speechmerge.errors import UsageError
from speechmerge.merge.config.checks import section
from speechmerge.merge.parameters import Parameter
from speechmerge.registry import Registry

LEARNERS = Registry("learner", package="speechmerge.learn.learners")

# What other frameworks call options of ours
ALIASES = {"log_every": "logging_steps", "grad_accum_steps": "gradient_accumulation_steps", "max_steps": "steps",
           "early_stopping_min_delta": "early_stopping_threshold", "lr": "learning_rate"}
IMPLEMENTATIONS = ("fused_lora_linear", "fused_linear", "streaming_parametrize", "functional_clone_legacy")
PARAMETRISATIONS = ("free", "clamp", "softmax", "tanh_alpha")

COMMON = (
    Parameter("variant", ("task_wise", "layer_wise"), "layer_wise", "one coefficient per adapter, or per layer and adapter"),
    Parameter("group_by", ("module", "block"), "module", "what a layer is, where the variant is layer_wise"),
    Parameter("coefficient_parameterization", PARAMETRISATIONS, "free", "free: any number; clamp: cut to 0..1 where used; "
              "softmax: positive, sum `scale`; tanh_alpha: tanh of a free number"),
    Parameter("init", float, None, "first value of every coefficient; default 1 / adapters"),
    Parameter("scale", float, 1.0, "sum of the coefficients of softmax", low=0),
    Parameter("normalize_coefficients", bool, False, "divide by the sum of magnitudes over the adapters"),
    Parameter("learning_rate", float, 1e-2, "of Adam", low=0),
    Parameter("steps", int, 100, "updates of the coefficients", low=1),
    Parameter("batch_size", int, 16, "examples of one task in a batch", low=1),
    Parameter("gradient_accumulation_steps", int, 1, "batches of each task per update", low=1),
    Parameter("max_examples", int, 256, "labelled examples of each task, drawn with the seed; 0: all", low=0),
    Parameter("sampling", dict, {}, "{default: {enabled, strategy}, per_task: {...}}: how examples are drawn by label; "
              "uniform | inverse | sqrt_inverse | balanced | none"),
    Parameter("split", str, "dev", "what is learned on"),
    Parameter("enforce_validation_only_selection", bool, True, "refuse to learn on anything but the validation split"),
    Parameter("seed", int, 0, "of every draw"),
    Parameter("early_stopping_patience", int, 0, "updates without a better loss before it ends; 0: never", low=0),
    Parameter("early_stopping_threshold", float, 0.0, "how much better counts", low=0),
    Parameter("early_stopping_warmup_steps", int, 20, "updates before patience is counted", low=0),
    Parameter("min_optimizer_steps_before_early_stop", int, 20, "updates at least", low=0),
    Parameter("restore_best_checkpoint", bool, False, "end with the coefficients of the smallest loss, not the last ones"),
    Parameter("logging_steps", int, 10, "updates between two lines of the log; 0: none", low=0),
    Parameter("save_steps", int, 20, "updates between two checkpoints", low=1),
    Parameter("progress_bar", bool, True, "show one, where a person looks on"),
    Parameter("merge_impl", IMPLEMENTATIONS, "fused_linear", "fused_lora_linear refuses adapters with dense changes; the "
              "other names are known for old configs: all of them are mixed by the adapter bank"),
    Parameter("delta_residency", ("gpu_cache", "cpu_stream"), "gpu_cache", "dense changes are kept beside the model, or read "
              "from disk at every use"),
    Parameter("model_dtype", ("auto", "fp32", "bf16", "fp16"), "auto", "type of the weights; auto: fp32 on a CPU, else bf16"),
    Parameter("dtype_compute", ("auto", "fp32", "bf16", "fp16"), "auto", "autocast to it; auto: as the weights"),
    Parameter("dataloader_num_workers", int, 0, "known for old configs; features are computed once and kept", low=0),
    Parameter("dataloader_pin_memory", bool, True, "known for old configs"),
    Parameter("non_blocking_transfer", bool, True, "known for old configs"),
    Parameter("gradient_checkpointing", bool, False, "compute activations again in the backward pass: less memory, more time"),
    Parameter("force_cpu", bool, False, "on the CPU in float32, although there is a GPU"),
)


class Learner:
    """`values`: all options; `defaults`: where a learner's differ from COMMON; `own`: options of it alone."""

    defaults: dict = {}
    own: tuple[Parameter, ...] = ()
    needs_baselines = False  # the losses of the single adapters, before it starts
    needs_base = False  # the base's, too
    baseline_batches = 32  # that these are measured on

    @classmethod
    def declared(cls) -> list[Parameter]:
        """All options, with the defaults of this learner."""
        return [*(replace(p, default=cls.defaults.get(p.name, p.default)) for p in COMMON), *cls.own]

    def __init__(self, params: dict, where: str = "optimizer.params"):
        given = {ALIASES.get(key, key): value for key, value in params.items()}
        self.values = section(where, self.declared(), given)
        self.where = where
        self.check()

    def check(self):
        """Refuse what makes no sense before a model is loaded."""
        from speechmerge.options import split_name

        split = self.values["split"] = split_name(self.values["split"])
        if split == "test" or (split != "dev" and self.values["enforce_validation_only_selection"]):
            raise UsageError(f"{self.where}.split: found {split!r}: coefficients are chosen on validation, so that test says "
                             "something about them" + ("" if split == "test" else
                             "; another split needs enforce_validation_only_selection: false"))

    def check_tasks(self, tasks: dict):
        """Refuse tasks (name -> TaskData) that the objective is not defined for."""

    def tree(self, names) -> list:
        """Nested lists of the adapters, where groups of them have coefficients of their own; flat: one list."""
        return list(names)

    def loss(self, batch):
        """A task's loss on one :class:`speechmerge.learn.data.Batch`. Default: cross-entropy per target token."""
        return batch.cross_entropy()

    def combine(self, names, losses: list[float], baselines: list[float] | None,
                base: list[float] | None = None) -> tuple[float, list[float]]:
        """(the objective, its derivative with respect to each task's loss), both at these losses of the tasks `names`."""
        raise NotImplementedError
