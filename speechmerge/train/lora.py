"""What is trained: a LoRA of PEFT around the frozen base, all weights, or the head of a family that has heads."""
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.models.base import SpeechModel
from speechmerge.train.options import TrainOptions


def prepare(model: SpeechModel, options: TrainOptions):
    """Make `model.module` trainable as the options say. The random start of the adapter follows options.seed."""
    from transformers import set_seed

    set_seed(options.seed)
    if options.gradient_checkpointing:  # non-reentrant: gradients flow although the inputs of the frozen base take none
        model.core.gradient_checkpointing_enable({"use_reentrant": False})
    check_heads(model, options)
    if options.tuning == "full":
        model.unfreeze()
        freeze_front_end(model, options)
    elif options.tuning == "head":
        model.freeze()
    else:
        model.core.requires_grad_(False)
        model.wrap(lora_config(model, options))


def check_heads(model: SpeechModel, options: TrainOptions):
    """Raises UsageError where the options speak of a head that this family does not have."""
    asked = {"--tuning head": options.tuning == "head", "--head": options.head, "--features": options.features,
             "--freeze-encoder-share": options.freeze_encoder_share}
    for option, given in asked.items():
        if given and not model.has_head:
            raise UsageError(f"{option}: models of the family {model.family} have no head beside their own network")
    if options.mask_time_prob and (model.spectral or options.tuning == "head"):
        raise UsageError("--mask-time-prob masks what the transformer of an upstream hears while it is trained; "
                         "elsewhere use --time-masks")
    if not model.spectral and (options.time_masks or options.frequency_masks):
        raise UsageError(f"--time-masks, --frequency-masks: models of the family {model.family} hear waves, not "
                         "features of time and frequency; use --mask-time-prob")


def freeze_front_end(model: SpeechModel, options: TrainOptions):
    """Speech-FT keeps the convolutions in front of the transformer as pre-trained."""
    for name, parameter in model.core.named_parameters():
        if options.freeze_front_end and name.startswith(model.front_end):
            parameter.requires_grad = False


def lora_config(model: SpeechModel, options: TrainOptions):
    """PEFT's LoraConfig. Scaling is alpha / rank, with rsLoRA alpha / sqrt(rank); alpha defaults to the rank."""
    from peft import LoraConfig

    targets = options.targets[0] if len(options.targets) == 1 else list(options.targets)
    alpha = options.rank if options.alpha is None else options.alpha
    return LoraConfig(
        r=options.rank, lora_alpha=alpha, lora_dropout=options.dropout, target_modules=model.target_modules(targets),
        use_rslora=options.use_rslora, use_dora=options.use_dora, bias="none",
    )


def trained_parameters(model: SpeechModel) -> int:
    count = sum(parameter.numel() for parameter in model.module.parameters() if parameter.requires_grad)
    if not count:
        raise SpeechMergeError("nothing to train: no parameter takes gradients")
    return count
