"""What is trained: a LoRA of PEFT around the frozen base, or all weights."""
from speechmerge.errors import SpeechMergeError
from speechmerge.models.base import SpeechModel
from speechmerge.train.options import TrainOptions


def prepare(model: SpeechModel, options: TrainOptions):
    """Make `model.module` trainable as the options say. The random start of the adapter follows options.seed."""
    from transformers import set_seed

    set_seed(options.seed)
    if options.gradient_checkpointing:  # non-reentrant: gradients flow although the inputs of the frozen base take none
        model.core.gradient_checkpointing_enable({"use_reentrant": False})
    if options.tuning == "full":
        model.unfreeze()
        return
    from peft import get_peft_model

    model.module.requires_grad_(False)
    config = lora_config(model, options)
    model.module = get_peft_model(model.module, config)
    model.module.peft_config["default"].base_model_name_or_path = model.source


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
